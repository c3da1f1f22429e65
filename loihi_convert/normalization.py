"""Checks of the image normalization (pixel / 255 - mean) / std, for Python and the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, cast

from loihi_convert.errors import UsageError

_OFFSET: Final = 10
"""A ``mean`` above it, with a ``std`` of at least 1, is one of pixels in 0..255, or of pixels minus 128."""


_SHOWN: Final = 8
"""Of more numbers, an error gives only the count."""


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
    """Return one number per channel: ``values``, with any axes of length 1 beside, or a single number repeated.

    Raises
    ------
    UsageError
        If ``values``, of the parameter ``where``, are not numbers, or have several axes longer than 1.
    """
    if values is None:
        return None
    # Here, because the command line starts without NumPy.
    import numpy as np

    expected = f"must be one number, or one per channel ({channels})"
    try:
        is_collection = isinstance(values, Iterable) and not hasattr(values, "__array__")
        array = np.asarray([*cast(Iterable[float], values)] if is_collection else values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"found {values!r}", where=where, expected=expected) from error
    if array.dtype.kind not in "biuf":
        raise UsageError(f"found {values!r}", where=where, expected=expected)
    if sum(size > 1 for size in array.shape) > 1:
        hint = "Subtract a mean image in the CNN's `forward`." if where == "mean" else ""
        raise UsageError(f"found an array {array.shape}", where=where, expected=expected, hint=hint)
    given = tuple(array.astype(np.float64).ravel().tolist())
    return given * channels if len(given) == 1 else given


def require_valid(mean: Sequence[float], std: Sequence[float], channels: int, hint: str = "") -> None:
    """Raise a `UsageError` unless both are finite, one or one per channel, ``std`` above 0, and not those of 0..255.

    ``hint`` is that of the error, except of the last kind.
    """
    for where, values in (("mean", mean), ("std", std)):
        found = f"found {tuple(values)}"
        if len(values) not in (1, channels):
            found = f"found {len(values)} numbers" if len(values) > _SHOWN else found
            expected = f"must be one number, or one per channel ({channels})"
        elif not all(map(math.isfinite, values)) or (where == "std" and min(values) <= 0):
            expected = f"must be {'finite and above 0' if where == 'std' else 'finite'}"
        else:
            continue
        raise UsageError(found, where=where, expected=expected, hint=hint)
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
    hint = f"Grey images have one mean. Signals (N, {given}, L) need `input_shape`." if given > channels == 1 else ""
    require_valid(means, deviations, channels, hint)
    return means, deviations
