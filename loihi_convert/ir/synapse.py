"""Synapses: the linear maps from input spikes to input current, and their exact geometry.

Axes: C H W for images and feature maps, ``(C_out, C_in / groups, K_h, K_w)`` and ``(N_out, N_in)`` for weights, as in
PyTorch. The same classes hold floats and integers. Arrays are read-only copies; shapes are computed, not stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loihi_convert.errors import InputError
from loihi_convert.ground.arrays import Array, Pair, Shape, by_channel, freeze

if TYPE_CHECKING:
    from typing_extensions import Self


def pooled_shape(input_shape: Shape, pool: Pair) -> Shape:
    """Return the shape of ``(C, H, W)`` after pooling; with pool (1, 1) any shape, unchanged."""
    if pool == (1, 1):
        return input_shape
    channels, height, width = input_shape
    return channels, height // pool[0], width // pool[1]


def ungrouped(weight: Array, groups: int) -> Array:
    """Return the kernel in one group, with zeros between the groups of ``weight``."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    _, outputs, inputs, *kernel = grouped.shape
    full, each = np.zeros((groups, outputs, groups, inputs, *kernel), weight.dtype), np.arange(groups)
    full[each, :, each] = grouped
    return full.reshape(groups * outputs, groups * inputs, *kernel)


def undilated(weight: Array, dilation: Pair) -> Array:
    """Return the kernel with zeros between its taps instead of a dilation."""
    if dilation == (1, 1):
        return weight
    size = (d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True))
    full = np.zeros((*weight.shape[:2], *size), weight.dtype)
    full[:, :, :: dilation[0], :: dilation[1]] = weight
    return full


@dataclass(frozen=True, eq=False)
class _Weighted:
    weight: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        freeze(self, "weight", "bias")

    @property
    def channels(self) -> int:
        """Number of output channels, which are single neurons in a dense synapse."""
        return int(self.weight.shape[0])

    def with_added_bias(self, bias: Array) -> Self:
        """Return the synapse with ``bias``, ``(C_out,)``, added to its own."""
        return replace(self, bias=bias if self.bias is None else self.bias + by_channel(bias, self.bias.ndim))


@dataclass(frozen=True, eq=False)
class Conv(_Weighted):
    """A convolution (cross-correlation, as in PyTorch), after an average pooling of its input.

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
        (vertical, horizontal) window and stride of the average pooling applied to the input first; (1, 1) for none.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return ``(C_out, H_out, W_out)`` for an input of ``(C_in, H, W)`` before pooling."""
        is_grouped = self.groups > 0 and self.channels % self.groups == 0
        if not is_grouped or min(*self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            geometry = f"stride {self.stride}, dilation {self.dilation}, padding {self.padding}"
            found = f"found {self.groups} groups of {self.channels} channels, {geometry}"
            expected = "must have groups that divide its channels, stride and dilation >= 1, padding >= 0"
            raise InputError(found, where="a convolution", expected=expected)
        found, where = f"found {input_shape}", "input of a convolution"
        if len(input_shape) != 3 or input_shape[0] != self.weight.shape[1] * self.groups:
            expected = f"must have {self.weight.shape[1] * self.groups} channels, (C, H, W)"
            raise InputError(found, where=where, expected=expected)
        pooled = pooled_shape(input_shape, self.pool)[1:]
        size = [
            (extent + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for extent, pad, dilation, kernel, stride in zip(
                pooled, self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        ]
        if min(*pooled, *size) < 1:
            expected = f"must be at least as large as the kernel {self.weight.shape[2:]}"
            raise InputError(found, where=where, expected=expected)
        for axis, (extent, pool) in enumerate(zip(input_shape[1:], self.pool, strict=True)):
            if extent % pool == 0:
                continue
            places = np.arange(size[axis]) * self.stride[axis] - self.padding[axis]
            taps = np.flatnonzero(self.weight.any(axis=(0, 1, 3 - axis))) * self.dilation[axis]
            if (places[:, np.newaxis] + taps == pooled[axis]).any():
                # In `without_pooling`, which runs on Lava, these zeros would be the rows that pooling leaves out.
                expected = f"must be divisible by the pooling {self.pool}"
                raise InputError(found, where="input of a padded convolution", expected=expected)
        _require_bias(self.bias, (self.channels, *size))
        return (self.channels, *size)

    def fan_out(self, input_shape: Shape) -> Array:
        """Return the number of nonzero synapses from each input neuron: int64 ``input_shape``."""
        _, height, width = pooled_shape(input_shape, self.pool)
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

    def fan_in(self, input_shape: Shape) -> Array:
        """Return the number of nonzero synapses to each output neuron: int64 `output_shape`."""
        size, extents = self.output_shape(input_shape)[1:], pooled_shape(input_shape, self.pool)[1:]
        meets = []
        for axis in (0, 1):
            places = np.arange(size[axis])[:, np.newaxis] * self.stride[axis] - self.padding[axis]
            taps = places + np.arange(self.weight.shape[2 + axis]) * self.dilation[axis]
            meets.append(((taps >= 0) & (taps < extents[axis])).astype(np.int64))
        rows, columns = meets
        per_tap = np.count_nonzero(self.weight, axis=1)
        return np.asarray(math.prod(self.pool) * (rows @ (per_tap @ columns.T)))

    def without_pooling(self, input_shape: Shape) -> Conv:
        """Return a strided convolution with the same result as conv(sumpool_k(s), w): each tap of w repeated k x k.

        Exact where k divides the input's size, or no output reads the padding next to it, below and right;
        `output_shape` refuses all other cases.
        Dilation becomes zeros in the kernel.
        """
        if self.pool == (1, 1):
            return self
        (pool_h, pool_w), (stride_h, stride_w), (pad_h, pad_w) = self.pool, self.stride, self.padding
        return Conv(
            weight=undilated(self.weight, self.dilation).repeat(pool_h, axis=2).repeat(pool_w, axis=3),
            bias=self.bias,
            stride=(stride_h * pool_h, stride_w * pool_w),
            padding=(pad_h * pool_h, pad_w * pool_w),
            groups=self.groups,
        )

    def without_groups(self) -> Conv:
        """Return the same convolution with zeros between its groups."""
        return self if self.groups == 1 else replace(self, weight=ungrouped(self.weight, self.groups), groups=1)

    def with_input_factors(self, factors: Array) -> Conv:
        """Return the convolution with weights of input channel c multiplied by ``factors[c]``, ``(C_in,)``: float."""
        per_group = factors.reshape(self.groups, 1, -1, 1, 1)
        grouped = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
        return replace(self, weight=(grouped * per_group).reshape(self.weight.shape))


@dataclass(frozen=True, eq=False)
class Dense(_Weighted):
    """A fully connected synapse, after an average pooling and a flattening (C, H, W order) of its input.

    Parameters
    ----------
    weight
        ``(N_out, N_in)``, ``N_in`` is counted after pooling.
    bias
        ``(N_out,)`` or ``None``; added at every time step.
    pool
        As in `Conv`; needs an input of three axes.
    """

    pool: Pair = (1, 1)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return ``(N_out,)`` for an input of ``(C, H, W)`` or ``(N,)`` before pooling."""
        values = math.prod(pooled_shape(input_shape, self.pool))
        if values != self.weight.shape[1]:
            found, expected = f"found {values} values, from shape {input_shape}", f"must be {self.weight.shape[1]}"
            raise InputError(found, where="input of a dense layer", expected=expected)
        _require_bias(self.bias, (self.channels,))
        return (self.channels,)

    def fan_out(self, input_shape: Shape) -> Array:
        """Return the number of nonzero synapses from each input neuron: int64 ``input_shape``."""
        counts = np.count_nonzero(self.weight, axis=0).reshape(pooled_shape(input_shape, self.pool))
        return _unpooled(counts, input_shape, self.pool)

    def fan_in(self, input_shape: Shape) -> Array:
        """Return the number of nonzero synapses to each output neuron: int64 `output_shape`."""
        return np.asarray(math.prod(self.pool) * np.count_nonzero(self.weight, axis=1))

    def without_pooling(self, input_shape: Shape) -> Dense:
        """Return a dense synapse with the same result: each weight is repeated for all inputs of its pooling window."""
        if self.pool == (1, 1):
            return self
        pooled = self.weight.reshape(-1, *pooled_shape(input_shape, self.pool))
        repeated = pooled.repeat(self.pool[0], axis=2).repeat(self.pool[1], axis=3)
        full = np.zeros((self.channels, *input_shape), self.weight.dtype)
        full[:, :, : repeated.shape[2], : repeated.shape[3]] = repeated
        return Dense(weight=full.reshape(self.channels, -1), bias=self.bias)

    def with_input_factors(self, factors: Array) -> Dense:
        """Return the synapse with the weights of input channel c multiplied by ``factors[c]``, ``(C_in,)``: float."""
        return replace(self, weight=self.weight * np.repeat(factors, self.weight.shape[1] // factors.size))


Synapse = Conv | Dense


def without_input_factors(synapse: Synapse, factors: Array) -> Synapse:
    """Return ``synapse`` as before `with_input_factors`; for a factor of 0, weights are 0."""
    return synapse.with_input_factors(np.divide(1.0, factors, out=np.zeros_like(factors), where=factors > 0))


@dataclass(frozen=True)
class PixelBias:
    """Input of input neurons, instead of a synapse: each pixel is the bias of one neuron.

    Parameters
    ----------
    weight, bias
        A pixel x enters as ``weight x + bias``, rounded towards 0, at every step.
    """

    weight: int
    bias: int
    pool: Pair = (1, 1)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return ``input_shape``."""
        return input_shape

    def fan_out(self, input_shape: Shape) -> Array:
        """Return zeros, as pixels have no synapses: int64 ``input_shape``."""
        return np.zeros(input_shape, np.int64)


def _require_bias(bias: Array | None, output_shape: Shape) -> None:
    """Raise unless ``bias`` has one value per channel, or one per output."""
    if bias is not None and bias.shape not in (output_shape[:1], output_shape):
        expected = f"must be {output_shape[:1]} or {output_shape}"
        raise InputError(f"found shape {bias.shape}", where="bias", expected=expected)


def _unpooled(counts: Array, input_shape: Shape, pool: Pair) -> Array:
    """Each pooled count copied to every input of its window; 0 for inputs outside all windows."""
    if pool == (1, 1):
        return counts.astype(np.int64)
    full = np.zeros(input_shape, np.int64)
    repeated = counts.repeat(pool[0], axis=1).repeat(pool[1], axis=2)
    full[:, : repeated.shape[1], : repeated.shape[2]] = repeated
    return full
