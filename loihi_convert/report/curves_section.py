"""The section on accuracy, or error, against latency and against work, for runs on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from loihi_convert.report.beside_the_paper import families, paper_remarks, paper_table, per_t_chart
from loihi_convert.report.chart import (
    NEUTRAL,
    Axes,
    Chart,
    CnnLevels,
    Series,
    decade_ticks,
    frame,
    timestep_axes,
    timestep_range,
)
from loihi_convert.report.entries import NEURON_KINDS, Entry, stoppable
from loihi_convert.report.measure import Measure, measure_of
from loihi_convert.report.page import Details, PageBlock, Paragraph, Picture
from loihi_convert.report.run_tables import accuracy_table, anytime_caption, output_table, page_cells, per_t_caption
from loihi_convert.report.table import GRADED_WORK, Table, percent, table_of


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
    yield from _neuron_kinds(entries)
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
    caption = anytime_caption(
        [entry.evaluation for entry in entries], is_balanced=all(entry.is_balanced for entry in entries)
    )
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
    measured = accuracy_table(evaluation, is_balanced=entry.is_balanced)
    if evaluation.regression is not None:
        return replace(measured, title=entry.label)
    rows = [{"T": str(point.timesteps), **page_cells(evaluation, point)} for point in evaluation.points]
    caption = f"{measured.title}; {measured.caption}".replace("\n", "; ")
    return table_of(rows, words=(), title=entry.label, caption=caption)


def _neuron_kinds(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield one row per T and one column per kind of neuron; nothing if all files of the data set have one kind."""
    measured = [entry for entry in entries if entry.is_per_t and entry.neuron is not None]
    kinds = [kind for kind in NEURON_KINDS if any(entry.neuron == kind for entry in measured)]
    if len(kinds) < 2:
        return
    steps = sorted({entry.point.timesteps for entry in measured})
    rows = tuple((str(t), *(_of_kind(measured, kind, t) for kind in kinds)) for t in steps)
    caption = "Accuracy in %, by kind of neuron: each file at the T it is balanced for"
    yield Table(caption, ("T", *(kind.replace(" ", "\n") for kind in kinds)), rows, 0)
    cells = {(entry.neuron, entry.point.timesteps) for entry in measured}
    words = "; ".join(f"{kind}: {NEURON_KINDS[kind]}" for kind in kinds)
    counts = sorted({entry.evaluation.image_count for entry in measured})
    of_images = "" if len(counts) == 1 else f" Numbers of images differ: {', '.join(f'{n:,}' for n in counts)}."
    of_files = " Two numbers in a cell: two files of that kind and T." if len(measured) > len(cells) else ""
    yield Paragraph(f"{words[0].upper()}{words[1:]}.{of_files}{of_images}")


def _of_kind(entries: Sequence[Entry], kind: str, timesteps: int) -> str:
    found = [entry for entry in entries if (entry.neuron, entry.point.timesteps) == (kind, timesteps)]
    return " / ".join(percent(entry.point.accuracy) or "" for entry in found)
