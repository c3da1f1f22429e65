"""The images used at each T for balancing, for testing, and for comparing networks."""

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
from loihi_convert.paper.options import PaperOptions

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
        return _read(self)


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
        self._found: dict[tuple[Split, int | None], Selection] = {}
        splits, text = _splits(data, data_root), options.calibration
        if text not in ("all", "split") and not (text.isascii() and text.isdecimal()):
            raise UsageError(f"found {text}", where="calibration", expected="must be all, split, or a number of images")
        # None: all training and validation images.
        self._calibration_count = None if text == "all" else len(splits.calibration) if text == "split" else int(text)
        for option, of, also in (
            ("calibration", splits.calibration, ", split or all"),
            ("image_count", splits.test, ""),
            ("long_images", splits.test, ""),
            ("long_calibration", splits.calibration, ""),
            ("rate_images", splits.test, ""),
        ):
            count = self._calibration_count if option == "calibration" else getattr(options, option)
            if count is not None and not 1 <= count <= len(of):
                expected = f"must be in 1..{len(of):,}{also} ({splits.name})"
                raise UsageError(f"found {count}", where=option, expected=expected)

    def test(self, timesteps: int | None) -> Selection:
        """Return the test images at this T; None: the test images of the CNN."""
        long_images = self._options.long_images if timesteps is not None and timesteps > LONG else None
        return self._first("test", long_images or self._options.image_count)

    def rates(self, timesteps: int) -> Selection:
        """Return the test images for firing rates at this T."""
        return self._first("test", self._options.rate_images or min(MOST_RATE_IMAGES, self.test(timesteps).count))

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Selection:
        """Return the images for balancing a cell at this T."""
        options, is_long = self._options, timesteps > LONG
        if is_long and options.long_calibration is not None:
            return self._first("calibration", options.long_calibration)
        if is_subset or (is_long and options.long_images is not None and self._calibration_count is None):
            return self._first("calibration", None)
        return self._first("training" if self._calibration_count is None else "calibration", self._calibration_count)

    def export_calibration(self, timesteps: int) -> Selection:
        """Return the images for exporting a file at this T, from the calibration split only.

        Networks are never compared on the images that they were balanced on.
        """
        count = self._options.long_calibration if timesteps > LONG else None
        return self._first("calibration", count or self._calibration_count)

    def validation(self, timesteps: int) -> Selection:
        """Return the images for comparing networks at this T."""
        return self._first("validation", self._options.long_images if timesteps > LONG else None)

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
