"""The section on accuracy against latency and against work, and on kinds of neurons, for runs on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from loihi_convert.metrics.evaluation import Point
from loihi_convert.report.axes import decade_ticks, frame, timestep_range
from loihi_convert.report.beside_the_paper import paper_remarks, paper_table, per_t_chart
from loihi_convert.report.charts import Axes, Chart, CnnLevels, Mark, Series, curve_chart
from loihi_convert.report.entries import NEURON_KINDS, Entry, stoppable
from loihi_convert.report.formats import GRADED_WORK, count, percent, percent_ends
from loihi_convert.report.page import Details, PageBlock, Paragraph, Picture
from loihi_convert.report.run_tables import accuracy_table, anytime_caption, page_cells
from loihi_convert.report.svg import NEUTRAL
from loihi_convert.report.table import Table, table_of
from loihi_convert.report.timestep_chart import timestep_chart


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the curves and tables of runs on the same images, with the paper's results if it has their data set."""
    levels = _cnn_levels(entries)
    has_accuracy = all(entry.point.accuracy is not None for entry in entries)
    measure = "accuracy, %" if has_accuracy else "agreement with the CNN's class, %"
    if (chart := per_t_chart(entries, levels)) is not None:
        yield Picture(chart)
    yield from _neuron_kinds(entries)
    if (table := paper_table(entries)) is not None:
        yield table
        yield Paragraph(" ".join(paper_remarks(entries)))
    if not has_accuracy:
        # The axis shows agreement with the CNN, so the CNN's accuracy does not belong on it.
        levels = ()
    if (chart := _anytime_chart(stoppable(entries), levels, measure, has_accuracy)) is not None:
        yield Picture(chart)
    for is_graded in (False, True):
        # The two kinds of operations are not the same work.
        of_kind = [entry for entry in entries if entry.evaluation.is_graded == is_graded]
        if (chart := _work_chart(of_kind, levels, measure, has_accuracy)) is not None:
            yield Picture(chart)
    tables = tuple(_anytime_table(entry) for entry in entries)
    yield from tables if len(tables) == 1 else [Details("The curves as tables", tables)]


def _cnn_levels(entries: Sequence[Entry]) -> CnnLevels:
    """Return the accuracy of each CNN and, if there are several, the files converted from it."""
    files: dict[float, list[str]] = {}
    for entry in entries:
        if entry.evaluation.cnn_accuracy is not None:
            files.setdefault(100 * entry.evaluation.cnn_accuracy, []).append(entry.label)
    names = {
        value: f"the CNN of {', '.join(labels)}" if len(files) > 1 else "the CNN" for value, labels in files.items()
    }
    return tuple((value, f"{name}, {value:.2f} %") for value, name in sorted(names.items()))


def _anytime_chart(entries: Sequence[Entry], levels: CnnLevels, measure: str, has_accuracy: bool) -> Chart | None:
    series = []
    for entry in entries:
        marks = _marks(entry, lambda point: float(point.timesteps), has_accuracy)
        if marks:
            own = float(entry.point.timesteps)
            if len(entries) > 1:
                marks = tuple(mark._replace(low=None, high=None) for mark in marks)
            series.append(Series(entry.label, entry.style, marks, entry.line, True, own))
    if len(entries) == 1 and has_accuracy:
        real = tuple(
            Mark(p.timesteps, 100 * p.float_accuracy, f"float SNN, T = {p.timesteps}: {percent(p.float_accuracy)} %")
            for p in entries[0].evaluation.points
            if p.float_accuracy is not None
        )
        if real:
            series.append(Series("float SNN", NEUTRAL, real, "dashed"))
    if not series:
        return None
    is_balanced = all(entry.is_balanced for entry in entries)
    caption = anytime_caption([entry.evaluation for entry in entries], is_balanced=is_balanced)
    if len(entries) == 1:
        caption += " The band is the 95 % interval."
    return timestep_chart("If you stop the run early", caption, series, levels, measure)


def _work_chart(entries: Sequence[Entry], levels: CnnLevels, measure: str, has_accuracy: bool) -> Chart | None:
    """Return accuracy against synaptic operations, near the best accuracy; None if no spike reaches a synapse.

    ``entries`` are all graded, or none is.
    """
    series = []
    for entry in entries:
        marks = tuple(
            mark._replace(low=None, high=None)
            for mark in _marks(entry, lambda point: point.synaptic_operations, has_accuracy)
        )
        if marks:
            own = entry.point.synaptic_operations
            series.append(Series(entry.label, entry.style, marks, entry.line, False, own))
    every = [mark for one in series for mark in one.marks]
    if len(every) < 2 or min(mark.x for mark in every) == max(mark.x for mark in every):
        return None
    main = {(mark.x, mark.y) for one in series for mark in one.marks if mark.x == one.emphasised}
    shown = frame([mark.frame_point for mark in every], [value for value, _ in levels], main)
    left, right = timestep_range(shown.left, max(mark.x for mark in every))
    caption = "The same points against the work they take: every T of each run, the large mark at the file's own T."
    if entries[0].evaluation.is_graded:
        caption += f" {GRADED_WORK}"
    axes = Axes(
        "synaptic operations per image",
        measure,
        left,
        right,
        shown.bottom,
        shown.top,
        tuple(decade_ticks(left, right)),
        levels,
    )
    return curve_chart("What accuracy costs", caption, series, axes)


def _anytime_table(entry: Entry) -> Table:
    """Return one row per reported T of one run."""
    evaluation = entry.evaluation
    rows = [{"T": str(point.timesteps), **page_cells(evaluation, point)} for point in evaluation.points]
    measured = accuracy_table(evaluation, is_balanced=entry.is_balanced)
    caption = f"{measured.title}; {measured.caption}".replace("\n", "; ")
    return table_of(rows, words=(), title=entry.label, caption=caption)


def _marks(entry: Entry, x: Callable[[Point], float], has_accuracy: bool) -> tuple[Mark, ...]:
    marks = []
    for point in entry.evaluation.points:
        fraction = point.accuracy if has_accuracy else point.agreement_with_cnn
        if fraction is not None and x(point) > 0:
            text = (
                f"{entry.label}, T = {point.timesteps}: {percent(fraction)} %, "
                f"{count(point.synaptic_operations)} SynOps an image"
            )
            low, high = percent_ends(point.accuracy_interval if has_accuracy else None)
            marks.append(Mark(x(point), 100 * fraction, text, low, high))
    return tuple(marks)


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
