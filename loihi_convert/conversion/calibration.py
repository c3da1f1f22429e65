"""Calibration images: that they fit the network, and how many a step of the conversion looks at."""

from __future__ import annotations

from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import DataError
from loihi_convert.ir.network import ReluNetwork

MOST: Final = 2_000
"""Images, at most: values fitted per channel do not change with five times as many."""

FEWEST: Final = 500
"""Images at any T, if there are that many."""

STEPS: Final = 16_000
"""Images times steps: a step costs the same at any T, and the more steps there are, the less depends on each."""


def calibration_subset(images: Array, timesteps: int) -> Array:
    """Return the first of ``images``: fewer for many ``timesteps``, see `STEPS`."""
    return images[: max(FEWEST, min(MOST, STEPS // timesteps))]


def require_images(network: ReluNetwork, images: Array) -> None:
    """Raise a `DataError` unless ``images`` are calibration images for ``network``."""
    if images.dtype != np.uint8 or images.shape[1:] != network.input_shape or len(images) == 0:
        raise DataError(
            f"found {images.dtype} of shape {images.shape}",
            where="calibration images",
            expected=f"must be uint8 of shape (N, {', '.join(map(str, network.input_shape))}), N >= 1",
        )
