"""Array types, and read-only copies of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]
Shape = tuple[int, ...]


def plain_numbers(instance: object) -> None:
    """Replace each NumPy number in a field of a frozen dataclass by Python's, in its ``__post_init__``."""
    for name, value in list(vars(instance).items()):
        if isinstance(value, np.generic):
            object.__setattr__(instance, name, value.item())


def freeze(instance: object, *names: str) -> None:
    """Replace each named array of a frozen dataclass by a read-only copy, in its ``__post_init__``; None stays None."""
    for name in names:
        array = getattr(instance, name)
        if array is not None:
            copy = np.array(array, copy=True, order="C")
            copy.flags.writeable = False
            object.__setattr__(instance, name, copy)
