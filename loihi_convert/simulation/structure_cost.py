"""What a kernel costs as one convolution, and divided: multiply-adds against passes over memory.

Nanoseconds on one core. The figures were measured on a Xeon (Sapphire Rapids) with oneDNN held to each instruction set;
they need not be right to more than a factor of 1.5, since a kernel is divided only where that saves a fifth. They are
constants, so that a layer is computed in the same way in every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Pair
from loihi_convert.compiled import cpu_features
from loihi_convert.simulation.convolution import Geometry
from loihi_convert.simulation.kernel_structure import Structure, structures_of, without_dead_channels

_WORTH_IT: Final = 0.8
"""Share of the whole convolution's time up to which a kernel is divided."""

_WRITE: Final = 0.3
"""To write an output."""

_MOVE: Final = 0.4
"""To copy an output, or to add to it."""

_SPAN: Final = 2.0
"""To begin with other channels, at each output position."""

_SIDE_BY_SIDE: Final = 0.35
_SCATTERED: Final = 1.0
"""To add a tap."""

_TAKE: Final = 0.1
_GATHER: Final = 1.0
"""To copy an input; the second where channels do not lie side by side."""

_CALL: Final = 800.0
"""To call a convolution, for each image: 50 microseconds for 64 of them."""


@dataclass(frozen=True)
class Rates:
    """How fast convolutions are.

    Parameters
    ----------
    multiply_adds
        In a nanosecond.
    small_group
        Nanoseconds that an output takes besides, where groups have fewer than 4 channels, unless they have one each.
    """

    multiply_adds: float
    small_group: float


_FLOAT32: Final = Rates(45, 2)
_INT8: Final = (
    ("amx-int8", Rates(1300, 2)),
    ("avx512vnni", Rates(250, 2)),
    ("avx512bw", Rates(130, 2)),
    ("avxvnni", Rates(180, 50)),
)
_PLAIN_INT8: Final = Rates(90, 50)


def rates(*, is_int8: bool) -> Rates:
    """Return those of this processor."""
    if not is_int8:
        return _FLOAT32
    features = cpu_features()
    return next((rate for feature, rate in _INT8 if feature in features), _PLAIN_INT8)


def worthwhile_structure(
    weight: Array, geometry: Geometry, input_size: Pair, output_size: Pair, *, rates: Rates, is_integer: bool
) -> Structure | None:
    """Return the fastest division of a kernel, or ``None`` where none is clearly faster than the whole.

    Of real numbers, whose sums are rounded, dead channels alone are no reason to divide.
    """
    pixels = math.prod(output_size)
    inputs_per_output = math.prod(input_size) / pixels
    found = [
        (_divided(structure, rates, inputs_per_output, pixels), index, structure)
        for index, structure in enumerate(structures_of(weight, geometry))
    ]
    if not found:
        return None
    whole = weight if is_integer or geometry.groups > 1 else without_dead_channels(weight)
    time, _, structure = min(found, key=lambda entry: entry[:2])
    return structure if time <= _WORTH_IT * _convolution(whole, geometry.groups, rates) else None


def _convolution(weight: Array, groups: int, rates: Rates) -> float:
    """Time for an output position."""
    outputs, inputs = weight.shape[:2]
    is_depthwise = inputs == 1 and outputs == groups
    is_small = groups > 1 and not is_depthwise and min(outputs // groups, inputs) < 4
    return weight.size / rates.multiply_adds + int(outputs) * (_WRITE + rates.small_group * is_small)


def _divided(structure: Structure, rates: Rates, inputs_per_output: float, pixels: int) -> float:
    """Time for an output position."""
    runs = structure.taps.runs()
    taps = len(runs.weights)
    time: float = (taps - runs.scattered) * _SIDE_BY_SIDE + runs.scattered * _SCATTERED + len(runs.runs) * _SPAN
    time += float(np.diff(structure.empty).sum()) * _MOVE / 2 + len(structure.empty) * _SPAN / 2
    for index, (part, spans) in enumerate(zip(structure.parts, structure.spans, strict=True)):
        time += _convolution(part.weight, part.geometry.groups, rates) + _CALL / pixels
        is_side_by_side = (np.diff(part.inputs) == 1).all()
        time += len(part.inputs) * inputs_per_output * (_TAKE if is_side_by_side else _GATHER)
        if index or not structure.has_base:
            time += len(part.outputs) * _MOVE + len(spans) * _SPAN
    return float(time)
