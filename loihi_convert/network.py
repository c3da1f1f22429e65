"""The three networks of the pipeline and their layers. Arrays are read-only copies; shapes are computed, not stored.

============================  ====================  ================================================================
network                       made by               between two layers
============================  ====================  ================================================================
`ReluNetwork`                 `convert.convert`     ReLU; equals the CNN, batch norm folded
`SpikingNetwork`              `balance.balance`     integrate-and-fire neurons with real-valued thresholds
`QuantizedNetwork`            `quantize.quantize`   integrate-and-fire neurons in Loihi's integers; can be exported
============================  ====================  ================================================================

Axes: C H W for images and feature maps, ``(C_out, C_in / groups, K_h, K_w)`` and ``(N_out, N_in)`` for weights, as in
PyTorch. A layer is a synapse (`Conv` or `Dense`) and a neuron; the last layer has no neuron, it only integrates, and
its membrane potential is the output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loihi_convert import loihi
from loihi_convert.errors import InputError, RangeError

Array = npt.NDArray[Any]
Pair = tuple[int, int]
Shape = tuple[int, ...]
Reset = Literal["soft", "hard"]


def _read_only(array: Array) -> Array:
    copy = np.array(array, copy=True, order="C")
    copy.flags.writeable = False
    return copy


def _pooled(input_shape: Shape, pool: Pair) -> Shape:
    if pool == (1, 1):
        return input_shape
    channels, height, width = input_shape
    return channels, height // pool[0], width // pool[1]


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution (cross-correlation, as in PyTorch) behind an average pooling of its input.

    Parameters
    ----------
    weight
        ``(C_out, C_in / groups, K_h, K_w)``.
    bias
        ``(C_out,)``, ``(C_out, H_out, W_out)`` or ``None``; added at every time step.
    stride, padding, dilation
        (vertical, horizontal), in units of the pooled input.
    groups
        Number of channel groups.
    pool
        (vertical, horizontal) window = stride of the average pooling applied to the input first; (1, 1) is none.
    """

    weight: Array
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _read_only(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", _read_only(self.bias))

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0])

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(C_out, H_out, W_out)`` for an input of ``(C_in, H, W)`` before pooling."""
        if len(input_shape) != 3 or input_shape[0] != self.weight.shape[1] * self.groups:
            expected = self.weight.shape[1] * self.groups
            raise InputError(f"a convolution of {expected} input channels was given an input of shape {input_shape}")
        size = [
            (extent + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for extent, pad, dilation, kernel, stride in zip(
                _pooled(input_shape, self.pool)[1:],
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                self.stride,
                strict=True,
            )
        ]
        if min(size) < 1:
            raise InputError(f"a kernel of {self.weight.shape[2:]} does not fit into an input of shape {input_shape}")
        return (self.channels, *size)

    def fan_out(self, input_shape: Shape) -> Array:
        """Number of synapses of nonzero weight that leave each input neuron: int64 of ``input_shape``."""
        _, height, width = _pooled(input_shape, self.pool)
        _, out_height, out_width = self.output_shape(input_shape)
        grouped = (self.weight != 0).reshape(self.groups, -1, *self.weight.shape[1:])
        per_tap = grouped.sum(axis=1).reshape(-1, *self.weight.shape[2:])
        (pad_h, pad_w), (stride_h, stride_w) = self.padding, self.stride
        padded = np.zeros((input_shape[0], height + 2 * pad_h, width + 2 * pad_w), np.int64)
        for tap_h in range(per_tap.shape[1]):
            for tap_w in range(per_tap.shape[2]):
                top, left = tap_h * self.dilation[0], tap_w * self.dilation[1]
                rows = slice(top, top + (out_height - 1) * stride_h + 1, stride_h)
                columns = slice(left, left + (out_width - 1) * stride_w + 1, stride_w)
                padded[:, rows, columns] += per_tap[:, tap_h, tap_w, None, None]
        return _unpooled(padded[:, pad_h : pad_h + height, pad_w : pad_w + width], input_shape, self.pool)

    def without_pooling(self, input_shape: Shape) -> Conv:
        """The same integers from one strided convolution: conv(sumpool_k(s), w) has every tap of w repeated k x k.

        Exact where k divides the input's size or the convolution is not padded; `convert` admits nothing else.
        Dilation is written out as zeros in the kernel.
        """
        if self.pool == (1, 1):
            return self
        (pool_h, pool_w), (stride_h, stride_w), (pad_h, pad_w) = self.pool, self.stride, self.padding
        kernel_h, kernel_w = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))
        dilated = np.zeros((*self.weight.shape[:2], kernel_h, kernel_w), self.weight.dtype)
        dilated[:, :, :: self.dilation[0], :: self.dilation[1]] = self.weight
        return Conv(
            weight=dilated.repeat(pool_h, axis=2).repeat(pool_w, axis=3),
            bias=self.bias,
            stride=(stride_h * pool_h, stride_w * pool_w),
            padding=(pad_h * pool_h, pad_w * pool_w),
            groups=self.groups,
        )

    def with_input_factors(self, factors: Array) -> Conv:
        """The same convolution for inputs whose channel c counts ``factors[c]``: float, ``factors`` is ``(C_in,)``."""
        per_group = factors.reshape(self.groups, 1, -1, 1, 1)
        grouped = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
        return replace(self, weight=(grouped * per_group).reshape(self.weight.shape))


@dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected synapse behind an average pooling and a flattening (C, H, W order) of its input.

    Parameters
    ----------
    weight
        ``(N_out, N_in)``, ``N_in`` counted after pooling.
    bias
        ``(N_out,)`` or ``None``; added at every time step.
    pool
        As in `Conv`; needs an input of three axes.
    """

    weight: Array
    bias: Array | None = None
    pool: Pair = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _read_only(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", _read_only(self.bias))

    @property
    def channels(self) -> int:
        """Number of output neurons, each a channel of its own."""
        return int(self.weight.shape[0])

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(N_out,)`` for an input of ``(C, H, W)`` or ``(N,)`` before pooling."""
        found = math.prod(_pooled(input_shape, self.pool))
        if found != self.weight.shape[1]:
            raise InputError(
                f"a dense layer of {self.weight.shape[1]} inputs was given {found}, from an input of shape {input_shape}"
            )
        return (self.channels,)

    def fan_out(self, input_shape: Shape) -> Array:
        """Number of synapses of nonzero weight that leave each input neuron: int64 of ``input_shape``."""
        counts = np.count_nonzero(self.weight, axis=0).reshape(_pooled(input_shape, self.pool))
        return _unpooled(counts, input_shape, self.pool)

    def without_pooling(self, input_shape: Shape) -> Dense:
        """The same integers from one dense synapse: every weight stands at each input of its pooling window."""
        if self.pool == (1, 1):
            return self
        pooled = self.weight.reshape(-1, *_pooled(input_shape, self.pool))
        repeated = pooled.repeat(self.pool[0], axis=2).repeat(self.pool[1], axis=3)
        full = np.zeros((self.channels, *input_shape), self.weight.dtype)
        full[:, :, : repeated.shape[2], : repeated.shape[3]] = repeated
        return Dense(weight=full.reshape(self.channels, -1), bias=self.bias)

    def with_input_factors(self, factors: Array) -> Dense:
        """The same synapse for inputs whose channel c counts ``factors[c]``: float, ``factors`` is ``(C_in,)``."""
        return replace(self, weight=self.weight * np.repeat(factors, self.weight.shape[1] // factors.size))


Synapse = Conv | Dense


def _unpooled(counts: Array, input_shape: Shape, pool: Pair) -> Array:
    """Each pooled count at every input of its window; inputs that no window covers have none."""
    if pool == (1, 1):
        return counts.astype(np.int64)
    full = np.zeros(input_shape, np.int64)
    repeated = counts.repeat(pool[0], axis=1).repeat(pool[1], axis=2)
    full[:, : repeated.shape[1], : repeated.shape[2]] = repeated
    return full


@dataclass(frozen=True, eq=False)
class ReluLayer:
    """One synapse of the CNN; every layer but the last is followed by ReLU."""

    name: str
    synapse: Synapse


@dataclass(frozen=True, eq=False)
class ReluNetwork:
    """The CNN as a chain of synapses with ReLU between them.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``.
    layers
        In order; the last one is `Dense` and has no ReLU. Inputs are pixels / 255, in 0..1.
    """

    input_shape: Shape
    layers: tuple[ReluLayer, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer."""
        return _shapes(self.input_shape, tuple(layer.synapse for layer in self.layers))


@dataclass(frozen=True, eq=False)
class IntegrateAndFire:
    """Real-valued integrate-and-fire neurons, one set of numbers per channel: float64, each ``(C_out,)``.

    At each step ``V += I; s = [V >= threshold]``, then ``V -= threshold * s`` (soft reset; paper, eq. 1) or ``V = 0``
    where s = 1 (hard reset). The next layer receives ``amplitude * s``.

    Parameters
    ----------
    threshold
        Positive; infinite where the channel can never fire.
    amplitude
        What one spike is worth to the next layer: the threshold itself (compensated) or 1 (literal).
    initial_potential
        V before the first step; 0 <= V0 < threshold.
    """

    threshold: Array
    amplitude: Array
    initial_potential: Array

    def __post_init__(self) -> None:
        for name in ("threshold", "amplitude", "initial_potential"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class SpikingLayer:
    """A synapse with the CNN's own weights, and its neurons; ``neuron`` is None in the last layer."""

    name: str
    synapse: Synapse
    neuron: IntegrateAndFire | None


@dataclass(frozen=True, eq=False)
class SpikingNetwork:
    """The CNN with spiking neurons in real numbers, thresholds balanced for ``timesteps``.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``; inputs are pixels / 255, presented as a constant current.
    layers
        In order; the last one has no neuron.
    timesteps
        The latency T the thresholds were balanced for.
    reset
        ``"soft"`` or ``"hard"``.
    provenance
        How it was made, as plain JSON values; carried into the exported file.
    """

    input_shape: Shape
    layers: tuple[SpikingLayer, ...]
    timesteps: int
    reset: Reset
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer."""
        return _shapes(self.input_shape, tuple(layer.synapse for layer in self.layers))


@dataclass(frozen=True, eq=False)
class IntegerNeuron:
    """Integrate-and-fire neurons in weight units: integers, each ``(C_out,)``.

    At each step ``V = clip(V + I, -131071, 131071); s = [V >= threshold]``, then the reset of the network.

    Parameters
    ----------
    threshold
        1..131072; 131072 never fires.
    initial_potential
        0..threshold - 1.
    """

    threshold: Array
    initial_potential: Array

    def __post_init__(self) -> None:
        for name in ("threshold", "initial_potential"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer in Loihi's integers.

    Parameters
    ----------
    name
        The module's name in the CNN.
    synapse
        Integer weights and biases; pooling *sums* (the 1 / (k_h k_w) of the average is in ``scale``).
    neuron
        ``None`` in the last layer.
    scale
        ``(C_out,)``, float64: real potential = integer potential x scale.
    largest_input
        Largest value of one input: 2^p - 1 for p-bit pixels, 1 for spikes.
    balanced
        The real-valued neurons that ``neuron`` was rounded from; ``None`` in the last layer.
    """

    name: str
    synapse: Synapse
    neuron: IntegerNeuron | None
    scale: Array
    largest_input: int = 1
    balanced: IntegrateAndFire | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _read_only(self.scale))

    @property
    def weight(self) -> Array:
        return self.synapse.weight

    @property
    def bias(self) -> Array | None:
        return self.synapse.bias

    @property
    def threshold(self) -> Array | None:
        return None if self.neuron is None else self.neuron.threshold

    @property
    def initial_potential(self) -> Array | None:
        return None if self.neuron is None else self.neuron.initial_potential

    @property
    def largest_current(self) -> int:
        """A bound on every partial sum of a current, whatever the image: sum of |w| x largest input, plus |bias|."""
        per_channel = np.abs(self.weight.astype(np.int64)).reshape(self.synapse.channels, -1).sum(axis=1)
        bias = 0 if self.bias is None else int(np.abs(self.bias.astype(np.int64)).max(initial=0))
        return int(per_channel.max()) * math.prod(self.synapse.pool) * self.largest_input + bias


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network in Loihi's integers; one that breaks an exactness rule of `loihi.py` cannot be built.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``.
    layers
        In order; the last one has no neuron.
    timesteps
        The latency T the thresholds were balanced for.
    proven_timesteps
        Largest T for which the output potentials of the calibration images stay in range.
    pixel_bits
        p, 1..8: pixels enter as integers 0..2^p - 1.
    reset
        ``"soft"`` or ``"hard"``.
    provenance
        How it was made, as plain JSON values.
    """

    input_shape: Shape
    layers: tuple[QuantizedLayer, ...]
    timesteps: int
    proven_timesteps: int
    pixel_bits: int
    reset: Reset
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.pixel_bits <= loihi.MAX_PIXEL_BITS:
            raise RangeError(f"pixels of {self.pixel_bits} bits; allowed are 1..{loihi.MAX_PIXEL_BITS}")
        if not 1 <= self.timesteps <= self.proven_timesteps:
            raise RangeError(f"timesteps {self.timesteps} of {self.proven_timesteps} proven; allowed are 1..proven")
        for layer in self.layers:
            for rule in loihi.EXACTNESS_RULES:
                if found := rule(layer):
                    raise RangeError(f"{layer.name}: {rule.__name__.replace('_', ' ')} does not hold: {found}")
        for layer in self.layers[:-1]:
            if layer.neuron is None:
                raise RangeError(f"{layer.name}: a layer without neurons; only the last layer may only integrate")
        if self.layers[-1].neuron is not None:
            raise RangeError(f"{self.layers[-1].name}: the last layer has neurons; it must only integrate")
        if len(self.shapes[-1]) != 1:
            raise RangeError(f"{self.layers[-1].name}: the last layer is a convolution; it must be dense")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer."""
        return _shapes(self.input_shape, tuple(layer.synapse for layer in self.layers))

    def pixels(self, images: Array) -> Array:
        """uint8 images as the p-bit integers that enter the network: round(image / 255 x (2^p - 1)), uint8."""
        if self.pixel_bits == loihi.MAX_PIXEL_BITS:
            return images
        levels = 2**self.pixel_bits - 1
        return np.asarray((images.astype(np.uint16) * (2 * levels) + 255) // 510, np.uint8)


def _shapes(input_shape: Shape, synapses: tuple[Synapse, ...]) -> tuple[Shape, ...]:
    shapes = []
    for synapse in synapses:
        input_shape = synapse.output_shape(input_shape)
        shapes.append(input_shape)
    return tuple(shapes)
