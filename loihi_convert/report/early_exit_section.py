"""The section on early exit: costs and savings of the chosen margin, and accuracy against average T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.report.charts import Chart, Mark, Series
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import percent
from loihi_convert.report.page import PageBlock, Paragraph, Picture
from loihi_convert.report.run_tables import early_exit_table, margin_cost
from loihi_convert.report.timestep_chart import timestep_chart


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
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
        series.append(Series(entry.label, entry.style, tuple(marks), entry.line, False, own))
    every = [mark for one in series for mark in one.marks]
    if len({mark.x for mark in every}) < 2:
        return None
    measure = "accuracy, %" if has_accuracy else "same class as after T, %"
    caption = f"{known[0][0].images_name}: one point for each margin; the large mark is the chosen one."
    title = "Accuracy against average T" if has_accuracy else "Same class as after T, against average T"
    return timestep_chart(title, caption, series, (), measure, "average T, time steps")
