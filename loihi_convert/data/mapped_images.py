"""Images in an ``.npz`` file that is not compressed, as a memory map."""

from __future__ import annotations

import math
import platform
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from loihi_convert.data.array_pixels import pixels_of
from loihi_convert.data.in_memory import as_images
from loihi_convert.data.stored_images import StoredImages
from loihi_convert.errors import DataError

NPZ_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    tokenize.TokenError,
)
"""Exceptions of NumPy for a file that is damaged or not an ``.npz`` file."""

_LOCAL_HEADER: Final = 30
_CHUNK: Final = 2**20
_AT_ONCE: Final = 64
"""Images whose pixels are compared at once."""

# NumPy declares no types for these.
_read_magic: Final[Callable[[IO[bytes]], tuple[int, int]]] = npy.read_magic
_READERS: Final[dict[tuple[int, int], Callable[[IO[bytes]], tuple[Any, Any, Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
    # Only the names of fields have another encoding.
    (3, 0): npy.read_array_header_2_0,
}


class Member(NamedTuple):
    """One array in a file: its checksum, and where its numbers are."""

    crc: int
    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MappedImages(StoredImages):
    """Images in one array of an ``.npz`` file.

    Parameters
    ----------
    path
        The file, absolute.
    key
        The name of the array.
    member
        The array, as found first; another one in its place is refused.
    image_shape
        ``(C, H, W)`` of an image.
    rows
        The indices of the images in the array, int64 ``(N,)``.
    """

    path: Path
    key: str
    member: Member
    image_shape: tuple[int, int, int]
    rows: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), *self.image_shape

    def __getitem__(self, index: slice | NDArray[np.intp]) -> MappedImages:
        return replace(self, rows=self.rows[index])

    def read(self) -> NDArray[np.uint8]:
        try:
            is_same = member_of(self.path, self.key) == self.member
        except NPZ_ERRORS as error:
            raise DataError(f"cannot be read on {platform.node()} ({error})", where=self.path) from error
        if not is_same:
            raise DataError(
                f"is another file on {platform.node()}, or has changed since the command began",
                where=self.path,
                hint="All workers must find the same file under the same path.",
            )
        if not len(self.rows):
            return np.empty(self.shape, np.uint8)
        every = self.mapped()
        first, last = int(self.rows[0]), int(self.rows[-1]) + 1
        is_slice = np.array_equal(self.rows, np.arange(first, last))
        return as_images(
            np.array(every[first:last] if is_slice else every[self.rows]),
            self.image_shape,
            where=f"{self.path}: {self.key}",
            # The brightest pixel of a few images may be 1.
            is_whole=False,
        )

    def is_almost_black(self) -> bool:
        """Return whether no pixel of the whole array is above 1; the first brighter one ends the search."""
        every = self.mapped()
        chunks = (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
        return all(pixels_of(chunk, str(self.path)).max() <= 1 for chunk in chunks)

    def mapped(self) -> NDArray[np.generic]:
        """Return the whole array as it is in the file."""
        return np.memmap(self.path, self.member.dtype, "r", self.member.offset, self.member.shape)


def mapped_images(path: Path, key: str, image_shape: tuple[int, int, int]) -> MappedImages | None:
    """Return the images in the array ``key``; None if they cannot be mapped.

    They cannot if the array is compressed, in Fortran order, or of integers other than uint8, whose range must be
    known as a whole; or if anything is wrong with the file or the images, such as no pixel above 1.
    """
    try:
        member = member_of(path, key)
        images = MappedImages(path.absolute(), key, member, image_shape, np.arange(member.shape[0]))
        kind = np.dtype(member.dtype)
        if kind != np.uint8 and kind.kind not in "bf":
            return None
        # Whether the axes fit.
        images[:1].read()
        if images.is_almost_black():
            return None
    except (*NPZ_ERRORS, IndexError, DataError):
        return None
    return images


def member_of(path: Path, key: str) -> Member:
    """Return where the numbers of the array ``key`` are.

    Raises
    ------
    ValueError
        If it is compressed, or not an array in C order.
    OSError, KeyError, zipfile.BadZipFile
        If it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        found = archive.getinfo(f"{key}.npy")
    if found.compress_type != zipfile.ZIP_STORED or found.flag_bits & 1:
        raise ValueError(f"{key} is compressed")
    with path.open("rb") as file:
        file.seek(found.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = found.header_offset + _LOCAL_HEADER + lengths
        file.seek(start)
        shape, is_fortran, dtype = _read_header(file)
        offset = file.tell()
    if is_fortran or dtype.hasobject or math.prod(shape) * dtype.itemsize != start + found.file_size - offset:
        raise ValueError(f"{key} is not an array in C order")
    return Member(found.CRC, offset, dtype.str, shape)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """The shape, whether in Fortran order, and the dtype of the array that begins here."""
    shape, is_fortran, dtype = _READERS[_read_magic(file)](file)
    return shape, is_fortran, dtype


def require_loadable(archive: zipfile.ZipFile, key: str) -> None:
    """Raise a `ValueError` unless NumPy can have written the array ``key``; before memory is taken for it."""
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed, but not by NumPy")
    with archive.open(entry) as member:
        shape, _, dtype = _read_header(member)
        claimed = member.tell() + math.prod(shape) * dtype.itemsize
    if claimed != entry.file_size and not dtype.hasobject:
        raise ValueError(f"{key} claims {claimed:,} bytes, but has {entry.file_size:,}")


def require_whole(archive: zipfile.ZipFile, key: str) -> None:
    """Read the array ``key`` piece by piece, and keep nothing.

    Raises
    ------
    zipfile.BadZipFile
        If its checksum is wrong.
    """
    with archive.open(f"{key}.npy") as member:
        while member.read(_CHUNK):
            pass
