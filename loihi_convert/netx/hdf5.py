"""The bytes of a netx file <-> its datasets; the only file that imports h5py.

HDF5 itself loads most damage without a word, and some damage ends the process with SIGSEGV. So a file of ours begins
with a *seal*, in the 512 bytes that HDF5 leaves to its user: the SHA-256 of everything behind it, checked before HDF5
sees a byte. The root attribute ``content_sha256`` covers every dataset, for files that another tool wrote anew without
seal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import LoihiConvertError, NetxError, escape_control

SUFFIX: Final = ".net"
OURS: Final = "loihi_convert"
MAX_LAYER_SIZE: Final = 2**26
"""Neurons that any reader of a netx file takes; a Loihi 2 chip has 2^20."""
_DIGEST: Final = "content_sha256"

_SEAL: Final = "loihi-convert netx; sha256 of all bytes from 512: "
_SEAL_LENGTH: Final = 512
_HDF5: Final = b"\x89HDF\r\n\x1a\n"

_MAX_FILE: Final = 2**31
_MAX_RATIO: Final = 256
"""Bytes of the datasets for each byte of the file: a small file must not fill the memory. The weights that a pooling
repeats compress 10 to 50 times, those behind the average of a large map 300 times by gzip, less than 88 by lzf."""
_DEEPEST: Final = f"{OURS}/layer/0/balanced/threshold".count("/")
_MAX_REASON_LENGTH: Final = 400
_MAX_TEXT_LENGTH: Final = 1000
_MAX_MEMBERS: Final = 5_000
"""Groups and datasets of a file of other hands; the largest networks of lava-dl hold some hundred."""
_STOCK: Final = ("layer", "simulation")
"""The groups of a netx file that slayer writes; lava-dl reads the first."""

Datasets = Mapping[str, Array]
"""Every dataset of a file by its full name, such as ``layer/1/weight``; text as bytes."""


def file_content(datasets: Datasets) -> bytes:
    """Return the bytes of a file of ours that holds ``datasets``."""
    for compression in ("gzip", "lzf"):
        image = _image(datasets, compression)
        if sum(value.nbytes for value in datasets.values()) <= _MAX_RATIO * len(image):
            break
    return seal(image) + image


def _image(datasets: Datasets, compression: str) -> bytes:
    # Built in memory: h5py on a full disk dies with SIGSEGV, and a killed in-place write leaves an unusable file.
    with h5py.File("in-memory", "w", driver="core", backing_store=False, userblock_size=_SEAL_LENGTH) as file:
        for name, value in datasets.items():
            # HDF5 compresses and checks only what has values to be cut into chunks.
            filters = (
                {"compression": compression, "shuffle": True, "fletcher32": True} if value.shape and value.size else {}
            )
            file.create_dataset(name, data=value, **filters)
        file.attrs[_DIGEST] = content_sha256(datasets)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def read_content(path: Path) -> bytes:
    """Return the bytes of the file at ``path``, which are those that its seal, if it has one, was made for.

    Raises
    ------
    NetxError
        If the file is missing, cannot be read, is no HDF5 file, or its seal is broken.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise NetxError(f"{path}: is larger than 2 GiB; no netx file of ours is.")
        # Read whole first: h5py keeps a file open for as long as a reader lives.
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NetxError(f"{path}: no such file; `loihi-convert export model.pt` writes one.") from error
    except OSError as error:
        raise NetxError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not content.startswith(_HDF5):
        if not content.startswith(_SEAL[:8].encode()):
            raise NetxError(f"{path}: cannot be read as a netx HDF5 file, it begins as no such file does.")
        if content[:_SEAL_LENGTH] != seal(content[_SEAL_LENGTH:]):
            raise NetxError(f"{path}: is damaged, it does not match the SHA-256 it begins with; export it again.")
    return content


def read_datasets(content: bytes) -> Datasets:
    """Every dataset of an HDF5 image of ours; nothing outside the image is opened, and no link is followed."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if name.count("/") > _DEEPEST:
            raise NetxError(f"{name}: lies deeper than anything in a netx file of ours; export it again.")
        if isinstance(item, h5py.Group):
            _require_plain_group(item)
        elif isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external and item.dtype.kind in "iufS":
            found[name] = item
        else:
            raise NetxError(f"{name}: is no dataset of numbers or text in this file; export it again.")

    with h5py.File(io.BytesIO(content), "r") as file:
        _require_plain_group(file)
        if OURS not in file or _DIGEST not in file.attrs:
            raise NetxError(
                f"holds no group '{OURS}' with thresholds and scales, which only files written by `loihi-convert "
                "export` have. Other netx files can be run, alone and on ref, and inspected."
            )
        file.visititems(visit)
        _require_size(found, content)
        datasets = {name: np.asarray(item[()]) for name, item in found.items()}
        if file.attrs[_DIGEST] != content_sha256(datasets):
            raise NetxError("is damaged, its content does not match its SHA-256; export it again.")
    return datasets


def is_native(content: bytes) -> bool:
    """Whether an HDF5 image holds the group that only this package writes."""
    with h5py.File(io.BytesIO(content), "r") as file:
        return OURS in file


def read_stock_datasets(content: bytes) -> Datasets:
    """Every dataset of an HDF5 image that lava-dl may look at, whoever wrote it, ours too.

    Numbers and truth values as they are, text as bytes; nothing outside the image is opened, and no link is followed.
    """
    found: dict[str, h5py.Dataset] = {}
    seen = 0

    def visit(group: h5py.Group, prefix: str) -> None:
        nonlocal seen
        for name in group:
            seen += 1
            full = f"{prefix}/{name}"
            if seen > _MAX_MEMBERS or full.count("/") > _DEEPEST:
                raise NetxError(f"{full}: holds more, or lies deeper, than a netx network does.")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise NetxError(f"{full}: is a link to another place, which is not followed.")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, full)
            elif isinstance(item, h5py.Dataset) and _is_plain(item):
                found[full] = item
            else:
                raise NetxError(f"{full}: is no dataset of numbers or text in this file.")

    with h5py.File(io.BytesIO(content), "r") as file:
        for name in _STOCK:
            if name in file:
                if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(
                    file[name], h5py.Group
                ):
                    raise NetxError(f"{name}: is no group of this file.")
                visit(file[name], name)
        if not any(name.startswith("layer/") for name in found):
            raise NetxError("holds no group 'layer' with layers; it is HDF5, but no netx file.")
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
        raise NetxError(f"{name}: a text of {value.nbytes:,} bytes; allowed are {_MAX_TEXT_LENGTH:,}.")
    return value


def _require_size(found: Mapping[str, h5py.Dataset], content: bytes) -> None:
    size = sum(item.dtype.itemsize * item.size for item in found.values())
    if size > _MAX_RATIO * len(content):
        raise NetxError(f"claims to hold {size:,} bytes in {len(content):,}, which no compression gives.")


def seal(image: bytes) -> bytes:
    """The user block of an HDF5 image: a line for people and for `read`, filled up with zeros."""
    return f"{_SEAL}{hashlib.sha256(image).hexdigest()}\n".encode().ljust(_SEAL_LENGTH, b"\0")


def content_sha256(datasets: Datasets) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(datasets.items()):
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _require_plain_group(group: h5py.Group) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise NetxError(f"{group.name}: {name} is a link to another place; export the file again.")
    if len(group) == 0:
        raise NetxError(f"{group.name}: is an empty group; export the file again.")


@contextlib.contextmanager
def errors_that_name(path: Path, advice: str = "") -> Iterator[None]:
    """Turn every error that reading ``path`` raises into a `NetxError` of one line that names it."""
    try:
        yield
    except LoihiConvertError as error:
        raise NetxError(f"{path}: {_shortened(str(error))}") from error
    # A forged file can make HDF5 and NumPy raise nearly anything; none of it is our bug.
    except Exception as error:
        reason = _shortened(str(error) or type(error).__name__)
        raise NetxError(f"{path}: cannot be read as a netx HDF5 file ({reason}){advice}.") from error


def _shortened(reason: str) -> str:
    """One line of a length that can be read, whatever a forged file made part of it."""
    line = escape_control(" ".join(reason.split()))
    return line if len(line) <= _MAX_REASON_LENGTH else f"{line[:_MAX_REASON_LENGTH]} ..."
