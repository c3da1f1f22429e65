"""tools/stock_results.py, on one dense layer for digits: what it measures, and what it does not measure again."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.checks.lava_dl import lava_dl
from loihi_convert.data import load_data
from loihi_convert.ground.files import sha256
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense

ROOT = Path(__file__).parents[1]
T = 4


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module = importlib.import_module("stock_results")
    monkeypatch.setattr(module, "MODELS", tmp_path)
    monkeypatch.setattr(module, "OUTPUT", tmp_path / "stock-lava-dl.csv")
    monkeypatch.setattr(sys, "argv", ["", "--images", "50"])
    (tmp_path / "small").mkdir()
    return module


def network() -> QuantizedNetwork:
    """Thresholds so low that soft and hard reset differ."""
    rng = np.random.default_rng(0)
    hidden, output = (rng.integers(-12, 13, shape).astype(np.int32) for shape in ((20, 64), (10, 20)))
    neuron = IntegerNeuron(np.full(20, 3_000, np.int32), np.full(20, 1_500, np.int32))
    layers = (
        QuantizedLayer("hidden", Dense(hidden), neuron, np.ones(20), 255),
        QuantizedLayer("fc", Dense(output), None, np.ones(10), 1),
    )
    record = {"model": {"data": "digits"}}
    return QuantizedNetwork((1, 8, 8), layers, T, T, pixel_bits=8, reset="soft", provenance=record)


def test_each_file_has_a_row_which_is_measured_once(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, test = network(), load_data("digits").test[:50]
    for name in ("model-T4", "converted-T4"):
        netx.write(made, tmp_path / "small" / f"{name}.net")
    tool.main()
    soft, stock = (run_network(made, test.images, T, neuron=neuron) for neuron in (None, NeuronModel.STOCK_LIF))
    shares = [
        (stock.predictions[:, -1] == test.known_labels).mean(),
        (soft.predictions[:, -1] == test.known_labels).mean(),
        (stock.predictions[:, -1] == soft.predictions[:, -1]).mean(),
    ]
    assert len(set(shares)) == 3
    measured = dict(zip(("lava_dl_accuracy", "ref_accuracy", "agreement"), shares, strict=True))
    rows = tool.read_rows(tool.OUTPUT)
    assert [row["file"] for row in rows] == ["small/converted-T4.net", "small/model-T4.net"]
    for row in rows:
        assert (row["timesteps"], row["images"], row["sha256"]) == ("4", "50", sha256(tmp_path / row["file"]))
        assert {name: row[name] for name in measured} == {
            name: f"{100 * share:.2f}" for name, share in measured.items()
        }
    # Neither is measured again, but one that changes is; one that is gone has no row.
    monkeypatch.setattr(tool, "lava_dl", lambda *_arguments, **_options: pytest.fail("measured again"))
    tool.main()
    assert tool.read_rows(tool.OUTPUT) == rows
    monkeypatch.setattr(tool, "lava_dl", lava_dl)
    (tmp_path / "small" / "converted-T4.net").unlink()
    netx.write(replace(made, timesteps=2), tmp_path / "small" / "model-T4.net", overwrite=True)
    tool.main()
    (row,) = tool.read_rows(tool.OUTPUT)
    assert (row["file"], row["timesteps"]) == ("small/model-T4.net", "2")


def test_a_card_shows_only_what_was_measured_of_its_file(tool: ModuleType) -> None:
    cards = importlib.import_module("netx_cards")
    (row, *_) = cards.rows_of("stock-lava-dl.csv")
    assert cards.by_lava_dl({"sha256": row["sha256"]}) == [row]
    assert cards.by_lava_dl({"sha256": "0" * 64}) == []
