"""Batch norm, normalization, and arithmetic with constants: ``y = gain x + shift``.

Requires: any tensor; a gain for each channel, a shift for each channel or pixel.
Ensures: the gain is in the weights of the value's maps, the shift in its constant. If a later layer pads with zeros,
the shift does not reach the border, and the constant becomes one per neuron: exactly as in the CNN.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi_convert.frontend.lower.value import Features, Tensor, Value, scaled, shifted
from loihi_convert.frontend.operations import Affine
from loihi_convert.normalization import Normalization


def normalized(tensor: Tensor, affine: Affine) -> Tensor:
    """Return ``tensor`` after ``affine``."""
    if isinstance(tensor, Value):
        return _of_value(tensor, affine)
    parts, first = [], 0
    for part in tensor:
        mine = slice(first, first + part.count)
        parts.append(_of_features(part, Affine(affine.gain[mine], affine.shift[mine])))
        first += part.count
    return tuple(parts)


def _of_value(value: Value, affine: Affine) -> Value:
    return shifted(scaled(value, affine.gain), affine.shift)


def _of_features(features: Features, affine: Affine) -> Features:
    if features.is_vector:
        return replace(features, value=_of_value(features.value, affine))
    gain = affine.gain if features.gain is None else affine.gain * features.gain
    shift = affine.shift if features.shift is None else affine.gain * features.shift + affine.shift
    return replace(features, gain=gain, shift=shift)


def affine_of(normalization: Normalization) -> Affine:
    """Return ``(x - mean) / std``, given one number per channel each."""
    mean, std = (np.array(values, np.float64) for values in normalization)
    gain = 1 / std
    return Affine(gain, -mean * gain)
