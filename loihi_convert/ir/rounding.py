"""Weights of few bits: the grid on which rounding changes them least."""

from __future__ import annotations

from typing import Final

import numpy as np

from loihi_convert.arrays import Array

# Candidates for the largest weight that is kept, in parts of the largest there is.
_SHARES: Final = np.linspace(1.0, 0.3, 36)


def nearest_scales(weights: Array, largest: int) -> Array:
    """Return for each channel the scale s for which ``s x rounded(weights, s)`` is nearest to ``weights``, in squares.

    Few bits must choose between a coarse grid and a clipped tail. The scale of the largest weight, max |w| / largest,
    clips nothing and is far from the best at 4 bits: a single large weight then takes the levels from all others.

    Parameters
    ----------
    weights
        ``(channels, n)``: each row gets a scale of its own; one row, one scale.
    largest
        Largest integer weight, as 127 for 8 bits.

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
