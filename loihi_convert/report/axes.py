"""Points, axis ranges and ticks of plots, most of accuracy against latency, independent of the drawing library."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from loihi_convert.statistics import Interval


class FramePoint(NamedTuple):
    """A point of a plot: per cent at x, and the ends of its interval (equal to the value if it has none)."""

    x: float
    percent: float
    low: float
    high: float


def frame_points(found: Iterable[tuple[float, float | None, Interval | None]]) -> list[FramePoint]:
    """Return the points of all (x, fraction, interval) with a known fraction."""
    known = ((x, fraction, interval or (fraction, fraction)) for x, fraction, interval in found if fraction is not None)
    return [FramePoint(x, 100 * fraction, 100 * low, 100 * high) for x, fraction, (low, high) in known]


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


def frame(points: Sequence[FramePoint], levels: Sequence[float], own: Collection[tuple[float, float]]) -> Frame:
    """Return the frame in which differences near the best accuracy are visible, with the whole interval of each point.

    Points more than `DEPTH` below the best are outside, unless nearly all would be. Points of ``own``, (x, per cent),
    stay inside if they are less than `OWN_DEPTH` below it. ``levels``, in per cent, are shown at every x.
    """
    best = max(point.percent for point in points)
    highest = max([*(point.high for point in points), *levels])
    near = [
        point for point in points if point.percent >= best - (OWN_DEPTH if (point.x, point.percent) in own else DEPTH)
    ]
    lowest = min([*(point.low for point in points), *levels])
    if highest - lowest <= DEPTH:
        near = list(points)
    if len(near) < min(2, len(points)) or highest - best > OWN_DEPTH:
        left = min(point.x for point in points)
        return Frame(left, *((0.0, 104.0) if highest - lowest > OWN_DEPTH else _rounded_range(lowest, highest)))
    bottom = min(point.low for point in near)
    bottom = min([bottom, *(level for level in levels if level >= best - DEPTH)])
    left = min(point.x for point in near)
    while True:
        shown = _rounded_range(bottom, highest)
        visible = [point for point in points if point.x >= left / MARGIN and point.percent >= shown[0]]
        bottom = min(point.low for point in visible)
        if bottom >= shown[0]:
            return Frame(left, *shown)


def error_frame(curves: Sequence[tuple[Sequence[float], Sequence[float]]], levels: Sequence[float]) -> Frame:
    """Return the frame in which small errors can be distinguished.

    ``curves`` are T and the error at T; ``levels`` are errors that are shown at every T. Errors of more than twice the
    smallest are outside if they would hide the others.
    """
    points = [(t, error) for timesteps, errors in curves for t, error in zip(timesteps, errors, strict=True)]
    first, best = min(t for t, _ in points), min(error for _, error in points)
    highest = max([*(error for _, error in points), *levels])
    near = [t for t, error in points if error <= 2 * best]
    if highest <= 4 * best or len(near) < 2 or best == 0:
        return Frame(first, 0.0, 1.06 * highest or 1.0)
    shown = [*(error for _, error in points if error <= 2 * best), *(error for error in levels if error <= 2 * best)]
    room = 0.08 * (max(shown) - min(shown)) or 0.08 * best
    return Frame(min(near), max(0.0, min(shown) - room), max(shown) + room)


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


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return between 1 and ``most`` evenly spaced round values within ``low``..``high``."""
    span = high - low
    if not span > 0:
        return [low]
    magnitude = 10 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * magnitude
        ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(ticks) <= most:
            break
    return ticks or [low]


def decade_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, ... within a range, or other round values if the range is too short."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return ticks if len(ticks) >= 2 else [tick for tick in nice_ticks(low, high, 4) if tick > 0]


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
