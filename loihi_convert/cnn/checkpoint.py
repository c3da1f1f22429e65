"""Checkpoints of this package: ``.pt`` (torch's zip format, see `stored_states`) and ``.safetensors``.

Nothing in either file is ever executed. In memory weights are always float32; files may store float16. The suffix sets
the format of a new file; the format of an existing file is detected from its first bytes (`stored_states`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeGuard

import torch
from pydantic import Field, JsonValue, PositiveInt
from torch import Tensor, nn

from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.stored_states import (
    as_safetensors,
    described,
    read_file,
    signature,
    states_in,
    write_pt,
)
from loihi_convert.cnn.stored_states import digest as digest
from loihi_convert.data import DATASETS
from loihi_convert.errors import CheckpointError, UsageError, first_line, one_of
from loihi_convert.ground.choices import WeightDtype
from loihi_convert.ground.files import write_atomically
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.options import QcfsLevels, declared

SUFFIXES: Final[tuple[str, ...]] = (".pt", ".safetensors")

BATCH_COUNTER: Final = "num_batches_tracked"
"""The end of the name of batch norm's counter of batches, which has no effect at inference."""

_FORMATS: Final = "loihi-convert checkpoint "
_FORMAT: Final = f"{_FORMATS}1"

Share = Annotated[float, Field(ge=0, le=1)]


@declared()
class Checkpoint:
    """A trained CNN and its origin.

    Parameters
    ----------
    architecture
        One of `loihi_convert.cnn.models.ARCHITECTURES`, or the user's code, ``package.module:factory``.
    state
        All parameters and buffers by name, as in `torch.nn.Module.state_dict`; all values finite, weights float32.
    data
        The data set it was trained on, one of `loihi_convert.data.DATASETS`, or the name of the user's own.
    input_shape
        ``(C, H, W)``; inputs are pixel / 255, or normalized.
    classes
        The name of each output.
    seed
        Seed of initialization, image order, and augmentation.
    validation_accuracy, test_accuracy
        Accuracies of the stored weights, 0..1, computed in float32; None if not measured.
    recipe
        The training recipe, as JSON values.
    qcfs_levels
        L of its activations, if they are `qcfs.Qcfs`; ``None``: ReLU.
    stored_as
        ``"float16"``: every weight is exactly representable in float16, see `trainer.Training.trained`.
    normalization
        What it was trained on, one number per channel each; None: pixel / 255.
    """

    architecture: Annotated[str, Field(min_length=1)]
    state: Annotated[dict[str, Tensor], Field(min_length=1)]
    data: Annotated[str, Field(min_length=1)]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int
    validation_accuracy: Share
    test_accuracy: Share | None
    recipe: dict[str, JsonValue]
    qcfs_levels: QcfsLevels | None = None
    stored_as: WeightDtype = "float32"
    normalization: Normalization | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({self.architecture} on {self.data}, seed {self.seed}: {self.accuracies})"

    @property
    def accuracies(self) -> str:
        """The accuracies of its weights in words."""
        test = "" if self.test_accuracy is None else f", test accuracy {100 * self.test_accuracy:.2f} %"
        return f"validation accuracy {100 * self.validation_accuracy:.2f} %{test}"

    @property
    def is_own(self) -> bool:
        """Whether its architecture is the user's code, which is imported only if the user names it."""
        return ":" in self.architecture

    @property
    def spiking_timesteps(self) -> int | None:
        """The T for which its spiking network was trained (`qcfs.SpikingCnn`); None if it was not."""
        return self._recorded("timesteps")

    @property
    def spiking_accuracy(self) -> dict[str, float]:
        """The accuracies of its spiking network, 0..1, by split; empty if it was not trained."""
        found = self.recipe.get("spiking_accuracy")
        return {name: float(str(share)) for name, share in found.items()} if isinstance(found, dict) else {}

    @property
    def weight_bits(self) -> int | None:
        """The bits to which its weights were rounded in training (`models.RoundedWeights`); None if they were not."""
        return self._recorded("weight_bits")

    def _recorded(self, name: str) -> int | None:
        found = self.recipe.get(name)
        return found if isinstance(found, int) else None

    @property
    def is_fine_tuned(self) -> bool:
        """Whether it was fine-tuned for few time steps, from a CNN with another accuracy."""
        return self.qcfs_levels is not None and "start" in self.recipe

    @property
    def is_benchmark(self) -> bool:
        """Whether it was trained on one of `loihi_convert.data.DATASETS`."""
        return self.data in DATASETS


def save(checkpoint: Checkpoint, path: str | Path, *, overwrite: bool = True) -> None:
    """Write ``checkpoint`` to ``path`` atomically; the suffix sets the format.

    Raises
    ------
    UsageError
        If the suffix is neither ``.pt`` nor ``.safetensors``.
    CheckpointError
        If a tensor contains NaN or infinity, or is to be stored as float16 but not rounded to it.
    InputError
        If the file cannot be written, or exists and ``overwrite`` is off.
    """
    path = Path(path)
    require_suffix(path)
    require_finite(checkpoint.state, path)
    # Clone: otherwise a view of a larger storage would save all of it (.pt) or be refused (.safetensors).
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.state.items()}
    if checkpoint.stored_as == "float16":
        state = {name: _halved(name, tensor, path) for name, tensor in state.items()}
    description = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint) if field.name != "state"}
    description["mean"], description["std"] = description.pop("normalization") or (None, None)
    # Through JSON, so that only plain types are written: torch.__version__, for example, is a subclass of str.
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True)
    if path.suffix == ".pt":
        write_pt({**json.loads(text), "state": state}, path, overwrite=overwrite)
        return
    write_atomically(path, as_safetensors(text, state), overwrite=overwrite)


def load(path: str | Path) -> Checkpoint:
    """Return the checkpoint in a file; raises a `CheckpointError` for any other, and executes nothing in it."""
    return _checkpoint(read_file(path), path)


def load_if_ours(path: str | Path) -> Checkpoint | None:
    """Return the checkpoint in a file if this package wrote it, else None; executes nothing in the file."""
    content = read_file(path)
    return _checkpoint(content, path) if _is_ours(content, path) else None


def load_states(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return all state dicts in a file from another tool, as in `stored_states.states_in`; executes nothing in it.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or malicious, or has no state dict.
    UsageError
        If it is a checkpoint of this package, which already describes its CNN.
    """
    content = read_file(path)
    if _is_ours(content, path):
        raise UsageError(
            "a checkpoint of loihi-convert, which names its architecture, input shape and classes",
            where=path,
            hint="Omit `arch`, `input_shape` and `classes`.",
        )
    states = states_in(content)
    if not states:
        raise CheckpointError(
            f"holds {described(content)}",
            where=path,
            expected="must contain a state dict of floats, at the top level or in a dict",
            hint="Write it with torch.save(model.state_dict(), path), before any quantization.",
        )
    return states


def load_model(path: str | Path) -> tuple[nn.Module, Checkpoint]:
    """Return the CNN in a checkpoint, in eval mode and without gradients, and the checkpoint.

    Raises
    ------
    CheckpointError
        As in `load`; also if the architecture is unknown or the tensors do not fit it.
    """
    checkpoint = load(path)
    if checkpoint.is_own:
        own = f"{Path(path).name} holds your own CNN, trained as {checkpoint.architecture}"
        raise UsageError("not given", where="arch", expected=f"{own}; code named in a file is not executed")
    classes = len(checkpoint.classes)
    try:
        # On the meta device, without allocation: a file may claim any input shape.
        with torch.device("meta"):
            levels = checkpoint.qcfs_levels
            model = build_model(checkpoint.architecture, checkpoint.input_shape, classes, qcfs_levels=levels)
    except UsageError as error:
        raise CheckpointError(error.found, where=path, expected=error.expected) from error
    wanted = {name: signature(tensor) for name, tensor in model.state_dict().items()}
    found = {name: signature(tensor) for name, tensor in checkpoint.state.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{name} is {found.get(name, 'missing')}",
                where=path,
                expected=f"a {checkpoint.architecture} for {checkpoint.input_shape} images and {classes} classes has "
                f"{wanted.get(name, 'no such tensor')}",
            )
    model.load_state_dict({name: tensor.clone() for name, tensor in checkpoint.state.items()}, assign=True)
    return model.requires_grad_(False).eval(), checkpoint


def require_suffix(path: Path) -> None:
    """Raise a `UsageError` unless ``path`` ends in ``.pt`` or ``.safetensors``."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"found the suffix {path.suffix!r}", where=path, expected=one_of(SUFFIXES))


def _checkpoint(content: object, path: str | Path) -> Checkpoint:
    """Return the checkpoint described by ``content``, with all fields checked."""
    if not _is_ours(content, path):
        is_plain = bool(states_in(content))
        raise CheckpointError(
            f"holds {'only weights' if is_plain else described(content)}, not a checkpoint of loihi-convert, which "
            "also records architecture, data and seed",
            where=path,
            hint="Give the code that builds its CNN: `arch='package.module:factory'`." if is_plain else "",
        )
    try:
        # In a file, tuples are lists; older files lack fields that have a default.
        plain: dict[str, Any] = {name: tuple(each) if type(each) is list else each for name, each in content.items()}
        values: Any = [plain.get(name) for name in Normalization._fields]
        if values != [None, None]:
            plain["normalization"] = Normalization(*values).per_channel(plain["input_shape"][0])
        found = Checkpoint(**{field.name: plain[field.name] for field in fields(Checkpoint) if field.name in plain})
    except (UsageError, TypeError, KeyError) as error:
        raise CheckpointError(f"a field is missing or invalid ({first_line(error)})", where=path) from error
    require_finite(found.state, path)
    halves = {name: tensor.float() for name, tensor in found.state.items() if tensor.dtype == torch.float16}
    return replace(found, state={**found.state, **halves}) if found.stored_as == "float16" else found


def _is_ours(content: object, path: str | Path) -> TypeGuard[dict[str, Any]]:
    """Whether ``content`` is a checkpoint of this package; an error if a newer version wrote it."""
    found = content.get("format") if isinstance(content, dict) else None
    if isinstance(found, str) and found != _FORMAT and found.startswith(_FORMATS):
        raise CheckpointError(
            f"written by a newer version of loihi-convert ({found})", where=path, hint="Update loihi-convert."
        )
    return found == _FORMAT


def _halved(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    halved = tensor.half()
    if not torch.equal(halved.float(), tensor):
        raise CheckpointError(
            f"{name} has numbers that float16 cannot represent: the stored weights would differ from those evaluated",
            where=path,
        )
    return halved


def require_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise a `CheckpointError` if a tensor of the file at ``path`` contains NaN or infinity."""
    for name, tensor in state.items():
        if name.endswith(BATCH_COUNTER):
            # It may be infinite in half precision.
            continue
        # `isfinite` lacks some floats of 8 bits.
        is_short = tensor.is_floating_point() and tensor.element_size() == 1
        if not bool(torch.isfinite(tensor.float() if is_short else tensor).all()):
            raise CheckpointError(
                f"{name} contains NaN or infinity",
                where=path,
                expected="weights must be finite",
                hint="Retrain the CNN.",
            )
