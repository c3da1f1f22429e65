"""A loop that counts activations in the bins of a histogram. Called only by `activations.py`."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def count_in_bins(maps: Array, scales: Array, counts: Array) -> None:
    """Add the positive values of ``maps``, float32 ``(rows, C)``, to ``counts``, int64 ``(C, bins)``.

    A value's bin is floor(value x scale of its channel), or the last one, where infinity counts, too.
    """
    last = counts.shape[1] - 1
    for row in range(maps.shape[0]):
        for channel in range(maps.shape[1]):
            value = maps[row, channel]
            if value > 0:
                place = np.float64(value) * scales[channel]
                counts[channel, int(place) if place < last else last] += 1
