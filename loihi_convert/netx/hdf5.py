"""The bytes of a netx file <-> its datasets.

HDF5 loads most damage silently, and some damage crashes the process with SIGSEGV. So a native file begins with a
*seal*, in the 512-byte user block of HDF5: the SHA-256 of all bytes after it, checked before HDF5 reads any of them.
The root attribute ``content_sha256`` covers all datasets, for files that another tool has rewritten without the seal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from loihi_convert.errors import LoihiConvertError, NetxError, escape_control, is_lack_of_memory
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.hdf5 import MAX_RATIO, read_datasets

SUFFIX: Final = ".net"
NATIVE_GROUP: Final = "loihi_convert"
MAX_LAYER_SIZE: Final = 2**26
"""Largest number of neurons in a layer of any netx file; a Loihi 2 chip has 2^20."""
_DIGEST: Final = "content_sha256"

_SEAL: Final = "loihi-convert netx; sha256 of all bytes from 512: "
_SEAL_LENGTH: Final = 512
_IMAGES: Final = itertools.count()
_HDF5: Final = b"\x89HDF\r\n\x1a\n"

_LEAST_COMPRESSED: Final = 4096
"""Bytes from which on a dataset is compressed: HDF5's index of its chunks takes a kilobyte or more."""
_CHUNK: Final = 2**18
"""Most bytes of a chunk, unless one row has more."""
_MAX_REASON_LENGTH: Final = 400
_MAX_TEXT_LENGTH: Final = 1000
_SLAYER_GROUPS: Final = ("layer", "simulation")
"""The groups of a netx file written by slayer; lava-dl reads the first."""
EXPORT_AGAIN: Final = "Export the file again."

Datasets = Mapping[str, Array]
"""All datasets of a file by full name, such as ``layer/1/weight``; text as bytes."""


def file_content(datasets: Datasets) -> bytes:
    """Return the bytes of a native file that holds ``datasets``."""
    for compression in ("gzip", "lzf"):
        image = _image(datasets, compression)
        if sum(value.nbytes for value in datasets.values()) <= MAX_RATIO * len(image):
            break
    return seal(image) + image


def _image(datasets: Datasets, compression: str) -> bytes:
    # Built in memory: h5py crashes with SIGSEGV on a full disk, and a killed in-place write leaves an unusable file.
    # HDF5 refuses two open files of one name, also if neither is on disk: threads may write at the same time.
    unused = f"in-memory {next(_IMAGES)}"
    with h5py.File(unused, "w", driver="core", backing_store=False, userblock_size=_SEAL_LENGTH) as file:
        for name, value in datasets.items():
            # Flushed, so that its place does not depend on when it is closed: a profiler, such as that of Dask's
            # workers, may hold the frame that has it.
            file.create_dataset(name, data=value, **_storage(value, compression)).flush()
        file.attrs[_DIGEST] = content_sha256(datasets)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _storage(value: Array, compression: str) -> dict[str, Any]:
    """How a dataset is stored: compressed, in chunks of whole rows, unless it is small."""
    # Text is a scalar, which HDF5 cannot divide into chunks.
    if value.ndim == 0 or value.nbytes < _LEAST_COMPRESSED:
        return {}
    # h5py's own chunks cut through kernels, where the weights that a pooling repeats stand side by side.
    rows = min(len(value), max(1, _CHUNK // value[0].nbytes))
    return {
        "chunks": (rows, *value.shape[1:]),
        "compression": compression,
        "shuffle": True,
        "fletcher32": True,
    }


def read_content(path: Path) -> bytes:
    """Return the bytes of the file at ``path``, after checking its seal if it has one.

    Raises
    ------
    NetxError
        If the file is missing, cannot be read, is not an HDF5 file, or does not match its seal.
    """
    try:
        # Read the whole file first: h5py keeps a file open as long as its reader exists.
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NetxError("no such file", where=path, hint="Write one with `loihi-convert export model.pt`.") from error
    except OSError as error:
        raise NetxError(f"cannot be read ({error.strerror or error})", where=path) from error
    if not content.startswith(_HDF5):
        if not content.startswith(_SEAL[:8].encode()):
            raise NetxError("not an HDF5 file (bad signature)", where=path, hint="Files of `export` end in .net.")
        if content[:_SEAL_LENGTH] != seal(content[_SEAL_LENGTH:]):
            raise NetxError("damaged: the bytes do not match the seal (SHA-256)", where=path, hint=EXPORT_AGAIN)
    return content


def read_native_datasets(content: bytes) -> Datasets:
    """Return all datasets of a native HDF5 image, which match its digest."""
    if not is_native(content):
        raise NetxError(
            f"not written by loihi-convert (the group '{NATIVE_GROUP}' with thresholds and scales is missing)",
            hint="Netx files of other tools can be checked, inspected, and run on `ref`, one at a time.",
        )
    with h5py.File(io.BytesIO(content), "r") as file:
        digest = file.attrs.get(_DIGEST)
    if digest is None:
        raise NetxError(f"written again by another program: {_DIGEST} is missing", hint=EXPORT_AGAIN)
    datasets = read_datasets(content, allows_empty=False)
    if digest != content_sha256(datasets):
        raise NetxError("damaged: the content does not match its SHA-256", hint=EXPORT_AGAIN)
    return datasets


def is_native(content: bytes) -> bool:
    """Return whether an HDF5 image contains the group that only this package writes."""
    with h5py.File(io.BytesIO(content), "r") as file:
        return NATIVE_GROUP in file


def read_stock_datasets(content: bytes) -> Datasets:
    """Return all datasets of an HDF5 image that lava-dl may read, native or external."""
    found = read_datasets(content, _SLAYER_GROUPS)
    if not any(name.startswith("layer/") for name in found):
        raise NetxError("not a netx file (HDF5 without layers in a group 'layer')")
    for name, value in found.items():
        if value.dtype.kind == "O":
            raise NetxError(f"{value.size:,} texts", where=name, expected="must be one")
        if value.dtype.kind == "S" and value.nbytes > _MAX_TEXT_LENGTH:
            expected = f"must be at most {_MAX_TEXT_LENGTH:,}"
            raise NetxError(f"text of {value.nbytes:,} bytes", where=name, expected=expected)
    return found


def seal(image: bytes) -> bytes:
    """Return the user block of an HDF5 image: one line for people and for `read`, padded with zeros."""
    return f"{_SEAL}{hashlib.sha256(image).hexdigest()}\n".encode().ljust(_SEAL_LENGTH, b"\0")


def content_sha256(datasets: Datasets) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(datasets.items()):
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def integers_sha256(datasets: Datasets) -> str:
    """Return the digest of all datasets but floating-point numbers and provenance.

    Files with this digest in common give the same spikes and potentials, whoever made them.
    """
    return content_sha256(
        {
            name: value
            for name, value in datasets.items()
            if value.dtype.kind != "f" and name != f"{NATIVE_GROUP}/provenance"
        }
    )


@contextlib.contextmanager
def errors_within(place: str | Path) -> Iterator[None]:
    """Turn any `LoihiConvertError` into a `NetxError` about ``place``, with fields short enough for one line."""
    try:
        yield
    except LoihiConvertError as error:
        where, found, expected, hint = map(_shortened, (error.where, error.found, error.expected, error.hint))
        inner = f"{place}: {where}" if where else str(place)
        raise NetxError(found, where=inner, expected=expected, hint=hint) from error


@contextlib.contextmanager
def errors_that_name(path: Path, hint: str = "") -> Iterator[None]:
    """Turn any error raised while reading ``path`` into a `NetxError` that names it."""
    with errors_within(path):
        try:
            yield
        except LoihiConvertError:
            raise
        # A forged file can make HDF5 and NumPy raise almost any exception; none of these is a bug here.
        except Exception as error:
            if is_lack_of_memory(error):
                raise
            reason = _shortened(str(error) or type(error).__name__)
            if isinstance(error, KeyError):
                reason += " is missing"
            raise NetxError(f"cannot be read as a netx HDF5 file ({reason})", hint=hint) from error


def _shortened(reason: str) -> str:
    """Return one line of bounded length, even if a forged file supplied the text."""
    line = escape_control(" ".join(reason.split()))
    return line if len(line) <= _MAX_REASON_LENGTH else f"{line[:_MAX_REASON_LENGTH]} ..."
