"""Trained CNNs as files: ``.pt`` (torch's zip format) and ``.safetensors``, read so that nothing in a file can run.

A ``.pt`` file is a zip archive with one pickle, ``data.pkl``, and one uncompressed record per tensor storage. Pickles
are programs, and torch's own safe mode has had holes, so `read_pt` does not call torch:

1. the archive is checked first: no compression, no duplicates, no record beyond the file, every CRC;
2. the pickle may hold only the opcodes that ``torch.save`` writes for dicts, lists, numbers, strings and tensors;
3. the names in it are looked up in a short list; they yield inert tuples, never a class or a function of torch;
4. tensors are built afterwards, with every size, stride and offset checked against their record.

``.safetensors`` has no checksum of its own: our metadata carries the SHA-256 of itself and of all tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from loihi_convert.errors import CheckpointError, UsageError
from loihi_convert.files import write_atomically
from loihi_convert.models import build_model

SUFFIXES: Final[tuple[str, ...]] = (".pt", ".safetensors")

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_FORMAT: Final = "loihi-convert checkpoint 1"
_SAVE_INSTEAD: Final = "Write it with loihi-convert train, or with loihi_convert.checkpoint.save."
_SAVE_STATE: Final = "Save the state dict instead: torch.save(model.state_dict(), path), with torch 1.6 or newer."
_DAMAGED: Final = "Copy or train it again."
_LARGEST_SIDE: Final = 4096


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained CNN and where it comes from.

    Parameters
    ----------
    architecture
        One of `loihi_convert.models.ARCHITECTURES`.
    state
        Every parameter and buffer by name, as `torch.nn.Module.state_dict` names them; all values finite.
    data
        The data set it was trained on, one of `loihi_convert.data.DATASETS`.
    input_shape
        ``(C, H, W)``; inputs are pixel / 255.
    classes
        The name of each output.
    seed
        Of initialization, order of images, and augmentation.
    validation_accuracy, test_accuracy
        Fractions in 0..1, of the stored weights in float32.
    recipe
        How it was trained, as JSON values.
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


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all; the suffix chooses the format.

    Raises
    ------
    UsageError
        If the suffix is neither ``.pt`` nor ``.safetensors``.
    CheckpointError
        If a tensor holds NaN or an infinity.
    InputError
        If the file cannot be written.
    """
    require_suffix(path)
    _require_finite(checkpoint.state, path)
    # Clones: views of one storage would otherwise drag the whole storage along (.pt) or be refused (.safetensors).
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.state.items()}
    description = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint) if field.name != "state"
    }
    # Through JSON, so that only plain types are written: torch.__version__, say, is a subclass of str.
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True)
    if path.suffix == ".pt":
        write_pt({**json.loads(text), "state": state}, path)
        return
    metadata = {"loihi_convert": text, "sha256": _digest(text, state)}
    write_atomically(path, safetensors.torch.save(state, metadata))


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in a ``.pt`` or ``.safetensors`` file; nothing in the file can run.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, hostile, of another format, or lacks a field.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path}: the suffix {path.suffix!r} is not known; checkpoints end in .pt or .safetensors."
        )
    content = read_pt(path) if path.suffix == ".pt" else _read_safetensors(path)
    return _checkpoint(content, path)


def load_model(path: Path) -> tuple[nn.Module, Checkpoint]:
    """Return the CNN in a checkpoint, in eval mode and without gradients, and the checkpoint.

    Raises
    ------
    CheckpointError
        As `load`; also if the architecture is not known or the tensors do not fit it.
    """
    checkpoint = load(path)
    try:
        # Without memory: a file may claim any input shape.
        with torch.device("meta"):
            model = build_model(checkpoint.architecture, checkpoint.input_shape, len(checkpoint.classes))
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from error
    wanted = {name: _signature(tensor) for name, tensor in model.state_dict().items()}
    found = {name: _signature(tensor) for name, tensor in checkpoint.state.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: {name}: found {found.get(name, 'nothing')}, but {checkpoint.architecture} for "
                f"{checkpoint.input_shape} images and {len(checkpoint.classes)} classes has "
                f"{wanted.get(name, 'no such tensor')}. {_SAVE_INSTEAD}"
            )
    model.load_state_dict({name: tensor.clone() for name, tensor in checkpoint.state.items()}, assign=True)
    return model.requires_grad_(False).eval(), checkpoint


def require_suffix(path: Path) -> None:
    """Raise a `UsageError` unless ``path`` ends in ``.pt`` or ``.safetensors``."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: the suffix {path.suffix!r} is not known; name the checkpoint .pt or .safetensors.")


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _checkpoint(content: object, path: Path) -> Checkpoint:
    """Return the checkpoint that ``content`` describes, every field checked."""
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        found = "a plain state dict" if _is_state(content) else f"an object of type {type(content).__name__}"
        raise CheckpointError(
            f"{path}: holds {found}, not a checkpoint of loihi-convert, which also names its architecture, data and "
            f"seed. {_SAVE_INSTEAD}"
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
    }
    for field, is_valid in valid.items():
        if not is_valid:
            raise CheckpointError(f"{path}: the field {field!r} is missing or not valid. {_SAVE_INSTEAD}")
    _require_finite(content["state"], path)
    fields = {field: content[field] for field in valid}
    channels, height, width = content["input_shape"]
    return Checkpoint(**{**fields, "input_shape": (channels, height, width), "classes": tuple(content["classes"])})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _is_shape(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(type(length) is int and 0 < length <= _LARGEST_SIDE for length in value)


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


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


def _require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or an infinity; weights must be finite. Train it again.")


def _read_safetensors(path: Path) -> object:
    content = _read(path)
    try:
        state = safetensors.torch.load(content)
        header_length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header_length]).get("__metadata__", {})
        text = metadata.get("loihi_convert", "null")
        description = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file ({_first_line(error)}). {_DAMAGED}") from error
    if not isinstance(description, dict):
        return state
    if metadata.get("sha256") != _digest(text, state):
        raise CheckpointError(f"{path}: damaged: its content does not have the SHA-256 it states. {_DAMAGED}")
    return {**description, "state": state}


def _digest(text: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        digest.update(f"\n{name} {_signature(state[name])}\n".encode())
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_LARGEST_PICKLE: Final = 1 << 20
_MOST_RECORDS: Final = 10_000
_MOST_VALUES: Final = 100_000
_DEEPEST: Final = 16

# What torch.save needs (pickle protocol 2) for dicts, lists, tuples, numbers, strings and tensors.
_OPCODES: Final = (
    *("PROTO", "STOP", "MARK"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
)
_STORAGES: Final = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_CALLABLE: Final = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")


def write_pt(content: Mapping[str, object], path: Path) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts in torch's zip format, whole or not at all."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_atomically(path, stream.getvalue())


def read_pt(path: Path) -> object:
    """Return the dicts, lists, numbers, strings and tensors in a file of ``torch.save``; nothing in it can run.

    Tensors share memory where they do in the file. An ``OrderedDict`` comes back as a dict, a parameter as a tensor.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or hostile, TorchScript, of the format before torch 1.6, or holds objects of any
        other class (such as a whole pickled module).
    """
    records = _read_records(path)
    program = records.pop("data.pkl", None)
    if program is None:
        raise CheckpointError(f"{path}: a zip archive, but not of torch.save: it has no data.pkl. {_SAVE_STATE}")
    if records.get("byteorder", b"little") != b"little":
        raise CheckpointError(f"{path}: its tensors are not little-endian. {_SAVE_STATE}")
    _check_program(program, path)
    try:
        return _Builder(records).build(_Unpickler(io.BytesIO(program)).load())
    # A forged pickle can make the unpickler raise nearly anything; none of it is our bug.
    except Exception as error:
        raise CheckpointError(
            f"{path}: damaged or forged: data.pkl cannot be read ({_first_line(error)}). {_DAMAGED}"
        ) from error


def _read_records(path: Path) -> dict[str, bytes]:
    """Return the records of a torch zip archive by their name below its one top folder, sizes and CRCs checked."""
    content = _read(path)
    if not content.startswith(b"PK"):
        found = "a bare pickle, torch's format before 1.6" if content[:1] == b"\x80" else "neither a zip nor a pickle"
        raise CheckpointError(f"{path}: {found}; it was not opened. {_SAVE_STATE}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name == "constants.pkl" or name.startswith("code/") for name in names):
                raise CheckpointError(
                    f"{path}: a TorchScript archive, which holds code; it was not opened. {_SAVE_STATE}"
                )
            # Nothing is compressed and no two records share bytes: reading cannot take more memory than the file has.
            if len(entries) > _MOST_RECORDS or sum(entry.file_size for entry in entries) > len(content):
                _forged(path, f"{len(entries)} records claim more than the file holds")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                _forged(path, "a record is compressed, which torch.save never does")
            if len({entry.filename.partition("/")[0] for entry in entries}) > 1 or len(set(names)) < len(names):
                _forged(path, "records in several folders or of the same name")
            return {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({_first_line(error)}). {_DAMAGED}") from error


def _check_program(program: bytes, path: Path) -> None:
    """Raise unless the pickle holds only known opcodes and names; nothing of it has been executed."""
    if len(program) > _LARGEST_PICKLE:
        _forged(path, f"data.pkl has {len(program):,} bytes, {_LARGEST_PICKLE:,} are allowed")
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".", 1)
                if name not in _CALLABLE and name not in _STORAGES:
                    raise CheckpointError(
                        f"{path}: asks for {name}, which no tensor needs: a whole pickled module, or code; it was not "
                        f"opened. {_SAVE_STATE}"
                    )
            elif opcode.name not in _OPCODES:
                _forged(path, f"the pickle opcode {opcode.name}, which torch.save does not write by default")
            elif opcode.name == "LONG_BINPUT" and int(str(argument)) > len(program):
                # The unpickler would allocate a table of that size.
                _forged(path, f"memo index {argument} in a pickle of {len(program)} bytes")
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: data.pkl is no pickle ({_first_line(error)}). {_DAMAGED}") from error


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict[object, object]):
    """An OrderedDict of the pickle; its attributes (``state_dict`` has ``_metadata``) are dropped."""

    __slots__ = ()

    def __setstate__(self, attributes: object) -> None:
        pass


class _Name(NamedTuple):
    """A name of the pickle; a tuple, so that no opcode can alter it."""

    name: str

    def __call__(self, *arguments: Any) -> object:
        match self.name, arguments:
            case "collections.OrderedDict", ():
                return _Dict()
            case "torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, *_):
                return _View(storage, offset, size, stride)
            case "torch._utils._rebuild_parameter", (_View() as view, *_):
                return view
        raise pickle.UnpicklingError(f"{self.name} is called with {len(arguments)} arguments")


class _Unpickler(pickle.Unpickler):
    """Unpickles into inert tuples, dicts and lists; `_check_program` must have passed."""

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full not in _CALLABLE and full not in _STORAGES:
            raise pickle.UnpicklingError(f"{full} is not allowed")
        return _Name(full)

    def persistent_load(self, pid: Any, /) -> _Storage:
        match pid:
            case ("storage", _Name(name), str(key), str(), int(numel)) if name in _STORAGES:
                return _Storage(_STORAGES[name], key, numel)
        raise pickle.UnpicklingError("a persistent id is not a storage")


class _Builder:
    """Turns what `_Unpickler` yields into plain values and tensors, every bound checked."""

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = records
        self._storages: dict[str, Tensor] = {}
        self._values_left = _MOST_VALUES

    def build(self, value: object, depth: int = 0) -> object:
        self._values_left -= 1
        if depth > _DEEPEST or self._values_left < 0:
            raise ValueError(f"more than {_DEEPEST} levels or {_MOST_VALUES:,} values")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, _View):
            return self._tensor(value)
        if isinstance(value, dict):
            if not all(isinstance(key, (int, str)) for key in value):
                raise ValueError("a dict has a key that is neither text nor an integer")
            return {key: self.build(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return [self.build(item, depth + 1) for item in value]  # type: ignore[attr-defined]
        raise ValueError(f"an object of type {type(value).__name__} where a value or a tensor belongs")

    def _tensor(self, view: _View) -> Tensor:
        storage, offset, size, stride = view
        if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
            raise ValueError("a tensor without storage, size or strides")
        if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise ValueError(f"a tensor of size {size}, strides {stride} and offset {offset}")
        memory = self._storage(storage)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        # numel beyond the storage would need strides of 0: a bomb when it is copied.
        if math.prod(size) > len(memory) or (math.prod(size) > 0 and last >= len(memory)):
            raise ValueError(f"a tensor of size {size} and strides {stride} reaches beyond its {len(memory)} values")
        return memory.as_strided(size, stride, offset)

    def _storage(self, storage: _Storage) -> Tensor:
        record = self._records[f"data/{storage.key}"]
        if storage.numel < 0 or storage.numel * storage.dtype.itemsize != len(record):
            raise ValueError(f"record data/{storage.key} has {len(record)} bytes for {storage.numel} {storage.dtype}")
        if storage.key not in self._storages:
            memory = (
                torch.frombuffer(bytearray(record), dtype=torch.uint8) if record else torch.empty(0, dtype=torch.uint8)
            )
            self._storages[storage.key] = memory
        return self._storages[storage.key].view(storage.dtype)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). {_SAVE_INSTEAD}") from error


def _forged(path: Path, found: str) -> NoReturn:
    raise CheckpointError(f"{path}: not as torch.save writes it: {found}; it was not opened. {_SAVE_STATE}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
