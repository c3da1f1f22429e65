"""`compare_stock_netx.py` without lava-dl: what it refuses, and how it counts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support import compare_stock_netx as tool

from loihi_convert import netx
from loihi_convert.backends.reference import run_graded, run_network
from loihi_convert.data import load_data
from loihi_convert.errors import PlatformError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense, PixelBias


def test_a_missing_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "absent.net")])
    assert tool.main() == 3
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path}/absent.net: ")
    assert message.count("\n") == 1


def test_poisson_spikes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "stock netx takes pixels, not Poisson spikes. Export it with --input constant."
    monkeypatch.setattr(tool, "_by_stock_netx", lambda *arguments: pytest.fail("run"))
    netx.write(network(poisson_seed=0), tmp_path / "model.net")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model.net")])
    assert tool.main() == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/model.net: {message}\n"


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_file_of_soft_reset_is_compared_with_stock_neurons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: int
) -> None:
    exported = network(reset="soft", integrates=False)
    netx.write(exported, tmp_path / "model.net")

    def stock(python: str, file: Path, pixels: Array, timesteps: int) -> Array:
        found = run_network(exported, pixels, timesteps, neuron=NeuronModel.STOCK_LIF).potentials
        assert not np.array_equal(found, run_network(exported, pixels, timesteps).potentials)
        found.reshape(-1)[:wrong] += 1
        return found

    monkeypatch.setattr(tool, "_by_stock_netx", stock)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model.net")])
    assert tool.main() == (wrong > 0)
    *_, row = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["8", "10", "800", str(wrong)]


@pytest.mark.parametrize("integrates", [True, False])
def test_the_class_is_read_as_the_file_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    integrates: bool,
) -> None:
    exported, test = network(integrates=integrates), load_data("digits").test[:100]
    netx.write(exported, tmp_path / "model.net")
    expected = run_network(exported, test.images, 8)
    right = int((expected.predictions[:, -1] == test.known_labels).sum())
    by_potentials = int((expected.potentials[:, -1].argmax(axis=1) == test.known_labels).sum())
    assert (right == by_potentials) == integrates

    def stock(python: str, file: Path, pixels: Array, timesteps: int) -> Array:
        return run_network(exported, pixels, timesteps).potentials

    monkeypatch.setattr(tool, "_by_stock_netx", stock)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model.net"), "-T", "8", "--images", "100"])
    assert tool.main() == 0
    *_, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["8", "100", "8,000", "0", str(right)]


@pytest.mark.parametrize("wrong", [0, 1])
def test_every_message_of_a_graded_file_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: int
) -> None:
    graded = graded_network()
    netx.write(graded, tmp_path / "model.net")

    def stock(_python: str, _script: str, _file: Path, frames: Path, spike_exp: int, sent: Path) -> None:
        assert spike_exp == graded.spike_exp
        inputs, fc = run_graded(graded, np.load(frames), is_stream=True, trace=True).traces
        messages = inputs.spikes.reshape(20, -1).copy()
        messages[3, :wrong] += 1
        np.savez(sent, layer0=messages, layer1=fc.potentials.reshape(20, -1))

    monkeypatch.setattr(tool, "_by_lava_dl", stock)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model.net"), "--images", "20"])
    assert tool.main() == wrong
    _, inputs, fc = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (inputs[:3], inputs[-1]) == (["input", "20", "1,280"], str(wrong))
    assert (fc[:3], fc[-1]) == (["fc", "20", "200"], "0")


@pytest.mark.parametrize("python", ["absent", "false"])
def test_an_interpreter_without_lava_dl_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], python: str
) -> None:
    netx.write(graded_network(), tmp_path / "model.net")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "model.net"), "--images", "2", "--python", python])
    assert tool.main() == PlatformError.exit_code
    message = capsys.readouterr().err
    assert message.startswith(f"error: {python}: ")
    assert "--python names a Python 3.10" in message


def graded_network() -> GradedNetwork:
    """One dense layer for digits, without messages."""
    weight = np.random.default_rng(0).integers(-12, 13, (10, 64)).astype(np.int32)
    layers = (GradedLayer("input", PixelBias(1, 0)), GradedLayer("fc", Dense(weight), sends=False, scale=np.ones(10)))
    return GradedNetwork((1, 8, 8), layers, spike_exp=0, provenance={"model": {"data": "digits"}})


def network(*, reset: str = "hard", poisson_seed: int | None = None, integrates: bool = True) -> QuantizedNetwork:
    """One dense layer for digits."""
    weight = np.random.default_rng(0).integers(-12, 13, (10, 64)).astype(np.int32)
    neuron = None if integrates else IntegerNeuron(np.arange(1000, 11000, 1000, np.int32), np.zeros(10, np.int32))
    layer = QuantizedLayer("fc", Dense(weight), neuron, np.ones(10), 255 if poisson_seed is None else 1)
    return QuantizedNetwork(
        (1, 8, 8),
        (layer,),
        timesteps=8,
        max_timesteps=8,
        pixel_bits=8,
        reset=reset,
        provenance={"model": {"data": "digits"}},
        poisson_seed=poisson_seed,
    )
