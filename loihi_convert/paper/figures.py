"""The paper's figures as matplotlib figures, with our measurements and the paper's printed numbers.

Each point is compared with the CNN's accuracy on the same images. Where the number of test images changes with T, the
curve and the CNN's line are interrupted; the part measured on fewer images is dotted and pale.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loihi_convert.paper.panels import BEST, ChannelPanel, Curve, CurvePoint, Panel
from loihi_convert.report.figure_style import (
    CNN_COLOUR,
    COLOURS,
    MARKERS,
    SIZES,
    Size,
    Width,
    drawing,
    new_figure,
    plain,
    timestep_axis,
)

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
