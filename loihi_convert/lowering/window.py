"""Linear maps between feature maps, as windows that move over an input: convolutions and their variants.

A dense layer is a window as large as its input, with one output position; an identity is a one-pixel window with a
group for each channel. Windows are closed under the operations of lowering: selecting and scaling channels,
composition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.synapse import undilated, ungrouped


@dataclass(frozen=True, eq=False)
class Window:
    """``y[o, i, j]`` is the sum of ``weight[o, c, a, b] x[c, s i - p + d a, ...]``, with x = 0 outside its map.

    Parameters
    ----------
    weight
        float64 ``(C_out, C_in / groups, K_h, K_w)``.
    size
        (H, W) of y.
    stride, padding, dilation
        s, p and d, vertical and horizontal, in units of the pooled input. The padding is that above and left of the
        map, and may be negative; below and right there is as much as ``size`` requires.
    groups
        As in `synapse.Conv`.
    pool
        Average pooling with nonoverlapping windows, applied first; incomplete windows are dropped.
    is_dense
        Whether it becomes a `synapse.Dense`.
    """

    weight: Array
    size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)
    is_dense: bool = False

    @classmethod
    def identity(cls, channels: int, size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0)) -> Window:
        """Return the map of each channel to itself, or to every ``stride``-th of its pixels."""
        return cls(np.ones((channels, 1, 1, 1)), size, stride, padding, groups=channels)

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.weight.shape[1]) * self.groups

    @property
    def is_channelwise(self) -> bool:
        """Whether each output channel has one input channel, in order."""
        return self.groups == self.outputs == self.inputs

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel depends only on the same input pixel."""
        return (self.weight.shape[2:], self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))

    @property
    def is_diagonal(self) -> bool:
        """Whether it only scales channels, apart from its pooling."""
        return self.is_channelwise and self.is_pointwise and not self.is_dense

    def inputs_at(self, row: int, column: int) -> Array:
        """Return the input channels with a nonzero weight at one tap: int64."""
        used = (self.weight[:, :, row, column] != 0).reshape(self.groups, -1, self.weight.shape[1]).any(axis=1)
        return np.flatnonzero(used)

    def scaled(self, gains: Array) -> Window:
        """Return the map with its output channels multiplied by ``gains``, float64 ``(C_out,)``."""
        return replace(self, weight=self.weight * gains.reshape(-1, 1, 1, 1))

    def of_outputs(self, chosen: Array) -> tuple[Window, Array]:
        """Return the map to the output channels ``chosen``, and the input channels it then uses."""
        if np.array_equal(chosen, np.arange(self.outputs)):
            return self, np.arange(self.inputs)
        if self.is_channelwise:
            return replace(self, weight=self.weight[chosen], groups=len(chosen)), chosen
        return replace(self, weight=self.ungrouped().weight[chosen], groups=1), np.arange(self.inputs)

    def ungrouped(self) -> Window:
        """Return the same map in one group, with zeros between the former groups."""
        return self if self.groups == 1 else replace(self, weight=ungrouped(self.weight, self.groups), groups=1)

    def unpooled(self) -> Window:
        """Return the same map without pooling; exact if the pooling divides the map, or nothing is padded."""
        if self.pool == (1, 1):
            return self
        (pool_h, pool_w), plain = self.pool, self._undilated()
        return replace(
            plain,
            weight=plain.weight.repeat(pool_h, axis=2).repeat(pool_w, axis=3) / (pool_h * pool_w),
            stride=(self.stride[0] * pool_h, self.stride[1] * pool_w),
            padding=(self.padding[0] * pool_h, self.padding[1] * pool_w),
            pool=(1, 1),
        )

    def applied_to(self, maps: Array) -> Array:
        """Return the output for one pooled input ``(C_in, H, W)``: float64 ``(C_out, H', W')``."""
        if self.is_dense:
            return np.asarray(self.weight.reshape(self.outputs, -1) @ maps.ravel()).reshape(-1, 1, 1)
        (top, left), (below, right) = self.padding, self.after(maps.shape)
        padded, sides = torch.from_numpy(maps[None]), (left, right, top, below)
        # Negative padding leaves out pixels. Last: there may be more of these than the map has.
        for each in ([max(side, 0) for side in sides], [min(side, 0) for side in sides]):
            padded = functional.pad(padded, each)
        weight = torch.from_numpy(self.weight.copy())
        found = functional.conv2d(padded, weight, None, self.stride, 0, self.dilation, self.groups)
        return np.asarray(found[0].numpy())

    def after(self, shape: Shape) -> Pair:
        """Return the padding below and right of a pooled map ``(C, H, W)``; negative where pixels are not read."""
        below, right = (
            stride * (count - 1) + dilation * (kernel - 1) + 1 - pad - extent
            for stride, count, dilation, kernel, pad, extent in zip(
                self.stride, self.size, self.dilation, self.weight.shape[2:], self.padding, shape[1:], strict=True
            )
        )
        return below, right

    def _undilated(self) -> Window:
        return replace(self, weight=undilated(self.weight, self.dilation), dilation=(1, 1))


def composed(first: Window, second: Window, size: Pair) -> Window | None:
    """Return ``first`` followed by ``second``, on a map of ``size``, as one window; ``None`` if there is none.

    There is none if ``second`` sees zeros outside the output of ``first`` where ``first`` would continue.
    """
    if second.pool != (1, 1):
        pooled = _pooling_first(first, second, size)
        if pooled is None:
            second = second.unpooled()
        else:
            first, second = pooled
    if second.is_diagonal and second.size == first.size:
        return first.scaled(second.weight)
    if not all(_continues(first, second, axis, size[axis]) for axis in (0, 1)):
        return None
    if first.is_diagonal:
        weight = second.weight.reshape(second.groups, -1, *second.weight.shape[1:])
        gains = first.weight.reshape(second.groups, 1, -1, 1, 1)
        return replace(second, weight=(weight * gains).reshape(second.weight.shape), pool=first.pool)
    groups, weight = _composed_weights(first, second)
    down, across = first.stride
    return Window(
        weight=weight,
        size=second.size,
        stride=(down * second.stride[0], across * second.stride[1]),
        padding=(down * second.padding[0] + first.padding[0], across * second.padding[1] + first.padding[1]),
        groups=groups,
        pool=first.pool,
        is_dense=second.is_dense,
    )


def _pooling_first(first: Window, second: Window, size: Pair) -> tuple[Window, Window] | None:
    """The pooling of ``second`` moved before ``first``: the average of a pointwise map is the map of the average.

    ``None`` if ``first`` adds zeros to its input, of ``size`` before pooling: an average may read some of them.
    """
    bare = replace(second, pool=(1, 1))
    if not first.is_pointwise or first.is_dense or np.greater(first.size, pooled_size(size, first.pool)).any():
        return None
    pool = (first.pool[0] * second.pool[0], first.pool[1] * second.pool[1])
    return replace(first, pool=pool, size=pooled_size(first.size, second.pool)), bare


def pooled_size(size: Pair, pool: Pair) -> Pair:
    """Return (H, W) of a map of ``size`` after a pooling, which drops incomplete windows."""
    return size[0] // pool[0], size[1] // pool[1]


def _continues(first: Window, second: Window, axis: int, extent: int) -> bool:
    """Whether, along ``axis``, ``first`` would give 0 wherever ``second`` reads outside its output map.

    ``extent`` is the size of the input of ``first``, before its pooling.
    """
    looked_at = _places_read(second, np.arange(second.size[axis]), axis)
    outside = looked_at[(looked_at < 0) | (looked_at >= first.size[axis])]
    read = _places_read(first, outside, axis) * first.pool[axis]
    # Rows of an incomplete pooling window are dropped by the pooling, but would be read if it continued.
    return not bool(((read >= 0) & (read < extent)).any())


def _places_read(window: Window, outputs: Array, axis: int) -> Array:
    """The places along ``axis``, also beyond the border, that the ``outputs`` at these places read."""
    taps = np.flatnonzero(np.abs(window.weight).sum(axis=(0, 1, 3 - axis)))
    start = outputs[:, None] * window.stride[axis] - window.padding[axis]
    return np.asarray(start + taps * window.dilation[axis]).ravel()


def _composed_weights(first: Window, second: Window) -> tuple[int, Array]:
    """The groups and weights of the composition of both, without dilation."""
    first = first._undilated()
    step = [s * d for s, d in zip(first.stride, second.dilation, strict=True)]
    kernel = [
        gap * (many - 1) + few
        for gap, many, few in zip(step, second.weight.shape[2:], first.weight.shape[2:], strict=True)
    ]
    groups = second.groups if first.is_channelwise else 1
    if not first.is_channelwise:
        first, second = first.ungrouped(), second.ungrouped()
    inputs = second.weight.shape[1] if first.is_channelwise else first.inputs
    weight = np.zeros((second.outputs, inputs, *kernel))
    for a in range(second.weight.shape[2]):
        for b in range(second.weight.shape[3]):
            top, left = step[0] * a, step[1] * b
            part = weight[:, :, top : top + first.weight.shape[2], left : left + first.weight.shape[3]]
            part += _product(second.weight[:, :, a, b], first, groups)
    return groups, weight


def _product(tap: Array, first: Window, groups: int) -> Array:
    """``(C_out, C_in / groups, K_h, K_w)``: one tap of the second map times all taps of the first."""
    if first.is_channelwise:
        kernels = first.weight[:, 0].reshape(groups, 1, -1, *first.weight.shape[2:])
        return np.asarray(tap.reshape(groups, -1, tap.shape[1], 1, 1) * kernels).reshape(
            *tap.shape, *first.weight.shape[2:]
        )
    return np.asarray(np.tensordot(tap, first.weight, axes=(1, 0)))
