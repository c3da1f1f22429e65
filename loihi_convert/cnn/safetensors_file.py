"""``.safetensors``: tensors and text, no code; this package adds the SHA-256 of its metadata and of all tensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from loihi_convert.cnn.torch_zip import DAMAGED, read_bytes
from loihi_convert.errors import CheckpointError, first_line

_MAX_HEADER: Final = 16_000_000


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
            hint=DAMAGED,
        )
    try:
        state = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + header_length]).get("__metadata__") or {}
        text = metadata.get("loihi_convert", "null")
        description = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        found = f"damaged, or not a safetensors file ({first_line(error)})"
        raise CheckpointError(found, where=path, hint=DAMAGED) from error
    if not isinstance(description, dict):
        return state
    if metadata.get("sha256") != digest(state, text):
        raise CheckpointError("damaged: the content does not match its SHA-256", where=path, hint=DAMAGED)
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
