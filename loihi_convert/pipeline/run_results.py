"""The results of a run of one or several files, with all that is known of their origin, written into its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from loihi_convert.data import Dataset, DataSplits
from loihi_convert.runs.manifest import ReadFile, new_manifest
from loihi_convert.runs.run_folder import FileResults, write_run

_Done = TypeVar("_Done")


@contextlib.contextmanager
def not_lost(done: _Done, unwritten: Callable[[_Done], None] | None) -> Iterator[None]:
    """While the files of the run ``done`` are written: if that fails, call ``unwritten`` with it before the error."""
    try:
        yield
    except Exception:
        if unwritten is not None:
            unwritten(done)
        raise


def write_results(
    folder: Path,
    runs: Sequence[FileResults],
    splits: DataSplits,
    images: Dataset,
    *,
    files: Sequence[ReadFile],
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
