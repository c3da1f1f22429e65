"""The state of an unfinished training: written after each epoch, read to resume it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import JsonValue

from loihi_convert.cnn.design import Design
from loihi_convert.cnn.models import ARCHITECTURES
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.torch_zip import read_pt, write_pt
from loihi_convert.cnn.trainer import Training
from loihi_convert.data import DataSplits
from loihi_convert.errors import CheckpointError, InputError, UsageError
from loihi_convert.files import asked, refuse_to_overwrite

_START_ANEW: Final = "Delete it and train without `resume=True`."
_RESUME: Final = (
    "Resume with the same options and the same images in the same order (a DataLoader with shuffle=False and without "
    "random transforms), or start over with `overwrite=True`."
)
_DIGEST: Final = "digest of images and labels"
_MODULES: Final = "digest of the CNN's modules"
_ADDED_LATER: Final = ("teacher", "classes", "mean", "std", _DIGEST, _MODULES)
"""Fields that the state of an unfinished training may lack."""


class UnfinishedTraining:
    """The file with the state of the training that writes ``output``.

    Parameters
    ----------
    output, design, splits, recipe, seed
        As in `training.train_design`.
    """

    def __init__(self, output: Path, design: Design, splits: DataSplits, recipe: Recipe, seed: int) -> None:
        self.path = resume_path(output)
        mean, std = design.normalization or (None, None)
        self._run: dict[str, JsonValue] = {
            "architecture": design.name,
            "data": splits.name,
            "seed": seed,
            "recipe": {**recipe.recorded()},
            "qcfs_levels": design.qcfs_levels,
            "start": None if design.start is None else design.start["sha256"],
            "teacher": None if design.teacher is None else design.teacher.record["sha256"],
            "classes": list(design.classes),
            "mean": None if mean is None else list(mean),
            "std": None if std is None else list(std),
            _DIGEST: _digest(splits),
        }
        if design.name not in ARCHITECTURES:
            # The user's own code may have changed, with tensors of the same shapes.
            self._run[_MODULES] = hashlib.blake2b(repr(design.network()).encode(), digest_size=16).hexdigest()

    def write(self, training: Training) -> None:
        """Write the state of ``training``."""
        write_pt({**self._run, **training.state()}, self.path)

    def restore(self, training: Training) -> None:
        """Set ``training`` to the state in the file.

        Raises
        ------
        UsageError
            If the file does not exist.
        CheckpointError
            If it is damaged, or belongs to another training.
        """
        if not self.path.exists():
            raise UsageError(
                "does not exist: no training was interrupted", where=self.path, hint="Train without `resume=True`."
            )
        state = read_pt(self.path)
        if not isinstance(state, dict) or not self._run.keys() - _ADDED_LATER <= state.keys():
            raise CheckpointError("not the state of a training", where=self.path, hint=_START_ANEW)
        for name, value in self._run.items():
            if name in state and state[name] != value:
                name, found, expected = _difference(name, state[name], value)
                raise CheckpointError(
                    f"belongs to another training: its {name} is {found!r}",
                    where=self.path,
                    expected=f"must be {expected!r}",
                    hint=_RESUME,
                )
        try:
            training.restore(state)
            is_same = training.computes(state.get("outputs"))
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"not the training state of a {self._run['architecture']} ({error})", where=self.path, hint=_START_ANEW
            ) from error
        if not is_same:
            raise CheckpointError(
                "belongs to another training: the CNN computes something else with its weights",
                where=self.path,
                expected="must be resumed with the same code",
                hint="Undo the change, or start over with `overwrite=True`.",
            )


def require_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise an `InputError` if a training would replace ``output``, or the state of an interrupted one."""
    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if asked(unfinished, Path.exists) and not (resume or overwrite):
        hint = "Continue with `resume=True`, or start over with `overwrite=True`."
        raise InputError("is an interrupted training; nothing was changed", where=unfinished, hint=hint)


def resume_path(output: Path) -> Path:
    """Return the path of the state of an unfinished training with the result ``output``."""
    return output.with_name(f"{output.name}.resume.pt")


def _digest(splits: DataSplits) -> str:
    """Return a digest of the images and labels that are trained on and evaluated after each epoch."""
    found = hashlib.blake2b(digest_size=16)
    for part in (splits.train, splits.validation):
        found.update(repr(part.images.shape).encode())
        found.update(np.ascontiguousarray(part.images).data)
        found.update(np.ascontiguousarray(part.known_labels).data)
    return found.hexdigest()


def _difference(name: str, found: JsonValue, expected: JsonValue) -> tuple[str, JsonValue, JsonValue]:
    """Return the first entry that differs, of records as of a recipe; otherwise the values themselves."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {**expected, **found}:
            if found.get(key) != expected.get(key):
                return key, found.get(key), expected.get(key)
    return name, found, expected
