"""The cost estimate against the one public measurement of a network on Loihi 2."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from loihi_convert.chip.energy import BOUNDARY

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("pilotnet_cost")


def test_the_stored_figures_are_those_of_lava_dls_own_network_and_image(tool: ModuleType) -> None:
    counts = tool.counted()
    with (ROOT / "docs/results/pilotnet.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == tool.rows(tool.estimated(counts))
    assert counts.neurons == [39_600, 76_032, 26_460, 8_064, 5_632, 2_560, 100, 50, 10, 1]
    # The page names both numbers.
    page = (ROOT / "docs/chip/energy.md").read_text()
    busiest = tool.operations_per_core(counts)
    step = 1e9 / 408.91 / 16
    assert f"receives {busiest:,.0f} synaptic operations in a step of {step / 1e3:.1f} µs" in page
    assert f"at most {step / busiest:.2f} ns" in page


def test_the_file_is_replaced_as_a_whole(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, written = tool.OUTPUT.read_bytes(), tmp_path / "pilotnet.csv"
    written.write_bytes(b"before")
    monkeypatch.setattr(tool, "OUTPUT", written)
    monkeypatch.setattr("sys.argv", ["pilotnet_cost.py"])
    with written.open("rb") as reader:
        tool.main()
        assert reader.read() == b"before"
    assert written.read_bytes() == stored


def test_the_range_of_energy_holds_what_was_measured_and_that_of_time_is_below(tool: ModuleType) -> None:
    found = tool.estimated(tool.counted())
    joules, seconds = 0.447 / 408.91, 1 / 408.91
    assert 0.9 * joules < found.loihi1_joules[0] < found.loihi1_joules[1] < 2 * joules
    assert found.loihi1_seconds[1] < seconds
    assert (
        f"equals the low end of the energy and {seconds / found.loihi1_seconds[1]:.1f} times the high end" in BOUNDARY
    )
