"""One threshold for all channels of a layer: the differences between channels move into their weights.

Lava's LIF and the hardware have one ``vThMant`` per population. A channel k fires as before if its weights and its
threshold are divided by the same number. So the value of its weight unit, s_k, is made proportional to its threshold.
With theta_k the floating-point threshold, x the real value of one input unit and ``theta_q`` the integer threshold of
the whole layer::

    s_k = theta_k / (theta_q x)        w_q = round(w / s_k)        theta_k / (s_k x) = theta_q, without rounding

Only theta_q remains to be chosen. The larger it is, the finer the weights; but a channel with large weights and a small
threshold then clips at 127, while one with small weights and a large threshold has few levels left. This is the cost of
a scalar threshold: channels cannot have their best scales. In a layer with relays, whose weight is their threshold,
theta_q is at most 127.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.errors import RangeError
from loihi_convert.ir.rounding import rounded

# Candidates of theta_q relative to the largest without clipping; 4 % apart, since rounding errors vary slowly.
_FACTORS: Final = np.geomspace(1, 32, 90)


def scalar_scales(
    name: str,
    thresholds: Array,
    weights: Array,
    least: Array,
    unit: float,
    largest_weight: int,
    *,
    largest_threshold: int = limits.THRESHOLD_LIMIT - 1,
) -> Array:
    """Return the scales s_k of a layer's weights at which all its thresholds are the same integer.

    Of all allowed integers it uses the one with the least squared rounding error of the weights, summed over the
    channels that can fire, in the CNN's units, where the amplitude of each channel is its threshold.

    Parameters
    ----------
    name
        Name of the layer, for error messages.
    thresholds
        Before rounding, float64 ``(C_out,)``; infinite for relays and for channels that can never fire.
    weights
        Before rounding, or their magnitudes: ``(C_out, n)``.
    least
        float64 ``(C_out,)``: the smallest scale allowed by each channel's currents, potentials and bias.
    unit
        x of this module's docstring.
    largest_weight
        Largest integer weight, for example 127 for 8 bits.
    largest_threshold
        Upper bound of theta_q.

    Returns
    -------
    Array
        float64 ``(C_out,)``; 1 where ``thresholds`` are infinite.

    Raises
    ------
    RangeError
        If no integer >= 1 fits: a channel's currents are too large relative to its threshold.
    """
    alive = np.isfinite(thresholds)
    if not alive.any():
        return np.ones_like(thresholds)
    theta, real, least = thresholds[alive], weights[alive], least[alive]
    with np.errstate(divide="ignore"):
        most = np.where(least > 0, theta / (least * unit), np.inf)
    allowed = min(math.floor(min(most.min(), largest_threshold) * (1 + 1e-12)), largest_threshold)
    if allowed < 1:
        channel = int(np.flatnonzero(alive)[most.argmin()])
        raise RangeError(
            f"the currents of channel {channel} are too large relative to its threshold for a shared threshold",
            where=name,
            hint="Use `thresholds='channel'`.",
        )
    # At the first candidate the largest weight, in units of its channel's threshold, is exactly at the limit.
    peak = float((np.abs(real).max(axis=1, initial=0) / theta).max()) * unit
    wanted = _FACTORS * (largest_weight / peak) if peak > 0 else np.ones(1)
    candidates = np.unique(np.clip(np.rint(wanted), 1, allowed))
    errors = [_rounding_error(real, theta / (candidate * unit), largest_weight) for candidate in candidates]
    return np.where(alive, np.where(alive, thresholds, 1.0) / (candidates[int(np.argmin(errors))] * unit), 1.0)


def _rounding_error(weights: Array, scales: Array, largest_weight: int) -> float:
    return float(np.square(weights - rounded(weights, scales, largest_weight) * scales[:, None]).sum())
