"""The Python API as used in a notebook: every cell of tests/notebooks, in order and in one namespace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.networks import random_network
from torch import nn

import loihi_convert as lc

CELLS = (Path(__file__).parent / "notebooks/own_cnn.py").read_text().split("# %% ")[1:]


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in CELLS:
        exec(compile(f"# {cell}", f"cell {cell.splitlines()[0]}", "exec"), namespace)
    assert len(CELLS) == 25


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, loihi_convert; print(*({'torch', 'numpy', 'h5py', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    assert lc.__all__ == sorted(lc.__all__)
    for name in lc.__all__:
        assert getattr(lc, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lc.no_such_name


def test_no_public_function_is_called_like_a_module() -> None:
    root = Path(lc.__file__).parent
    modules = {path.stem for path in root.rglob("*.py")} | {path.name for path in root.rglob("*") if path.is_dir()}
    assert {name for name in lc.__all__ if name in modules} == set()


IMAGES = np.zeros((4, 6, 6), np.uint8)
MODULE = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))


@pytest.mark.parametrize(
    ("mistake", "where"),
    [
        (lambda snn, images: snn.check(target="loihi3"), "target"),
        (lambda snn, images: snn.run(images, timesteps=[1, 2]), "timesteps"),
        (lambda snn, images: snn.run(images, timesteps=2.0), "timesteps"),
        (lambda snn, images: snn.run(images, device="gpu"), "device"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, mean="a", std=1), "mean"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, mean=0.5), "std"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, arch="nets:make"), "arch"),
        (lambda snn, images: lc.convert(5, IMAGES), "model"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(mistake: Callable[..., object], where: str) -> None:
    network, images = random_network(3, image_count=3)
    with pytest.raises(lc.LoihiConvertError) as raised:
        mistake(lc.Converted(network), images)
    assert raised.value.where == where


@pytest.mark.lava
def test_notes_say_what_was_read_from_the_cnn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6)).astype(np.uint8)
    snn = lc.convert(nn.Sequential(MODULE, nn.Softmax(1)), images, timesteps=2)
    assert snn.notes[0] == "1: the Softmax at the end is dropped; it does not change the argmax."


def test_a_run_on_lava_says_whether_it_equals_ref() -> None:
    network, images = random_network(3, image_count=3)
    result = lc.Converted(network).run(images, backend="sim", timesteps=2)
    reference = lc.Converted(network).run(images, timesteps=2)
    assert result.equals_reference is True
    assert np.array_equal(result.run.potentials, reference.run.potentials)
    for found, expected in zip(result.run.channel_spikes, reference.run.channel_spikes, strict=True):
        assert np.array_equal(found, expected)
