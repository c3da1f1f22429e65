"""The CNN that a checkpoint was fine-tuned from for few time steps, found in the checkpoint's folder.

A fine-tuning records the digest of the weights it began with, and what those record (`design.record_of`); so the way
back from ``cnn-spiking-T4`` leads over ``cnn-qcfs-L4`` to ``cnn``, also if the file in between is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from loihi_convert.cnn.checkpoint import SUFFIXES, Checkpoint, digest, load_if_ours, load_states
from loihi_convert.errors import LoihiConvertError
from loihi_convert.reading.fitting import fill
from loihi_convert.reading.users_code import build_cnn

_SIZES: Final = (0.4, 2.5)
"""Sizes of the files that are read, as a share of its own: one may be stored as float16, the other as float32."""
_MOST_BYTES: Final = 1 << 30
"""Bytes read in search of it: a folder may hold the checkpoint of every epoch."""


def before_fine_tuning(path: Path, arch: str | None = None) -> Path | None:
    """Return the checkpoint of the last CNN with ReLUs from which the one at ``path`` was fine-tuned.

    Parameters
    ----------
    path
        A checkpoint written by `train` or `fine_tune`.
    arch
        The user's code, as in `source.open_source`, if it is one of such code.

    Returns
    -------
    Path or None
        None if it was not fine-tuned for few steps, or the other file is not in its folder or has changed.
    """
    trained = load_if_ours(path)
    if trained is None or not trained.is_fine_tuned:
        return None
    others, start = _Others(path, arch), trained.recipe.get("start")
    while isinstance(start, dict):
        found = others.find(start)
        if found is None:
            is_relu = "qcfs_levels" in start and start["qcfs_levels"] is None
            start = None if is_relu else start.get("start")
            continue
        file, checkpoint = found
        if checkpoint is None or checkpoint.qcfs_levels is None:
            return file
        start = checkpoint.recipe.get("start")
    return None


class _Others:
    """The other checkpoints in the folder of ``path``."""

    def __init__(self, path: Path, arch: str | None) -> None:
        self._path, self._arch = path, arch

    def find(self, start: Mapping[str, JsonValue]) -> tuple[Path, Checkpoint | None] | None:
        """Return the file with the weights recorded in ``start``; with its checkpoint, if this package wrote it."""
        named, wanted = start.get("file"), str(start.get("sha256"))
        if isinstance(named, str):
            file = self._path.parent / Path(named).name
            if self._own_digest(file) == wanted:
                return file, None
        return self._by_digest.get(wanted)

    @cached_property
    def _by_digest(self) -> dict[str, tuple[Path, Checkpoint | None]]:
        found: dict[str, tuple[Path, Checkpoint | None]] = {}
        left = _MOST_BYTES
        for file in self._similar():
            left -= file.stat().st_size
            if left < 0:
                break
            try:
                checkpoint = load_if_ours(file)
            except LoihiConvertError:
                continue
            sha256 = self._own_digest(file) if checkpoint is None else digest(checkpoint.state)
            if sha256 is not None:
                found[sha256] = file, checkpoint
        return found

    def _similar(self) -> list[Path]:
        """The files that may hold the same CNN, by suffix and size; none if the folder cannot be read."""
        least, most = (share * self._path.stat().st_size for share in _SIZES)
        try:
            files = [file for file in self._path.parent.iterdir() if file.suffix in SUFFIXES and file.is_file()]
            return sorted(file for file in files if file != self._path and least <= file.stat().st_size <= most)
        except OSError:
            return []

    def _own_digest(self, file: Path) -> str | None:
        """The digest of weights from another tool, read as `own_cnn.own_design` reads them; None if they do not fit."""
        if self._arch is None:
            return None
        try:
            return digest(fill(build_cnn(self._arch), load_states(file), self._arch, file)[0].state_dict())
        except LoihiConvertError:
            return None
