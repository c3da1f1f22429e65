"""Low-bit weights: the scale at which rounding changes them least."""

from __future__ import annotations

from typing import Final

import numpy as np

from loihi_convert.ground.arrays import Array

# Candidate clipping points, as fractions of the largest weight.
_SHARES: Final = np.linspace(1.0, 0.3, 36)


def nearest_scales(weights: Array, largest: int) -> Array:
    """Return for each channel the scale s with the least squared error of ``s x rounded(weights, s)``.

    With few bits one must choose between a coarse grid and a clipped tail. The scale of the largest weight, max |w| /
    largest, clips nothing but is far from optimal at 4 bits, where one large weight leaves few levels for all others.

    Parameters
    ----------
    weights
        ``(channels, n)``: each row gets its own scale.
    largest
        Largest integer weight, for example 127 for 8 bits.

    Returns
    -------
    Array
        float64 ``(channels,)``; 0 where all weights are 0.
    """
    peaks = np.abs(weights).max(axis=1, initial=0).astype(np.float64) / largest
    best, errors = peaks.copy(), np.full(len(weights), np.inf)
    for share in _SHARES:
        scales = share * peaks
        error = np.square(weights - rounded(weights, scales, largest) * scales[:, None]).sum(axis=1)
        is_better = error < errors
        best[is_better], errors[is_better] = scales[is_better], error[is_better]
    return np.asarray(best)


def rounded(weights: Array, scales: Array, largest: int) -> Array:
    """Return clip(round(weights / scales), -largest, largest) for ``(channels, n)``, 0 for scales of 0 or infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scales[:, None] > 0, weights / scales[:, None], 0)
    return np.asarray(np.clip(np.rint(steps), -largest, largest))
