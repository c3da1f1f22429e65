"""What a picture of accuracy against latency shows: curves, ranges of the axes, ticks; however it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from loihi_convert.records import Interval


class Curve(NamedTuple):
    """What is drawn for one kind of network: per cent at each T, and where its interval ends, if it has one."""

    label: str
    timesteps: tuple[float, ...]
    percent: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def curve(label: str, points: Sequence[tuple[float, float | None, Interval | None]]) -> Curve | None:
    """Return the curve through (T, fraction, its interval) wherever the fraction is known; None where it is nowhere."""
    drawn = [
        (t, 100 * fraction, interval or (fraction, fraction))
        for t, fraction, interval in points
        if fraction is not None
    ]
    if not drawn:
        return None
    return Curve(
        label,
        tuple(t for t, _, _ in drawn),
        tuple(percent for _, percent, _ in drawn),
        tuple(100 * low for _, _, (low, _) in drawn),
        tuple(100 * high for _, _, (_, high) in drawn),
    )


class View(NamedTuple):
    """What a panel shows: from which T on, and the vertical range in per cent."""

    first_timesteps: float
    bottom: float
    top: float


def views(curves: Sequence[Curve], others: Sequence[float], *, span: float = 20.0) -> list[View]:
    """Return one panel with everything; where that hides what happens near the best accuracy, a second one for it.

    ``others``, in per cent, are shown beside the curves at every T; more points than ``span`` hide it.
    """
    first = min(timesteps for curve in curves for timesteps in curve.timesteps)
    lows = [low for curve in curves for low in curve.low]
    highs = [high for curve in curves for high in curve.high]
    lowest, highest = min([*lows, *others]), max([*highs, *others])
    if highest - lowest <= span:
        return [View(first, *_rounded_range(lowest, highest))]
    whole = View(first, *((0.0, 104.0) if highest - lowest > 20 else _rounded_range(lowest, highest)))
    best = max([*(percent for curve in curves for percent in curve.percent), *others])
    near = [
        (timesteps, low)
        for curve in curves
        for timesteps, percent, low in zip(curve.timesteps, curve.percent, curve.low, strict=True)
        if percent >= best - 2
    ]
    if len(near) < 2:
        return [whole]
    bottom = min([*(low for _, low in near), *(value for value in others if value >= best - 2)])
    return [whole, View(min(timesteps for timesteps, _ in near), *_rounded_range(bottom, highest))]


def error_views(curves: Sequence[tuple[Sequence[float], Sequence[float]]], others: Sequence[float]) -> list[View]:
    """Return one panel with everything; where a few large errors hide the rest, a second one for the small ones.

    ``curves`` are T and the error there; ``others`` are errors that are shown at every T.
    """
    points = [(t, error) for timesteps, errors in curves for t, error in zip(timesteps, errors, strict=True)]
    first, best = min(t for t, _ in points), min(error for _, error in points)
    highest = max([*(error for _, error in points), *others])
    whole = View(first, 0.0, 1.06 * highest or 1.0)
    near = [t for t, error in points if error <= 2 * best]
    if highest <= 4 * best or len(near) < 2:
        return [whole]
    shown = [*(error for _, error in points if error <= 2 * best), *(error for error in others if error <= 2 * best)]
    room = 0.08 * (max(shown) - min(shown)) or 0.08 * best
    return [whole, View(min(near), max(0.0, min(shown) - room), max(shown) + room)]


def timestep_ticks(timesteps: Sequence[float], first: float, *, apart: float = 1.25) -> list[float]:
    """Return where a logarithmic axis of T, which begins at ``first``, has labels.

    They are the powers of 2 before the first T of a curve, where early exit may lie, and the T of the curves; of two
    that would touch, less than ``apart`` times each other, the larger keeps its own.
    """
    powers = (2**exponent for exponent in range(math.ceil(math.log2(min(timesteps)))))
    ascending = [timestep for timestep in sorted({*powers, *timesteps}) if timestep >= first / 1.2]
    following = [*ascending[1:], 2 * ascending[-1] * apart]
    return [timestep for timestep, after in zip(ascending, following, strict=True) if after >= apart * timestep]


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    span = max(high - low, 0.5)
    step = 0.1 if span <= 1 else 0.5 if span <= 6 else 1.0
    bottom = max(0.0, (low - 0.08 * span) // step * step)
    # A curve at 100 % still needs room for its markers.
    return bottom, min(high + 0.08 * span, 100 + 0.04 * (100 - bottom))
