"""Virtual environments that hold some of the packages that this one holds, without a download."""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path


def interpreter(folder: Path, wanted: Callable[[str], bool]) -> Path:
    """A new virtual environment with those of this one's packages whose file name is ``wanted``; its interpreter."""
    venv.create(folder, symlinks=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if wanted(entry.name):
            (site_packages(folder) / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Where the packages of a virtual environment lie."""
    (found,) = (folder / "lib").glob("python*/site-packages")
    return found
