"""The sections after the curves: early exit, estimated energy and time, confused classes, how the file was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from loihi_convert.chip.energy import Constant
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.report.chart import Chart, Mark, Series, timestep_chart
from loihi_convert.report.entries import Entry
from loihi_convert.report.page import Code, Details, Facts, Matrix, PageBlock, Paragraph, Picture
from loihi_convert.report.run_tables import early_exit_table, energy_cells, margin_cost
from loihi_convert.report.table import Table, percent, quantity, table_of
from loihi_convert.runs.stored_run import Confusion, StoredRun


def energy(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the estimates of each file and what they include; nothing if no run has estimates."""
    known = [(entry, energy) for entry in entries if (energy := entry.evaluation.energy) is not None]
    if not known:
        return
    yield Paragraph("Estimated from counted spikes and published constants of Loihi 1. Not measured on a chip.")
    if len(known) > 1:
        rows = [
            {"file": entry.full_label, **energy_cells(energy, one)}
            for entry, energy in known
            for one in energy.estimates
            if one.timesteps == entry.point.timesteps
        ]
        yield table_of(rows, caption="Estimated for one inference, each file at its own T")
    tables = tuple(
        table_of(
            [energy_cells(energy, one) for one in energy.estimates],
            title=entry.full_label,
            caption="estimated for one inference, by T",
        )
        for entry, energy in known
    )
    yield from tables if len(tables) == 1 else [Details("The same at every T", tables)]
    boundaries = dict.fromkeys(energy.boundary for _, energy in known)
    constants = dict.fromkeys(constant for _, energy in known for constant in energy.constants)
    yield Details(
        "Included and omitted costs, and the source of every constant",
        (*(Paragraph(boundary) for boundary in boundaries), _table(list(constants))),
    )


def _table(constants: Sequence[Constant]) -> Table:
    rows = tuple((c.event, c.end, quantity(c.value, c.unit), c.chip, c.source, c.leaves_out) for c in constants)
    return Table("Constants", ("event", "end", "value", "chip", "source", "leaves out"), rows, 6)


def early_exit(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the results of early exit; nothing if no run has evaluated it."""
    known = [(entry, early) for entry in entries if (early := entry.evaluation.early_exit) is not None]
    if not known:
        return
    yield Paragraph(
        "Each image stops as soon as the first class leads the second by a margin. The chosen margin is the smallest "
        f"that costs at most {_choices(known)}. None of these images is among the test images."
    )
    for images in dict.fromkeys(entry.images for entry, _ in known):
        if (chart := _early_exit_chart([pair for pair in known if pair[0].images == images])) is not None:
            yield Picture(chart)
    table = early_exit_table([(entry.full_label, entry.evaluation) for entry in entries])
    if table is not None:
        yield replace(
            table, title="", caption="Early exit with the chosen margin. On Lava, add the number of layers to each T"
        )


def _choices(known: Sequence[tuple[Entry, EarlyExit]]) -> str:
    """Return the rule for choosing a margin (permitted loss and images) and its files, one sentence per rule."""
    files: dict[str, list[str]] = {}
    for entry, early in known:
        files.setdefault(margin_cost(early.choice), []).append(entry.full_label)
    if len(files) == 1:
        return next(iter(files))
    return "; ".join(f"{cost} ({', '.join(labels)})" for cost, labels in files.items())


def _early_exit_chart(known: Sequence[tuple[Entry, EarlyExit]]) -> Chart | None:
    series = []
    has_accuracy = all(early.points[0].accuracy is not None for _, early in known)
    for entry, early in known:
        marks = []
        for point in early.points:
            fraction = point.accuracy if has_accuracy and point.accuracy is not None else point.agreement_with_last
            margin = "no margin" if point.margin is None else f"margin {point.margin:,}"
            text = f"{entry.label}, {margin}: average T {point.average_timesteps:.2f}, {percent(fraction)} %"
            marks.append(Mark(point.average_timesteps, 100 * fraction, text))
        own = early.chosen_point.average_timesteps
        series.append(Series(entry.label, entry.style, tuple(marks), entry.line, emphasised=own))
    every = [mark for one in series for mark in one.marks]
    if len({mark.x for mark in every}) < 2:
        return None
    measure = "accuracy, %" if has_accuracy else "same class as after T, %"
    caption = f"{known[0][0].images_name}: one point for each margin; the large mark is the chosen one."
    title = "Accuracy against average T" if has_accuracy else "Same class as after T, against average T"
    return timestep_chart(title, caption, series, (), measure, "average T, time steps")


MAX_CLASSES: Final = 40
"""Classes of a confusion matrix that is shown whole."""


def confused_classes(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the confusion matrix of each file with known labels; all but the first are collapsed."""
    known = [(entry, found) for entry in entries if (found := entry.run.confusions.get(entry.file)) is not None]
    for index, (entry, found) in enumerate(known):
        block = _matrix(entry, found)
        yield block if index == 0 else Details(entry.full_label, (block,))


def _matrix(entry: Entry, found: Confusion) -> PageBlock:
    """Return the matrix and the worst confusions in words; with too many classes, only the latter."""
    wrong = int(found.counts.sum() - found.counts.trace())
    confused = sorted(
        (
            (int(found.counts[row, column]), found.classes[row], found.classes[column])
            for row, column in zip(*found.counts.nonzero(), strict=True)
            if row != column
        ),
        key=lambda one: -one[0],
    )[:5]
    often = "; ".join(f"{is_} taken for {got} ({n})" for n, is_, got in confused)
    told = f"{entry.full_label} at T = {found.timesteps}: {wrong:,} of {int(found.counts.sum()):,} images wrong"
    told += f". Most often: {often}." if confused else "."
    if len(found.classes) > MAX_CLASSES:
        return Paragraph(f"{told} {len(found.classes)} classes are too many for a matrix here.")
    return Matrix(f"{told} Rows: true class; columns: predicted class; empty: none", found)


def provenance(runs: Sequence[StoredRun]) -> Iterator[PageBlock]:
    """Yield the contents of the manifests; if there are several runs, each is collapsed."""
    if len(runs) == 1:
        yield from _how_it_was_made(runs[0])
    else:
        for run in runs:
            yield Details(run.name, tuple(_how_it_was_made(run)))


def _how_it_was_made(run: StoredRun) -> Iterator[PageBlock]:
    manifest = run.manifest
    versions = {**manifest.packages, **manifest.backend_versions}
    facts = (
        ("run folder", run.name),
        ("command", shlex.join(manifest.command_line)),
        ("finished", manifest.utc_time),
        ("backend", manifest.backend + (f", layout {manifest.lava_layout}" if manifest.lava_layout else "")),
        ("data", manifest.data),
        ("Python", manifest.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("platform", manifest.platform),
    )
    yield Facts(facts)
    columns = {
        "balanced by": ("balance", "method"),
        "initial\npotential": ("balance", "initial_potential"),
        "reset": ("balance", "reset"),
        "thresholds": ("quantize", "thresholds"),
        "weight\nbits": ("quantize", "weight_bits"),
        "pixel\nbits": ("quantize", "pixel_bits"),
        "CNN": ("model", "architecture"),
        "made from": ("model", "file"),
    }
    rows = tuple(
        (file.name, *(_recorded(run, Path(file.name).stem, *keys) for keys in columns.values()), file.sha256)
        for file in manifest.files
    )
    yield Table("Files of this run", ("file", *columns, "SHA-256"), rows, len(columns) + 2)
    whole = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    yield Details("The whole manifest, with the records of each file", (Code(whole),))


def _recorded(run: StoredRun, file: str, stage: str, key: str) -> str:
    """Return an entry of a file's provenance as text, or ""; versions differ in the entries they record."""
    found = run.manifest.provenance.get(file, {}).get(stage)
    value = found.get(key) if isinstance(found, dict) else None
    return "" if value is None else str(value)
