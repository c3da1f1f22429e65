"""The images used at each T for balancing, for testing, and for comparing networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from loihi_convert.arrays import arrays_digest
from loihi_convert.batch.computation import require_unchanged
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.errors import UsageError

LONG: Final = 64
"""The largest T whose cells take all images they can where `Counts.long_images` asks for fewer."""

MOST_RATE_IMAGES: Final = 1_000
"""Test images that firing rates are measured on where `Counts.rate_images` says no number."""

Split = Literal["training", "calibration", "validation", "test"]
"""A split of a data set; ``training`` is all that is not tested, in the order training, validation."""


@dataclass(frozen=True)
class Counts:
    """The number of images for each purpose.

    Parameters
    ----------
    calibration
        Balancing: ``"all"`` (training and validation images, as in the paper), ``"split"`` (the calibration split), or
        a number (first N of the split).
    image_count
        The first N test images; None: all.
    long_images
        The same for T > `LONG`; if set, thresholds for these T are balanced on the calibration split. None: no change.
    long_calibration
        Balancing for T > `LONG`: this many images of the calibration split; None: as described above.
    rate_images
        Firing rates: the first N test images; None: at most `MOST_RATE_IMAGES` of those used at that T.
    """

    calibration: str = "all"
    image_count: int | None = None
    long_images: int | None = None
    long_calibration: int | None = None
    rate_images: int | None = None


@dataclass(frozen=True)
class Selection:
    """The first ``count`` images of a split; ``key`` is the `arrays_digest` of images and labels."""

    data: str
    data_root: Path | None
    split: Split
    count: int
    key: str

    def read(self) -> Dataset:
        """Return the images.

        Raises
        ------
        InputError
            If they differ from those of the key.
        """
        return _read(self)


class PaperImages:
    """The images of a data set for each purpose, with the numbers from `Counts`.

    Parameters
    ----------
    data, data_root
        As in `load_data`.
    counts
        The number of images for each purpose.

    Raises
    ------
    UsageError
        If the data set has fewer images.
    """

    def __init__(self, data: str, data_root: Path | None, counts: Counts) -> None:
        # Workers may run in another folder.
        data_root = None if data_root is None else data_root.absolute()
        self._data, self._data_root, self._counts = data, data_root, counts
        self._found: dict[tuple[Split, int | None], Selection] = {}
        splits = _splits(data, data_root)
        text = counts.calibration
        if text not in ("all", "split") and not (text.isascii() and text.isdecimal()):
            raise UsageError(f"found {text}", where="calibration", expected="must be all, split, or a number of images")
        # None: all training and validation images.
        self._calibration_count = None if text == "all" else len(splits.calibration) if text == "split" else int(text)
        for option, count, of, also in (
            ("calibration", self._calibration_count, splits.calibration, ", split or all"),
            ("image_count", counts.image_count, splits.test, ""),
            ("long_images", counts.long_images, splits.test, ""),
            ("long_calibration", counts.long_calibration, splits.calibration, ""),
            ("rate_images", counts.rate_images, splits.test, ""),
        ):
            if count is not None and not 1 <= count <= len(of):
                expected = f"must be in 1..{len(of):,}{also} ({splits.name})"
                raise UsageError(f"found {count}", where=option, expected=expected)

    def test(self, timesteps: int | None) -> Selection:
        """Return the test images at this T; None: the test images of the CNN."""
        counts = self._counts
        is_fewer = timesteps is not None and timesteps > LONG and counts.long_images is not None
        return self._first("test", counts.long_images if is_fewer else counts.image_count)

    def rates(self, timesteps: int) -> Selection:
        """Return the test images for firing rates at this T."""
        count = self._counts.rate_images
        return self._first("test", min(MOST_RATE_IMAGES, self.test(timesteps).count) if count is None else count)

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Selection:
        """Return the images for balancing a cell at this T."""
        counts = self._counts
        if timesteps > LONG and counts.long_calibration is not None:
            return self._first("calibration", counts.long_calibration)
        if is_subset or (timesteps > LONG and counts.long_images is not None and self._calibration_count is None):
            return self._first("calibration", None)
        return self._first("training" if self._calibration_count is None else "calibration", self._calibration_count)

    def export_calibration(self, timesteps: int) -> Selection:
        """Return the images for exporting a file at this T, from the calibration split only.

        Networks are never compared on the images that they were balanced on.
        """
        counts = self._counts
        is_long = timesteps > LONG and counts.long_calibration is not None
        return self._first("calibration", counts.long_calibration if is_long else self._calibration_count)

    def validation(self, timesteps: int) -> Selection:
        """Return the images for comparing networks at this T."""
        return self._first("validation", self._counts.long_images if timesteps > LONG else None)

    def _first(self, split: Split, count: int | None) -> Selection:
        """Return the first ``count`` images of a split, at most all; None: all. A digest is computed once."""
        if (split, count) not in self._found:
            images = _split(self._data, self._data_root, split)[:count]
            self._found[split, count] = Selection(self._data, self._data_root, split, len(images), _digest(images))
        return self._found[split, count]


@lru_cache(maxsize=8)
def _read(selection: Selection) -> Dataset:
    images = _split(selection.data, selection.data_root, selection.split)[: selection.count]
    require_unchanged(_digest(images), selection.key, f"{selection.data}, {selection.split} images")
    return images


@lru_cache(maxsize=4)
def _splits(data: str, data_root: Path | None) -> DataSplits:
    return load_data(data, data_root)


@lru_cache(maxsize=4)
def _split(data: str, data_root: Path | None, split: Split) -> Dataset:
    splits = _splits(data, data_root)
    if split != "training":
        return {"calibration": splits.calibration, "validation": splits.validation, "test": splits.test}[split]
    both = splits.train, splits.validation
    return Dataset(np.concatenate([one.images for one in both]), np.concatenate([one.known_labels for one in both]))


def _digest(images: Dataset) -> str:
    return arrays_digest((images.images, images.known_labels))
