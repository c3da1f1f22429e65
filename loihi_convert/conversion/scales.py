"""The scales of a layer, s_k: the real value of one weight unit, for each channel; and its rounding at given scales.

**On Lava** s_k is the scale at which rounding to ``|w_q| <= 127``, or less with fewer weight bits, changes the weights
least (`quantized.nearest_scales`). If that is too small, it is the smallest scale for which

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

A relay (`ir.network`) has ``w_q = theta_q``, a power of two where it can be chosen freely. Its scale is then
``a / theta_q``, without rounding, so that the integers represent the repeated amplitude exactly.

**On Loihi 2**, for the circuit of stock processes, a layer is on the chip's number grids, with scales that prevent
wrapping. The thresholds of a layer become m x 2^e with 8-bit m and one common e, its biases likewise
(`rules.CHIP_RULES`). Where a soft-reset neuron would clip, u wraps, and a wrapped potential has the wrong sign. So s_k
is the smallest scale, not below the one at which rounding changes the weights least, for which

- in the first layer no image can make u wrap in T steps (`potential_bounds`),
- in a later layer no input can, or, where that would cost weight bits, the potentials of the calibration images, with
  headroom, do not,
- the firing levels of a layer lie close enough together for one vth, and every number fits its bits.

With many pixel bits and large T the first condition leaves few weight bits: on the worst image u falls by T x (sum of
the channel's negative weights) x (white).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits, rules
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array, by_channel
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import SpikingLayer, is_relay
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, nearest_scales, rounded
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


_MAX_BIAS: Final = limits.WEIGHT_LIMIT << limits.WEIGHT_EXP_LIMIT
# Least growth of a scale whose integers do not fit, and the most attempts.
_GROWTH: Final = 1.001
_ATTEMPTS: Final = 10_000


@dataclass(frozen=True, eq=False)
class ObservedRange:
    """Range of each channel on the calibration images, in floating point, each float64 ``(C_out,)``.

    Parameters
    ----------
    largest_current
        Largest current in any step.
    lowest, highest
        Potentials after the reset, in any step.
    """

    largest_current: Array
    lowest: Array
    highest: Array


def chip_layer(real: FloatLayer, held: ObservedRange | None, timesteps: int, *, is_constant: bool) -> QuantizedLayer:
    """Return ``real`` in integers for target loihi2.

    Parameters
    ----------
    real
        The layer.
    held
        Its range on the calibration images; ``None``: no image at all may make it wrap.
    timesteps
        T.
    is_constant
        Whether its input is the same in every step, as pixels are.
    """
    bounds = [(real.threshold, _largest_threshold(real)), (real.largest_bias, _MAX_BIAS)]
    least = [nearest(real), *(values / real.unit / limit for values, limit in bounds)]
    if held is None:
        return _fitting(real, largest_of(least, real), timesteps, is_constant=is_constant)
    free = _fitting(real, largest_of(least, real), timesteps, is_constant=is_constant, is_for_all=False)
    if is_proven(free, timesteps, is_constant=is_constant):
        return free
    lowest, rises = held.lowest, HEADROOM * np.maximum(held.highest, 0)
    if real.layer.neuron is not None:
        # The circuit's potential starts at 0 instead of V0, so it is lower by V0.
        lowest = lowest - np.where(real.is_alive, real.layer.neuron.initial_potential, 0.0)
        beyond = np.maximum(held.highest - real.threshold, 0)
        rises = real.threshold + HEADROOM * (np.maximum(held.largest_current, 0) + beyond)
    least.append(np.maximum(-HEADROOM * lowest, rises * real.is_alive) / real.unit / limits.POTENTIAL_LIMIT)
    return _fitting(real, largest_of(least, real), timesteps, is_constant=is_constant, is_for_all=False)


def _largest_threshold(real: FloatLayer) -> int:
    """255 x 2^7; less with relays, whose thresholds must share the layer's power of two."""
    exponent = limits.WEIGHT_EXP_LIMIT
    if real.is_relay.any():
        exponent = min(exponent, real.relay_weight.bit_length() - 1)
    return limits.SELF_WEIGHT_LIMIT << exponent


def is_proven(layer: QuantizedLayer, timesteps: int, *, is_constant: bool) -> bool:
    """Return whether it is proven that no input can make ``layer`` wrap in ``timesteps`` steps."""
    return bool(_wrapping(layer, timesteps, is_constant=is_constant).max() <= 1)


def current_bounds(layer: QuantizedLayer) -> tuple[Array, Array]:
    """Return the smallest and largest current of one step, with the bias, over all inputs: int64 ``(C,)`` each.

    Smallest: all inhibitory inputs at their maximum, all others 0. Largest: the same for excitatory inputs.
    """
    largest = layer.largest_input_sum
    rows = layer.weight.astype(np.int64).reshape(layer.synapse.channels, -1)
    lowest, highest = np.minimum(rows, 0).sum(axis=1) * largest, np.maximum(rows, 0).sum(axis=1) * largest
    if layer.bias is None:
        return lowest, highest
    biases = layer.bias.astype(np.int64).reshape(layer.synapse.channels, -1)
    return lowest + biases.min(axis=1), highest + biases.max(axis=1)


def potential_bounds(layer: QuantizedLayer, timesteps: int, *, is_constant: bool) -> tuple[Array, Array]:
    """Return the lower bound of u and the upper bound of V = V0 + u before the reset, in T steps: int64 ``(C,)`` each.

    They hold for any input. With I_min and I_max the smallest and largest current of one step:

    - A neuron that never fires only adds up its currents: ``u >= T I_min``. A spike needs ``u > theta - V0 - 1`` and
      subtracts the threshold, so ``u >= -V0`` after it; u can then fall for T - 1 more steps. With a constant current
      it does not fall, because a neuron that fires has a positive current.
    - ``V(1) <= V0 + I_max``, then ``V(t) <= I_max + max(theta - 1, V(t-1) - theta)``: without or with a spike. So V
      exceeds ``theta - 1 + I_max`` only if a current can exceed the threshold, by their difference in each step.
    """
    (lowest_current, highest_current), steps = current_bounds(layer), timesteps
    if layer.threshold is None or layer.initial_potential is None:
        return np.minimum(steps * lowest_current, 0), np.maximum(steps * highest_current, 0)
    threshold, initial = layer.threshold.astype(np.int64), layer.initial_potential.astype(np.int64)
    after_spike = -initial + (0 if is_constant else steps - 1) * np.minimum(lowest_current, 0)
    first, excess = initial + highest_current, np.maximum(highest_current - threshold, 0)
    low = np.minimum(steps * lowest_current, after_spike if steps > 1 else 0)
    later = np.maximum(threshold - 1 + highest_current + (steps - 2) * excess, first + (steps - 1) * excess)
    return low, np.maximum(first, later) if steps > 1 else first


def snap_to_chip_grid(layer: QuantizedLayer) -> QuantizedLayer:
    """Return ``layer`` with thresholds and biases rounded to 8-bit numbers times a power of two.

    Initial potentials are scaled with their thresholds, and made even where only every second level is possible.
    """
    synapse = layer.synapse
    if synapse.bias is not None:
        synapse = replace(synapse, bias=_snapped(synapse.bias, limits.WEIGHT_LIMIT))
    if layer.neuron is None or layer.balanced is None:
        return replace(layer, synapse=synapse)
    alive = layer.neuron.threshold < limits.NEVER_FIRES
    threshold = np.where(alive, layer.neuron.threshold, 0)
    threshold = np.where(alive, _snapped(threshold, limits.SELF_WEIGHT_LIMIT, least=1), limits.NEVER_FIRES)
    share = layer.balanced.initial_potential / np.where(alive, layer.balanced.threshold, 1.0)
    neuron = IntegerNeuron(threshold, initial_integers(threshold, share))
    levels = rules.firing_levels(replace(layer, neuron=neuron))
    if levels is not None and rules.bias_exponent(levels) is None:
        # Thresholds this large are all even.
        neuron = replace(neuron, initial_potential=neuron.initial_potential // 2 * 2)
    return replace(layer, synapse=synapse, neuron=neuron)


def _fitting(
    real: FloatLayer, scale: Array, timesteps: int, *, is_constant: bool, is_for_all: bool = True
) -> QuantizedLayer:
    """The layer on the smallest scales >= ``scale`` at which its integers fit and, if it is for all inputs, u cannot
    wrap."""
    own = real.is_alive & ~real.is_relay
    has_weights = bool(real.magnitudes[own].any())
    for _ in range(_ATTEMPTS):
        layer = snap_to_chip_grid(real.quantize(scale))
        excess = np.maximum(_largest_current(layer), _level_excess(layer))
        if is_for_all:
            excess = np.maximum(excess, _wrapping(layer, timesteps, is_constant=is_constant))
        if has_weights and not layer.weight[own].any():
            break
        if excess.max() <= 1:
            return layer
        growth = np.where(excess > 1, np.maximum(excess, _GROWTH), 1)
        scale = scale * (growth.max() if real.one_scale else growth)
    fits = f"u of Loihi 2's neurons cannot wrap at T = {timesteps}" if is_for_all else "its integers fit Loihi 2"
    hint = FOR_LARGER_WEIGHTS
    raise RangeError(f"no weight bits are left at any scale at which {fits}", where=real.layer.name, hint=hint)


def _largest_current(layer: QuantizedLayer) -> Array:
    """float64 ``(C,)``: the largest magnitude of a channel's current, as a fraction of the limit."""
    rows = np.abs(layer.weight.astype(np.int64)).reshape(layer.synapse.channels, -1).sum(axis=1)
    largest = rows * layer.largest_input_sum
    if layer.bias is not None:
        largest = largest + np.abs(layer.bias.astype(np.int64)).max()
    return np.asarray(largest / limits.POTENTIAL_LIMIT)


def _level_excess(layer: QuantizedLayer) -> Array:
    """float64 ``(C,)``: each firing level as a fraction of the highest that one vth allows next to the lowest."""
    levels = rules.firing_levels(layer)
    excess = np.zeros(layer.synapse.channels)
    if levels is not None and layer.threshold is not None:
        excess[layer.threshold < limits.NEVER_FIRES] = levels / (levels.min() + limits.LEVEL_SPANS[1])
    return excess


def _wrapping(layer: QuantizedLayer, timesteps: int, *, is_constant: bool) -> Array:
    """float64 ``(C,)``: the largest possible potential, as a fraction of the limit."""
    low, high = potential_bounds(layer, timesteps, is_constant=is_constant)
    if layer.threshold is not None:
        # A dead channel receives nothing.
        high = np.where(layer.threshold < limits.NEVER_FIRES, high, 0)
    return np.maximum(-low, high) / limits.POTENTIAL_LIMIT


def _snapped(values: Array, largest_mant: int, least: int = 0) -> Array:
    """The m x 2^e nearest to ``values``, ``least <= |m| <= largest_mant``, with the smallest e: int32, same shape."""
    for exponent in range(limits.WEIGHT_EXP_LIMIT + 1):
        mant = np.rint(values / (1 << exponent)).astype(np.int64)
        if np.abs(mant).max(initial=0) <= largest_mant:
            break
    mant = np.clip(np.maximum(mant, least) if least else mant, -largest_mant, largest_mant)
    return np.asarray(mant << exponent, np.int32)
