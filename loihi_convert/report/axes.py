"""What a chart over T shows upwards: accuracy, agreement with the CNN, or the error of a regression."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple

from loihi_convert.metrics.early_exit import ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import means
from loihi_convert.report.chart import Axes, Chart, CnnLevels, Mark, Series
from loihi_convert.report.table import count, number, percent, percent_ends, r_squared


class Measure(NamedTuple):
    """A measure, in the unit of its axis: per cent, or the CNN's unit.

    ``is_error``: of regressions. ``is_judged``: all files have labels or targets; else the CNN takes their place.
    """

    is_error: bool
    is_judged: bool

    @property
    def label(self) -> str:
        """The label of the axis."""
        if self.is_error:
            return "RMSE, in the CNN's units" if self.is_judged else "RMSE to the CNN's outputs"
        return "accuracy, %" if self.is_judged else "agreement with the CNN's class, %"

    def words(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{number(value)}" if self.is_error else f"{value:.2f} %"

    def cnn(self, evaluation: Evaluation) -> float | None:
        """Return the value of the CNN, if it is known and can be compared."""
        if not self.is_judged:
            return None
        return evaluation.cnn_rmse if self.is_error else _in_percent(evaluation.cnn_accuracy)

    def marks(
        self,
        label: str,
        evaluation: Evaluation,
        points: Iterable[Point],
        x: Callable[[Point], float] = lambda point: point.timesteps,
    ) -> tuple[Mark, ...]:
        """Return the known values of the integer network; ``label`` begins their texts."""
        return tuple(mark for point in points if (mark := self._mark(label, evaluation, point, x(point))) is not None)

    def _mark(self, label: str, evaluation: Evaluation, point: Point, x: float) -> Mark | None:
        at = f"{label}, T = {point.timesteps}: " if label else f"T = {point.timesteps}: "
        if evaluation.regression is not None:
            errors = evaluation.regression.at(point.timesteps)
            rmse, r2 = means(errors.to_targets if self.is_judged else errors.to_cnn)
            known = f"{at}RMSE {number(rmse)}, R^2 {r_squared(r2) or 'unknown'}"
            return None if rmse is None or not self.is_error else Mark(x, rmse, known)
        fraction = point.accuracy if self.is_judged else point.agreement_with_cnn
        if fraction is None:
            return None
        text = f"{at}{percent(fraction)} %, {count(point.synaptic_operations)} SynOps an image"
        return Mark(x, 100 * fraction, text, *percent_ends(point.accuracy_interval if self.is_judged else None))

    def floats(self, evaluation: Evaluation, points: Iterable[Point]) -> tuple[Mark, ...]:
        """Return the known values of the float SNN, which has none beside the CNN's."""
        regression, marks = evaluation.regression, []
        for point in points if self.is_judged else ():
            value = _in_percent(point.float_accuracy)
            if regression is not None:
                value = means(regression.at(point.timesteps).float_to_targets)[0]
            if value is not None:
                marks.append(Mark(point.timesteps, value, f"float SNN, T = {point.timesteps}: {self.words(value)}"))
        return tuple(marks)

    def exit(self, point: ExitPoint) -> tuple[Mark, ...]:
        """Return early exit at its average T, if its value is known."""
        value = _in_percent(point.accuracy if self.is_judged else point.agreement_with_cnn)
        text = f"early exit, average T {point.average_timesteps:.2f}: "
        return () if value is None else (Mark(point.average_timesteps, value, text + self.words(value)),)


def _in_percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def measure_of(evaluations: Sequence[Evaluation]) -> Measure:
    """Return the measure by which files on the same images are compared."""
    return Measure(
        is_error=all(evaluation.regression is not None for evaluation in evaluations),
        is_judged=all(evaluation.is_judged for evaluation in evaluations),
    )


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


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    span = max(high - low, 0.5)
    step = 0.1 if span <= 1 else 0.5 if span <= 6 else 1.0
    bottom = max(0.0, (low - 0.08 * span) // step * step)
    # A curve at 100 % needs room for its markers.
    return bottom, min(high + 0.08 * span, 100 + 0.04 * (100 - bottom))
