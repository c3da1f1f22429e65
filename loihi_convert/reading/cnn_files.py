"""Files with a CNN: a reader for each kind, which returns a `CnnFile`.

=============================================  =====================================================================
file                                           source of the CNN's structure
=============================================  =====================================================================
a checkpoint written by `train`                the architecture it names (`checkpoint.py`)
one of your own code, and ``arch``             the same, with the activations it was trained with (`own_cnn`)
any other checkpoint, and ``arch``             ``package.module:factory``: the user's own class, function or module
an ONNX file                                   its graph (`from_onnx`)
a NIR file                                     its graph, with its neurons' thresholds (`from_nir`)
=============================================  =====================================================================

Nothing in a file is ever executed. The code named by ``arch`` is: it is imported as by Python, with the current folder
first (`users_code`). So only a name typed by the user is imported, never a name stored in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from loihi_convert.cnn.checkpoint import Checkpoint, load_if_ours, load_model, load_states
from loihi_convert.cnn.few_bits import rounded_state
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.files import is_nir, kind_of
from loihi_convert.ground.normalization import Normalization
from loihi_convert.reading.fitting import fill
from loihi_convert.reading.from_nir import read_nir
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
        raise UsageError(
            f"given for {'an ONNX' if is_onnx else 'a NIR'} file",
            where="arch",
            hint="Omit it: the file contains the CNN.",
        )
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
            raise UsageError(
                f"found {value!r} without `arch`", where=parameter, hint=f"{path.name} already records it."
            )
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
            hint="Data in this shape state it, too: `data`.",
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
