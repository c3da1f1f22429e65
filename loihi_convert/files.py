"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from loihi_convert.errors import InputError, UsageError

_SUFFIX: Final = ".loihi-convert-tmp"
# Characters of a file's name in that of its temporary file: a name may have 255 bytes, a character four.
_KEPT: Final = 40


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: afterwards the file is complete, or, after any failure, what it was before.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and replace ``path`` by a rename. What
    a killed writer of the same ``path``, or of one that begins with the same `_KEPT` characters, left there is removed;
    one that still lives is not disturbed, the last wins.

    Raises
    ------
    InputError
        If the folder does not exist, cannot be written, or is full.
    """
    try:
        _remove_stale_files(path)
        descriptor, temporary = _temporary_file(path)
        with os.fdopen(descriptor, "wb") as stream:
            try:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                # mkstemp makes files private; a product of ours gets the permissions of any new file.
                mask = os.umask(0)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}); nothing was changed. Choose another place with -o."
    )


def _temporary_file(path: Path) -> tuple[int, Path]:
    """Return a new file beside ``path``, open and locked: the lock, which the kernel drops, says that its writer lives.

    Unlike a process number in the name it holds across containers and machines that share a folder.
    """
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=_SUFFIX)
        # Where there are no locks, `_remove_stale_files` gets none either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another writer may have taken it for a dead one's before it was locked.
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)


def _prefix(path: Path) -> str:
    return f".{path.name[:_KEPT]}."


def _remove_stale_files(path: Path) -> None:
    """Remove the temporary files of ``path`` whose writer has ended."""
    ours = re.compile(rf"{re.escape(_prefix(path))}\w+{re.escape(_SUFFIX)}")
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            if ours.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_unless_locked(entry)


def _remove_unless_locked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def require_writable(path: Path) -> None:
    """Raise the `InputError` of `write_atomically` if the folder of ``path`` is missing or closed, or it is a folder.

    For what takes long: it is found out before the work, and not after.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def refuse_to_replace(source: Path, path: Path) -> None:
    """Raise a `UsageError` if ``path``, which is to be written, is the file ``source``, which is read."""
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(
            f"{path}: is the file that is read, and would be lost; nothing was changed. Choose another place with -o."
        )


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise an `InputError` if ``path`` exists and ``overwrite`` is off."""
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; nothing was changed. Pass --overwrite, or another place with -o.")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at ``path``."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
