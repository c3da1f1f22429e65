"""Early exit: what the chosen margin costs and saves, and accuracy against average T at every margin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.report.charts import Chart, Mark, Series
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import percent, percent_interval
from loihi_convert.report.page import Block, Paragraph, Picture, Table
from loihi_convert.report.timestep_chart import timestep_chart


def blocks(entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield what is known of early exit; nothing where no run has evaluated it."""
    known = [(entry, early) for entry in entries if (early := entry.evaluation.early_exit) is not None]
    if not known:
        return
    yield Paragraph(
        "Each image stops as soon as the first class leads the second by a margin. The margin chosen is the smallest "
        f"that costs at most {_choices(known)}, which are not among those of this report."
    )
    for data in dict.fromkeys(entry.data for entry, _ in known):
        if (chart := _early_exit_chart([pair for pair in known if pair[0].data == data], data)) is not None:
            yield Picture(chart)
    rows = []
    for entry, early in known:
        point, last = early.chosen_point, early.points[-1]
        rows.append(
            (
                entry.full_label,
                str(early.choice.timesteps),
                f"{early.choice.margin:,}",
                f"{point.average_timesteps:.2f}",
                f"{point.median_timesteps}, {point.percentile_95_timesteps}",
                percent(last.accuracy) or "",
                percent(point.accuracy) or "",
                percent_interval(point.accuracy_interval) or "",
                percent(point.agreement_with_last) or "",
                percent(early.synaptic_operations_saved) or "",
            )
        )
    headers = (
        *("file", "T", "margin", "average\nT", "half, 95 %\nstop by T", "at T\n%", "early\n%", "95 %\ninterval"),
        *("same as\nat T %", "SynOps\nsaved %"),
    )
    yield Table("Early exit with the chosen margin; on Lava the depth is added to each T", headers, tuple(rows))


def _choices(known: Sequence[tuple[Entry, EarlyExit]]) -> str:
    """What a margin may cost and on which images, once for each way to choose, with the files that chose so."""
    files: dict[str, list[str]] = {}
    for entry, early in known:
        choice = early.choice
        measure = "points of accuracy" if choice.by_labels else "% of the classes after T"
        cost = f"{choice.tolerance_points:g} {measure} on {choice.image_count:,} {choice.split} images"
        files.setdefault(cost, []).append(entry.full_label)
    if len(files) == 1:
        return next(iter(files))
    return "; ".join(f"{cost} ({', '.join(labels)})" for cost, labels in files.items())


def _early_exit_chart(known: Sequence[tuple[Entry, EarlyExit]], data: str) -> Chart | None:
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
        series.append(Series(entry.label, entry.style, tuple(marks), entry.line, False, own))
    every = [mark for one in series for mark in one.marks]
    if len({mark.x for mark in every}) < 2:
        return None
    measure = "accuracy, %" if has_accuracy else "same class as after T, %"
    caption = f"{data}: one point for each margin; the large mark is the chosen one."
    title = "Accuracy against average T" if has_accuracy else "Same class as after T, against average T"
    return timestep_chart(title, caption, series, (), measure, "average T, time steps")
