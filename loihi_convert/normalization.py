"""Checks of the image normalization (pixel / 255 - mean) / std, for Python and the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from loihi_convert.errors import UsageError

_OFFSET: Final = 10
"""A ``mean`` above it, with a ``std`` of at least 1, is one of pixels in 0..255, or of pixels minus 128."""


def require_both(mean: object, std: object) -> None:
    """Raise a `UsageError` if one of ``mean`` and ``std`` is None and the other is not.

    With only one of the two, every later check would pass, but the CNN would see wrong inputs.
    """
    if (mean is None) == (std is None):
        return
    missing, hint = ("mean", "0 if nothing was subtracted") if mean is None else ("std", "1 if nothing was divided")
    raise UsageError(
        "not given",
        where=missing,
        expected="`mean` and `std` must be given together",
        hint=f"Give the values used in training, (pixel / 255 - mean) / std; `{missing}` is {hint}.",
    )


def per_channel(values: float | Sequence[float] | None, channels: int, where: str) -> tuple[float, ...] | None:
    """Return one number per channel: ``values``, of any shape, or a single number repeated.

    Raises
    ------
    UsageError
        If ``values``, of the parameter ``where``, are not numbers.
    """
    if values is None:
        return None
    # Here, because the command line starts without NumPy.
    import numpy as np

    try:
        given = tuple(np.asarray(values, np.float64).ravel().tolist())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"found {values!r}", where=where, expected="must be a number, or one per channel") from error
    return given * channels if len(given) == 1 else given


def require_valid(mean: Sequence[float], std: Sequence[float], channels: int, hint: str = "") -> None:
    """Raise a `UsageError` unless both are finite, one or one per channel, ``std`` above 0, and not those of 0..255.

    ``hint`` is that of the error, except of the last kind.
    """
    for where, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            expected = f"must be one number, or one per channel ({channels})"
        elif not all(map(math.isfinite, values)) or (where == "std" and min(values) <= 0):
            expected = f"must be {'finite and above 0' if where == 'std' else 'finite'}"
        else:
            continue
        raise UsageError(f"found {tuple(values)}", where=where, expected=expected, hint=hint)
    # Signals below 0 have a `mean` above 1, such as 80 / 60 for -80..-20, but then a `std` of 1 / 60.
    if max(mean) > _OFFSET and max(std) >= 1:
        raise UsageError(
            f"found {tuple(mean)}, with a `std` of {tuple(std)}",
            where="mean",
            expected="must be those of pixels in 0..1: pixels are divided by 255 first",
            hint="Divide `mean` and `std` by 255, too.",
        )


def channel_normalization(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return ``mean`` and ``std``, one number per channel each; ``None`` if neither is given.

    Raises
    ------
    UsageError
        If only one is given, they do not have one finite value per channel, ``std`` above 0, or are those of
        pixels in 0..255.
    """
    require_both(mean, std)
    means, deviations = per_channel(mean, channels, "mean"), per_channel(std, channels, "std")
    if means is None or deviations is None:
        return None
    given = len(means)
    # Signals whose shape is unknown are taken for images of one channel.
    hint = f"For signals (N, {given}, L), give `input_shape` ({given}, L)." if given > channels == 1 else ""
    require_valid(means, deviations, channels, hint)
    return means, deviations
