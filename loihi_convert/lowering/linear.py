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

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.lowering.value import Features, MustBeCarriedError, Tensor, Value, shifted, summed
from loihi_convert.lowering.window import Window, composed
from loihi_convert.reading.operations import refuse

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


def as_vector(tensor: Tensor) -> Value:
    """Return features as a value ``(N, 1, 1)``, using a dense layer of ones if they come from larger maps."""
    if isinstance(tensor, Value):
        return tensor
    if len(tensor) == 1 and tensor[0].is_vector:
        return tensor[0].value
    count = sum(part.count for part in tensor)
    if count * max(int(np.prod(part.value.shape)) for part in tensor) > _MAX_WEIGHTS:
        refuse(f"treats {count} numbers of flattened maps individually", supported="at most a few thousand")
    return connected(tensor, Dense(np.eye(count)), "")


def through(value: Value, window: Window) -> Value:
    """Return ``value`` after ``window``."""
    terms = []
    parts = [(term, *_of_inputs(window, term.channels)) for term in value.terms]
    # Where weights are pruned, no output may read a term.
    for term, part, outputs in [each for each in parts if each[2].size] or parts:
        found = composed(term.window, part, term.size)
        # One map of two large ones would be larger than both.
        if found is None or (found.weight.size > _MAX_COMPOSED and not value.is_direct):
            raise MustBeCarriedError
        terms.append(replace(term, channels=outputs, window=found))
    constant = None if value.constant is None else _constant_after(value, value.constant, window)
    return Value((window.outputs, *window.size), tuple(terms), constant, value.name)


def _constant_after(value: Value, constant: Array, window: Window) -> Array:
    """The ``constant`` of ``value`` after ``window``."""
    is_uniform = constant.ndim == 1
    if window.is_diagonal and window.pool != (1, 1) and is_uniform:
        return constant * window.weight.ravel()
    window = window.unpooled()
    found = window.applied_to(value.map_of_constant().astype(np.float64))
    inside = window.is_dense or (is_uniform and window.padding == (0, 0) and max(window.after(value.shape)) <= 0)
    # Every neuron uses the whole kernel: one value per channel.
    return found[:, 0, 0] if inside else found


def _of_inputs(window: Window, chosen: Array) -> tuple[Window, Array]:
    """The part of ``window`` that reads the input channels ``chosen``, and the output channels that it gives."""
    everything = np.arange(window.outputs)
    if np.array_equal(chosen, np.arange(window.inputs)):
        return window, everything
    if window.groups == 1:
        return replace(window, weight=window.weight[:, chosen]), everything
    inputs, outputs = window.weight.shape[1], window.outputs // window.groups
    groups = chosen[::inputs] // inputs
    if np.array_equal(_members(groups, inputs), chosen):
        kept = _members(groups, outputs)
        return replace(window, weight=window.weight[kept], groups=len(groups)), kept
    weight = window.ungrouped().weight[:, chosen]
    kept = np.flatnonzero(np.abs(weight).sum(axis=(1, 2, 3)))
    return replace(window, weight=weight[kept], groups=1), kept


def _members(groups: Array, size: int) -> Array:
    """The channels of ``groups`` of ``size`` channels each."""
    return np.asarray(groups[:, None] * size + np.arange(size)).ravel()


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
