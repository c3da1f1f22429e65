"""Images with or without labels or targets, and the splits of a data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loihi_convert.data.image_files import StoredImages, is_large
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.choices import Task

HeldOutSplit = Literal["validation", "calibration"]

_SPLIT_SEED: Final = 0
# Few, because images of a large folder are read one by one.
_SAMPLED: Final = 256
# Rounding has an error of 0.29 levels, 14 % of this standard deviation; an accuracy of 91 % begins to fall there.
_FEW_LEVELS: Final = 2.0


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with their labels or targets, if known; the arrays are read-only.

    Parameters
    ----------
    images
        uint8 ``(N, C, H, W)``; `StoredImages` where images are read when they are used.
    labels
        int64 ``(N,)``, indices into `DataSplits.classes`; None if unknown.
    targets
        float64 ``(N, outputs)``: the target values of a regression; None if there are none.
    paths
        The file of each image, relative to the folder of the data; None if images are not files of their own.
    are_rounded
        Whether they were floats between the levels of 8-bit pixels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    targets: NDArray[np.float64] | None = None
    paths: tuple[str, ...] | None = None
    are_rounded: bool = False

    def __post_init__(self) -> None:
        count = len(self.images)
        expected: dict[str, tuple[type[np.generic], int, str]] = {
            "images": (np.uint8, 4, "(N, C, H, W)"),
            "labels": (np.int64, 1, f"({count},), one per image"),
            "targets": (np.float64, 2, f"({count}, outputs)"),
        }
        for name, (dtype, axes, shape) in expected.items():
            array = getattr(self, name)
            if array is None:
                continue
            if array.dtype != dtype or array.ndim != axes or len(array) != count:
                found = f"found {dtype_and_shape(array)}"
                raise DataError(found, where=name, expected=f"must be {np.dtype(dtype)} {shape}")
            object.__setattr__(self, name, _read_only(array))
        if self.labels is not None and self.targets is not None:
            raise DataError("found labels as well", where="targets", expected="must be given without labels")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        known = "labels" if self.labels is not None else "targets" if self.targets is not None else "no labels"
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"Dataset({len(self):,} images {shape}, {known})"

    def __getitem__(self, index: slice | NDArray[np.intp]) -> Dataset:
        """Return a subset, with all that belongs to it, for a slice (``test[:1000]``) or an array of indices."""
        return Dataset(
            self.images[index],
            None if self.labels is None else self.labels[index],
            None if self.targets is None else self.targets[index],
            None if self.paths is None else tuple(self.paths[one] for one in np.arange(len(self))[index]),
            self.are_rounded,
        )

    @property
    def known_labels(self) -> NDArray[np.int64]:
        """The labels, int64 ``(N,)``; raises a `DataError` if unknown."""
        if self.labels is None:
            hint = "Use class folders, or the array `labels` of an .npz file."
            raise DataError("found images without labels", where="labels", hint=hint)
        return self.labels

    @cached_property
    def mixed(self) -> Dataset:
        """The same images in an order in which the first N show all classes, see `mixing`."""
        order = mixing(self.labels, len(self))
        return self if order is None else self[order]

    def require_fit(self, task: Task, outputs: int, where: str | Path) -> None:
        """Raise a `DataError` if labels or targets of the images at ``where`` do not fit a network of ``task``."""
        kind, other = ("labels", "targets") if task == "classification" else ("targets", "labels")
        if getattr(self, other) is not None:
            expected = f"must contain {kind}, or neither labels nor targets, for a {task} (`task`)"
            raise DataError(f"found {other}", where=where, expected=expected)
        if self.targets is not None and self.targets.shape[1] != outputs:
            expected = f"must be {(len(self), outputs)}, one per image and output of the network"
            raise DataError(f"found targets {self.targets.shape}", where=where, expected=expected)

    @cached_property
    def rounding_note(self) -> str:
        """A note if rounding to 8 bits changes the images much, because a channel spreads over few levels; else empty.

        Images in which the channel is constant do not count, unless all are.
        """
        if not self.are_rounded or not len(self):
            return ""
        some = [*self.images[:: -(-len(self) // _SAMPLED)]]
        spreads, means = (np.array([measure(image, (1, 2)) for image in some]).T for measure in (np.std, np.mean))
        found = min((np.median(spread[spread > 0]) for spread in spreads if spread.any()), default=means.std())
        if found >= _FEW_LEVELS:
            return ""
        return (
            f"floats are rounded to 8 bits, and these images use few of the 256 levels (standard deviation {found:.2g} "
            "levels), so the rounding may lower the CNN's accuracy: clip outliers, and stretch the rest to 0..1, mean "
            "and std (0 and 1 if there are none) with it"
        )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the images in their order: of all, or, if they are large, of `_SAMPLED`, evenly spaced."""
        channels, height, width = self.images.shape[1:]
        apart = -(-len(self) // _SAMPLED) if is_large(len(self), (channels, height, width)) else 1
        found = hashlib.blake2b(repr(self.images.shape).encode(), digest_size=16)
        found.update(np.asarray(self.images[::apart]).tobytes())
        return found.hexdigest()

    @cached_property
    def digests(self) -> frozenset[bytes]:
        """A digest of each image, in any order."""
        return frozenset(map(_digest, self.images))

    def count_among(self, digests: frozenset[bytes]) -> int:
        """Return how many of the images are among those with these ``digests``, pixel by pixel."""
        return sum(_digest(image) in digests for image in self.images)


class HeldOut(NamedTuple):
    """Images that may be used to choose a setting of a run, as they are not part of it, and their split."""

    split: HeldOutSplit
    images: Dataset


@dataclass(frozen=True, eq=False, repr=False)
class DataSplits:
    """A data set, split by use.

    ``train`` trains a CNN, ``calibration`` sets thresholds, ``test`` measures accuracy, and ``validation`` is for
    choices made before: an early-exit margin, the advice of `diagnose`.

    In a benchmark set, ``train``, ``validation`` and ``test`` are disjoint, and ``calibration`` is part of ``train``. A
    user's own images are not split: ``validation`` is empty, and ``calibration`` and ``test`` are all images, unless
    separate calibration images are given.

    Parameters
    ----------
    name
        The name of the data set, file or folder.
    classes
        The name of each class, or of each output of a regression; empty if unknown.
    notes
        Notes for the user on how the images were read.
    """

    name: str
    classes: tuple[str, ...]
    train: Dataset
    validation: Dataset
    calibration: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {len(getattr(self, name)):,}" for name in ("train", "validation", "calibration", "test")
        )
        return f"DataSplits({self.name}: {parts} images)"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        """A digest of the test images and their labels or targets."""
        known = self.test.labels if self.test.targets is None else self.test.targets
        answers = b"" if known is None else np.ascontiguousarray(known).tobytes()
        return hashlib.blake2b(self.test.fingerprint.encode() + answers, digest_size=16).hexdigest()

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The validation images, or else the calibration images that differ from all test images; None if there are
        none."""
        if len(self.validation):
            return HeldOut("validation", self.validation)
        if self.calibration is self.test:
            return None
        test = self.test.digests
        others = [index for index, image in enumerate(self.calibration.images) if _digest(image) not in test]
        return HeldOut("calibration", self.calibration[np.array(others)]) if others else None

    def calibration_images(self, choice: str | int = "split") -> NDArray[np.uint8]:
        """Return the images to balance thresholds on, uint8 ``(N, C, H, W)``; the first of them show all classes.

        ``choice`` is ``"split"``: the calibration split; ``"all"``: all images that are neither validation nor test
        images; or a whole number N: the first N images of the split.
        """
        choice = str(choice)
        if choice == "all":
            return self.train.mixed.images
        if choice == "split":
            return self.calibration.mixed.images
        most = len(self.calibration)
        if not (choice.isascii() and choice.isdecimal() and 1 <= int(choice) <= most):
            expected = f"must be split, all, or a number of images, 1..{most}"
            raise UsageError(f"found {choice!r}", where="calibration", expected=expected)
        return self.calibration.mixed.images[: int(choice)]


def split_for_training(own: DataSplits, validation: Dataset | None = None) -> DataSplits:
    """Return a user's ``own`` images as training and validation images; there are no test images.

    ``validation`` is by default a tenth of the images, with the class shares of the whole. Training images in the order
    of their classes are mixed: the first of them set initial thresholds.
    """
    everything = own.test
    if validation is None:
        count = len(everything) // 10
        if count < 1:
            expected = "must be at least 10, of which a tenth is held out for validation"
            raise DataError(f"found {len(everything)} images", where=own.name, expected=expected)
        validation, everything = split(everything, count)
    everything = everything.mixed
    return replace(own, train=everything, validation=validation, calibration=everything, test=everything[:0])


def split(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Return the images of `sample`, and the rest, both in their old order."""
    is_chosen = _sampled(dataset.known_labels, count)
    return dataset[np.flatnonzero(is_chosen)], dataset[np.flatnonzero(~is_chosen)]


def sample(dataset: Dataset, count: int) -> Dataset:
    """Return ``count`` random images with the class shares of the whole, in their old order."""
    return dataset[np.flatnonzero(_sampled(dataset.known_labels, count))]


def _sampled(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Whether an image with each of ``labels`` is in the sample.

    Each class gets its share rounded down; the remaining images go to the largest remainders (lower class first). NumPy
    guarantees that the stream of `RandomState` never changes, so the images are the same in every version.
    """
    random = np.random.RandomState(_SPLIT_SEED)
    present, counts = np.unique(labels, return_counts=True)
    share = counts * count / len(labels)
    quota = np.floor(share).astype(np.intp)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(labels), np.bool_)
    for label, wanted in zip(present, quota, strict=True):
        chosen[random.permutation(np.flatnonzero(labels == label))[:wanted]] = True
    return chosen


def dtype_and_shape(array: NDArray[np.generic]) -> str:
    """Return dtype and shape for messages: ``uint8 (10, 28, 28)``."""
    return f"{array.dtype} {array.shape}"


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if isinstance(array, StoredImages):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def in_turns(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return an order of images in which the first N, for any N, show each class about as often as all of them do."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels))
    place[by_class] = (np.arange(len(labels)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    return np.asarray(np.lexsort((labels, place)))


def mixing(labels: NDArray[np.int64] | None, count: int) -> NDArray[np.intp] | None:
    """Return an order of ``count`` images in which the first N show all classes; None if they may stay as they are."""
    if labels is None:
        # They may be in the order of their classes, too.
        return np.random.default_rng(0).permutation(count)
    return in_turns(labels) if is_in_class_order(labels) else None


def is_in_class_order(labels: NDArray[np.int64]) -> bool:
    """Whether each class comes as a whole before the next one, as if read from one folder after the other."""
    changes = np.count_nonzero(np.diff(labels))
    return bool(0 < changes == len(np.unique(labels)) - 1 < len(labels) - 1)
