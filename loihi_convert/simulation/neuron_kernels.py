"""Loops over neurons: integrate, fire, reset, sum spikes over windows. Called only by `layers.py`.

A potential stays in the first-level cache over all steps. Inner loops run over contiguous float32 or bytes, which LLVM
vectorizes; optional work is done in a separate pass over a tile in the cache. All neurons are in one axis, and copied
one by one: numba takes two seconds to compile a reshape or an assignment of slices, with the texts of their errors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ground.compiled import compiled

TILE: Final = 2048
"""Neurons simulated together over all steps: 5 float32 arrays of this size fit the first-level cache."""

SOFT: Final = 0
HARD: Final = 1
CIRCUIT: Final = 2
LEAKY_CIRCUIT: Final = 3

_LSB: Final = np.float32(2.0**-limits.UNIT_EXP)
"""The last bit of Lava's u, in weight units."""

_LEAK: Final = np.float32(2.0**limits.UNIT_EXP / limits.MAX_DECAY)
"""Decay of u in each step with ``du = 0``, in last bits per weight unit of u."""


# Reordering allows vector instructions, and the sums are exact in any order, see `Layer.fan_out`.
@compiled(fastmath={"reassoc", "contract"})
def _tally(values: Array, counters: Array, fan_out: Array) -> tuple[int, float]:
    """Add ``values`` to ``counters``, in turn; return their sum, and their dot product with ``fan_out``, if any."""
    size, operations = counters.size, fan_out.dtype.type(0)
    # A vector instruction adds twice as many numbers of four bytes, which hold any sum of a tile, as of eight.
    total = np.int32(0)
    for first in range(0, values.size, size):
        # Without a separate view LLVM does not vectorize the loops, which are then eight times slower.
        row = values[first : first + size]
        if fan_out.size:
            weights = fan_out[first : first + size]
            for index in range(row.size):
                counters[index] += row[index]
                total = np.int32(total + np.int32(row[index]))
                operations += fan_out.dtype.type(row[index]) * weights[index]
        else:
            for index in range(row.size):
                counters[index] += row[index]
                total = np.int32(total + np.int32(row[index]))
    return int(total), float(operations)


@compiled()
def _copy(values: Array, found: Array) -> None:
    for index in range(found.size):
        found[index] = values[index]


@compiled()
def _step(
    potential: Array, current: Array, bias: Array, level: Array, threshold: Array, limit: float, is_soft: bool,
    fired: Array,
) -> None:  # fmt: skip
    for index in range(fired.size):
        v = potential[index] + (current[index] + bias[index])
        v = limit if v > limit else v
        v = -limit if v < -limit else v
        fires = v > level[index]
        left = v - threshold[index] if is_soft else np.float32(0)
        potential[index] = left if fires else v
        fired[index] = fires


@compiled()
def _step_circuit(
    state: Array, current: Array, bias: Array, level: Array, threshold: Array, offset: Array, limit: float,
    leaks: bool, fired: Array, potential: Array,
) -> None:  # fmt: skip
    """``state`` is carried over to the next step: u after the leak, minus the threshold if the neuron fired."""
    round_ = np.float32(2) * limit
    for index in range(fired.size):
        u = state[index] + (current[index] + bias[index])
        u = u - round_ if u > limit else u
        u = u + round_ if u <= -limit else u
        fires = u > level[index]
        spent = threshold[index] if fires else np.float32(0)
        potential[index] = u + offset[index] - spent
        if leaks:
            # In units of the last bit, floor(4095 / 4096 |u|) remains.
            lost = np.ceil(np.abs(u) * _LEAK) * _LSB
            u = u - lost if u > np.float32(0) else u + lost
        state[index] = u - spent
        fired[index] = fires


@compiled()
def _watch(state: Array, current: Array, bias: Array, lowest: float, limit: float, clipped: Array) -> None:
    low, high = False, False
    for index in range(state.size):
        v = state[index] + (current[index] + bias[index])
        low |= v < lowest
        high |= v > limit
    clipped[0] |= low
    clipped[1] |= high


@compiled()
def _raise_to(largest: Array, current: Array, bias: Array) -> None:
    for index in range(largest.size):
        total = current[index] + bias[index]
        largest[index] = total if total > largest[index] else largest[index]


@compiled()
def _pool(fired: Array, row: int, pooled: Array, left: Array, words: int, window: Pair) -> None:
    """Sum ``fired`` (rows of ``row`` words, ``words`` per pixel) over windows; ``fired`` is used as scratch space.

    ``left`` holds, for each word of a row of ``pooled``, the first word of its window in a row of ``fired``: one long
    loop instead of a short one for each window.
    """
    (height, width), pooled_row = window, left.size
    for out in range(pooled.size // pooled_row):
        top = out * height * row
        upper, summed = fired[top : top + row], pooled[out * pooled_row : (out + 1) * pooled_row]
        for below in range(1, height):
            lower = fired[top + below * row : top + (below + 1) * row]
            for index in range(row):
                upper[index] += lower[index]
        if width == 1:
            for index in range(pooled_row):
                summed[index] = upper[index]
        else:
            for index in range(pooled_row):
                summed[index] = upper[left[index]]
        for right in range(1, width):
            shifted = upper[right * words :]
            for index in range(pooled_row):
                summed[index] += shifted[left[index]]


class Layer(NamedTuple):
    """Parameters that do not change between calls.

    Parameters
    ----------
    bias, level, threshold, offset, initial
        float32, those of the first tile, see `layers.LayerSpec`: they are equal in all tiles. A bias per neuron is
        ``(neurons,)``.
    fan_out
        See `LayerSpec.pooled_fan_out`, in one axis: float32 if that holds the sums of a tile exactly, else float64.
    limit, lowest
        Values above ``limit`` or below ``lowest`` are clipped or wrap.
    kind
        `SOFT`, `HARD`, `CIRCUIT` or `LEAKY_CIRCUIT`.
    height, rows
        Rows of the map, and of a tile.
    window
        Rows and columns of a window of the pooling after the layer.
    left
        See `_pool`.
    words
        Machine words per pixel.
    has_remainder
        Whether some neurons are outside all windows.
    """

    bias: Array
    level: Array
    threshold: Array
    offset: Array
    initial: Array
    fan_out: Array
    limit: np.float32
    lowest: np.float32
    kind: int
    height: int
    rows: int
    window: Pair
    left: Array
    words: int
    has_remainder: bool


class Spikes(NamedTuple):
    """``fired``, the spikes of a tile, and ``pooled``, ``(B, T, H' W' C)``; each also viewed as words."""

    fired: Array
    fired_words: Array
    pooled: Array
    pooled_words: Array


class Records(NamedTuple):
    """Arrays to fill; empty if not requested. As in `layers.LayerBlock`, with all neurons in one axis.

    ``counts`` holds spikes and synaptic operations; ``counters``, int32 ``(T, k C)``, the spikes of every k-th column,
    summed over images and rows, where k divides the number of columns.
    """

    counts: Array
    counters: Array
    kept: Array
    spikes: Array
    largest: Array
    clipped: Array


@compiled()
def fire(states: Array, currents: Array, layer: Layer, sent: Spikes, records: Records) -> None:
    """See `layers.CpuLayer.fire`."""
    fan_out = layer.fan_out
    limit, kind, height, rows, pool_h = layer.limit, layer.kind, layer.height, layer.rows, layer.window[0]
    fired, fired_words, pooled, pooled_words = sent
    counts, counters, kept, spikes, largest, clipped = records
    images, steps, neurons = len(pooled), pooled.shape[1], currents.shape[2]
    row, lanes = neurons // height, fired.size // fired_words.size
    row_words, pooled_row_words = row // lanes, layer.left.size
    pooled_height, pooled_row = height // pool_h, lanes * pooled_row_words
    is_constant, sums_windows = currents.shape[1] == 1, layer.window != (1, 1)
    membrane, potential = np.empty(rows * row, np.float32), np.empty(rows * row, np.float32)
    # For windows whose spikes were counted before pooling.
    unused = np.zeros(counters.shape[1], np.int32)
    for image in range(images):
        for top in range(0, height, rows):
            first, last = top * row, min(top + rows, height) * row
            out = min(top // pool_h, pooled_height)
            end = min(min(top + rows, height) // pool_h, pooled_height)
            size, begin = last - first, first if layer.bias.size == neurons else 0
            state, bias = membrane[:size], layer.bias[begin : begin + size]
            _copy(states[image, first:last] if states.size else layer.initial[:size], state)
            level, threshold, offset = layer.level[:size], layer.threshold[:size], layer.offset[:size]
            for step in range(steps):
                current = currents[image, 0 if is_constant else step, first:last]
                tile = fired[:size] if sums_windows else pooled[image, step, first:last]
                if largest.size and (step == 0 or not is_constant):
                    _raise_to(largest[first:last], current, bias)
                if clipped.size:
                    _watch(state, current, bias, layer.lowest, limit, clipped[image])
                if kind >= CIRCUIT:
                    leaks = kind == LEAKY_CIRCUIT
                    _step_circuit(state, current, bias, level, threshold, offset, limit, leaks, tile, potential[:size])
                else:
                    _step(state, current, bias, level, threshold, limit, kind == SOFT, tile)
                if kept.size:
                    _copy(potential[:size] if kind >= CIRCUIT else state, kept[image, step, first:last])
                if spikes.size:
                    _copy(tile, spikes[image, step, first:last])
                if counts.size and layer.has_remainder:
                    counts[0, image, step] += _tally(tile, counters[step], fan_out[:0])[0]
                if sums_windows and end > out:
                    windows = pooled_words[image, step, out * pooled_row_words : end * pooled_row_words]
                    _pool(fired_words, row_words, windows, layer.left, layer.words, layer.window)
                if counts.size and end > out:
                    summed = pooled[image, step, out * pooled_row : end * pooled_row]
                    counted = unused if layer.has_remainder else counters[step]
                    spike_count, operations = _tally(summed, counted, fan_out[out * pooled_row : end * pooled_row])
                    counts[0, image, step] += 0 if layer.has_remainder else spike_count
                    counts[1, image, step] += int(operations)
            if states.size:
                _copy(state, states[image, first:last])


@compiled()
def _count(
    potential: Array, current: Array, bias: Array, level: Array, threshold: Array, is_soft: bool, counts: Array
) -> None:
    """As `_step` without limits; adds spikes to ``counts``."""
    for index in range(counts.size):
        v = potential[index] + (current[index] + bias[index])
        fires = v > level[index]
        left = v - threshold[index] if is_soft else np.float32(0)
        potential[index] = left if fires else v
        counts[index] += np.float32(1) if fires else np.float32(0)


@compiled()
def _add(values: Array, found: Array) -> None:
    for index in range(found.size):
        found[index] += values[index]


@compiled()
def _add_errors(
    threshold: Array, counts: Array, steps: float, activations: Array, errors: Array, squares: Array
) -> None:
    for index in range(counts.size):
        rate = threshold[index] * counts[index] / steps
        error = rate - activations[index]
        errors[index] += error * error
        squares[index] += rate * rate


@compiled()
def rate_errors(
    currents: Array, bias: Array, activations: Array, thresholds: Array, levels: Array, initial: Array,
    is_soft: bool, steps: int, errors: Array, squares: Array,
) -> None:  # fmt: skip
    """See `layers.rate_errors`; adds to ``errors`` and ``squares``, float64 ``(G, neurons)``."""
    images, neurons = activations.shape
    is_constant = currents.shape[1] == 1
    membrane, counts = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    error, square = np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    # Sums over images stay in the cache: all thresholds of a tile would not.
    for first in range(0, neurons, TILE):
        last = min(first + TILE, neurons)
        size = last - first
        for tried in range(len(thresholds)):
            threshold = thresholds[tried, first:last]
            error[:size] = 0
            square[:size] = 0
            for image in range(images):
                _copy(initial[tried, first:last], membrane[:size])
                counts[:size] = 0
                for step in range(steps):
                    current = currents[image, 0 if is_constant else step, first:last]
                    _count(
                        membrane[:size], current, bias[first:last], levels[tried, first:last], threshold, is_soft,
                        counts[:size],
                    )  # fmt: skip
                _add_errors(threshold, counts[:size], np.float32(steps), activations[image, first:last], error, square)
            _add(error[:size], errors[tried, first:last])
            _add(square[:size], squares[tried, first:last])
