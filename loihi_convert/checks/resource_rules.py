"""Rules on the Loihi 2 resources that a network takes."""

from __future__ import annotations

from typing import Final

from loihi_convert.checks.finding import Rule, Violation
from loihi_convert.chip import limits
from loihi_convert.chip.resources import Chips, LayerResources

_BRIEF: Final = 'Intel, "Loihi 2" technology brief, 2021'


def the_network_fits_the_chips(network: Chips) -> Violation | None:
    if network.shared_cores <= network.cores:
        return None
    return Violation(
        f"at least {network.shared_cores:,} neurocores",
        _available(network),
        _BRIEF,
        "Use fewer channels, a stride instead of a pooling, or a board with several chips (`chips=8`: Kapoho Point).",
    )


def the_network_fits_without_sharing_weights(network: Chips) -> Violation | None:
    if network.shared_cores > network.cores or network.expanded_cores <= network.cores:
        return None
    return Violation(
        f"{network.shared_cores:,} to {network.expanded_cores:,} neurocores",
        _available(network),
        _BRIEF,
        "It fits only if the compiler shares the kernels of convolutions. With fewer channels it always fits.",
    )


def the_synapses_of_a_neuron_fit_one_core(layer: LayerResources) -> Violation | None:
    if layer.fan_in <= limits.CORE_BYTES:
        return None
    found = f"a neuron with {layer.fan_in:,} input synapses"
    allowed = f"a neurocore has {limits.CORE_BYTES:,} bytes for the synapses of its neurons"
    return Violation(found, allowed, _BRIEF, "Reduce the inputs: use more stride or pooling before this layer.")


def no_pooling_multiplies_the_weights(layer: LayerResources) -> Violation | None:
    if layer.pooling == 1:
        return None
    return Violation(
        f"{layer.weights:,} weights in the file for {layer.weights // layer.pooling:,} of the CNN",
        "netx has no pooling, so each weight is repeated for every input of its window",
        "lava/lib/dl/netx/hdf5.py",
        "A stride instead of the pooling avoids that.",
    )


def _available(network: Chips) -> str:
    chips = "a chip has" if network.chips == 1 else f"{network.chips} chips have"
    return f"{chips} {network.cores:,}"


NEUROCORE_RULES: Final[tuple[Rule[Chips], ...]] = (
    Rule(the_network_fits_the_chips, {"lava": "note", "loihi2": "error"}),
    Rule(the_network_fits_without_sharing_weights, {"loihi2": "warning"}),
)


MEMORY_RULES: Final[tuple[Rule[LayerResources], ...]] = (
    Rule(the_synapses_of_a_neuron_fit_one_core, {"loihi2": "error"}),
    Rule(no_pooling_multiplies_the_weights, {"lava": "note", "loihi2": "note"}),
)
