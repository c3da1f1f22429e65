"""Data sets as uint8 arrays, split into train, validation, calibration and test images.

===========  ============  =======  ==========  ===========  ======  =======================================
name         input (CHW)   train    validation  calibration  test    where from
===========  ============  =======  ==========  ===========  ======  =======================================
``digits``   1 x 8 x 8     1,197    200         1,197        400     comes with scikit-learn
``mnist``    1 x 28 x 28   55,000   5,000       10,000       10,000  four idx files, ``tools/fetch_data.py``
===========  ============  =======  ==========  ===========  ======  =======================================

Validation images are never trained or calibrated on; calibration images are drawn from the training images. The splits
are stratified by class and the same for everybody: they do not depend on the seed of a training run.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loihi_convert.errors import DataError, UsageError

DATASETS: Final[tuple[str, ...]] = ("digits", "mnist")
CALIBRATIONS: Final[tuple[str, ...]] = ("split", "all")

MNIST_SHA256: Final[dict[str, str]] = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Name and SHA-256 of each uncompressed MNIST file."""

# Where MNIST may lie below a data root: our folder, torchvision's, torchvision's inside ours, the root itself.
_MNIST_FOLDERS: Final = ("mnist", "MNIST/raw", "mnist/MNIST/raw", ".")
_FETCH_AGAIN: Final = "Delete it and fetch it again with: python tools/fetch_data.py mnist"
_TEN_DIGITS: Final = tuple("0123456789")
_SPLIT_SEED: Final = 0
_DIGITS_MAX: Final = 16


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with their labels; the arrays are read-only.

    Parameters
    ----------
    images
        uint8 ``(N, C, H, W)``.
    labels
        int64 ``(N,)``, indices into `DataSplits.classes`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"images: found {_described(self.images)}; they must be uint8 (N, C, H, W).")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels: found {_described(self.labels)}; they must be int64 ({len(self.images)},), one per image."
            )
        for name in ("images", "labels"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NDArray[np.intp]) -> Dataset:
        """Return the images and labels that a slice (``test[:1000]``) or an array of indices picks."""
        return Dataset(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set, split: ``train``, ``validation`` and ``test`` are disjoint, ``calibration`` is part of ``train``."""

    name: str
    classes: tuple[str, ...]
    train: Dataset
    validation: Dataset
    calibration: Dataset
    test: Dataset

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    def calibration_images(self, choice: str = "split") -> NDArray[np.uint8]:
        """Return the images to balance thresholds on, uint8 ``(N, C, H, W)``.

        Parameters
        ----------
        choice
            ``"split"``: the calibration split. ``"all"``: every image that is neither validation nor test.

        Raises
        ------
        UsageError
            For any other choice.
        """
        if choice not in CALIBRATIONS:
            raise UsageError(f"calibration: {choice!r} is no choice; choose one of {', '.join(CALIBRATIONS)}.")
        return self.train.images if choice == "all" else self.calibration.images


def load_data(name: str, root: Path | None = None) -> DataSplits:
    """Return the data set ``name``, split.

    Parameters
    ----------
    name
        One of `DATASETS`.
    root
        The folder that holds the data sets; by default `default_root`. ``digits`` needs none.

    Raises
    ------
    UsageError
        If there is no data set of that name.
    DataError
        If a file is missing or damaged.
    """
    if name == "digits":
        return _load_digits()
    if name == "mnist":
        return _load_mnist(default_root() if root is None else root)
    raise UsageError(f"data: {name!r} is no data set; choose one of {', '.join(DATASETS)}.")


def default_root() -> Path:
    """Return the folder where data sets lie: ``$LOIHI_CONVERT_DATA``, else ``~/.cache/loihi-convert``."""
    return Path(os.environ.get("LOIHI_CONVERT_DATA") or Path.home() / ".cache" / "loihi-convert")


def read_mnist_file(root: Path, name: str) -> bytes:
    """Return the uncompressed content of one MNIST file, found in any of its usual places and spellings below ``root``.

    Parameters
    ----------
    root
        May hold ``mnist/<file>``, torchvision's ``MNIST/raw/<file>``, or the file itself; ``<file>`` may be spelled
        with a dot (``train-images.idx3-ubyte``) and may be gzipped (``.gz``).
    name
        A key of `MNIST_SHA256`.

    Raises
    ------
    DataError
        If no such file exists, or the one found does not have the SHA-256 in `MNIST_SHA256`.
    """
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = [
        root / folder / f"{spelling}{suffix}"
        for folder in _MNIST_FOLDERS
        for spelling in spellings
        for suffix in ("", ".gz")
    ]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(
            f"{root}: holds no MNIST file {name} (looked in mnist/, MNIST/raw/ and mnist/MNIST/raw/, also for .gz). "
            f"Fetch it with: python tools/fetch_data.py mnist --data-root {root}"
        )
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). {_FETCH_AGAIN}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != MNIST_SHA256[name]:
        raise DataError(
            f"{path}: damaged, or another data set: its SHA-256 is {found}, MNIST's is {MNIST_SHA256[name]}. "
            f"{_FETCH_AGAIN}"
        )
    return content


def _load_digits() -> DataSplits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / _DIGITS_MAX)).astype(np.uint8)[:, np.newaxis]
    everything = Dataset(images, bunch.target.astype(np.int64))
    test, rest = _split(everything, 400)
    validation, train = _split(rest, 200)
    return DataSplits("digits", _TEN_DIGITS, train, validation, calibration=train, test=test)


def _load_mnist(root: Path) -> DataSplits:
    def dataset(part: str) -> Dataset:
        images = _parse_idx(read_mnist_file(root, f"{part}-images-idx3-ubyte"))
        labels = _parse_idx(read_mnist_file(root, f"{part}-labels-idx1-ubyte"))
        return Dataset(images[:, np.newaxis], labels.astype(np.int64))

    validation, train = _split(dataset("train"), 5_000)
    calibration, _ = _split(train, 10_000)
    return DataSplits("mnist", _TEN_DIGITS, train, validation, calibration, dataset("t10k"))


def _parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Return the array in an idx file: bytes 0, 0, 8 (uint8), the number of axes, big-endian lengths, the values."""
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _split(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Return ``count`` random images with the class shares of the whole, and the others, both in their old order.

    Each class gets its share rounded down; the images still missing go to the largest remainders (lower class first).
    NumPy promises that the stream of `RandomState` never changes, so the split is the same on every version.
    """
    random = np.random.RandomState(_SPLIT_SEED)
    share = np.bincount(dataset.labels) * count / len(dataset)
    quota = np.floor(share).astype(np.intp)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(dataset), np.bool_)
    for label, wanted in enumerate(quota):
        chosen[random.permutation(np.flatnonzero(dataset.labels == label))[:wanted]] = True
    return dataset[np.flatnonzero(chosen)], dataset[np.flatnonzero(~chosen)]


def _described(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"
