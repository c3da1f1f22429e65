"""The real value s_k of one weight unit, for each channel of a layer on Lava.

s_k is the scale at which rounding to ``|w_q| <= 127``, or less with fewer weight bits, changes the weights least
(`rounding.nearest_scales`). If that is too small, it is the smallest scale for which

- hidden layers: ``theta_q + headroom x I_max <= 131071``, otherwise a spike would lose charge (I_max: the channel's
  largest current on the calibration images),
- a last layer that only integrates: ``headroom x |V| <= 131071`` for the potentials of the calibration images up to
  step T.

Classes have ONE scale, so that their potentials and spike counts can be compared. Outputs of a regression have their
own, because their units may differ.

Weights need not use all 8 bits: with 8-bit pixels, a first layer with full int8 weights would clip.

For every image, a current must fit 24 bits (the exactness rules of `chip.rules`), which is the binding limit where
thousands of pixels meet: ``sum |w_q| x largest input + |b_q| <= 2^23 - 1``. With hard reset the neurons are Lava's LIF,
which has narrower limits: ``sum |w_q| x largest input <= 131071``, and ``|b_q| <= 32767``.

If all channels of a layer share one threshold, the same conditions limit the choice in `scalar_threshold.py`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.choices import Reset
from loihi_convert.conversion.float_layer import FloatLayer, excessive_bias
from loihi_convert.errors import RangeError
from loihi_convert.ir.rounding import nearest_scales, rounded

HEADROOM: Final = 1.25
"""Factor by which a current or output potential may exceed its maximum on calibration images without clipping."""

FOR_SMALLER_BIASES: Final = "Subtract what all classes share, and give a class that must never win a bias nearer to 0."
"""The remedy for large biases of classes."""


def for_larger_weights(real: FloatLayer, timesteps: int, *other: str) -> str:
    """Return a hint if T steps leave ``real`` no weight bits: on its biases if they are excessive, and remedies."""
    hint = ""
    if largest := excessive_bias(real.synapse):
        hint = f"Its biases, up to {largest:.3g}, are larger than the sum of its weights."
        if real.one_scale:
            return f"{hint} {FOR_SMALLER_BIASES}"
    # Spikes are inputs of 1.
    remedies = [
        f"fewer `{name}`" for name, most in (("timesteps", timesteps), ("pixel_bits", real.largest_input)) if most > 1
    ]
    remedies += other
    return f"{hint} Use {', or '.join(remedies)}.".strip() if remedies else hint


def lava_scales(real: FloatLayer, reach: Array, reset: Reset, *, is_scalar: bool = False) -> Array:
    """Return the scales s_k of this module's docstring, float64 ``(C_out,)``.

    ``reach``, float64 ``(C_out,)``, is the largest current or output, with headroom, which must fit in addition to the
    threshold. ``is_scalar``: one threshold for all channels.
    """
    conditions = [nearest(real)]
    if real.layer.neuron is not None:
        # A hard reset discards the potential above the threshold: only the threshold itself must fit.
        reach = reach + real.threshold if reset == "soft" else real.threshold
    conditions.append(reach / real.unit / limits.POTENTIAL_LIMIT)
    conditions.append(_of_currents(real, reset))
    conditions.append(real.largest_bias / real.unit / (limits.BIAS_LIMIT if reset == "soft" else limits.LIF_BIAS_LIMIT))
    if is_scalar and real.layer.neuron is not None:
        return scalar_scales(
            real.layer.name,
            np.where(real.is_relay, np.inf, real.layer.neuron.threshold),
            real.magnitudes,
            np.max(conditions[1:], axis=0),
            real.unit,
            real.largest_weight,
            # The threshold of a relay is also its weight.
            largest_threshold=real.largest_weight if real.is_relay.any() else limits.THRESHOLD_LIMIT - 1,
        )
    return largest_of(conditions, real)


def _of_currents(real: FloatLayer, reset: Reset) -> Array:
    """The smallest s_k at which no image can cause a current out of range."""
    weights, is_soft = real.magnitudes, reset == "soft"
    limit = limits.CURRENT_LIMIT - limits.BIAS_LIMIT if is_soft else limits.POTENTIAL_LIMIT
    # Rounding may enlarge each weight by half a unit.
    room = limit * real.unit - np.count_nonzero(weights, axis=1) / 2
    if room.min() <= 0:
        reason = "the range of a current" if is_soft else "at which Lava's LIF wraps"
        advice = "" if is_soft else "`reset='soft'`, or "
        raise RangeError(
            f"{weights.shape[1]} inputs of up to {round(1 / real.unit)} can exceed {limit}, {reason}, at any scale",
            where=real.layer.name,
            hint=f"Use {advice}fewer `pixel_bits`, if it is the first layer.",
        )
    return np.asarray(weights.sum(axis=1) / room)


def nearest(real: FloatLayer) -> Array:
    """Return the scales at which rounding changes the weights least: float64 ``(C_out,)``."""
    if real.one_scale:
        return np.repeat(nearest_scales(real.magnitudes.reshape(1, -1), real.largest_weight), real.synapse.channels)
    return nearest_scales(real.magnitudes, real.largest_weight)


def largest_of(conditions: list[Array], real: FloatLayer) -> Array:
    """Return the largest of ``conditions``, lower bounds of s_k; one scale for all channels if required."""
    scale = np.max(conditions, axis=0)
    if real.one_scale:
        scale = np.full_like(scale, scale.max())
    return np.where(scale > 0, scale, 1.0)


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
