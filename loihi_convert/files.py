"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from loihi_convert.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: afterwards the file is complete, or, after any failure, what it was before.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and replace ``path`` by a rename.

    Raises
    ------
    InputError
        If the folder does not exist, cannot be written, or is full.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
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
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was changed. Choose another place with -o."
        ) from error


def refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    """Raise an `InputError` if ``path`` exists and ``overwrite`` is off."""
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; nothing was changed. Pass --overwrite, or another place with -o.")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file at ``path``."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
