"""The sections after the curves: early exit, energy and time, layers, confused classes, how the file was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from loihi_convert.chip.energy import Constant
from loihi_convert.chip.limits import NEVER_FIRES
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.report.axes import channel_chart, timestep_chart
from loihi_convert.report.chart import Chart, Mark, Series
from loihi_convert.report.entries import Entry, ImageSet
from loihi_convert.report.page import Code, Details, Facts, Heading, Matrix, PageBlock, Paragraph, Picture, Pictures
from loihi_convert.report.run_tables import early_exit_table, energy_table, layer_table, margin_cost
from loihi_convert.report.table import RELAYS, Table, percent, quantity
from loihi_convert.runs.columns import ChannelFiringRate, ChannelThreshold
from loihi_convert.runs.stored_run import Confusion, StoredRun


def energy(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the estimates of each file and what they include; nothing if no run has estimates."""
    known = [(entry, energy) for entry in entries if (energy := entry.evaluation.energy) is not None]
    figures = [(entry.full_label, entry.evaluation) for entry, _ in known]
    tables = [table for one in (figures, *([each] for each in figures)) if (table := energy_table(one)) is not None]
    if not tables:
        return
    yield Paragraph("Estimated from counted spikes and published constants of Loihi 1. Not measured on a chip.")
    yield tables[0]
    if len(known) > 1:
        every = zip(tables[1:], figures, strict=True)
        yield Details("The same at every T", tuple(replace(table, title=name) for table, (name, _) in every))
    constants = dict.fromkeys(constant for _, energy in known for constant in energy.constants)
    yield Details("The source of every constant", (_table(list(constants)),))


def _table(constants: Sequence[Constant]) -> Table:
    rows = tuple((c.event, c.end, quantity(c.value, c.unit), c.chip, c.source, c.leaves_out) for c in constants)
    return Table("Constants", ("event", "end", "value", "chip", "source", "leaves out"), rows, 6)


def early_exit(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the results of early exit; nothing if no run has evaluated it."""
    known = [(entry, early) for entry in entries if (early := entry.evaluation.early_exit) is not None]
    if not known:
        return
    costs = dict.fromkeys(margin_cost(early.choice) for _, early in known)
    yield Paragraph(
        "Each image stops as soon as the first class leads the second by a margin. The chosen margin is the smallest "
        f"that costs at most {'; '.join(costs)}. None of these images is among the test images."
    )
    for images in dict.fromkeys(entry.images for entry, _ in known):
        if (chart := _early_exit_chart([pair for pair in known if pair[0].images == images])) is not None:
            yield Picture(chart)
    table = early_exit_table([(entry.full_label, entry.evaluation) for entry in entries])
    if table is not None:
        yield replace(
            table, title="", caption="Early exit with the chosen margin. On Lava, add the number of layers to each T"
        )


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


MAX_CHANNELS: Final = 128
"""Channels of a layer whose values are listed one by one."""


def layers(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield charts and tables of every layer; files on the same images and with the same layers share them."""
    # Neurons that send graded spikes have none.
    binary = [entry for entry in entries if not entry.evaluation.is_graded]
    if external := sorted({entry.run.name for entry in binary if entry.run.thresholds is None}):
        yield Paragraph(
            f"Thresholds of channels are missing for {', '.join(external)}: the file was not written by loihi-convert, "
            "and thresholds of CUBA neurons are not recorded."
        )
    if any(entry.evaluation.has_relays for entry in entries):
        yield Paragraph(f"Charts and ranges leave out {RELAYS}. The lists of every channel mark them.")
    groups: dict[tuple[ImageSet, tuple[tuple[str, int], ...]], list[Entry]] = {}
    for entry in entries:
        shape = tuple((layer.name, layer.neuron_count) for layer in entry.evaluation.layers)
        groups.setdefault((entry.images, shape), []).append(entry)
    for (_, shape), group in groups.items():
        if len(groups) > 1:
            yield Heading(f"{group[0].images_name}: {', '.join(entry.label for entry in group)}")
        for name, _ in shape:
            charts = tuple(
                chart for chart in (_rate_chart(group, name), _threshold_chart(group, name)) if chart is not None
            )
            if charts:
                yield Pictures(charts)
        tables = tuple(_layer_table(entry) for entry in group)
        yield from tables if len(tables) == 1 else [Details("Each layer's rates, thresholds and work", tables)]
        lists = tuple(
            table for entry in group for name, _ in shape if (table := _channel_table(entry, name)) is not None
        )
        if lists:
            yield Details("Every channel's firing rate and threshold", lists)


def _rate_chart(group: Sequence[Entry], layer: str) -> Chart | None:
    files = [
        (
            f"{entry.label}, T = {entry.point.timesteps}",
            entry.style,
            [None if row.relay_of is not None else 100 * row.firing_rate for row in rows],
        )
        for entry in group
        if (rows := _rates(entry, layer))
    ]
    if not files:
        return None
    at = f"at T = {group[0].point.timesteps}" if len(files) == 1 else "each file at its own T"
    sent = " and ".join(dict.fromkeys(entry.sent for entry in group))
    caption = f"{sent.capitalize()} of a channel's neurons / T, mean over neurons and images; {at}."
    title = f"{layer}: {'firing rate' if sent == 'spikes' else f'rate of {sent}'}"
    return channel_chart(title, caption, "rate, %", files, "{:.2f} %".format)


def _threshold_chart(group: Sequence[Entry], layer: str) -> Chart | None:
    files = [
        (f"{entry.label}, for T = {entry.evaluation.timesteps}", entry.style, values)
        for entry in group
        if (values := _real_thresholds(_neurons(entry, layer), is_own=True)) and set(values) != {None}
    ]
    if not files:
        return None
    caption = "In units of the CNN's activations, before rounding to Loihi's integers."
    return channel_chart(f"{layer}: threshold", caption, "threshold", files)


def _layer_table(entry: Entry) -> Table:
    table = layer_table(
        entry.evaluation,
        entry.point,
        rates=lambda layer: [row.firing_rate for row in _rates(entry, layer) if row.relay_of is None],
        thresholds=lambda layer: [row.threshold for row in _neurons(entry, layer) if row.relay_of is None],
    )
    return replace(table, title=entry.full_label)


def _channel_table(entry: Entry, layer: str) -> Table | None:
    rates, neurons = _rates(entry, layer), _neurons(entry, layer)
    if not rates or not neurons or len(rates) > MAX_CHANNELS:
        return None
    rows = tuple(
        (
            f"{row.channel}{'' if row.relay_of is None else ' (relay)'}",
            percent(rate.firing_rate) or "",
            f"{row.threshold:,}",
            "never fires" if real is None else f"{real:.4g}",
            f"{row.initial_potential:,}",
        )
        for rate, row, real in zip(rates, neurons, _real_thresholds(neurons), strict=True)
    )
    headers = ("channel", "firing\nrate %", "threshold,\ninteger", "threshold,\nreal", "initial\npotential")
    return Table(f"{entry.full_label}, {layer}, at T = {entry.point.timesteps}", headers, rows, 0)


def _rates(entry: Entry, layer: str) -> tuple[ChannelFiringRate, ...]:
    return entry.run.firing_rates.get((entry.file, layer, entry.point.timesteps), ())


def _neurons(entry: Entry, layer: str) -> tuple[ChannelThreshold, ...]:
    return (entry.run.thresholds or {}).get((entry.file, layer, None), ())


def _real_thresholds(neurons: Sequence[ChannelThreshold], *, is_own: bool = False) -> list[float | None]:
    """The float thresholds before rounding or, if not recorded, integer x scale; None: never fires, or a relay."""
    is_recorded = any(row.real_threshold is not None for row in neurons)
    return [
        None
        if is_own and row.relay_of is not None
        else row.real_threshold
        # If a layer has a single threshold, it also applies to a channel that never fires.
        if row.real_threshold is not None or is_recorded or row.threshold >= NEVER_FIRES
        else row.threshold * row.scale
        for row in neurons
    ]
