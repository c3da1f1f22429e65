"""The comparison of NIR readers: differences are counted, and a library's exception is a result."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.backends.reference import run_network

ROOT = Path(__file__).parents[1]
GOLDEN = Path(netx.__file__).parents[1] / "golden" / "model.net"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "peers"))
    return importlib.import_module("nir_readers")


def test_differences_are_counted(readers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = netx.read(GOLDEN)
    images = np.random.default_rng(0).integers(0, 256, (3, *network.input_shape)).astype(np.uint8)
    expected = run_network(network, images, 4, trace=True)
    spikes = [trace.spikes.astype(np.float32) for trace in expected.traces if trace.spikes is not None]
    spikes[0][1, 2].flat[5] = 2.0
    outputs = np.diff(expected.outputs, axis=1, prepend=0).astype(np.float64)
    outputs[1, 3, :] = -7 * np.arange(outputs.shape[2])
    file = readers.File("a file", tmp_path / "a.nir", network, False)
    reader = readers.READERS[0]

    def answered(reader: Any, paths: Sequence[Path], folder: Path) -> Mapping[str, Any]:
        layers: dict[str, Any] = {f"spikes{index}": layer for index, layer in enumerate(spikes)}
        np.savez(paths[0].with_suffix(f".{reader.module}.npz"), outputs=outputs, **layers)
        failed = {"stage": "run", "failure": "TypeError: no"}
        return {"versions": {"nir": "1"}, "files": [{"stage": "run"}, failed]}

    monkeypatch.setattr(readers, "answered", answered)
    row, failed = readers.measured(reader, [file, file], images, 4, tmp_path)
    assert (row.images, row.timesteps, row.spikes) == (
        3,
        4,
        sum(int(trace.spikes.sum()) for trace in expected.traces if trace.spikes is not None),
    )
    assert (row.different, row.equal_images, row.versions, row.failure) == (1, 2, "nir=1", "")
    potentials, wanted = outputs.sum(axis=1), expected.outputs[:, -1]
    assert row.same_class == int((potentials.argmax(1) == wanted.argmax(1)).sum())
    assert row.largest_error == np.abs(potentials - wanted).max() > 0
    assert (failed.stage, failed.failure, failed.different) == ("run", "TypeError: no", None)
