"""Files of weights: torch's zip format (``.pt``) and ``.safetensors``, with a state dict at any place in them.

===================================  ==================================================================================
file, by its first bytes             written by
===================================  ==================================================================================
a zip archive with ``data.pkl``      ``torch.save`` since torch 1.6: .pt, .pth, .ckpt, .bin, .pth.tar, ...
a JSON header with its length        safetensors; this package adds the SHA-256 of its metadata and of all tensors
===================================  ==================================================================================

Other content (optimizer, hyperparameters, callbacks) is ignored.

A zip archive holds one pickle, ``data.pkl``, and one uncompressed record per tensor storage. Pickles are programs, and
torch's safe mode has had vulnerabilities, so `read_pt` does not call torch:

1. the archive is checked first: no compression, no duplicates, no record beyond the end of the file, all CRCs;
2. the pickle is read by `inert_pickle`, which imports and calls nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from loihi_convert.cnn import inert_pickle
from loihi_convert.cnn.inert_pickle import Skipped
from loihi_convert.errors import CheckpointError, first_line, is_lack_of_memory
from loihi_convert.ground.file_kinds import FileKind, kind_of
from loihi_convert.ground.files import write_atomically

_SAVE_STATE: Final = "Save the state dict instead: torch.save(model.state_dict(), path), with torch 1.6 or newer."
_DAMAGED: Final = "Copy or train it again."

_MAX_PICKLE: Final = 1 << 20
_MAX_PICKLE_OF_TRAINING: Final = 1 << 22
_MAX_RECORDS: Final = 10_000
_MAX_HEADER: Final = 16_000_000

_USUAL_KEYS: Final = (
    *("state_dict", "model_state_dict", "model", "net", "model_state", "net_state_dict", "network", "module"),
    *("weights", "params", "parameters", "state", "checkpoint", "ema", "model_ema", "state_dict_ema", "teacher"),
)
"""Usual keys of a state dict, the most likely first; other keys come after these."""

_DEEPEST: Final = 3

_OTHER_KINDS: Final[Mapping[FileKind, tuple[str, str]]] = {
    "onnx": ("an ONNX file, not a checkpoint", ""),
    "hdf5": (
        "an HDF5 file from netx or Keras, not from PyTorch",
        "Give the PyTorch checkpoint; a Keras model must be converted to ONNX first.",
    ),
    "pickle": (
        "a pickle: torch's format before 1.6, or from another tool; it was not opened",
        "If torch.save wrote it: torch.save(torch.load(path, weights_only=True), 'new.pt').",
    ),
    "gzip": ("compressed with gzip", "Decompress it first: gunzip, or tar -xzf."),
    "tar": ("a tar archive", "Unpack it first: tar -xf."),
    "git-lfs": ("a Git LFS pointer, not the file", "Fetch the file itself: git lfs pull."),
    "html": ("a web page", "Download the file itself, not the page that links to it."),
    "text": ("a text file", _SAVE_STATE),
    "empty": ("empty", "Copy or download it again."),
    "unknown": ("not a zip, pickle or safetensors file", _SAVE_STATE),
}


def read_file(path: Path, *, strict: bool) -> object:
    """Return the content of a checkpoint in any of the formats above; ``strict`` is as in `read_pt`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, malicious, or of another type.
    """
    kind = kind_of(path)
    if kind == "zip" or kind is None:
        return read_pt(path, strict=strict)
    if kind == "safetensors":
        return read_safetensors(path)
    found, hint = _OTHER_KINDS[kind]
    raise CheckpointError(found, where=path, expected="must be a file of torch.save or safetensors", hint=hint)


def states_in(content: object) -> dict[str, dict[str, Tensor]]:
    """Return all state dicts in ``content``, the most likely first, by the keys that lead to them: ``model.ema``."""
    found = sorted(_states(content, "", 0), key=lambda state: (state[1], state[2]))
    return {key: state for key, _, _, state in found}


def _states(content: object, key: str, depth: int) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
    """Key, depth, rank and content of each state dict."""
    if not isinstance(content, dict) or depth > _DEEPEST:
        return
    last = key.rpartition(".")[2]
    rank = _USUAL_KEYS.index(last) if last in _USUAL_KEYS else len(_USUAL_KEYS)
    # Modules may put extra values into a state dict under this name; CNNs do not use them.
    tensors: dict[Any, Any] = {name: item for name, item in content.items() if not str(name).endswith("_extra_state")}
    if tensors and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in tensors.items()):
        yield key, depth, rank, tensors
        return
    for name, item in content.items():
        yield from _states(item, f"{key}.{name}" if key else str(name), depth + 1)


def is_quantized(content: object) -> bool:
    """Return whether ``content`` has integers of ``torch.ao.quantization``, with a scale and a ``zero_point``."""
    if not isinstance(content, dict):
        return False
    return any(str(name).endswith("zero_point") or is_quantized(item) for name, item in content.items())


def described(content: object) -> str:
    """Return a description of a file's content, for a message."""
    if isinstance(content, dict):
        return f"a dict of {', '.join(map(str, content))}" if content else "an empty dict"
    if isinstance(content, Skipped):
        return f"an object of {content.kind}, which is not a module with weights; it was not opened"
    return f"a {type(content).__name__}"


class ForeignObjectError(CheckpointError):
    """A file that may contain only plain values and tensors contains an object of another class."""


def write_pt(content: Mapping[str, object], path: Path) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts atomically, in torch's zip format."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    write_atomically(path, stream.getvalue())


def read_pt(path: Path, *, strict: bool = True) -> object:
    """Return the dicts, lists, numbers, strings and tensors in a file from ``torch.save``; executes nothing in it.

    Tensors share memory as in the file. An ``OrderedDict`` becomes a dict, a parameter a tensor. Unless ``strict``, a
    pickled module becomes its state dict, and any other object an `inert_pickle.Skipped`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, malicious or TorchScript; if ``strict``, also if it contains objects of any
        other class (such as a whole pickled module).
    """
    content = read_bytes(path)
    if not content.startswith(b"PK"):
        raise CheckpointError("not a zip archive", where=path, hint=_SAVE_STATE)
    records = _read_records(content, path)
    program = records.pop("data.pkl", None)
    if program is None and "archive_format" in records:
        raise CheckpointError(
            "an exported program (torch.export)",
            where=path,
            hint="Save its weights: torch.save(torch.export.load(path).state_dict, 'model.pt'). Convert that file with "
            "the code that builds the CNN, `arch`.",
        )
    if program is None:
        raise CheckpointError("a zip archive without data.pkl, so not from torch.save", where=path, hint=_SAVE_STATE)
    if records.get("byteorder", b"little") != b"little":
        raise CheckpointError("its tensors are not little-endian", where=path, hint=_SAVE_STATE)
    limit = _MAX_PICKLE if strict else _MAX_PICKLE_OF_TRAINING
    if len(program) > limit:
        found = _not_from_torch(f"data.pkl has {len(program):,} bytes, more than {limit:,}")
        raise ForeignObjectError(found, where=path, hint=_SAVE_STATE)
    with unpickling(path, "data.pkl"):
        checked = inert_pickle.read_program(io.BytesIO(program), strict=strict, limit=limit)
        return inert_pickle.built(inert_pickle.load(checked, strict=strict), records, strict=strict)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of the file at ``path``, or raise a `CheckpointError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path, hint="Check the path.") from error


@contextlib.contextmanager
def unpickling(path: Path, name: str) -> Iterator[None]:
    """Turn any error that the pickle ``name`` in the file at ``path`` causes into a `CheckpointError`."""
    try:
        yield
    except inert_pickle.ForeignNameError as error:
        raise ForeignObjectError(
            f"refers to {error.name}, which tensors do not need: a pickled module, or code; it was not opened",
            where=path,
            hint=_SAVE_STATE,
        ) from error
    except inert_pickle.OpcodeError as error:
        raise ForeignObjectError(_not_from_torch(str(error)), where=path, hint=_SAVE_STATE) from error
    # A forged pickle can make the unpickler raise almost any exception.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise CheckpointError(
            f"damaged or forged: {name} cannot be read ({first_line(error)})", where=path, hint=_DAMAGED
        ) from error


def _read_records(content: bytes, path: Path) -> dict[str, bytes]:
    """Return the records of a torch zip archive by name within its top folder, with sizes and CRCs checked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name == "constants.pkl" or name.startswith("code/") for name in names):
                raise CheckpointError(
                    "a TorchScript archive, which contains code; it was not opened",
                    where=path,
                    hint="Save its weights: torch.save(torch.jit.load(path).state_dict(), 'model.pt').",
                )
            # Records are uncompressed and do not overlap, so reading needs no more memory than the file's size.
            if len(entries) > _MAX_RECORDS or sum(entry.file_size for entry in entries) > len(content):
                _forged(path, f"{len(entries)} records claim more than the file holds")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                _forged(path, "a record is compressed, which torch.save never does")
            if len({entry.filename.partition("/")[0] for entry in entries}) > 1 or len(set(names)) < len(names):
                _forged(path, "records in several folders or of the same name")
            return {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"truncated or damaged ({first_line(error)})", where=path, hint=_DAMAGED) from error


def _forged(path: Path, found: str) -> NoReturn:
    raise CheckpointError(_not_from_torch(found), where=path, hint=_SAVE_STATE)


def _not_from_torch(found: str) -> str:
    return f"not from torch.save: {found}; it was not opened"


def as_safetensors(text: str, state: Mapping[str, Tensor], path: Path) -> bytes:
    """Return a file with ``state``, and with ``text`` as its description; errors name ``path``.

    Raises
    ------
    CheckpointError
        If `read_safetensors` would refuse the size of the description.
    """
    metadata = {"loihi_convert": text, "sha256": digest(state, text)}
    content = bytes(safetensors.torch.save(dict(state), metadata))
    if (length := _header_length(content)) > _MAX_HEADER:
        found, hint = f"its description has {length:,} bytes", "Shorten the names of the classes."
        raise CheckpointError(found, where=path, expected=f"must be at most {_MAX_HEADER:,}", hint=hint)
    # safetensors writes the metadata in random order; the header ends in spaces, at a multiple of 8 bytes.
    header = {**json.loads(content[8 : 8 + length]), "__metadata__": metadata}
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written = written.ljust(8 * math.ceil(len(written) / 8))
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def _header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def read_safetensors(path: Path) -> object:
    """Return the tensors by name; for a file from `as_safetensors`, the description with the tensors under ``state``.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or forged.
    """
    content = read_bytes(path)
    header_length = _header_length(content)
    if header_length > _MAX_HEADER:
        raise CheckpointError(
            f"damaged or forged: its header claims {header_length:,} bytes",
            where=path,
            expected=f"must be at most {_MAX_HEADER:,}",
            hint=_DAMAGED,
        )
    try:
        state = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + header_length]).get("__metadata__") or {}
        text = metadata.get("loihi_convert", "null")
        description = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        found = f"damaged, or not a safetensors file ({first_line(error)})"
        raise CheckpointError(found, where=path, hint=_DAMAGED) from error
    if not isinstance(description, dict):
        return state
    if metadata.get("sha256") != digest(state, text):
        raise CheckpointError("damaged: the content does not match its SHA-256", where=path, hint=_DAMAGED)
    return {**description, "state": state}


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
