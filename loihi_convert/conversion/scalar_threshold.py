"""One threshold for all channels of a layer: what differs between them moves into their weights.

Lava's own LIF has one ``vThMant`` for a population, as has the hardware. A channel k fires as before if its weights and
its threshold are divided by the same number. So the value of its weight unit, s_k, is made proportional to its
threshold: with theta_k the real threshold, x the real value of one input unit and the integer ``theta_q``, the same for
the whole layer::

    s_k = theta_k / (theta_q x)        w_q = round(w / s_k)        theta_k / (s_k x) = theta_q, without rounding

What remains to be chosen is theta_q. The larger it is, the finer the weights; but a channel of large weights and a
small threshold then clips at 127, while one of small weights and a large threshold has few levels left. This is the
cost of a scalar threshold: a channel can no longer have the scale that suits it best. In a layer with relays, whose
weight is their threshold, theta_q is at most 127.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.errors import RangeError
from loihi_convert.ir.rounding import rounded

# How much larger than without any clipping theta_q may be; 4 % apart, rounding errors differ little.
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
    """Return the scales s_k of a layer's weights for which all its thresholds are one integer.

    Of all integers that the conditions allow, it is the one for which rounding changes the weights least, in squares,
    summed over the channels that can fire, in the CNN's units, where the amplitude of each channel is its threshold.

    Parameters
    ----------
    name
        The layer, for the error.
    thresholds
        Real, float64 ``(C_out,)``; infinite where a channel can never fire, or is a relay.
    weights
        Real, or their magnitudes: ``(C_out, n)``.
    least
        float64 ``(C_out,)``: the smallest scale that each channel's currents, potentials and bias allow.
    unit
        x.
    largest_weight
        As 127 for 8 bits.
    largest_threshold
        Bounds the integer.

    Returns
    -------
    Array
        float64 ``(C_out,)``; 1 where ``thresholds`` are infinite.

    Raises
    ------
    RangeError
        If no integer from 1 fits: a channel's currents are too large beside its threshold.
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
            f"the currents of channel {channel} are too large, compared with its threshold, for a shared threshold",
            where=name,
            hint="Use `thresholds='channel'`.",
        )
    # The largest weight of all, in units of its channel's threshold, meets the limit at the first candidate.
    peak = float((np.abs(real).max(axis=1, initial=0) / theta).max()) * unit
    wanted = _FACTORS * (largest_weight / peak) if peak > 0 else np.ones(1)
    candidates = np.unique(np.clip(np.rint(wanted), 1, allowed))
    errors = [_rounding_error(real, theta / (candidate * unit), largest_weight) for candidate in candidates]
    return np.where(alive, np.where(alive, thresholds, 1.0) / (candidates[int(np.argmin(errors))] * unit), 1.0)


def _rounding_error(weights: Array, scales: Array, largest_weight: int) -> float:
    return float(np.square(weights - rounded(weights, scales, largest_weight) * scales[:, None]).sum())
