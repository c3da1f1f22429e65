"""Every number of Loihi and of Lava's CPU models that this package relies on, once, with its source.

Units: membrane potentials, thresholds and biases are counted in *weight units*: one spike through a synapse of weight
1 adds 1. Lava keeps the state of its own LIF 64 times finer (``act_shift = vth_shift = 6`` in
``lava/proc/lif/models.py``), so 24 state bits are 17 bits and a sign here.

The rules at the end are functions whose name is the claim; each returns ``None`` or what it found. While the *exactness
rules* hold, Lava's CPU models compute exactly what the integers of a `QuantizedNetwork` say; the *LIF rules* are those
that networks of Lava's own hard-reset LIF need besides, the *chip rules* those that the circuit of stock processes in
`circuit.py` needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from loihi_convert.synapse import Array

WEIGHT_LIMIT: Final = 127
"""Largest magnitude of an 8-bit signed synaptic weight that has a negative of its own (Loihi: -128..127)."""

POTENTIAL_LIMIT: Final = 2**17 - 1
"""Largest magnitude of a membrane potential: 24 state bits, 6 of them below one weight unit, one the sign
(``uv_bitwidth = 24`` in ``lava/proc/lif/models.py``)."""

LIF_POTENTIAL_LIMIT: Final = 2**17 - 2**-6
"""The same for Lava's own LIF, which clips its 24-bit state: +-(2^23 - 1) / 64 (``subthr_dynamics``). Every potential
up to twice that is an exact float32."""

WRAPS_ABOVE: Final = 2**17
"""Where the current u of Lava's own LIF wraps, in weight units: it stays in (-2^17, 2^17], of which a sum beyond goes
round by 2^18 (``wrapped_curr`` in ``subthr_dynamics``)."""

THRESHOLD_LIMIT: Final = 2**17
"""Largest threshold: ``vThMant`` has 17 bits and the neuron spikes *above* it, so ``vThMant = threshold - 1``."""

NEVER_FIRES: Final = THRESHOLD_LIMIT
"""Threshold of a dead channel: no potential reaches it (its weights are 0 besides)."""

BIAS_LIMIT: Final = POTENTIAL_LIMIT
"""Largest magnitude of a bias of our SoftResetIF process, which adds it in weight units."""

LIF_BIAS_LIMIT: Final = 2**15 - 1
"""Largest magnitude of a bias of Lava's own LIF on the CPU, which keeps it as int16 and wraps beyond
(``bias_mant: np.int16`` in ``lava/proc/lif/models.py``; netx sets ``bias_exp = 6``, so it counts weight units)."""

CURRENT_LIMIT: Final = 2**23 - 1
"""Largest magnitude of what a Conv or Dense process sends: Lava wraps at 24 bits (``signed_clamp(x, bits=24)`` in
``lava/proc/conv/models.py``). Every partial sum of such a current is an exact float32."""

SELF_WEIGHT_LIMIT: Final = 255
"""Largest magnitude of a weight in a synapse whose weights are all <= 0 (``SignMode.INHIBITORY``: ``clip_weights`` in
``lava/utils/weightutils.py`` clips to -255..0 and ``truncate_weights`` keeps all 8 bits). With both signs
(``SignMode.MIXED``) the same 8 bits hold the even weights -256..254; halved by a weight exponent of -1 these are
-128..127, which is how our weights and the weights of a bias source enter Lava's bit-accurate synapses."""

WEIGHT_EXP_LIMIT: Final = 7
"""Largest exponent of a synapse's weights. Loihi 1 (nengo-loihi, ``hardware/validate.py``: -7 <= weight_exp <= 7); no
figure is public for Loihi 2, and Lava's CPU models take any."""

BIAS_MANT_RANGE: Final = (-(2**12), 2**12 - 1)
"""``bias_mant``: 13 bits, signed (docstring of ``PyLifModelBitAcc`` in ``lava/proc/lif/models.py``). v is added
``bias_mant << bias_exp``, in units of 1/64."""

BIAS_EXP_LIMIT: Final = 7
"""Largest ``bias_exp``: 3 bits, unsigned (the same docstring). 6 counts weight units, 7 pairs of them."""

UNIT_EXP: Final = 6
"""Bits of Lava's LIF below one weight unit (``act_shift = vth_shift = 6``)."""

LEVEL_SPANS: Final = (BIAS_MANT_RANGE[1] - BIAS_MANT_RANGE[0], 2 * (BIAS_MANT_RANGE[1] - BIAS_MANT_RANGE[0]))
"""How far apart the firing levels of a layer may lie: with ``bias_exp`` 6, and with 7, which counts in pairs."""

MAX_PIXEL_BITS: Final = 8
"""Pixels are graded spikes of at most 8 bits, the bits of an image."""

I_DECAY: Final = 4096
"""netx ``iDecay`` of a neuron whose current lasts one step (Lava: ``du = iDecay - 1``)."""

V_DECAY: Final = 0
"""netx ``vDecay`` of a neuron without leak."""


class IntegerLayer(Protocol):
    """What a rule looks at: the integers of one layer."""

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


Rule = Callable[[IntegerLayer], "str | None"]


def numbers_are_integers(layer: IntegerLayer) -> str | None:
    arrays = (layer.weight, layer.bias, layer.threshold, layer.initial_potential)
    found = {str(array.dtype) for array in arrays if array is not None and not np.issubdtype(array.dtype, np.integer)}
    return f"values of type {', '.join(sorted(found))}; allowed are integers" if found else None


def weights_fit_eight_bits(layer: IntegerLayer) -> str | None:
    largest = int(np.abs(layer.weight).max(initial=0))
    return f"a weight of magnitude {largest}; allowed is {WEIGHT_LIMIT}" if largest > WEIGHT_LIMIT else None


def biases_fit_the_potential(layer: IntegerLayer) -> str | None:
    largest = 0 if layer.bias is None else int(np.abs(layer.bias).max(initial=0))
    return f"a bias of magnitude {largest}; allowed is {BIAS_LIMIT}" if largest > BIAS_LIMIT else None


def thresholds_fit_seventeen_bits(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    low, high = int(layer.threshold.min()), int(layer.threshold.max())
    return (
        None if low >= 1 and high <= THRESHOLD_LIMIT else f"thresholds {low}..{high}; allowed are 1..{THRESHOLD_LIMIT}"
    )


def initial_potentials_lie_below_threshold(layer: IntegerLayer) -> str | None:
    if layer.threshold is None or layer.initial_potential is None:
        return None
    outside = (layer.initial_potential < 0) | (layer.initial_potential >= layer.threshold)
    count = int(np.count_nonzero(outside))
    return f"{count} initial potentials outside 0..threshold - 1" if count else None


def currents_fit_twenty_four_bits(layer: IntegerLayer) -> str | None:
    largest = layer.largest_current
    return f"a current that can reach {largest}; allowed is {CURRENT_LIMIT}" if largest > CURRENT_LIMIT else None


def synaptic_currents_do_not_wrap(layer: IntegerLayer) -> str | None:
    largest = layer.largest_synaptic_current
    if largest <= POTENTIAL_LIMIT:
        return None
    return f"a synaptic current that can reach {largest}; allowed is {POTENTIAL_LIMIT}, beyond which u wraps"


def biases_fit_sixteen_bits(layer: IntegerLayer) -> str | None:
    largest = 0 if layer.bias is None else int(np.abs(layer.bias).max(initial=0))
    return f"a bias of magnitude {largest}; allowed is {LIF_BIAS_LIMIT}" if largest > LIF_BIAS_LIMIT else None


def neurons_start_at_zero(layer: IntegerLayer) -> str | None:
    count = 0 if layer.initial_potential is None else int(np.count_nonzero(layer.initial_potential))
    return f"{count} initial potentials other than 0" if count else None


def thresholds_are_eight_bits_times_a_power_of_two(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    alive = layer.threshold[layer.threshold < NEVER_FIRES]
    if shared_exponent(alive, SELF_WEIGHT_LIMIT) is not None:
        return None
    return (
        f"thresholds {int(alive.min())}..{int(alive.max())} with no common power of two; allowed are m x 2^e with m "
        f"1..{SELF_WEIGHT_LIMIT} and one e 0..{WEIGHT_EXP_LIMIT} a layer"
    )


def biases_are_eight_bits_times_a_power_of_two(layer: IntegerLayer) -> str | None:
    if layer.bias is None or shared_exponent(layer.bias, WEIGHT_LIMIT) is not None:
        return None
    return (
        f"biases {int(layer.bias.min())}..{int(layer.bias.max())} with no common power of two; allowed are m x 2^e "
        f"with m {-WEIGHT_LIMIT}..{WEIGHT_LIMIT} and one e 0..{WEIGHT_EXP_LIMIT} a layer"
    )


def levels_lie_within_one_bias(layer: IntegerLayer) -> str | None:
    if (levels := firing_levels(layer)) is None or bias_exponent(levels) is not None:
        return None
    return (
        f"levels {int(levels.min())}..{int(levels.max())} (threshold - V0 - 1), which no 13-bit bias makes of one vth; "
        f"allowed are {LEVEL_SPANS[0]} between them, or {LEVEL_SPANS[1]} where all are even or all are odd"
    )


def currents_do_not_wrap(layer: IntegerLayer) -> str | None:
    largest = layer.largest_current
    if largest <= POTENTIAL_LIMIT:
        return None
    return f"a current that can reach {largest}; allowed is {POTENTIAL_LIMIT}, beyond which u can wrap twice"


def channels_that_never_fire_receive_nothing(layer: IntegerLayer) -> str | None:
    if layer.threshold is None:
        return None
    never = layer.threshold == NEVER_FIRES
    receives = [array[never].any() for array in (layer.weight, layer.bias) if array is not None]
    return "a channel that never fires, with weights or a bias other than 0" if any(receives) else None


def firing_levels(layer: IntegerLayer) -> Array | None:
    """Return threshold - V0 - 1 of the channels that can fire, which u must exceed, in weight units; None: none can."""
    if layer.threshold is None or layer.initial_potential is None:
        return None
    alive = layer.threshold < NEVER_FIRES
    levels = layer.threshold.astype(np.int64) - layer.initial_potential - 1
    return levels[alive] if alive.any() else None


def bias_exponent(levels: Array) -> int | None:
    """Return the smallest ``bias_exp`` from 6 with which biases make ``levels`` of one ``vth``; None: there is none."""
    span = int(levels.max() - levels.min())
    if span <= LEVEL_SPANS[0]:
        return UNIT_EXP
    is_paired = not ((levels - levels.min()) % 2).any()
    return BIAS_EXP_LIMIT if is_paired and span <= LEVEL_SPANS[1] else None


def shared_exponent(values: Array, largest_mant: int) -> int | None:
    """Return the smallest e in 0..7 for which every value is m x 2^e, ``|m| <= largest_mant``; None: there is none."""
    largest = int(np.abs(values.astype(np.int64)).max(initial=0))
    for exponent in range(WEIGHT_EXP_LIMIT + 1):
        if largest <= largest_mant << exponent:
            return None if (values % (1 << exponent)).any() else exponent
    return None


EXACTNESS_RULES: Final[tuple[Rule, ...]] = (
    numbers_are_integers,
    weights_fit_eight_bits,
    biases_fit_the_potential,
    thresholds_fit_seventeen_bits,
    initial_potentials_lie_below_threshold,
    currents_fit_twenty_four_bits,
)

LIF_RULES: Final[tuple[Rule, ...]] = (
    synaptic_currents_do_not_wrap,
    biases_fit_sixteen_bits,
    neurons_start_at_zero,
)
"""What a hard-reset network must keep besides, so that Lava's own LIF computes exactly the same."""

CHIP_RULES: Final[tuple[Rule, ...]] = (
    thresholds_are_eight_bits_times_a_power_of_two,
    biases_are_eight_bits_times_a_power_of_two,
    levels_lie_within_one_bias,
    currents_do_not_wrap,
    channels_that_never_fire_receive_nothing,
)
"""What a network of target ``loihi2`` must keep besides, so that `circuit.circuit` can be built of it."""
