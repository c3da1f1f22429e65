"""The section on accuracy, or error, against latency and against work, for runs on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from loihi_convert.report import paper
from loihi_convert.report.axes import (
    Measure,
    decade_ticks,
    frame,
    measure_of,
    timestep_axes,
    timestep_chart,
    timestep_range,
)
from loihi_convert.report.chart import NEUTRAL, PAPER, Axes, Chart, CnnLevels, Mark, Series
from loihi_convert.report.entries import Entry, by_network, family_of, stoppable
from loihi_convert.report.page import Details, PageBlock, Paragraph, Picture
from loihi_convert.report.run_tables import accuracy_table, output_table, own_timesteps, page_cells, per_t_caption
from loihi_convert.report.table import GRADED_WORK, Table, percent, percent_ends, table_of


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the curves and tables of runs on the same images: all classifications, or all regressions."""
    measure = measure_of([entry.evaluation for entry in entries])
    levels = _cnn_levels(entries, measure)
    yield from _own_errors(entries, measure, levels) if measure.is_error else _beside_the_paper(entries)
    if (chart := _anytime_chart(stoppable(entries), measure, levels)) is not None:
        yield Picture(chart)
    for is_graded in () if measure.is_error else (False, True):
        # The two kinds of operations are not the same work.
        of_kind = [entry for entry in entries if entry.evaluation.is_graded == is_graded]
        if (chart := _work_chart(of_kind, measure, levels)) is not None:
            yield Picture(chart)
    yield from _one_or_details("The curves as tables", [_anytime_table(entry) for entry in entries])
    outputs = [
        replace(table, title=entry.label)
        for entry in entries
        if (table := output_table(entry.evaluation)) is not None and len(table.rows) > 2
    ]
    yield from _one_or_details("The errors of each output", outputs)


def _one_or_details(summary: str, tables: Sequence[Table]) -> Iterator[PageBlock]:
    yield from tables if len(tables) < 2 else [Details(summary, tuple(tables))]


def _cnn_levels(entries: Sequence[Entry], measure: Measure) -> CnnLevels:
    """Return the level of each CNN and, if there are several, the files converted from it."""
    files: dict[float, list[str]] = {}
    for entry in entries:
        if (level := measure.cnn(entry.evaluation)) is not None:
            files.setdefault(level, []).append(entry.label)
    names = {
        value: f"the CNN of {', '.join(labels)}" if len(files) > 1 else "the CNN" for value, labels in files.items()
    }
    return tuple((value, f"{name}, {measure.words(value)}") for value, name in sorted(names.items()))


def _beside_the_paper(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield accuracies at each file's own T, by kind of neuron, and the paper's results on the same data set."""
    if (chart := per_t_chart(entries, _cnn_levels(entries, Measure(is_error=False, is_judged=True)))) is not None:
        yield Picture(chart)
    if (table := paper_table(entries)) is not None:
        yield table
        yield Paragraph(" ".join(paper_remarks(entries)))


def _own_errors(entries: Sequence[Entry], measure: Measure, levels: CnnLevels) -> Iterator[PageBlock]:
    """Yield the errors at each file's own T, if there are several T."""
    series = []
    for family in families(entries):
        files = [(entry, measure.marks(entry.label, entry.evaluation, [entry.point])) for entry in family.entries]
        joined = tuple(mark for _, marks in files for mark in marks)
        series += [Series(f"{family.label}, by T", NEUTRAL, joined, is_line_only=True)] * (len(joined) > 1)
        series += [Series(entry.label, entry.style, marks, "") for entry, marks in files if marks]
    if len({mark.x for one in series for mark in one.marks}) > 1:
        caption = per_t_caption([entry.evaluation for entry in entries])
        axes = timestep_axes(series, levels, measure.label, is_error=True)
        yield Picture(Chart("Error at each file's own T", f"{caption[0].upper()}{caption[1:]}.", series, axes))


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


def per_t_chart(entries: Sequence[Entry], levels: CnnLevels) -> Chart | None:
    """Return the chart of these files and the paper's results, each at its T; None if there is only one point."""
    drawn = [entry for entry in entries if entry.is_per_t]
    rows = [row for row in _paper_rows(entries[0].data) if row.kind == "own"]
    if not drawn or (len(drawn) == 1 and not rows):
        return None
    series = []
    for index, family in enumerate(families(drawn)):
        files = [(entry, _own_mark(entry)) for entry in family.entries]
        if len(files) > 1:
            line = ("solid", "dashed", "dotted")[index % 3]
            joined = tuple(mark._replace(low=None, high=None) for _, mark in files)
            series.append(Series(f"{family.label}, by T", NEUTRAL, joined, line, is_line_only=True))
        series += [Series(entry.label, entry.style, (mark,), "", emphasised=mark.x) for entry, mark in files]
    for style, row in zip(PAPER, rows, strict=False):
        marks = tuple(Mark(t, value, f"{row.label}, T = {t}: {value:.2f} %") for t, value in row.cells.items())
        series.append(Series(row.label, style, marks, ("dotted", "dashed")[-style - 1]))
    caption = per_t_caption([entry.evaluation for entry in drawn])
    caption = f"{caption[0].upper()}{caption[1:]}; bars are 95 % intervals."
    if rows:
        caption += " Hollow: the paper's results, with its own CNN."
    return timestep_chart("Accuracy at each file's own T", caption, series, levels, "accuracy, %")


def _own_mark(entry: Entry) -> Mark:
    low, high = percent_ends(entry.point.accuracy_interval)
    return Mark(
        entry.point.timesteps,
        100 * (entry.point.accuracy or 0),
        f"{entry.label}, T = {entry.point.timesteps}: {percent(entry.point.accuracy)} %",
        low,
        high,
    )


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
    """Group the files, all run on the same images, whose names differ only in T, with the same neurons and CNN.

    Two files for the same T belong to different families.
    """
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
