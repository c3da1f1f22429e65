"""Rules on the integers of a layer, under which Lava's CPU models and the chip compute the network exactly.

Each rule is a function whose name is the claim; it returns ``None`` or a description of the violation. Under the
*exactness rules*, Lava's CPU models compute exactly the integers of a `QuantizedNetwork`. Networks of Lava's hard-reset
LIF must also satisfy the *LIF rules*, and networks for the circuit of stock processes in `ir.neuron_model` the *chip
rules*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array


class IntegerLayer(Protocol):
    """The integers of one layer, as the rules need them."""

    @property
    def weight(self) -> Array: ...

    @property
    def bias(self) -> Array | None: ...

    @property
    def threshold(self) -> Array | None: ...

    @property
    def initial_potential(self) -> Array | None: ...

    @property
    def largest_synaptic_current(self) -> int: ...

    @property
    def largest_current(self) -> int: ...


LayerRule = Callable[[IntegerLayer], "str | None"]


def _magnitude(values: Array | None) -> int:
    """The largest magnitude; that of the lowest number of a dtype, such as -128, is beyond the dtype."""
    return 0 if values is None else int(np.abs(values.astype(np.int64)).max(initial=0))


def _beyond(limit: int, what: str, largest: int, consequence: str = "") -> str | None:
    return f"{what} {largest}; must be at most {limit}{consequence}" if largest > limit else None


def numbers_are_integers(layer: IntegerLayer) -> str | None:
    arrays = (layer.weight, layer.bias, layer.threshold, layer.initial_potential)
    found = {str(array.dtype) for array in arrays if array is not None and not np.issubdtype(array.dtype, np.integer)}
    return f"values of type {', '.join(sorted(found))}; must be integers" if found else None


def weights_fit_eight_bits(layer: IntegerLayer) -> str | None:
    return _beyond(limits.WEIGHT_LIMIT, "a weight of magnitude", _magnitude(layer.weight))


def biases_fit_the_potential(layer: IntegerLayer) -> str | None:
    return _beyond(limits.BIAS_LIMIT, "a bias of magnitude", _magnitude(layer.bias))


def thresholds_fit_seventeen_bits(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    low, high = int(layer.threshold.min()), int(layer.threshold.max())
    return (
        None
        if low >= 1 and high <= limits.THRESHOLD_LIMIT
        else f"thresholds {low}..{high}; must be in 1..{limits.THRESHOLD_LIMIT}"
    )


def initial_potentials_lie_below_threshold(layer: IntegerLayer) -> str | None:
    if layer.threshold is None or layer.initial_potential is None:
        return None
    outside = (layer.initial_potential < 0) | (layer.initial_potential >= layer.threshold)
    count = int(np.count_nonzero(outside))
    return f"{count} initial potentials outside 0..threshold - 1" if count else None


def currents_fit_twenty_four_bits(layer: IntegerLayer) -> str | None:
    return _beyond(limits.CURRENT_LIMIT, "a current that can reach", layer.largest_current)


def synaptic_currents_do_not_wrap(layer: IntegerLayer) -> str | None:
    largest, wraps = layer.largest_synaptic_current, ", beyond which u wraps"
    return _beyond(limits.POTENTIAL_LIMIT, "a synaptic current that can reach", largest, wraps)


def biases_fit_sixteen_bits(layer: IntegerLayer) -> str | None:
    return _beyond(limits.LIF_BIAS_LIMIT, "a bias of magnitude", _magnitude(layer.bias))


def neurons_start_at_zero(layer: IntegerLayer) -> str | None:
    count = 0 if layer.initial_potential is None else int(np.count_nonzero(layer.initial_potential))
    return f"{count} initial potentials other than 0" if count else None


def thresholds_are_eight_bits_times_a_power_of_two(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    alive = layer.threshold[layer.threshold < limits.NEVER_FIRES]
    if shared_exponent(alive, limits.SELF_WEIGHT_LIMIT) is not None:
        return None
    return (
        f"thresholds {int(alive.min())}..{int(alive.max())} with no common power of two; must be m x 2^e with m "
        f"1..{limits.SELF_WEIGHT_LIMIT} and one e 0..{limits.WEIGHT_EXP_LIMIT} per layer"
    )


def biases_are_eight_bits_times_a_power_of_two(layer: IntegerLayer) -> str | None:
    if layer.bias is None or shared_exponent(layer.bias, limits.WEIGHT_LIMIT) is not None:
        return None
    return (
        f"biases {int(layer.bias.min())}..{int(layer.bias.max())} with no common power of two; must be m x 2^e "
        f"with m {-limits.WEIGHT_LIMIT}..{limits.WEIGHT_LIMIT} and one e 0..{limits.WEIGHT_EXP_LIMIT} per layer"
    )


def levels_lie_within_one_bias(layer: IntegerLayer) -> str | None:
    if (levels := firing_levels(layer)) is None or bias_exponent(levels) is not None:
        return None
    return (
        f"levels {int(levels.min())}..{int(levels.max())} (threshold - V0 - 1) for one vth and 13-bit biases; "
        f"must be at most {limits.LEVEL_SPANS[0]} apart, or {limits.LEVEL_SPANS[1]} if all are even or all are odd"
    )


def currents_do_not_wrap(layer: IntegerLayer) -> str | None:
    largest, wraps = layer.largest_current, ", beyond which u can wrap twice"
    return _beyond(limits.POTENTIAL_LIMIT, "a current that can reach", largest, wraps)


def channels_that_never_fire_receive_nothing(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    never = layer.threshold == limits.NEVER_FIRES
    receives = [array[never].any() for array in (layer.weight, layer.bias) if array is not None]
    return "a channel that never fires, with weights or a bias other than 0" if any(receives) else None


def firing_levels(layer: IntegerLayer) -> Array | None:
    """Return the levels threshold - V0 - 1 that u must exceed, of the channels that can fire; None if none can."""
    if layer.threshold is None or layer.initial_potential is None:
        return None
    alive = layer.threshold < limits.NEVER_FIRES
    levels = layer.threshold.astype(np.int64) - layer.initial_potential - 1
    return levels[alive] if alive.any() else None


def bias_exponent(levels: Array) -> int | None:
    """Return the smallest ``bias_exp`` >= 6 at which one ``vth`` and biases give all ``levels``; None if none does."""
    span = int(levels.max() - levels.min())
    if span <= limits.LEVEL_SPANS[0]:
        return limits.UNIT_EXP
    is_paired = not ((levels - levels.min()) % 2).any()
    return limits.BIAS_EXP_LIMIT if is_paired and span <= limits.LEVEL_SPANS[1] else None


def shared_exponent(values: Array, largest_mant: int) -> int | None:
    """Return the smallest e in 0..7 for which every value is m x 2^e, ``|m| <= largest_mant``; None if none."""
    largest = _magnitude(values)
    for exponent in range(limits.WEIGHT_EXP_LIMIT + 1):
        if largest <= largest_mant << exponent:
            return None if (values % (1 << exponent)).any() else exponent
    return None


def a_layer_has_one_threshold(layer: IntegerLayer) -> str | None:
    if layer.threshold is None or layer.threshold.min() == layer.threshold.max():
        return None
    return f"thresholds {int(layer.threshold.min())}..{int(layer.threshold.max())}; must be one for all channels"


EXACTNESS_RULES: Final[tuple[LayerRule, ...]] = (
    numbers_are_integers,
    weights_fit_eight_bits,
    biases_fit_the_potential,
    thresholds_fit_seventeen_bits,
    initial_potentials_lie_below_threshold,
    currents_fit_twenty_four_bits,
)


LIF_RULES: Final[tuple[LayerRule, ...]] = (
    synaptic_currents_do_not_wrap,
    biases_fit_sixteen_bits,
    neurons_start_at_zero,
)
"""Additional rules for hard-reset networks, under which Lava's LIF computes exactly the same."""


CHIP_RULES: Final[tuple[LayerRule, ...]] = (
    thresholds_are_eight_bits_times_a_power_of_two,
    biases_are_eight_bits_times_a_power_of_two,
    levels_lie_within_one_bias,
    currents_do_not_wrap,
    channels_that_never_fire_receive_nothing,
)
"""Additional rules for a chip, under which `neuron_model.circuit` can be built."""


SCALAR_RULES: Final[tuple[LayerRule, ...]] = (a_layer_has_one_threshold,)
"""Additional rules for networks with one ``vThMant`` per layer. Lava's LIF has one for all its neurons (``vth`` has
shape (1,) in ``lava/proc/lif/process.py``); that its CPU model also accepts an array is undocumented."""
