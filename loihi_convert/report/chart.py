"""Charts of a page and figures of a run: series of marks over T, work or channels, drawn by matplotlib.

A frame is the visible part of a chart. Series differ in colour and marker, or in their dashes. On a page, CSS variables
replace the colours, each mark has its values in a ``<title>``, and the numbers of a chart are included as CSV.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from markupsafe import Markup, escape

from loihi_convert.report.figure_style import (
    CNN_COLOUR,
    COLOURS,
    GRID_COLOUR,
    MARKERS,
    Size,
    add_legend,
    drawing,
    image_bytes,
    plain,
    timestep_axis,
)
from loihi_convert.runs.columns import csv_bytes

if TYPE_CHECKING:
    import matplotlib.axes

STYLES: Final = len(COLOURS)
"""Colours of series; a ninth series has the colour of the first and another marker."""

PAPER: Final = (-1, -2)
"""Styles of the paper's series: hollow, grey."""

NEUTRAL: Final = -3
"""The style of what belongs to no file, or to several: hollow, in the colour of the text."""

_PAPER_COLOUR: Final = "#777777"
_OTHERS: Final = {-1: (_PAPER_COLOUR, "D"), -2: (_PAPER_COLOUR, "s"), NEUTRAL: (CNN_COLOUR, "o")}
_DASHES: Final = {"solid": "-", "dashed": "--", "dotted": ":", "early": "-.", "": "none"}

_VARIABLES: Final = {
    **{colour.lower(): f"c{index}" for index, colour in enumerate(COLOURS)},
    "#000000": "muted",
    CNN_COLOUR: "text",
    _PAPER_COLOUR: "paper",
    GRID_COLOUR.lower(): "rule",
}
"""The page's CSS variable for each colour of a picture."""

# A caption lists at most this many marks outside the frame; above that, it gives their number.
_NAMED: Final = 3

# A page shows a chart in 320 to 620 CSS pixels, with legible letters.
_PAGE: Final = Size(5.6, 10.0, 1.6, 5.0, 72)

# Marks on a line; it goes through all of them.
_MARKED: Final = 24


class Mark(NamedTuple):
    """One value: its position, its text, the ends of its interval, if it has one, and the key of its row in a table."""

    x: float
    y: float
    text: str = ""
    low: float | None = None
    high: float | None = None
    key: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of its interval, or its value twice."""
        return (self.y, self.y) if self.low is None or self.high is None else (self.low, self.high)


class Series(NamedTuple):
    """A series of marks.

    Parameters
    ----------
    label
        The text in the legend.
    style
        The number of a file, from 0; `PAPER` or `NEUTRAL` for series that do not belong to a file.
    marks
        The marks, in the order in which they are joined.
    line
        The line between marks, a key of `_DASHES`; ``""`` for none.
    has_band
        Whether intervals are drawn as a band instead of bars.
    emphasised
        The x of the enlarged mark: the T that a file is balanced for.
    is_line_only
        Whether only the line is drawn, because other series mark the same points.
    front
        ``"highest"`` or ``"lowest"``: the line joins the marks of the picture that are better than all marks to their
        left; when a reader hides marks, the page draws it again. ``""`` for other series.
    marker
        Instead of the style's, and hollow.
    """

    label: str
    style: int
    marks: tuple[Mark, ...]
    line: str = "solid"
    has_band: bool = False
    emphasised: float | None = None
    is_line_only: bool = False
    front: Literal["", "highest", "lowest"] = ""
    marker: str = ""


CnnLevels = tuple[tuple[float, str], ...]
"""(value of y, label) of horizontal lines: accuracies, or errors, of CNNs."""


class Axes(NamedTuple):
    """The axes of a chart.

    Parameters
    ----------
    x_label, y_label
        Labels with units.
    left, right, bottom, top
        Ranges.
    ticks
        Labelled values of x.
    levels
        The CNN's accuracy, or error.
    last_tick
        The largest labelled y; accuracies cannot exceed 100 %.
    is_linear
        Whether x is linear, instead of logarithmic.
    """

    x_label: str
    y_label: str
    left: float
    right: float
    bottom: float
    top: float
    ticks: tuple[float, ...]
    levels: CnnLevels = ()
    last_tick: float = 100.0
    is_linear: bool = False

    def has(self, x: float, y: float) -> bool:
        """Return whether a point is inside."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top


class Chart(NamedTuple):
    """A chart of a page, with the texts around it."""

    title: str
    text: str
    series: Sequence[Series]
    axes: Axes

    @property
    def caption(self) -> str:
        """The text, and what is outside the frame."""
        return " ".join(text for text in (self.text, outside(self.series, self.axes)) if text)

    @property
    def csv(self) -> str:
        """The numbers of all series, with six digits."""
        rows: list[tuple[object, ...]] = [
            (one.label, *(None if value is None else f"{value:.6g}" for value in (mark.x, mark.y, mark.low, mark.high)))
            for one in self.series
            if not one.is_line_only
            for mark in one.marks
        ]
        rows += [("CNN", None, f"{value:.6g}", None, None) for value, _ in self.axes.levels]
        header = ("series", self.axes.x_label, self.axes.y_label, "interval low", "interval high")
        return csv_bytes(header, rows).decode()

    @property
    def svg(self) -> Markup:
        """The picture; its marks and the lines of CNNs are groups with a title."""
        from matplotlib.figure import Figure

        with drawing(_PAGE):
            figure = Figure(figsize=(_PAGE.inches, 1.0))
            plot = figure.subplots()
            groups = draw(plot, self.series, self.axes)
            # Matplotlib's constrained layout would take twice as long.
            below = 38 + 14 * add_legend(figure, plot, _PAGE)
            figure.set_figheight((below + 210) / 72)
            figure.subplots_adjust(0.11, below / (below + 210), 0.98, 1 - 8 / (below + 210))
            text = image_bytes(figure, "svg", is_for_page=True).decode()
        text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r">\s+<", "><", re.sub(r' (id="[a-zA-Z.]+\d*_\d+|xmlns[:\w]*="[^"]*)"', "", text))
        text = re.sub(r"(?<=(?:fill|roke): )#\w{6}", lambda found: f"var(--{_VARIABLES.get(found[0], 'muted')})", text)
        text = re.sub(r'<g id="front-(\w+)"><path d', r'<g data-front="\1"><path class="line solid" d', text)
        text = re.sub(r'<g id="group-(\d+)">', lambda found: groups[int(found[1])], text)
        label = escape(f"{self.title}. {self.caption}")
        # Matplotlib has escaped every text in it.
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def draw(plot: matplotlib.axes.Axes, series: Sequence[Series], axes: Axes) -> list[str]:
    """Draw ``series`` on ``plot``, and return the tag of each mark or level n of a page, in the picture ``group-n``."""
    from matplotlib.ticker import MaxNLocator

    groups: list[str] = []

    def group(kind: str, title: str, key: str = "") -> str:
        of_row = Markup(' data-key="{}"').format(key) if key else ""
        groups.append(Markup('<g class="{}"{}><title>{}</title>').format(kind, of_row, title))
        return f"group-{len(groups) - 1}"

    for index, (value, label) in enumerate(axes.levels):
        dashes = ((0, (2, 3)), (0, (5, 2)), (0, (1, 1.5)), "-.")[index % 4]
        plot.axhline(value, color=CNN_COLOUR, linewidth=1.1, linestyle=dashes, label=label, zorder=1).set_gid(
            group("level", label)
        )
    labels: set[str] = set()
    for order, one in enumerate(series, 3):
        colour, marker = _OTHERS.get(one.style) or (COLOURS[one.style % STYLES], MARKERS[one.style % len(MARKERS)])
        look: dict[str, Any] = {
            "color": colour,
            "marker": "none" if one.is_line_only else one.marker or marker,
            "zorder": order,
        }
        look |= {"markerfacecolor": "none"} if one.style < 0 or one.marker else {}
        plot.plot(
            [mark.x for mark in one.marks],
            [mark.y for mark in one.marks],
            **look,
            linestyle=_DASHES[one.line],
            markevery=[],
            label=None if one.label in labels else one.label,
            gid=f"front-{one.front}" if one.front else None,
        )
        labels.add(one.label)
        ends = [(mark.x, *mark.ends) for mark in one.marks if mark.low is not None]
        if one.has_band and len(ends) > 1:
            x, low, high = zip(*ends, strict=True)
            plot.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        elif ends:
            x, low, high = zip(*ends, strict=True)
            plot.vlines(x, low, high, color=colour, linewidth=1.2, zorder=order)
        for index, mark in enumerate(() if one.is_line_only else one.marks):
            is_main = mark.x == one.emphasised
            is_shown = is_main or not one.line or index % math.ceil(len(one.marks) / _MARKED) == 0
            if is_shown:
                (drawn,) = plot.plot(mark.x, mark.y, **look, gid=group("mark", mark.text, mark.key))
                drawn.set_markersize(drawn.get_markersize() * (1.5 if is_main else 1))
    if axes.is_linear:
        plot.set(xlim=(axes.left, axes.right), xticks=axes.ticks)
    else:
        timestep_axis(plot, axes.ticks, axes.left, axes.right)
    plot.set_xticklabels(map(tick_label, axes.ticks))
    plot.set(ylim=(axes.bottom, axes.top), xlabel=axes.x_label, ylabel=axes.y_label)
    y_ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(axes.bottom, min(axes.top, axes.last_tick))
    plot.set_yticks([tick for tick in y_ticks if axes.bottom <= tick <= min(axes.top, axes.last_tick)])
    plain(plot)
    return groups


def outside(series: Sequence[Series], axes: Axes) -> str:
    """Return a sentence that lists the marks and levels outside the frame; empty if there are none."""
    hidden = [
        (mark.y, mark.text)
        for one in series
        for mark in one.marks
        if not one.is_line_only and not axes.has(mark.x, mark.y)
    ]
    hidden += [level for level in axes.levels if not axes.bottom <= level[0] <= axes.top]
    if len(hidden) <= _NAMED:
        return f"Outside the frame: {'; '.join(text for _, text in hidden)}." if hidden else ""
    values = [value for value, _ in hidden]
    return f"Outside the frame: {len(hidden)} points ({min(values):.4g} to {max(values):.4g}); its CSV has them."


def timestep_chart(
    title: str,
    text: str,
    series: Sequence[Series],
    levels: CnnLevels,
    measure: str,
    x_label: str = "latency T, time steps",
) -> Chart:
    """Return a chart, in per cent over T. The frame fits the files; marks of the paper may be outside it."""
    return Chart(title, text, series, timestep_axes(series, levels, measure, x_label))


def timestep_axes(
    series: Sequence[Series],
    levels: CnnLevels,
    measure: str,
    x_label: str = "latency T, time steps",
    *,
    is_error: bool = False,
) -> Axes:
    """Return the axes of accuracy or error over T, zoomed to the range near the best file."""
    framing = [one for one in series if one.style >= 0]
    points = [mark for one in framing for mark in one.marks]
    values = [value for value, _ in levels]
    if is_error:
        shown = error_frame(points, values)
    else:
        shown = frame(points, values, {(m.x, m.y) for one in framing for m in one.marks if m.x == one.emphasised})
    steps = sorted({mark.x for one in series for mark in one.marks})
    # An average T is rarely an integer.
    whole = {t for t in steps if t == int(t)}
    whole |= {2.0**exponent for exponent in range(64) if steps[0] <= 2**exponent <= steps[-1]}
    return Axes(
        x_label,
        measure,
        *timestep_range(shown.left, max(steps[-1], 2 * shown.left)),
        shown.bottom,
        shown.top,
        tuple(timestep_ticks(sorted(whole), shown.left)),
        levels,
        last_tick=math.inf if is_error else 100.0,
    )


def channel_chart(
    title: str,
    text: str,
    y_label: str,
    files: Sequence[tuple[str, int, Sequence[float | None]]],
    number: Callable[[float], str] = "{:.3g}".format,
) -> Chart:
    """Return the chart of one value per channel of a layer: (label, style, values) of each file.

    Channels without a value, such as relays, are left out. Those of several files, or of a large layer, are sorted.
    """
    is_sorted = len(files) > 1 or len(files[0][2]) > MAX_UNSORTED
    series = []
    for label, style, values in files:
        known = [(value, channel) for channel, value in enumerate(values) if value is not None]
        if is_sorted:
            known.sort(key=lambda pair: (-pair[0], pair[1]))
        marks = tuple(
            Mark(rank if is_sorted else channel, value, f"{label}, channel {channel}: {number(value)}")
            for rank, (value, channel) in enumerate(known, 1)
        )
        series.append(Series(label, style, marks, "solid" if is_sorted else ""))
    count = max(len(values) for _, _, values in files)
    first, last = (1, count) if is_sorted else (0, count - 1)
    most = max((mark.y for one in series for mark in one.marks), default=0)
    ticks = sorted({*range(first, last + 1, max(1, count // 6)), last})
    margin = 0.03 * count
    axes = Axes(
        "channels, largest first" if is_sorted else "channel",
        y_label,
        *(first - margin, last + margin, 0.0, 1.06 * most or 1.0),
        tuple(ticks),
        last_tick=math.inf,
        is_linear=True,
    )
    return Chart(title, text, series, axes)


MAX_UNSORTED: Final = 64
"""Channels of a file that are shown in their order."""


class Frame(NamedTuple):
    """The visible part of a plot: the smallest x that it is about, and its vertical range."""

    left: float
    bottom: float
    top: float


MARGIN: Final = 1.2
"""A logarithmic axis of T begins at the smallest x divided by this, and ends at the largest times this."""

_APART: Final = 1.25

DEPTH: Final = 4.0
"""Points of accuracy below the best that a picture always shows."""

OWN_DEPTH: Final = 20.0
"""The same for the points that a picture is about: the files at their own T."""


def frame(points: Sequence[Mark], levels: Sequence[float], own: Collection[tuple[float, float]]) -> Frame:
    """Return the frame in which differences near the best accuracy are visible, with the whole interval of each point.

    Points more than `DEPTH` below the best are outside, unless nearly all would be. Points of ``own``, (x, per cent),
    stay inside if they are less than `OWN_DEPTH` below it. ``levels``, in per cent, are shown at every x.
    """
    best = max(point.y for point in points)
    highest = max([*(point.ends[1] for point in points), *levels])
    near = [point for point in points if point.y >= best - (OWN_DEPTH if (point.x, point.y) in own else DEPTH)]
    lowest = min([*(point.ends[0] for point in points), *levels])
    if highest - lowest <= DEPTH:
        near = list(points)
    if len(near) < min(2, len(points)) or highest - best > OWN_DEPTH:
        left = min(point.x for point in points)
        return Frame(left, *((0.0, 104.0) if highest - lowest > OWN_DEPTH else _rounded_range(lowest, highest)))
    bottom = min(point.ends[0] for point in near)
    bottom = min([bottom, *(level for level in levels if level >= best - DEPTH)])
    left = min(point.x for point in near)
    while True:
        shown = _rounded_range(bottom, highest)
        visible = [point for point in points if point.x >= left / MARGIN and point.y >= shown[0]]
        bottom = min(point.ends[0] for point in visible)
        if bottom >= shown[0]:
            return Frame(left, *shown)


def error_frame(points: Sequence[Mark], levels: Sequence[float]) -> Frame:
    """Return the frame in which small errors can be distinguished.

    ``levels`` are errors that are shown at every x. Errors of more than twice the smallest are outside if they would
    hide the others.
    """
    first, best = min(point.x for point in points), min(point.y for point in points)
    highest = max([*(point.y for point in points), *levels])
    near = [point for point in points if point.y <= 2 * best]
    if highest <= 4 * best or len(near) < 2 or best == 0:
        return Frame(first, 0.0, 1.06 * highest or 1.0)
    shown = [*(point.y for point in near), *(error for error in levels if error <= 2 * best)]
    room = 0.08 * (max(shown) - min(shown)) or 0.08 * best
    return Frame(min(point.x for point in near), max(0.0, min(shown) - room), max(shown) + room)


def timestep_range(left: float, last: float) -> tuple[float, float]:
    """Return where a logarithmic axis of T begins and ends: one that is about T from ``left`` to ``last``."""
    return left / MARGIN, last * MARGIN


def timestep_ticks(timesteps: Sequence[float], first: float) -> list[float]:
    """Return the labelled T of a logarithmic axis that begins at ``first``.

    Labels are the T of the curves, and the powers of 2 before their first T, where early exit may be. If the ratio of
    two T is less than `_APART`, their labels would overlap and only the larger is kept.
    """
    powers = (2**exponent for exponent in range(math.ceil(math.log2(min(timesteps)))))
    ascending = [timestep for timestep in sorted({*powers, *timesteps}) if timestep >= first / MARGIN]
    following = [*ascending[1:], math.inf]
    return [timestep for timestep, after in zip(ascending, following, strict=True) if after >= _APART * timestep]


def decade_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, ... within a range, or other round values if the range is too short."""
    from matplotlib.ticker import MaxNLocator

    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    even = [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)]
    return ticks if len(ticks) > 1 else [tick for tick in even if low <= tick <= high]


def tick_label(number: float) -> str:
    """Return a short label for a tick: 64, 0.5, 20 k, 1.5 M."""
    for exponent, unit in ((9, " G"), (6, " M"), (3, " k")):
        if abs(number) >= 10**exponent and (exponent > 3 or abs(number) >= 10_000):
            return f"{number / 10**exponent:.6g}{unit}"
    return f"{number:.6g}"


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    span = max(high - low, 0.5)
    step = 0.1 if span <= 1 else 0.5 if span <= 6 else 1.0
    bottom = max(0.0, (low - 0.08 * span) // step * step)
    # A curve at 100 % needs room for its markers.
    return bottom, min(high + 0.08 * span, 100 + 0.04 * (100 - bottom))
