"""Torch's zip format (``.pt``), written by torch, and read so that nothing in a file can run.

A ``.pt`` file is a zip archive with one pickle, ``data.pkl``, and one uncompressed record per tensor storage. Pickles
are programs, and torch's own safe mode has had holes, so `read_pt` does not call torch:

1. the archive is checked first: no compression, no duplicates, no record beyond the file, every CRC;
2. the pickle may hold only the opcodes that ``torch.save`` writes for dicts, lists, numbers, strings and tensors;
3. the names in it are looked up in a short list; they yield inert tuples, never a class or a function of torch;
4. tensors are built afterwards, with every size, stride and offset checked against their record.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import torch
from torch import Tensor

from loihi_convert.errors import CheckpointError
from loihi_convert.files import write_atomically

_SAVE_STATE: Final = "Save the state dict instead: torch.save(model.state_dict(), path), with torch 1.6 or newer."
_DAMAGED: Final = "Copy or train it again."

_MAX_PICKLE: Final = 1 << 20
_MAX_RECORDS: Final = 10_000
_MAX_VALUES: Final = 100_000
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
        raise CheckpointError("a zip archive without data.pkl, so not from torch.save", where=path, hint=_SAVE_STATE)
    if records.get("byteorder", b"little") != b"little":
        raise CheckpointError("its tensors are not little-endian", where=path, hint=_SAVE_STATE)
    _check_program(program, path)
    try:
        return _Builder(records).build(_Unpickler(io.BytesIO(program)).load())
    # A forged pickle can make the unpickler raise nearly anything.
    except Exception as error:
        raise CheckpointError(
            f"damaged or forged: data.pkl cannot be read ({_first_line(error)})", where=path, hint=_DAMAGED
        ) from error


def _read_records(path: Path) -> dict[str, bytes]:
    """Return the records of a torch zip archive by their name below its one top folder, sizes and CRCs checked."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror})", where=path, hint="Write it with loihi-convert train."
        ) from error
    if not content.startswith(b"PK"):
        found = "a bare pickle, torch's format before 1.6" if content[:1] == b"\x80" else "neither a zip nor a pickle"
        raise CheckpointError(f"{found}; it was not opened", where=path, hint=_SAVE_STATE)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name == "constants.pkl" or name.startswith("code/") for name in names):
                raise CheckpointError(
                    "a TorchScript archive, which holds code; it was not opened", where=path, hint=_SAVE_STATE
                )
            # Nothing is compressed and no two records share bytes: reading cannot take more memory than the file has.
            if len(entries) > _MAX_RECORDS or sum(entry.file_size for entry in entries) > len(content):
                _forged(path, f"{len(entries)} records claim more than the file holds")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                _forged(path, "a record is compressed, which torch.save never does")
            if len({entry.filename.partition("/")[0] for entry in entries}) > 1 or len(set(names)) < len(names):
                _forged(path, "records in several folders or of the same name")
            return {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"truncated or damaged ({_first_line(error)})", where=path, hint=_DAMAGED) from error


def _check_program(program: bytes, path: Path) -> None:
    """Raise unless the pickle holds only known opcodes and names; nothing of it has been executed."""
    if len(program) > _MAX_PICKLE:
        _forged(path, f"data.pkl has {len(program):,} bytes, more than {_MAX_PICKLE:,}")
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".", 1)
                if name not in _CALLABLE and name not in _STORAGES:
                    raise CheckpointError(
                        f"asks for {name}, which no tensor needs: a whole pickled module, or code; it was not opened",
                        where=path,
                        hint=_SAVE_STATE,
                    )
            elif opcode.name not in _OPCODES:
                _forged(path, f"the pickle opcode {opcode.name}, which torch.save does not write by default")
            elif opcode.name == "LONG_BINPUT" and int(str(argument)) > len(program):
                # The unpickler would allocate a table of that size.
                _forged(path, f"memo index {argument} in a pickle of {len(program)} bytes")
    except ValueError as error:
        raise CheckpointError(
            f"damaged: data.pkl is not a pickle ({_first_line(error)})", where=path, hint=_DAMAGED
        ) from error


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
        self._values_left = _MAX_VALUES

    def build(self, value: object, depth: int = 0) -> object:
        self._values_left -= 1
        if depth > _DEEPEST or self._values_left < 0:
            raise ValueError(f"more than {_DEEPEST} levels or {_MAX_VALUES:,} values")
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


def _forged(path: Path, found: str) -> NoReturn:
    raise CheckpointError(f"not from torch.save: {found}; it was not opened", where=path, hint=_SAVE_STATE)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
