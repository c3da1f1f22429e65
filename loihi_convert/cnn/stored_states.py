"""The state dicts in a file of other origin, wherever in it they stand; nothing in the file can run.

===================================  ==================================================================================
file, by its first bytes             written by
===================================  ==================================================================================
a zip archive with ``data.pkl``      ``torch.save`` since torch 1.6: .pt, .pth, .ckpt, .bin, .pth.tar, ...
a row of pickles                     ``torch.save`` before
a JSON header with its length        safetensors
===================================  ==================================================================================

What else such a file holds (optimizer, hyperparameters, callbacks) is not looked at.
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
"""Where people put the state dict, the likeliest first; other keys come after these."""

_DEEPEST: Final = 3

_OTHER_KINDS: Final[Mapping[FileKind, tuple[str, str]]] = {
    "onnx": ("an ONNX file, not a checkpoint", ""),
    "hdf5": (
        "an HDF5 file: of netx or Keras, not of PyTorch",
        "Name the PyTorch checkpoint; a Keras model has to be written as ONNX first.",
    ),
    "gzip": ("compressed by gzip", "Decompress it first: gunzip, or tar -xzf."),
    "tar": ("a tar archive", "Unpack it first: tar -xf."),
    "git-lfs": ("a Git LFS pointer, which stands for the file", "Fetch the file itself: git lfs pull."),
    "html": ("a web page", "Download the file itself, not the page that links to it."),
    "text": ("a text file", SAVE_STATE),
    "empty": ("empty", "Copy or download it again."),
    "unknown": ("neither a zip nor a pickle nor safetensors", SAVE_STATE),
}


def read_file(path: Path, *, strict: bool) -> object:
    """Return what is in a checkpoint of any of the formats above; ``strict`` as in `torch_zip.read_pt`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, hostile, or of another kind.
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
    """Return every state dict in ``content``, the likeliest first, by the keys that lead to it: ``model.ema``."""
    found = sorted(_states(content, "", 0), key=lambda state: (state[1], state[2]))
    return {key: state for key, _, _, state in found}


def _states(content: object, key: str, depth: int) -> Iterator[tuple[str, int, int, dict[str, Tensor]]]:
    """Key, depth and rank of each."""
    if not isinstance(content, dict) or depth > _DEEPEST:
        return
    last = key.rpartition(".")[2]
    rank = _USUAL_KEYS.index(last) if last in _USUAL_KEYS else len(_USUAL_KEYS)
    # Modules may put values of their own into a state dict, under this name; no CNN has them.
    tensors: dict[Any, Any] = {name: item for name, item in content.items() if not str(name).endswith("_extra_state")}
    if tensors and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in tensors.items()):
        yield key, depth, rank, tensors
        return
    for name, item in content.items():
        yield from _states(item, f"{key}.{name}" if key else str(name), depth + 1)


def described(content: object) -> str:
    """Return what a file holds, for a message."""
    if isinstance(content, dict):
        return f"a dict of {', '.join(map(str, content))}" if content else "an empty dict"
    if isinstance(content, Skipped):
        return f"an object of {content.kind}, which is not a module with weights; it was not opened"
    return f"a {type(content).__name__}"
