"""Poisson input: pixels as random spikes, the same for every backend and batch size.

In each time step t of image i, a pixel of value p (0..255) spikes with probability p / 255, independently of all
others, as in Diehl et al. 2015 and Sengupta et al. 2019. Its rate is the value pixel / 255 that the CNN gets. The
random numbers come from NumPy's counter-based generator Philox (Salmon et al., SC 2011), keyed by (seed, i) and counted
from t. So `ref`, Lava's simulator and calibration see the same spikes for an image, whatever the batch.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.ground.arrays import Array

# Philox gives 4 words of 64 bits at each count; a pixel takes 16 bits.
_PIXELS_PER_COUNT: Final = 16


def poisson_spikes(images: Array, seed: int, first_image: int, first_step: int, steps: int) -> Array:
    """Return the spikes of ``images`` in consecutive steps: uint8 ``(N, steps, C, H, W)``, 0 or 1.

    A pixel p spikes if floor(255 r / 65536), which is 0..254, is below p, for a 16-bit random number r: 0 never spikes,
    255 always does.

    Parameters
    ----------
    images
        uint8 ``(N, C, H, W)``.
    seed
        0..2^31 - 1.
    first_image
        Index of the first of ``images`` in the whole run, from 0.
    first_step
        Index of the first step, from 0.
    steps
        Number of steps.
    """
    pixels = math.prod(images.shape[1:])
    counts = -(-pixels // _PIXELS_PER_COUNT)
    spikes = np.empty((len(images), steps, pixels), np.uint8)
    for row, (image, found) in enumerate(zip(images, spikes, strict=True)):
        generator = np.random.Philox(key=[seed, first_image + row], counter=[first_step * counts, 0, 0, 0])
        # Each step starts at a whole count: its numbers do not depend on how many steps are drawn at once.
        words = generator.random_raw(steps * counts * 4).astype("<u8", copy=False)
        numbers = words.view("<u2").reshape(steps, -1)[:, :pixels].astype(np.uint32)
        np.less((numbers * 255) >> 16, image.reshape(1, -1), out=found.view(np.bool_))
    return spikes.reshape(len(images), steps, *images.shape[1:])
