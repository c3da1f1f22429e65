"""Rules on the Loihi 2 resources that a network takes."""

from __future__ import annotations

from typing import Final

from loihi_convert.checks.finding import Rule, Violation
from loihi_convert.chip import limits
from loihi_convert.neurocores.resources import Chips, LayerResources
from loihi_convert.neurocores.savings import span

_BRIEF: Final = 'Intel, "Loihi 2" technology brief, 2021'
_TABLES: Final = "tables of Intel's compiler in lava-dl's notebooks"


def the_network_fits_the_chips(network: Chips) -> Violation | None:
    low, _ = network.cores
    if low <= network.available:
        return None
    return Violation(f"{span(network.cores)} neurocores", _available(network), _BRIEF, _fix(network))


def the_network_surely_fits_the_chips(network: Chips) -> Violation | None:
    low, high = network.cores
    if low > network.available or high <= network.available:
        return None
    return Violation(f"{span(network.cores)} neurocores", _available(network), _BRIEF, _fix(network))


def the_synapses_of_a_neuron_fit_one_core(layer: LayerResources) -> Violation | None:
    if layer.fits:
        return None
    if layer.limit == "axons":
        found = f"{layer.weights // layer.neurons:,} inputs"
        allowed = f"a neurocore has {limits.AXONS_PER_CORE:,} axons in"
    else:
        found = f"{layer.core_words:,} words of synaptic memory for one channel"
        allowed = f"a neurocore has {limits.SYNAPSE_WORDS:,}"
    return Violation(found, allowed, _TABLES, "Reduce the inputs: use more stride or pooling before this layer.")


def no_pooling_multiplies_the_weights(layer: LayerResources) -> Violation | None:
    if layer.pooling == 1:
        return None
    return Violation(
        f"{layer.weights:,} weights in the file, each of the CNN's {layer.pooling} times",
        "netx has no pooling, so each weight is repeated for every input of its window",
        "lava/lib/dl/netx/hdf5.py",
        "A stride instead of the pooling avoids that.",
    )


def _fix(network: Chips) -> str:
    chips = "" if network.needed is None else f", or a board with {network.needed:,} chips (`chips={network.needed}`)"
    return f"Use fewer channels, or a stride instead of a pooling{chips}."


def _available(network: Chips) -> str:
    chips = "a chip has" if network.chips == 1 else f"{network.chips} chips have"
    return f"{chips} {network.available:,}"


NEUROCORE_RULES: Final[tuple[Rule[Chips], ...]] = (
    Rule(the_network_fits_the_chips, {"lava": "note", "loihi2": "error"}),
    Rule(the_network_surely_fits_the_chips, {"loihi2": "warning"}),
)


MEMORY_RULES: Final[tuple[Rule[LayerResources], ...]] = (
    Rule(the_synapses_of_a_neuron_fit_one_core, {"loihi2": "error"}),
    Rule(no_pooling_multiplies_the_weights, {"lava": "note", "loihi2": "note"}),
)
