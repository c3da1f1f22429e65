"""Files with a CNN: a reader for each kind, which returns a `CnnFile`.

=============================================  =====================================================================
file                                           source of the CNN's structure
=============================================  =====================================================================
a checkpoint written by `train`                the architecture it names (`checkpoint.py`)
one of your own code, and ``arch``             the same, with the activations it was trained with (`own_cnn`)
any other checkpoint, and ``arch``             ``package.module:factory``: the user's own class, function or module
an ONNX file                                   its graph (`from_onnx`)
a NIR file                                     its graph, with its neurons' thresholds (`nir.reader`)
=============================================  =====================================================================

Nothing in a file is ever executed. The code named by ``arch`` is: it is imported as by Python, with the current folder
first (`users_code`). So only a name typed by the user is imported, never a name stored in a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import nn

from loihi_convert.cnn.checkpoint import SUFFIXES, Checkpoint, digest, load_if_ours, load_model, load_states
from loihi_convert.cnn.models import rounded_state
from loihi_convert.errors import LoihiConvertError, UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.files import is_nir, kind_of
from loihi_convert.ground.normalization import Normalization
from loihi_convert.nir.reader import read_nir
from loihi_convert.reading.fitting import fill
from loihi_convert.reading.from_onnx import read_onnx
from loihi_convert.reading.own_cnn import rebuilt, recorded_normalization
from loihi_convert.reading.users_code import build_cnn, with_plain_parts


class Given(NamedTuple):
    """What the user gives with a file; parameters as in `source.open_source`."""

    arch: str | None
    input_shape: Shape | None
    classes: Sequence[str] | None
    data: str | None
    normalization: Normalization | None


@dataclass(frozen=True, eq=False)
class CnnFile:
    """The CNN of a file.

    Parameters
    ----------
    model
        The CNN, in eval mode.
    input_shape
        ``(C, H, W)``; for signals ``(C, L)``.
    classes, normalization
        Those given, or those that the file records.
    described
        What the file records for the provenance, JSON values.
    trained
        Its record, if it is a checkpoint written by `train` or `fine_tune`.
    neurons
        For a NIR file: the readout that its graph ends in.
    notes
        Notes for the user, one sentence each.
    """

    model: nn.Module
    input_shape: Shape
    classes: Sequence[str] | None
    normalization: Normalization | None
    described: Mapping[str, Any] = field(default_factory=dict)
    trained: Checkpoint | None = None
    neurons: Readout | None = None
    notes: tuple[str, ...] = ()


def read_cnn(path: Path, given: Given) -> CnnFile:
    """Return the CNN whose weights are in ``path``; errors are those of `source.open_source`."""
    arch, kind = given.arch, kind_of(path)
    # A damaged one has lost its signature.
    is_onnx = kind == "onnx" or (kind in ("text", "unknown") and path.suffix.lower() == ".onnx")
    if arch is not None and (is_onnx or is_nir(path)):
        raise UsageError(f"given for {'an ONNX' if is_onnx else 'a NIR'} file", where="arch")
    if is_nir(path):
        model, shape, readout, notes = read_nir(path, given.input_shape)
        return CnnFile(model, shape, given.classes, given.normalization, neurons=readout, notes=notes)
    if is_onnx:
        model, shape, notes = read_onnx(path, given.input_shape)
        return CnnFile(model, shape, given.classes, given.normalization, notes=notes)
    return _of_checkpoint(path, given) if arch is None else _of_users_code(path, arch, given)


def _of_checkpoint(path: Path, given: Given) -> CnnFile:
    """A checkpoint written by `train`, which records its image shape and classes."""
    for parameter, value in (("input_shape", given.input_shape), ("classes", given.classes)):
        if value is not None:
            raise UsageError(f"found {value!r} without `arch`", where=parameter)
    model, trained = load_model(path)
    # A file of an earlier version may record others, which that version took.
    normalization = given.normalization or trained.normalization
    model.load_state_dict(rounded_state(model, model.state_dict(), trained.weight_bits))
    described = {
        "architecture": trained.architecture,
        "data": trained.data if given.data is None else given.data,
        "classes": list(trained.classes),
        "seed": trained.seed,
        "test_accuracy": trained.test_accuracy,
    }
    return CnnFile(model, trained.input_shape, trained.classes, normalization, described, trained)


def _of_users_code(path: Path, arch: str, given: Given) -> CnnFile:
    """A checkpoint of the CNN that the user's code ``arch`` returns."""
    if given.input_shape is None:
        raise UsageError(
            f"{path.name} does not record the image size",
            where="input_shape",
            expected="must be (C, H, W), such as 3,32,32",
        )
    classes, normalization = given.classes, given.normalization
    trained = load_if_ours(path)
    notes: tuple[str, ...] = ()
    if trained is not None and trained.is_own:
        normalization = recorded_normalization(trained, normalization)
        model = rebuilt(trained, arch, path).requires_grad_(False)
        model.eval()
        classes = trained.classes if classes is None else classes
    else:
        states = load_states(path)
        model, notes = fill(build_cnn(arch), states, arch, path)
    model = with_plain_parts(model)
    described: dict[str, Any] = {"arch": arch}
    if trained is not None:
        described["seed"] = trained.seed
    return CnnFile(model, given.input_shape, classes, normalization, described, trained, notes=notes)


_SIZES: Final = (0.4, 2.5)
"""Sizes of the files that are read, as a share of its own: one may be stored as float16, the other as float32."""
_MOST_FILES: Final = 20
"""Files that are read in search of it: a folder may hold the checkpoint of every epoch."""


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
    others, start = _others(path, arch), trained.recipe.get("start")
    while isinstance(start, dict):
        found = others.get(str(start.get("sha256")))
        if found is None:
            is_relu = "qcfs_levels" in start and start["qcfs_levels"] is None
            start = None if is_relu else start.get("start")
            continue
        file, before = found
        if before is None or before.qcfs_levels is None:
            return file
        start = before.recipe.get("start")
    return None


def _others(path: Path, arch: str | None) -> dict[str, tuple[Path, Checkpoint | None]]:
    """The other checkpoints in its folder by the digests of their weights, with their records, if they have some."""
    least, most = (share * path.stat().st_size for share in _SIZES)
    try:
        files = [file for file in path.parent.iterdir() if file.suffix in SUFFIXES and file.is_file()]
        similar = [file for file in files if file != path and least <= file.stat().st_size <= most]
    except OSError:
        return {}
    found: dict[str, tuple[Path, Checkpoint | None]] = {}
    for file in sorted(similar)[:_MOST_FILES]:
        # Those of other tools are read as `own_cnn.own_design` reads them.
        with contextlib.suppress(LoihiConvertError):
            checkpoint = load_if_ours(file)
            if checkpoint is not None:
                found[digest(checkpoint.state)] = file, checkpoint
            elif arch is not None:
                model, _ = fill(build_cnn(arch), load_states(file), arch, file)
                found[digest(model.state_dict())] = file, None
    return found
