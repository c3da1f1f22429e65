"""Compiled forward and backward loops of the QCFS activation and of the spiking neurons that replace it.

Those of training compute the rows ``begin`` to ``end``, so that threads can share them.
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def _clipped(share: np.float32) -> np.float32:
    share = np.float32(1) if share > np.float32(1) else share
    return np.float32(0) if share < np.float32(0) else share


@compiled()
def _level(clipped: np.float32, levels: np.float32) -> np.float32:
    step = np.floor(clipped * levels + np.float32(0.5))
    return (levels if step > levels else step) / levels


@compiled()
def quantize_clip_floor_shift(x: Array, threshold: Array, levels: np.float32, y: Array, begin: int, end: int) -> None:
    """Write the activation of ``x`` to ``y``, see `qcfs.Qcfs`; both are float32 ``(rows, C)``."""
    for row in range(begin, end):
        for channel in range(len(threshold)):
            share = x[row, channel] / threshold[channel]
            y[row, channel] = _level(_clipped(share), levels) * threshold[channel]


@compiled()
def quantize_or_rectify(maps: Array, thresholds: Array, levels: np.float32) -> None:
    """Apply the activation to ``maps`` in place, and ReLU in channels whose threshold is NaN. A NaN in ``maps`` stays.

    A loop of its own: given the same array twice, `quantize_clip_floor_shift` would not be vectorized.
    """
    for row in range(len(maps)):
        for channel in range(len(thresholds)):
            value, threshold = maps[row, channel], thresholds[channel]
            positive = np.float32(0) if value < np.float32(0) else value
            stepped = _level(_clipped(value / threshold), levels) * threshold
            maps[row, channel] = positive if np.isnan(threshold) else stepped


@compiled()
def quantize_clip_floor_shift_backward(
    x: Array,
    threshold: Array,
    levels: np.float32,
    slope: Array,
    x_slope: Array,
    threshold_slope: Array,
    begin: int,
    end: int,
) -> None:
    """Compute gradients that treat the floor as the identity; add to ``threshold_slope``, float64 ``(C,)``."""
    sums = np.zeros(len(threshold), np.float32)
    for first in range(begin, end, 256):
        for row in range(first, min(first + 256, end)):
            _add_slopes(x[row], threshold, levels, slope[row], x_slope[row], sums)
        for channel in range(len(threshold)):
            threshold_slope[channel] += sums[channel]
            sums[channel] = 0


@compiled()
def _add_slopes(x: Array, threshold: Array, levels: np.float32, slope: Array, x_slope: Array, sums: Array) -> None:
    for channel in range(x.size):
        share = x[channel] / threshold[channel]
        clipped = _clipped(share)
        inside = np.float32(1) if clipped == share else np.float32(0)
        x_slope[channel] = slope[channel] * inside
        sums[channel] += slope[channel] * (_level(clipped, levels) - share * inside)


@compiled()
def integrate_and_fire(
    currents: Array, threshold: Array, potentials: Array, spikes: Array, begin: int, end: int
) -> None:
    """Simulate the neurons of `through_spikes`: write ``potentials`` before the reset, and ``spikes``.

    All arrays are float32: ``currents`` ``(T or 1, rows, C)``, ``threshold`` ``(C,)``, the other two ``(T, rows, C)``.
    """
    is_constant = len(currents) == 1
    for row in range(begin, end):
        for step in range(len(spikes)):
            current, reached, spike = (
                currents[0 if is_constant else step, row],
                potentials[step, row],
                spikes[step, row],
            )
            before, left = potentials[max(0, step - 1), row], spikes[max(0, step - 1), row]
            for channel in range(len(threshold)):
                start = before[channel] - left[channel] if step else threshold[channel] * np.float32(0.5)
                reached[channel] = start + current[channel]
                spike[channel] = threshold[channel] if reached[channel] >= threshold[channel] else np.float32(0)


@compiled()
def integrate_and_fire_backward(
    threshold: Array,
    potentials: Array,
    slopes: Array,
    current_slopes: Array,
    threshold_slope: Array,
    begin: int,
    end: int,
) -> None:
    """Write the gradients of `integrate_and_fire` to ``current_slopes``; add to ``threshold_slope``.

    ``current_slopes`` is float32 ``(T or 1, rows, C)``, ``threshold_slope`` float64 ``(C,)``. The derivative of a spike
    with respect to its potential is 1 within half a threshold of the threshold, and 0 elsewhere. The potential that
    remains after a step carries gradients to later steps.
    """
    is_constant = len(current_slopes) == 1
    half = np.float32(0.5)
    carried = np.empty(len(threshold), np.float32)
    for row in range(begin, end):
        carried[:] = 0
        if is_constant:
            current_slopes[0, row, :] = 0
        for step in range(len(potentials) - 1, -1, -1):
            reached, slope = potentials[step, row], slopes[step, row]
            found = current_slopes[0 if is_constant else step, row]
            for channel in range(len(threshold)):
                distance = reached[channel] - threshold[channel]
                fires = np.float32(1) if distance >= 0 else np.float32(0)
                near = np.float32(1) if abs(distance) < half * threshold[channel] else np.float32(0)
                # A spike also lowers the remaining potential.
                spike_slope = slope[channel] - carried[channel]
                threshold_slope[channel] += spike_slope * (fires - near)
                carried[channel] += spike_slope * near
                found[channel] = carried[channel] + (found[channel] if is_constant else np.float32(0))
        for channel in range(len(threshold)):
            threshold_slope[channel] += half * carried[channel]
