"""Integrate-and-fire simulation in torch, batched: real numbers and Loihi's integers by the same few lines.

For layer l with synapse W and step t = 1..T (paper, eq. 1 and 2, algorithm 3)::

    I[l](t) = W[l] x                        first layer: the constant current of the image
    I[l](t) = W[l] (amplitude * s[l-1](t))  later layers
    V[l](t) = clip(V[l](t-1) + I[l](t))     clipping at +-131071 for integers only
    s[l](t) = [V[l](t) >= threshold[l]]     no spikes in a last layer that only integrates
    V[l](t) = V - threshold * s  (soft)     or  0 where s  (hard)

Integers are held in float32, exactly: the exactness rules of `loihi.py` bound every partial sum of a current by 2^23,
and a potential by 2^17, so every number on the way is an integer below 2^24, whatever the order of summation. Lava's
own LIF (hard reset) has 6 bits below 1, which only its clipping fills; its currents are below 2^17: 24 bits again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert import loihi
from loihi_convert.network import QuantizedNetwork, ReluNetwork, SpikingNetwork
from loihi_convert.progress import Progress, silent
from loihi_convert.synapse import Array, Conv, Shape, Synapse

LARGEST_PIXEL: Final = 255

# Neurons simulated side by side: few enough that one step's potentials, currents and spikes stay in cache.
_NEURONS_PER_BATCH: Final = 2**20


@dataclass(frozen=True, eq=False)
class LayerState:
    """One layer right after a step. The tensors are reused by the next step: copy what you keep.

    Parameters
    ----------
    current
        ``(B, *shape)``, float32: I(t).
    spikes
        ``(B, *shape)``, float32 0 / 1; ``None`` where the last layer only integrates.
    potential
        ``(B, *shape)``, float32, after the reset.
    clipped
        ``(B, 2)``, bool: whether any neuron of the image ran into the lower / the upper limit in this step; ``None``
        unless asked for.
    """

    current: Tensor
    spikes: Tensor | None
    potential: Tensor
    clipped: Tensor | None


class Simulator:
    """Runs a `SpikingNetwork` or a `QuantizedNetwork` step by step.

    Parameters
    ----------
    network
        The network; its arrays are copied into tensors once.
    watch_clipping
        Fill `LayerState.clipped` (integers only; costs a pass over the potentials).
    """

    def __init__(self, network: SpikingNetwork | QuantizedNetwork, *, watch_clipping: bool = False) -> None:
        self._network = network
        self._limit: float | None = None
        if isinstance(network, QuantizedNetwork):
            self._limit = loihi.POTENTIAL_LIMIT if network.reset == "soft" else loihi.LIF_POTENTIAL_LIMIT
        self._watch_clipping = watch_clipping and self._limit is not None
        self._layers = _quantized_layers(network) if isinstance(network, QuantizedNetwork) else _real_layers(network)

    @property
    def batch_size(self) -> int:
        """A number of images that keeps a step in cache."""
        return _batch_size(self._network.shapes)

    @torch.inference_mode()
    def steps(self, images: Array, timesteps: int) -> Iterator[tuple[LayerState, ...]]:
        """Yield the states of all layers after each of ``timesteps`` steps for uint8 ``images``, ``(B, C, H, W)``."""
        if isinstance(self._network, QuantizedNetwork):
            inputs = torch.from_numpy(self._network.pixels(images).astype(np.float32))
        else:
            inputs = torch.from_numpy(images.astype(np.float32)) / LARGEST_PIXEL
        constant = self._layers[0].synapse(inputs)
        potentials = [layer.initial_potential(len(images)) for layer in self._layers]
        for _ in range(timesteps):
            states: list[LayerState] = []
            current = constant
            for layer, potential in zip(self._layers, potentials, strict=True):
                if states:
                    current = layer.synapse(states[-1].spikes)
                potential += current
                clipped = self._clip(potential)
                spikes = layer.fire(potential, self._network.reset)
                states.append(LayerState(current, spikes, potential, clipped))
            yield tuple(states)

    def _clip(self, potential: Tensor) -> Tensor | None:
        if self._limit is None:
            return None
        clipped = None
        if self._watch_clipping:
            flat = potential.flatten(1)
            clipped = torch.stack((flat.amin(1) < -self._limit, flat.amax(1) > self._limit), dim=1)
        potential.clamp_(-self._limit, self._limit)
        return clipped


@torch.inference_mode()
def relu_outputs(network: ReluNetwork, images: Array) -> Iterator[tuple[Tensor, ...]]:
    """Yield, batch by batch, every layer's activation (after ReLU; the last one without) for uint8 ``images``."""
    shapes = (network.input_shape, *network.shapes)
    operators = [
        _Operator(layer.synapse, shape, averages=True) for layer, shape in zip(network.layers, shapes[:-1], strict=True)
    ]
    for batch in batches(images, _batch_size(network.shapes)):
        signal = torch.from_numpy(batch.astype(np.float32)) / LARGEST_PIXEL
        outputs = []
        for operator in operators:
            signal = operator(signal)
            if operator is not operators[-1]:
                signal = signal.relu_()
            outputs.append(signal)
        yield tuple(outputs)


def outputs(network: SpikingNetwork, images: Array, timesteps: int, *, progress: Progress = silent) -> Array:
    """Return what the class is read from after each step: float32 ``(N, T, classes)`` for uint8 ``images``.

    The last layer's potential, or, where it has neurons, how often each has fired since the first step.
    """
    simulator = Simulator(network)
    found = np.empty((len(images), timesteps, *network.shapes[-1]), np.float32)
    done = 0
    for batch in batches(images, simulator.batch_size):
        for step, states in enumerate(simulator.steps(batch, timesteps)):
            last = states[-1]
            read = last.potential if last.spikes is None else last.spikes
            found[done : done + len(batch), step] = read.numpy()
        done += len(batch)
        progress(done, len(images))
    return found if network.readout == "potential" else found.cumsum(axis=1)


@torch.inference_mode()
def currents(synapse: Synapse, inputs: Array, *, averages: bool) -> Array:
    """Return the input current of each neuron: float32 ``(B, *shape)`` for inputs ``(B, C, H, W)``.

    ``averages`` says what pooling does: average (real numbers) or sum (integers).
    """
    operator = _Operator(synapse, inputs.shape[1:], averages=averages)
    return operator(torch.from_numpy(inputs.astype(np.float32))).numpy()


@dataclass(frozen=True, eq=False)
class Extremes:
    """The largest values of a simulation.

    Parameters
    ----------
    currents
        Per layer the largest input current of each channel at any image, position and step: float64 ``(C_out,)``.
    output
        The largest magnitude of an output potential after any step.
    """

    currents: tuple[Array, ...]
    output: float


def extremes(network: SpikingNetwork, images: Array, timesteps: int, *, progress: Progress = silent) -> Extremes:
    """Return the largest currents and output potential of uint8 ``images`` in ``timesteps`` steps."""
    simulator = Simulator(network)
    largest = [torch.full((layer.synapse.channels,), -torch.inf) for layer in network.layers]
    output = 0.0
    done = 0
    for batch in batches(images, simulator.batch_size):
        for step, states in enumerate(simulator.steps(batch, timesteps)):
            for index, state in enumerate(states):
                # The first layer's current is constant: one step shows it.
                if index > 0 or step == 0:
                    largest[index] = torch.maximum(largest[index], channel_maxima(state.current))
            output = max(output, float(channel_maxima(states[-1].potential.abs()).amax()))
        done += len(batch)
        progress(done, len(images))
    return Extremes(tuple(peak.to(torch.float64).numpy() for peak in largest), output)


def clipped_images(network: QuantizedNetwork, images: Array, timesteps: int, *, progress: Progress = silent) -> Array:
    """Return on how many images some potential passed its lower / upper limit: int64 ``(layers, 2)``."""
    simulator = Simulator(network, watch_clipping=True)
    counts = torch.zeros(len(network.layers), 2, dtype=torch.int64)
    done = 0
    for batch in batches(images, simulator.batch_size):
        seen = torch.zeros(len(network.layers), len(batch), 2, dtype=torch.bool)
        for states in simulator.steps(batch, timesteps):
            for index, state in enumerate(states):
                if state.clipped is not None:
                    seen[index] |= state.clipped
        counts += seen.sum(1)
        done += len(batch)
        progress(done, len(images))
    return counts.numpy()


def channel_maxima(values: Tensor) -> Tensor:
    """``(C,)``: the largest value of each channel of ``(B, C, ...)``."""
    # Along the contiguous axis first: a reduction over (0, 2, 3) at once is 80 times slower.
    return values.reshape(*values.shape[:2], -1).amax(2).amax(0)


def batches(images: Array, size: int) -> Iterator[Array]:
    """Yield ``images`` in slices of at most ``size``."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _batch_size(shapes: tuple[Shape, ...]) -> int:
    return max(1, _NEURONS_PER_BATCH // max(math.prod(shape) for shape in shapes))


class _Operator:
    """A synapse as a function of a batch: sum-pool, then convolve or multiply, then add the bias."""

    def __init__(self, synapse: Synapse, input_shape: Shape, *, averages: bool) -> None:
        self._synapse = synapse
        weight = synapse.weight / math.prod(synapse.pool) if averages else synapse.weight
        with np.errstate(over="ignore"):
            self._weight = torch.from_numpy(weight.astype(np.float32))
        self._bias = None if synapse.bias is None else torch.from_numpy(synapse.bias.astype(np.float32))
        self.output_shape = synapse.output_shape(input_shape)

    def __call__(self, signal: Tensor | None) -> Tensor:
        assert signal is not None
        synapse, per_channel = self._synapse, self._bias if self._bias is not None and self._bias.ndim == 1 else None
        if synapse.pool != (1, 1):
            signal = functional.avg_pool2d(signal, synapse.pool, divisor_override=1)
        if isinstance(synapse, Conv):
            current = functional.conv2d(
                signal, self._weight, per_channel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups
            )
        else:
            current = functional.linear(signal.flatten(1), self._weight, per_channel)
        return current if self._bias is None or per_channel is not None else current + self._bias


class _Layer:
    """An operator and the numbers of its neurons, shaped to broadcast over a batch."""

    def __init__(
        self, synapse: _Operator, threshold: Array | None, initial_potential: Array | None, *, integers: bool
    ) -> None:
        self.synapse = synapse
        self._integers = integers
        self._threshold = None if threshold is None else self._per_channel(threshold)
        self._initial = None if initial_potential is None else self._per_channel(initial_potential)

    def _per_channel(self, values: Array) -> Tensor:
        # Infinity times no spike would be NaN.
        finite = np.minimum(values.astype(np.float64), np.finfo(np.float32).max).astype(np.float32)
        return torch.from_numpy(finite).reshape(1, -1, *(1,) * (len(self.synapse.output_shape) - 1))

    def initial_potential(self, batch_size: int) -> Tensor:
        potential = torch.zeros(batch_size, *self.synapse.output_shape)
        return potential if self._initial is None else potential + self._initial

    def fire(self, potential: Tensor, reset: str) -> Tensor | None:
        """Return the spikes of ``potential`` and reset it in place."""
        if self._threshold is None:
            return None
        # For integers the same; where clipping left a fraction, as Lava's LIF compares: v > vThMant.
        fires = potential > self._threshold - 1 if self._integers else potential >= self._threshold
        spikes = fires.to(torch.float32)
        if reset == "soft":
            potential.addcmul_(spikes, self._threshold, value=-1)
        else:
            potential.mul_(1 - spikes)
        return spikes


def _real_layers(network: SpikingNetwork) -> list[_Layer]:
    layers = []
    input_shape: Shape = network.input_shape
    amplitude: Array | None = None
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        synapse = layer.synapse if amplitude is None else layer.synapse.with_input_factors(amplitude)
        operator = _Operator(synapse, input_shape, averages=True)
        if layer.neuron is None:
            layers.append(_Layer(operator, None, None, integers=False))
        else:
            layers.append(_Layer(operator, layer.neuron.threshold, layer.neuron.initial_potential, integers=False))
            amplitude = layer.neuron.amplitude
        input_shape = shape
    return layers


def _quantized_layers(network: QuantizedNetwork) -> list[_Layer]:
    shapes = (network.input_shape, *network.shapes)
    return [
        _Layer(_Operator(layer.synapse, shape, averages=False), layer.threshold, layer.initial_potential, integers=True)
        for layer, shape in zip(network.layers, shapes[:-1], strict=True)
    ]
