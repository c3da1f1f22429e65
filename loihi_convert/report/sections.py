"""The sections of a page: curves, early exit, energy and time, layers, confused classes, how the file was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from loihi_convert.chip.energy import Constant
from loihi_convert.chip.limits import NEVER_FIRES
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.report import paper
from loihi_convert.report.axes import Axes, CnnLevels, Mark, Series, decade_ticks, frame, timestep_axes, timestep_range
from loihi_convert.report.chart import NEUTRAL, PAPER, Chart, channel_chart
from loihi_convert.report.entries import Entry, ImageSet, by_network, family_of, stoppable
from loihi_convert.report.figure import Measure, cnn_levels, measure_of
from loihi_convert.report.page import Code, Details, Facts, Heading, Matrix, PageBlock, Paragraph, Pictures
from loihi_convert.report.run_tables import (
    accuracy_table,
    early_exit_table,
    energy_table,
    layer_table,
    margin_cost,
    output_table,
    own_timesteps,
    page_cells,
    per_t_caption,
)
from loihi_convert.report.table import GRADED_WORK, RELAYS, Table, percent, quantity, table_of
from loihi_convert.runs.columns import ChannelFiringRate, ChannelThreshold
from loihi_convert.runs.run_folder import Confusion, StoredRun


def curves(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the curves and tables of runs on the same images: all classifications, or all regressions."""
    measure = measure_of([entry.evaluation for entry in entries])
    levels = cnn_levels([(entry.label, entry.evaluation) for entry in entries], measure)
    if (chart := per_t_chart(entries, measure)) is not None:
        yield chart
    if not measure.is_error and (table := paper_table(entries)) is not None:
        yield table
        yield Paragraph(" ".join(paper_remarks(entries)))
    if (chart := _anytime_chart(stoppable(entries), measure, levels)) is not None:
        yield chart
    for is_graded in () if measure.is_error else (False, True):
        # The two kinds of operations are not the same work.
        of_kind = [entry for entry in entries if entry.evaluation.is_graded == is_graded]
        if (chart := _work_chart(of_kind, measure, levels)) is not None:
            yield chart
    yield from _one_or_details("The curves as tables", [_anytime_table(entry) for entry in entries])
    outputs = [
        replace(table, title=entry.label)
        for entry in entries
        if (table := output_table(entry.evaluation)) is not None and len(table.rows) > 2
    ]
    yield from _one_or_details("The errors of each output", outputs)


def _one_or_details(summary: str, tables: Sequence[Table]) -> Iterator[PageBlock]:
    yield from tables if len(tables) < 2 else [Details(summary, tuple(tables))]


def _anytime_chart(entries: Sequence[Entry], measure: Measure, levels: CnnLevels) -> Chart | None:
    series = []
    for entry in entries:
        marks = measure.marks(entry.label, entry.evaluation, entry.evaluation.points)
        if len(entries) > 1:
            marks = tuple(mark._replace(low=None, high=None) for mark in marks)
        series.append(Series(entry.label, entry.style, marks, entry.line, True, float(entry.point.timesteps)))
    if len(entries) == 1:
        evaluation = entries[0].evaluation
        series.append(Series("float SNN", NEUTRAL, measure.floats(evaluation, evaluation.points), "dashed"))
    series = [one for one in series if one.marks]
    if not series:
        return None
    own = own_timesteps([entry.evaluation for entry in entries])
    caption = f"Each file was run once and its output read after every step. The large mark is {own}."
    if len(entries) == 1 and not measure.is_error:
        caption += " The band is the 95 % interval."
    axes = timestep_axes(series, levels, measure.label, is_error=measure.is_error)
    return Chart("If you stop the run early", caption, series, axes)


def _work_chart(entries: Sequence[Entry], measure: Measure, levels: CnnLevels) -> Chart | None:
    """Return accuracy against synaptic operations, near the best accuracy; None if no spike reaches a synapse.

    ``entries`` are all graded, or none is.
    """
    series = []
    for entry in entries:
        points = [point for point in entry.evaluation.points if point.synaptic_operations > 0]
        found = measure.marks(entry.label, entry.evaluation, points, lambda point: point.synaptic_operations)
        marks = tuple(mark._replace(low=None, high=None) for mark in found)
        series.append(Series(entry.label, entry.style, marks, entry.line, False, entry.point.synaptic_operations))
    every = [mark for one in series for mark in one.marks]
    if len({mark.x for mark in every}) < 2:
        return None
    main = {(mark.x, mark.y) for one in series for mark in one.marks if mark.x == one.emphasised}
    shown = frame(every, [value for value, _ in levels], main)
    left, right = timestep_range(shown.left, max(mark.x for mark in every))
    caption = "The same points against the work they take: every T of each run, the large mark at the file's own T."
    if entries[0].evaluation.is_graded:
        caption += f" {GRADED_WORK}"
    axes = Axes(
        "synaptic operations per image",
        measure.label,
        *(left, right, shown.bottom, shown.top),
        tuple(decade_ticks(left, right)),
        levels,
    )
    return Chart("What accuracy costs", caption, [one for one in series if one.marks], axes)


def _anytime_table(entry: Entry) -> Table:
    """Return one row per reported T of one run."""
    evaluation = entry.evaluation
    measured = accuracy_table(evaluation)
    if evaluation.regression is not None:
        return replace(measured, title=entry.label)
    rows = [{"T": str(point.timesteps), **page_cells(evaluation, point)} for point in evaluation.points]
    caption = f"{measured.title}; {measured.caption}".replace("\n", "; ")
    return table_of(rows, words=(), title=entry.label, caption=caption)


_ALPHA: Final = "\N{GREEK SMALL LETTER ALPHA}"
_PAPER_METHODS: Final = {"act-norm-channelwise": "act-norm by channel", "spike-norm": "spike-norm", "rmp": "RMP-SNN"}


def per_t_chart(entries: Sequence[Entry], measure: Measure) -> Chart | None:
    """Return the chart of these files and the paper's results, each at its T; None if there is only one point."""
    drawn, rows = entries, []
    if not measure.is_error:
        measure = measure._replace(is_judged=True)
        drawn = [entry for entry in entries if entry.is_per_t]
        rows = [row for row in _paper_rows(entries[0].data) if row.kind == "own"]
    if not drawn or len(drawn) + len(rows) == 1:
        return None
    series = []
    for index, family in enumerate(families(drawn)):
        files = [(entry, measure.marks(entry.label, entry.evaluation, [entry.point])) for entry in family.entries]
        joined = tuple(mark._replace(low=None, high=None) for _, marks in files for mark in marks)
        if len(joined) > 1:
            line = ("solid", "dashed", "dotted")[index % 3]
            series.append(Series(f"{family.label}, by T", NEUTRAL, joined, line, is_line_only=True))
        series += [Series(e.label, e.style, marks, "", emphasised=marks[0].x) for e, marks in files if marks]
    if not series:
        return None
    for style, row in zip(PAPER, rows, strict=False):
        marks = tuple(Mark(t, value, f"{row.label}, T = {t}: {value:.2f} %") for t, value in row.cells.items())
        series.append(Series(row.label, style, marks, ("dotted", "dashed")[-style - 1]))
    caption = per_t_caption([entry.evaluation for entry in drawn])
    caption = f"{caption[0].upper()}{caption[1:]}{'' if measure.is_error else '; bars are 95 % intervals'}."
    if rows:
        caption += " Hollow: the paper's results, with its own CNN."
    axes = timestep_axes(
        series,
        cnn_levels([(entry.label, entry.evaluation) for entry in entries], measure),
        measure.label,
        is_error=measure.is_error,
    )
    return Chart(f"{'Error' if measure.is_error else 'Accuracy'} at each file's own T", caption, series, axes)


def paper_table(entries: Sequence[Entry]) -> Table | None:
    """Return a table of these files above the paper's results, one column per T; None if either has no row."""
    rows = _paper_rows(entries[0].data)
    own = families([entry for entry in entries if entry.is_per_t])
    if not rows or not own:
        return None
    steps = sorted(
        {entry.point.timesteps for family in own for entry in family.entries} | {t for row in rows for t in row.cells}
    )
    body = []
    for family in own:
        cells = {entry.point.timesteps: percent(entry.point.accuracy) for entry in family.entries}
        cnn = sorted({percent(entry.evaluation.cnn_accuracy) or "" for entry in family.entries} - {""})
        body.append((f"ours: {family.label}", ", ".join(cnn), *(cells.get(t) or "" for t in steps)))
    paper_cnn = paper.cnn_accuracy(entries[0].data)
    for row in rows:
        form = "g" if row.kind == "alpha" else ".2f"
        texts = (format(row.cells[t], form) if t in row.cells else "" for t in steps)
        body.append((row.label, f"{paper_cnn:.2f}" if row.kind == "own" and paper_cnn is not None else "", *texts))
    headers = ("accuracy, %", "CNN", *(f"T = {t}" for t in steps))
    return Table("Compared with the paper (Ngu & Lee 2022), each file at its own T", headers, tuple(body), 1)


def paper_remarks(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the remarks needed to compare these files with the paper."""
    yield "Empty cells: not measured here, or not in the paper."
    if (count := entries[0].evaluation.image_count) != 10_000:
        yield f"The paper's results are for all 10,000 test images; the results here are for {count:,}."
    if early := [entry.label for entry in entries if entry.evaluation.timesteps > entry.point.timesteps]:
        yield f"Left out, because the run ended before the T that the file is made for: {', '.join(early)}."
    if entries[0].data == "cifar10":
        yield "The paper's CIFAR-10 network is a VGG-16; do not compare another CNN with it."


class Family(NamedTuple):
    """Files of one network for several T: one row of the table, and one curve."""

    label: str
    entries: tuple[Entry, ...]


def families(entries: Sequence[Entry]) -> list[Family]:
    """Group files on the same images whose names differ only in T, with the same neurons and CNN, one for each T."""
    rows = by_network(((family_of(entry.file), entry.neuron), entry.evaluation, entry) for entry in entries)
    names = [name for (name, _), row in rows]
    return [Family(name if len(row) > 1 and names.count(name) == 1 else row[0].label, row) for (name, _), row in rows]


class _PaperRow(NamedTuple):
    """One row of the paper: its own method, another method, or the best factor alpha; one number per T."""

    label: str
    kind: Literal["own", "other", "alpha"]
    cells: dict[int, float]


def _paper_rows(data: str) -> list[_PaperRow]:
    """Return the paper's rows of a data set: its method with alpha 1 and with the best alpha, and other methods."""
    own: dict[int, dict[float, float]] = {}
    others: dict[str, dict[int, float]] = {}
    for cell in paper.cells():
        if cell.data != data or cell.accuracy is None or cell.timesteps is None or cell.alpha is None:
            continue
        if cell.method == "ngu-lee" and cell.reset == "soft":
            own.setdefault(cell.timesteps, {})[cell.alpha] = cell.accuracy
        elif cell.table in ("2", "3"):
            others.setdefault(cell.method, {})[cell.timesteps] = cell.accuracy
    own = dict(sorted(own.items()))
    rows = [_PaperRow(f"paper: {_ALPHA} = 1", "own", {t: by[1.0] for t, by in own.items() if 1.0 in by})]
    if any(len(by) > 1 for by in own.values()):
        # If accuracies are equal, the larger alpha is chosen.
        best = {t: max((accuracy, alpha) for alpha, accuracy in by.items()) for t, by in own.items()}
        rows.append(_PaperRow(f"paper: best {_ALPHA}", "own", {t: accuracy for t, (accuracy, _) in best.items()}))
        rows.append(_PaperRow(f"paper: that {_ALPHA}", "alpha", {t: alpha for t, (_, alpha) in best.items()}))
    for method, cells in others.items():
        rows.append(_PaperRow(f"paper: {_PAPER_METHODS.get(method, method)}", "other", cells))
    return [row for row in rows if row.cells]


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
            yield chart
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
    return Chart(title, caption, series, timestep_axes(series, (), measure, "average T, time steps"))


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
