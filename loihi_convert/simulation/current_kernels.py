"""Loops that find the largest current. Called only by `largest_currents.py`.

Axes as in `currents.py`; spikes are bytes.
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def _exceeds(
    current: Array, count: float, unit: Array, most_lost: Array, most: Array, bar: Array, upper: Array
) -> bool:  # fmt: skip
    """Whether any channel's upper bound exceeds its bar; ``count`` is the number of spikes."""
    half = np.float32(0.5) * count
    # Exceeds the rounding error of float32 here.
    slack = np.float32(2.0**-20)
    seen = False
    for channel in range(unit.size):
        rounded, lost = unit[channel] * current[channel], unit[channel] * half
        lost = most_lost[channel] if lost > most_lost[channel] else lost
        bound = rounded + lost + slack * (np.abs(rounded) + lost + np.abs(bar[channel]))
        upper[channel] = most[channel] if bound > most[channel] else bound
        seen |= upper[channel] > bar[channel]
    return seen


@compiled()
def _count_of_bytes(values: Array) -> int:
    total = 0
    for index in range(values.size):
        total += values[index]
    return total


@compiled()
def _count_spikes(
    maps: Array, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
    width: int, counts: Array,
) -> None:  # fmt: skip
    """Count the spikes of ``maps``, ``(H, W, C)``, in the window of each output position: ``counts``, float32."""
    totals = np.empty(maps.shape[:2], np.int64)
    for y in range(maps.shape[0]):
        for x in range(maps.shape[1]):
            totals[y, x] = _count_of_bytes(maps[y, x])
    for position in range(counts.size):
        top, left = position // width * stride[0] - padding[0], position % width * stride[1] - padding[1]
        seen = 0
        for row in range(size[0]):
            for column in range(size[1]):
                y, x = top + row * dilation[0], left + column * dilation[1]
                if 0 <= y < maps.shape[0] and 0 <= x < maps.shape[1]:
                    seen += totals[y, x]
        counts[position] = seen


@compiled(fastmath={"reassoc"})
def _dot_of_bytes(values: Array, weights: Array) -> float:
    total = 0.0
    for index in range(values.size):
        total += float(values[index]) * float(weights[index])
    return total


@compiled()
def _current(maps: Array, kernel: Array, top: int, left: int, dilation: tuple[int, int]) -> float:
    """Current of a neuron whose kernel, ``(K_h, K_w, C)``, starts at (``top``, ``left``) of ``maps``, ``(H, W, C)``."""
    total = 0.0
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            y, x = top + row * dilation[0], left + column * dilation[1]
            if 0 <= y < maps.shape[0] and 0 <= x < maps.shape[1]:
                total += _dot_of_bytes(maps[y, x], kernel[row, column])
    return total


@compiled()
def _received(largest: Array, biases: Array, channel: int, channels: int) -> float:
    """The largest current received by any neuron of a channel, with the bias."""
    received = np.float32(-np.inf)
    for neuron in range(channel, largest.size, channels):
        received = max(received, largest[neuron] + biases[neuron])
    return float(received)


@compiled()
def _set_bars(bars: Array, received: float, biases: Array, channel: int, channels: int) -> None:
    """Set the currents that must be exceeded for the channel to receive more than ``received``."""
    for neuron in range(channel, bars.size, channels):
        bars[neuron] = received - biases[neuron]


@compiled()
def raise_to_largest(
    rounded: Array, width: int, inputs: Array, kernel: Array, stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], unit: Array, most_lost: Array, most: Array, biases: Array,
    largest: Array,
) -> None:  # fmt: skip
    """See `largest_currents._Bounds.highest`; raises ``largest``, ``(positions x channels,)``."""
    channels = unit.size
    positions = largest.size // channels
    bars, upper = np.empty_like(largest), np.empty_like(unit)
    counts = np.empty(positions, np.float32)
    for channel in range(channels if positions else 0):
        received = _received(largest, biases, channel, channels)
        if received == -np.inf:
            # Start with a high value; otherwise almost every current would exceed the ones before it at first.
            best = int(np.argmax(rounded[:, :, channel]))
            image, position = best // positions, best % positions
            top, left = position // width * stride[0] - padding[0], position % width * stride[1] - padding[1]
            neuron = position * channels + channel
            largest[neuron] = _current(inputs[image], kernel[channel], top, left, dilation)
            received = largest[neuron] + biases[neuron]
        _set_bars(bars, received, biases, channel, channels)
    for image in range(len(inputs)):
        _count_spikes(inputs[image], kernel.shape[1:3], stride, padding, dilation, width, counts)
        for position in range(positions):
            first = position * channels
            bar = bars[first : first + channels]
            if _exceeds(rounded[image, position], counts[position], unit, most_lost, most, bar, upper):
                top, left = position // width * stride[0] - padding[0], position % width * stride[1] - padding[1]
                for channel in range(channels):
                    if upper[channel] > bar[channel]:
                        current = _current(inputs[image], kernel[channel], top, left, dilation)
                        if current > largest[first + channel]:
                            largest[first + channel] = current
                            received = _received(largest, biases, channel, channels)
                            _set_bars(bars, received, biases, channel, channels)
