"""`loihi-convert reproduce` on digits: invented cells of the paper, reuse of results, hand-derived values."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from support.training import train

from loihi_convert import cli, netx
from loihi_convert.__main__ import exit_code
from loihi_convert.backends.reference import run_network
from loihi_convert.batch import computation
from loihi_convert.batch.computation import outcome_of
from loihi_convert.cnn import checkpoint as checkpoints
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import load_data
from loihi_convert.errors import CheckpointError, InputError, PlatformError, RangeError, UsageError
from loihi_convert.ground import devices
from loihi_convert.ground.arrays import arrays_digest
from loihi_convert.ground.choices import PaperFigure, PaperTable
from loihi_convert.ground.files import sha256
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.paper import fingerprints, images, measurements, networks, plan, tables, variants
from loihi_convert.paper.variants import EXHIBITS, PaperOptions
from loihi_convert.pipeline import exporting
from loihi_convert.reading.source import open_source
from loihi_convert.report import paper
from loihi_convert.report.paper import Cell
from loihi_convert.simulation.relu import cnn_scores

pytestmark = pytest.mark.slow

# Invented: the paper did not measure digits.
CELLS = (
    Cell("2", "digits", "act-norm-channelwise", "hard", 1.0, 8, 90.0),
    Cell("2", "digits", "ngu-lee", "soft", 1.0, 8, 80.0),
    Cell("2", "digits", "act-norm-channelwise", "hard", 1.0, 2, None),
    Cell("2", "digits", "ngu-lee", "soft", 1.0, 2, 20.0),
)
HEADLINE = (
    Cell("headline", "digits", "cnn", None, None, None, 95.0),
    Cell("headline", "digits", "ngu-lee", "soft", 0.5, 4, 60.0),
    Cell("headline", "mnist", "cnn", None, None, None, 99.31),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reproduce") / "model.safetensors"
    recipe = replace(default_recipe("digits"), epochs=4, averaging=0.9)
    train("digits-cnn", load_data("digits"), recipe, seed=3, output=path)
    return path


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"2": CELLS, "headline": HEADLINE, "3": (), "A2": (), "A3": (), "A4": CELLS}
    monkeypatch.setattr(paper, "table", lambda name: cells[name])


class Command:
    """Run `reproduce` with a new folder; return the exit code."""

    def __init__(self, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str) -> int:
        counts = () if "--calibration" in words else ("--calibration", "100", "--images", "60")
        place = () if "--workers" in words else ("--workers", "0")
        given = ["reproduce", *words, "--model", str(self.checkpoint), "-o", str(self.folder), *counts, *place]
        self._monkeypatch.setattr(sys, "argv", ["loihi-convert", *given])
        # As `main` does.
        cast(TextIOWrapper, sys.stdout).reconfigure(errors="replace")
        return exit_code(lambda: cli.app(given, standalone_mode=False))

    def computed(self, kind: str) -> list[dict[str, Any]]:
        records = [json.loads(content) for content in self.stored.values()]
        return [record for record in records if record["key"]["kind"] == kind]

    @property
    def stored(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / "cells").glob("*.json"))}

    @property
    def files(self) -> list[QuantizedNetwork]:
        return [measurements.ExportedFile(**record["result"]).network() for record in self.computed("Exporting")]

    def rows(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((self.folder / name).read_text().splitlines()))


@pytest.fixture
def command(checkpoint: Path, tmp_path: Path, made_up: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(checkpoint, tmp_path, monkeypatch)


def test_a_table_contains_the_accuracy_of_the_integers(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command.checkpoint = Path(shutil.copy(command.checkpoint, command.folder / os.fsdecode(b"m\xe9.safetensors")))
    assert command("table", "2", "--no-best") == 0
    printed = capsys.readouterr()
    page = (command.folder / "table-2.md").read_text()
    assert r"`m\udce9.safetensors`" in page
    assert printed.out.startswith("Table 2: methods on MNIST: accuracy, %\n")
    assert "| " not in printed.out
    assert f"wrote {command.folder / 'table-2.md'}" in printed.out
    assert "ngu-lee (soft, literal), T = 8: " in printed.err
    data = load_data("digits")
    source = open_source(command.checkpoint)
    calibration, test = data.calibration.images[:100], data.test[:60]
    options = {"method": "ngu-lee", "amplitude": "literal", "initial_potential": "zero", "readout": "spikes"}
    spiking = balance(source.network, calibration, 8, BalanceOptions(**options))
    predictions = run_network(quantize(spiking, calibration), test.images, 8).predictions[:, 7]
    expected = 100 * float((predictions == test.known_labels).mean())
    (row,) = (
        row
        for row in command.rows("table-2.csv")
        if (row["method"], row["timesteps"], row["variant"]) == ("ngu-lee", "8", "spikes")
    )
    assert row["accuracy"] == f"{expected:.2f}"
    assert (row["calibration_images"], row["test_images"], row["training_seed"]) == ("100", "60", "3")
    assert row["difference"] == f"{expected - 80:.2f}"
    assert row["paper_conversion_loss"] == "15.00"
    right = cnn_scores(source.network, test.images).argmax(axis=1) == test.known_labels
    assert row["conversion_loss"] == f"{100 * float(right.mean()) - expected:.2f}"
    assert len(command.rows("table-2.csv")) == 4 * 3
    # A cell without a value in the paper.
    blanks = [line.split("|") for line in page.splitlines() if line.startswith("| 2 ") and "act-norm" in line]
    assert [blank[4].strip() for blank in blanks] == ["-", "-"]


def test_many_steps_take_fewer_images(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (images, networks, tables):
        monkeypatch.setattr(module, "LONG", 4)
    words = ("--variants", "literal", "--long-images", "20", "--long-calibration", "30")
    assert command("table", "2", *words) == 0
    counts = {
        (row["variant"] == "best", row["timesteps"]): (row["calibration_images"], row["test_images"])
        for row in command.rows("table-2.csv")
    }
    assert counts == {
        (is_best, steps): numbers
        for is_best in (False, True)
        for steps, numbers in (("2", ("100", "60")), ("8", ("30", "20")))
    }


def test_results_are_not_computed_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def counted(cell: Any, *args: Any, **keywords: Any) -> Any:
        names.append(cell.name)
        return outcome_of(cell, *args, **keywords)

    monkeypatch.setattr(computation, "outcome_of", counted)
    assert command("table", "2") == 0
    page, computed = (command.folder / "table-2.md").read_bytes(), len(names)
    assert command("table", "2") == 0
    assert (command.folder / "table-2.md").read_bytes() == page
    # Neither a figure of the same cells nor one of their thresholds needs further results.
    assert command("figure", "6", "--variants", "literal,compensated") == 0
    assert command("figure", "A4") == 0
    assert len(names) == len(set(names)) == computed
    # A different number of images is a different result.
    assert command("table", "2", "--no-best", "--calibration", "99", "--images", "60") == 0
    assert len(names) == len(set(names)) > computed


def test_everything_is_one_set_of_cells(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("all", "-T", "2,8") == 0
    written = {path.name for path in command.folder.iterdir() if path.is_file()}
    names = ("figure-7", "figure-12", "figure-6", "figure-A4", "table-2", "table-A4")
    assert {f"{name}.csv" for name in names} <= written
    whole = command.stored
    printed = capsys.readouterr().err
    assert "figure 11 is left out: found digits; figure 11 needs networks trained on cifar10" in printed
    assert "table headline is left out: found 2,8; table headline has 4" in printed
    # Thresholds of all T of a row are one cell, which tables and figures share.
    (row,) = (one for one in command.computed("Balancing") if _has(one, "ngu-lee", "literal"))
    assert row["key"]["timesteps"] == [2, 8]
    # Code that reads a checkpoint may change.
    digest = open_source(command.checkpoint).network.digest
    assert row["key"]["checkpoint"] == [command.checkpoint.name, sha256(command.checkpoint), digest, "cpu"]
    page = (command.folder / "table-2.md").read_bytes()
    assert command("table", "2", "-T", "2,8") == 0
    assert command("figure", "7", "-T", "2,8") == 0
    assert command.stored == whole
    assert (command.folder / "table-2.md").read_bytes() == page


def _has(record: dict[str, Any], method: str, amplitude: str) -> bool:
    options = record["key"]["options"]
    return (options["method"], options["amplitude"]) == (method, amplitude)


def test_other_machines_have_no_gpu_unless_the_user_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_gpu", lambda: True)
    found: list[str] = []

    def reproduce(*_: object, device: str, **__: object) -> None:
        found.append(device)
        raise InputError("enough")

    monkeypatch.setattr(plan, "reproduce", reproduce)
    for device, workers in (("auto", "0"), ("auto", "2"), ("cuda", "2")):
        assert command("table", "2", "--device", device, "--workers", workers) == 3
    assert found == ["cuda", "cpu", "cuda"]


def test_two_workers_give_the_same_bytes(command: Command, tmp_path: Path) -> None:
    # rmp is a method of other tables.
    words = ("all", "-T", "2", "--methods", "ngu-lee,rmp")
    command.folder = tmp_path / "here"
    assert command(*words) == 0
    here = command.stored
    command.folder = tmp_path / "there"
    assert command(*words, "--workers", "2") == 0
    assert command.stored == here
    for path in (tmp_path / "here").iterdir():
        if path.suffix in (".csv", ".md"):
            assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()


def test_an_interruption_keeps_what_is_done(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run_some(network: Any, images: np.ndarray, timesteps: int, **options: Any) -> Any:
        calls.append(timesteps)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_network(network, images, timesteps, **options)

    monkeypatch.setattr(measurements, "run_network", run_some)
    words = ("table", "2", "--no-best", "--variants", "literal")
    assert command(*words) == 128 + signal.SIGINT
    kept = command.stored
    assert len(command.computed("Accuracy")) == 1
    assert command(*words) == 0
    # Four cells, one of which was computed before.
    assert len(calls) == 2 + 3
    assert kept.items() < command.stored.items()


def test_a_cell_that_fails_is_a_row_and_the_others_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_at_2(network: Any, images: np.ndarray, timesteps: int, **options: Any) -> Any:
        if timesteps == 2:
            raise MemoryError("too much")
        return run_network(network, images, timesteps, **options)

    monkeypatch.setattr(measurements, "run_network", fails_at_2)
    words = ("table", "2", "--variants", "literal")
    assert command(*words) == PlatformError.exit_code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "run the same command again" in printed.err
    assert [(row["timesteps"], row["refusal"], row["accuracy"] == "") for row in command.rows("table-2.csv")] == [
        ("8", "", False),
        ("8", "", False),
        ("2", "MemoryError: too much", True),
        ("2", "MemoryError: too much", True),
        ("8", "", False),
        ("2", "MemoryError: too much", True),
    ]
    assert "MemoryError: too much" in (command.folder / "table-2.md").read_text()
    monkeypatch.setattr(measurements, "run_network", run_network)
    before = command.stored
    assert command(*words) == 0
    assert {row["refusal"] for row in command.rows("table-2.csv")} == {""}
    assert before.items() < command.stored.items()


def test_thresholds_for_spike_counts_are_those_for_potentials(command: Command) -> None:
    assert command("table", "2", "--no-best", "--variants", "spikes,literal", "-T", "8", "--methods", "ngu-lee") == 0
    (balanced,) = command.computed("Balancing")
    assert balanced["key"]["options"]["readout"] == "spikes"
    data, source = load_data("digits"), open_source(command.checkpoint)
    calibration, test = data.calibration.images[:100], data.test[:60]
    spiking = balance(
        source.network, calibration, 8, BalanceOptions(method="ngu-lee", amplitude="literal", initial_potential="zero")
    )
    right = run_network(quantize(spiking, calibration), test.images, 8).predictions[:, 7] == test.known_labels
    (row,) = (row for row in command.rows("table-2.csv") if row["variant"] == "literal")
    assert row["accuracy"] == f"{100 * right.mean():.2f}"


def test_the_headline_is_measured_on_exported_files(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[QuantizedNetwork] = []

    def read(path: Path) -> QuantizedNetwork:
        files.append(netx.read(path))
        return files[-1]

    monkeypatch.setattr(measurements, "netx", SimpleNamespace(read=read, write=netx.write, SUFFIX=netx.SUFFIX))
    assert command("table", "headline", "--variants", "literal") == 0
    cnn, spiking = command.rows("table-headline.csv")
    assert (cnn["method"], cnn["timesteps"], cnn["conversion_loss"]) == ("cnn", "", "0.00")
    assert (spiking["alpha"], spiking["timesteps"]) == ("0.5", "4")
    (network,) = files
    test = load_data("digits").test[:60]
    right = (run_network(network, test.images, 4).predictions[:, 3] == test.known_labels).mean()
    assert spiking["accuracy"] == f"{100 * right:.2f}"
    assert network.provenance["balance"]["alpha"] == 0.5
    assert "headline: no network was trained on mnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("table", "2", "--no-best", "--tuned", "nowhere.pt"), "--tuned"),
        (("figure", "7", "-T", "2,8", "--tuned", "nowhere.pt"), "--tuned"),
        (("table", "2", "--width", "column"), "--width"),
        (("figure", "6", "--rate-images", "9"), "--rate-images"),
    ],
)
def test_an_option_without_effect_is_refused(
    words: tuple[str, ...], where: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert f"error: {where}: given" in capsys.readouterr().err


def test_the_best_is_chosen_without_test_images(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, tuned = load_data("digits"), tmp_path / "q2.safetensors"
    start = checkpoints.load(command.checkpoint)
    assert isinstance(start, Checkpoint)
    few = replace(default_recipe("digits"), epochs=1, learning_rate=1e-3, averaging=0.9)
    train("digits-cnn", digits, few, seed=0, output=tuned, qcfs_levels=2, start=start)
    assert command("table", "2", "--variants", "literal", "-T", "2", "--tuned", str(tuned)) == 0
    right = {
        network.provenance["model"]["file"]: int(
            (
                run_network(network, digits.validation.images, 2).predictions[:, 1] == digits.validation.known_labels
            ).sum()
        )
        for network in command.files
    }
    assert set(right) == {"model.safetensors", "q2.safetensors"}
    (record,) = command.computed("Choosing")
    assert right[record["result"]["network"]] == max(right.values())
    (row,) = (row for row in command.rows("table-2.csv") if row["variant"] == "best")
    assert row["network"] == record["result"]["network"]
    # The paper's best at T = 2 is its only measured value there.
    assert row["paper_accuracy"] == "20.00"
    assert float(row["difference"]) == pytest.approx(float(row["accuracy"]) - 20, abs=0.006)
    assert "## The best of our methods" in (command.folder / "table-2.md").read_text()


def test_beyond_long_t_the_method_is_chosen_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (images, networks, tables):
        monkeypatch.setattr(module, "LONG", 4)
    asked: list[tuple[int, str, bool | None]] = []

    def export(source: Any, path: Path, timesteps: tuple[int], images: np.ndarray, options: Any) -> Any:
        asked.append((*timesteps, options.balance.method, options.balance.bias_correction))
        return exporting.export(source, path, timesteps, images, options)

    monkeypatch.setattr(measurements, "exporting", SimpleNamespace(export=export))
    assert command("table", "2", "--variants", "literal", "-T", "8", "--methods", "ngu-lee") == 0
    files = {network.timesteps: network for network in command.files}
    chosen, used = files[4].provenance, files[8].provenance
    assert asked == [(4, "auto", None), (8, chosen["balance"]["method"], "calibration" in chosen)]
    assert used["balance"].get("percentile") == chosen["balance"].get("percentile")
    assert ("calibration" in used) == ("calibration" in chosen)
    assert "beyond T = " in (command.folder / "table-2.md").read_text()
    # The method is chosen once for all larger T.
    monkeypatch.setattr(paper, "table", lambda name: (replace(CELLS[1], timesteps=16),))
    assert command("table", "2", "--variants", "literal") == 0
    assert [steps for steps, *_ in asked] == [4, 8, 16]


def test_figure_11_shows_our_best_where_the_paper_has_no_value(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = (
        Cell("11", "digits", "ngu-lee", "soft", 1.0, 8, None),
        Cell("11", "digits", "ngu-lee", "soft", 1.0, 4, 50.0),
    )
    monkeypatch.setitem(EXHIBITS, ("figure", "11"), replace(EXHIBITS["figure", "11"], cells=lambda: made_up))
    assert command("figure", "11") == 0
    bests = [row for row in command.rows("figure-11.csv") if row["variant"] == "best"]
    assert [(row["timesteps"], row["paper_accuracy"]) for row in bests] == [("8", ""), ("4", "50.00")]
    assert all(float(row["accuracy"]) > 50 for row in bests)


@pytest.mark.parametrize("name", ["6", "12"])
def test_accuracy_figures_show_the_measured_values(command: Command, name: str) -> None:
    assert command("figure", name, "--no-best") == 0
    assert (command.folder / f"figure-{name}.svg").read_text().startswith("<?xml")
    assert (command.folder / f"figure-{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = command.rows(f"figure-{name}.csv")
    assert [row["paper_accuracy"] for row in rows] == ["90.00", "80.00", "", "20.00"]


def test_figure_7_is_the_mean_of_spikes_over_neurons_steps_and_images(command: Command) -> None:
    assert command("figure", "7", "-T", "8", "--rate-images", "10") == 0
    rows = [row for row in command.rows("figure-7.csv") if row["method"] == "ngu-lee"]
    data, source = load_data("digits"), open_source(command.checkpoint)
    calibration = data.calibration.images[:100]
    spiking = balance(
        source.network, calibration, 8, BalanceOptions(method="ngu-lee", amplitude="literal", initial_potential="zero")
    )
    traced = run_network(quantize(spiking, calibration), data.test.images[:10], 8, trace=True)
    for index, layer in enumerate(source.network.layers[:-1]):
        spikes = traced.traces[index].spikes
        assert spikes is not None
        rates = spikes.mean(axis=(0, 1, *range(3, spikes.ndim)))
        found = [float(row["spikes_per_T"]) for row in rows if row["layer"] == layer.name]
        assert found == pytest.approx(rates.tolist())


def test_rates_use_the_images_of_the_accuracies_by_default(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on a GPU if torch finds one; here it does not."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(images, "MOST_RATE_IMAGES", 20)
    words = ("figure", "7", "-T", "2", "--methods", "ngu-lee", "--device", "auto")
    for more in ((), ("--rate-images", "70")):
        assert command(*words, *more) == 0
    test = load_data("digits").test
    digests = {arrays_digest((some.images, some.known_labels)) for some in (test[:20], test[:70])}
    assert {record["key"]["test"] for record in command.computed("FiringRates")} == digests


def test_figure_a4_shows_the_balanced_thresholds(command: Command) -> None:
    assert command("figure", "A4") == 0
    rows = command.rows("figure-A4.csv")
    source = open_source(command.checkpoint)
    calibration = load_data("digits").calibration.images[:100]
    spiking = balance(
        source.network, calibration, 2, BalanceOptions(method="ngu-lee", amplitude="literal", initial_potential="zero")
    )
    neuron = spiking.layers[1].neuron
    assert neuron is not None
    found = [
        float(row["threshold"])
        for row in rows
        if (row["timesteps"], row["layer"]) == ("2", source.network.layers[1].name)
    ]
    assert found == neuron.threshold.tolist()
    assert {row["method"] for row in rows} == {"ngu-lee"}


def entry(cell: Cell, correct: int | None, *, cnn_correct: int = 9900, images: int = 10_000) -> Any:
    variant = variants.VARIANTS["literal"]
    outcome = tables.Measured(correct, images, 100, None if correct is not None else "fc: too large")
    cnn = tables.Measured(cnn_correct, images, 0)
    return tables.PaperEntry(cell, outcome, cnn, "model.pt", variant, variants.setting(cell, variant), 0)


def test_differences_and_losses_by_hand() -> None:
    """MNIST: CNN 99.31 and cell 98.98 in the paper; here 9,850 of 10,000 with a CNN of 99.00."""
    one = entry(Cell("2", "mnist", "ngu-lee", "soft", 1.0, 8, 98.98), 9850)
    assert one.accuracy == 98.5
    assert one.difference == pytest.approx(-0.48)
    assert one.loss == pytest.approx(0.5)
    assert tables.paper_loss(one.cell) == pytest.approx(0.33)
    assert one.loss_difference == pytest.approx(0.17)
    text = tables.markdown_page("Title", [one], notes=["A note."])
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 8 ")]
    # Wilson's interval for 9,850 of 10,000.
    assert rows == [["8", "98.98", "98.50 [98.24, 98.72] (-0.48)"], ["8", "0.33", "0.50 (+0.17)"]]
    (row,) = csv.DictReader(tables.csv_table([one]).splitlines())
    numbers = ("accuracy", "difference", "conversion_loss", "paper_conversion_loss", "loss_difference")
    assert [row[name] for name in numbers] == ["98.50", "-0.48", "0.50", "0.33", "0.17"]
    assert (row["interval_low"], row["interval_high"]) == ("98.24", "98.72")


def test_a_row_has_the_fingerprint_of_its_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell("A2", "mnist", "ngu-lee", "soft", alpha, 8, 99.0) for alpha in (1.0, 0.4)]
    cells += [Cell("A4", "mnist", "spike-norm", reset, 1.0, 8, 99.0) for reset in ("soft", "hard")]
    kinds = ("literal", "compensated", "half", "poisson", "alpha-afterwards")
    entries = [
        replace(entry(cell, 9900), variant=variant, setting=variants.setting(cell, variant, weight_bits=6))
        for cell in (*cells, CELLS[0])
        for variant in (variants.VARIANTS[kind] for kind in kinds)
    ]

    def found() -> list[dict[str, str]]:
        fingerprints._of.cache_clear()
        return list(csv.DictReader(tables.csv_table(entries).splitlines()))

    rows = found()
    assert [row["conversion"] for row in rows] == [fingerprints.row_fingerprint(row) for row in rows]
    # One for each conversion: neither T nor a variant without effect changes it, all else does.
    settings = {replace(one.setting, timesteps=8) for one in entries if one.setting}
    assert len({row["conversion"] for row in rows} - {""}) == len(settings)

    def rounded(*given: Any, **options: Any) -> QuantizedNetwork:
        made = quantize(*given, **options)
        first, *others = made.layers
        assert first.neuron is not None
        neuron = replace(first.neuron, threshold=first.neuron.threshold + 1)
        return replace(made, layers=(replace(first, neuron=neuron), *others))

    monkeypatch.setattr(fingerprints, "quantize", rounded)
    monkeypatch.setattr(measurements, "quantize", rounded)
    assert not {row["conversion"] for row in rows} & {row["conversion"] for row in found()} - {""}


def test_alpha_afterwards_scales_the_thresholds_of_alpha_1(checkpoint: Path) -> None:
    some = images.PaperImages("digits", PaperOptions(calibration="60", image_count=40))
    network, cell = networks.Network(checkpoint, some, "cpu"), replace(CELLS[1], alpha=0.5)
    both = [variants.setting(cell, variants.VARIANTS[name]) for name in ("literal", "alpha-afterwards")]
    whole = variants.setting(CELLS[1], variants.VARIANTS["literal"])
    network.balance_together([*both, whole])
    assert network.thresholds(both[1]) == network.thresholds(whole) != network.thresholds(both[0])
    thresholds = {}
    for one in (*both, whole):
        made = network.accuracy(one).quantized(outcome_of(network.thresholds(one)).result)
        thresholds[one] = [layer.balanced.threshold for layer in made.layers if layer.balanced is not None]
    each, afterwards, full = (thresholds[one] for one in (*both, whole))
    # The first layer's current is that of the pixels, which alpha does not change; that of the next layers is.
    assert [np.array_equal(one, other) for one, other in zip(each, afterwards, strict=True)] == [True, False]
    assert all(np.array_equal(one, 0.5 * other) for one, other in zip(afterwards, full, strict=True))


def test_a_network_that_does_not_fit_loihi_is_a_dash_with_a_reason() -> None:
    text = tables.markdown_page("Title", [entry(Cell("2", "mnist", "ngu-lee", "soft", 1.0, 8, 98.98), None)])
    assert "| 8   | 98.98 | -       |" in text
    assert "- mnist, T = 8, ngu-lee (soft), literal: fc: too large" in text


def test_the_order_counts_pairs_that_differ_by_more_than_chance() -> None:
    """On 10,000 images 99.0 - 98.9 is uncertain by 1.96 sqrt(99 x 1 + 98.9 x 1.1) / 100 = 0.28 points: chance."""

    def cell(method: str, accuracy: float | None, timesteps: int = 8) -> Cell:
        return Cell("2", "mnist", method, "soft", 1.0, timesteps, accuracy)

    entries = [
        entry(cell("ngu-lee", 99.0), 9700),
        entry(cell("rmp", 98.9), 9000),
        entry(cell("act-norm", 90.0), 9710),
        entry(cell("act-norm-channelwise", 80.0), 9000),
        entry(cell("robust-norm", None), 5000),
        entry(cell("act-norm", 50.0, timesteps=4), 5000),
    ]
    # ngu-lee and rmp are within chance in the paper, robust-norm has no value, and T = 4 has one row.
    found = tables.pairs(entries, entries[0].variant)
    assert [(pair.better.cell.method, pair.worse.cell.method, pair.order) for pair in found] == [
        ("ngu-lee", "act-norm", "within chance"),
        ("ngu-lee", "act-norm-channelwise", "same order"),
        ("rmp", "act-norm", "opposite"),
        # A tie: not the paper's order.
        ("rmp", "act-norm-channelwise", "within chance"),
        ("act-norm", "act-norm-channelwise", "same order"),
    ]
    first, *others = tables.order_lines(entries, entries[0].variant)
    assert first == "- **literal**: 5 pairs of rows: 2 same order, 2 within chance, 1 opposite."
    (only,) = others
    assert only.endswith("paper 98.90 and 90.00, ours 90.00 and 97.10")
    # Pairs that were not measured are not counted; their number is printed.
    entries[1] = replace(entries[1], outcome=None)
    first, *_ = tables.order_lines(entries, entries[0].variant)
    expected = "3 pairs of rows: 2 same order, 1 within chance, 0 opposite; 2 more are not measured here"
    assert first == f"- **literal**: {expected}."
    assert tables.order_lines(entries[-1:], entries[0].variant) == []


def test_every_cell_of_the_paper_has_a_setting_and_spike_norm_with_soft_reset_is_rmp() -> None:
    for cell in paper.cells():
        made = variants.setting(cell, variants.VARIANTS["literal"], seed=7)
        assert (made is None) == (cell.method == paper.CNN)
        if made is not None:
            assert (made.balancing.poisson_seed == 7) == (made.balancing.method in ("spike-norm", "rmp"))
            assert made.balancing.amplitude == "literal"
    one = Cell("A4", "mnist", "spike-norm", "soft", 1.0, 8, 19.68)
    assert variants.setting(one, variants.VARIANTS["literal"]) == variants.setting(
        replace(one, method="rmp"), variants.VARIANTS["literal"]
    )
    # Variants with the same settings for every cell are equivalent.
    twice = [
        variants.VARIANTS["literal"],
        replace(variants.VARIANTS["literal"], name="again"),
        variants.VARIANTS["spikes"],
    ]
    assert [variant.name for variant in variants.distinct_variants(twice, paper.table("A2"))] == [
        "literal",
        "spikes",
    ]
    hard = replace(one, method="act-norm", reset="hard")
    assert variants.setting(hard, variants.VARIANTS["half"]) is None
    published = (variants.setting(cell, variants.VARIANTS["published"]) for cell in (paper.table("2")[-1], hard))
    own, compared = (made.balancing for made in published)
    assert (own.method, own.amplitude, own.readout) == ("ngu-lee", "literal", "potential")
    assert (compared.method, compared.amplitude, compared.readout) == ("act-norm", "compensated", "spikes")
    assert variants.setting(hard, variants.VARIANTS["poisson"]).balancing.poisson_seed == 0


def test_every_table_and_figure_has_cells() -> None:
    assert {name: len(one.cells()) for (kind, name), one in EXHIBITS.items() if kind == "figure"} == {
        "6": 20, "7": 20, "8": 32, "9": 5 + 8 + 20 + 32, "11": 32, "12": 50, "A4": 5, "A5": 8,
    }  # fmt: skip
    names = [*(("table", name) for name in get_args(PaperTable)), *(("figure", name) for name in get_args(PaperFigure))]
    assert list(EXHIBITS) == names
    assert all(EXHIBITS["table", name].cells() == paper.table(name) for name in get_args(PaperTable))
    cells = EXHIBITS["figure", "11"].cells()
    printed = [(cell.method, cell.timesteps, cell.accuracy) for cell in cells if cell.accuracy]
    assert printed == [("ngu-lee", 256, 89.97)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variants", "litteral"), "--variants: found litteral; must be one or more of literal, .*, each once"),
        (("--variants", "spikes,spikes"), "--variants: found spikes,spikes; must be one or more of"),
        (("-T", "3"), "--timesteps: found 3; table 2 has 2, 8."),
        (("-T", "2,3,8"), "--timesteps: found 3; table 2 has 2, 8."),
        (("--methods", "rmp"), "--methods: found rmp; table 2 has act-norm-channelwise, ngu-lee."),
        (("--weight-bits", "99"), "--weight-bits: found 99; must be"),
        (("--seed", "-1"), "--seed: found -1; must be"),
        (("--calibration", "some"), "--calibration: found some; must be all, split, or a number of images."),
        (("--calibration", "1198"), r"--calibration: found 1198; must be in 1..1,197, split or all \(digits\)"),
        (("--images", "0", "--calibration", "9"), r"--images: found 0; must be in 1..400 \(digits\)"),
        (("--long-images", "401"), r"--long-images: found 401; must be in 1..400 \(digits\)"),
        (("--long-calibration", "1198"), r"--long-calibration: found 1198; must be in 1..1,197 \(digits\)"),
        (("--device", "gpu"), "--device: found 'gpu'; must be one of auto, cpu, cuda."),
    ],
)
def test_errors_name_the_allowed_values(
    command: Command, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert command("table", "2", *words) == UsageError.exit_code
    assert re.search(f"error: {message}", capsys.readouterr().err)


@pytest.mark.parametrize("count", ["0", "-5", "99999"])
def test_rates_of_an_impossible_number_of_images(
    count: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("figure", "7", "-T", "8", "--rate-images", count) == UsageError.exit_code
    assert f"error: --rate-images: found {count}; must be in 1..400 (digits)" in capsys.readouterr().err


def test_networks_must_match_the_table_and_each_other(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("table", "2", "--model", str(command.checkpoint)) == UsageError.exit_code
    assert "model.safetensors is also trained on digits; pass one --model for each data set" in capsys.readouterr().err
    monkeypatch.setattr(paper, "table", lambda name: CELLS if name == "headline" else HEADLINE[2:])
    assert command("table", "2") == UsageError.exit_code
    assert "--model: found digits; table 2 needs networks trained on mnist" in (err := capsys.readouterr().err)
    # The message does not mention omitted cells as well.
    assert "left out" not in err


def test_a_damaged_result_is_named(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("table", "2", "--variants", "literal", "-T", "2", "--no-best")
    assert command(*words) == 0
    before = command.stored
    name = next(name for name, content in before.items() if json.loads(content)["key"]["kind"] == "Accuracy")
    path = command.folder / "cells" / name
    path.write_text("[]")
    assert command(*words) == InputError.exit_code
    assert "Delete it to compute it again." in capsys.readouterr().err
    path.unlink()
    assert command(*words) == 0
    assert command.stored == before


def test_a_folder_that_cannot_be_made_is_named(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert command("table", "2", "--cache", str(tmp_path / "file" / "computed")) == InputError.exit_code
    assert "Choose another place with --cache" in capsys.readouterr().err
    command.folder = tmp_path / "file"
    assert command("table", "2", "--no-best", "--cache", str(tmp_path / "computed")) == InputError.exit_code
    assert "Choose another place with --output" in capsys.readouterr().err


def test_computed_only_computes_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(computation, "outcome_of", None)
    assert command("table", "2", "--computed-only") == 0
    assert {row["accuracy"] for row in command.rows("table-2.csv")} == {""}
    assert command("figure", "A4", "--computed-only") == 0
    assert "Not measured: digits, T = 2, ngu-lee (soft), literal; " in capsys.readouterr().err
    assert not (command.folder / "figure-A4.csv").exists()
    monkeypatch.setitem(EXHIBITS, ("figure", "11"), replace(EXHIBITS["figure", "11"], cells=lambda: CELLS[2:3]))
    assert command("figure", "11", "--computed-only") == 0
    assert "Nothing is drawn: no cell is measured" in capsys.readouterr().err
    assert not (command.folder / "figure-11.csv").exists()
    assert not command.stored


def test_a_network_too_large_for_loihi_is_recorded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RangeError("fc: too large")

    monkeypatch.setattr(measurements, "quantize", refuse)
    assert command("table", "2", "--variants", "literal", "-T", "2", "--no-best") == 0
    assert {row["refusal"] for row in command.rows("table-2.csv")} == {"fc: too large"}
    monkeypatch.setattr(measurements, "balance_by_method", refuse)
    assert command("table", "2", "--variants", "compensated", "-T", "2", "--no-best") == 0
    assert {row["refusal"] for row in command.rows("table-2.csv")} == {"fc: too large"}


def test_fewer_images_at_large_t() -> None:
    some = images.PaperImages("digits", PaperOptions(data_root=Path("root"), image_count=300, long_images=50))
    assert some.test(64).data_root == Path("root").absolute()
    assert (some.test(64).count, some.test(128).count, some.test(None).count) == (300, 50, 300)
    assert (some.calibration(64).count, some.calibration(128).count) == (1397, 1197)
    assert some.calibration(64, is_subset=True).count == 1197
    digits = load_data("digits")
    read = some.calibration(64).read().images
    assert np.array_equal(read, np.concatenate([digits.train.images, digits.validation.images]))
    with pytest.raises(InputError, match="digits, test images: has changed since the command began"):
        replace(some.test(64), key="other").read()


@pytest.mark.parametrize("content", ["weights", "own"])
def test_a_cnn_that_train_did_not_build_is_refused_without_options_that_do_not_exist(
    checkpoint: Path, tmp_path: Path, content: str
) -> None:
    ours, path = checkpoints.load(checkpoint), tmp_path / "own.pt"
    if content == "own":
        checkpoints.save(replace(ours, architecture="nets:make"), path)
    else:
        torch.save(dict(ours.state), path)
    for given in (PaperOptions(models=[str(path)]), PaperOptions(models=[str(checkpoint)], tuned=[path])):
        with pytest.raises(CheckpointError) as raised:
            networks.tuned_networks(given, networks.opened_networks(given, "cpu"))
        assert raised.value.where == str(path)
        assert "arch" not in raised.value.hint


def test_maxima_over_few_images_give_a_warning(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """On MNIST ngu-lee at T = 4 appears better with 500 calibration images than with the paper's 60,000."""
    words = ("table", "2", "--no-best", "--variants", "literal", "-T", "2")
    assert command(*words) == 0
    assert (
        "warning: The thresholds of act-norm-channelwise, ngu-lee are maxima over only 100" in capsys.readouterr().err
    )
    assert "- **Warning**: The thresholds of" in (command.folder / "table-2.md").read_text()
    enough = replace(entry(CELLS[1], 9000), outcome=tables.Measured(9000, 10_000, 10_000))
    assert not tables.flattered([enough])
    assert tables.flattered([entry(CELLS[1], 9000)])
    percentile = entry(replace(CELLS[1], method="robust-norm"), 9000)
    assert not tables.flattered([percentile])


def test_the_variants_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: cli.app(["reproduce", "--variants", "help"], standalone_mode=False)) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert shown >= set(variants.VARIANTS)
    assert exit_code(lambda: cli.app(["reproduce", "--variants", "help", "--json"], standalone_mode=False)) == 0
    assert set(json.loads(capsys.readouterr().out)["variants"]) == set(variants.VARIANTS)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "reproduce: found nothing; must be table 2|3|A2|A3|A4|headline, figure"),
        (("tables", "2"), "reproduce: found tables 2; must be"),
        (("table",), "reproduce: found table; must be"),
        (("table", "a2"), "table: found a2; must be one of 2, 3, A2, A3, A4, headline. Did you mean A2?"),
        (("figure", "5"), "figure: found 5; must be one of 6, 7, 8, 9, 11, 12, A4, A5."),
        (("table", "2"), "--model: not given; table 2 needs mnist, fashion-mnist or cifar10, or a checkpoint."),
        (
            ("table", "2", "--model", "mnist", "--rate-images", "5"),
            "--rate-images: given for table 2; is for figure 7.",
        ),
    ],
)
def test_requests_that_cannot_be_reproduced(
    words: tuple[str, ...], found: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["loihi-convert", "reproduce", *words])
    assert exit_code(lambda: cli.app(["reproduce", *words], standalone_mode=False)) == UsageError.exit_code
    assert f"error: {found}" in capsys.readouterr().err


def test_json_contains_the_rows_of_the_csv_file(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("headline", "--variants", "literal", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == command.rows("table-headline.csv")
    assert [Path(name).name for name in told["files"]] == ["table-headline.md", "table-headline.csv"]
    assert len(told["warnings"]) == 1
