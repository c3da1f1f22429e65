"""The normalization of images, (pixel / 255 - mean) / std, and its checks, for Python and the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from loihi_convert.errors import UsageError

_OFFSET: Final = 10
"""A ``mean`` above it, with a ``std`` of at least 1, is one of pixels in 0..255, or of pixels minus 128."""


_SHOWN: Final = 8
"""Of more numbers, an error gives only the count."""


class Normalization(NamedTuple):
    """What a CNN was trained on, ``(pixel / 255 - mean) / std``: for each one number, or one per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def per_channel(self, channels: int, *, is_shape_known: bool = False) -> Normalization:
        """Return the same with one number per channel each.

        If not ``is_shape_known``, one channel may be that of signals taken for grey images.

        Raises
        ------
        UsageError
            If there is not one finite number, or one per channel; if a number of ``std`` is not above 0; or if both
            are those of pixels in 0..255.
        """
        for where, values in zip(self._fields, self, strict=True):
            found, hint = f"found {values}", ""
            if len(values) not in (1, channels):
                found = f"found {len(values)} numbers" if len(values) > _SHOWN else found
                expected = _expected(channels)
                if where == "mean" and len(values) > channels == 1 and not is_shape_known:
                    hint = f"Grey images have one mean. Signals (N, {len(values)}, L) need `input_shape`."
            elif not all(map(math.isfinite, values)) or (where == "std" and min(values) <= 0):
                expected = f"must be {'finite and above 0' if where == 'std' else 'finite'}"
            else:
                continue
            raise UsageError(found, where=where, expected=expected, hint=hint)
        # Signals below 0 have a `mean` above 1, such as 80 / 60 for -80..-20, but then a `std` of 1 / 60.
        if max(self.mean) > _OFFSET and max(self.std) >= 1:
            expected = "must be those of pixels in 0..1: pixels are divided by 255 first"
            raise UsageError(f"found {self.mean}, with a `std` of {self.std}", where="mean", expected=expected)
        mean, std = (values * channels if len(values) == 1 else values for values in self)
        return Normalization(mean, std)


def require_both(mean: object, std: object) -> None:
    """Raise a `UsageError` if one of ``mean`` and ``std`` is None and the other is not.

    With only one of the two, every later check would pass, but the CNN would see wrong inputs.
    """
    if (mean is None) == (std is None):
        return
    missing = "mean" if mean is None else "std"
    expected = "`mean` and `std`, those of (pixel / 255 - mean) / std in training, must be given together"
    raise UsageError("not given", where=missing, expected=expected)


def channel_normalization(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, channels: int
) -> Normalization | None:
    """Return ``mean`` and ``std``, one number per channel each; ``None`` if neither is given.

    Each is a number, a list or an array, with any axes of length 1 beside that of the channels.
    """
    require_both(mean, std)
    if mean is None or std is None:
        return None
    return Normalization(_numbers(mean, channels, "mean"), _numbers(std, channels, "std")).per_channel(channels)


def _numbers(values: float | Sequence[float], channels: int, where: str) -> tuple[float, ...]:
    # Here, because the command line starts without NumPy.
    import numpy as np

    expected = _expected(channels)
    try:
        is_collection = isinstance(values, Iterable) and not hasattr(values, "__array__")
        array = np.asarray([*cast(Iterable[float], values)] if is_collection else values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"found {values!r}", where=where, expected=expected) from error
    if array.dtype.kind not in "biuf":
        raise UsageError(f"found {values!r}", where=where, expected=expected)
    if sum(size > 1 for size in array.shape) > 1:
        raise UsageError(f"found an array {array.shape}", where=where, expected=expected)
    return tuple(array.astype(np.float64).ravel().tolist())


def _expected(channels: int) -> str:
    return f"must be one number, or one per channel ({channels})"
