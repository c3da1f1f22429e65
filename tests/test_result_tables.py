"""The tools that write the CSV files of docs/results/benchmarks.md."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from loihi_convert import netx
from loihi_convert.errors import VerificationError

pytestmark = pytest.mark.slow

PEERS = Path(__file__).parents[1] / "tools" / "peers"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PEERS))
    yield importlib.import_module("benchmark")
    sys.path.remove(str(PEERS))


def test_a_column_measured_again_replaces_its_own_rows(benchmark: ModuleType) -> None:
    table, peers = importlib.import_module("peers_table"), importlib.import_module("simulators")
    same = {"same_class": 100, "equal_potentials": 100}
    reference = benchmark.Row(peers.PEERS[0], 100, [1.0, 2.0, 4.0], **same)
    other = benchmark.Row(peers.PEERS[3], 100, [10.0, 5.0, 80.0], **same)
    broken = benchmark.Row(peers.PEERS[4], 100, [1.0], failure="gone")
    limit = benchmark.Row(peers.PEERS[-1], 100, [0.5, 2.0, 1.0])
    assert limit.peer.limit == "int8 matrix products"
    first, second = table.COLUMNS[:2]
    assert first.network == second.network
    found = table.records(first, [reference, other, broken, limit])
    assert [list(row.values())[3:] for row in found] == [
        ["ref", "images_per_second", "50.0", "25.0", "100"],
        ["snnTorch 1.0.0", "speed_of_ref", "10.0", "2.50", "20.0"],
        ["sinabs 3.1.3", "speed_of_ref", "", "", ""],
        ["int8 matrix products", "percent_of_limit", "50.0", "25.0", "100"],
    ]
    with pytest.raises(VerificationError, match="another network"):
        table.records(first, [reference, replace(other, equal_potentials=99)])
    later = table.records(second, [reference])
    stored = table.with_column(later, first, found)
    assert stored == [*found, *later]
    assert table.with_column(stored, first, found[:1]) == [*found[:1], *later]
    # Rows of other networks are dropped.
    assert table.with_column([{**later[0], "network": "gone"}], second, later) == later


def test_every_column_is_a_file_or_a_network(benchmark: ModuleType) -> None:
    table = importlib.import_module("peers_table")
    for column in table.COLUMNS:
        options = benchmark.read_options(["peers", *shlex.split(column.arguments)])
        if options.model is not None:
            assert netx.read(table.ROOT / options.model).timesteps == column.timesteps
        else:
            assert options.timesteps == column.timesteps
