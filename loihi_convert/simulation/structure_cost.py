"""Estimated cost of a kernel as one convolution and divided: multiply-adds against passes over memory.

Nanoseconds on one core. The values were measured on a Xeon (Sapphire Rapids) with oneDNN limited to each instruction
set. An accuracy of a factor 1.5 is enough, since a kernel is divided only if that saves a fifth. They are constants, so
that a layer is computed in the same way in every run.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Pair
from loihi_convert.compiled import cpu_features
from loihi_convert.simulation.convolution import Geometry, has_fast_int8
from loihi_convert.simulation.kernel_structure import Structure, structures_of, without_dead_channels

_WORTH_IT: Final = 0.8
"""A kernel is divided if that takes at most this share of the undivided time."""

_WRITE: Final = 0.3
"""Time to write an output."""

_MOVE: Final = 0.4
"""Time to copy an output or add to it."""

_SPAN: Final = 2.0
"""Time to switch to other channels, per output position."""

_SIDE_BY_SIDE: Final = 0.35
_SCATTERED: Final = 1.0
"""Time to add a tap, with adjacent and with scattered channels."""

_TAKE: Final = 0.1
_GATHER: Final = 1.0
"""Time to copy an input, with adjacent and with scattered channels."""

_CALL: Final = 800.0
"""Time of a convolution call, per image: 50 microseconds for 64 images."""

_SMALL_GROUP: Final = 2.0
"""Extra time of an output if groups have fewer than 4 channels; none for depthwise convolutions."""

_FLOAT32: Final = 45.0
_PLAIN_INT8: Final = 90.0
_INT8: Final = (("amx-int8", 1300.0), ("avx512vnni", 250.0), ("avx512bw", 130.0), ("avxvnni", 180.0))
"""Multiply-adds per nanosecond, of int8 with the first of these instruction sets that the processor has."""


def rate(*, is_int8: bool) -> float:
    """Return the multiply-adds per nanosecond of convolutions on this processor."""
    if not is_int8:
        return _FLOAT32
    features = cpu_features()
    return next((found for feature, found in _INT8 if feature in features), _PLAIN_INT8)


def worthwhile_structure(
    weight: Array, geometry: Geometry, input_size: Pair, output_size: Pair, *, rate: float, is_integer: bool
) -> Structure | None:
    """Return the fastest division of a kernel, or ``None`` if none is clearly faster than the undivided kernel.

    A float kernel, whose sums are rounded, is not divided only because of dead channels.
    """
    pixels = math.prod(output_size)
    inputs_per_output = math.prod(input_size) / pixels
    found = [
        (_divided(structure, rate, inputs_per_output, pixels), index, structure)
        for index, structure in enumerate(structures_of(weight, geometry))
    ]
    if not found:
        return None
    whole = weight if is_integer or geometry.groups > 1 else without_dead_channels(weight)
    time, _, structure = min(found, key=lambda entry: entry[:2])
    return structure if time <= _WORTH_IT * _convolution(whole, geometry.groups, rate) else None


def _convolution(weight: Array, groups: int, rate: float) -> float:
    """Time per output position."""
    outputs, inputs = weight.shape[:2]
    if not has_fast_int8(weight, groups):
        rate = _FLOAT32
    is_depthwise = inputs == 1 and outputs == groups
    is_small = groups > 1 and not is_depthwise and min(outputs // groups, inputs) < 4
    return weight.size / rate + int(outputs) * (_WRITE + _SMALL_GROUP * is_small)


def _divided(structure: Structure, rate: float, inputs_per_output: float, pixels: int) -> float:
    """Time per output position."""
    runs = structure.taps.runs()
    taps = len(runs.weights)
    time: float = (taps - runs.scattered) * _SIDE_BY_SIDE + runs.scattered * _SCATTERED + len(runs.runs) * _SPAN
    time += float(np.diff(structure.empty).sum()) * _MOVE / 2 + len(structure.empty) * _SPAN / 2
    for index, (part, spans) in enumerate(zip(structure.parts, structure.spans, strict=True)):
        time += _convolution(part.weight, part.geometry.groups, rate) + _CALL / pixels
        is_side_by_side = (np.diff(part.inputs) == 1).all()
        time += len(part.inputs) * inputs_per_output * (_TAKE if is_side_by_side else _GATHER)
        if index or not structure.has_base:
            time += len(part.outputs) * _MOVE + len(spans) * _SPAN
    return float(time)
