"""The layers of a network as simulated on any device, and the values recorded from them.

Axes: B images, T steps, H W C with channels last, so that a row of a map is one vector of W C neurons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Synapse


@dataclass(frozen=True, eq=False)
class LayerBlock:
    """Values recorded from one layer during consecutive steps of some images.

    Values that were not requested, see `Recording`, must not be read.

    Parameters
    ----------
    potentials
        ``(B, T, H, W, C)``, float32, after the reset; float64 if joined from two digits.
    spikes
        ``(B, T, H, W, C)``, uint8 or float32, 0 or 1.
    spike_counts, synaptic_operations
        ``(B, T)``, int64: spikes of the layer, and the number of synapses they reach.
    channel_spikes
        ``(T, C)``, int64: spikes of each channel, summed over images.
    largest_current
        ``(C,)``, float32: over all images, steps and positions, with the bias.
    clipped
        ``(B, 2)``, bool: whether any neuron of the image passed the lower / the upper limit, at which it is clipped or
        wraps.
    """

    potentials: Array
    spikes: Array
    spike_counts: Array
    synaptic_operations: Array
    channel_spikes: Array
    largest_current: Array
    clipped: Array


@dataclass(frozen=True)
class Recording:
    """Selects the values to record from a layer; see `LayerBlock`."""

    potentials: bool = False
    spikes: bool = False
    counts: bool = False
    currents: bool = False
    clipping: bool = False


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """One layer as simulated, in floating point or integers.

    Parameters
    ----------
    synapse
        The synapse, for inputs that are spikes (0 or 1) or pixels.
    input_shape, shape
        ``(C, H, W)`` or ``(N,)``: of the inputs before pooling, and of the neurons.
    takes_spikes
        Whether the inputs are spikes, not pixels.
    threshold, initial_potential
        ``(C,)``, or ``None`` if the layer only integrates.
    limit
        Limit at which a potential is clipped, or the u of a circuit wraps; infinite in floating point.
    neuron
        The neuron model.
    is_integer
        Whether all numbers are integers. Neurons then fire above threshold - 1, as in Lava's comparison: clipping at a
        non-integer limit can leave a fraction.
    pool
        Window of the pooling after the layer.
    fan_out
        In ``shape``: number of synapses from each neuron, equal within each window of ``pool``; ``None`` if unknown.
    """

    synapse: Synapse
    input_shape: Shape
    takes_spikes: bool
    shape: Shape
    threshold: Array | None
    initial_potential: Array | None
    limit: float
    neuron: NeuronModel
    is_integer: bool
    pool: Pair
    fan_out: Array | None

    @property
    def size(self) -> int:
        """Number of neurons of the layer."""
        return math.prod(self.shape)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(H, W, C); a vector is a map of one pixel."""
        channels, height, width = self.shape if len(self.shape) == 3 else (self.shape[0], 1, 1)
        return height, width, channels

    @property
    def thresholds(self) -> Array:
        """The value a spike subtracts: float32 ``(H W C,)``, finite, because infinity x 0 would be NaN."""
        finite = np.full(self.shape[0], np.inf) if self.threshold is None else self.threshold.astype(np.float64)
        return self._map(np.minimum(finite, np.finfo(np.float32).max))

    @property
    def levels(self) -> Array:
        """The level that the state must exceed for a neuron to fire: float32 ``(H W C,)``."""
        if self.threshold is None:
            return self._map(np.full(self.shape[0], np.inf))
        if self.neuron.is_circuit:
            return self._map(self.threshold - 1) - self.offsets
        if self.is_integer:
            return self._map(self.threshold - 1)
        # A float32 is >= the threshold if and only if it is > the next smaller float32.
        below = np.nextafter(self.thresholds, np.float32(-np.inf))
        return np.where(np.isfinite(self._map(self.threshold)), below, np.float32(np.inf))

    @property
    def biases(self) -> Array:
        """The biases: float32 ``(H W C,)``."""
        return self._map(np.zeros(self.shape[0]) if self.synapse.bias is None else self.synapse.bias)

    @property
    def initial_states(self) -> Array:
        """States before the first step: float32 ``(H W C,)``."""
        return self._map(self._initial_potential * (not self.neuron.is_circuit))

    @property
    def offsets(self) -> Array:
        """Potential minus state: float32 ``(H W C,)``."""
        return self._map(self._initial_potential * self.neuron.is_circuit)

    @property
    def _initial_potential(self) -> Array:
        return np.zeros(self.shape[0]) if self.initial_potential is None else self.initial_potential

    @property
    def pooled_fan_out(self) -> Array:
        """Synapses from each window of ``pool``: float64 ``(H', W' C)``, exact up to 2^53; empty if unknown."""
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


def integer_specs(network: QuantizedNetwork, neuron: NeuronModel, *, saturates: bool) -> list[LayerSpec]:
    """Return the layers of ``network``, as stored, as simulated."""
    limit = neuron.limit if saturates else math.inf
    synapses = [layer.synapse for layer in network.layers]
    fan_outs = [*network.fan_outs, None][: len(synapses)]
    specs = _specs(network, synapses, fan_outs, limit=limit, neuron=neuron, is_integer=True)
    return [_by_stock_lif(spec) for spec in specs] if neuron is NeuronModel.STOCK_LIF else specs


def _by_stock_lif(spec: LayerSpec) -> LayerSpec:
    """The layer as unmodified lava-dl reads it, see `ir.neuron_model`."""
    if spec.threshold is None and spec.synapse.bias is None:
        return replace(spec, neuron=NeuronModel.CIRCUIT, limit=limits.WRAPS_ABOVE)
    bias = None if spec.synapse.bias is None else spec.synapse.bias.astype(np.int16)
    threshold = np.array([limits.NEVER_FIRES] * spec.shape[0]) if spec.threshold is None else spec.threshold
    synapse = replace(spec.synapse, bias=bias)
    return replace(spec, synapse=synapse, threshold=threshold, initial_potential=None)


def float_specs(network: SpikingNetwork) -> list[LayerSpec]:
    """Return the layers of ``network`` as simulated."""
    synapses = []
    amplitude: Array | None = None
    for layer in network.layers:
        # Inputs are spikes (0 or 1): the amplitudes of the layer before become factors on the weights.
        synapses.append(layer.synapse if amplitude is None else layer.synapse.with_input_factors(amplitude))
        amplitude = None if layer.neuron is None else layer.neuron.amplitude
    neuron = NeuronModel(network.reset)
    return _specs(network, synapses, [None] * len(synapses), limit=math.inf, neuron=neuron, is_integer=False)


def _specs(
    network: SpikingNetwork | QuantizedNetwork,
    synapses: Sequence[Synapse],
    fan_outs: Sequence[Array | None],
    *,
    limit: float,
    neuron: NeuronModel,
    is_integer: bool,
) -> list[LayerSpec]:
    shapes = (network.input_shape, *network.shapes)
    pools = [*(synapse.pool for synapse in synapses[1:]), (1, 1)]
    return [
        LayerSpec(
            synapse=synapse,
            input_shape=input_shape,
            takes_spikes=index > 0 or network.poisson_seed is not None,
            shape=shape,
            threshold=None if layer.neuron is None else layer.neuron.threshold,
            initial_potential=None if layer.neuron is None else layer.neuron.initial_potential,
            limit=limit,
            neuron=neuron,
            is_integer=is_integer,
            pool=pool,
            fan_out=fan_out,
        )
        for index, (layer, synapse, input_shape, shape, pool, fan_out) in enumerate(
            zip(network.layers, synapses, shapes[:-1], shapes[1:], pools, fan_outs, strict=True)
        )
    ]
