"""Layers for the circuit of stock processes on Loihi 2: on the chip's number grids, with scales that prevent wrapping.

The thresholds of a layer become m x 2^e with 8-bit m and one common e, its biases likewise (`rules.CHIP_RULES`). Where
a soft-reset neuron would clip, u wraps, and a wrapped potential has the wrong sign. So s_k is the smallest scale, not
below the one at which rounding changes the weights least, for which

- in the first layer no image can make u wrap in T steps (`potential_bounds`),
- in a later layer no input can, or, where that would cost weight bits, the potentials of the calibration images, with
  headroom, do not,
- the firing levels of a layer lie close enough together for one vth, and every number fits its bits.

With many pixel bits and large T the first condition leaves few weight bits: on the worst image u falls by T x (sum of
the channel's negative weights) x (white).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits, rules
from loihi_convert.conversion.scales import (
    FOR_LARGER_WEIGHTS,
    HEADROOM,
    FloatLayer,
    initial_integers,
    largest_of,
    nearest,
)
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer

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
