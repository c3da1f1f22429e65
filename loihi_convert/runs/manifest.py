"""manifest.json of a run folder: the information needed to repeat the run."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from loihi_convert.dependencies import installed_version

VERSIONED_PACKAGES: Final = ("loihi-convert", "torch", "numpy", "lava-nc", "lava-dl")
"""Packages whose versions are recorded in a manifest, because they can change a result."""

# Options whose values are not paths, but may contain a slash.
_NOT_PATHS: Final = ("--arch", "--class-map", "--classes", "--scheduler", "--slurm")


class ReadFile(BaseModel):
    """An input file of a run."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str


class Manifest(BaseModel):
    """The part of ``manifest.json`` that a report needs; other content is kept.

    The keys written by `new_manifest` are required; the others are those of some kinds of runs.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    network: str
    data: str
    data_fingerprint: str
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
    neuron: str | None = None
    leak: bool | None = None
    stream: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def options(self) -> tuple[object, ...]:
        """What distinguishes two runs of a file on images of one name: other images, or another calculation."""
        return self.data_fingerprint, self.neuron, self.leak, self.stream, self.mean, self.std


def new_manifest(
    *,
    network: str,
    data: str,
    data_fingerprint: str,
    backend: str,
    files: Sequence[ReadFile],
    command_line: Sequence[str],
    seed: int | None,
) -> dict[str, Any]:
    """Return the information needed to repeat a run, as plain JSON values.

    Only the names of paths are kept, so that a shared run folder does not reveal the machine it comes from.

    Parameters
    ----------
    network, data, backend
        Names, for the reader.
    data_fingerprint
        `DataSplits.fingerprint`.
    files
        The input files, exported networks and models, as they were when they were read.
    command_line
        ``sys.argv``. The program is recorded as ``loihi-convert``, however it was started.
    seed
        Seed of all random numbers; None if there were none, or files of different seeds.
    """
    return {
        "network": network,
        "data": data,
        "data_fingerprint": data_fingerprint,
        "backend": backend,
        "files": [file.model_dump() for file in files],
        "command_line": _without_folders(command_line),
        "seed": seed,
        "utc_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in VERSIONED_PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def _without_folders(command_line: Sequence[str]) -> list[str]:
    """Return the program's name and its arguments, with ``--output=a.net`` for ``--output=/home/me/a.net``."""
    if not command_line:
        return []
    recorded = ["loihi-convert"]
    for before, argument in itertools.pairwise(command_line):
        is_path = before not in _NOT_PATHS and argument.split("=")[0] not in _NOT_PATHS
        pattern = r"^(--[\w-]+=|-[A-Za-z])?.*/(?=.)"
        recorded.append(re.sub(pattern, r"\1", argument, flags=re.DOTALL) if is_path else argument)
    return recorded
