"""A loop that counts activations in the bins of a histogram. Called only by `activations.py`."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled


@compiled()
def count_in_bins(maps: Array, groups: Array, largest: Array, counts: Array) -> None:
    """Add the positive values of ``maps``, float32 ``(rows, C)``, to ``counts``, int64 ``(groups, bins)``.

    Bins divide 0..``largest`` of a group evenly; the last one includes its end. ``groups`` is the group of each
    channel, negative for none. The bins of infinity and NaN are meaningless: the largest activation, by which a
    percentile is multiplied, is then not finite.
    """
    bins = counts.shape[1]
    for row in range(maps.shape[0]):
        for channel in range(maps.shape[1]):
            group, value = groups[channel], maps[row, channel]
            if group >= 0 and value > 0:
                place = value / largest[group] * np.float32(bins)
                counts[group, int(place) if place < bins - 1 else bins - 1] += 1
