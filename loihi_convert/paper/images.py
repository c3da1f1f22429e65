"""The images of a data set for each purpose and T."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from loihi_convert.batch.computation import require_unchanged
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import arrays_digest
from loihi_convert.paper.variants import PaperOptions

LONG: Final = 64
"""The largest T whose cells take all images they can where `PaperOptions.long_images` asks for fewer."""

MOST_RATE_IMAGES: Final = 1_000
"""Test images that firing rates are measured on where `PaperOptions.rate_images` says no number."""

Split = Literal["training", "calibration", "validation", "test"]
"""A split of a data set; ``training`` is all that is not tested, in the order training, validation."""


@dataclass(frozen=True)
class Selection:
    """The first ``count`` images of a split; ``key`` is the `arrays_digest` of images and labels."""

    data: str
    data_root: Path | None
    split: Split
    count: int
    key: str

    def read(self) -> Dataset:
        """Return the images; raise an `InputError` if they differ from those of the key."""
        images, key = _first(self.data, self.data_root, self.split, self.count)
        require_unchanged(key, self.key, f"{self.data}, {self.split} images")
        return images


class PaperImages:
    """The images of a data set for each purpose, as many as ``options`` say.

    Balancing takes training and validation images, as in the paper, unless `PaperOptions.calibration` says ``split``,
    the calibration split, or a number, its first images. For T > `LONG` it takes the split if there is a number of
    long images, and so many of it as `PaperOptions.long_calibration` says.

    Raises
    ------
    UsageError
        If the data set has fewer images.
    """

    def __init__(self, data: str, options: PaperOptions) -> None:
        # Workers may run in another folder.
        data_root = None if options.data_root is None else options.data_root.absolute()
        self._data, self._data_root, self._options = data, data_root, options
        splits, text = _splits(data, data_root), options.calibration
        if text not in ("all", "split") and not (text.isascii() and text.isdecimal()):
            raise UsageError(f"found {text}", where="calibration", expected="must be all, split, or a number of images")
        # None: all training and validation images.
        self._calibration_count = None if text == "all" else len(splits.calibration) if text == "split" else int(text)
        for option, count, of in (
            ("calibration", self._calibration_count, splits.calibration),
            ("image_count", options.image_count, splits.test),
            ("long_images", options.long_images, splits.test),
            ("long_calibration", options.long_calibration, splits.calibration),
            ("rate_images", options.rate_images, splits.test),
        ):
            if count is not None and not 1 <= count <= len(of):
                also = ", split or all" if option == "calibration" else ""
                expected = f"must be in 1..{len(of):,}{also} ({splits.name})"
                raise UsageError(f"found {count}", where=option, expected=expected)

    def test(self, timesteps: int | None) -> Selection:
        """Return the test images at this T; None: the test images of the CNN."""
        long_images = self._options.long_images if timesteps is not None and timesteps > LONG else None
        return self._selected("test", long_images or self._options.image_count)

    def rates(self, timesteps: int) -> Selection:
        """Return the test images for firing rates at this T."""
        return self._selected("test", self._options.rate_images or min(MOST_RATE_IMAGES, self.test(timesteps).count))

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Selection:
        """Return the images for balancing a cell at this T."""
        options, count, is_long = self._options, self._calibration_count, timesteps > LONG
        if is_long and options.long_calibration is not None:
            return self._selected("calibration", options.long_calibration)
        if is_subset or (is_long and options.long_images is not None and count is None):
            return self._selected("calibration", None)
        return self._selected("training" if count is None else "calibration", count)

    def export_calibration(self, timesteps: int) -> Selection:
        """Return the images for exporting a file at this T: never those on which networks are compared."""
        count = self._options.long_calibration if timesteps > LONG else None
        return self._selected("calibration", count or self._calibration_count)

    def validation(self, timesteps: int) -> Selection:
        """Return the images for comparing networks at this T."""
        return self._selected("validation", self._options.long_images if timesteps > LONG else None)

    def _selected(self, split: Split, count: int | None) -> Selection:
        """Return the first ``count`` images of a split, at most all; None: all."""
        images, key = _first(self._data, self._data_root, split, count)
        return Selection(self._data, self._data_root, split, len(images), key)


@lru_cache(maxsize=8)
def _first(data: str, data_root: Path | None, split: Split, count: int | None) -> tuple[Dataset, str]:
    splits = _splits(data, data_root)
    if split == "training":
        both = splits.train, splits.validation
        whole = Dataset(
            np.concatenate([one.images for one in both]), np.concatenate([one.known_labels for one in both])
        )
    else:
        whole = getattr(splits, split)
    images = whole[:count]
    return images, arrays_digest((images.images, images.known_labels))


@lru_cache(maxsize=4)
def _splits(data: str, data_root: Path | None) -> DataSplits:
    return load_data(data, data_root)
