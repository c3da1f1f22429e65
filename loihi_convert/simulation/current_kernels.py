"""The loops that look for the largest current. Called by `largest_currents.py` alone.

Axes as in `currents.py`; spikes are bytes.
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def _exceeds(current: Array, unit: Array, most_lost: Array, bar: Array, upper: Array) -> bool:
    """Whether any channel's upper bound exceeds its bar; ``current`` holds the number of spikes after its channels."""
    half = np.float32(0.5) * current[unit.size]
    # More than what float32 rounds here.
    slack = np.float32(2.0**-20)
    seen = False
    for channel in range(unit.size):
        rounded, lost = unit[channel] * current[channel], unit[channel] * half
        lost = most_lost[channel] if lost > most_lost[channel] else lost
        upper[channel] = rounded + lost + slack * (np.abs(rounded) + lost + np.abs(bar[channel]))
        seen |= upper[channel] > bar[channel]
    return seen


@compiled(fastmath={"reassoc"})
def _dot_of_bytes(values: Array, weights: Array) -> float:
    total = 0.0
    for index in range(values.size):
        total += float(values[index]) * float(weights[index])
    return total


@compiled()
def _current(maps: Array, kernel: Array, top: int, left: int, dilation: tuple[int, int]) -> float:
    """Of a neuron whose kernel, ``(K_h, K_w, C)``, begins at a pixel of ``maps``, ``(H, W, C)``, or in the padding."""
    total = 0.0
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            y, x = top + row * dilation[0], left + column * dilation[1]
            if 0 <= y < maps.shape[0] and 0 <= x < maps.shape[1]:
                total += _dot_of_bytes(maps[y, x], kernel[row, column])
    return total


@compiled()
def _received(largest: Array, biases: Array, channel: int, channels: int) -> float:
    """The most that any neuron of a channel has received, with the bias."""
    received = np.float32(-np.inf)
    for neuron in range(channel, largest.size, channels):
        received = max(received, largest[neuron] + biases[neuron])
    return float(received)


@compiled()
def _set_bars(bars: Array, received: float, biases: Array, channel: int, channels: int) -> None:
    """What a current must exceed so that its channel receives more than ``received``."""
    for neuron in range(channel, bars.size, channels):
        bars[neuron] = received - biases[neuron]


@compiled()
def raise_to_largest(
    rounded: Array, width: int, inputs: Array, kernel: Array, stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], unit: Array, most_lost: Array, biases: Array, largest: Array,
) -> None:  # fmt: skip
    """See `largest_currents._Bounds.highest`; raises ``largest``, ``(positions x channels,)``."""
    channels = unit.size
    positions = largest.size // channels
    bars, upper = np.empty_like(largest), np.empty_like(unit)
    for channel in range(channels if positions else 0):
        received = _received(largest, biases, channel, channels)
        if received == -np.inf:
            # Begin high, or at first almost every current would exceed those before it.
            best = int(np.argmax(rounded[:, :, channel]))
            image, position = best // positions, best % positions
            top, left = position // width * stride[0] - padding[0], position % width * stride[1] - padding[1]
            neuron = position * channels + channel
            largest[neuron] = _current(inputs[image], kernel[channel], top, left, dilation)
            received = largest[neuron] + biases[neuron]
        _set_bars(bars, received, biases, channel, channels)
    for image in range(len(inputs)):
        for position in range(positions):
            first = position * channels
            bar = bars[first : first + channels]
            if _exceeds(rounded[image, position], unit, most_lost, bar, upper):
                top, left = position // width * stride[0] - padding[0], position % width * stride[1] - padding[1]
                for channel in range(channels):
                    if upper[channel] > bar[channel]:
                        current = _current(inputs[image], kernel[channel], top, left, dilation)
                        if current > largest[first + channel]:
                            largest[first + channel] = current
                            received = _received(largest, biases, channel, channels)
                            _set_bars(bars, received, biases, channel, channels)
