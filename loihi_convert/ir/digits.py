"""Two-digit readout: more weight bits for a last layer that only integrates.

An output potential grows over T steps and over all inputs (a whole map, after global average pooling) and must stay
within +-131071. At T = 64 that leaves 2 or 3 bits for the weights. So each weight and bias w is split into two digits
of b bits::

    w = 2^b high + low        -2^(b-1) <= low < 2^(b-1)

The file and the chip hold two populations, first the high digits of all outputs, then the low ones. Each has small
weights and its own potential. Potentials are sums of weights, so the output can be computed exactly from both::

    V = 2^b V_high + V_low

A `QuantizedLayer` with ``low_bits`` = b holds w; its property ``stored`` is the layer as stored in the file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.synapse import Dense, Synapse

MAX_LOW_BITS: Final = 7
"""Largest b: the low digits then fit 8-bit weights."""


def split(synapse: Dense, low_bits: int) -> Dense:
    """Return the synapse as it is stored: the high digits of all outputs, then the low ones."""
    base = 1 << low_bits
    bias = None if synapse.bias is None else _digits(synapse.bias, base)
    return replace(synapse, weight=_digits(synapse.weight, base), bias=bias)


def joined_digits(values: Array, low_bits: int) -> Array:
    """Return 2^b high + low for ``values`` whose last axis holds the high digits, then the low ones."""
    high, low = np.split(values, 2, axis=-1)
    return np.asarray(high * (1 << low_bits) + low)


def joined_synapse(synapse: Synapse, low_bits: int) -> Synapse:
    """Return the synapse whose digits are stored in ``synapse``, as read from a file."""
    weight, bias = synapse.weight, synapse.bias
    if len(weight) % 2:
        raise RangeError(f"found {len(weight)} outputs", where="weight", expected="must be even: high and low digits")
    return replace(
        synapse,
        weight=joined_digits(weight.T, low_bits).T,
        bias=None if bias is None else joined_digits(bias, low_bits),
    )


def _digits(values: Array, base: int) -> Array:
    """High digits, then low digits, along the first axis: int32."""
    high = (values.astype(np.int64) + base // 2) // base
    return np.concatenate([high, values - high * base]).astype(np.int32)
