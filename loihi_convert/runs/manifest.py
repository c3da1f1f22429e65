"""manifest.json of a run folder: what is needed to make the run again."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from loihi_convert.files import sha256

VERSIONED_PACKAGES: Final = ("loihi-convert", "torch", "numpy", "lava-nc", "lava-dl")
"""Distributions whose versions stand in a manifest: those that can change a result."""


class ReadFile(BaseModel):
    """A file that a run has read."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class Manifest(BaseModel):
    """What a report needs of ``manifest.json``; whatever else stands there is kept.

    Only the keys that `new_manifest` writes are required: the others are missing in folders of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    network: str
    data: str
    backend: str
    files: tuple[ReadFile, ...]
    command_line: tuple[str, ...]
    utc_time: str
    python: str
    packages: Mapping[str, str | None]
    platform: str
    lava_layout: str | None = None
    backend_versions: Mapping[str, str] = {}
    classes: tuple[str, ...] | None = None
    provenance: Mapping[str, Mapping[str, Any]] = {}


def new_manifest(
    *,
    network: str,
    data: str,
    backend: str,
    files: Sequence[Path],
    command_line: Sequence[str],
    seed: int | None,
) -> dict[str, Any]:
    """Return what is needed to make a run again, as plain JSON values.

    Of every path only the name is kept: a run folder can be passed on without telling whose machine made it.

    Parameters
    ----------
    network, data, backend
        Names, as a reader knows them.
    files
        What was read: exported networks, models; their SHA-256 is kept.
    command_line
        ``sys.argv``.
    seed
        Seed of everything random; None where nothing was.
    """
    return {
        "network": network,
        "data": data,
        "backend": backend,
        "files": [{"name": path.name, "sha256": sha256(path)} for path in files],
        "command_line": [_without_folders(argument) for argument in command_line],
        "seed": seed,
        "utc_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in VERSIONED_PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _without_folders(argument: str) -> str:
    """``--output=/home/me/a.net`` as ``--output=a.net``."""
    return re.sub(r"^(--[\w-]+=|-\w(?=/))?.*/(?=.)", r"\1", argument, flags=re.DOTALL)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
