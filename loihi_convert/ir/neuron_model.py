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

**Circuit** (`NeuronModel.CIRCUIT`, `NeuronModel.LEAKY_CIRCUIT`; stock Lava Processes, see `ir.circuit`), with the
current u of Lava's LIF as the membrane, u(0) = 0::

    u(t) = wrap(decay(u(t-1)) - theta s(t-1) + I(t) + b)     into (-2^17, 2^17]
    s(t) = [u(t) > theta - V0 - 1]
    V(t) = V0 + u(t) - theta s(t)

    decay(u) = u                                with du = -1
    decay(u) = sign(u) floor(4095 |u| / 4096)   with du = 0, in units of 1/64

As long as nothing wraps or clips, the circuit without leak computes the same V and s as soft reset.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from loihi_convert.chip import limits
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.choices import Neuron, Reset
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
        return _LIMITS[self]


_LIMITS: Final[dict[NeuronModel, float]] = {
    NeuronModel.SOFT: limits.POTENTIAL_LIMIT,
    NeuronModel.HARD: limits.LIF_POTENTIAL_LIMIT,
    NeuronModel.STOCK_LIF: limits.LIF_POTENTIAL_LIMIT,
    NeuronModel.CIRCUIT: limits.WRAPS_ABOVE,
    NeuronModel.LEAKY_CIRCUIT: limits.WRAPS_ABOVE,
}


def neuron_model(network: QuantizedNetwork, neuron: Neuron | None = None, *, leak: bool = False) -> NeuronModel:
    """Return the neuron model of ``network`` in a run.

    Parameters
    ----------
    network
        Its target and reset are those of the file.
    neuron
        The user's choice; by default ``stock`` for target ``loihi2``, ``own`` for target ``lava``.
    leak
        Whether the neurons of the circuit leak (``du = 0`` instead of -1).

    Raises
    ------
    UsageError
        If the circuit cannot hold this network, or ``leak`` is set for neurons that cannot leak.
    """
    is_circuit = network.target == "loihi2" if neuron is None else neuron == "stock"
    if is_circuit and network.target != "loihi2":
        raise UsageError(
            f"the file was exported for target {network.target}: stock Loihi 2 neurons cannot hold its parameters",
            hint="Export it with `target='loihi2'`, or run it on `backend` ref or sim without `neuron='stock'`.",
        )
    if leak and not is_circuit:
        raise UsageError(
            f"this run uses {network.reset}-reset neurons, which do not leak",
            where="leak",
            expected="must be off unless the neurons are stock",
            hint="Export the file with `target='loihi2'`, and run it with `neuron='stock'`.",
        )
    if is_circuit:
        return NeuronModel.LEAKY_CIRCUIT if leak else NeuronModel.CIRCUIT
    return NeuronModel(network.reset)
