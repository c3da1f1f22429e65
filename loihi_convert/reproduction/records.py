"""A folder with one JSON file per result; the key contains everything that determines the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loihi_convert.errors import InputError
from loihi_convert.files import write_atomically

FORMAT: Final = 1
"""Goes up when a change of the package changes a number: what was computed before is computed again."""

_REMOVE: Final = "Delete it to compute it again."


class Records:
    """Stored results.

    Parameters
    ----------
    folder
        Created when the first result is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        """Return the value stored under ``key``, or None.

        Raises
        ------
        InputError
            If the file cannot be read, or is not such a record.
        """
        path = self.path(kind, key)
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({error})", where=path, hint=_REMOVE) from error
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON ({error})", where=path, hint=_REMOVE) from error
        if not isinstance(record, dict) or record.get("key") != _with_format(key) or "value" not in record:
            raise InputError("its contents do not match its name", where=path, hint=_REMOVE)
        return record["value"]

    def put(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        """Store ``value``, made of JSON types, under ``key``; the file is written completely or not at all."""
        path = self.path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot be created ({error.strerror})", where=path.parent, hint="Choose another `cache`."
            ) from error
        text = json.dumps({"key": _with_format(key), "value": value}, indent=1, allow_nan=False)
        write_atomically(path, (text + "\n").encode())

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Return the file of ``key``, named by ``kind`` and a digest of the key."""
        text = json.dumps(_with_format(key), sort_keys=True, allow_nan=False)
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def _with_format(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, **key}
