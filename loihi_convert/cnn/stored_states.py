"""The state dicts in a file from another tool, at any place in it; nothing in the file is executed.

===================================  ==================================================================================
file, by its first bytes             written by
===================================  ==================================================================================
a zip archive with ``data.pkl``      ``torch.save`` since torch 1.6: .pt, .pth, .ckpt, .bin, .pth.tar, ...
consecutive pickles                  ``torch.save`` before 1.6
a JSON header with its length        safetensors
===================================  ==================================================================================

Other content (optimizer, hyperparameters, callbacks) is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from loihi_convert.cnn.inert_pickle import Skipped
from loihi_convert.cnn.safetensors_file import read_safetensors
from loihi_convert.cnn.torch_legacy import read_legacy
from loihi_convert.cnn.torch_zip import SAVE_STATE, read_pt
from loihi_convert.errors import CheckpointError
from loihi_convert.file_kinds import FileKind, kind_of

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
    "gzip": ("compressed with gzip", "Decompress it first: gunzip, or tar -xzf."),
    "tar": ("a tar archive", "Unpack it first: tar -xf."),
    "git-lfs": ("a Git LFS pointer, not the file", "Fetch the file itself: git lfs pull."),
    "html": ("a web page", "Download the file itself, not the page that links to it."),
    "text": ("a text file", SAVE_STATE),
    "empty": ("empty", "Copy or download it again."),
    "unknown": ("not a zip, pickle or safetensors file", SAVE_STATE),
}


def read_file(path: Path, *, strict: bool) -> object:
    """Return the content of a checkpoint in any of the formats above; ``strict`` is as in `torch_zip.read_pt`.

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
    if kind == "pickle":
        return read_legacy(path)
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
