"""Consecutive linear layers: convolutions, dense layers, and any other `Window`.

Requires: a value that is a sum of linear maps of populations.
Ensures: the value after the layer, as a sum of linear maps of the same populations. Two layers without a ReLU between
them become one map. No such map exists if the second pads its input with zeros where the first would continue: then
all functions raise `MustBeCarriedError`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Shape
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower.value import Features, MustBeCarriedError, Value, shifted, summed
from loihi_convert.frontend.lower.window import Window, composed
from loihi_convert.ir.synapse import Conv, Dense

# Most weights of two layers composed into one; beyond this the value between them is carried.
_MAX_COMPOSED: Final = 10_000_000
# Most weights of a dense layer that selects numbers; more would not fit into memory.
_MAX_WEIGHTS: Final = 2**27


def convolved(value: Value, conv: Conv, shape: Shape, name: str) -> Value:
    """Return ``value`` after ``conv``, of ``shape``."""
    window = Window(conv.weight, (shape[1], shape[2]), conv.stride, conv.padding, conv.dilation, conv.groups)
    return replace(_biased(through(value, window), conv.bias), name=name)


def connected(features: tuple[Features, ...], dense: Dense, name: str) -> Value:
    """Return ``features`` after ``dense``: a value ``(N, 1, 1)``."""
    bias, first, parts = dense.bias, 0, []
    for part in features:
        weight = dense.weight[:, first : first + part.count]
        first += part.count
        if part.shift is not None:
            shift = weight @ part.shift
            bias = shift if bias is None else bias + shift
        if part.gain is not None:
            weight = weight * part.gain
        parts.append(through(part.value, Window(_of_maps(weight, part), (1, 1), is_dense=True)))
    value = parts[0] if len(parts) == 1 else summed(parts, [1.0] * len(parts))
    return replace(_biased(value, bias), name=name)


def as_vector(features: tuple[Features, ...]) -> Value:
    """Return ``features`` as a value ``(N, 1, 1)``, using a dense layer of ones if they come from larger maps."""
    if len(features) == 1 and features[0].is_vector:
        return features[0].value
    count = sum(part.count for part in features)
    if count * max(int(np.prod(part.value.shape)) for part in features) > _MAX_WEIGHTS:
        raise UnsupportedModelError(
            f"treats {count} numbers of flattened maps individually", expected="supported: at most a few thousand"
        )
    return connected(features, Dense(np.eye(count)), "")


def through(value: Value, second: Window) -> Value:
    """Return ``value`` after ``second``."""
    terms = []
    seen = [(term, *_of_inputs(second, term.rows)) for term in value.terms]
    # Where weights are pruned, no output may read a term.
    for term, of_rows, rows in [one for one in seen if one[2].size] or seen:
        window = composed(term.window, of_rows, term.size)
        # One map of two large ones would be larger than both.
        if window is None or (window.weight.size > _MAX_COMPOSED and not value.is_direct):
            raise MustBeCarriedError
        terms.append(replace(term, rows=rows, window=window))
    constant = None if value.constant is None else _constant_after(value, value.constant, second)
    return Value((second.outputs, *second.size), tuple(terms), constant, value.name)


def _constant_after(value: Value, constant: Array, second: Window) -> Array:
    """The ``constant`` of ``value`` after ``second``."""
    is_uniform = constant.ndim == 1
    if second.is_diagonal and second.pool != (1, 1) and is_uniform:
        return constant * second.weight.ravel()
    window = second.unpooled()
    found = window.of(value.map_of_constant().astype(np.float64))
    inside = second.is_dense or (is_uniform and second.padding == (0, 0) and max(window.after(value.shape)) <= 0)
    # Every neuron uses the whole kernel: one value per channel.
    return found[:, 0, 0] if inside else found


def _of_inputs(second: Window, rows: Array) -> tuple[Window, Array]:
    """``second`` for some of its input channels, and the output channels that remain."""
    everything = np.arange(second.outputs)
    if np.array_equal(rows, np.arange(second.inputs)):
        return second, everything
    if second.groups == 1:
        return replace(second, weight=second.weight[:, rows]), everything
    inputs, outputs = second.weight.shape[1], second.outputs // second.groups
    groups = rows[::inputs] // inputs
    whole = (groups[:, None] * inputs + np.arange(inputs)).ravel()
    if np.array_equal(whole, rows):
        chosen = (groups[:, None] * outputs + np.arange(outputs)).ravel()
        return replace(second, weight=second.weight[chosen], groups=len(groups)), chosen
    full = second.ungrouped().weight[:, rows]
    used = np.flatnonzero(np.abs(full).sum(axis=(1, 2, 3)))
    return replace(second, weight=full[used], groups=1), used


def _biased(value: Value, bias: Array | None) -> Value:
    return value if bias is None else shifted(value, bias)


def _of_maps(weight: Array, features: Features) -> Array:
    """``(N_out, count)`` as a kernel over whole maps ``(N_out, C, H, W)``."""
    shape = features.value.shape
    if features.index is None:
        return weight.reshape(-1, *shape)
    full = np.zeros((len(weight), int(np.prod(shape)) + 1))
    # A number may occur several times; zeros go to the last position.
    np.add.at(full.T, features.index, weight.T)
    return full[:, :-1].reshape(-1, *shape)
