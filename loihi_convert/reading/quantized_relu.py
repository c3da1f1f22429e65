"""Rounded, clipped activations of quantization-aware training, read as QCFS.

Bu et al. (ICLR 2022) and LSQ train networks whose activations have L levels: ``floor(clamp(x / theta, 0, 1) L + 1/2) /
L * theta`` and ``round(clamp(x / s, 0, L)) s``. Both are ``g qcfs(x)`` of one clamp, with a factor g. So are they if
they are clipped after rounding, ``clamp(floor(x / theta L + 1/2) / L, 0, 1) * theta``: both bounds are levels.

Neurons round up what lies halfway between two levels, `torch.round` takes the even one of them. Weighted sums are
hardly ever there, but pixels and earlier levels may often be: their ``round`` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.reading.graph import (
    Add,
    Affine,
    Node,
    Relu,
    Rounding,
    refuse,
)

# Of the number of levels, and of the half that floor needs to round; of an offset, in levels.
_TOLERANCE: Final = 1e-4
# Of weights. With more, ties are rare.
_FRACTION_BITS: Final = 12

QuantizedRelu = tuple[int, Relu, float]
"""The QCFS activation of an earlier node, times a factor: the index of that node, the activation, the factor."""


def rounded_relu(nodes: Sequence[Node], rounded: int, function: str) -> QuantizedRelu:
    """Return ``function``, ``floor`` or ``round``, of a node; refuse it unless that is a clipped ReLU, scaled."""
    *_, (gain, shift, number) = _scaled(nodes, rounded)
    if function == "round" and not _is_weighted(nodes, number):
        refuse(
            "rounds pixels or levels, which often lie halfway between two levels, to the even one",
            supported="round of weighted sums",
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
    gain, _, source = scaled[-1]
    if rounding.kind == "round" and not _is_weighted(nodes, source):
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


def _is_weighted(nodes: Sequence[Node], number: int) -> bool:
    """Whether a node holds weighted sums, which hardly ever lie halfway between levels.

    Weights of few fraction bits are not, since their sums are as regular as pixels and levels.
    """
    operation, inputs = nodes[number].operation, nodes[number].inputs
    if isinstance(operation, Conv | Dense):
        mantissas = operation.weight * 2**_FRACTION_BITS
        return not np.array_equal(mantissas, np.round(mantissas))
    if operation is None or (isinstance(operation, Relu) and operation.levels is not None):
        return False
    return (any if isinstance(operation, Add) else all)(_is_weighted(nodes, each) for each in {*inputs})


def _is_clipped(relu: Relu) -> bool:
    return relu.threshold is None and relu.floor == 0 and math.isfinite(relu.ceiling)


def _is_whole(levels: float) -> bool:
    return 0.5 <= levels < math.inf and abs(levels - round(levels)) <= _TOLERANCE * levels


def _rounds_to_nearest(shift: float, function: str) -> bool:
    return abs(shift - (0.5 if function == "floor" else 0.0)) <= _TOLERANCE


def _qcfs(node: Node, threshold: float, levels: float) -> Relu:
    return Relu(np.full(node.shape[0], threshold), round(levels))
