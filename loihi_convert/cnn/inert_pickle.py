"""Safe reading of pickles: returns only dicts, lists, numbers, strings and tensors, and executes nothing.

Pickles are programs, and torch's safe mode has had vulnerabilities, so no name in a pickle is imported or called:

1. the opcodes are checked first, before anything is executed;
2. names give inert values: those that tensors need give tuples, all others an instance of `Skipped`;
3. tensors are built afterwards, and every size, stride and offset is checked against the bytes of the storage.

A file with only weights is read strictly: names and opcodes other than those of ``torch.save`` for plain values are
refused. Training checkpoints hold more, such as hyperparameters and callbacks; these become `Skipped`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, TypeGuard

import torch
from torch import Tensor

_MAX_VALUES: Final = 1_000_000
_DEEPEST: Final = 16
_MAX_MODULES: Final = 10_000

# Opcodes of torch.save (pickle protocol 2) for dicts, lists, tuples, numbers, strings and tensors.
_OPCODES: Final = (
    *("PROTO", "STOP", "MARK"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
)
# Additional opcodes for objects of any class, in protocols 2 to 5. Left out: EXT1, EXT2, EXT4, which fetch classes
# registered in Python without `_Unpickler.find_class`; PERSID, PUT, GET, INST, OBJ of protocols 0 and 1; buffers
# outside the file.
_OPCODES_OF_OBJECTS: Final = (
    *("LONG4", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("POP", "POP_MARK", "DUP", "MEMOIZE", "FRAME", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL"),
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
# Parameters with extra attributes, and sets of names, in training checkpoints and pickled modules.
_CALLABLE_OF_TRAINING: Final = (
    *_CALLABLE,
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "__builtin__.set",
    "builtins.set",
)


class ForeignNameError(ValueError):
    """A pickle refers to a name that tensors do not need."""

    def __init__(self, name: str) -> None:
        super().__init__(f"refers to {name}")
        self.name = name


class OpcodeError(ValueError):
    """A pickle contains an opcode or an argument that `torch.save` does not write."""


class Skipped:
    """Placeholder for an object of any other class; nothing of it was imported or executed.

    Parameters
    ----------
    kind
        The name of its class or function in the file.
    state
        The state stored for the object, not yet built; None if there is none.
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
        """Accept ``value`` like a list, and discard it."""

    extend = append
    add = append


def skipped(kind: str) -> Skipped:
    """Return a `Skipped` for an object of class ``kind``."""
    return _skipped_class(kind)()


def _skipped_class(kind: str) -> type[Skipped]:
    # A class, because NEWOBJ requires one.
    return type("Skipped", (Skipped,), {"kind": kind})


def read_program(stream: io.BytesIO, *, strict: bool, limit: int) -> bytes:
    """Return the pickle at the current position of ``stream``, without executing it.

    Raises
    ------
    ForeignNameError
        If ``strict``, for a name that tensors do not need.
    OpcodeError
        For an unknown opcode, or a pickle larger than ``limit`` bytes.
    ValueError
        If it is not a pickle.
    """
    start = stream.tell()
    allowed = _OPCODES if strict else (*_OPCODES, *_OPCODES_OF_OBJECTS)
    for opcode, argument, position in pickletools.genops(stream):
        place = position or 0
        if place - start > limit:
            raise OpcodeError(f"a pickle of more than {limit:,} bytes")
        if opcode.name not in allowed:
            raise OpcodeError(f"the pickle opcode {opcode.name}, which torch.save does not write by default")
        if opcode.name == "GLOBAL" and strict:
            name = str(argument).replace(" ", ".", 1)
            if name not in _CALLABLE and name not in _STORAGES:
                raise ForeignNameError(name)
        # The unpickler would allocate a table of this size.
        if opcode.name == "LONG_BINPUT" and int(str(argument)) > place:
            raise OpcodeError(f"memo index {argument} in a pickle of {place} bytes")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _View(NamedTuple):
    storage: object
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict[object, object]):
    """An OrderedDict in the pickle; its attributes (``_metadata`` of a ``state_dict``) are dropped."""

    __slots__ = ()

    def __setstate__(self, attributes: object) -> None:
        pass


class _Name(NamedTuple):
    """A name in the pickle; a tuple, so that no opcode can modify it."""

    name: str

    def __call__(self, *arguments: Any) -> object:
        match self.name, arguments:
            case "collections.OrderedDict", ():
                return _Dict()
            case "torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, *_):
                return _View(storage, offset, size, stride)
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (data, *_):
                return data
            case "torch._tensor._rebuild_from_type_v2", (_Name() as function, _, tuple() as inner, *_):
                return function(*inner)
            case "torch._tensor._rebuild_from_type_v2", _:
                return skipped(self.name)
            case "__builtin__.set" | "builtins.set", (list() as items,):
                return frozenset(item for item in items if isinstance(item, str))
        raise pickle.UnpicklingError(f"{self.name} is called with {len(arguments)} arguments")


class _Unpickler(pickle.Unpickler):
    """Unpickles into inert tuples, dicts, lists and `Skipped`; the pickle must have passed `read_program`."""

    def __init__(self, program: bytes, *, strict: bool) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8", errors="replace")
        self._strict = strict

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full in _STORAGES or full in (_CALLABLE if self._strict else _CALLABLE_OF_TRAINING):
            return _Name(full)
        if self._strict:
            raise pickle.UnpicklingError(f"{full} is not allowed")
        return _skipped_class(full)

    def persistent_load(self, pid: Any, /) -> object:
        match pid:
            case ("storage", _Name(name), str(key), str(), int(numel)) if name in _STORAGES:
                return _Storage(_STORAGES[name], key, numel)
        if self._strict:
            raise pickle.UnpicklingError("a persistent id is not a storage")
        return skipped("a storage of another kind")


def load(program: bytes, *, strict: bool) -> object:
    """Return the value of ``program``, from `read_program`, with tensors not yet built.

    A forged program may raise almost any exception.
    """
    return _Unpickler(program, strict=strict).load()


def built(value: object, records: Mapping[str, bytes], *, strict: bool) -> object:
    """Return a value from `load` with its tensors; ``records["data/k"]`` holds the bytes of storage ``k``."""
    return _Builder(records, strict=strict).build(value)


class _Builder:
    """Turns the values from `_Unpickler` into plain values and tensors, checking all bounds."""

    def __init__(self, records: Mapping[str, bytes], *, strict: bool) -> None:
        self._records, self._strict = records, strict
        self._storages: dict[str, Tensor] = {}
        self._values_left = _MAX_VALUES

    def build(self, value: object, depth: int = 0) -> object:
        self._values_left -= 1
        if self._values_left < 0 or (depth > _DEEPEST and self._strict):
            raise ValueError(f"more than {_DEEPEST} levels or {_MAX_VALUES:,} values")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, _View):
            return self._tensor(value)
        if depth <= _DEEPEST and isinstance(value, dict):
            if self._strict and not all(isinstance(key, (int, str)) for key in value):
                raise ValueError("a dict has a key that is neither a string nor an integer")
            return {key: self.build(item, depth + 1) for key, item in value.items() if isinstance(key, (int, str))}
        if depth <= _DEEPEST and type(value) in (list, tuple):
            return [self.build(item, depth + 1) for item in value]  # type: ignore[attr-defined]
        if self._strict:
            raise ValueError(f"an object of type {type(value).__name__} instead of a value or a tensor")
        if isinstance(value, Skipped):
            state = _module_state(value)
            return value if state is None else self.build(state, depth)
        return skipped(value.kind if _is_skipped_class(value) else type(value).__name__)

    def _tensor(self, view: _View) -> object:
        storage, offset, size, stride = view
        if isinstance(storage, Skipped) and not self._strict:
            return skipped("a tensor of another kind")
        if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
            raise ValueError("a tensor without storage, size or strides")
        if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise ValueError(f"a tensor of size {size}, strides {stride} and offset {offset}")
        memory = self._storage(storage)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        # More elements than the storage has would need strides of 0, and exhaust memory when copied.
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


def _is_skipped_class(value: object) -> TypeGuard[type[Skipped]]:
    return isinstance(value, type) and issubclass(value, Skipped)


def _module_state(module: Skipped) -> dict[str, object] | None:
    """The state dict of a pickled `torch.nn.Module`; None for an object of another class.

    ``torch.save(model, path)`` pickles each module as its class and its ``__dict__``; its code is not in the file.
    """
    found: dict[str, object] = {}
    waiting, places = [("", module)], 0
    while waiting:
        prefix, place = waiting.pop()
        places += 1
        # A module may occur several times and, in a forged file, inside itself.
        if places > _MAX_MODULES or prefix.count(".") > _DEEPEST:
            raise ValueError(f"more than {_MAX_MODULES:,} modules, or {_DEEPEST} levels of them")
        if place.kind.startswith("torch.") and ".quantized." in place.kind:
            # It packs its weights into an object. In its state dict, this name follows them.
            found[f"{prefix}zero_point"] = None
        attributes = place.state if isinstance(place.state, dict) else {}
        parameters, buffers, modules = (attributes.get(key) for key in ("_parameters", "_buffers", "_modules"))
        if not (isinstance(parameters, dict) and isinstance(buffers, dict) and isinstance(modules, dict)):
            continue
        transient = attributes.get("_non_persistent_buffers_set")
        left_out = transient if isinstance(transient, frozenset) else frozenset[str]()
        for name, tensor in (*parameters.items(), *buffers.items()):
            if tensor is not None and name not in left_out:
                found[f"{prefix}{name}"] = tensor
        waiting += [
            (f"{prefix}{name}.", inner) for name, inner in reversed(modules.items()) if isinstance(inner, Skipped)
        ]
    return found or None
