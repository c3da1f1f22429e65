"""What a chart shows: series of marks, and axes whose ranges and ticks make their differences visible."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple


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
        The number of a file, from 0; `chart.PAPER` or `chart.NEUTRAL` for series that do not belong to a file.
    marks
        The marks, in the order in which they are joined.
    line
        The line between marks, a key of `chart.DASHES`; ``""`` for none.
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


def tick_label(number: float) -> str:
    """Return a short label for a tick: 64, 0.5, 20 k, 1.5 M."""
    for exponent, unit in ((9, " G"), (6, " M"), (3, " k")):
        if abs(number) >= 10**exponent and (exponent > 3 or abs(number) >= 10_000):
            return f"{number / 10**exponent:.6g}{unit}"
    return f"{number:.6g}"


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
    """Return the labelled T of a logarithmic axis: those of the curves, and the powers of 2 before them.

    Of two T whose ratio is less than `_APART`, only the larger is labelled.
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


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    span = max(high - low, 0.5)
    step = 0.1 if span <= 1 else 0.5 if span <= 6 else 1.0
    bottom = max(0.0, (low - 0.08 * span) // step * step)
    # A curve at 100 % needs room for its markers.
    return bottom, min(high + 0.08 * span, 100 + 0.04 * (100 - bottom))
