"""Every number of Loihi and of Lava's CPU models that this package relies on, once, with its source.

Units: membrane potentials, thresholds and biases are counted in *weight units*: one spike through a synapse of weight
1 adds 1. Lava keeps the state of its own LIF 64 times finer (``act_shift = vth_shift = 6`` in
``lava/proc/lif/models.py``), so 24 state bits are 17 bits and a sign here.

The rules at the end are functions whose name is the claim; each returns ``None`` or what it found. While the *exactness
rules* hold, Lava's CPU models compute exactly what the integers of a `QuantizedNetwork` say; the *LIF rules* are those
that networks of Lava's own hard-reset LIF need besides.
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


def a_layer_has_one_threshold(layer: IntegerLayer) -> str | None:
    if layer.threshold is None or layer.threshold.min() == layer.threshold.max():
        return None
    return f"thresholds {int(layer.threshold.min())}..{int(layer.threshold.max())}; allowed is one for all channels"


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

SCALAR_RULES: Final[tuple[Rule, ...]] = (a_layer_has_one_threshold,)
"""What a network must keep besides, so that one ``vThMant`` a layer says all: Lava's LIF has one for all its neurons
(``vth`` has shape (1,) in ``lava/proc/lif/process.py``); that the CPU model takes an array as well is not promised."""
