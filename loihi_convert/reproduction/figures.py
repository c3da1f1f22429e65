"""The paper's figures from our numbers, its printed numbers beside them, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loihi_convert.report import paper
from loihi_convert.reproduction.tables import BestEntry, Entry

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart by every kind of colour vision; black and grey are the CNNs'.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#6A3D9A")
_CNN_COLOUR: Final = "#444444"
_BEST_COLOUR: Final = "#000000"
_BEST: Final = "best of ours"
_PANEL_WIDTH: Final = 5.6
_PANEL_HEIGHT: Final = 3.6
# Of the legend, by the columns of panels.
_LEGEND_COLUMNS: Final = (3, 5, 7)
# A second panel shows what lies so many points, at most, below the best accuracy, if some of it lies deeper.
_ENLARGED_POINTS: Final = 3.0


@dataclass(frozen=True)
class Curve:
    """Ours as a line, the paper's as hollow markers of the same colour.

    Parameters
    ----------
    label
        In the legend.
    group
        Curves of one group have one colour, in all panels.
    ours, papers
        (T, accuracy in %), ascending.
    is_dashed
        Whether the line is.
    """

    label: str
    group: str
    ours: tuple[tuple[int, float], ...]
    papers: tuple[tuple[int, float], ...] = ()
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves on one data set, in one variant.

    Parameters
    ----------
    title
        Above it.
    curves
        In the order of the legend.
    cnn, paper_cnn
        Accuracies of our CNN and of the paper's, in %.
    """

    title: str
    curves: tuple[Curve, ...]
    cnn: float | None = None
    paper_cnn: float | None = None


@dataclass(frozen=True)
class ChannelPanel:
    """A value of each channel of one layer, in several curves.

    Parameters
    ----------
    title
        Above it.
    values
        By label: one number for each channel.
    """

    title: str
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)


def panel(
    title: str,
    entries: Sequence[Entry],
    bests: Sequence[BestEntry],
    labels: Mapping[paper.Cell, tuple[str, str]],
) -> Panel:
    """Return the panel of entries of one data set in one variant, a curve for each of their labels.

    Of two curves in one group that with hard reset is dashed.
    """
    resets: dict[str, set[str | None]] = {}
    for entry in entries:
        resets.setdefault(labels[entry.cell][1], set()).add(entry.cell.reset)
    curves = []
    for label, group in dict.fromkeys(labels[entry.cell] for entry in entries):
        of_it = sorted(
            (e for e in entries if labels[e.cell] == (label, group)), key=lambda entry: entry.cell.timesteps or 0
        )
        curves.append(
            Curve(
                label,
                group,
                _points([(entry.cell.timesteps, entry.accuracy) for entry in of_it]),
                _points([(entry.cell.timesteps, entry.cell.accuracy) for entry in of_it]),
                is_dashed=len(resets[group]) > 1 and of_it[0].cell.reset == "hard",
            )
        )
    if bests:
        ascending = sorted(bests, key=lambda one: one.cell.timesteps or 0)
        curves.append(
            Curve(_BEST, _BEST, _points([(one.cell.timesteps, one.best.outcome.accuracy) for one in ascending]))
        )
    cnn = max(entries, key=lambda entry: entry.cnn.images).cnn.accuracy if entries else None
    known = next(
        (c.accuracy for c in paper.table("headline") if (c.data, c.method) == (_data(entries), paper.CNN)), None
    )
    return Panel(title, tuple(curves), cnn, known)


def accuracy_figure(title: str, panels: Sequence[Panel]) -> Figure:
    """Return accuracy against latency; where curves start far below the CNN, each panel again, enlarged, below it."""
    # The object API: pyplot would choose a window system, and keeps every figure alive.
    from matplotlib.figure import Figure

    groups = [group for group in dict.fromkeys(curve.group for one in panels for curve in one.curves) if group != _BEST]
    colours = {group: _COLOURS[index % len(_COLOURS)] for index, group in enumerate(groups)}
    colours[_BEST] = _BEST_COLOUR
    heights = [_drawn_values(one) for one in panels]
    is_enlarged = any(max(values) - min(values) > 4 * _ENLARGED_POINTS for values in heights)
    rows = 2 if is_enlarged else 1
    figure = Figure(figsize=(_PANEL_WIDTH * len(panels) + 0.6, _PANEL_HEIGHT * rows + 1.3), layout="constrained")
    grid = figure.subplots(rows, len(panels), squeeze=False)
    for column, (one, values) in enumerate(zip(panels, heights, strict=True)):
        for row in range(rows):
            axes = grid[row][column]
            _draw(axes, one, colours)
            low = min(values) if row == 0 else max(min(values), max(values) - _ENLARGED_POINTS)
            margin = 0.05 * (max(values) - low) or 0.5
            axes.set_ylim(max(0.0, low - margin), max(values) + margin)
            axes.set_title(one.title if row == 0 else f"{one.title}, enlarged", loc="left", fontsize=9)
            if column == 0:
                axes.set_ylabel("accuracy, %")
        grid[-1][column].set_xlabel("latency T, time steps")
    _finish(figure, title, [axes for line in grid for axes in line], len(panels))
    return figure


def channel_figure(title: str, panels: Sequence[ChannelPanel], quantity: str) -> Figure:
    """Return a value of every channel, a panel for each layer."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for one in panels for label in one.values))
    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(labels)}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL_WIDTH * columns + 0.6, _PANEL_HEIGHT * rows + 1.0), layout="constrained")
    grid = [axes for line in figure.subplots(rows, columns, squeeze=False) for axes in line]
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, one in zip(grid, panels, strict=False):
        for label, values in one.values.items():
            axes.plot(
                range(len(values)),
                values,
                color=colours[label],
                linewidth=1.2,
                marker="o" if len(values) <= 80 else None,
                markersize=3,
                label=label,
            )
        axes.set_title(one.title, loc="left", fontsize=9)
        axes.set_xlabel("channel")
        axes.set_ylabel(quantity)
        axes.set_ylim(bottom=0)
        _plain(axes)
    _finish(figure, title, grid[: len(panels)], columns)
    return figure


def _draw(axes: Axes, one: Panel, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    for accuracy, label, style in ((one.cnn, "our CNN", "-"), (one.paper_cnn, "the paper's CNN", ":")):
        if accuracy is not None:
            axes.axhline(accuracy, color=_CNN_COLOUR, linewidth=1.1, linestyle=style, label=label, zorder=1)
    for curve in one.curves:
        colour = colours[curve.group]
        style = "--" if curve.is_dashed else "-"
        axes.plot(*_axes(curve.ours), color=colour, linestyle=style, linewidth=1.7, marker=".", label=curve.label)
        if curve.papers:
            axes.plot(*_axes(curve.papers), color=colour, linestyle="none", marker="o", markersize=7, fillstyle="none")
    # Its own line in the legend, whatever the colour.
    if any(curve.papers for curve in one.curves):
        axes.plot(
            [], [], color=_CNN_COLOUR, linestyle="none", marker="o", fillstyle="none", label="the paper's numbers"
        )
    ticks = sorted({timesteps for curve in one.curves for timesteps, _ in (*curve.ours, *curve.papers)})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, title: str, drawn: Sequence[Axes], columns: int) -> None:
    """Title, and one legend with each label once."""
    known: dict[str, Artist] = {}
    for axes in drawn:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            known.setdefault(label, handle)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    if known:
        figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower center",
            ncols=_LEGEND_COLUMNS[min(columns, len(_LEGEND_COLUMNS)) - 1],
            frameon=False,
            fontsize=9,
        )


def _drawn_values(one: Panel) -> list[float]:
    found = [value for curve in one.curves for _, value in (*curve.ours, *curve.papers)]
    return [*found, *(value for value in (one.cnn, one.paper_cnn) if value is not None)] or [0.0, 100.0]


def _points(pairs: Sequence[tuple[int | None, float | None]]) -> tuple[tuple[int, float], ...]:
    return tuple((t, value) for t, value in pairs if t is not None and value is not None)


def _axes(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [timesteps for timesteps, _ in points], [value for _, value in points]


def _data(entries: Sequence[Entry]) -> str | None:
    return entries[0].cell.data if entries else None
