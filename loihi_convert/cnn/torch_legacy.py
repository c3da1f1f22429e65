"""Torch's format before 1.6: consecutive pickles, then the tensors. Nothing in a file is executed.

====================  ===============================================================================
pickles               a magic number, the version 1001, the machine that wrote it, the content, the keys of its storages
then, for each key    the number of elements, int64, and the elements, little-endian
====================  ===============================================================================

``torch.save(..., _use_new_zipfile_serialization=False)`` writes it today. The pickles are read by `inert_pickle`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from loihi_convert.cnn import inert_pickle
from loihi_convert.cnn.torch_zip import MAX_PICKLE_OF_TRAINING, SAVE_STATE, read_bytes, unpickling
from loihi_convert.errors import CheckpointError

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001
_COUNT: Final = 8


def read_legacy(path: Path) -> object:
    """Return the same as `torch_zip.read_pt`, not strict, for a file in torch's format before 1.6.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or malicious, or a pickle not written by torch.
    """
    stream = io.BytesIO(read_bytes(path))
    with unpickling(path, "its first pickle"):
        magic = _next(stream)
    if magic != _MAGIC:
        raise CheckpointError("a pickle, but not from torch.save; it was not opened", where=path, hint=SAVE_STATE)
    with unpickling(path, "its pickle"):
        version, machine, content, keys = (_next(stream) for _ in range(4))
        if version != _VERSION or not isinstance(machine, dict) or not machine.get("little_endian", False):
            raise ValueError(f"of version {version}, or not little-endian")
        return inert_pickle.built(content, _storages(stream, content, keys), strict=False)


def _next(stream: io.BytesIO) -> object:
    """The value of the next pickle, with tensors not yet built."""
    program = inert_pickle.read_program(stream, strict=False, limit=MAX_PICKLE_OF_TRAINING)
    return inert_pickle.load(program, strict=False)


def _storages(stream: io.BytesIO, content: object, keys: object) -> dict[str, bytes]:
    """The bytes of the storages after the pickles, by the names of `inert_pickle.built`."""
    sizes = inert_pickle.item_sizes(content)
    records: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        count = int.from_bytes(stream.read(_COUNT), "little", signed=True)
        if key not in sizes:
            raise ValueError(f"storage {key!r} of an unknown type")
        if count < 0 or count * sizes[key] > stream.getbuffer().nbytes - stream.tell():
            raise ValueError(f"storage {key!r} of {count} elements, more than the file holds")
        records[f"data/{key}"] = stream.read(count * sizes[key])
    return records
