"""The results of a run of one or several files, with all that is known of their origin, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loihi_convert.data import Dataset, DataSplits
from loihi_convert.runs.manifest import new_manifest
from loihi_convert.runs.run_folder import FileResults, write_run


def write_results(
    folder: Path,
    runs: Sequence[FileResults],
    splits: DataSplits,
    images: Dataset,
    *,
    files: Sequence[Mapping[str, str]],
    backend: str,
    command_line: Sequence[str],
    seed: int | None = None,
    more: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write the results of ``runs`` on ``images``, some of ``splits``, as `write_run`; return the files.

    ``files``, ``backend``, ``command_line`` and ``seed`` are as in `new_manifest`; ``more`` are further entries of the
    manifest.
    """
    classes = splits.classes or None
    manifest = new_manifest(
        network=runs[0].name,
        data=splits.name,
        data_fingerprint=splits.fingerprint,
        backend=backend,
        files=files,
        command_line=command_line,
        seed=seed,
    )
    return write_run(
        folder,
        runs,
        labels=images.labels,
        paths=images.paths,
        targets=images.targets,
        classes=classes,
        manifest={**manifest, "classes": classes, **more},
    )
