"""Integrate, fire, reset: all neurons of a layer over many images and steps in one compiled pass.

For each neuron and step t (paper, eq. 1 and 2)::

    V(t) = clip(V(t-1) + I(t) + bias, -limit, limit)    no limit for real numbers
    s(t) = [V(t) >= threshold]
    V(t) = V - threshold s  (soft)     or  0 where s  (hard)

A potential stays in the first-level cache over all steps, and the spikes leave it already summed over the windows of
the average pooling behind them, in the form that the next synapse takes (`currents.py`).

Axes: B images, T steps, H W C with channels last and contiguous, so that a row of a map is one vector of W C neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit

from loihi_convert.synapse import Array, Pair, Shape, Synapse

# Neurons that are taken through all steps together: 5 arrays of float32 of them fit the first-level cache.
_TILE: Final = 2048


@dataclass(frozen=True, eq=False)
class LayerBlock:
    """One layer during some successive steps of some images.

    Parameters
    ----------
    pooled
        ``(B, T, H', W', C)``, uint8 or float32: spikes, summed over each window of the pooling behind the layer; a
        tensor on the device where that is a GPU.
    potentials
        ``(B, T, H, W, C)``, float32, after the reset; ``None`` unless recorded.
    spikes
        ``(B, T, H, W, C)``, uint8 or float32, 0 or 1; ``None`` unless recorded.
    spike_counts, synaptic_operations
        ``(B, T)``, int64: spikes of the layer, and synapses they reach; ``None`` unless recorded.
    largest_current
        ``(C,)``, float32: of any image, step and position; ``None`` unless recorded.
    clipped
        ``(B, 2)``, bool: whether any neuron of the image ran into the lower / the upper limit; ``None`` unless
        recorded.
    """

    pooled: Any
    potentials: Array | None = None
    spikes: Array | None = None
    spike_counts: Array | None = None
    synaptic_operations: Array | None = None
    largest_current: Array | None = None
    clipped: Array | None = None


@dataclass(frozen=True)
class Recording:
    """What of a layer is recorded besides its pooled spikes; see `LayerBlock`."""

    potentials: bool = False
    spikes: bool = False
    counts: bool = False
    currents: bool = False
    clipping: bool = False


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer as it is simulated, of real numbers or integers.

    Parameters
    ----------
    synapse
        For inputs that are spikes of 0 and 1, or pixels.
    input_shape, shape
        ``(C, H, W)`` or ``(N,)``: of the inputs before pooling, and of the neurons.
    threshold, initial_potential
        ``(C,)``, or ``None`` where the layer only integrates.
    limit
        Of the potential; infinite for real numbers.
    is_soft
        Whether a spike subtracts the threshold; else it leaves 0.
    is_integer
        Whether all numbers are: neurons then fire above threshold - 1, as Lava's compare, where clipping at a limit
        that is no integer leaves a fraction.
    pool
        Window of the pooling behind the layer.
    fan_out
        Of ``shape``: synapses that leave each neuron, equal within each window of ``pool``; ``None``: not known.
    """

    synapse: Synapse
    input_shape: Shape
    shape: Shape
    threshold: Array | None
    initial_potential: Array | None
    limit: float
    is_soft: bool
    is_integer: bool
    pool: Pair
    fan_out: Array | None

    @property
    def size(self) -> int:
        """Neurons of the layer."""
        return math.prod(self.shape)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(H, W, C); a vector is a map of one pixel."""
        channels, height, width = self.shape if len(self.shape) == 3 else (self.shape[0], 1, 1)
        return height, width, channels

    @property
    def thresholds(self) -> Array:
        """What a spike subtracts: float32 ``(H W C,)``, finite, because infinity times no spike would be NaN."""
        finite = np.full(self.shape[0], np.inf) if self.threshold is None else self.threshold.astype(np.float64)
        return self._map(np.minimum(finite, np.finfo(np.float32).max))

    @property
    def levels(self) -> Array:
        """The potential above which a neuron fires: float32 ``(H W C,)``."""
        if self.threshold is None:
            return self._map(np.full(self.shape[0], np.inf))
        if self.is_integer:
            return self._map(self.threshold - 1)
        # A float32 is >= the threshold where it is > the number before it.
        below = np.nextafter(self.thresholds, np.float32(-np.inf))
        return np.where(np.isfinite(self._map(self.threshold)), below, np.float32(np.inf))

    @property
    def biases(self) -> Array:
        """float32 ``(H W C,)``."""
        return self._map(np.zeros(self.shape[0]) if self.synapse.bias is None else self.synapse.bias)

    @property
    def initial_potentials(self) -> Array:
        """float32 ``(H W C,)``."""
        return self._map(np.zeros(self.shape[0]) if self.initial_potential is None else self.initial_potential)

    @property
    def pooled_fan_out(self) -> Array:
        """Synapses that leave each window of ``pool``: float64 ``(H', W' C)``, exact up to 2^53; empty if not known."""
        if self.fan_out is None:
            return np.zeros((0, 0))
        (pool_h, pool_w), (height, width, channels) = self.pool, self.map_shape
        rows, columns = height // pool_h, width // pool_w
        whole = self.fan_out.reshape(channels, height, width)
        windows = whole[:, : rows * pool_h : pool_h, : columns * pool_w : pool_w]
        return np.ascontiguousarray(windows.transpose(1, 2, 0), np.float64).reshape(rows, columns * channels)

    def _map(self, values: Array) -> Array:
        """``(C,)`` or ``(C, H, W)`` as float32 ``(H W C,)``."""
        if values.ndim == 1:
            return np.tile(values.astype(np.float32), self.size // len(values))
        return np.ascontiguousarray(values.transpose(1, 2, 0), np.float32).ravel()


class Neurons:
    """The neurons of one layer.

    Parameters
    ----------
    stage
        The layer.
    spike_dtype
        uint8 or float32: what the next synapse takes.
    """

    def __init__(self, stage: Stage, spike_dtype: type[np.uint8] | type[np.float32] = np.float32) -> None:
        self.height, self.width, self.channels = stage.map_shape
        self._count, self._pool, self._dtype = stage.size, stage.pool, np.dtype(spike_dtype)
        self._threshold, self._level, self._bias = stage.thresholds, stage.levels, stage.biases
        self._initial, self._fan_out = stage.initial_potentials, stage.pooled_fan_out
        self._limit, self._is_soft = np.float32(stage.limit), stage.is_soft
        # Rows that are taken through all steps together, whole windows of them.
        row = self.width * self.channels
        self._rows = min(-(-self.height // stage.pool[0]), max(1, _TILE // (row * stage.pool[0]))) * stage.pool[0]
        # Spikes are summed over windows in machine words, each of several channels' bytes.
        lanes = next(lanes for lanes in (8, 4, 1) if self.channels % lanes == 0)
        self._word = np.dtype(f"u{lanes}") if self._dtype == np.uint8 else self._dtype
        # Compiled here, by one thread: NumPy's lazy imports, which numba then meets, are not safe in several.
        self.fire(np.empty((0, self._count), np.float32), np.empty((0, 1, self._count), np.float32), 1, Recording())

    def initial_potentials(self, images: int) -> Array:
        """Potentials before the first step: float32 ``(images, count)``."""
        return np.tile(self._initial, (images, 1))

    def fire(self, potentials: Array, currents: Array, steps: int, recording: Recording) -> LayerBlock:
        """Take ``potentials``, in place, through ``steps`` steps.

        Parameters
        ----------
        potentials
            float32 ``(B, count)``.
        currents
            float32 ``(B, steps, count)``, or ``(B, 1, count)`` where they are constant; without the bias.
        """
        images, (pool_h, pool_w) = len(potentials), self._pool
        height, width = self.height // pool_h, self.width // pool_w
        pooled = np.empty((images, steps, height, width * self.channels), self._dtype)
        recorded = (images, steps, self._count)
        nothing = np.empty((0, 0, 0), np.float32)
        fired = np.empty(self._rows * self.width * self.channels, self._dtype)
        counts = np.zeros((2, *recorded[:2]) if recording.counts else (0, 0, 0), np.int64)
        kept = np.empty(recorded, np.float32) if recording.potentials else nothing
        spikes = np.empty(recorded if recording.spikes else (0, 0, 0), self._dtype)
        largest = np.full(self._count if recording.currents else 0, -np.inf, np.float32)
        clipped = np.zeros((images, 2) if recording.clipping else (0, 2), np.bool_)
        _fire(
            potentials,
            currents,
            self._bias,
            self._level,
            self._threshold,
            self._limit,
            self._is_soft,
            self.height,
            self._rows,
            pool_h,
            pool_w,
            fired,
            fired.view(self._word),
            pooled,
            pooled.view(self._word),
            self.channels * self._dtype.itemsize // self._word.itemsize,
            self._fan_out,
            counts,
            kept,
            spikes,
            largest,
            clipped,
        )
        whole = (images, steps, self.height, self.width, self.channels)
        return LayerBlock(
            pooled=pooled.reshape(images, steps, height, width, self.channels),
            potentials=kept.reshape(whole) if recording.potentials else None,
            spikes=spikes.reshape(whole) if recording.spikes else None,
            spike_counts=counts[0] if recording.counts else None,
            synaptic_operations=counts[1] if recording.counts else None,
            largest_current=largest.reshape(-1, self.channels).max(axis=0) if recording.currents else None,
            clipped=clipped if recording.clipping else None,
        )


def rate_errors(
    stage: Stage, currents: Array, activations: Array, thresholds: Array, initial_share: float, timesteps: int
) -> Array:
    """Return how far firing rates are from activations for some thresholds: float64 ``(G, C)``.

    It is the squared error of ``threshold x spike count / T`` (what compensated spikes are worth) against the
    activation, summed over images and positions.

    Parameters
    ----------
    stage
        The layer; its own thresholds do not matter.
    currents
        float32 ``(B, T, neurons)``, or ``(B, 1, neurons)`` where they are constant; without the bias.
    activations
        float32 ``(B, neurons)``: what the rates should be.
    thresholds
        float64 ``(G, C)``, positive: G of them for each channel.
    initial_share
        Initial potential, in thresholds.
    timesteps
        T.
    """
    repeats = stage.size // thresholds.shape[1]
    tried = np.tile(thresholds.astype(np.float32), (1, repeats))
    errors = np.zeros(tried.shape)
    below = np.nextafter(tried, np.float32(-np.inf))
    _rate_errors(
        currents, stage.biases, activations, tried, below, np.float32(initial_share), stage.is_soft, timesteps, errors
    )
    return np.asarray(errors.reshape(len(tried), repeats, -1).sum(axis=1))


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; keep the machine code on disk where there is a place for it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = njit(nogil=True, error_model="numpy", **options)
        try:
            compiled = njit(nogil=True, error_model="numpy", cache=True, **options)(function)
        except RuntimeError:
            # Neither this folder nor the user's cache folder can be written.
            compiled = compiled(function)
        return compiled  # type: ignore[no-any-return]

    return decorate


# The order of summation may change, so that it can be vectorised: sums of integers below 2^53 are exact in any.
@_compiled(fastmath={"reassoc"})
def _sum(values: Array) -> float:
    total = 0.0
    for index in range(values.size):
        total += values[index]
    return total


@_compiled(fastmath={"reassoc"})
def _dot(values: Array, weights: Array) -> float:
    total = 0.0
    for index in range(values.size):
        total += values[index] * weights[index]
    return total


@_compiled()
def _step(
    potential: Array, current: Array, bias: Array, level: Array, threshold: Array, limit: float, is_soft: bool,
    fired: Array,
) -> None:  # fmt: skip
    if is_soft:
        for index in range(fired.size):
            v = potential[index] + (current[index] + bias[index])
            v = limit if v > limit else v
            v = -limit if v < -limit else v
            fires = v > level[index]
            potential[index] = v - threshold[index] if fires else v
            fired[index] = fires
    else:
        for index in range(fired.size):
            v = potential[index] + (current[index] + bias[index])
            v = limit if v > limit else v
            v = -limit if v < -limit else v
            fires = v > level[index]
            potential[index] = np.float32(0) if fires else v
            fired[index] = fires


@_compiled()
def _watch(potential: Array, current: Array, bias: Array, limit: float, clipped: Array) -> None:
    low, high = False, False
    for index in range(potential.size):
        v = potential[index] + (current[index] + bias[index])
        low |= v < -limit
        high |= v > limit
    clipped[0] |= low
    clipped[1] |= high


@_compiled()
def _raise_to(largest: Array, current: Array, bias: Array) -> None:
    for index in range(largest.size):
        total = current[index] + bias[index]
        largest[index] = total if total > largest[index] else largest[index]


@_compiled()
def _pool(fired: Array, row: int, pooled: Array, pooled_row: int, words: int, pool_h: int, pool_w: int) -> None:
    """Sum ``fired`` (rows of ``row`` words, ``words`` a pixel) over windows; uses ``fired`` as its scratch."""
    for out in range(pooled.size // pooled_row):
        top = out * pool_h * row
        for below in range(1, pool_h):
            for index in range(row):
                fired[top + index] += fired[top + below * row + index]
        for column in range(pooled_row // words):
            left, to = top + column * pool_w * words, out * pooled_row + column * words
            for word in range(words):
                total = fired[left + word]
                for right in range(1, pool_w):
                    total += fired[left + right * words + word]
                pooled[to + word] = total


@_compiled()
def _fire(
    potentials: Array, currents: Array, bias: Array, level: Array, threshold: Array, limit: float, is_soft: bool,
    height: int, rows: int, pool_h: int, pool_w: int, fired: Array, fired_words: Array, pooled: Array,
    pooled_words: Array, words: int, fan_out: Array, counts: Array, kept: Array, spikes: Array, largest: Array,
    clipped: Array,
) -> None:  # fmt: skip
    """See `Neurons.fire`; an empty array is not filled."""
    images, neurons = potentials.shape
    steps, pooled_height, pooled_row = pooled_words.shape[1:]
    row = neurons // height
    row_words = row // (fired.size // fired_words.size)
    is_constant = currents.shape[1] == 1
    # Where no window covers a neuron its spikes count, though nobody receives them.
    is_covered = pooled.shape[2] * pooled.shape[3] * pool_h * pool_w == neurons
    for image in range(images):
        for top in range(0, height, rows):
            first, last = top * row, min(top + rows, height) * row
            out = min(top // pool_h, pooled_height)
            end = min(min(top + rows, height) // pool_h, pooled_height)
            membrane, tile = potentials[image, first:last], fired[: last - first]
            for step in range(steps):
                current = currents[image, 0 if is_constant else step, first:last]
                if largest.size and (step == 0 or not is_constant):
                    _raise_to(largest[first:last], current, bias[first:last])
                if clipped.size:
                    _watch(membrane, current, bias[first:last], limit, clipped[image])
                _step(
                    membrane, current, bias[first:last], level[first:last], threshold[first:last], limit, is_soft, tile
                )
                if kept.size:
                    kept[image, step, first:last] = membrane
                if spikes.size:
                    spikes[image, step, first:last] = tile
                if counts.size and not is_covered:
                    counts[0, image, step] += int(_sum(tile))
                if end > out:
                    windows = pooled_words[image, step, out:end].reshape(-1)
                    _pool(fired_words, row_words, windows, pooled_row, words, pool_h, pool_w)
                    if counts.size:
                        summed = pooled[image, step, out:end].reshape(-1)
                        if is_covered:
                            counts[0, image, step] += int(_sum(summed))
                        if fan_out.size:
                            counts[1, image, step] += int(_dot(summed, fan_out[out:end].reshape(-1)))


@_compiled()
def _rate_errors(
    currents: Array, bias: Array, activations: Array, thresholds: Array, levels: Array, initial_share: float,
    is_soft: bool, steps: int, errors: Array,
) -> None:  # fmt: skip
    images, neurons = activations.shape
    is_constant = currents.shape[1] == 1
    membrane, fired = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    counts = np.empty(_TILE, np.float32)
    limit = np.float32(np.inf)
    for image in range(images):
        for first in range(0, neurons, _TILE):
            last = min(first + _TILE, neurons)
            size = last - first
            for tried in range(len(thresholds)):
                threshold = thresholds[tried, first:last]
                for index in range(size):
                    membrane[index] = threshold[index] * initial_share
                    counts[index] = 0
                for step in range(steps):
                    current = currents[image, 0 if is_constant else step, first:last]
                    _step(
                        membrane[:size], current, bias[first:last], levels[tried, first:last], threshold, limit,
                        is_soft, fired[:size],
                    )  # fmt: skip
                    for index in range(size):
                        counts[index] += fired[index]
                for index in range(size):
                    error = threshold[index] * counts[index] / np.float32(steps) - activations[image, first + index]
                    errors[tried, first + index] += error * error
