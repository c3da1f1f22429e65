"""The loops of a QCFS activation, and of the neurons in its place, forward and backward."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def quantize_clip_floor_shift(x: Array, threshold: Array, levels: float, y: Array) -> None:
    """See `qcfs.Qcfs`; ``x`` and ``y`` are float32 ``(rows, C)``."""
    for row in range(len(x)):
        for channel in range(len(threshold)):
            share = x[row, channel] / threshold[channel]
            share = np.float32(1) if share > np.float32(1) else share
            share = np.float32(0) if share < np.float32(0) else share
            step = np.floor(share * levels + np.float32(0.5))
            y[row, channel] = (levels if step > levels else step) / levels * threshold[channel]


@compiled()
def quantize_clip_floor_shift_backward(
    x: Array, threshold: Array, levels: float, slope: Array, x_slope: Array, threshold_slope: Array
) -> None:
    """Gradients as if it did not floor; adds to ``threshold_slope``, float64 ``(C,)``."""
    sums = np.zeros(len(threshold), np.float32)
    for first in range(0, len(x), 256):
        for row in range(first, min(first + 256, len(x))):
            _add_slopes(x[row], threshold, levels, slope[row], x_slope[row], sums)
        for channel in range(len(threshold)):
            threshold_slope[channel] += sums[channel]
            sums[channel] = 0


@compiled()
def _add_slopes(x: Array, threshold: Array, levels: float, slope: Array, x_slope: Array, sums: Array) -> None:
    for channel in range(x.size):
        share = x[channel] / threshold[channel]
        clipped = np.float32(1) if share > np.float32(1) else share
        clipped = np.float32(0) if clipped < np.float32(0) else clipped
        inside = np.float32(1) if clipped == share else np.float32(0)
        step = np.floor(clipped * levels + np.float32(0.5))
        step = levels if step > levels else step
        x_slope[channel] = slope[channel] * inside
        sums[channel] += slope[channel] * (step / levels - share * inside)


@compiled()
def integrate_and_fire(currents: Array, threshold: Array, spikes: Array, rate: Array) -> None:
    """See `through_spikes.SpikingQcfs`; float32 ``(T or 1, rows, C)``, ``(C,)``, ``(T, rows, C)`` and ``(rows, C)``."""
    timesteps, is_constant = len(spikes), len(currents) == 1
    potential = np.empty(len(threshold), np.float32)
    for row in range(len(rate)):
        for channel in range(len(threshold)):
            potential[channel] = threshold[channel] * np.float32(0.5)
            rate[row, channel] = 0
        for step in range(timesteps):
            current, spike = currents[0 if is_constant else step, row], spikes[step, row]
            for channel in range(len(threshold)):
                reached = potential[channel] + current[channel]
                spike[channel] = threshold[channel] if reached >= threshold[channel] else np.float32(0)
                potential[channel] = reached - spike[channel]
                rate[row, channel] += spike[channel]
        for channel in range(len(threshold)):
            rate[row, channel] /= np.float32(timesteps)


@compiled()
def rate_backward(
    x: Array, threshold: Array, rate: Array, slope: Array, x_slope: Array, threshold_slope: Array
) -> None:
    """Gradients of ``rate`` as if it were a clipped ``x``; all ``(rows, C)``, float64 ``threshold_slope`` ``(C,)``."""
    for row in range(len(x)):
        for channel in range(len(threshold)):
            share = x[row, channel] / threshold[channel]
            inside = np.float32(1) if 0 <= share <= 1 else np.float32(0)
            x_slope[row, channel] = slope[row, channel] * inside
            threshold_slope[channel] += slope[row, channel] * (rate[row, channel] / threshold[channel] - share * inside)
