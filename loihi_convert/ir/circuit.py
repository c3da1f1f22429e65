"""Soft reset built from stock Loihi 2 processes: the integers of a circuit around Lava's LIF.

The LIF resets hard and has one threshold for a whole population. With ``du = -1`` (u never decays) and ``dv = 4096`` (v
has no memory) its current u is the membrane potential, and its voltage v serves only for the comparison::

    u(t) = u(t-1) + I(t) - theta_k s(t-1)        24 bits, 6 of them below one weight unit; wraps
    v(t) = u(t) + bias_k        s(t) = [v(t) > vth]        the hard reset of v has no effect

A one-to-one recurrent synapse of weight -theta_k subtracts the threshold one step after a spike: the soft reset. The
firing level is independent of the subtracted threshold: ``bias_k = vth - level_k`` turns the one ``vth`` into a level
for each channel, and ``level_k = theta_k - V0_k - 1`` adds an initial potential, which survives every reset. As long
as nothing wraps or clips, ``V0 + u(t) - theta s(t)`` is the potential V(t) of a soft-reset neuron after its reset.

Since the bias of the LIF holds the level, the layer's own bias enters through a synapse from one extra neuron, which
spikes in each of the layer's T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array, freeze
from loihi_convert.chip import limits, rules
from loihi_convert.chip.rules import IntegerLayer


@dataclass(frozen=True, eq=False)
class Circuit:
    """The integers of one layer's circuit, without those of its synapse.

    Parameters
    ----------
    vth
        ``vth`` of the layer's LIF, 0..131071, in weight units.
    bias_mant
        ``(C,)``, -4096..4095: ``bias_mant << bias_exp``, in units of 1/64, is vth - level. 0 or -1 for a channel that
        never fires, whose u stays 0.
    bias_exp
        6 or 7.
    self_weight_mant
        ``(C,)``, 0..255: the recurrent synapse has weights ``-self_weight_mant << self_weight_exp``, which is -theta; 0
        for a channel that never fires. ``SignMode.INHIBITORY``, 8 bits.
    self_weight_exp
        0..7.
    source_mant
        For the layer's bias, in its shape, -127..127: the synapse from the bias source has weights ``source_mant <<
        source_exp``. With ``SignMode.MIXED``, 8-bit weights are even: they are ``2 source_mant``, with ``weight_exp =
        source_exp - 1``. ``None`` without a bias.
    source_exp
        0..7.
    """

    vth: int
    bias_mant: Array
    bias_exp: int
    self_weight_mant: Array
    self_weight_exp: int
    source_mant: Array | None
    source_exp: int

    def __post_init__(self) -> None:
        freeze(self, "bias_mant", "self_weight_mant", "source_mant")


def circuit(layer: IntegerLayer) -> Circuit:
    """Return the circuit of ``layer``, which must satisfy the rules in `chip.rules`.

    A layer without neurons gets a LIF whose v cannot exceed vth, and no recurrent weights: its output is u.
    """
    source_exp = 0 if layer.bias is None else rules.shared_exponent(layer.bias, limits.WEIGHT_LIMIT)
    assert source_exp is not None
    source_mant = None if layer.bias is None else layer.bias >> source_exp
    channels = len(layer.weight)
    levels = rules.firing_levels(layer)
    if layer.threshold is None or layer.initial_potential is None or levels is None:
        nothing = np.zeros(channels, np.int32)
        # u can reach 2^17 before it wraps, one more than vth.
        return Circuit(limits.POTENTIAL_LIMIT, nothing - 1, limits.UNIT_EXP, nothing, 0, source_mant, source_exp)
    alive = layer.threshold < limits.NEVER_FIRES
    bias_exp = rules.bias_exponent(levels)
    self_weight_exp = rules.shared_exponent(layer.threshold[alive], limits.SELF_WEIGHT_LIMIT)
    assert bias_exp is not None
    assert self_weight_exp is not None
    # Biases start at 0 where they fit; v stays below 2^17 - 1, so clipping never keeps it below vth.
    largest_bias = limits.BIAS_MANT_RANGE[1] << (bias_exp - limits.UNIT_EXP)
    vth = min(int(levels.max()), int(levels.min()) + largest_bias)
    bias_mant, self_weight_mant = np.zeros(channels, np.int32), np.zeros(channels, np.int32)
    bias_mant[alive] = (vth - levels) >> (bias_exp - limits.UNIT_EXP)
    self_weight_mant[alive] = layer.threshold[alive] >> self_weight_exp
    return Circuit(vth, bias_mant, bias_exp, self_weight_mant, self_weight_exp, source_mant, source_exp)
