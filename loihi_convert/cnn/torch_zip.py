"""Torch's zip format (``.pt``): written with torch, and read without executing anything in the file.

A ``.pt`` file is a zip archive with one pickle, ``data.pkl``, and one uncompressed record per tensor storage. Pickles
are programs, and torch's safe mode has had vulnerabilities, so `read_pt` does not call torch:

1. the archive is checked first: no compression, no duplicates, no record beyond the end of the file, all CRCs;
2. the pickle is read by `inert_pickle`, which imports and calls nothing.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NoReturn

import torch

from loihi_convert.cnn import inert_pickle
from loihi_convert.errors import CheckpointError, first_line, is_lack_of_memory
from loihi_convert.files import write_atomically

SAVE_STATE: Final = "Save the state dict instead: torch.save(model.state_dict(), path), with torch 1.6 or newer."
DAMAGED: Final = "Copy or train it again."

_MAX_PICKLE: Final = 1 << 20
MAX_PICKLE_OF_TRAINING: Final = 1 << 22
_MAX_RECORDS: Final = 10_000


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
        raise CheckpointError("not a zip archive", where=path, hint=SAVE_STATE)
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
        raise CheckpointError("a zip archive without data.pkl, so not from torch.save", where=path, hint=SAVE_STATE)
    if records.get("byteorder", b"little") != b"little":
        raise CheckpointError("its tensors are not little-endian", where=path, hint=SAVE_STATE)
    limit = _MAX_PICKLE if strict else MAX_PICKLE_OF_TRAINING
    if len(program) > limit:
        found = _not_from_torch(f"data.pkl has {len(program):,} bytes, more than {limit:,}")
        raise ForeignObjectError(found, where=path, hint=SAVE_STATE)
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
            hint=SAVE_STATE,
        ) from error
    except inert_pickle.OpcodeError as error:
        raise ForeignObjectError(_not_from_torch(str(error)), where=path, hint=SAVE_STATE) from error
    # A forged pickle can make the unpickler raise almost any exception.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise CheckpointError(
            f"damaged or forged: {name} cannot be read ({first_line(error)})", where=path, hint=DAMAGED
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
        raise CheckpointError(f"truncated or damaged ({first_line(error)})", where=path, hint=DAMAGED) from error


def _forged(path: Path, found: str) -> NoReturn:
    raise CheckpointError(_not_from_torch(found), where=path, hint=SAVE_STATE)


def _not_from_torch(found: str) -> str:
    return f"not from torch.save: {found}; it was not opened"
