"""Array types, and read-only copies and digests of arrays."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]
Shape = tuple[int, ...]


def freeze(instance: object, *names: str) -> None:
    """Replace each named array of a frozen dataclass by a read-only copy, in its ``__post_init__``; None stays None.

    An array that is read-only and not a view, such as that of another frozen dataclass, is shared.
    """
    for name in names:
        array = getattr(instance, name)
        if array is not None:
            object.__setattr__(instance, name, array if _is_frozen(array) else frozen(np.array(array, order="C")))


def by_channel(values: Array, axes: int) -> Array:
    """Return ``values`` ``(C,)`` as ``(C, 1, ...)``, of ``axes`` axes: it broadcasts over those after the channels."""
    return values.reshape(-1, *(1,) * (axes - 1))


def all_but_channels(axes: int) -> Shape:
    """Return the axes of ``(N, C, ...)`` except that of the channels."""
    return (0, *range(2, axes))


def signed_bits(magnitudes: Array) -> Array:
    """Return the bits of a signed integer of each magnitude, int64: 8 for 127, 1 for 0."""
    return np.asarray(1 + np.ceil(np.log2(magnitudes.astype(np.float64) + 1)), np.int64)


def sparse_zeros(shape: Shape) -> Array:
    """Return float64 zeros whose pages take memory only once written; those of `numpy.zeros` are huge ones."""
    memory = mmap.mmap(-1, max(1, 8 * math.prod(shape)), access=mmap.ACCESS_COPY)
    return np.ndarray(shape, np.float64, memory)


def frozen(array: Array) -> Array:
    """Return ``array`` itself, made read-only; its caller must not change it through views."""
    array.flags.writeable = False
    return array


def arrays_digest(arrays: Iterable[Array]) -> str:
    """Return the SHA-256 of arrays with their shapes and types, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _is_frozen(array: object) -> bool:
    if type(array) is not np.ndarray:
        return False
    flags = array.flags
    is_own = flags.owndata or isinstance(array.base, mmap.mmap)
    return is_own and flags.c_contiguous and not flags.writeable
