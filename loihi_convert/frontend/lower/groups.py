"""Which channels of a layer have to do with each other: the groups of its kernel.

Beside a convolution of few channels a layer may relay many: as one group it would hold a matrix of zeros. Relays beside
a depthwise or grouped convolution are groups of their own; a netx layer's groups all have the same size, so that small
ones are put together until they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from loihi_convert.arrays import Array


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of a kernel.

    Parameters
    ----------
    count
        How many.
    inputs, outputs
        int64: the channels in the order of the groups.
    """

    count: int
    inputs: Array
    outputs: Array


def grouped(links: Sequence[tuple[Array, Array]], inputs: int, outputs: int, blocks: Array) -> Grouping | None:
    """Return the groups of a kernel of so many ``inputs`` and ``outputs``; ``None``: they make only one.

    Parameters
    ----------
    links
        Outputs and inputs that belong together, each with each.
    blocks
        int64 ``(inputs,)``: the group that each input is an output of, in the layer before; it must stay in it.
    """
    label = _components(links, inputs, outputs)
    packs = _packs(label[:inputs], label[inputs:])
    if packs is None or packs.max(initial=0) == 0:
        return None
    pack_of_input, pack_of_output = packs[label[:inputs]], packs[label[inputs:]]
    order = np.lexsort((pack_of_input, blocks))
    # Packs may stand in any order, but each in one piece.
    sequence = pack_of_input[order]
    begins = np.flatnonzero(np.diff(sequence, prepend=-1))
    if len(begins) > packs.max() + 1:
        return None
    rank = np.empty(len(begins), np.int64)
    rank[sequence[begins]] = np.arange(len(begins))
    return Grouping(len(begins), order, np.argsort(rank[pack_of_output], kind="stable"))


def _components(links: Sequence[tuple[Array, Array]], inputs: int, outputs: int) -> Array:
    """The component of each input, then of each output."""
    ones: list[Array] = []
    others: list[Array] = []
    for rows, columns in links:
        # A star instead of each with each.
        members = np.concatenate([columns, rows + inputs])
        ones.append(np.full(len(members), members[0]))
        others.append(members)
    first, second = (np.concatenate(ends) if ends else np.zeros(0, np.int64) for ends in (ones, others))
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(inputs + outputs, inputs + outputs))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1])


def _packs(inputs: Array, outputs: Array) -> Array | None:
    """The pack of each component, so that all have the same number of inputs and of outputs; ``None``: impossible."""
    count = int(max(inputs.max(initial=-1), outputs.max(initial=-1))) + 1
    sizes = np.stack([np.bincount(labels, minlength=count) for labels in (inputs, outputs)], axis=1)
    largest = sizes.max(axis=0)
    packs, used = np.empty(count, np.int64), 0
    for size in np.unique(sizes, axis=0):
        members = np.flatnonzero((sizes == size).all(axis=1))
        if not size.all() or (largest % size).any() or len({*(largest // size)}) > 1:
            return None
        at_once = int(largest[0] // size[0])
        if len(members) % at_once:
            return None
        packs[members] = used + np.arange(len(members)) // at_once
        used += len(members) // at_once
    return packs
