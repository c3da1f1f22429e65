"""The file of another stage in place of the one that a verb takes: what it is, and the verb that takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loihi_convert.errors import InputError

CHECKPOINTS: Final = (".pt", ".safetensors")
NETX: Final = ".net"

_OTHER_CHECKPOINTS: Final = (".pth", ".pth.tar", ".ckpt", ".bin")
"""What other programs call files of torch.save."""


def require_netx(path: Path) -> None:
    """Raise an `InputError` if ``path`` is a folder or, by its name, a checkpoint."""
    if path.is_dir():
        names = sorted(inside.name for inside in path.glob(f"*{NETX}"))
        hint = f"Name one of its files, such as {path / names[0]}." if names else f"Name a {NETX} file."
        raise InputError("is a folder", where=path, hint=hint)
    if path.suffix in CHECKPOINTS or path.name.endswith(_OTHER_CHECKPOINTS):
        raise InputError("is a checkpoint", where=path, hint=f"Export it first: `loihi-convert export {path}`.")


def require_known_suffix(path: Path) -> None:
    """Raise an `InputError` if ``path`` is a folder, or has a name that other programs give to checkpoints."""
    if path.suffix != NETX:
        require_checkpoint(path)


def require_checkpoint(path: Path) -> None:
    """Raise an `InputError` if ``path`` is a folder or, by its name, something else than a checkpoint."""
    if path.is_dir():
        raise InputError("is a folder", where=path, hint="Name a checkpoint: a .pt or .safetensors file.")
    if path.suffix == NETX:
        raise InputError("is exported already", where=path, hint=f"Run it: `loihi-convert run {path}`.")
    if path.name.endswith(_OTHER_CHECKPOINTS):
        stem = path.name.removesuffix(".tar").rpartition(".")[0]
        raise InputError(
            f"found the suffix {path.suffix}",
            where=path,
            expected=f"must be one of {', '.join(CHECKPOINTS)}",
            hint=f"Rename a file of torch.save to {path.with_name(f'{stem}.pt')}.",
        )
