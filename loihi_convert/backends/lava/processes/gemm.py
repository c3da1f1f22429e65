"""Synapses as matrix products of float32, for a batch of inputs: the sums computed by Lava's Conv and Dense.

Axes: the batch B, then Lava's W, H, C or N. float32 is exact for any order of summation in BLAS: inputs
and weights are integers, and the exactness rules of `chip.rules` bound every partial sum by 2^23 - 1, so Lava's
wrapping at 24 bits never applies either.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from loihi_convert.ground.arrays import Array

COLUMN_BYTES: Final = 2**20
"""Most bytes of a batch unfolded at once, at least one image: about the size of a core's cache."""


class ConvGemm:
    """A convolution (cross-correlation) after a sum-pooling: im2col and one matrix product per group.

    Parameters
    ----------
    weight
        Integers ``(C_out, K_w, K_h, C_in / groups)``.
    input_shape
        ``(W, H, C_in)``, before pooling.
    stride, padding, dilation
        (horizontal, vertical), in units of the pooled input.
    groups
        Number of channel groups.
    pool
        (horizontal, vertical) window and stride of the sum-pooling; (1, 1) for none.
    batch_size
        B, the largest batch size.
    """

    def __init__(
        self,
        weight: Array,
        input_shape: tuple[int, ...],
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        pool: tuple[int, int] = (1, 1),
        batch_size: int = 1,
    ) -> None:
        (pad_x, pad_y), (stride_x, stride_y), (dilation_x, dilation_y) = padding, stride, dilation
        width, height = input_shape[0] // pool[0], input_shape[1] // pool[1]
        self._pool = pool
        padded_shape = (width + 2 * pad_x, height + 2 * pad_y, input_shape[2])
        extent = [step * (taps - 1) + 1 for step, taps in zip(dilation, weight.shape[1:3], strict=True)]
        positions = math.prod(
            (size - length) // step + 1 for size, length, step in zip(padded_shape, extent, stride, strict=False)
        )
        self._images = min(batch_size, max(1, COLUMN_BYTES // (4 * positions * weight[0].size)))
        padded = np.zeros((self._images, *padded_shape), np.float32)
        self._interior = padded[:, pad_x : pad_x + width, pad_y : pad_y + height]
        windows = sliding_window_view(padded, (1, *extent, 1))[:, ::stride_x, ::stride_y, :, 0, ..., 0]
        windows = windows[..., ::dilation_x, ::dilation_y].transpose(0, 1, 2, 4, 5, 3)
        self._windows = np.split(windows, groups, axis=5)
        self._columns = np.empty(self._windows[0].shape, np.float32)
        grouped = weight.astype(np.float32).reshape(groups, len(weight) // groups, -1)
        self._kernels = [np.ascontiguousarray(kernel.T) for kernel in grouped]

    def __call__(self, inputs: Array, out: Array) -> None:
        """Write the currents of ``inputs`` ``(B, W, H, C_in)`` into ``out``, contiguous float32 of the same axes."""
        groups = len(self._kernels)
        for start in range(0, len(inputs), self._images):
            images = inputs[start : start + self._images]
            count = len(images)
            sum_pool(images, self._pool, self._interior[:count])
            columns = self._columns[:count]
            outputs = out[start : start + count].reshape(-1, out.shape[-1])
            for windows, kernel, output in zip(self._windows, self._kernels, np.split(outputs, groups, 1), strict=True):
                np.copyto(columns, windows[:count])
                np.matmul(columns.reshape(len(outputs), -1), kernel, out=output)


class DenseGemm:
    """A fully connected synapse after a sum-pooling.

    Parameters
    ----------
    weights
        Integers ``(N_out, N_in)``, columns in W, H, C order.
    pool
        As in `ConvGemm`; if not (1, 1), inputs must have three axes.
    """

    def __init__(self, weights: Array, *, pool: tuple[int, int] = (1, 1)) -> None:
        self._weights = weights.astype(np.float32)
        self._pool = pool

    def __call__(self, inputs: Array, out: Array) -> None:
        """Write the currents of ``inputs`` ``(B, W, H, C)`` or ``(B, N_in)`` into ``out``, float32 ``(B, N_out)``."""
        if self._pool != (1, 1):
            pooled = np.empty(
                (len(inputs), inputs.shape[1] // self._pool[0], inputs.shape[2] // self._pool[1], inputs.shape[3]),
                np.float32,
            )
            sum_pool(inputs, self._pool, pooled)
            inputs = pooled
        np.matmul(inputs.reshape(len(inputs), -1).astype(np.float32), self._weights.T, out=out)


def sum_pool(inputs: Array, pool: tuple[int, int], out: Array) -> None:
    """Write into ``out`` ``(B, W / k_w, H / k_h, C)`` the sum over each window of ``inputs`` ``(B, W, H, C)``.

    ``pool`` is (k_w, k_h); incomplete windows are dropped.
    """
    width, height = out.shape[1] * pool[0], out.shape[2] * pool[1]
    out[...] = inputs[:, : width : pool[0], : height : pool[1]]
    for x, y in itertools.islice(itertools.product(range(pool[0]), range(pool[1])), 1, None):
        out += inputs[:, x : width : pool[0], y : height : pool[1]]
