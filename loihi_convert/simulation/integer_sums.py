"""Weighted sums of integers and biases, as in Lava's processes.

Weighted sums are computed in float32, exactly: inputs are divided into digits of so few bits that no partial sum
reaches 2^24.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation.convolution import Geometry, convolved_by_product, exact_products, onednn_errs

_EXACT_IN_FLOAT32: Final = 2 ** (np.finfo(np.float32).nmant + 1)


def weighted(synapse: Conv | Dense, inputs: Array) -> Array:
    """Return the current of the synapse for spikes, pixels or messages ``(B, ...)``: int32 ``(B, *shape)``."""
    return wrapped(synapse, exact_sums(synapse, inputs))


def exact_sums(synapse: Conv | Dense, inputs: Array) -> Array:
    """Return the weighted sums before they wrap: int64 ``(B, *shape)``."""
    values = inputs.astype(np.int64)
    if synapse.pool != (1, 1):
        pooled = functional.avg_pool2d(torch.from_numpy(values).double(), synapse.pool, divisor_override=1)
        values = pooled.numpy().astype(np.int64)
    weight = np.abs(synapse.weight.astype(np.int64))
    # Bits of a digit: no sum of weighted digits reaches 2^24, up to which float32 is exact, in any order.
    bits = int(max(1, _EXACT_IN_FLOAT32 // max(1, weight.reshape(len(weight), -1).sum(axis=1).max()))).bit_length() - 1
    if bits < 1:
        return _sums(synapse, values, torch.float64)
    found: Array = np.zeros((), np.int64)
    shift = 0
    while True:
        is_last = bool((np.abs(values) < 1 << bits).all())
        digit = values if is_last else values & ((1 << bits) - 1)
        found = np.asarray(found + (_sums(synapse, digit, torch.float32) << shift))
        if is_last:
            return found
        values, shift = values >> bits, shift + bits


def wrapped(synapse: Conv | Dense, sums: Array) -> Array:
    """Return the current that Lava makes of exact sums: int32."""
    if isinstance(synapse, Conv):
        # signed_clamp in lava/proc/conv/utils.py wraps at 24 bits.
        half = limits.CURRENT_LIMIT + 1
        sums = (sums + half) % (2 * half) - half
    return np.asarray(sums, np.int32)


def bias_of(synapse: Conv | Dense, axes: int) -> Array:
    """Return the bias, int32, in a shape that broadcasts to values of ``axes`` axes, ``(B, *shape)``; 0 if none."""
    bias = np.zeros((), np.int32) if synapse.bias is None else synapse.bias.astype(np.int32)
    # One per channel of maps (B, C, H, W), else one per neuron.
    return bias.reshape(-1, 1, 1) if bias.ndim == 1 and axes == 4 else bias


def _sums(synapse: Conv | Dense, values: Array, dtype: torch.dtype) -> Array:
    """Weighted sums of integers after the pooling: int64."""
    weight, inputs = torch.from_numpy(synapse.weight.astype(np.int64)).to(dtype), torch.from_numpy(values).to(dtype)
    with exact_products():
        if not isinstance(synapse, Conv):
            return functional.linear(inputs.flatten(1), weight).numpy().astype(np.int64)
        geometry = Geometry(synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        if onednn_errs(geometry, weight.shape[2:], inputs.shape[2:]):
            return convolved_by_product(inputs, weight, geometry).numpy().astype(np.int64)
        return functional.conv2d(inputs, weight, None, *geometry).numpy().astype(np.int64)
