"""The synapses of a layer, as pieces of its kernel: one for each kernel tap of a term, and one for each relay.

Requires: the channels of two successive levels, which contain all samples that are read (`Relays.by_level`).
Ensures: pieces whose sum is the kernel, in one group and without padding. Inputs and outputs are positions in the
channels of the two levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from loihi_convert.arrays import Array, Pair
from loihi_convert.frontend.lower.relays import Relays, Sample
from loihi_convert.frontend.lower.value import Term


class Piece(NamedTuple):
    """Synapses of one kernel tap.

    Attributes
    ----------
    outputs, inputs
        int64: the channels.
    weight
        float64: all inputs to all outputs, ``(outputs, inputs)``, or pairwise, ``(outputs,)``.
    shift
        The tap, vertical and horizontal, from the position of the output.
    """

    outputs: Array
    inputs: Array
    weight: Array
    shift: Pair


def pieces_of(
    relays: Relays, level: int, inputs: Sequence[Sample], outputs: Sequence[Sample], pool: Pair
) -> Iterator[Piece]:
    """Yield the synapses of all relays and terms of a level; windows keep their pooling if it is ``pool``."""
    levels = relays.levels
    place = {sample: number for number, sample in enumerate(inputs)}
    own: dict[int, list[int]] = {number: [] for number in levels.on(level)}
    for number, sample in enumerate(outputs):
        if sample.source in own:
            own[sample.source].append(number)
        else:
            source, shift = relays.repeated(level, sample)
            yield Piece(np.array([number]), np.array([place[source]]), np.ones(1), shift)
    for number, channels in own.items():
        ordered = np.array(sorted(channels, key=lambda each: outputs[each].channel))
        for term in levels.populations[number].value.terms:
            window = term.window if term.window.pool == pool else term.window.unpooled()
            for copy in range(copies := relays.copies(number, term)):
                shared = window if copies == 1 else replace(window, weight=window.weight / copies)
                yield from _of_term(relays, level, replace(term, window=shared), ordered, place, copy)


def _of_term(
    relays: Relays, level: int, term: Term, outputs: Array, place: dict[Sample, int], copy: int
) -> Iterator[Piece]:
    """The pieces of a term that reads the copies ``copy``; ``outputs`` are the channels of its population."""
    window, mine = term.window, outputs[term.channels]
    for row, column, weight, used in relays.taps(level, term.source, window):
        shift = (row.cells, column.cells)
        samples = (Sample(term.source, int(c), row.pixels, column.pixels, copy) for c in term.source_channels[used])
        inputs = np.full(window.inputs, -1)
        inputs[used] = [place[sample] for sample in samples]
        if window.is_channelwise:
            yield Piece(mine[used], inputs[used], weight[used, 0], shift)
            continue
        groups = zip(*(np.split(each, window.groups) for each in (inputs, mine, weight)), strict=True)
        for group_inputs, group_outputs, group_weight in groups:
            read = group_inputs >= 0
            if read.any():
                yield Piece(group_outputs, group_inputs[read], group_weight[:, read], shift)
