"""The report of `golden` to send back: the machine, the versions, and the differences."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

import loihi_convert
from loihi_convert.backends import Backend
from loihi_convert.errors import InputError
from loihi_convert.files import asked, sha256, write_atomically
from loihi_convert.pipeline.golden_check import NETWORK, Golden, GoldenCheck

_FORMAT: Final = 1


@dataclass(frozen=True)
class GoldenRun:
    """A comparison with a golden folder, finished or not.

    Parameters
    ----------
    golden
        The golden folder.
    backend
        The backend that was compared.
    check
        The result; ``None`` if the run failed.
    error
        The reason for the failure.
    """

    golden: Golden
    backend: Backend
    check: GoldenCheck | None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        options, check = self.backend.options, self.check
        return {
            "format": _FORMAT,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "passed": check is not None and check.passed,
            "error": self.error,
            "backend": self.backend.name,
            "board": None if options.board is None else asdict(options.board),
            "leak": options.leak,
            "versions": {
                "loihi-convert": loihi_convert.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "platform": platform.platform(),
            },
            "backend_versions": self.backend.versions,
            "network_sha256": sha256(self.golden.path / NETWORK),
            "images": len(self.golden.images),
            "timesteps": self.golden.timesteps,
            "layers": [] if check is None else [vars(layer) for layer in check.layers],
            "first_difference": None if check is None or check.first is None else asdict(check.first),
        }


def require_replaceable(path: Path) -> None:
    """Raise an `InputError` if ``path`` exists and is not a report, which a new one may replace."""
    if not asked(path, Path.exists):
        return
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "network_sha256" not in content:
        raise InputError(
            "exists and is not a golden report; nothing was changed", where=path, hint="Choose another `output`."
        )


def write_report(run: GoldenRun, path: Path) -> None:
    """Write the report of ``run`` and replace an older one.

    Raises
    ------
    InputError
        If the report cannot be written.
    """
    write_atomically(path, (json.dumps(run.as_json(), indent=2) + "\n").encode())


def where_to_send() -> str | None:
    """Return the address for board reports: "Issues" in this package's metadata; ``None`` if it is missing."""
    try:
        urls = metadata("loihi-convert").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((url.split(", ")[1] for url in urls if url.startswith("Issues, ")), None)
