"""Atomic file writes, what may be written where, and file digests."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from loihi_convert.errors import DataError, InputError, UsageError

# Characters of the file name kept in the temporary name: a name may have 255 bytes, a character up to four.
_KEPT: Final = 40
UNFINISHED: Final = ".?*.????????.tmp"
"""Pattern of the temporary names."""

_BUDGET: Final = 2**31
_RATIO: Final = 32
_GIB: Final = "LOIHI_CONVERT_GIB"
"""Environment variable with a number of GiB, in place of the limit of `require_fits`."""


def as_path(given: object, where: str) -> Path:
    """Return ``given``, of the parameter ``where``, as a path."""
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"found {given!r}", where=where, expected="must be the path of a file")
    return Path(given)


def write_atomically(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write ``content`` to ``path``; after a failure the file is unchanged.

    The bytes go to a temporary file in the same folder, are flushed to disk, and replace ``path`` by a rename. Of two
    writers the last one wins; without ``overwrite`` the first, and the other gets the error of `refuse_to_overwrite`.
    A writer killed by SIGKILL may leave its temporary file, see `UNFINISHED`.
    A symbolic link stays, and its target is written; an existing file keeps its permissions.

    Raises
    ------
    InputError
        If the folder does not exist, cannot be written, or is full, or ``path`` exists and is not a file.
    """
    try:
        permissions, target = _permissions(path), _target(path)
        unfinished = target.with_name(f".{target.name[:_KEPT]}.{secrets.token_hex(4)}.tmp")
        # Not by tempfile: its files are private, and the umask cannot be read without setting it for all threads.
        descriptor = os.open(
            unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if permissions is None else permissions
        )
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if permissions is not None:
                unfinished.chmod(permissions)
            if not overwrite:
                # An empty file takes the name: that fails if another writer has it. Not every file system has links.
                target.touch(exist_ok=False)
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _cannot_write(path, error) from error


def _permissions(path: Path) -> int | None:
    """The permissions of the file at ``path``; None if there is none.

    Raises
    ------
    InputError, OSError
        If ``path`` cannot be replaced by a file, as a folder or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise InputError("is not a file; nothing was changed", where=path)
    return stat.S_IMODE(mode)


def _target(path: Path) -> Path:
    """Where the bytes of ``path`` are, which may be a symbolic link."""
    # Path.resolve raises a RuntimeError for a loop.
    return Path(os.path.realpath(path))


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot be written ({error.strerror or error}); nothing was changed", where=path)


def asked(path: Path, question: Callable[[Path], bool], error: type[InputError] = InputError) -> bool:
    """Return ``question(path)``, such as `Path.exists`."""
    try:
        return question(path)
    except OSError as reason:
        raise error(f"cannot be read ({reason.strerror or reason})", where=path) from reason


def require_there(path: Path, hint: str) -> None:
    """Raise an `InputError` with ``hint`` if there is nothing at ``path``."""
    if not asked(path, Path.exists):
        raise InputError("no such file", where=path, hint=hint)


def require_no_pipe(path: Path) -> None:
    """Raise an `InputError` if ``path`` is a pipe or a device, which can be read only once."""
    if not path.is_file() and not path.is_dir():
        raise InputError("is a pipe or a device", where=path, expected="must be a file")


def require_fits(
    size: int, stored: int, where: Path | str, error: type[InputError] = InputError, what: str = "takes"
) -> None:
    """Raise an ``error`` if an input of ``stored`` bytes, at ``where``, takes ``size`` bytes of memory.

    It may take 2 GiB or, if more, 32 times its bytes: what is made to fill the memory decompresses by more.
    """
    gib = os.environ.get(_GIB, "")
    is_set = gib.replace(".", "", 1).isdecimal()
    limit = float(gib) * 2**30 if is_set else max(_BUDGET, _RATIO * stored)
    if size > limit:
        rule = f"set by {_GIB}" if is_set else f"or {_RATIO} times the size of its file, if that is more"
        raise error(
            f"{what} {size / 2**30:,.1f} GiB",
            where=where,
            expected=f"must take at most {limit / 2**30:,.1f} GiB ({rule})",
            hint=f"If you trust it, set the environment variable {_GIB} to {-(-size >> 30)}.",
        )


def cannot_read(path: Path, error: OSError) -> DataError:
    """Return the error for data at ``path`` that may not be read."""
    return DataError(f"cannot be read ({error.strerror or error})", where=path)


def require_writable(path: Path) -> None:
    """Raise the `InputError` of `write_atomically` if ``path`` is not a file, or its folder is missing or read-only.

    Called before long computations, so that the error does not come after them.
    """
    try:
        _permissions(path)
        with tempfile.TemporaryFile(dir=_target(path).parent):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def make_folder(folder: Path, parameter: str) -> None:
    """Create ``folder``, with its parents, unless it exists."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_create(folder, error, parameter) from error


def cannot_create(folder: Path, error: OSError, parameter: str) -> InputError:
    """Return the error of `make_folder`."""
    found = f"cannot be created ({error.strerror or error})"
    return InputError(found, where=folder, hint=f"Choose another place with `{parameter}`.")


def refuse_to_replace(source: Path, path: Path) -> None:
    """Raise a `UsageError` if ``path``, the file to write, is ``source``, the file to read."""
    if asked(path, Path.exists) and asked(source, Path.exists) and path.samefile(source):
        raise UsageError("is the input file and would be overwritten; nothing was changed", where=path)


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise an `InputError` if ``path`` exists and ``overwrite`` is off."""
    if asked(path, Path.exists) and not overwrite:
        raise _exists(path)


def _exists(path: Path) -> InputError:
    return InputError("exists already; nothing was changed", where=path, hint="Pass `overwrite=True` to replace it.")


def require_output(path: Path, overwrite: bool, source: Path | None = None) -> None:
    """Raise an error unless ``path`` can be written, and is neither ``source`` nor, without ``overwrite``, there."""
    require_writable(path)
    if source is not None:
        refuse_to_replace(source, path)
    refuse_to_overwrite(path, overwrite)


def require_new_or_empty(folder: Path, hint: str = "Choose a new or an empty folder with `output`.") -> None:
    """Raise an `InputError` with ``hint`` if ``folder`` is not empty."""
    try:
        is_filled = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=folder, hint=hint) from error
    if is_filled:
        raise InputError("exists already and is not empty; nothing was changed", where=folder, hint=hint)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at ``path``."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


FileKind = Literal["zip", "pickle", "safetensors", "onnx", "hdf5", "git-lfs", "html", "empty", "unknown"]
"""``zip``: torch.save, TorchScript, .npz; ``pickle``: torch.save before torch 1.6; ``hdf5``: netx, Keras."""

CHECKPOINT_KINDS: Final[tuple[FileKind, ...]] = ("zip", "pickle", "safetensors")
"""Files that may hold the weights of a CNN but not its structure."""

NIR: Final = ".nir"
"""Suffix of NIR files. They are HDF5, as netx files, and told apart by it."""

_HEAD: Final = 512
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
# HDF5 puts its signature at 0, 512, 1024, 2048, ...: a user block may precede it.
_HDF5_OFFSETS: Final = (0, *(512 << shift for shift in range(8)))
_SIGNATURES: Final[tuple[tuple[bytes, FileKind], ...]] = (
    (b"PK", "zip"),
    (b"version https://git-lfs", "git-lfs"),
    (b"<!doctype", "html"),
    (b"<html", "html"),
)
# The fields that can follow the first one, ir_version, in a ModelProto of onnx.proto: producer_name, producer_version,
# domain, model_version, doc_string, graph, opset_import, metadata_props, functions.
_AFTER_IR_VERSION: Final = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xCA)
_LATEST_IR_VERSION: Final = 64


def kind_of(path: Path) -> FileKind | None:
    """Return the type of the file at ``path``; None if it is not a file or cannot be read."""
    try:
        # A pipe would wait for its writer, and what is read from it is gone.
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
            for offset in _HDF5_OFFSETS:
                stream.seek(offset)
                if stream.read(len(_HDF5)) == _HDF5:
                    return "hdf5"
    except OSError:
        return None
    if not head:
        return "empty"
    # Eight bytes with the length of a JSON header, then the header. Tested first: a length may look like any signature.
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors"
    for signature, kind in _SIGNATURES:
        if head.lower().startswith(signature.lower()):
            return kind
    # Protocols 2 to 5 begin with the opcode PROTO.
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    if len(head) > 2 and head[0] == 0x08 and head[1] <= _LATEST_IR_VERSION and head[2] in _AFTER_IR_VERSION:
        return "onnx"
    return "unknown"


def is_nir(path: Path) -> bool:
    """Return whether ``path`` has the suffix of a NIR file; it may be missing or damaged."""
    return path.suffix.lower() == NIR
