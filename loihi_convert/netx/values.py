"""Values of single datasets of a native netx file, checked when read."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array, Pair
from loihi_convert.errors import NetxError
from loihi_convert.netx.hdf5 import EXPORT_AGAIN


def pair(value: Array, least: int = 1) -> Pair:
    """Return two integers, each at least ``least``."""
    if value.shape != (2,) or value.dtype.kind != "i" or value.min() < least:
        raise NetxError(brief(value), expected=f"must be two integers, at least {least}", hint=EXPORT_AGAIN)
    return int(value[0]), int(value[1])


def integers(value: Array) -> Array:
    """Return integers as int32."""
    if value.dtype.kind != "i":
        raise NetxError(brief(value), expected="must be integers", hint=EXPORT_AGAIN)
    return value.astype(np.int32)


def integer(value: Array) -> int:
    """Return a single integer."""
    if value.shape != () or value.dtype.kind != "i":
        raise NetxError(brief(value), expected="must be one integer", hint=EXPORT_AGAIN)
    return int(value)


def is_positive(values: Array) -> Array:
    """Return which numbers are finite and above 0."""
    return np.asarray(np.isfinite(values) & (values > 0))


def encoded(text: str) -> Array:
    """Return ``text`` as a dataset."""
    return np.array(text.encode())


def decoded(value: Array) -> str:
    """Return the string in a dataset."""
    if value.shape != () or value.dtype.kind != "S":
        raise NetxError(brief(value), expected="must be a string", hint=EXPORT_AGAIN)
    return bytes(value.item()).decode()


def brief(value: Array) -> str:
    """Return up to four numbers, or the dtype and shape of a larger array, for an error message."""
    return f"{value.dtype} {value.shape}" if value.size > 4 else f"{value.dtype} {value.tolist()}"
