"""Rounded, clipped activations of quantization-aware training, read as QCFS.

Bu et al. (ICLR 2022), whose official code is ``floor(clamp(x / theta, 0, 1) L + 1/2) / L * theta``, and LSQ
(``round(clamp(x / s, 0, L)) s``) train networks whose activations have L levels. Both are
``g qcfs(x)`` of one clamp, with a factor g.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from loihi_convert.frontend.graph import Node
from loihi_convert.frontend.operations import Affine, Relu, refuse

# Of the number of levels, and of the half that floor needs to round.
_TOLERANCE: Final = 1e-4


def rounded_relu(nodes: Sequence[Node], rounded: int, function: str) -> tuple[int, Relu, float]:
    """Return ``function``, ``floor`` or ``round``, of a node; refuse it unless that is a clipped ReLU, scaled.

    It is the QCFS activation of an earlier node, times a factor: the index of that node, the activation, the factor.
    """
    gain, shift, number = 1.0, 0.0, rounded
    while isinstance(affine := nodes[number].operation, Affine):
        if len(np.unique(affine.gain)) > 1 or len(np.unique(affine.shift)) > 1:
            break
        gain, shift = gain * float(affine.gain.flat[0]), shift + gain * float(affine.shift.flat[0])
        (number,) = nodes[number].inputs
    clipped = nodes[number].operation
    half = 0.5 if function == "floor" else 0.0
    is_plain = isinstance(clipped, Relu) and clipped.threshold is None and clipped.floor == 0
    if not isinstance(clipped, Relu) or not is_plain or not math.isfinite(clipped.ceiling):
        refuse(
            "rounds something else than a clipped ReLU",
            supported="floor(clamp(x, 0, 1) L + 0.5), round(clamp(x, 0, L))",
        )
    levels = clipped.ceiling * gain
    if levels < 0.5 or abs(levels - round(levels)) > _TOLERANCE * levels or abs(shift - half) > _TOLERANCE:
        refuse(
            f"rounds a clipped ReLU with {levels:g} levels and an offset of {shift:g}",
            supported="a whole number of levels, and 0.5 before floor",
        )
    (source,) = nodes[number].inputs
    threshold = np.full(nodes[number].shape[0], clipped.ceiling)
    return source, Relu(threshold, round(levels)), gain
