"""The paper's figures: our measurements, with 95 % intervals, and the paper's, hollow, as charts of one figure.

Accuracies are compared with those of the CNN on the same images, which may be fewer for large T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.paper.tables import PaperEntry
from loihi_convert.paper.variants import BEST, Exhibit, Variant
from loihi_convert.report import paper
from loihi_convert.report.axes import Mark, Series, timestep_axes
from loihi_convert.report.chart import MARKERS, Chart, channel_chart
from loihi_convert.runs.columns import as_csv

OUR_BEST: Final = "our best"
"""The label of the best of our methods at each T."""

# If some accuracies are four times as many points below the best, a second chart shows the range above that.
_ENLARGED_POINTS: Final = 3.0


class MeasuredChannels(NamedTuple):
    """The channels of a cell of the paper in a variant: one value each, by layer name; empty if not measured."""

    cell: paper.Cell
    variant: Variant
    values: Mapping[str, Sequence[float]]


def accuracy_charts(figure: Exhibit, entries: Sequence[PaperEntry]) -> Iterator[Chart]:
    """Yield a chart for each variant and data set that has points, and an enlarged one if accuracies differ much."""
    groups: dict[tuple[Variant, str], list[PaperEntry]] = {}
    for entry in entries:
        if entry.cell.timesteps is not None and entry.variant is not BEST:
            groups.setdefault((entry.variant, entry.cell.data), []).append(entry)
    styles: dict[str, int] = {}
    for (variant, data), found in groups.items():
        series = list(_series(figure, found, styles))
        best = _marks([one for one in entries if one.variant is BEST and one.cell.data == data])
        series += [Series(OUR_BEST, styles.setdefault(OUR_BEST, len(styles)), best)] if best else []
        if not series:
            continue
        measured = [entry for entry in found if entry.accuracy is not None and entry.cnn.accuracy is not None]
        theirs, cnns = paper.cnn_accuracy(data), {entry.cnn.images: entry.cnn.accuracy or 0.0 for entry in measured}
        levels = [] if theirs is None else [(theirs, "the paper's CNN")]
        levels += [(cnns[count], f"our CNN on {count:,} images") for count in sorted(cnns, reverse=True)]
        axes = timestep_axes(series, tuple(levels), "accuracy, %")
        values = [value for one in series for mark in one.marks for value in mark.ends] + [one for one, _ in levels]
        low, high = min(values), max(values)
        ranges = {f"{data}, {variant.name}": low}
        if high - low > 4 * _ENLARGED_POINTS:
            ranges[f"{data}, {variant.name}, enlarged"] = high - _ENLARGED_POINTS
        left = min(mark.x for one in series for mark in one.marks) / 1.2
        ticks = sorted({mark.x for one in series for mark in one.marks})
        for title, bottom in ranges.items():
            margin = 0.05 * (high - bottom) or 0.5
            shown = axes._replace(left=left, bottom=max(0.0, bottom - margin), top=high + margin, ticks=tuple(ticks))
            yield Chart(title, _note(found) if bottom == low else "", series, shown)


def _series(figure: Exhibit, entries: Sequence[PaperEntry], styles: dict[str, int]) -> Iterator[Series]:
    """Yield our curve and the paper's marks, hollow, of each method, neuron or factor alpha; styles are by label."""
    curves: dict[str, dict[tuple[str | None, int | None], PaperEntry]] = {}
    for entry in entries:
        cell = entry.cell
        label = f"alpha {cell.alpha:g}" if figure.curve == "alpha" else cell.method
        label += f", {cell.reset}" if figure.curve == "method and reset" else ""
        # A cell that appears in two tables is drawn as one point.
        curves.setdefault(label, {})[cell.reset, cell.timesteps] = entry
    for label, found in curves.items():
        index = styles.setdefault(label, len(styles))
        if marks := _marks(list(found.values())):
            is_dashed = figure.curve == "method and reset" and label.endswith("hard")
            yield Series(label, index, marks, "dashed" if is_dashed else "solid")
        printed = [(one.cell.timesteps or 0, one.cell.accuracy) for one in found.values()]
        papers = sorted(Mark(steps, accuracy) for steps, accuracy in printed if accuracy is not None)
        if papers:
            yield Series("" if marks else label, index, tuple(papers), "", marker=MARKERS[index % len(MARKERS)])


def _marks(entries: Sequence[PaperEntry]) -> tuple[Mark, ...]:
    marks = []
    for entry in entries:
        if entry.outcome is not None and entry.outcome.correct is not None:
            low, high = wilson_interval(entry.outcome.correct, entry.outcome.images)
            marks.append(Mark(entry.cell.timesteps or 0, entry.accuracy or 0.0, "", 100 * low, 100 * high))
    return tuple(sorted(marks))


def _note(entries: Sequence[PaperEntry]) -> str:
    """Return the number of images and the CNN's training seed of a chart."""
    measured = [(entry.cell.timesteps or 0, entry.outcome, entry) for entry in entries if entry.outcome is not None]
    if not measured:
        return "the paper's values only"
    # The smallest T with each number of images.
    since: dict[int, int] = {}
    for steps, outcome, _ in sorted(measured, key=lambda each: each[0]):
        since.setdefault(outcome.images, steps)
    first, *others = since
    some = f" ({', '.join(f'{count:,} from T = {since[count]} on' for count in others)})" if others else ""
    calibration = sorted({outcome.calibration_images for _, outcome, _ in measured if outcome.calibration_images})
    seeds = sorted({str(entry.training_seed) for *_, entry in measured})
    return (
        f"n = {first:,} test images{some}; {' or '.join(f'{n:,}' for n in calibration)} calibration images; "
        f"training seed {' or '.join(seeds)}. Hollow: the paper"
    )


def channel_charts(figure: Exhibit, measured: Sequence[MeasuredChannels]) -> tuple[list[Chart], str]:
    """Return a chart of the firing rates, or thresholds, of the channels of each layer, and the values as CSV."""
    of_rates = figure.shows == "rates"
    has_several_t = len({one.cell.timesteps for one in measured}) > 1
    has_variants = len({one.variant for one in measured}) > 1
    quantity, column = ("spikes / T", "spikes_per_T") if of_rates else ("threshold", "threshold")
    rows: list[dict[str, object]] = []
    curves: dict[str, list[tuple[str, int, Sequence[float | None]]]] = {}
    for cell, variant, values in measured:
        names = [cell.method if of_rates else f"T = {cell.timesteps}"]
        names += [variant.name] if has_variants else []
        names += [f"T = {cell.timesteps}"] if of_rates and has_several_t else []
        for layer, numbers in values.items():
            files = curves.setdefault(f"{layer}, {cell.data}, {len(numbers)} channels", [])
            files.append((", ".join(names), len(files), numbers))
            row = {
                "figure": figure.name,
                "data": cell.data,
                "method": cell.method,
                "reset": cell.reset,
                "variant": variant.name,
                "timesteps": cell.timesteps,
                "layer": layer,
            }
            rows += [{**row, "channel": channel, column: number} for channel, number in enumerate(numbers)]
    charts = [channel_chart(title, "", quantity, files) for title, files in curves.items()]
    return charts, as_csv(rows).decode()
