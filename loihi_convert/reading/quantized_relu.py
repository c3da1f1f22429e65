"""Rounded, clipped activations of quantization-aware training, read as QCFS.

Bu et al. (ICLR 2022) and LSQ train networks whose activations have L levels: ``floor(clamp(x / theta, 0, 1) L + 1/2) /
L * theta`` and ``round(clamp(x / s, 0, L)) s``. Both are ``g qcfs(x)`` of one clamp, with a factor g. So are they if
they are clipped after rounding, ``clamp(floor(x / theta L + 1/2) / L, 0, 1) * theta``: both bounds are levels.

Neurons round up what lies halfway between two levels, `torch.round` takes the even one of them. Weighted sums are
hardly ever there, but pixels and earlier levels may often be, also after pooling or times fixed point weights: such a
``round`` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.reading.graph import Node
from loihi_convert.reading.operations import (
    Add,
    Affine,
    AveragePool,
    Cat,
    LeakyRelu,
    MaxPool,
    Move,
    Relu,
    Rounding,
    refuse,
)

# Of the number of levels, and of the half that floor needs to round; of an offset, in levels.
_TOLERANCE: Final = 1e-4
# Distance from the middle between two levels, in levels.
_TIE: Final = 1e-5
# More of the numbers than that are ties, unless two scales are multiples of each other by chance.
_OFTEN: Final = 1 / 300
_MOST_SUMS: Final = 10_000
# Of weights. With more, ties are rare.
_FRACTION_BITS: Final = 12

QuantizedRelu = tuple[int, Relu, float]
"""The QCFS activation of an earlier node, times a factor: the index of that node, the activation, the factor."""


def rounded_relu(nodes: Sequence[Node], rounded: int, function: str) -> QuantizedRelu:
    """Return ``function``, ``floor`` or ``round``, of a node; refuse it unless that is a clipped ReLU, scaled."""
    *_, (gain, shift, number) = _scaled(nodes, rounded)
    if function == "round" and _has_ties(nodes, gain, shift, number):
        refuse(
            "rounds numbers that often lie halfway between two levels, to the even one",
            supported="what rounds them up, as neurons do",
            hint="Use torch.floor(x + 0.5) instead of round.",
        )
    clipped = nodes[number].operation
    if not isinstance(clipped, Relu) or not _is_clipped(clipped):
        refuse(
            "rounds something else than a clipped ReLU",
            supported="floor(clamp(x, 0, 1) L + 0.5), round(clamp(x, 0, L)), or the clamp after rounding",
        )
    levels = clipped.ceiling * gain
    if not _is_whole(levels) or not _rounds_to_nearest(shift, function):
        refuse(
            f"rounds a clipped ReLU with {levels:g} levels and an offset of {shift:g}",
            supported="a whole number of levels, and 0.5 before floor",
        )
    (source,) = nodes[number].inputs
    return source, _qcfs(nodes[number], clipped.ceiling, levels), gain


def clipped_rounding(nodes: Sequence[Node], clip: Relu, clipped: int) -> QuantizedRelu | None:
    """Return ``clip`` of a node; None unless it is a clipped ReLU of numbers that were rounded, scaled."""
    *_, (factor, offset, number) = _scaled(nodes, clipped)
    rounding = nodes[number]
    if not isinstance(rounding.operation, Rounding) or factor <= 0 or abs(offset) > _TOLERANCE * factor:
        return None
    levels = clip.ceiling / factor
    # Affine operations before these, such as batch norm of one channel, are not part of the activation.
    scaled = [
        (gain, shift, source)
        for gain, shift, source in _scaled(nodes, rounding.inputs[0])
        if gain > 0 and _rounds_to_nearest(shift, rounding.kind)
    ]
    if not scaled or not _is_whole(levels):
        return None
    gain, shift, source = scaled[-1]
    if rounding.kind == "round" and _has_ties(nodes, gain, shift, source):
        return None
    inner = nodes[source].operation
    if isinstance(inner, Relu) and inner.threshold is None and (inner.floor, inner.ceiling) == (0, np.inf):
        # Rounded numbers of a ReLU need no lower bound.
        clip, (source,) = replace(clip, floor=max(clip.floor, 0)), nodes[source].inputs
    return (source, _qcfs(rounding, levels / gain, levels), factor * gain) if _is_clipped(clip) else None


def _scaled(nodes: Sequence[Node], number: int) -> Iterator[tuple[float, float, int]]:
    """Each gain, shift and x of a node that is ``gain x + shift``, with one number each; the earliest x last."""
    gain, shift = 1.0, 0.0
    yield gain, shift, number
    while isinstance(affine := nodes[number].operation, Affine):
        if len(np.unique(affine.gain)) > 1 or len(np.unique(affine.shift)) > 1:
            break
        gain, shift = gain * float(affine.gain.flat[0]), shift + gain * float(affine.shift.flat[0])
        (number,) = nodes[number].inputs
        yield gain, shift, number


def _has_ties(nodes: Sequence[Node], gain: float, shift: float, number: int) -> bool:
    """Whether ``gain x + shift`` of a node x often lies halfway between whole numbers.

    Only the pixels and levels that reach x without weights, or with fixed point weights, are tried, and their sums;
    those of each path alone.
    """
    paths, seen = [(gain, shift, number, 1)], set()
    while paths:
        gain, shift, number, terms = path = paths.pop()
        if path in seen:
            continue
        seen.add(path)
        *_, (factor, offset, number) = _scaled(nodes, number)
        gain, shift = gain * factor, shift + gain * terms * offset
        operation, inputs = nodes[number].operation, nodes[number].inputs
        largest, count = np.ones(1), 255
        if isinstance(operation, Relu) and operation.levels is not None and operation.threshold is not None:
            largest, count, operation = operation.threshold, operation.levels, None
        if operation is None:
            sums = np.arange(min(count * terms, _MOST_SUMS) + 1) / count
            numbers = gain * np.outer(np.unique(largest), sums) + shift
            if (np.isclose(numbers % 1, 0.5, rtol=0, atol=_TIE).mean(axis=1) > _OFTEN).any():
                return True
        elif isinstance(operation, AveragePool):
            paths.append((gain * operation.factor, shift, inputs[0], terms * math.prod(operation.kernel)))
        elif isinstance(operation, Conv | Dense):
            if step := _fixed_point(operation):
                terms *= round(np.abs(operation.weight).reshape(len(operation.weight), -1).sum(axis=1).max() / step)
                biases = np.zeros(1) if operation.bias is None else np.unique(operation.bias)
                paths += [(gain * step, shift + gain * float(bias), inputs[0], terms) for bias in biases]
        elif isinstance(operation, Relu | LeakyRelu | MaxPool | Move | Cat):
            paths += [(gain, shift, each, terms) for each in inputs]
        elif isinstance(operation, Add) and not any(_is_weighted(nodes, each) for each in inputs):
            paths += [(gain * sign, shift, each, terms) for sign, each in zip(operation.factors, inputs, strict=True)]
    return False


def _is_weighted(nodes: Sequence[Node], number: int) -> bool:
    """Whether a node is a weighted sum, such as a convolution, maybe after batch norm; not by fixed point weights."""
    while isinstance(nodes[number].operation, Affine):
        (number,) = nodes[number].inputs
    operation = nodes[number].operation
    return isinstance(operation, Conv | Dense) and not _fixed_point(operation)


def _fixed_point(synapse: Conv | Dense) -> float:
    """The largest number of which all weights are multiples, if they have few fraction bits; otherwise 0."""
    mantissas = synapse.weight * 2**_FRACTION_BITS
    if not np.array_equal(mantissas, np.round(mantissas)):
        return 0.0
    return float(np.gcd.reduce(np.abs(mantissas).astype(np.int64).ravel())) / 2**_FRACTION_BITS


def _is_clipped(relu: Relu) -> bool:
    return relu.threshold is None and relu.floor == 0 and math.isfinite(relu.ceiling)


def _is_whole(levels: float) -> bool:
    return 0.5 <= levels < math.inf and abs(levels - round(levels)) <= _TOLERANCE * levels


def _rounds_to_nearest(shift: float, function: str) -> bool:
    return abs(shift - (0.5 if function == "floor" else 0.0)) <= _TOLERANCE


def _qcfs(node: Node, threshold: float, levels: float) -> Relu:
    return Relu(np.full(node.shape[0], threshold), round(levels))
