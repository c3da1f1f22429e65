"""A folder of results: one JSON file per computed cell, and claims, so that several commands can share it.

::

    cells/<name>.json     identity and result, or error; the same bytes wherever it is computed
    cells/<name>.seconds  how long it took, for estimates
    cells/<name>.lock     while a command computes it
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from loihi_convert.batch.computation import Cell, Outcome
from loihi_convert.errors import InputError
from loihi_convert.files import make_folder, write_atomically

_REMOVE: Final = "Delete it to compute it again."
# File systems without locks: cells may then be computed twice, with the same result.
_WITHOUT_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Claim:
    """A cell that this process computes. The lock of a killed process is free again."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._is_held = True

    def release(self) -> None:
        """Let others have it; a second time does nothing."""
        if self._is_held:
            self._path.unlink(missing_ok=True)
            self._is_held = False
            os.close(self._descriptor)


class Store:
    """Results in a folder.

    Parameters
    ----------
    folder
        Where `create` makes it.
    parameter
        Name of the parameter that chose it, for errors.
    """

    def __init__(self, folder: Path, parameter: str = "output") -> None:
        self.folder, self._parameter = folder, parameter
        self._cells = folder / "cells"

    def create(self) -> None:
        """Create the folder.

        Raises
        ------
        InputError
            If that is not possible.
        """
        make_folder(self._cells, self._parameter)

    def get(self, cell: Cell[Any]) -> Outcome | None:
        """Return the stored outcome of ``cell``, or None.

        Raises
        ------
        InputError
            If its file is damaged.
        """
        path = self._path(cell, "json")
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({error})", where=path, hint=_REMOVE) from error
        try:
            content = json.loads(text)
            if content["key"] != json.loads(json.dumps(cell.identity)):
                raise InputError("its contents do not match its name", where=path, hint=_REMOVE)
            if "error" in content:
                return Outcome(error=str(content["error"]))
            return Outcome(result=cell.result_type.model_validate_json(json.dumps(content["result"])))
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            raise InputError("not the result of a cell", where=path, hint=_REMOVE) from error

    def put(self, cell: Cell[Any], outcome: Outcome) -> None:
        """Store the final ``outcome`` of ``cell``; its file is written completely or not at all.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        assert outcome.is_final
        found = (
            {"error": outcome.error} if outcome.result is None else {"result": outcome.result.model_dump(mode="json")}
        )
        text = json.dumps({"key": cell.identity, **found}, indent=1, sort_keys=True, allow_nan=False)
        try:
            write_atomically(self._path(cell, "json"), (text + "\n").encode())
        except InputError as error:
            hint = "Finished cells are kept. Make the folder writable, and run the same command again to continue."
            raise InputError(error.found, where=self._cells, hint=hint) from error
        if outcome.result is None:
            # A refusal takes no time.
            return
        with suppress(InputError):
            write_atomically(self._path(cell, "seconds"), f"{outcome.duration:.3f}\n".encode())

    def duration(self, cell: Cell[Any]) -> float | None:
        """Return how many seconds ``cell`` took, if known."""
        try:
            return float(self._path(cell, "seconds").read_text())
        except (OSError, ValueError):
            return None

    def claim(self, cell: Cell[Any]) -> Claim | None:
        """Reserve ``cell``; None if another process computes it."""
        path = self._path(cell, "lock")
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise InputError(f"cannot be written ({error.strerror})", where=path) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    os.close(descriptor)
                    return None
            if _is_still(path, descriptor):
                return Claim(path, descriptor)
            # Another process released its claim in between, and with it this file.
            os.close(descriptor)

    def _path(self, cell: Cell[Any], suffix: str) -> Path:
        return self._cells / f"{cell.name}.{suffix}"


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is the file of ``descriptor``."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
