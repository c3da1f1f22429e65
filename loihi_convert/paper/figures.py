"""The paper's figures as matplotlib figures, with our measurements and the paper's printed numbers.

Each point is compared with the CNN's accuracy on the same images. Where the number of test images changes with T, the
curve and the CNN's line are interrupted; the part measured on fewer images is dotted and pale.
"""

from __future__ import annotations

import csv
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import field_validator, model_validator

from loihi_convert.choices import Width
from loihi_convert.errors import InputError
from loihi_convert.paper.variants import Exhibit, Variant
from loihi_convert.report import paper
from loihi_convert.report.chart import (
    CNN_COLOUR,
    COLOURS,
    MARKERS,
    SIZES,
    Size,
    drawing,
    new_figure,
    plain,
    timestep_axis,
)
from loihi_convert.runs.columns import CsvRow, as_csv, read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Black and grey are reserved for the CNNs.
_BEST_COLOUR: Final = "#000000"
# If some accuracies are more than this many points below the best, a second panel enlarges the range above that.
_ENLARGED_POINTS: Final = 3.0
# Curves are shifted slightly in x, and the marks of the paper are to the right of them, so that intervals stay visible.
_SHIFT: Final = 1.025
_PAPER_SHIFT: Final = 1.14
_PALE: Final = 0.5
# Longer labels would leave too little room for the curves of a narrow figure; they are placed in its legend.
_LONGEST_LABEL: Final = 14
_MOST_MARKED: Final = 80


class _Look(NamedTuple):
    """The colour and marker of a group of curves."""

    color: str
    marker: str


def accuracy_figure(title: str, panels: Sequence[Panel], width: Width = "screen") -> Figure:
    """Return accuracy against latency; if curves start far below the CNN, each panel has an enlarged copy below it."""
    size = SIZES[width]
    curves = [curve for one in panels for curve in one.curves]
    groups = [group for group in dict.fromkeys(curve.group for curve in curves) if group != BEST]
    looks = {group: _look(index) for index, group in enumerate(groups)} | {BEST: _Look(_BEST_COLOUR, "*")}
    ranges = [_drawn_values(one) for one in panels]
    is_enlarged = any(max(values) - min(values) > 4 * _ENLARGED_POINTS for values in ranges)
    whole, columns = _layout(size, width, len(panels))
    has_legend = width == "column" and any(len(curve.label) > _LONGEST_LABEL for curve in curves)
    with drawing(size):
        height = 0.72 * whole.inches / columns
        figure, grid = _grid(whole, columns, len(panels), height, 0.9, 2 if is_enlarged else 1)
        for one, values, column in zip(panels, ranges, grid, strict=True):
            for row, axes in enumerate(column):
                low = min(values) if row == 0 else max(min(values), max(values) - _ENLARGED_POINTS)
                margin = 0.05 * (max(values) - low) or 0.5
                axes.set_ylim(max(0.0, low - margin), max(values) + margin)
                _draw(axes, one, looks, size)
                if not has_legend:
                    _label(axes, one.curves, looks, size)
                fitting = int(0.8 * size.characters / columns)
                note = textwrap.fill(f"{one.title}: {one.note}", fitting) if row == 0 else f"{one.title}, enlarged"
                axes.set_title(note, loc="left", parse_math=False)
        _finish(figure, title, panels, looks if has_legend else {}, size)
    return figure


def channel_figure(title: str, panels: Sequence[ChannelPanel], quantity: str, width: Width = "screen") -> Figure:
    """Return the values of all channels in descending order, with one panel per layer."""
    size = SIZES[width]
    labels = list(dict.fromkeys(label for one in panels for label in one.values))
    whole, columns = _layout(size, width, len(panels))
    with drawing(size):
        figure, grid = _grid(whole, columns, len(panels), 0.62 * size.inches / columns, 0.6)
        for (axes,), one in zip(grid, panels, strict=True):
            for label, values in one.values.items():
                colour, marker = _look(labels.index(label))
                marked: dict[str, Any] = {
                    "marker": marker if len(values) <= _MOST_MARKED else None,
                    "markersize": 0.7 * size.marker,
                }
                falling = sorted(values, reverse=True)
                axes.plot(range(1, len(values) + 1), falling, color=colour, label=label, **marked)
            axes.set_title(f"{one.title}, {max(map(len, one.values.values()))} channels", loc="left", parse_math=False)
            axes.set_xlabel("channels, largest first")
            axes.set_ylabel(quantity)
            axes.set_ylim(bottom=0)
            plain(axes)
        figure.suptitle(title, x=0.01, ha="left", fontsize=size.text + 1, fontweight="bold", parse_math=False)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2 if width == "column" else 5, frameon=False)
    return figure


def segments(points: Sequence[CurvePoint]) -> Iterator[tuple[CurvePoint, ...]]:
    """Yield runs of consecutive points, by ascending T, that were measured on the same images."""
    for _, found in itertools.groupby(points, key=lambda point: (point.images, point.cnn)):
        yield tuple(found)


def _look(index: int) -> _Look:
    return _Look(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])


def _layout(size: Size, width: Width, count: int) -> tuple[Size, int]:
    """Return the size of a figure of ``count`` panels, and its columns; for a paper the total width is fixed."""
    columns = 1 if width == "column" else min(2, count)
    return size._replace(inches=size.inches * columns * 0.85) if width == "screen" and columns > 1 else size, columns


def _grid(
    size: Size, columns: int, count: int, height: float, margin: float, rows: int = 1
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and the axes of each of its panels: ``rows`` above each other, of this height in inches."""
    bands = -(-count // columns)
    figure = new_figure(size, height * rows * bands + margin)
    axes = figure.subplots(rows * bands, columns, squeeze=False)
    grid = [list(axes[rows * band : rows * (band + 1), column]) for band in range(bands) for column in range(columns)]
    for spare in itertools.chain(*grid[count:]):
        spare.remove()
    return figure, grid[:count]


def _draw(axes: Axes, one: Panel, looks: Mapping[str, _Look], size: Size) -> None:
    if one.paper_cnn is not None:
        axes.axhline(one.paper_cnn, color=CNN_COLOUR, linewidth=0.6 * size.line, linestyle=":", zorder=1)
    _draw_cnn(axes, one, size)
    for index, curve in enumerate(one.curves):
        _draw_curve(axes, curve, looks[curve.group], size, _SHIFT ** (index - (len(one.curves) - 1) / 2))
    ours = {point.timesteps for curve in one.curves for point in curve.ours}
    ticks = sorted(ours | {t for curve in one.curves for t, _ in curve.papers})
    timestep_axis(axes, ticks, ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.set_xlabel("latency T, time steps")
    axes.set_ylabel("accuracy, %")
    plain(axes)


def _draw_cnn(axes: Axes, one: Panel, size: Size) -> None:
    """Draw the CNN's accuracy on the same images, from halfway to the previous T to halfway to the next T."""
    every = sorted({(p.timesteps, p.images, p.cnn): p for curve in one.curves for p in curve.ours}.values())
    most = max((point.images for point in every), default=0)
    for found in segments(every):
        first, ends = found[0], [found[0].timesteps / 2**0.5, found[-1].timesteps * 2**0.5]
        style = "-" if first.images == most else (0, (2, 1))
        axes.plot(ends, [first.cnn] * 2, color=CNN_COLOUR, linewidth=0.7 * size.line, linestyle=style, zorder=1)
        if first.images != most:
            below: dict[str, Any] = {
                "transform": axes.get_xaxis_transform(),
                "fontsize": size.text - 1.5,
                "color": CNN_COLOUR,
            }
            axes.text(ends[0] * 1.05, 0.01, f"n = {first.images:,}", **below)
            axes.axvline(ends[0], color=CNN_COLOUR, linewidth=0.5, alpha=0.5, zorder=0)


def _draw_curve(axes: Axes, curve: Curve, look: _Look, size: Size, shift: float) -> None:
    most = max((point.images for point in curve.ours), default=0)
    for found in segments(curve.ours):
        is_pale = found[0].images != most
        axes.errorbar(
            [shift * point.timesteps for point in found],
            [point.accuracy for point in found],
            [[point.accuracy - point.low for point in found], [point.high - point.accuracy for point in found]],
            **look._asdict(),
            alpha=_PALE if is_pale else 1.0,
            linestyle=":" if is_pale else "--" if curve.is_dashed else "-",
            markersize=0.8 * size.marker,
            elinewidth=0.5 * size.line,
            capsize=0.4 * size.marker,
            zorder=3,
        )
    if curve.papers:
        steps, values = [_PAPER_SHIFT * t for t, _ in curve.papers], [value for _, value in curve.papers]
        hollow: dict[str, Any] = {
            "fillstyle": "none",
            "markersize": 1.1 * size.marker,
            "markeredgewidth": 0.6 * size.line,
        }
        axes.plot(steps, values, **look._asdict(), linestyle="none", zorder=2, **hollow)


def _label(axes: Axes, curves: Sequence[Curve], looks: Mapping[str, _Look], size: Size) -> None:
    """Write each curve's label at its right end; labels that would overlap are moved apart."""
    low, high = axes.get_ylim()
    shown = [curve for curve in curves if curve.ours and curve.ours[-1].accuracy >= low]
    ends = sorted(((min(curve.ours[-1].accuracy, high), curve) for curve in shown), key=lambda end: end[0])
    height = axes.get_position().height * axes.get_figure(root=True).get_size_inches()[1] * 72  # type: ignore[union-attr]
    gap = 1.15 * (size.text - 1) / height
    places: list[float] = []
    for value, _ in ends:
        wanted = (value - low) / (high - low)
        places.append(max(wanted, places[-1] + gap) if places else wanted)
    # Labels that would leave the top of the axes push the others down.
    ceiling = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    beside: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (4, 0), "textcoords": "offset points"}
    beside |= {"fontsize": size.text - 1, "va": "center", "parse_math": False}
    for place, (_, curve) in zip(places, ends, strict=True):
        axes.annotate(curve.label, (1.0, place), color=looks[curve.group].color, **beside)


def _finish(figure: Figure, title: str, panels: Sequence[Panel], looks: Mapping[str, _Look], size: Size) -> None:
    """Add the title and a legend of lines, and of the curves that have ``looks``."""
    from matplotlib.lines import Line2D

    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], **{"color": CNN_COLOUR, "linewidth": size.line, "label": label, **style})

    curves = [curve for one in panels for curve in one.curves]
    dot = {"marker": "o", "markersize": 0.8 * size.marker}
    handles = [line("ours, with 95 % interval", **dot)]
    if any(len(list(segments(curve.ours))) > 1 for curve in curves):
        handles.append(line("ours, on fewer images", **dot, linestyle=":", alpha=_PALE))
    if any(curve.is_dashed for curve in curves):
        handles.append(line("hard reset", linestyle="--"))
    if any(curve.papers for curve in curves):
        handles.append(line("the paper", marker="o", linestyle="none", fillstyle="none"))
    handles.append(line("our CNN, same images", linewidth=0.7 * size.line))
    if any(one.paper_cnn is not None for one in panels):
        handles.append(line("the paper's CNN", linewidth=0.6 * size.line, linestyle=":"))
    if looks:
        for curve in {curve.label: curve for curve in curves}.values():
            dashes = "--" if curve.is_dashed else "-"
            handles.append(line(curve.label, **looks[curve.group]._asdict(), linestyle=dashes))
    characters = figure.get_size_inches()[0] / size.inches * size.characters
    fitted = textwrap.fill(title, int(0.75 * characters))
    figure.suptitle(fitted, x=0.01, ha="left", fontsize=size.text + 1, fontweight="bold", parse_math=False)
    columns = min(4, max(1, int(characters) // 32))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _drawn_values(one: Panel) -> list[float]:
    ours = [value for curve in one.curves for p in curve.ours for value in (p.accuracy, p.cnn)]
    papers = [value for curve in one.curves for _, value in curve.papers]
    return [*([] if one.paper_cnn is None else [one.paper_cnn]), *ours, *papers] or [0.0, 100.0]


BEST: Final = "our best"
"""The label of the best of our methods at each T."""

_BEST_VARIANT: Final = "best"


class TableRow(CsvRow):
    """What figures take from one line of `tables.csv_table`; None where it is empty."""

    data: str
    method: str
    reset: str | None
    alpha: float | None
    timesteps: int | None
    variant: str
    calibration_images: int | None
    test_images: int | None
    training_seed: str | None
    accuracy: float | None
    interval_low: float | None
    interval_high: float | None
    paper_accuracy: float | None
    cnn_accuracy: float | None
    paper_cnn_accuracy: float | None

    @field_validator("*", mode="before")
    @classmethod
    def _empty(cls, text: str) -> str | None:
        return text or None

    @model_validator(mode="after")
    def _whole(self) -> TableRow:
        if self.accuracy is not None and None in (self.interval_low, self.interval_high, self.test_images):
            raise ValueError("an accuracy without its interval or number of images")
        return self


class CurvePoint(NamedTuple):
    """Our accuracy at one T, in %, with its 95 % interval and the CNN's accuracy on the same test images."""

    timesteps: int
    accuracy: float
    low: float
    high: float
    images: int
    cnn: float


@dataclass(frozen=True)
class Curve:
    """One method, or one factor alpha.

    Parameters
    ----------
    label
        Text at the end of the curve, or in the legend.
    group
        Curves of the same group share a colour and a marker in all panels.
    ours
        Our points, by ascending T.
    papers
        The paper's (T, accuracy in %), by ascending T.
    is_dashed
        Whether the line is dashed.
    """

    label: str
    group: str
    ours: tuple[CurvePoint, ...]
    papers: tuple[tuple[int, float], ...] = ()
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves on one data set, in one variant.

    Parameters
    ----------
    title, note
        Text above the panel: its content, and the number of images of the measurement.
    curves
        The curves, in the order of the legend.
    paper_cnn
        Accuracy of the paper's CNN, in %.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    paper_cnn: float | None = None


class ChannelPanel(NamedTuple):
    """The values of all channels of one layer, as several curves: one number per channel, by curve label."""

    title: str
    values: Mapping[str, Sequence[float]]


class MeasuredChannels(NamedTuple):
    """The channels of a cell of the paper in a variant: one value each, by layer name; empty if not measured."""

    cell: paper.Cell
    variant: Variant
    values: Mapping[str, Sequence[float]]


class ChannelCurves(NamedTuple):
    """The data of a figure of channels: one of ``panels`` per layer, the ``quantity`` shown, and the same as CSV."""

    panels: tuple[ChannelPanel, ...]
    quantity: str
    csv_text: str


def read_rows(paths: Iterable[Path], figure: Exhibit) -> list[TableRow]:
    """Return the rows of ``figure`` from CSV tables written by `reproduce`.

    Raises
    ------
    InputError
        If a file cannot be read, or is not such a table.
    """
    wanted = {(cell.data, cell.method, cell.reset, cell.alpha, cell.timesteps) for cell in figure.cells()}
    rows = []
    for path in paths:
        try:
            rows += [row for row, _ in read_csv(path, TableRow)]
        except InputError as error:
            hint = "Give a table that `loihi-convert reproduce` has written."
            raise InputError(error.found, where=path, hint=hint) from error
    return [
        row
        for row in rows
        if row.variant == _BEST_VARIANT or (row.data, row.method, row.reset, row.alpha, row.timesteps) in wanted
    ]


def table_rows(csv_text: str) -> list[TableRow]:
    """Return the rows of a table of `tables.csv_table`."""
    return [TableRow.model_validate_strings(row) for row in csv.DictReader(csv_text.splitlines())]


def panels(rows: Sequence[TableRow], figure: Exhibit, variants: Sequence[str]) -> list[Panel]:
    """Return the panels of ``figure``, one per variant and data set, without those that have no points."""

    def chosen(variant: str, data: str) -> list[TableRow]:
        return [row for row in rows if (row.variant, row.data) == (variant, data)]

    every = dict.fromkeys(row.data for row in rows if row.variant != _BEST_VARIANT)
    found = [
        _panel(f"{data}, {variant}", of, chosen(_BEST_VARIANT, data) if figure.has_best else [], figure)
        for variant in variants
        for data in every
        if (of := chosen(variant, data))
    ]
    return [panel for panel in found if any(curve.ours or curve.papers for curve in panel.curves)]


def channel_values(figure: Exhibit, measured: Sequence[MeasuredChannels]) -> ChannelCurves:
    """Return the firing rate or threshold of every channel, in the order of ``measured``."""
    of_rates = figure.shows == "rates"
    has_several_t = len({one.cell.timesteps for one in measured}) > 1
    has_variants = len({one.variant for one in measured}) > 1
    quantity, column = ("spikes / T", "spikes_per_T") if of_rates else ("threshold", "threshold")
    rows: list[dict[str, object]] = []
    curves: dict[tuple[str, str], dict[str, Sequence[float]]] = {}
    for cell, variant, values in measured:
        names = [cell.method if of_rates else f"T = {cell.timesteps}"]
        names += [variant.name] if has_variants else []
        names += [f"T = {cell.timesteps}"] if of_rates and has_several_t else []
        for layer, numbers in values.items():
            curves.setdefault((layer, cell.data), {})[", ".join(names)] = numbers
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
    drawn = tuple(ChannelPanel(f"{layer}, {data}", values) for (layer, data), values in curves.items())
    return ChannelCurves(drawn, quantity, as_csv(rows).decode())


def _panel(title: str, rows: Sequence[TableRow], bests: Sequence[TableRow], figure: Exhibit) -> Panel:
    by_label: dict[tuple[str, str], list[TableRow]] = {}
    resets: dict[str, set[str | None]] = {}
    for row in rows:
        label, group = _row_label(row, figure)
        by_label.setdefault((label, group), []).append(row)
        resets.setdefault(group, set()).add(row.reset)
    curves = [
        Curve(label, group, _points(of), _papers(of), len(resets[group]) > 1 and of[0].reset == "hard")
        for (label, group), of in by_label.items()
    ]
    if bests:
        curves.append(Curve(BEST, BEST, _points(bests)))
    paper_cnn = next((row.paper_cnn_accuracy for row in rows if row.paper_cnn_accuracy is not None), None)
    return Panel(title, _note(rows), tuple(curves), paper_cnn)


def _row_label(row: TableRow, figure: Exhibit) -> tuple[str, str]:
    """Return the label and the colour group of a row's curve."""
    if figure.curve == "alpha":
        alpha = f"alpha {row.alpha:g}"
        return alpha, alpha
    method = row.method
    return (f"{method}, {row.reset}" if figure.curve == "method and reset" else method), method


def _points(rows: Sequence[TableRow]) -> tuple[CurvePoint, ...]:
    # A cell that appears in two tables is drawn as one point.
    found = {}
    for row in rows:
        point = (row.timesteps, row.accuracy, row.interval_low, row.interval_high, row.test_images, row.cnn_accuracy)
        if None not in point:
            found[row.timesteps] = CurvePoint._make(point)
    return tuple(sorted(found.values()))


def _papers(rows: Sequence[TableRow]) -> tuple[tuple[int, float], ...]:
    return tuple(
        sorted({(r.timesteps, r.paper_accuracy) for r in rows if r.timesteps and r.paper_accuracy is not None})
    )


def _note(rows: Sequence[TableRow]) -> str:
    """Return the number of images and the CNN's training seed of a panel."""
    measured = [(row.timesteps, row.test_images, row) for row in rows if row.timesteps and row.test_images]
    if not measured:
        return "the paper's values only"
    # The smallest T with each number of images.
    since: dict[int, int] = {}
    for steps, count, _ in sorted(measured, key=lambda each: each[0]):
        since.setdefault(count, steps)
    first, *others = since
    some = f" ({', '.join(f'{count:,} from T = {since[count]} on' for count in others)})" if others else ""
    calibration = sorted({row.calibration_images for *_, row in measured if row.calibration_images})
    seeds = sorted({row.training_seed for *_, row in measured if row.training_seed})
    return (
        f"n = {first:,} test images{some}; {' or '.join(f'{n:,}' for n in calibration)} calibration images; "
        f"training seed {' or '.join(seeds)}"
    )
