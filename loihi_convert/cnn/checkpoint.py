"""Trained CNNs as files: ``.pt`` (torch's zip format, see `torch_zip`) and ``.safetensors``.

Nothing in either file can run. ``.safetensors`` has no checksum of its own: this package's metadata carries the SHA-256
of itself and of all tensors, as they are stored. In memory weights are always float32; files may hold float16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from loihi_convert.choices import Store
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.qcfs import MAX_LEVELS
from loihi_convert.cnn.torch_zip import read_pt, write_pt
from loihi_convert.errors import CheckpointError, UsageError, one_of
from loihi_convert.files import write_atomically

SUFFIXES: Final[tuple[str, ...]] = (".pt", ".safetensors")

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

STORES: Final[tuple[str, ...]] = get_args(Store)

_FORMAT: Final = "loihi-convert checkpoint 1"
_SAVE_INSTEAD: Final = "Write it with loihi-convert train, or with loihi_convert.cnn.checkpoint.save."
_DAMAGED: Final = "Copy or train it again."
_MAX_SIDE: Final = 4096
_STATE_KEYS: Final = ("state_dict", "model_state_dict", "model")
_MAX_HEADER: Final = 1 << 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained CNN and where it comes from.

    Parameters
    ----------
    architecture
        One of `loihi_convert.cnn.models.ARCHITECTURES`.
    state
        Every parameter and buffer by name, as `torch.nn.Module.state_dict` names them; all values finite, weights
        float32.
    data
        The data set it was trained on, one of `loihi_convert.data.DATASETS`.
    input_shape
        ``(C, H, W)``; inputs are pixel / 255.
    classes
        The name of each output.
    seed
        Of initialization, order of images, and augmentation.
    validation_accuracy, test_accuracy
        Fractions in 0..1, of the stored weights, computed in float32.
    recipe
        How it was trained, as JSON values.
    qcfs_levels
        L of its activations, if they are `qcfs.Qcfs`; ``None``: ReLU.
    stored_as
        One of `STORES`. ``"float16"``: every weight is a number of float16, see `float16.in_float16`.
    """

    architecture: str
    state: dict[str, Tensor]
    data: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    seed: int
    validation_accuracy: float
    test_accuracy: float
    recipe: dict[str, Json]
    qcfs_levels: int | None = None
    stored_as: str = "float32"


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all; the suffix chooses the format.

    Raises
    ------
    UsageError
        If the suffix is neither ``.pt`` nor ``.safetensors``.
    CheckpointError
        If a tensor holds NaN or an infinity, or is to be stored as float16 and is not rounded to it.
    InputError
        If the file cannot be written.
    """
    path = Path(path)
    require_suffix(path)
    _require_finite(checkpoint.state, path)
    # Clones: views of one storage would otherwise drag the whole storage along (.pt) or be refused (.safetensors).
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.state.items()}
    if checkpoint.stored_as == "float16":
        state = {name: _halved(name, tensor, path) for name, tensor in state.items()}
    description = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint) if field.name != "state"
    }
    # Through JSON, so that only plain types are written: torch.__version__, say, is a subclass of str.
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True)
    if path.suffix == ".pt":
        write_pt({**json.loads(text), "state": state}, path)
        return
    metadata = {"loihi_convert": text, "sha256": digest(text, state)}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load(path: str | Path) -> Checkpoint:
    """Return the checkpoint in a ``.pt`` or ``.safetensors`` file; nothing in the file can run.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, hostile, of another format, or lacks a field.
    """
    path = Path(path)
    return _checkpoint(_read(path), path)


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a ``.pt`` or ``.safetensors`` file of other origin; nothing in the file can run.

    It may be the whole content, or stand in a dict under ``state_dict``, ``model_state_dict`` or ``model``.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, hostile, or holds no state dict, or NaN or an infinity.
    UsageError
        If it is a checkpoint of this package, which describes its CNN itself.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        raise UsageError(
            f"a checkpoint of loihi-convert, which names its architecture ({content.get('architecture')}), input shape "
            "and classes itself",
            where=path,
            hint="Leave out `arch`, `input_shape` and `classes`.",
        )
    state = _plain_state(content)
    if state is None:
        found = f"a dict of {', '.join(map(str, content))}" if isinstance(content, dict) else f"a {_type(content)}"
        raise CheckpointError(
            f"holds {found}",
            where=path,
            expected=f"must hold a state dict, at the top or under one of {', '.join(_STATE_KEYS)}",
            hint="Write it with torch.save(model.state_dict(), path).",
        )
    _require_finite(state, path)
    return state


def load_model(path: str | Path) -> tuple[nn.Module, Checkpoint]:
    """Return the CNN in a checkpoint, in eval mode and without gradients, and the checkpoint.

    Raises
    ------
    CheckpointError
        As `load`; also if the architecture is not known or the tensors do not fit it.
    """
    path = Path(path)
    checkpoint = load(path)
    try:
        # Without memory: a file may claim any input shape.
        with torch.device("meta"):
            model = build_model(
                checkpoint.architecture,
                checkpoint.input_shape,
                len(checkpoint.classes),
                qcfs_levels=checkpoint.qcfs_levels,
            )
    except UsageError as error:
        raise CheckpointError(error.found, where=path, expected=error.expected, hint=_SAVE_INSTEAD) from error
    wanted = {name: _signature(tensor) for name, tensor in model.state_dict().items()}
    found = {name: _signature(tensor) for name, tensor in checkpoint.state.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{name} is {found.get(name, 'missing')}",
                where=path,
                expected=f"a {checkpoint.architecture} for {checkpoint.input_shape} images and "
                f"{len(checkpoint.classes)} classes has {wanted.get(name, 'no such tensor')}",
                hint=_SAVE_INSTEAD,
            )
    model.load_state_dict({name: tensor.clone() for name, tensor in checkpoint.state.items()}, assign=True)
    return model.requires_grad_(False).eval(), checkpoint


def _read(path: Path) -> object:
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"found the suffix {path.suffix!r}", where=path, expected=one_of(SUFFIXES))
    return read_pt(path) if path.suffix == ".pt" else _read_safetensors(path)


def require_suffix(path: Path) -> None:
    """Raise a `UsageError` unless ``path`` ends in ``.pt`` or ``.safetensors``."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"found the suffix {path.suffix!r}", where=path, expected=one_of(SUFFIXES))


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _checkpoint(content: object, path: Path) -> Checkpoint:
    """Return the checkpoint that ``content`` describes, every field checked."""
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        is_plain = _plain_state(content) is not None
        found = "a plain state dict" if is_plain else f"an object of type {_type(content)}"
        hint = "Name the code that builds its CNN: `arch='package.module:factory'`." if is_plain else _SAVE_INSTEAD
        raise CheckpointError(
            f"holds {found}, not a checkpoint of loihi-convert, which also names its architecture, data and seed",
            where=path,
            hint=hint,
        )
    valid = {
        "architecture": _is_text(content.get("architecture")),
        "state": _is_state(content.get("state")),
        "data": _is_text(content.get("data")),
        "input_shape": _is_shape(content.get("input_shape")),
        "classes": _is_list_of_text(content.get("classes")),
        "seed": type(content.get("seed")) is int,
        "validation_accuracy": _is_fraction(content.get("validation_accuracy")),
        "test_accuracy": _is_fraction(content.get("test_accuracy")),
        "recipe": _is_json_object(content.get("recipe")),
        "qcfs_levels": _is_levels(content.get("qcfs_levels")),
        "stored_as": _is_store(content.get("stored_as", "float32")),
    }
    for field, is_valid in valid.items():
        if not is_valid:
            raise CheckpointError(f"the field {field!r} is missing or not valid", where=path, hint=_SAVE_INSTEAD)
    _require_finite(content["state"], path)
    # Older files lack fields that have a default.
    fields = {field: content[field] for field in valid if field in content}
    if fields.get("stored_as") == "float16":
        fields["state"] = {
            name: tensor.float() if tensor.dtype == torch.float16 else tensor
            for name, tensor in fields["state"].items()
        }
    channels, height, width = content["input_shape"]
    return Checkpoint(**{**fields, "input_shape": (channels, height, width), "classes": tuple(content["classes"])})


def _halved(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    halved = tensor.half()
    if not torch.equal(halved.float(), tensor):
        raise CheckpointError(
            f"{name} holds numbers that float16 cannot represent: the stored weights would not be those evaluated",
            where=path,
            hint="Round them with loihi_convert.cnn.float16.in_float16, or store them as float32.",
        )
    return halved


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_shape(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(type(length) is int and 0 < length <= _MAX_SIDE for length in value)


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def _is_levels(value: object) -> bool:
    return value is None or (type(value) is int and 1 <= value <= MAX_LEVELS)


def _is_store(value: object) -> bool:
    return isinstance(value, str) and value in STORES


def _is_json_object(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, dict)


def _is_state(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def _plain_state(content: object) -> dict[str, Tensor] | None:
    """The state dict in a file of other origin, in one of the usual places."""
    candidates = [content, *(content.get(key) for key in _STATE_KEYS)] if isinstance(content, dict) else []
    return next((candidate for candidate in candidates if _is_state(candidate)), None)


def _type(content: object) -> str:
    return type(content).__name__


def _require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} holds NaN or an infinity",
                where=path,
                expected="weights must be finite",
                hint="Train it again.",
            )


def _read_safetensors(path: Path) -> object:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path, hint=_SAVE_INSTEAD) from error
    header_length = int.from_bytes(content[:8], "little")
    if header_length > _MAX_HEADER:
        raise CheckpointError(
            f"damaged or forged: its header claims {header_length:,} bytes",
            where=path,
            expected=f"must be at most {_MAX_HEADER:,}",
            hint=_DAMAGED,
        )
    try:
        state = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + header_length]).get("__metadata__", {})
        text = metadata.get("loihi_convert", "null")
        description = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"damaged, or not a safetensors file ({reason})", where=path, hint=_DAMAGED) from error
    if not isinstance(description, dict):
        return state
    if metadata.get("sha256") != digest(text, state):
        raise CheckpointError("damaged: its content does not have the SHA-256 it states", where=path, hint=_DAMAGED)
    return {**description, "state": state}


def digest(text: str, state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of ``text`` and of every tensor, its name and its shape."""
    found = hashlib.sha256(text.encode())
    for name in sorted(state):
        found.update(f"\n{name} {_signature(state[name])}\n".encode())
        found.update(state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
