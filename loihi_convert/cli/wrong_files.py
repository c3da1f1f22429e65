"""Detects a missing file, and one of the wrong pipeline stage by its content, and names the right verb for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loihi_convert.errors import InputError
from loihi_convert.ground.file_kinds import CHECKPOINT_KINDS, is_nir, kind_of
from loihi_convert.ground.files import require_no_pipe, require_there

NETX: Final = ".net"
_NPZ: Final = ".npz"


def require_netx(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a folder, a checkpoint, an ONNX or a NIR file."""
    require_there(path, "Write one with `loihi-convert export model.pt`.")
    if path.is_dir():
        names = sorted(inside.name for inside in path.glob(f"*{NETX}"))
        hint = f"Name one of its files, such as {path / names[0]}." if names else f"Name a {NETX} file."
        raise InputError("is a folder", where=path, hint=hint)
    if path.suffix.lower() == _NPZ:
        raise InputError(
            "holds images", where=path, hint=f"Run a file on them: `loihi-convert run FILE --data {path}`."
        )
    if is_cnn(path):
        found = "is an ONNX file" if kind_of(path) == "onnx" else "is a NIR file" if is_nir(path) else "is a checkpoint"
        # Only a checkpoint may record its images.
        images = "" if found == "is a checkpoint" else " --data IMAGES"
        raise InputError(found, where=path, hint=f"Export it first: `loihi-convert export {path}{images}`.")


def require_cnn(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a pipe, a folder, or a netx file instead of a CNN."""
    require_there(path, "Name the checkpoint of a CNN, or an ONNX file.")
    require_no_pipe(path)
    if path.is_dir():
        raise InputError("is a folder", where=path, hint="Name a checkpoint, or an ONNX file.")
    if path.suffix.lower() == _NPZ:
        raise InputError("holds images", where=path, hint=f"Name a CNN, and these images with `--data {path}`.")
    if is_netx(path):
        raise InputError("is exported already", where=path, hint=f"Run it: `loihi-convert run {path}`.")


def is_cnn(path: Path) -> bool:
    """Whether the file at ``path`` is a checkpoint, an ONNX or a NIR file."""
    return kind_of(path) in (*CHECKPOINT_KINDS, "onnx") or (is_nir(path) and path.is_file())


def is_netx(path: Path) -> bool:
    """Whether the file at ``path`` is HDF5 and has the suffix of a netx file."""
    return path.suffix == NETX and kind_of(path) == "hdf5"
