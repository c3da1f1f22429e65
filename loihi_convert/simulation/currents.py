"""Synapse -> input currents of many maps at once, on the CPU: the arithmetic that is fastest among the exact.

==============  =======================================================================================================
arithmetic      exact for integers because
==============  =======================================================================================================
int8            oneDNN's convolution of uint8 spikes by int8 weights sums in int32, and gives float32. Where a processor
                has no dot product of bytes, it adds two products in int16 first: at most 2 x 127 x 129 = 32766
float32         every partial sum is below 2^23 (the exactness rules of `chip.rules`), whatever the order of summation
==============  =======================================================================================================

Axes: N images or image-steps, then H W C, channels last. Inputs are already summed over the windows of the pooling in
front of the synapse (`neurons.py`, `sum_pool`), outputs are without the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.chip import limits
from loihi_convert.ir.synapse import Conv, Synapse

Geometry = tuple[Pair, Pair, Pair, int]
"""Stride, padding, dilation, groups."""

MAX_BYTE: Final = (2**15 - 1) // (2 * limits.WEIGHT_LIMIT)
"""Largest input, spikes summed over a window, for which int8 arithmetic is exact on every processor."""


class Currents:
    """A synapse as a function of a batch.

    Parameters
    ----------
    synapse
        Real numbers or integers.
    input_shape
        ``(C, H, W)`` or ``(N,)``, before pooling.
    averages
        Whether pooling averages (real numbers) or sums (integers).
    takes_spikes
        Whether the inputs are sums of spikes; else they may be any number.

    Attributes
    ----------
    input_dtype
        What it takes: uint8, which sums of spikes fit up to a window of 255, else float32.
    uses_int8
        Whether the arithmetic is int8.
    """

    def __init__(self, synapse: Synapse, input_shape: Shape, *, averages: bool, takes_spikes: bool) -> None:
        pooled, largest_input = pooled_maps(input_shape, synapse.pool), math.prod(synapse.pool)
        weight, self._geometry = as_convolution(synapse, input_shape)
        weight = weight / largest_input if averages else weight
        self._is_dense = not isinstance(synapse, Conv)
        with np.errstate(over="ignore"):
            kernel = torch.from_numpy(weight.astype(np.float32))
        # A channels-last kernel is a matrix whose rows are in H, W, C order.
        self._kernel = kernel.contiguous(memory_format=torch.channels_last)
        self._onednn_errs = _onednn_errs(self._geometry, kernel.shape[2:], synapse.output_shape(input_shape))
        # Batch sizes for which int8 has been compared with float32: oneDNN chooses its code by size.
        self._compared: set[int] = set()
        self.input_dtype = np.uint8 if takes_spikes and largest_input <= np.iinfo(np.uint8).max else np.float32
        self._int8: _Int8 | None = None
        if takes_spikes and not averages and largest_input <= MAX_BYTE and not self._onednn_errs:
            self._int8 = self._int8_if_equal(weight, pooled, largest_input)

    @property
    def uses_int8(self) -> bool:
        return self._int8 is not None

    def __call__(self, inputs: Array) -> Array:
        """Return float32 ``(N, H_out, W_out, C_out)`` for ``(N, H, W, C)`` of `input_dtype`."""
        if self._int8 is None:
            return self.in_float32(inputs)
        if len(inputs) in self._compared:
            return self._int8(inputs)
        exact = self.in_float32(inputs)
        if np.array_equal(self._int8(inputs), exact):
            self._compared.add(len(inputs))
        return exact

    def in_float32(self, inputs: Array) -> Array:
        """The same by float32 arithmetic."""
        inputs = inputs.astype(np.float32, copy=False)
        if self._is_dense:
            matrix = self._kernel.permute(0, 2, 3, 1).flatten(1)
            return functional.linear(torch.from_numpy(inputs).flatten(1), matrix)[:, None, None].numpy()
        maps = torch.from_numpy(inputs).permute(0, 3, 1, 2)
        if self._onednn_errs:
            return _channels_last(convolved_by_product(maps, self._kernel, self._geometry))
        # NNPACK, which torch may choose for some shapes, transforms (Winograd, Fourier), which rounds.
        with torch.backends.nnpack.flags(enabled=False):
            return _channels_last(functional.conv2d(maps, self._kernel, None, *self._geometry))

    def _int8_if_equal(self, weight: Array, input_shape: Shape, largest_input: int) -> _Int8 | None:
        """int8 arithmetic, if this build of torch has it for this synapse, and gives what float32 does."""
        inputs = np.random.default_rng(0).integers(0, largest_input, (2, *input_shape), np.uint8, endpoint=True)
        try:
            int8 = _Int8(weight, self._geometry, input_shape)
            found = int8(inputs)
        except (AttributeError, NotImplementedError, RuntimeError):
            return None
        return int8 if np.array_equal(found, self.in_float32(inputs)) else None


def as_convolution(synapse: Synapse, input_shape: Shape) -> tuple[Array, Geometry]:
    """Return the weights ``(C_out, C_in, height, width)`` and the geometry of ``synapse`` after its pooling.

    A dense one is a convolution whose kernel covers the whole map, once.
    """
    if isinstance(synapse, Conv):
        return synapse.weight, (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    height, width, channels = pooled_maps(input_shape, synapse.pool)
    return synapse.weight.reshape(-1, channels, height, width), ((1, 1), (0, 0), (1, 1), 1)


def convolved_by_product(maps: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Return a convolution written out as a matrix product (im2col): ``(N, C_out, H_out, W_out)``."""
    (stride, padding, dilation, groups), size = geometry, kernel.shape[2:]
    columns = functional.unfold(maps, size, dilation, padding, stride)
    rows = kernel.reshape(groups, len(kernel) // groups, -1)
    found = rows @ columns.reshape(len(maps), groups, -1, columns.shape[2])
    height = (maps.shape[2] + 2 * padding[0] - dilation[0] * (size[0] - 1) - 1) // stride[0] + 1
    return found.reshape(len(maps), len(kernel), height, -1)


def _onednn_errs(geometry: Geometry, size: Sequence[int], output_shape: Shape) -> bool:
    """Whether oneDNN, of torch 2.3 to 2.13, computes nonsense or ends in SIGSEGV.

    Nonsense where a horizontal stride leaves a single column; SIGSEGV, by bytes and by float32, where some outputs see
    nothing but padding.
    """
    stride, padding, dilation, _ = geometry
    sees_nothing = any(p > d * (k - 1) for p, d, k in zip(padding, dilation, size, strict=True))
    return sees_nothing or (len(output_shape) == 3 and output_shape[2] == 1 and stride[1] > 1)


class _Int8:
    """A convolution of uint8 by int8 in oneDNN, as PyTorch's quantized networks use it, with all scales 1."""

    def __init__(self, weight: Array, geometry: Geometry, input_shape: Shape) -> None:
        height, width, channels = input_shape
        self._geometry = geometry
        self._ones = torch.ones(len(weight))
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        kernel = torch.from_numpy(np.ascontiguousarray(weight, np.int8))
        self._packed: Any = torch.ops.onednn.qconv_prepack(
            kernel, self._ones, 1.0, 0, *geometry, [1, channels, height, width]
        )

    def __call__(self, inputs: Array) -> Array:
        maps = torch.from_numpy(inputs).permute(0, 3, 1, 2)
        found = torch.ops.onednn.qconv2d_pointwise(
            *(maps, 1.0, 0, self._packed, self._ones, self._zeros, None, *self._geometry),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return _channels_last(found)


def channels_last(images: Array) -> Array:
    """``(N, C, H, W)`` as contiguous float32 ``(N, H, W, C)``."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1), np.float32)


def sum_pool(maps: Array, pool: Pair) -> Array:
    """Return float32 ``(N, H', W', C)``: maps ``(N, H, W, C)`` summed over windows of ``pool``."""
    if pool == (1, 1):
        return maps
    return _channels_last(functional.avg_pool2d(torch.from_numpy(maps).permute(0, 3, 1, 2), pool, divisor_override=1))


def pooled_maps(input_shape: Shape, pool: Pair) -> tuple[int, int, int]:
    """(H', W', C) of the inputs of a synapse after its pooling; a vector is a map of one pixel."""
    channels, height, width = input_shape if len(input_shape) == 3 else (*input_shape, 1, 1)
    return height // pool[0], width // pool[1], channels


def _channels_last(maps: Tensor) -> Array:
    return maps.permute(0, 2, 3, 1).contiguous().numpy()
