"""The CNN to convert, with its metadata: an nn.Module in memory, or from a file.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from loihi_convert.cnn.checkpoint import SUFFIXES, Checkpoint, digest, load_if_ours, load_model, load_states
from loihi_convert.cnn.design import inputs_of, pixels, scores_of
from loihi_convert.cnn.models import rounded_state
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.data.in_memory import as_input_shape
from loihi_convert.errors import LoihiConvertError, UnsupportedModelError, UsageError, one_of
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Readout, Task
from loihi_convert.ground.files import is_nir, kind_of, sha256
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.network import ReluNetwork, name_count
from loihi_convert.ir.provenance import ModelRecord, read_record
from loihi_convert.lowering import lowered
from loihi_convert.nir.reader import read_nir
from loihi_convert.reading.from_onnx import onnx_sha256, read_onnx
from loihi_convert.reading.own_cnn import fill, rebuilt, recorded_normalization
from loihi_convert.reading.users_code import build_cnn, plain_copy, shape_taken, users_code


@dataclass(frozen=True, eq=False)
class Source:
    """A trained CNN, and its `ReluNetwork`.

    Parameters
    ----------
    path
        The file with its weights; ``None`` for a CNN from memory.
    model
        The CNN, float32, in eval mode and without gradients.
    network
        The same as synapses with ReLU between them, input normalization folded.
    provenance
        Its record in a ``.net`` file, as JSON values; used by `reopen_source`.
    notes
        Notes for the user, one sentence each.
    spiking_timesteps
        The T for which its spiking network was trained (`cnn.qcfs.SpikingCnn`); None if it was not.
    neurons
        For a NIR file, which holds neurons and their thresholds: the readout that its graph ends in; otherwise None.
    is_fine_tuned
        Whether it was fine-tuned for few time steps, which changes its accuracy.
    """

    path: Path | None
    model: nn.Module
    network: ReluNetwork
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]
    spiking_timesteps: int | None = None
    neurons: Readout | None = None
    is_fine_tuned: bool = False

    @property
    def compared(self) -> ReluNetwork:
        """The CNN that spiking networks of this one are compared with: ``original`` or, if that is unknown, itself."""
        return self.original or self.network

    @property
    def notes_on_compared(self) -> tuple[str, ...]:
        """A note if that is not the CNN that a user would compare with, or not this one in memory."""
        if self.original is not None:
            in_memory = self.is_fine_tuned and self.path is None
            return ("Compared with the CNN before fine-tuning.",) if in_memory else ()
        tuned = "the fine-tuned CNN, because the one before fine-tuning is not"
        if self.path is None:
            return (f"Compared with {tuned} known: convert what `fine_tune` returns.",)
        return (f"Compared with {tuned} in the folder of {self.path.name}: copy its checkpoint there.",)

    @cached_property
    def original(self) -> ReluNetwork | None:
        """The CNN before it was fine-tuned for few time steps; ``network`` if it was not.

        None if the original is neither in memory nor in the folder of ``path``.
        """
        if not self.is_fine_tuned:
            return self.network
        recorded, shape = self.recorded, self.network.input_shape
        if self.path is None:
            before = self.model.before if isinstance(self.model, WithQcfs) else ()
            return lowered(before[0], shape, recorded.normalization).network if before else None
        file, plain = before_fine_tuning(self.path, recorded.arch), replace(recorded, skip_copies=1)
        return None if file is None else reopen_source(file, plain, shape, recorded.arch).network

    @property
    def recorded(self) -> ModelRecord:
        """``provenance`` as a typed record."""
        return read_record(ModelRecord, dict(self.provenance))

    def module_outputs(self, images: Array) -> Array:
        """Return the outputs of ``model`` itself, float32 ``(N, outputs)``, for uint8 ``images`` ``(N, C, H, W)``."""
        recorded, shape = self.recorded, shape_taken(self.model, self.network.input_shape)
        inputs = inputs_of(pixels(images), recorded.normalization, shape)
        with torch.no_grad(), users_code():
            outputs: Array = scores_of(self.model(inputs)).reshape(len(images), -1).float().numpy()
        return outputs

    def with_normalization(self, normalization: Normalization) -> ReluNetwork:
        """Return ``network`` with another normalization of its images."""
        return lowered(self.model, self.network.input_shape, normalization).network

    def with_skip_copies(self, copies: int) -> Source:
        """Return the same CNN with ``copies`` relays per value of a skip connection, see `lowering.to_relu_network`."""
        recorded = self.recorded
        if copies == recorded.skip_copies:
            return self
        shape = self.network.input_shape
        network = lowered(self.model, shape, recorded.normalization, skip_copies=copies).network
        provenance = {name: value for name, value in self.provenance.items() if name != "skip_copies"}
        return replace(
            self,
            network=_completed(network, self.network.task, self.neurons),
            provenance=provenance if copies == 1 else {**provenance, "skip_copies": copies},
        )

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        input_shape: Shape,
        *,
        normalization: Normalization | None = None,
        classes: Sequence[str] | None = None,
        data: str | None = None,
        task: Task = "classification",
    ) -> Source:
        """Return a copy of the CNN ``module``, which is not changed; the rest is as in `open_source`.

        It takes images, float ``(N, C, H, W)``, or signals ``(N, C, L)``, and returns class scores ``(N, classes)``.
        """
        model = plain_copy(module)
        tuned = model.timesteps if isinstance(model, WithQcfs) else None
        file = _File(model, as_input_shape(input_shape), classes, normalization, {}, tuned, isinstance(model, WithQcfs))
        return _source(None, file, {"state_sha256": digest(model.state_dict())}, data, task)


def open_source(
    path: str | Path,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    classes: Sequence[str] | None = None,
    data: str | None = None,
    normalization: Normalization | None = None,
    task: Task = "classification",
) -> Source:
    """Return the CNN in ``path``, or whose weights are there: see the table above.

    ``arch`` may have literal arguments, as in ``torchvision.models:vgg11_bn(num_classes=10)``. ``input_shape`` is
    ``(C, H, W)``, for signals ``(C, L)``; required with ``arch``, and where an ONNX or NIR file leaves it open.
    ``classes`` names each output, by default 0, 1, ... ``data`` and ``normalization`` are by default those in the
    checkpoint.

    Raises
    ------
    UsageError
        If ``arch`` cannot be imported or does not yield a module, or the options do not fit the model or each other.
    CheckpointError
        If the file cannot be used, or its tensors do not match the model.
    UnsupportedModelError
        If a part of the CNN has no spiking equivalent.
    PlatformError
        If it is an ONNX or NIR file, and the package ``onnx`` or ``nir`` is not installed.
    """
    path = Path(path)
    input_shape = None if input_shape is None else as_input_shape(input_shape)
    kind = kind_of(path)
    # A damaged one has lost its signature.
    is_onnx = kind == "onnx" or (kind in ("text", "unknown") and path.suffix.lower() == ".onnx")
    if arch is not None and (is_onnx or is_nir(path)):
        raise UsageError(f"given for {'an ONNX' if is_onnx else 'a NIR'} file", where="arch")
    if is_nir(path):
        model, shape, readout, notes = read_nir(path, input_shape)
        file = _File(model, shape, classes, normalization, neurons=readout, notes=notes)
    elif is_onnx:
        model, shape, notes = read_onnx(path, input_shape)
        file = _File(model, shape, classes, normalization, notes=notes)
    elif arch is None:
        for parameter, value in (("input_shape", input_shape), ("classes", classes)):
            if value is not None:
                raise UsageError(f"found {value!r} without `arch`", where=parameter)
        file = _of_checkpoint(path, data, normalization)
    else:
        file = _of_users_code(path, arch, input_shape, classes, normalization)
    return _source(path, file, {"file": path.name, "sha256": checkpoint_sha256(path)}, data, task)


def _source(path: Path | None, file: _File, identity: dict[str, Any], data: str | None, task: Task) -> Source:
    """What the file, or a module in memory, holds, lowered; its record begins with ``identity``."""
    network = lowered(file.model, file.input_shape, file.normalization).network
    network = _completed(network, task, file.neurons)
    described = dict(file.described)
    if "classes" not in described:
        described |= {"data": data, "classes": _class_names(network, file.classes)}
    if file.normalization is not None:
        described |= {name: list(numbers) for name, numbers in file.normalization._asdict().items()}
    described |= {"multiply_accumulates": network.multiply_accumulates}
    # It is left out for classification, as by earlier versions.
    described |= {} if task == "classification" else {"task": task}
    return Source(
        path,
        file.model,
        network,
        {**identity, **described},
        (*file.notes, *network.notes),
        file.spiking_timesteps,
        file.neurons,
        file.is_fine_tuned,
    )


class _File(NamedTuple):
    """A CNN in eval mode, and what its file says of it; ``described`` is for the provenance."""

    model: nn.Module
    input_shape: Shape
    classes: Sequence[str] | None
    normalization: Normalization | None
    described: Mapping[str, Any] = MappingProxyType({})
    spiking_timesteps: int | None = None
    is_fine_tuned: bool = False
    neurons: Readout | None = None
    notes: tuple[str, ...] = ()


def _of_checkpoint(path: Path, data: str | None, normalization: Normalization | None) -> _File:
    """A checkpoint written by `train`, which records its image shape and classes."""
    model, trained = load_model(path)
    model.load_state_dict(rounded_state(model, model.state_dict(), trained.weight_bits))
    described = {
        "architecture": trained.architecture,
        "data": trained.data if data is None else data,
        "classes": list(trained.classes),
        "seed": trained.seed,
        "test_accuracy": trained.test_accuracy,
    }
    # A file of an earlier version may record another normalization, which that version took.
    normalization = normalization or trained.normalization
    tuned = trained.spiking_timesteps, trained.is_fine_tuned
    return _File(model, trained.input_shape, trained.classes, normalization, described, *tuned)


def _of_users_code(
    path: Path,
    arch: str,
    input_shape: Shape | None,
    classes: Sequence[str] | None,
    normalization: Normalization | None,
) -> _File:
    """A checkpoint of the CNN that the user's code ``arch`` returns."""
    if input_shape is None:
        found, expected = f"{path.name} does not record the image size", "must be (C, H, W), such as 3,32,32"
        raise UsageError(found, where="input_shape", expected=expected)
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
    described = {"arch": arch} if trained is None else {"arch": arch, "seed": trained.seed}
    tuned = (None, False) if trained is None else (trained.spiking_timesteps, trained.is_fine_tuned)
    return _File(model, input_shape, classes, normalization, described, *tuned, notes=notes)


def checkpoint_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a checkpoint, with the weights that an ONNX file has next to it."""
    return onnx_sha256(path) if kind_of(path) == "onnx" else sha256(path)


def is_described(path: Path, arch: str | None) -> bool:
    """Return whether the file at ``path`` records its image shape and classes: a checkpoint written by `train`."""
    return arch is None and not is_self_contained(path)


def is_self_contained(path: Path) -> bool:
    """Return whether the file at ``path`` is an ONNX or NIR file, which holds its CNN."""
    return kind_of(path) == "onnx" or is_nir(path)


def _completed(network: ReluNetwork, task: Task, neurons: Readout | None = None) -> ReluNetwork:
    """Return ``network`` with its task and, if a NIR file ends in ``neurons``, their thresholds, 1."""
    if task not in get_args(Task):
        raise UsageError(f"found {task!r}", where="task", expected=one_of(get_args(Task)))
    if task == "regression" and network.ending:
        raise UnsupportedModelError(
            f"found a {network.ending} at the end of a regression, whose numbers it changes",
            where="task",
            expected="must end with a linear layer",
            hint="Leave it out of the CNN, and apply it to the outputs yourself.",
        )
    if neurons == "spikes":
        *layers, last = network.layers
        network = replace(network, layers=(*layers, replace(last, threshold=np.ones(last.synapse.channels))))
    return replace(network, task=task)


def _class_names(network: ReluNetwork, classes: Sequence[str] | None) -> list[str]:
    outputs = network.shapes[-1][0]
    count = name_count(outputs, network.task)
    if isinstance(classes, str) or not isinstance(classes, Iterable | None):
        raise UsageError(f"found {classes!r}", where="classes", expected="must be the name of each output")
    names = [str(number) for number in range(count)] if classes is None else list(classes)
    if len(names) != count:
        two = ": two classes" if count > outputs else ""
        raise UsageError(
            f"found {len(names)} names for {outputs} outputs of the CNN{two}",
            where="classes",
            expected=f"must be one name per {'class' if two else 'output'}",
        )
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"found {repeated!r} twice", where="classes", expected="must be different names")
    return names


def reopen_source(
    model: nn.Module | Path, recorded: ModelRecord, input_shape: Shape, arch: str | None = None
) -> Source:
    """Return the CNN ``model``, or that in its file, as it was when the netx file with ``recorded`` was made.

    ``arch`` is as in `open_source`, whose errors are raised; a name in ``recorded`` is not imported.
    """
    normalization, task = recorded.normalization, recorded.task
    if isinstance(model, Path):
        shape = None if is_described(model, arch) else input_shape
        found = open_source(model, arch=arch, input_shape=shape, normalization=normalization, task=task)
    else:
        found = Source.from_module(model, input_shape, classes=recorded.classes, normalization=normalization, task=task)
    return found.with_skip_copies(recorded.skip_copies)


_SIZES: Final = (0.4, 2.5)
"""Sizes of the files that are read, as a share of its own: one may be stored as float16, the other as float32."""
_MOST_FILES: Final = 20
"""Files that are read in search of it: a folder may hold the checkpoint of every epoch."""


def before_fine_tuning(path: Path, arch: str | None = None) -> Path | None:
    """Return the checkpoint of the last CNN with ReLUs from which the one at ``path`` was fine-tuned.

    None if it was not fine-tuned for few steps, or the other file is not in its folder or has changed. ``arch`` is the
    user's code, as in `open_source`, if it is a checkpoint of such code.
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
        files = [file for file in path.parent.iterdir() if file.suffix in SUFFIXES and file.is_file() and file != path]
        similar = [file for file in files if least <= file.stat().st_size <= most]
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
