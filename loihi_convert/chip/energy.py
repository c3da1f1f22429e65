"""Energy and time of one inference: counted events times published constants, as a range with stated exclusions.

Nothing here was measured on a chip. Only the counts are measured: spikes F and the synapses they reach S, means over
the images of a run up to step T. With N neurons (all are updated in every step), depth D, M the multiplications of the
CNN for one image and M_1 those of its first layer::

    Loihi 1, energy     e_syn (S + T M_1) + e_update N T + e_spike F
    Loihi 1, time       (t_syn (S + T M_1) + t_update N T + t_spike F) / cores + t_step (T + D)
    45 nm arithmetic    e_add (S + N T) + e_mac M_1; the CNN: e_mac M

with the low constants for the low end and the high ones for the high end. At the low end pixels are a constant current,
which costs Loihi nothing (no T M_1) and is multiplied once, and all 128 cores of a chip share the work evenly. At the
high end each pixel reaches its synapses in every step (T M_1 multiplications, too), and only as many cores as hold the
neurons share the work evenly.

If pixels are Poisson spikes, which are not counted, nothing is multiplied: the low end leaves them out, the high end
assumes a spike of every pixel in every step, T M_1 additions.

Relays (`ir.network`) count like all other neurons; their share is also given separately. So do the synapses and neurons
of the circuit of stock neurons (`metrics.work`). With it, N counts its neurons, too, and 2P replaces T, except
in T M_1; the high end includes the most that it may do in steps that are not run.

Constants of Loihi 1 are the lower and the higher of two sources: Intel's, from simulations before there was silicon (a
minimum for the energy of a synaptic operation), and SANA-FE's, fitted to a board; with its constants that simulator
predicts the energy and latency of three applications within 12 % and 25 %. No energy per operation of Loihi 2 is
public, so none is used here. One network was measured on Loihi 2 in public: `tools/pilotnet_cost.py` compares it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import Interval


class Constant(Record):
    """Cost of one event, at one end of a range.

    Attributes
    ----------
    event
        The event.
    end
        Which end of the range.
    value, unit
        Joules, ``"J"``, or seconds, ``"s"``.
    chip
        Generation and process.
    source
        The publication.
    leaves_out
        Costs of the event that the number does not include.
    """

    event: str
    end: Literal["low", "high"]
    value: float
    unit: Literal["J", "s"]
    chip: str
    source: str
    leaves_out: str


_LOIHI_1: Final = "Loihi 1, 14 nm"
_CMOS: Final = "CMOS, 45 nm, 0.9 V"
_DAVIES: Final = "Davies et al., IEEE Micro 38(1), 2018, table 2, pre-silicon, doi:10.1109/MM.2018.112130359"
_SANA_FE: Final = (
    "Boyle et al., IEEE TCAD 44(8), 2025, doi:10.1109/TCAD.2025.3537971; loihi.yaml of the package sanafe 2.2.9"
)
_HOROWITZ: Final = "Horowitz, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323"
_MEMORY: Final = "memory: fetching the operands"

_End = tuple[float, str, str]
"""Value, source, what is left out."""


def _range(
    event: str, unit: Literal["J", "s"], low: _End, high: _End, *, chip: str = _LOIHI_1
) -> tuple[Constant, Constant]:
    """The two constants of one event."""
    ends: tuple[tuple[Literal["low", "high"], _End], ...] = (("low", low), ("high", high))
    first, last = (
        Constant(event=event, end=end, value=value, unit=unit, chip=chip, source=source, leaves_out=leaves_out)
        for end, (value, source, leaves_out) in ends
    )
    return first, last


SYNAPTIC_ENERGY: Final = _range(
    "synaptic operation",
    "J",
    (23.6e-12, _DAVIES, "anything above the minimum"),
    # The most expensive of its three kinds of synapses, dense; 24.0 for a convolution, 33.6 for a sparse one.
    (35.5e-12, _SANA_FE, "learning"),
)
UPDATE_ENERGY: Final = _range(
    "membrane update",
    "J",
    (52e-12, _DAVIES, "the extra cost of an active neuron"),
    (81e-12, _DAVIES, "soft reset, if it takes more than one compartment"),
)
SPIKE_ENERGY: Final = _range(
    "spike",
    "J",
    (1.7e-12, _DAVIES, "everything except transport within a tile"),
    # 69.3 to generate it, 111.0 for one message, and the path across 8 x 4 tiles: 7 hops of 3.0 and 3 of 4.2.
    ((69.3 + 111.0 + 7 * 3.0 + 3 * 4.2) * 1e-12, _SANA_FE, "messages to further cores and other chips"),
)
SYNAPTIC_TIME: Final = _range(
    "synaptic operation",
    "s",
    # For a convolution; at most 3.5 ns in Davies et al.
    (3.1e-9, _SANA_FE, "waiting for spikes"),
    (4.7e-9, _SANA_FE, "waiting for spikes"),
)
UPDATE_TIME: Final = _range(
    "membrane update",
    "s",
    (5.3e-9, _DAVIES, "the extra cost of an active neuron"),
    # 6.0 to read the neuron, 3.7 to update it; 8.4 ns in Davies et al.
    ((6.0 + 3.7) * 1e-9, _SANA_FE, "soft reset, if it takes more than one compartment"),
)
SPIKE_TIME: Final = _range(
    "spike",
    "s",
    (2.1e-9, _DAVIES, "everything except transport within a tile"),
    # 30.0 to generate it, 5.1 to send and 16.0 to receive one message.
    ((30.0 + 5.1 + 16.0) * 1e-9, _SANA_FE, "hops, and messages that block each other"),
)
STEP_TIME: Final = _range(
    "barrier at the end of a time step",
    "s",
    (113e-9, _DAVIES, "tiles other than the first"),
    (1.8e-6, _SANA_FE, "other chips, and the management processors"),
)
ADD_ENERGY: Final = _range(
    "addition, of 8-bit integers to 32-bit floats",
    "J",
    (0.03e-12, _HOROWITZ, _MEMORY),
    (0.9e-12, _HOROWITZ, _MEMORY),
    chip=_CMOS,
)
MULTIPLY_ENERGY: Final = _range(
    "multiplication and addition, of 8-bit integers to 32-bit floats",
    "J",
    ((0.2 + 0.03) * 1e-12, _HOROWITZ, _MEMORY),
    ((3.7 + 0.9) * 1e-12, _HOROWITZ, _MEMORY),
    chip=_CMOS,
)

CONSTANTS: Final[tuple[Constant, ...]] = (
    *(*SYNAPTIC_ENERGY, *UPDATE_ENERGY, *SPIKE_ENERGY),
    *(*SYNAPTIC_TIME, *UPDATE_TIME, *SPIKE_TIME, *STEP_TIME),
    *(*ADD_ENERGY, *MULTIPLY_ENERGY),
)
"""All constants of the estimates."""

LOIHI1_CORES: Final = 128
"""Neurocores of a Loihi 1 chip (Davies et al. 2018)."""

LOIHI1_NEURONS_PER_CORE: Final = 1024
"""Compartments of a neurocore of Loihi 1 (Davies et al. 2018)."""


BOUNDARY: Final = (
    "Estimated from counted spikes, not measured on a chip. Included: synaptic operations, membrane updates and "
    "spikes of the cores of Loihi 1, and the barrier after each step; for the circuit of stock neurons (target "
    "loihi2), also its own synapses and neurons, and 2P steps per image, P the smallest power of two >= T. Not "
    "included: static power, host, input and output, management processors, links between chips. Low: the lower "
    "of Intel's simulated constants and those that SANA-FE fitted to a board; pixels as a current that costs nothing, "
    "or without their Poisson spikes; all 128 cores equally busy. High: the higher of both; all pixels through their "
    "synapses in every step, Poisson spikes, too; only as many cores as hold the neurons; the most spikes that the "
    "circuit may send in steps T + 1 to P. No energy per operation of Loihi 2 is public. A published measurement on "
    "Loihi 2, lava-dl's PilotNet, equals the low end of the energy and 1.4 times the high end of the time."
)
"""What the figures for Loihi 1 include and exclude, and how pixels are counted at each end."""

ARITHMETIC: Final = (
    "Arithmetic: the same counts as additions, and those of the CNN as multiplications and additions, from 8-bit "
    "integers to 32-bit floats in 45 nm, without memory, which costs more. Compare them only with each other."
)
"""The boundary of the arithmetic alone."""


class Estimate(Record):
    """Estimate for one inference of T steps, mean over the images of a run; pairs are (low, high).

    Attributes
    ----------
    timesteps
        T.
    synaptic_operations
        S, measured: synapses of nonzero weight reached by spikes of this network; input not counted.
    membrane_updates
        N T: every neuron, including output neurons, in every step; 2P instead of T with a circuit of stock neurons.
    spikes
        F, measured.
    loihi1_joules, loihi1_seconds
        See this module's docstring.
    arithmetic_joules
        The same counts as arithmetic alone, in 45 nm.
    relay_synaptic_operations, relay_membrane_updates, relay_spikes, relay_loihi1_joules
        Shares of relays in the values above; None if their spikes were not counted.
    circuit_membrane_updates, circuit_loihi1_joules
        Shares of the circuit of stock neurons in the values above; None without it.
    """

    timesteps: int
    synaptic_operations: float
    membrane_updates: int
    spikes: float
    loihi1_joules: Interval
    loihi1_seconds: Interval
    arithmetic_joules: Interval
    relay_synaptic_operations: float | None
    relay_membrane_updates: int
    relay_spikes: float | None
    relay_loihi1_joules: Interval | None
    circuit_membrane_updates: int | None
    circuit_loihi1_joules: Interval | None


class RelayEvents(NamedTuple):
    """The relays of a network: their number, spikes and synaptic operations; None if not counted."""

    neurons: int = 0
    spikes: float | None = 0.0
    synaptic_operations: float | None = 0.0


_NO_RELAYS: Final = RelayEvents()


class CircuitEvents(NamedTuple):
    """The circuit of stock neurons in one inference, mean over images; see `metrics.work`.

    Parameters
    ----------
    steps
        2P, in which all neurons are updated.
    neurons, spikes, synaptic_operations
        Its own neurons, their spikes, and the synaptic operations of its synapses.
    further_spikes, further_synaptic_operations
        The most that steps T + 1 to P add: 0 if T is a power of two.
    """

    steps: int
    neurons: int
    spikes: int
    synaptic_operations: float
    further_spikes: float
    further_synaptic_operations: float


class Energy(Record):
    """The estimated cost of an inference at every reported T, with the information needed to interpret it.

    Attributes
    ----------
    boundary
        What is included and what is not.
    cnn_arithmetic_joules
        (low, high) for the CNN's multiplications, arithmetic alone, in 45 nm; None if their number is unknown.
    estimates
        By ascending T.
    constants
        Every constant used.
    """

    boundary: str
    cnn_arithmetic_joules: Interval | None
    estimates: tuple[Estimate, ...]
    constants: tuple[Constant, ...]


class NetworkSize(NamedTuple):
    """What of a network takes energy at every T.

    Parameters
    ----------
    neuron_counts
        Number of neurons of each layer, without those of the circuit.
    input_synapses
        M_1: synapses of nonzero weight that the pixels of one image reach.
    is_poisson
        Whether pixels enter as random spikes.
    """

    neuron_counts: Sequence[int]
    input_synapses: int
    is_poisson: bool = False


def estimate(
    size: NetworkSize,
    timesteps: int,
    spikes: float,
    synaptic_operations: float,
    *,
    relays: RelayEvents = _NO_RELAYS,
    circuit: CircuitEvents | None = None,
) -> Estimate:
    """Return the estimate for one T.

    Parameters
    ----------
    spikes, synaptic_operations
        Counts up to step T, mean over images, with those of the circuit.
    """
    neuron_counts, input_synapses, is_poisson = size
    own = CircuitEvents(timesteps, 0, 0, 0.0, 0.0, 0.0) if circuit is None else circuit
    neurons = sum(neuron_counts) + own.neurons
    updates, relay_updates = neurons * own.steps, relays.neurons * own.steps
    circuit_updates = updates - sum(neuron_counts) * timesteps
    # Of the two ends, only the high one counts these.
    high = np.array([0, 1])
    pixels = high * timesteps * input_synapses
    sent = spikes + high * own.further_spikes
    additions = synaptic_operations + high * own.further_synaptic_operations
    chips = math.ceil(neurons / (LOIHI1_CORES * LOIHI1_NEURONS_PER_CORE))
    cores = np.array([LOIHI1_CORES * chips, math.ceil(neurons / LOIHI1_NEURONS_PER_CORE)])
    work = _total((SYNAPTIC_TIME, additions + pixels), (UPDATE_TIME, updates), (SPIKE_TIME, sent))
    waits = _total((STEP_TIME, own.steps + len(neuron_counts)))
    added, multiplied = additions + updates, np.array([input_synapses, timesteps * input_synapses])
    if is_poisson:
        added, multiplied = added + pixels, 0 * multiplied
    relay_joules = None
    if relays.spikes is not None and relays.synaptic_operations is not None:
        relay_joules = _joules(relays.synaptic_operations, relay_updates, relays.spikes)
    circuit_operations = own.synaptic_operations + high * own.further_synaptic_operations
    circuit_joules = _joules(circuit_operations, circuit_updates, own.spikes + high * own.further_spikes)
    return Estimate(
        timesteps=timesteps,
        synaptic_operations=synaptic_operations,
        membrane_updates=updates,
        spikes=spikes,
        loihi1_joules=_joules(additions + pixels, updates, sent),
        loihi1_seconds=_interval(work / cores + waits),
        arithmetic_joules=_interval(_total((ADD_ENERGY, added), (MULTIPLY_ENERGY, multiplied))),
        relay_synaptic_operations=relays.synaptic_operations,
        relay_membrane_updates=relay_updates,
        relay_spikes=relays.spikes,
        relay_loihi1_joules=relay_joules,
        circuit_membrane_updates=None if circuit is None else circuit_updates,
        circuit_loihi1_joules=None if circuit is None else circuit_joules,
    )


def _joules(synaptic_operations: Array | float, updates: int, spikes: Array | float) -> Interval:
    """Energy of these events on Loihi 1."""
    return _interval(_total((SYNAPTIC_ENERGY, synaptic_operations), (UPDATE_ENERGY, updates), (SPIKE_ENERGY, spikes)))


def _total(*events: tuple[tuple[Constant, Constant], Array | float]) -> Array:
    """The cost of events at both ends; their number is the same at both, or (low, high)."""
    return np.asarray(sum(np.array([end.value for end in ends]) * number for ends, number in events))


def _interval(ends: Array) -> Interval:
    low, high = ends.tolist()
    return low, high


def energy(estimates: Sequence[Estimate], multiply_accumulates: int | None) -> Energy:
    """Return ``estimates`` with their boundary and the CNN's arithmetic: ``multiply_accumulates`` per image."""
    of_cnn = None if multiply_accumulates is None else _interval(_total((MULTIPLY_ENERGY, multiply_accumulates)))
    return Energy(
        boundary=f"{BOUNDARY} {ARITHMETIC}",
        cnn_arithmetic_joules=of_cnn,
        estimates=tuple(estimates),
        constants=CONSTANTS,
    )
