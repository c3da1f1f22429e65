"""Virtual environments with a subset of this environment's packages, created without downloads."""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path


def interpreter(folder: Path, wanted: Callable[[str], bool]) -> Path:
    """Create a virtual environment with this one's packages whose file name is ``wanted``; return its interpreter."""
    venv.create(folder, symlinks=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if wanted(entry.name):
            (site_packages(folder) / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Return the folder of a virtual environment's packages."""
    (found,) = (folder / "lib").glob("python*/site-packages")
    return found
