"""The tools that write the CSV files of docs/results/benchmarks.md."""

from __future__ import annotations

import csv
import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loihi_convert import netx
from loihi_convert.errors import UsageError, VerificationError

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).parents[1] / "tools"
PEERS = TOOLS / "peers"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PEERS))
    yield importlib.import_module("benchmark")
    sys.path.remove(str(PEERS))


def test_a_column_measured_again_replaces_its_own_rows(benchmark: ModuleType) -> None:
    table, peers, against_peers = map(importlib.import_module, ("peers_table", "simulators", "against_peers"))
    same = {"same_class": 100, "equal_potentials": 100}
    reference = against_peers.Row(peers.PEERS[0], 100, [1.0, 2.0, 4.0], **same)
    other = against_peers.Row(peers.PEERS[3], 100, [10.0, 5.0, 80.0], **same)
    broken = against_peers.Row(peers.PEERS[4], 100, [1.0], failure="gone")
    limit = against_peers.Row(peers.PEERS[-1], 100, [0.5, 2.0, 1.0])
    assert limit.peer.limit == "int8 matrix products"
    first, second = table.COLUMNS[:2]
    assert first.network == second.network
    found = table.records(first, [reference, other, broken, limit], 3)
    assert [list(row.values())[7:] for row in found] == [
        ["ref", "images_per_second", "50.0", "25.0", "100", ""],
        ["snnTorch 1.0.0", "speed_of_ref", "10.0", "2.50", "20.0", ""],
        ["sinabs 3.1.3", "speed_of_ref", "", "", "", "gone"],
        ["int8 matrix products", "percent_of_limit", "50.0", "25.0", "100", ""],
    ]
    (measured,) = {tuple(row[name] for name in ("threads", "machine", "date", "commit")) for row in found}
    assert measured[0] == "3"
    assert all(measured)
    with pytest.raises(VerificationError, match="another network"):
        table.records(first, [reference, replace(other, equal_potentials=99)], 3)
    later = table.records(second, [reference], 3)
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


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as source:
        return list(csv.DictReader(source))


def test_the_cost_of_a_network_replaces_its_own_rows(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = importlib.import_module("cost_table")
    words = "--network digits-cnn --images 20 -T 2 --repeats 1 --threads 1"
    networks = {"first": f"{words} --sweep-threads 1 --sweep-depths 1", "second": f"{words} --sweep-timesteps 1,2"}
    monkeypatch.setattr(table, "NETWORKS", networks)
    stored = tmp_path / "cost.csv"
    table.measure(["second"], stored)
    (one, two) = rows(stored)
    assert [(row["network"], row["curve"], row["value"], row["timesteps"]) for row in (one, two)] == [
        ("second", "T", "1", "1"),
        ("second", "T", "2", "2"),
    ]
    table.measure(["first"], stored)
    found = rows(stored)
    assert [(row["network"], row["curve"]) for row in found] == [
        ("first", "threads"),
        ("first", "depth n of n x 32c3-2ap-classes"),
        *[("second", "T")] * 2,
    ]
    assert found[2:] == [one, two]
    for row in found:
        assert float(row["images_per_second"]) == pytest.approx(20 / float(row["seconds"]), rel=0.02)
        assert float(row["peak_mib"]) > 50
        assert row["threads"] == "1"
    with pytest.raises(UsageError):
        table.measure(["third"], stored)
    assert rows(stored) == found


def test_costs_are_medians_of_their_repeats(benchmark: ModuleType) -> None:
    table = importlib.import_module("cost_table")
    repeats = [
        {"curve": "T", "value": value, "images": "20", "T": value, "threads": "1", "seconds": seconds, "peak_mib": peak}
        for value, seconds, peak in [
            *(("1", "0.5", "70"), ("2", "4", "90"), ("1", "9", "60"), ("2", "5", "80"), ("1", "0.4", "300")),
            ("2", "8", "91"),
        ]
    ]
    found = list(table.medians("first", repeats))
    assert [(row["network"], row["curve"], row["value"], row["timesteps"]) for row in found] == [
        ("first", "T", "1", "1"),
        ("first", "T", "2", "2"),
    ]
    assert [[float(row[name]) for name in ("seconds", "images_per_second", "peak_mib")] for row in found] == [
        [0.5, 40, 70],
        [5, 4, 90],
    ]


def test_every_cost_is_of_a_file_or_a_network(benchmark: ModuleType) -> None:
    table = importlib.import_module("cost_table")
    for words in table.NETWORKS.values():
        options = benchmark.read_options(["cost", *shlex.split(words)])
        assert [options.model, options.network, options.arch].count(None) == 2
        assert options.model is None or (table.ROOT / options.model).exists()


def test_commands_are_timed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    times = importlib.import_module("command_times")
    for command in times.COMMANDS:
        assert all((times.ROOT / word).exists() for word in command.split() if word.startswith("netx_models/"))
    monkeypatch.setattr(
        times, "COMMANDS", {"models --json": None, "inspect netx_models/mnist/model-T8.net": 1, "x": None}
    )
    monkeypatch.setattr(times, "RUNS", 2)
    stored = tmp_path / "commands.csv"
    ballast = np.ones(2**25)
    times.measure("inspect", stored)
    times.measure("models", stored)
    found = rows(stored)
    assert [(row["command"], row["threads"]) for row in found] == [
        ("models --json", "all"),
        ("inspect netx_models/mnist/model-T8.net", "1"),
    ]
    for row in found:
        least, median, most = (float(row[f"{name}_seconds"]) for name in ("minimum", "median", "maximum"))
        assert 0 < least <= median <= most
        # Far from the 256 MiB of the process that measures.
        assert 20 < float(row["peak_mib"]) < ballast.nbytes / 2**20
    with pytest.raises(VerificationError):
        times.measure("x", stored)
    with pytest.raises(UsageError):
        times.measure("y", stored)
    assert rows(stored) == found


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def test_torchvisions_models_replace_their_own_rows(
    tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = importlib.import_module("torchvision_models")
    found = {
        "alexnet": {"result": "equal", "levels": 23},
        "vgg11": {"result": "refused: x"},
        "own": {"result": "equal"},
    }
    monkeypatch.setattr(models, "row_of", lambda name, size, limit: {"model": name, "size": size, **found[name]})
    stored = tmp_path / "torchvision.csv"
    models.measure(["own", "vgg11", "alexnet"], 64, 1, stored)
    first = rows(stored)
    assert [row["model"] for row in first] == ["alexnet", "vgg11", "own"]
    assert (list(first[0]), first[0]["levels"], first[1]["levels"]) == (list(models.FIELDS), "23", "")
    found["vgg11"]["result"] = "equal"
    models.measure(["vgg11"], 64, 1, stored)
    assert rows(stored) == [first[0], {**first[1], "result": "equal"}, first[2]]
    assert TOOLS.parent / "docs/results/torchvision.csv" == models.RESULTS


def test_graded_results_replace_the_file_as_a_whole(
    tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded = importlib.import_module("graded_results")
    stored = tmp_path / "graded.csv"
    stored.write_bytes(graded.OUTPUT.read_bytes())
    before = rows(stored)
    for kind in ("graded", "spikes"):
        runs = {}
        for row in before:
            if (row["network"], row["neurons"]) == ("mnist", kind):
                point = {
                    "timesteps": int(row["timesteps"]),
                    "accuracy": float(row["accuracy"]) / 100,
                    "spikes_per_image": float(row["events"]) + 1,
                    "synaptic_operations": float(row["synaptic_operations"]),
                    "global_steps": int(row["steps_to_output"]),
                }
                own = {"cnn_accuracy": float(row["cnn_accuracy"]) / 100, "image_count": int(row["images"])}
                runs[row["timesteps"]] = {"timesteps": point["timesteps"], "points": [point], **own}
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "result.json").write_text(json.dumps(runs))
    monkeypatch.setattr(graded, "OUTPUT", stored)
    monkeypatch.setattr(sys, "argv", ["", f"mnist={tmp_path / 'graded'},{tmp_path / 'spikes'}"])
    with stored.open(newline="") as reader:
        graded.main()
        # The file that was there is replaced, not overwritten.
        assert list(csv.DictReader(reader)) == before
    assert rows(stored) == [
        {**row, "events": str(int(row["events"]) + 1)} if row["network"] == "mnist" else row for row in before
    ]
