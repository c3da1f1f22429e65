"""The largest currents of a layer with float weights, found faster than by computing all currents.

With s a channel's unit, q its weights rounded to whole units in -127..127, and n(x) the number of spikes among the
inputs x of a neuron::

    w x  <=  s (q x) + min(s/2 n(x), sum of the weights' rounding losses, times the most spikes of a window)

Byte arithmetic gives q x exactly, several times faster than float32, and n(x) is counted. Only if the upper bound
exceeds the largest current of the channel so far is the current itself summed, in float64; this is rare. So nothing is
missed, and the result does not depend on the processor's order of summation. The current of a channel with one weight,
as a relay's, never exceeds that weight.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Final

import numpy as np
from torch import Tensor

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.compiled import compiled
from loihi_convert.simulation.convolution import Geometry
from loihi_convert.simulation.currents import Currents, as_convolution
from loihi_convert.simulation.device import CpuLayer, DeviceLayer
from loihi_convert.simulation.layer_spec import LayerSpec

_UNITS: Final = 127
"""Number of units in a channel's largest weight."""

_FEW: Final = 100
"""Up to this number of inputs per neuron, computing currents is faster than comparing bounds (measured)."""


class LargestCurrents:
    """Accumulates the largest current of each channel of a layer, up to each of several steps.

    Parameters
    ----------
    spec
        The layer, in floating point.
    layer
        The same layer on its device.
    after
        The steps, ascending.
    """

    def __init__(self, spec: LayerSpec, layer: DeviceLayer, after: tuple[int, ...]) -> None:
        self._spec, self._layer, self._after = spec, layer, after
        # Without biases; each entry covers the steps since the one before it.
        self._largest = np.full((len(after), spec.size), -np.inf, np.float32)
        self._lock = threading.Lock()
        self._bounds = _Bounds.of(spec) if isinstance(layer, CpuLayer) else None

    def take(self, first: int, inputs: Tensor) -> None:
        """Include ``inputs``, ``(B, T, H', W', C)``, of the steps from ``first``, counted from 0."""
        for index, (start, end) in enumerate(zip((0, *self._after), self._after, strict=False)):
            part = inputs[:, max(start - first, 0) : max(end - first, 0)]
            if part.shape[1]:
                with self._lock:
                    known = self._largest[: index + 1].max(axis=0)
                highest = self._highest(part, known)
                with self._lock:
                    np.maximum(self._largest[index], highest, out=self._largest[index])

    def found(self) -> Array:
        """float64 ``(len(after), C)``, with biases."""
        with_bias = np.maximum.accumulate(self._largest, axis=0) + self._spec.biases
        by_channel = with_bias.reshape(len(self._after), -1, self._spec.synapse.channels)
        return np.asarray(by_channel.max(axis=1), np.float64)

    def _highest(self, inputs: Tensor, known: Array) -> Array:
        """Each neuron's largest current, or a smaller value if its channel is ``known`` to have received more."""
        if self._bounds is None:
            currents = self._layer.currents_of(inputs)
            return np.asarray(currents.reshape(-1, self._spec.size).amax(0).cpu().numpy())
        return self._bounds.highest(inputs.reshape(-1, *inputs.shape[2:]).numpy(), known, self._spec.biases)


class _Bounds:
    """Rounded weights, and the float weights for cases that the rounded ones do not decide."""

    def __init__(
        self, rounded: Currents, units: Array, most_lost: Array, most: Array, kernel: Array, geometry: Geometry
    ) -> None:
        self._rounded, self._units, self._most_lost, self._most = rounded, units, most_lost, most
        self._kernel, self._geometry = kernel, geometry
        # Compile here, in one thread, as in `Neurons`.
        nothing = np.empty(0, np.float32)
        self._raise(np.empty((0, 1, len(units)), np.float32), 1, np.empty((0, 1, 1, 1), np.uint8), nothing, nothing)

    @classmethod
    def of(cls, spec: LayerSpec) -> _Bounds | None:
        """Return the bounds for ``spec``, if byte arithmetic is available for it."""
        synapse, window = spec.synapse, math.prod(spec.synapse.pool)
        weight, geometry = as_convolution(synapse, spec.input_shape)
        with np.errstate(over="ignore"):
            weight = (weight / window).astype(np.float32).astype(np.float64)
        rows = weight.reshape(len(weight), -1)
        has_groups, is_small = geometry[3] > 1, rows.shape[1] <= _FEW
        # If a current can overflow float32, a bound might be infinity minus infinity.
        fits = bool(np.abs(rows).sum(axis=1).max() * window < np.finfo(np.float32).max / 4)
        if has_groups or is_small or not spec.takes_spikes or not fits:
            return None
        units = np.abs(rows).max(axis=1) / _UNITS
        units[units < np.finfo(np.float32).tiny] = 1.0
        integers = np.rint(rows / units[:, None])
        most_lost = np.maximum(rows - integers * units[:, None], 0).sum(axis=1) * window
        is_single = (np.count_nonzero(rows, axis=1) == 1) & (window == 1)
        most = np.where(is_single, np.maximum(rows.max(axis=1), 0), np.inf).astype(np.float32)
        alone = replace(synapse, weight=integers.reshape(synapse.weight.shape), bias=None)
        rounded = Currents(alone, spec.input_shape, averages=False, takes_spikes=True)
        if not rounded.uses_int8:
            return None
        kernel = np.ascontiguousarray(weight.transpose(0, 2, 3, 1), np.float32)
        return cls(rounded, units.astype(np.float32), most_lost.astype(np.float32), most, kernel, geometry)

    def highest(self, inputs: Array, known: Array, biases: Array) -> Array:
        """As `LargestCurrents._highest`, for ``(N, H', W', C)``."""
        found = known.copy()
        rounded = self._rounded(inputs)
        self._raise(rounded.reshape(len(inputs), -1, rounded.shape[3]), rounded.shape[2], inputs, biases, found)
        return found

    def _raise(self, rounded: Array, width: int, inputs: Array, biases: Array, found: Array) -> None:
        raise_to_largest(
            *(rounded, width, inputs, self._kernel, *self._geometry[:3]),
            *(self._units, self._most_lost, self._most, biases, found),
        )


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
