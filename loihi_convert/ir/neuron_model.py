"""The neuron model of a run, chosen from the file and the user's request.

With I(t) the weighted inputs of step t, b the bias, theta the threshold, V0 the initial potential and V(0) = V0:

**Soft reset** (`NeuronModel.SOFT`; the custom Process SoftResetIF, in weight units)::

    V(t) = clip(V(t-1) + I(t) + b, -131071, 131071)
    s(t) = [V(t) >= theta]
    V(t) = V(t) - theta s(t)

**Hard reset** (`NeuronModel.HARD`; Lava's own LIF without leak, in units of 1/64)::

    V(t) = clip(V(t-1) + I(t) + b, -limit, limit)       limit = (2^23 - 1) / 64
    s(t) = [V(t) > theta - 1]
    V(t) = 0 where s(t)

**Stock LIF** (`NeuronModel.STOCK_LIF`; what unmodified lava-dl builds from any file of this package)::

    V(t) = clip(V(t-1) + wrap(I(t)) + int16(b), -limit, limit)     V(0) = 0, and the rest as with hard reset

where wrap(x) is into (-2^17, 2^17]. A last layer that only integrates is a LIF with theta = 2^17 if it has a bias, and
otherwise Lava's integrator, u(t) = wrap(u(t-1) + I(t)). For a file of hard reset nothing wraps, and V0 is 0, so that
both are the same while the output's potentials stay in range.

**Circuit** (`NeuronModel.CIRCUIT`, `NeuronModel.LEAKY_CIRCUIT`; stock Lava Processes, see below), with the
current u of Lava's LIF as the membrane, u(0) = 0::

    u(t) = wrap(decay(u(t-1)) - theta s(t-1) + I(t) + b)     into (-2^17, 2^17]
    s(t) = [u(t) > theta - V0 - 1]
    V(t) = V0 + u(t) - theta s(t)

    decay(u) = u                                with du = -1
    decay(u) = sign(u) floor(4095 |u| / 4096)   with du = 0, in units of 1/64

As long as nothing wraps or clips, the circuit without leak computes the same V and s as soft reset.

The circuit is soft reset built from stock Loihi 2 processes. The LIF resets hard and has one threshold for a whole
population. With ``du = -1`` (u never decays) and ``dv = 4096`` (v has no memory) its current u is the membrane
potential, and its voltage v serves only for the comparison::

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
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from loihi_convert.chip import limits, rules
from loihi_convert.chip.rules import IntegerLayer
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array, freeze

if TYPE_CHECKING:
    from loihi_convert.ground.choices import Neuron, Reset
    from loihi_convert.ir.quantized import QuantizedNetwork


class NeuronModel(Enum):
    """A neuron model; the equations are in the docstring of this module."""

    SOFT = "soft"
    HARD = "hard"
    STOCK_LIF = "stock LIF"
    CIRCUIT = "stock circuit"
    LEAKY_CIRCUIT = "leaky stock circuit"

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        return self.value

    @property
    def is_circuit(self) -> bool:
        """Whether it is built from stock Processes; its state is then u, which starts at 0 and does not include V0."""
        return self in (NeuronModel.CIRCUIT, NeuronModel.LEAKY_CIRCUIT)

    @property
    def leaks(self) -> bool:
        """Whether its state decays from step to step."""
        return self is NeuronModel.LEAKY_CIRCUIT

    @property
    def reset(self) -> Reset:
        """Reset after a spike: subtract the threshold, or set the potential to 0."""
        return "hard" if self in (NeuronModel.HARD, NeuronModel.STOCK_LIF) else "soft"

    @property
    def du(self) -> int:
        """``du`` of the circuit's LIF: u decays by ``(du + 1) / 4096`` of its value in each step."""
        return 0 if self.leaks else -1

    @property
    def fraction_bits(self) -> int:
        """Bits of the integer state below one weight unit."""
        return 0 if self is NeuronModel.SOFT else limits.UNIT_EXP

    @property
    def limit(self) -> float:
        """Largest state in weight units: beyond it a potential is clipped, or the u of a circuit wraps."""
        if self.is_circuit:
            return limits.WRAPS_ABOVE
        return limits.POTENTIAL_LIMIT if self is NeuronModel.SOFT else limits.LIF_POTENTIAL_LIMIT


def neuron_model(network: QuantizedNetwork, neuron: Neuron | None = None, *, leak: bool = False) -> NeuronModel:
    """Return the neuron model of ``network`` in a run.

    ``neuron`` is the user's choice; by default ``stock`` for target ``loihi2``, ``own`` for target ``lava``. ``leak``:
    whether the neurons of the circuit leak (``du = 0`` instead of -1).

    Raises
    ------
    UsageError
        If the circuit cannot hold this network, or ``leak`` is set for neurons that cannot leak.
    """
    is_circuit = network.is_circuit if neuron is None else neuron == "stock"
    if is_circuit and not network.is_circuit:
        raise UsageError(
            f"the file was exported for target {network.target}: stock Loihi 2 neurons cannot hold its parameters",
            hint="Export it with `target='loihi2'`, or run it on `backend` ref or sim without `neuron='stock'`.",
        )
    if leak and not is_circuit:
        found = f"this run uses {network.reset}-reset neurons, which do not leak"
        hint = "Export the file with `target='loihi2'`, and run it with `neuron='stock'`."
        raise UsageError(found, where="leak", expected="must be off unless the neurons are stock", hint=hint)
    if is_circuit:
        return NeuronModel.LEAKY_CIRCUIT if leak else NeuronModel.CIRCUIT
    return NeuronModel(network.reset)


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
