"""A loop that applies the activation of QCFS. Called only by `relu.py`."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def step(maps: Array, thresholds: Array, levels: np.float32) -> None:
    """Apply `qcfs.Qcfs` with ``thresholds``, float32 ``(C,)``, to ``maps``, float32 ``(rows, C)``, in place.

    ReLU in channels whose threshold is NaN. A NaN in ``maps`` stays.
    """
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    for row in range(maps.shape[0]):
        for channel in range(maps.shape[1]):
            value, threshold = maps[row, channel], thresholds[channel]
            share = value / threshold
            share = zero if share < zero else share
            share = one if share > one else share
            steps = np.floor(share * levels + half)
            steps = levels if steps > levels else steps
            positive = zero if value < zero else value
            maps[row, channel] = positive if np.isnan(threshold) else steps / levels * threshold
