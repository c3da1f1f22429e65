"""Recovery of a checkpoint from the integers of its exported file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loihi_convert import netx, pipeline
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.cnn.training import train
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.data import load_data
from loihi_convert.errors import InputError, UsageError
from loihi_convert.frontend.source import open_source

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("levels", [None, 4])
def test_weights_are_those_of_the_cnn_to_8_bits(tool: ModuleType, tmp_path: Path, levels: int | None) -> None:
    digits, path = load_data("digits"), tmp_path / "model.safetensors"
    original = train(
        "digits-cnn", digits, replace(default_recipe("digits"), epochs=4), seed=0, output=path, qcfs_levels=levels
    )
    method = "percentile" if levels is None else "qcfs"
    options = BalanceOptions(method=method)
    (exported,) = pipeline.export(path, None, (8,), digits.calibration_images(), balance_options=options)
    found = tool.recovered(exported.path, levels)
    for name, weight in original.state.items():
        if name.endswith(".threshold"):
            assert np.allclose(found.state[name], weight, rtol=1e-6)
        else:
            # Weights to and from channels that can never fire are lost; with 8 bits the others are off by about 1 %.
            kept = found.state[name] != 0
            assert kept.float().mean() > 0.9
            off = (found.state[name] - weight)[kept].square().mean().sqrt()
            assert 0 < off < 0.03 * weight[kept].square().mean().sqrt(), name
    assert found.test_accuracy == pytest.approx(original.test_accuracy, abs=0.02)
    # It can be exported again.
    checkpoint.save(found, tmp_path / "found.safetensors")
    assert open_source(tmp_path / "found.safetensors").network.shapes == open_source(path).network.shapes


def test_thresholds_that_were_not_learned_cannot_be_recovered(tool: ModuleType, tmp_path: Path) -> None:
    digits, path = load_data("digits"), tmp_path / "model.safetensors"
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=path)
    options = BalanceOptions(method="percentile")
    (exported,) = pipeline.export(path, None, (2,), digits.calibration_images(), balance_options=options)
    with pytest.raises(UsageError, match=r"its thresholds are from percentile, not learned"):
        tool.recovered(exported.path, 4)
    network = netx.read(exported.path)
    model = {key: value for key, value in network.provenance["model"].items() if key != "architecture"}
    netx.write(replace(network, provenance={**network.provenance, "model": model}), tmp_path / "own.net")
    with pytest.raises(InputError, match=r"was made from your own CNN"):
        tool.recovered(tmp_path / "own.net", None)


def test_a_file_with_corrected_biases_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    digits, path = load_data("digits"), tmp_path / "model.safetensors"
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=path)
    options = BalanceOptions(method="percentile", bias_correction=True)
    (exported,) = pipeline.export(path, None, (2,), digits.calibration_images(), balance_options=options)
    with pytest.raises(InputError, match="its biases are corrected"):
        tool.recovered(exported.path, None)


def test_invalid_requests_are_refused_before_any_work(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.pt", "a.net"):
        Path(name).write_bytes(b"old")

    def ends(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["", *words])
        return tool.main(), capsys.readouterr().err

    code, message = ends("absent.net", "-o", "new.pt")
    assert (code, message.count("\n")) == (3, 1)
    assert message.startswith("error: absent.net: ")
    # a.net is not a netx file; the options are refused before it is read.
    assert ends("a.net", "-o", "bad.xyz") == (
        2,
        "error: bad.xyz: found the suffix '.xyz'; must be one of .pt, .safetensors.\n",
    )
    code, message = ends("a.net", "-o", "there.pt")
    assert (code, message.split(";")[0]) == (3, "error: there.pt: exists already")
    code, message = ends("a.net", "-o", "nowhere/new.pt")
    assert (code, message.split(";")[0]) == (
        3,
        "error: nowhere/new.pt: cannot be written (No such file or directory)",
    )
    code, message = ends("a.net", "-o", "there.pt", "--overwrite")
    assert (code, message.split(":")[1]) == (3, " a.net")
    assert Path("there.pt").read_bytes() == b"old"
