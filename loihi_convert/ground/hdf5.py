"""Datasets of an HDF5 file of any origin; what this refuses, no other reader of the same bytes gets.

HDF5 follows links to other files, reads datasets that are stored in other files, and allocates as much memory as a
file claims to hold. Here a file is its own bytes: groups, and datasets of numbers and text within it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Container
from typing import Final

import h5py
import numpy as np

from loihi_convert.errors import InputError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import require_fits

MAX_RATIO: Final = 256
"""Largest ratio of dataset bytes to file bytes: a small file must not fill the memory. Weights repeated by a pooling
compress 10 to 50 times; those after the average of a large map up to 300 times with gzip, less than 88 times with
lzf."""
_DEEPEST: Final = 8
"""Most groups around a dataset; files that are read have 4, more in a NIR graph with subgraphs."""
_MAX_MEMBERS: Final = 5_000
"""Most groups and datasets; the largest networks of lava-dl have a few hundred."""
_MAX_TEXTS: Final = 10_000
"""Most texts of variable length in a dataset: edges of a NIR graph."""


def read_datasets(
    content: bytes, groups: Container[str] | None = None, *, allows_empty: bool = True
) -> dict[str, Array]:
    """Return the datasets in ``groups`` (None: all) by full name, ``layer/1/weight``, or raise as `require_plain`."""
    # Text is bytes: arrays of dtype S, or O if there are several of variable length.
    with h5py.File(io.BytesIO(content), "r") as file:
        return {name: _value(item) for name, item in _datasets(file, content, groups, allows_empty).items()}


def require_plain(content: bytes) -> None:
    """Refuse an HDF5 image unless each part is in it, once, together at most `MAX_RATIO` times its bytes."""
    with h5py.File(io.BytesIO(content), "r") as file:
        _datasets(file, content, None, True)


def _datasets(
    file: h5py.File, content: bytes, groups: Container[str] | None, allows_empty: bool
) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    seen = size = 0

    def visit(group: h5py.Group, names: list[str], prefix: str) -> None:
        nonlocal seen, size
        for name in names:
            seen += 1
            full = f"{prefix}{name}"
            # A group may be a member of itself.
            if seen > _MAX_MEMBERS or full.count("/") > _DEEPEST:
                raise InputError("too many datasets, or nested too deeply", where=full)
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise InputError("a link; links are not followed", where=full)
            item = group[name]
            if isinstance(item, h5py.Group):
                if not len(item) and not allows_empty:
                    raise InputError("an empty group", where=full)
                visit(item, list(item), f"{full}/")
                continue
            if not isinstance(item, h5py.Dataset) or not _is_plain(item):
                raise InputError("not a dataset of numbers or text in this file", where=full)
            # HDF5 reads a chunk as a whole.
            size += item.dtype.itemsize * max(item.size, math.prod(item.chunks or ()))
            _require_size(size, content)
            if item.dtype.kind == "O":
                # Many texts may be the same bytes of the file.
                for index in np.ndindex(item.shape):
                    size += len(item[index])
                    _require_size(size, content)
            found[full] = item

    visit(file, [name for name in file if groups is None or name in groups], "")
    return found


def _require_size(size: int, content: bytes) -> None:
    if size > MAX_RATIO * len(content):
        raise InputError(f"decompression ratio too large ({size:,} bytes from {len(content):,}); refused")
    require_fits(size, len(content), "", what="holds")


def _is_plain(item: h5py.Dataset) -> bool:
    if item.shape is None or item.is_virtual or item.external:
        return False
    is_text = h5py.check_string_dtype(item.dtype) is not None and item.size <= _MAX_TEXTS
    return is_text or item.dtype.kind in "iufbS"


def _value(item: h5py.Dataset) -> Array:
    value = np.asarray(item[()])
    if value.dtype.kind != "O" or value.size != 1:
        return value
    text = value.item()
    return np.array(text if isinstance(text, bytes) else str(text).encode())
