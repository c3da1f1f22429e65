"""The real value s_k of one weight unit, for each channel of a layer on Lava.

s_k is the scale at which rounding to ``|w_q| <= 127``, or less with fewer weight bits, changes the weights least
(`quantized.nearest_scales`). If that is too small, it is the smallest scale for which

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

If all channels of a layer share one threshold, the same conditions limit the choice in `scalar_scales`.

A layer is rounded at a given scale. One unit of a channel's potential stands for ``m_k = s_k x``, where s_k is the real
value of one weight unit and x the real value of one input unit: 1 / (2^p - 1) for a p-bit pixel, 1 for a spike, each
divided by ``k_h k_w`` after a pooling, which sums in integers. Then::

    w_q = round(w a / s_k)    theta_q = round(theta / m_k)    b_q = round(b / m_k)    v0_q = floor(theta_q v0 / theta)

with ``a`` the amplitude of the input channel, taken from that channel's threshold *after* rounding.

A relay (`ir.relays`) has ``w_q = theta_q``, a power of two where it can be chosen freely. Its scale is then
``a / theta_q``, without rounding, so that the integers represent the repeated amplitude exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array, by_channel
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import SpikingLayer
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, nearest_scales, rounded
from loihi_convert.ir.relays import is_relay
from loihi_convert.ir.synapse import Synapse

HEADROOM: Final = 1.25
"""Factor by which a current or output potential may exceed its maximum on calibration images without clipping."""

FOR_LARGER_WEIGHTS: Final = "Use fewer `timesteps`, fewer `pixel_bits`, or biases nearer to 0."
"""The remedy where T steps leave a layer no weight bits."""


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
        found = f"{weights.shape[1]} inputs of up to {round(1 / real.unit)} can exceed {limit}, {reason}, at any scale"
        hint = f"Use {advice}fewer `pixel_bits`, if it is the first layer."
        raise RangeError(found, where=real.layer.name, hint=hint)
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
    thresholds, weights
        Before rounding, ``(C_out,)`` and ``(C_out, n)``; thresholds are infinite for relays and for channels that can
        never fire, whose scale is 1.
    least
        float64 ``(C_out,)``: the smallest scale allowed by each channel's currents, potentials and bias.
    unit
        x of this module's docstring.
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
        found = f"the currents of channel {channel} are too large relative to its threshold for a shared threshold"
        raise RangeError(found, where=name, hint="Use `thresholds='channel'`.")
    # At the first candidate the largest weight, in units of its channel's threshold, is exactly at the limit.
    peak = float((np.abs(real).max(axis=1, initial=0) / theta).max()) * unit
    wanted = _FACTORS * (largest_weight / peak) if peak > 0 else np.ones(1)
    candidates = np.unique(np.clip(np.rint(wanted), 1, allowed))
    errors = [_rounding_error(real, theta / (candidate * unit), largest_weight) for candidate in candidates]
    return np.where(alive, np.where(alive, thresholds, 1.0) / (candidates[int(np.argmin(errors))] * unit), 1.0)


def _rounding_error(weights: Array, scales: Array, largest_weight: int) -> float:
    return float(np.square(weights - rounded(weights, scales, largest_weight) * scales[:, None]).sum())


_HUGE: Final = 2.0**30


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """A layer before rounding.

    Parameters
    ----------
    layer
        The layer.
    synapse
        Its synapse, with the amplitudes of the layer before as factors.
    largest_input
        Largest integer of one input: 2^p - 1 for p-bit pixels, 1 for spikes.
    largest_weight
        Largest integer weight, for example 127 for 8 bits.
    one_scale
        Whether all channels must have the same scale, as classes do, whose outputs are compared.
    """

    layer: SpikingLayer
    synapse: Synapse
    largest_input: int
    largest_weight: int
    one_scale: bool

    @property
    def unit(self) -> float:
        """x: the real value of one input unit."""
        return 1.0 / math.prod(self.synapse.pool) / self.largest_input

    @property
    def is_alive(self) -> Array:
        """bool ``(C,)``: which channels can fire, or integrate."""
        neuron = self.layer.neuron
        return np.ones(self.synapse.channels, np.bool_) if neuron is None else np.isfinite(neuron.threshold)

    @property
    def threshold(self) -> Array:
        """float64 ``(C,)``: the thresholds, 0 for channels that can never fire or if the layer only integrates."""
        neuron = self.layer.neuron
        return np.zeros(self.synapse.channels) if neuron is None else np.where(self.is_alive, neuron.threshold, 0.0)

    @property
    def is_relay(self) -> Array:
        """bool ``(C,)``: which channels are relays that can fire."""
        return is_relay(self.layer.relay_of, self.synapse.channels) & self.is_alive

    @property
    def relay_weight(self) -> int:
        """Weight and threshold of relays: the largest power of two, which on a chip all thresholds of a layer share."""
        return 1 << (self.largest_weight.bit_length() - 1)

    @property
    def magnitudes(self) -> Array:
        """float64 ``(C, n)``: the magnitudes of the weights."""
        return np.abs(self.synapse.weight).reshape(self.synapse.channels, -1)

    @property
    def largest_bias(self) -> Array:
        """float64 ``(C,)``: the largest bias magnitude of each channel."""
        bias = self.synapse.bias
        channels = self.synapse.channels
        return np.zeros(channels) if bias is None else np.abs(bias).reshape(channels, -1).max(axis=1)

    def quantize(self, scale: Array, *, is_scalar: bool = False) -> QuantizedLayer:
        """Return the layer in integers at ``scale``, float64 ``(C_out,)``: the s_k of this module's docstring.

        Relays have their own scales. ``is_scalar``: at these scales all thresholds are the same integer, see
        `scalar_scales`.
        """
        synapse, neuron = self.synapse, self.layer.neuron
        alive, relays = self.is_alive, self.is_relay
        relay_weight = self._shared_threshold(scale) if is_scalar else self.relay_weight
        # The row of a relay holds one nonzero weight: the amplitude that it repeats.
        scale = np.where(relays, self.magnitudes.max(axis=1) / relay_weight, scale)
        potential_unit = scale * self.unit
        # The weights of a dead channel are 0: it costs nothing and its potential stays constant.
        rows = synapse.weight.reshape(synapse.channels, -1)
        weight = rounded(rows, np.where(alive, scale, np.inf), self.largest_weight).astype(np.int32)
        weight = weight.reshape(synapse.weight.shape)
        bias = synapse.bias
        if bias is not None:
            per_channel = by_channel(np.where(alive, potential_unit, np.inf), bias.ndim)
            # Far beyond what Loihi holds, and refused by the exactness rules, instead of wrapped.
            bias = np.rint(np.clip(bias / per_channel, -_HUGE, _HUGE)).astype(np.int32)
        integers = None
        if neuron is not None:
            finite = np.where(alive, neuron.threshold, 1.0)
            threshold = np.where(alive, np.maximum(np.rint(finite / potential_unit), 1), limits.NEVER_FIRES)
            threshold = np.where(relays, relay_weight, threshold)
            if is_scalar:
                # A dead channel gets the threshold of the others: its weights and bias are 0.
                threshold = np.full_like(threshold, threshold.min())
            initial = initial_integers(threshold, neuron.initial_potential / finite)
            integers = IntegerNeuron(threshold.astype(np.int32), initial)
        return QuantizedLayer(
            name=self.layer.name,
            synapse=replace(synapse, weight=weight, bias=bias),
            neuron=integers,
            scale=potential_unit,
            largest_input=self.largest_input,
            balanced=neuron,
            correction=self.layer.correction,
            relay_of=self.layer.relay_of,
        )

    def _shared_threshold(self, scale: Array) -> int:
        """The common threshold at the scales of `scalar_scales`; that of relays if all channels are relays."""
        own = self.is_alive & ~self.is_relay
        if not own.any():
            return self.relay_weight
        return int(max(1, np.rint(self.threshold[own] / (scale[own] * self.unit)).min()))


def initial_integers(threshold: Array, share: Array) -> Array:
    """Return the initial potentials ``floor(threshold x share)`` for integer thresholds: int32 ``(C,)``."""
    return np.asarray(np.floor(threshold * share), np.int32)
