"""Batch norm, normalization, and arithmetic with constants: ``y = gain x + shift``.

Requires: any tensor; a gain for each channel, a shift for each channel or pixel.
Ensures: the gain is in the weights of the value's maps, the shift in its constant. If a later layer pads with zeros,
the shift does not reach the border, and the constant becomes one per neuron: exactly as in the CNN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loihi_convert.errors import UsageError
from loihi_convert.frontend.lower.value import Features, Tensor, Value, scaled, shifted
from loihi_convert.frontend.operations import Affine


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


def per_channel(values: float | Sequence[float] | None, channels: int, where: str) -> tuple[float, ...] | None:
    """Return one number per channel: ``values``, or a single number repeated.

    Raises
    ------
    UsageError
        If ``values``, of the parameter ``where``, are not numbers.
    """
    if values is None:
        return None
    try:
        given = (float(values),) if np.ndim(values) == 0 else tuple(map(float, values))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UsageError(f"found {values!r}", where=where, expected="must be a number, or one per channel") from error
    return given * channels if len(given) == 1 else given


def normalization_of(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Affine | None:
    """Return ``(x - mean) / std``; ``None`` unless both are given.

    Raises
    ------
    UsageError
        If they do not have one finite value per channel, ``std`` above 0, or ``mean`` is above 1.
    """
    if mean is None or std is None:
        return None
    for parameter, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UsageError(
                f"found {tuple(values)} for images of {channels} channels",
                where=parameter,
                expected="must be one number per channel",
            )
        if not all(map(math.isfinite, values)) or (parameter == "std" and min(values) <= 0):
            least = "finite and above 0" if parameter == "std" else "finite"
            raise UsageError(f"found {tuple(values)}", where=parameter, expected=f"must be {least}")
    if max(mean) > 1:
        raise UsageError(
            f"found {tuple(mean)}",
            where="mean",
            expected="must be at most 1: pixels are divided by 255 first",
            hint="Divide `mean` and `std` by 255, too.",
        )
    gain = 1 / np.array(std, np.float64)
    return Affine(gain, -np.array(mean, np.float64) * gain)
