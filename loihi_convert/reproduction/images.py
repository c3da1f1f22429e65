"""The images used at each T for balancing, for testing, and for comparing networks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import UsageError

LONG: Final = 64
"""The largest T whose cells take all images they can where `Counts.long_images` asks for fewer."""

MOST_RATE_IMAGES: Final = 1_000
"""Test images that firing rates are measured on where `Counts.rate_images` says no number."""


@dataclass(frozen=True)
class Counts:
    """The number of images for each purpose.

    Parameters
    ----------
    calibration
        Balancing: this many images of the calibration split; None: all training and validation images, as in the paper.
    images
        The first N test images; None: all.
    long_images
        The same for T > `LONG`; if set, thresholds for these T are balanced on the calibration split. None: no change.
    long_calibration
        Balancing for T > `LONG`: this many images of the calibration split; None: as described above.
    rate_images
        Firing rates: the first N test images; None: at most `MOST_RATE_IMAGES` of those used at that T.
    """

    calibration: int | None = None
    images: int | None = None
    long_images: int | None = None
    long_calibration: int | None = None
    rate_images: int | None = None


class Images:
    """The images of a data set for each purpose, with the numbers from `Counts`.

    Parameters
    ----------
    splits
        The data set.
    counts
        The number of images for each purpose.

    Raises
    ------
    UsageError
        If the data set has fewer images.
    """

    def __init__(self, splits: DataSplits, counts: Counts) -> None:
        for option, count, most in (
            ("calibration", counts.calibration, len(splits.calibration)),
            ("image_count", counts.images, len(splits.test)),
            ("long_images", counts.long_images, len(splits.test)),
            ("long_calibration", counts.long_calibration, len(splits.calibration)),
            ("rate_images", counts.rate_images, len(splits.test)),
        ):
            if count is not None and not 1 <= count <= most:
                also = ", split or all" if option == "calibration" else ""
                raise UsageError(
                    f"found {count}", where=option, expected=f"must be in 1..{most:,}{also} ({splits.name})"
                )
        self._counts, self._splits = counts, splits
        # Networks are never compared on the images that they were balanced on.
        self._some_calibration = splits.calibration.images[: counts.calibration]
        self._calibration = (
            np.concatenate([splits.train.images, splits.validation.images])
            if counts.calibration is None
            else self._some_calibration
        )
        self._long_calibration = splits.calibration.images[: counts.long_calibration]
        self._test = splits.test[: counts.images]
        self._long_test = self._test if counts.long_images is None else self._test[: counts.long_images]
        self._long_validation = splits.validation[: counts.long_images]
        self._digests: dict[int, str] = {}

    def test(self, timesteps: int | None) -> Dataset:
        """Return the test images at this T; None: the test images of the CNN."""
        return self._long_test if timesteps is not None and timesteps > LONG else self._test

    def rates(self, timesteps: int) -> Dataset:
        """Return the test images for firing rates at this T."""
        if self._counts.rate_images is None:
            return self.test(timesteps)[:MOST_RATE_IMAGES]
        return self._splits.test[: self._counts.rate_images]

    def calibration(self, timesteps: int, *, is_subset: bool = False) -> Array:
        """Return the images for balancing a cell at this T."""
        counts = self._counts
        if timesteps > LONG and counts.long_calibration is not None:
            return self._long_calibration
        if is_subset or (timesteps > LONG and counts.long_images is not None and counts.calibration is None):
            return self._splits.calibration.images
        return self._calibration

    def export_calibration(self, timesteps: int) -> Array:
        """Return the images for exporting a file at this T, from the calibration split only."""
        is_long = timesteps > LONG and self._counts.long_calibration is not None
        return self._long_calibration if is_long else self._some_calibration

    def validation(self, timesteps: int) -> Dataset:
        """Return the images for comparing networks at this T."""
        return self._long_validation if timesteps > LONG else self._splits.validation

    def digest(self, images: Array | Dataset) -> str:
        """Return the `images_digest` of a set from the other methods; it is computed once."""
        if id(images) not in self._digests:
            self._digests[id(images)] = images_digest(images)
        return self._digests[id(images)]


def images_digest(images: Array | Dataset) -> str:
    """Return the number of images and a digest of them; a `Dataset` includes its labels in the digest."""
    arrays: list[Array] = [images.images, images.known_labels] if isinstance(images, Dataset) else [images]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"{len(images)}-{digest.hexdigest()[:16]}"
