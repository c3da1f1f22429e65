"""Integrate, fire, reset: all neurons of a layer over many images and steps in one compiled pass.

For each neuron and step t (paper, eq. 1 and 2)::

    V(t) = clip(V(t-1) + I(t) + bias, -limit, limit)    no limit in floating point
    s(t) = [V(t) >= threshold]
    V(t) = V - threshold s  (soft)     or  0 where s  (hard)

or the equations of the circuit in `ir.neuron_model`; `device.one_step` is a step of any model in plain tensors.

Spikes leave a layer already summed over the windows of the average pooling after it, in the format that the next
synapse takes (`currents.py`). The loops are in `neuron_kernels.py`; axes as in `layer_spec.py`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.simulation import neuron_kernels as kernels
from loihi_convert.simulation.layer_spec import LayerBlock, LayerSpec, Recording

_KINDS: Final = {
    NeuronModel.SOFT: kernels.SOFT,
    NeuronModel.HARD: kernels.HARD,
    # Its currents have wrapped before.
    NeuronModel.STOCK_LIF: kernels.HARD,
    NeuronModel.CIRCUIT: kernels.CIRCUIT,
    NeuronModel.LEAKY_CIRCUIT: kernels.LEAKY_CIRCUIT,
}

_COUNTERS: Final = 512
"""Most spike counters per step, unless there are more channels: those of some steps fit the cache beside a tile."""


class Neurons:
    """The neurons of one layer.

    Parameters
    ----------
    spec
        The layer.
    spike_dtype
        uint8 or float32: the input dtype of the next synapse.
    """

    def __init__(self, spec: LayerSpec, spike_dtype: type[np.uint8] | type[np.float32] = np.float32) -> None:
        self.height, self.width, self.channels = spec.map_shape
        self._count, self._pool, self._dtype = spec.size, spec.pool, np.dtype(spike_dtype)
        # Spikes of neurons outside all windows are counted, although no layer receives them.
        self._has_remainder = self.height % spec.pool[0] > 0 or self.width % spec.pool[1] > 0
        columns = self.width if self._has_remainder else self.width // spec.pool[1]
        most = max(1, _COUNTERS // self.channels)
        self._counters = self.channels * max(part for part in range(1, most + 1) if columns % part == 0)
        self._initial, limit = spec.initial_states, np.float32(spec.limit)
        # Rows simulated together over all steps, a whole number of windows.
        row = self.width * self.channels
        self._rows = min(-(-self.height // spec.pool[0]), max(1, kernels.TILE // (row * spec.pool[0]))) * spec.pool[0]
        tile, bias, fan_out = self._rows * row, spec.synapse.bias, spec.pooled_fan_out.reshape(-1)
        is_small = fan_out.max(initial=0) * tile <= 2**24
        # Spikes are summed over windows in machine words, each holding the bytes of several channels. Words of eight
        # would be hardly faster, and loops for one more type would have to be compiled.
        lanes = 4 if self.channels % 4 == 0 else 1
        self._word = np.dtype(f"u{lanes}") if self._dtype == np.uint8 else self._dtype
        words = self.channels * self._dtype.itemsize // self._word.itemsize
        column, word = np.divmod(np.arange(self.width // spec.pool[1] * words), words)
        self._layer = kernels.Layer(
            bias=spec.biases[:tile] if bias is None or bias.ndim == 1 else spec.biases,
            level=spec.levels[:tile],
            threshold=spec.thresholds[:tile],
            offset=spec.offsets[:tile],
            initial=self._initial[:tile],
            fan_out=fan_out.astype(np.float32) if is_small else fan_out,
            limit=limit,
            # Lava's u wraps already at -2^17.
            lowest=np.nextafter(-limit, np.float32(0)) if spec.neuron.is_circuit else -limit,
            kind=_KINDS[spec.neuron],
            height=self.height,
            rows=self._rows,
            window=spec.pool,
            left=column * spec.pool[1] * words + word,
            words=words,
            has_remainder=self._has_remainder,
        )
        # Compile here, in one thread: NumPy's lazy imports, which numba triggers, are not thread-safe.
        self.fire(None, np.empty((0, 1, self._count), np.float32), 1, Recording())

    def initial_states(self, images: int) -> Array:
        """Return the state before the first step, the potential or the circuit's u: float32 ``(images, count)``."""
        return np.tile(self._initial, (images, 1))

    def fire(self, states: Array | None, currents: Array, steps: int, recording: Recording) -> tuple[Array, LayerBlock]:
        """See `device.CpuLayer.fire`; with NumPy arrays."""
        images, (pool_h, pool_w) = len(currents), self._pool
        height, width = self.height // pool_h, self.width // pool_w
        pooled = np.empty((images, steps, height * width * self.channels), self._dtype)
        recorded = (images, steps, self._count)
        fired = np.empty(self._rows * self.width * self.channels, self._dtype)
        counts = np.zeros((2, *recorded[:2]) if recording.counts else (2, 0, 0), np.int64)
        counters = np.zeros((steps if recording.counts else 0, self._counters), np.int32)
        kept = np.empty(recorded if recording.potentials else (0, 0, 0), np.float32)
        spikes = np.empty(recorded if recording.spikes else (0, 0, 0), self._dtype)
        largest = np.full(self._count if recording.currents else 0, -np.inf, np.float32)
        clipped = np.zeros((images, 2) if recording.clipping else (0, 2), np.bool_)
        kernels.fire(
            np.empty((0, 0), np.float32) if states is None else states,
            currents,
            self._layer,
            kernels.Spikes(fired, fired.view(self._word), pooled, pooled.view(self._word)),
            kernels.Records(counts, counters, kept, spikes, largest, clipped),
        )
        maps = (self.height, self.width, self.channels)
        block = LayerBlock(
            potentials=kept.reshape(*kept.shape[:2], *maps),
            spikes=spikes.reshape(*spikes.shape[:2], *maps),
            spike_counts=counts[0],
            synaptic_operations=counts[1],
            channel_spikes=_per_channel(counters, self.channels),
            largest_current=largest.reshape(-1, self.channels).max(axis=0, initial=-np.inf),
            clipped=clipped,
        )
        return pooled.reshape(images, steps, height, width, self.channels), block


def _per_channel(counters: Array, channels: int) -> Array:
    """Counters, see `neuron_kernels.Records`, as int64 ``(T, C)``."""
    parts = counters.reshape(len(counters), counters.shape[1] // channels, channels)
    return np.asarray(parts.sum(axis=1, dtype=np.int64))


class RateErrors(NamedTuple):
    """Errors of rates against activations: sums over images and positions, float64.

    A rate is ``threshold x spike count / T``, that is, with amplitudes equal to thresholds.

    Parameters
    ----------
    errors
        ``(G, C)``: sums of (rate - activation)^2.
    rates
        ``(G, C)``: sums of rate^2.
    activations
        ``(C,)``: sums of activation^2.
    """

    errors: Array
    rates: Array
    activations: Array

    def __add__(self, other: RateErrors) -> RateErrors:  # type: ignore[override]
        return RateErrors(*(mine + others for mine, others in zip(self, other, strict=True)))

    @property
    def amplitude_factors(self) -> Array:
        """The factor on the rate that minimizes the error, ``(G, C)``; 1 if nothing fires.

        With r the rate and x the activation, sum (f r - x)^2 is smallest at f = sum r x / sum r^2.
        """
        return np.divide(self._products, self.rates, out=np.ones_like(self.rates), where=self.rates > 0)

    @property
    def least_errors(self) -> Array:
        """The error with that factor: sum x^2 - (sum r x)^2 / sum r^2, ``(G, C)``."""
        return np.asarray(self.activations - self.amplitude_factors * self._products)

    @property
    def _products(self) -> Array:
        """Sums of rate x activation; 0 if nothing fires."""
        # Neither is negative, but the difference of sums may be, by a rounding error.
        return np.maximum((self.rates + self.activations - self.errors) / 2, 0) * (self.rates > 0)


def rate_errors(
    spec: LayerSpec, currents: Array, activations: Array, thresholds: Array, initial_potentials: Array, timesteps: int
) -> RateErrors:
    """Return the errors of firing rates against activations for several thresholds and initial potentials.

    Parameters
    ----------
    spec
        The layer; its own thresholds and initial potentials are ignored.
    currents
        float32 ``(B, T, neurons)``, or ``(B, 1, neurons)`` if they are constant; without the bias.
    activations
        float32 ``(B, neurons)``: the desired rates.
    thresholds, initial_potentials
        float64 ``(G, C)``, the thresholds positive: G pairs for each channel.
    timesteps
        T.
    """
    repeats = spec.size // thresholds.shape[1]
    tried, initial = (np.tile(values.astype(np.float32), (1, repeats)) for values in (thresholds, initial_potentials))
    errors, squares = np.zeros(tried.shape), np.zeros(tried.shape)
    below = np.nextafter(tried, np.float32(-np.inf))
    is_soft = spec.neuron.reset == "soft"
    kernels.rate_errors(currents, spec.biases, activations, tried, below, initial, is_soft, timesteps, errors, squares)
    wanted = np.square(activations, dtype=np.float64).sum(axis=0, keepdims=True)
    by_channel = (sums.reshape(len(sums), repeats, -1).sum(axis=1) for sums in (errors, squares, wanted))
    errors, squares, wanted = by_channel
    return RateErrors(errors, squares, wanted[0])
