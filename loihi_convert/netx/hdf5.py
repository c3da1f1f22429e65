"""The bytes of a netx file <-> its datasets; the only file that imports h5py.

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

from loihi_convert.arrays import Array
from loihi_convert.errors import LoihiConvertError, NetxError, escape_control, is_lack_of_memory

SUFFIX: Final = ".net"
NATIVE_GROUP: Final = "loihi_convert"
MAX_LAYER_SIZE: Final = 2**26
"""Largest number of neurons in a layer of any netx file; a Loihi 2 chip has 2^20."""
_DIGEST: Final = "content_sha256"

_SEAL: Final = "loihi-convert netx; sha256 of all bytes from 512: "
_SEAL_LENGTH: Final = 512
_IMAGES: Final = itertools.count()
_HDF5: Final = b"\x89HDF\r\n\x1a\n"

_MAX_FILE: Final = 2**31
_MAX_RATIO: Final = 256
"""Largest ratio of dataset bytes to file bytes: a small file must not fill the memory. Weights repeated by a pooling
compress 10 to 50 times; those after the average of a large map up to 300 times with gzip, less than 88 times with
lzf."""
_LEAST_COMPRESSED: Final = 4096
"""Bytes from which on a dataset is compressed: HDF5's index of its chunks takes a kilobyte or more."""
_CHUNK: Final = 2**18
"""Most bytes of a chunk, unless one row has more."""
_DEEPEST: Final = f"{NATIVE_GROUP}/layer/0/balanced/threshold".count("/")
_MAX_REASON_LENGTH: Final = 400
_MAX_TEXT_LENGTH: Final = 1000
_MAX_MEMBERS: Final = 5_000
"""Most groups and datasets of an external file; the largest networks of lava-dl have a few hundred."""
_SLAYER_GROUPS: Final = ("layer", "simulation")
"""The groups of a netx file written by slayer; lava-dl reads the first."""
EXPORT_AGAIN: Final = "Export the file again."

Datasets = Mapping[str, Array]
"""All datasets of a file by full name, such as ``layer/1/weight``; text as bytes."""


def file_content(datasets: Datasets) -> bytes:
    """Return the bytes of a native file that holds ``datasets``."""
    for compression in ("gzip", "lzf"):
        image = _image(datasets, compression)
        if sum(value.nbytes for value in datasets.values()) <= _MAX_RATIO * len(image):
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
        if path.stat().st_size > _MAX_FILE:
            raise NetxError("larger than 2 GiB", where=path, expected="must be smaller")
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


def read_datasets(content: bytes) -> Datasets:
    """Return all datasets of a native HDF5 image; open nothing outside the image, and follow no links."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if name.count("/") > _DEEPEST:
            raise NetxError("nested too deeply", where=name, hint=EXPORT_AGAIN)
        if isinstance(item, h5py.Group):
            _require_plain_group(item)
        elif isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external and item.dtype.kind in "iufS":
            found[name] = item
        else:
            raise NetxError("not a dataset of numbers or text in this file", where=name, hint=EXPORT_AGAIN)

    with h5py.File(io.BytesIO(content), "r") as file:
        _require_plain_group(file)
        if NATIVE_GROUP not in file:
            raise NetxError(
                f"not written by loihi-convert (the group '{NATIVE_GROUP}' with thresholds and scales is missing)",
                hint="Netx files of other tools can be checked, inspected, and run on `ref`, one at a time.",
            )
        if _DIGEST not in file.attrs:
            raise NetxError(f"written again by another program: {_DIGEST} is missing", hint=EXPORT_AGAIN)
        file.visititems(visit)
        _require_size(found, content)
        datasets = {name: np.asarray(item[()]) for name, item in found.items()}
        if file.attrs[_DIGEST] != content_sha256(datasets):
            raise NetxError("damaged: the content does not match its SHA-256", hint=EXPORT_AGAIN)
    return datasets


def is_native(content: bytes) -> bool:
    """Return whether an HDF5 image contains the group that only this package writes."""
    with h5py.File(io.BytesIO(content), "r") as file:
        return NATIVE_GROUP in file


def read_stock_datasets(content: bytes) -> Datasets:
    """Return all datasets of an HDF5 image that lava-dl may read, native or external.

    Numbers and booleans are unchanged, text is bytes. Opens nothing outside the image, and follows no links.
    """
    found: dict[str, h5py.Dataset] = {}
    seen = 0

    def visit(group: h5py.Group, prefix: str) -> None:
        nonlocal seen
        for name in group:
            seen += 1
            full = f"{prefix}/{name}"
            if seen > _MAX_MEMBERS or full.count("/") > _DEEPEST:
                raise NetxError("too many datasets, or nested too deeply, for a netx network", where=full)
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise NetxError("a link; links are not followed", where=full)
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, full)
            elif isinstance(item, h5py.Dataset) and _is_plain(item):
                found[full] = item
            else:
                raise NetxError("not a dataset of numbers or text in this file", where=full)

    with h5py.File(io.BytesIO(content), "r") as file:
        for name in _SLAYER_GROUPS:
            if name in file:
                if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(
                    file[name], h5py.Group
                ):
                    raise NetxError("not a group in this file", where=name)
                visit(file[name], name)
        if not any(name.startswith("layer/") for name in found):
            raise NetxError("not a netx file (HDF5 without layers in a group 'layer')")
        _require_size(found, content)
        return {name: _value(name, item) for name, item in found.items()}


def _is_plain(item: h5py.Dataset) -> bool:
    is_text = item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is not None and item.size == 1
    return not item.is_virtual and not item.external and (is_text or item.dtype.kind in "iufbS")


def _value(name: str, item: h5py.Dataset) -> Array:
    value = np.asarray(item[()])
    if value.dtype.kind == "O":
        text = value.item()
        value = np.array(text if isinstance(text, bytes) else str(text).encode())
    if value.dtype.kind == "S" and value.nbytes > _MAX_TEXT_LENGTH:
        expected = f"must be at most {_MAX_TEXT_LENGTH:,}"
        raise NetxError(f"text of {value.nbytes:,} bytes", where=name, expected=expected)
    return value


def _require_size(found: Mapping[str, h5py.Dataset], content: bytes) -> None:
    size = sum(item.dtype.itemsize * item.size for item in found.values())
    if size > _MAX_RATIO * len(content):
        raise NetxError(f"decompression ratio too large ({size:,} bytes from {len(content):,}); refused")


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


def _require_plain_group(group: h5py.Group) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise NetxError(f"{name} is a link", where=group.name, hint=EXPORT_AGAIN)
    if len(group) == 0:
        raise NetxError("an empty group", where=group.name, hint=EXPORT_AGAIN)


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
