"""Inputs of the first layer: the pixels, in every step, or Poisson spikes (`ir.poisson`).

Constant pixels need the currents of only one step, spikes those of all steps. In both cases the maps are summed over
the windows of a pooling before the first synapse, channels last, as in all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.errors import DataError
from loihi_convert.ir.poisson import poisson_spikes
from loihi_convert.ir.quantized import with_pixel_bits
from loihi_convert.simulation.currents import channels_last, sum_pool
from loihi_convert.simulation.image_shards import ImageArray

MAX_PIXEL: Final = 255


def require_images(input_shape: Shape, images: ImageArray, where: str = "images") -> None:
    """Raise a `DataError` unless ``images`` are uint8 ``(N, *input_shape)``, N >= 1."""
    shape = f"uint8 of shape (N, {', '.join(map(str, input_shape))}), N >= 1"
    if not isinstance(getattr(images, "dtype", None), np.dtype):
        found, expected = f"found an object of type {type(images).__name__}", f"must be a NumPy array, {shape}"
        raise DataError(found, where=where, expected=expected)
    if images.dtype != np.uint8 or images.shape[1:] != input_shape or len(images) < 1:
        raise DataError(f"found {images.dtype} of shape {images.shape}", where=where, expected=f"must be {shape}")


@dataclass(frozen=True)
class Inputs:
    """Images as inputs of the first synapse.

    Parameters
    ----------
    pool
        Window of the pooling before the synapse.
    poisson_seed
        Seed of the Poisson spikes; ``None``: pixels, the same in every step.
    pixel_bits
        Bits of the integers that pixels are rounded to; ``None``: pixel / 255.
    """

    pool: Pair
    poisson_seed: int | None = None
    pixel_bits: int | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the input is the same in every step."""
        return self.poisson_seed is None

    def __call__(self, images: Array, first_image: int, first_step: int, steps: int) -> Array:
        """Return ``(N, steps, H', W', C)`` for uint8 ``(N, C, H, W)``; one step for constant pixels.

        float32, or uint8 for spikes if their sums fit. ``first_image`` is the index in the whole run, ``first_step``
        counts from 0.
        """
        if self.poisson_seed is None:
            maps = channels_last(images if self.pixel_bits is None else with_pixel_bits(images, self.pixel_bits))
            if self.pixel_bits is None:
                maps = maps / np.float32(MAX_PIXEL)
            return sum_pool(maps, self.pool)[:, np.newaxis]
        spikes = poisson_spikes(images, self.poisson_seed, first_image, first_step, steps)
        pooled = sum_pool(channels_last(spikes.reshape(-1, *images.shape[1:])), self.pool)
        fits = math.prod(self.pool) <= np.iinfo(np.uint8).max
        return pooled.astype(np.uint8 if fits else np.float32).reshape(len(images), steps, *pooled.shape[1:])
