"""Files of weights: torch's zip format (``.pt``) and ``.safetensors``, with a state dict at any place in them.

===================================  ==================================================================================
file, by its first bytes             written by
===================================  ==================================================================================
a zip archive with ``data.pkl``      ``torch.save`` since torch 1.6: .pt, .pth, .ckpt, .bin, .pth.tar, ...
a JSON header with its length        safetensors; this package adds the SHA-256 of its metadata and of all tensors
===================================  ==================================================================================

A zip archive holds one pickle, ``data.pkl``, and one uncompressed record with a CRC per tensor storage. Pickles are
programs, and torch's safe mode has had vulnerabilities: here no name in a pickle is imported or called. Names that
tensors need give tuples, and all others a `Skipped`, such as an optimizer or a callback. It is Python's own unpickler,
which takes no memory for a number that a file only claims; torch checks that each tensor lies within its storage.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from loihi_convert.errors import CheckpointError, first_line, is_lack_of_memory
from loihi_convert.ground.files import FileKind, kind_of, write_atomically

_SAVE_STATE: Final = "Save the state dict: torch.save(model.state_dict(), path)."

_USUAL_KEYS: Final = (
    *("state_dict", "model_state_dict", "model", "net", "model_state", "net_state_dict", "network", "module"),
    *("weights", "params", "parameters", "state", "checkpoint", "ema", "model_ema", "state_dict_ema", "teacher"),
)
"""Usual keys of a state dict, the most likely first; other keys come after these."""

_DEEPEST: Final = 3
_DEEPEST_MODULE: Final = 16
# In a forged file few dicts that hold each other stand for millions.
_MOST_VISITS: Final = 10_000

_OTHER_KINDS: Final[Mapping[FileKind, str]] = {
    "pickle": "a pickle: torch's format before 1.6, or from another tool; it was not opened",
    "git-lfs": "a Git LFS pointer, not the file (git lfs pull)",
    "html": "a web page, not the file it links to",
}

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
_FUNCTIONS: Final = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "__builtin__.set",
    "builtins.set",
)


def read_file(path: str | Path) -> object:
    """Return the content of a checkpoint in any of the formats above; executes nothing in it.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, malicious, or of another type.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "zip" or kind is None:
        return read_pt(path)
    if kind == "safetensors":
        return read_safetensors(path)
    hint = "If torch.save wrote it: torch.save(torch.load(path, weights_only=True), 'new.pt')."
    raise CheckpointError(
        _OTHER_KINDS.get(kind, f"a file of another type: {kind}"),
        where=path,
        expected="must be a file of torch.save or safetensors",
        hint=hint if kind == "pickle" else "",
    )


def states_in(content: object) -> dict[str, dict[str, Tensor]]:
    """Return all state dicts in ``content``, the most likely first, by the keys that lead to them: ``model.ema``."""
    found = sorted(_states(content, "", 0, iter(range(_MOST_VISITS))), key=lambda state: (state[1], state[2]))
    return {key: state for key, _, _, state in found}


def _states(
    content: object, key: str, depth: int, visits: Iterator[int]
) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
    """Key, depth, rank and content of each state dict."""
    content = dict(_module_state(content, visits)) if isinstance(content, Skipped) else content
    if not isinstance(content, dict) or depth > _DEEPEST:
        return
    _count(visits)
    last = key.rpartition(".")[2]
    rank = _USUAL_KEYS.index(last) if last in _USUAL_KEYS else len(_USUAL_KEYS)
    # Modules may put extra values into a state dict under this name; CNNs do not use them.
    tensors: dict[Any, Any] = {name: item for name, item in content.items() if not str(name).endswith("_extra_state")}
    if tensors and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in tensors.items()):
        yield key, depth, rank, tensors
        return
    for name, item in content.items():
        yield from _states(item, f"{key}.{name}" if key else str(name), depth + 1, visits)


def _count(visits: Iterator[int]) -> None:
    if next(visits, None) is None:
        raise CheckpointError(
            "holds the same dicts or modules too often", expected=f"must hold {_MOST_VISITS:,} at most"
        )


def _module_state(module: Skipped, visits: Iterator[int], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The state dict of a pickled `torch.nn.Module`, whose ``__dict__`` is in the file; nothing of another object."""
    _count(visits)
    match module.state:
        case {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules), **others}:
            left_out = others.get("_non_persistent_buffers_set")
            for name, tensor in (*parameters.items(), *buffers.items()):
                if tensor is not None and not (isinstance(left_out, set) and name in left_out):
                    yield f"{prefix}{name}", tensor
            for name, inner in modules.items():
                # In a forged file a module may hold itself.
                if isinstance(inner, Skipped) and prefix.count(".") < _DEEPEST_MODULE:
                    yield from _module_state(inner, visits, f"{prefix}{name}.")


def described(content: object) -> str:
    """Return a description of a file's content, for a message."""
    if isinstance(content, dict):
        return f"a dict of {', '.join(map(str, content))}" if content else "an empty dict"
    if isinstance(content, Skipped):
        return f"an object of {content.kind}, which is not a module with weights; it was not opened"
    return f"a {type(content).__name__}"


def write_pt(content: Mapping[str, object], path: Path, *, overwrite: bool = True) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts in torch's zip format, as `write_atomically`."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_atomically(path, stream.getvalue(), overwrite=overwrite)


def read_pt(path: Path) -> object:
    """Return the value in a file from ``torch.save``; executes nothing in it.

    Tensors share memory as in the file. An ``OrderedDict`` becomes a dict, a parameter a tensor, and an object of any
    other class, such as a pickled module, a `Skipped`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or malicious.
    """
    content = _read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            # Records are uncompressed and do not overlap, so reading needs no more memory than the file's size.
            if sum(entry.file_size for entry in entries.values()) > len(content):
                raise ValueError("records claim more than the file holds")
            records = {name: archive.read(entry) for name, entry in entries.items()}
        if "data.pkl" not in records or records.get("byteorder", b"little") != b"little":
            raise ValueError("no data.pkl, or not little-endian")
        return _Unpickler(records).load()
    # A forged pickle can make the unpickler raise almost any exception.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        found = f"damaged, or not from torch.save ({first_line(error)})"
        raise CheckpointError(found, where=path, hint=_SAVE_STATE) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path) from error


class Skipped:
    """Stands for an object of any other class; nothing of it was imported or executed.

    Attributes
    ----------
    kind
        The name of its class or function in the file.
    state
        The state stored for the object; None if there is none.
    """

    kind: ClassVar[str] = "an object"
    state: object = None

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    # A pickle may use the unknown object in these ways: call it, or fill it like a list, set or dict.
    def __call__(self, *_: object, **__: object) -> Skipped:
        return type(self)()

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    extend = append
    add = append


class _Dict(dict[object, object]):
    """An OrderedDict in the pickle; its attributes (``_metadata`` of a ``state_dict``) are dropped."""

    __slots__ = ()

    def __setstate__(self, attributes: object) -> None:
        pass


class _Name(NamedTuple):
    """A name in the pickle that tensors need; a tuple, so that no opcode can change it."""

    name: str

    def __call__(self, *arguments: Any) -> object:
        match self.name.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return _Dict()
            case "_rebuild_tensor_v2", (Tensor() as storage, offset, size, stride, *_):
                # More elements than the storage has would need strides of 0, and exhaust memory when copied.
                # PyTorch 2.3 itself lets huge offsets overflow.
                if math.prod(size) > len(storage) or offset > len(storage):
                    raise ValueError(f"a tensor of size {size} at {offset} in {len(storage)} values")
                return storage.as_strided(size, stride, offset)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (data, *_):
                return data
            case "_rebuild_from_type_v2", (_Name() as function, _, tuple() as inner, *_):
                return function(*inner)
            case "set", (list() as items,):
                return {item for item in items if isinstance(item, str)}
        return Skipped()


class _Unpickler(pickle._Unpickler):
    """Unpickles into dicts, lists, numbers, strings, tensors and `Skipped`.

    ``records["data/k"]`` holds the bytes of storage ``k``.
    """

    def __init__(self, records: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(records["data.pkl"]), encoding="utf-8", errors="replace")
        self._records = records
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        # A class, because the opcode NEWOBJ requires one.
        return _Name(full) if full in _STORAGES or full in _FUNCTIONS else type("Skipped", (Skipped,), {"kind": full})

    def persistent_load(self, pid: Any, /) -> object:
        match pid:
            case ("storage", _Name(name), str(key), *_) if name in _STORAGES:
                if key not in self._storages:
                    record = bytearray(self._records[f"data/{key}"])
                    self._storages[key] = torch.frombuffer(record, dtype=torch.uint8) if record else torch.empty(0)
                return self._storages[key].view(_STORAGES[name])
        return Skipped()


def as_safetensors(text: str, state: Mapping[str, Tensor]) -> bytes:
    """Return a file with ``state``, and with ``text`` as its description."""
    metadata = {"loihi_convert": text, "sha256": digest(state, text)}
    content = bytes(safetensors.torch.save(dict(state), metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    # safetensors writes the metadata in random order; the header ends in spaces, at a multiple of 8 bytes.
    header = {**json.loads(content[8:end]), "__metadata__": metadata}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written = written.ljust(8 * math.ceil(len(written) / 8))
    return len(written).to_bytes(8, "little") + written + content[end:]


def read_safetensors(path: Path) -> object:
    """Return the tensors by name; for a file from `as_safetensors`, the description with the tensors under ``state``.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or forged.
    """
    content = _read_bytes(path)
    try:
        state = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
        text = metadata.get("loihi_convert", "null")
        description = json.loads(text)
        if isinstance(description, dict) and metadata.get("sha256") != digest(state, text):
            raise ValueError("the content does not match its SHA-256")
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"damaged, or not a safetensors file ({first_line(error)})", where=path) from error
    return {**description, "state": state} if isinstance(description, dict) else state


def signature(tensor: Tensor) -> str:
    """Return dtype and shape: ``float32 (10, 128)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def digest(state: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of ``text`` and of every tensor, its name and its shape."""
    found = hashlib.sha256(text.encode())
    for name in sorted(state):
        found.update(f"\n{name} {signature(state[name])}\n".encode())
        found.update(state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
