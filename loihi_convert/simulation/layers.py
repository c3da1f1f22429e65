"""One layer as simulated: its numbers, what is recorded, and its steps on a CPU, or a GPU or another torch device.

Axes: B images, T steps, H W C with channels last, so that a row of a map is one vector of W C neurons. Tensors are on
the device; on a CPU they share memory with NumPy arrays.

For each neuron and step t (paper, eq. 1 and 2)::

    V(t) = clip(V(t-1) + I(t) + bias, -limit, limit)    no limit in floating point
    s(t) = [V(t) >= threshold]
    V(t) = V - threshold s  (soft)     or  0 where s  (hard)

or the equations of the circuit in `ir.neuron_model`; `one_step` is a step of any model in plain tensors. On a CPU the
loops of `neuron_kernels.py` do all steps of many images in one pass.

Spikes leave a layer already summed over the windows of the average pooling after it, in the format that the next
synapse takes (`currents.py`).

On a GPU the integers are the same, because every sum is one of float32 numbers below 2^24. A convolution is computed as
a matrix product (im2col), since cuDNN may choose transforms (Winograd, Fourier), which round. TF32, which rounds
operands, is switched off meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation import neuron_kernels as kernels
from loihi_convert.simulation.currents import (
    Geometry,
    convolution_of,
    convolved_by_product,
    exact_products,
    pooled_maps,
    sum_dtype,
)


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


class Neurons(NamedTuple):
    """The neurons of a layer: their model, and their numbers, float32 ``(H W C,)``, arrays or tensors.

    Parameters
    ----------
    limit
        As in `LayerSpec`.
    threshold
        The value a spike subtracts; finite, because infinity x 0 would be NaN.
    level
        What the state must exceed for a neuron to fire.
    initial
        States before the first step.
    offset
        Potential minus state.
    """

    model: NeuronModel
    limit: float
    bias: Any
    threshold: Any
    level: Any
    initial: Any
    offset: Any

    def on(self, device: str) -> Neurons:
        """Return them as tensors on ``device``."""
        model, limit, *numbers = self
        return Neurons(model, limit, *(torch.from_numpy(array).to(device) for array in numbers))


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
    def neurons(self) -> Neurons:
        """The numbers of the neurons."""
        channels = self.shape[0]
        threshold = np.full(channels, np.inf) if self.threshold is None else self.threshold
        spent = self._map(np.minimum(threshold.astype(np.float64), np.finfo(np.float32).max))
        initial = self._map(np.zeros(channels) if self.initial_potential is None else self.initial_potential)
        offset = initial * np.float32(self.neuron.is_circuit)
        if self.is_integer:
            level = self._map(threshold - 1) - offset
        else:
            # A float32 is >= the threshold if and only if it is > the next smaller float32.
            is_finite = np.isfinite(self._map(threshold))
            level = np.where(is_finite, np.nextafter(spent, np.float32(-np.inf)), np.float32(np.inf))
        bias = self._map(np.zeros(channels) if self.synapse.bias is None else self.synapse.bias)
        return Neurons(self.neuron, self.limit, bias, spent, level, initial - offset, offset)

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
    specs = _specs(network, [layer.synapse for layer in network.layers], neuron, network.fan_outs)
    if not saturates:
        specs = [replace(spec, limit=math.inf) for spec in specs]
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
    return _specs(network, synapses, NeuronModel(network.reset))


def _specs(
    network: SpikingNetwork | QuantizedNetwork,
    synapses: Sequence[Synapse],
    neuron: NeuronModel,
    fan_outs: Sequence[Array] | None = None,
) -> list[LayerSpec]:
    """The layers of ``network`` with ``synapses``; its numbers are integers if ``fan_outs`` are given."""
    shapes, neurons = (network.input_shape, *network.shapes), [layer.neuron for layer in network.layers]
    is_integer, pools = fan_outs is not None, [*(synapse.pool for synapse in synapses[1:]), (1, 1)]
    return [
        LayerSpec(
            synapse=synapse,
            input_shape=shapes[index],
            takes_spikes=index > 0 or network.poisson_seed is not None,
            shape=shapes[index + 1],
            threshold=getattr(neurons[index], "threshold", None),
            initial_potential=getattr(neurons[index], "initial_potential", None),
            limit=neuron.limit if is_integer else math.inf,
            neuron=neuron,
            is_integer=is_integer,
            pool=pools[index],
            fan_out=fan_outs[index] if fan_outs and index < len(fan_outs) else None,
        )
        for index, synapse in enumerate(synapses)
    ]


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


class CpuLayer:
    """The layer ``spec``, a synapse and its neurons, on a CPU."""

    def __init__(self, spec: LayerSpec) -> None:
        self._synapse = convolution_of(
            spec.synapse, spec.input_shape, averages=not spec.is_integer, takes_spikes=spec.takes_spikes
        )
        self._shape, self._count, self._pool = spec.map_shape, spec.size, spec.pool
        height, width, channels = spec.map_shape
        self._dtype = np.dtype(sum_dtype(spec.pool))
        # Spikes of neurons outside all windows are counted, although no layer receives them.
        has_remainder = height % spec.pool[0] > 0 or width % spec.pool[1] > 0
        columns = width if has_remainder else width // spec.pool[1]
        most = max(1, _COUNTERS // channels)
        self._counters = channels * max(part for part in range(1, most + 1) if columns % part == 0)
        limit = np.float32(spec.limit)
        # Rows simulated together over all steps, a whole number of windows.
        row = width * channels
        rows = min(-(-height // spec.pool[0]), max(1, kernels.TILE // (row * spec.pool[0]))) * spec.pool[0]
        self._tile, bias, fan_out = rows * row, spec.synapse.bias, spec.pooled_fan_out.reshape(-1)
        is_small = fan_out.max(initial=0) * self._tile <= 2**24
        # Spikes are summed over windows in machine words, each holding the bytes of several channels. Words of eight
        # would be hardly faster, and loops for one more type would have to be compiled.
        lanes = 4 if channels % 4 == 0 else 1
        self._word = np.dtype(f"u{lanes}") if self._dtype == np.uint8 else self._dtype
        words = channels * self._dtype.itemsize // self._word.itemsize
        column, word = np.divmod(np.arange(width // spec.pool[1] * words), words)
        neurons, tile = spec.neurons, slice(self._tile)
        self._initial = neurons.initial
        self._layer = kernels.Layer(
            bias=neurons.bias[tile] if bias is None or bias.ndim == 1 else neurons.bias,
            level=neurons.level[tile],
            threshold=neurons.threshold[tile],
            offset=neurons.offset[tile],
            initial=neurons.initial[tile],
            fan_out=fan_out.astype(np.float32) if is_small else fan_out,
            limit=limit,
            # Lava's u wraps already at -2^17.
            lowest=np.nextafter(-limit, np.float32(0)) if spec.neuron.is_circuit else -limit,
            kind=_KINDS[spec.neuron],
            height=height,
            rows=rows,
            window=spec.pool,
            left=column * spec.pool[1] * words + word,
            words=words,
            has_remainder=has_remainder,
        )
        # Compile here, in one thread: NumPy's lazy imports, which numba triggers, are not thread-safe.
        self.fire(None, torch.empty(0, 1, self._count, dtype=torch.float32, device="cpu"), 1, Recording())

    def currents_of(self, inputs: Tensor) -> Tensor:
        """Return float32 ``(B, T, neurons)``, without bias, for pooled inputs ``(B, T, H', W', C)`` on any device."""
        maps = inputs.numpy()
        currents = self._synapse(maps.reshape(-1, *maps.shape[2:]))
        return torch.from_numpy(currents.reshape(*maps.shape[:2], -1))

    def initial_states(self, images: int) -> Tensor:
        """Return the state before the first step, the potential or the circuit's u: float32 ``(images, neurons)``."""
        return torch.from_numpy(np.tile(self._initial, (images, 1)))

    def fire(
        self, states: Tensor | None, currents: Tensor, steps: int, recording: Recording
    ) -> tuple[Tensor, LayerBlock]:
        """Advance ``states``, in place, by ``steps`` steps; return the spikes for the next layer, and the record.

        Parameters
        ----------
        states
            float32 ``(B, neurons)``: potentials, or the circuit's u as carried over to the next step. None: those
            before the first step, if no call goes on from the last one; they then take no memory.
        currents
            float32 ``(B, steps, neurons)``, or ``(B, 1, neurons)`` if they are constant; without the bias.

        Returns
        -------
        tuple
            ``(B, T, H', W', C)``, uint8 or float32: spikes, summed over each window of the pooling after the layer; and
            the recorded values.
        """
        images, maps, (pool_h, pool_w) = len(currents), self._shape, self._pool
        windows = (maps[0] // pool_h, maps[1] // pool_w, maps[2])
        pooled = np.empty((images, steps, math.prod(windows)), self._dtype)
        recorded = (images, steps, self._count)
        fired = np.empty(self._tile, self._dtype)
        counts = np.zeros((2, *recorded[:2]) if recording.counts else (2, 0, 0), np.int64)
        counters = np.zeros((steps if recording.counts else 0, self._counters), np.int32)
        kept = np.empty(recorded if recording.potentials else (0, 0, 0), np.float32)
        spikes = np.empty(recorded if recording.spikes else (0, 0, 0), self._dtype)
        largest = np.full(self._count if recording.currents else 0, -np.inf, np.float32)
        clipped = np.zeros((images, 2) if recording.clipping else (0, 2), np.bool_)
        kernels.fire(
            np.empty((0, 0), np.float32) if states is None else states.numpy(),
            currents.numpy(),
            self._layer,
            kernels.Spikes(fired, fired.view(self._word), pooled, pooled.view(self._word)),
            kernels.Records(counts, counters, kept, spikes, largest, clipped),
        )
        per_channel = counters.reshape(len(counters), self._counters // maps[2], maps[2])
        block = LayerBlock(
            potentials=kept.reshape(*kept.shape[:2], *maps),
            spikes=spikes.reshape(*spikes.shape[:2], *maps),
            spike_counts=counts[0],
            synaptic_operations=counts[1],
            channel_spikes=np.asarray(per_channel.sum(axis=1, dtype=np.int64)),
            largest_current=largest.reshape(-1, maps[2]).max(axis=0, initial=-np.inf),
            clipped=clipped,
        )
        return torch.from_numpy(pooled.reshape(images, steps, *windows)), block


# Largest im2col matrix, in numbers.
_COLUMNS = 2**27


class Step(NamedTuple):
    """Neurons after one step: states for the next one, potentials after the reset, and which of them fired."""

    states: Tensor
    potentials: Tensor
    spikes: Tensor


def one_step(neurons: Neurons, states: Tensor, currents: Tensor) -> Step:
    """Return neurons after one step: the equations of `ir.neuron_model`, which `neuron_kernels.py` must equal.

    ``states``, V or the circuit's u, and ``currents``, I(t), are ``(B, neurons)``.
    """
    model, limit = neurons.model, neurons.limit
    v = states + (currents + neurons.bias)
    if not model.is_circuit:
        v = v.clamp(-limit, limit)
        fires = v > neurons.level
        v = torch.where(fires, v - neurons.threshold if model.reset == "soft" else 0, v)
        return Step(v, v, fires)
    u = torch.where(v > limit, v - 2 * limit, v)
    u = torch.where(u <= -limit, u + 2 * limit, u)
    fires = u > neurons.level
    spent = torch.where(fires, neurons.threshold, 0)
    decayed = u
    if model.leaks:
        units = 1 << limits.UNIT_EXP
        decayed = u - u.sign() * (u.abs() * units / limits.MAX_DECAY).ceil() / units
    return Step(decayed - spent, u + neurons.offset - spent, fires)


class GpuLayer:
    """A synapse and its neurons on a GPU; methods as in `CpuLayer`."""

    def __init__(self, spec: LayerSpec, device: str) -> None:
        synapse = spec.synapse
        weight = synapse.weight if spec.is_integer else synapse.weight / math.prod(synapse.pool)
        self._device = device
        self._geometry: Geometry | None = None
        if isinstance(synapse, Conv):
            self._geometry = Geometry(synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        else:
            # From C, H, W order to H, W, C.
            height, width, channels = pooled_maps(spec.input_shape, synapse.pool)
            weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        with np.errstate(over="ignore"):
            self._kernel = torch.from_numpy(weight.astype(np.float32, order="C")).to(device)
        self._map_shape, self._pool = spec.map_shape, spec.pool
        self._neurons = spec.neurons.on(device)
        self._fan_out = torch.from_numpy(spec.pooled_fan_out).to(device).flatten()

    def currents_of(self, inputs: Tensor) -> Tensor:
        """See `CpuLayer.currents_of`."""
        maps = inputs.reshape(-1, *inputs.shape[2:]).to(self._device, torch.float32)
        return self._currents(maps).reshape(*inputs.shape[:2], -1)

    def _currents(self, maps: Tensor) -> Tensor:
        """float32 ``(N, H_out, W_out, C_out)``, or ``(N, C_out)`` of a dense synapse, for float32 ``(N, H, W, C)``."""
        with exact_products(self._device):
            if self._geometry is None:
                return maps.flatten(1) @ self._kernel.flatten(1).T
            at_once = max(1, _COLUMNS // (maps[0].numel() * math.prod(self._kernel.shape[2:])))
            parts = (maps[start : start + at_once].permute(0, 3, 1, 2) for start in range(0, len(maps), at_once))
            found = torch.cat([convolved_by_product(part, self._kernel, self._geometry) for part in parts])
            return found.permute(0, 2, 3, 1)

    def initial_states(self, images: int) -> Tensor:
        """See `CpuLayer.initial_states`."""
        initial: Tensor = self._neurons.initial.repeat(images, 1)
        return initial

    def fire(
        self, states: Tensor | None, currents: Tensor, steps: int, recording: Recording
    ) -> tuple[Tensor, LayerBlock]:
        """See `CpuLayer.fire`."""
        states = self.initial_states(len(currents)) if states is None else states
        (images, neurons), bias = states.shape, self._neurons.bias
        whole, channels = (images, steps, *self._map_shape), self._map_shape[2]
        # Whatever torch's default dtype is.
        spikes = torch.empty(images, steps, neurons, dtype=torch.float32, device=states.device)
        kept = torch.empty_like(spikes if recording.potentials else spikes[:0])
        clipped = torch.zeros(images, 2, dtype=torch.bool, device=states.device)
        for step in range(steps):
            current = currents[:, min(step, currents.shape[1] - 1)]
            if recording.clipping:
                reached, limit = states + (current + bias), self._neurons.limit
                low = reached <= -limit if self._neurons.model.is_circuit else reached < -limit
                clipped[:, 0] |= low.any(1)
                clipped[:, 1] |= (reached > limit).any(1)
            done = one_step(self._neurons, states, current)
            spikes[:, step] = done.spikes
            states.copy_(done.states)
            if recording.potentials:
                kept[:, step] = done.potentials
        pooled = self._summed(spikes.reshape(whole))
        counted = images if recording.counts else 0
        fired = spikes.reshape(whole)[:counted].sum((2, 3), dtype=torch.float64).long().cpu()
        operations = torch.zeros(counted, steps, dtype=torch.float64)
        if len(self._fan_out):
            operations = pooled[:counted].flatten(2).double() @ self._fan_out
        received = currents[: images if recording.currents else 0] + bias
        largest = torch.cat([received.reshape(-1, channels), states.new_full((1, channels), -math.inf)]).amax(0)
        block = LayerBlock(
            potentials=kept.reshape(len(kept), *whole[1:]).cpu().numpy(),
            spikes=spikes.reshape(whole)[: images if recording.spikes else 0].cpu().numpy(),
            spike_counts=fired.sum(2).numpy(),
            synaptic_operations=operations.long().cpu().numpy(),
            channel_spikes=fired.sum(0).numpy(),
            largest_current=largest.cpu().numpy(),
            clipped=clipped.cpu().numpy(),
        )
        return pooled, block

    def _summed(self, spikes: Tensor) -> Tensor:
        """``(B, T, H', W', C)``: spikes summed over each window of the pooling after the layer."""
        (pool_h, pool_w), (height, width, channels) = self._pool, self._map_shape
        rows, columns = height // pool_h, width // pool_w
        covered = spikes[:, :, : rows * pool_h, : columns * pool_w]
        return covered.reshape(*spikes.shape[:2], rows, pool_h, columns, pool_w, channels).sum((3, 5))


DeviceLayer: TypeAlias = CpuLayer | GpuLayer
"""A layer on its device."""


def layers_on(device: str, specs: Sequence[LayerSpec]) -> Sequence[DeviceLayer]:
    """Return the layers ``specs`` on ``device``."""
    return [CpuLayer(spec) if device == "cpu" else GpuLayer(spec, device) for spec in specs]


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
        """The factor on the rate that minimizes the error, ``(G, C)``; 1 if nothing fires."""
        # With r the rate and x the activation, sum (f r - x)^2 is smallest at f = sum r x / sum r^2.
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
    """Return the errors of firing rates over T steps against ``activations``, float32 ``(B, neurons)``.

    ``currents``, without the bias, are as in `CpuLayer.fire`. There is one result for each of ``thresholds``, positive,
    and ``initial_potentials``, float64 ``(G, C)``, which replace those of ``spec``.
    """
    repeats = spec.size // thresholds.shape[1]
    tried, initial = (np.tile(values.astype(np.float32), (1, repeats)) for values in (thresholds, initial_potentials))
    errors, squares = np.zeros(tried.shape), np.zeros(tried.shape)
    below = np.nextafter(tried, np.float32(-np.inf))
    is_soft, bias = spec.neuron.reset == "soft", spec.neurons.bias
    kernels.rate_errors(currents, bias, activations, tried, below, initial, is_soft, timesteps, errors, squares)
    wanted = np.square(activations, dtype=np.float64).sum(axis=0, keepdims=True)
    by_channel = (sums.reshape(len(sums), repeats, -1).sum(axis=1) for sums in (errors, squares, wanted))
    errors, squares, wanted = by_channel
    return RateErrors(errors, squares, wanted[0])
