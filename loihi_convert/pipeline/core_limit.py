"""A CNN that takes more neurocores than its limit is refused, with what would fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.checks.network_rules import the_synapses_of_a_neuron_fit_one_core
from loihi_convert.chip.resources import Chips, network_resources
from loihi_convert.chip.savings import span
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.skip_copies import COPIES
from loihi_convert.errors import InputError
from loihi_convert.frontend.source import Source
from loihi_convert.ir.layered import layer_words
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.quantized import QuantizedNetwork

_NAMED_LAYERS: Final = 3


def require_cores(
    source: Source, options: QuantizeOptions, skip_copies: int | None, balance_options: BalanceOptions
) -> None:
    """Raise the `InputError` of `converted` about ``max_cores``; called before any work.

    For the fewest relays, if their number is chosen by trials, and without bias correction, if trials choose it.
    """
    if options.max_cores is not None:
        core_notes(_network(source, skip_copies or 1, has_correction=bool(balance_options.bias_correction)), options)


def correction_that_fits(
    source: Source, options: QuantizeOptions, skip_copies: int | None, balance_options: BalanceOptions
) -> tuple[BalanceOptions, tuple[str, ...]]:
    """Return ``balance_options``, without the choice of a bias correction that exceeds ``max_cores``, and a note."""
    if options.max_cores is None or balance_options.bias_correction or not balance_options.may_correct:
        return balance_options, ()
    cores = _resources(_network(source, skip_copies or 1, has_correction=True), options).cores
    if cores[0] <= options.max_cores:
        return balance_options, ()
    note = (
        f"without bias correction: with more biases the network would need {span(cores)} neurocores, and the limit is "
        f"{options.max_cores:,}"
    )
    return replace(balance_options, bias_correction=False), (note,)


def copies_that_fit(source: Source, options: QuantizeOptions, *, may_correct: bool) -> tuple[int, ...]:
    """Return those numbers of relays of `COPIES` that certainly do not exceed ``max_cores``, and the smallest."""
    if options.max_cores is None:
        return COPIES
    least, *others = COPIES
    found = {count: _resources(_network(source, count, has_correction=may_correct), options) for count in others}
    return least, *(count for count, chips in found.items() if chips.cores[1] <= options.max_cores)


def core_notes(network: ReluNetwork | QuantizedNetwork, options: QuantizeOptions) -> tuple[str, ...]:
    """Refuse a network that takes more than ``max_cores`` neurocores; return a note if it may take more."""
    if options.max_cores is None:
        return ()
    chips = _resources(network, options)
    for layer in chips.layers:
        if (violation := the_synapses_of_a_neuron_fit_one_core(layer)) is not None:
            hint = f"{violation.fix} {_remedies(chips, options.max_cores)}"
            raise InputError(violation.found, where=layer.name, expected=violation.allowed, hint=hint)
    low, high = chips.cores
    if low > options.max_cores:
        expected = f"must be at most {options.max_cores:,}"
        raise InputError(
            f"the network needs {span(chips.cores)} neurocores",
            expected=expected,
            hint=_remedies(chips, options.max_cores),
        )
    if high > options.max_cores:
        return (
            f"the network needs {span(chips.cores)} neurocores, so it may exceed the limit of {options.max_cores:,}",
        )
    return ()


def _network(source: Source, skip_copies: int, *, has_correction: bool) -> ReluNetwork:
    """Return the network of ``source``; with a bias in every layer but the first after a bias correction."""
    network = source.with_skip_copies(skip_copies).network
    if not has_correction:
        return network
    first, *others = network.layers
    biased = (
        replace(layer, synapse=layer.synapse.with_added_bias(np.zeros(layer.synapse.channels))) for layer in others
    )
    return replace(network, layers=(first, *biased))


def _resources(network: ReluNetwork | QuantizedNetwork, options: QuantizeOptions) -> Chips:
    return network_resources(network, has_circuit=options.target == "loihi2")


def _remedies(chips: Chips, most: int) -> str:
    """Return the largest layers, and what would fit ``most`` neurocores."""
    largest = ", ".join(f"{layer_words(layer.name)} ({span(layer.cores)})" for layer in chips.largest[:_NAMED_LAYERS])
    sources = f"; sources of biases: {chips.source_cores:,}" if chips.source_cores else ""
    sentences = [f"The largest layers: {largest}{sources}."]
    narrower = chips.narrower(most)
    if narrower is not None:
        share, cores = narrower
        sentences.append(f"With {share} of the channels in every layer except the last, it needs {span(cores)}.")
    sentences += [f"Saves most: {saving.sentence}." for saving in chips.savings[:1]]
    if chips.needed is not None:
        sentences.append(f"As it is, it needs {chips.needed:,} chip{'s' * (chips.needed > 1)}.")
    return " ".join(sentences)
