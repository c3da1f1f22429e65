"""Grouping of connected channels of a layer: the groups of its kernel.

A layer may have a small convolution and many relays: in one group it would contain a matrix of zeros. Relays next to a
depthwise or grouped convolution become separate groups. All groups of a netx layer have the same size, so small groups
are merged until they have that size.

Example: a layer has the outputs 0 to 3 of a depthwise convolution, and relays 4 to 7 of its inputs 0 to 3. Output c and
relay 4 + c read input c, so these are a *component* with one input and two outputs. There are 4 groups, with the
outputs in the order 0, 4, 1, 5, 2, 6, 3, 7. Components of unequal sizes are merged to *packs*, which become the groups:
one of 2 inputs and 2 outputs beside four relays gives 3 packs, of which two have two relays each. If sizes do not fill
the largest, all packs are alike: 4 components of 2 inputs and 1 output beside 8 relays give 4 packs, each with two
relays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of a kernel.

    Parameters
    ----------
    count
        Number of groups.
    inputs, outputs
        int64: the channels, ordered by group.
    """

    count: int
    inputs: Array
    outputs: Array


def grouped(links: Sequence[tuple[Array, Array]], inputs: int, outputs: int, blocks: Array) -> Grouping | None:
    """Return the groups of a kernel with ``inputs`` input and ``outputs`` output channels; ``None`` if only one.

    Parameters
    ----------
    links
        Sets of outputs and inputs that are all connected with each other.
    blocks
        int64 ``(inputs,)``: the group of each input in the layer before, which must be preserved.
    """
    label = _components(links, inputs, outputs)
    packs = _packs(label[:inputs], label[inputs:])
    if packs.max(initial=0) == 0:
        return None
    pack_of_input, pack_of_output = packs[label[:inputs]], packs[label[inputs:]]
    order = np.lexsort((pack_of_input, blocks))
    # Packs may be in any order, but each must be contiguous.
    sequence = pack_of_input[order]
    begins = np.flatnonzero(np.diff(sequence, prepend=-1))
    if len(begins) > packs.max() + 1:
        return None
    rank = np.empty(len(begins), np.int64)
    rank[sequence[begins]] = np.arange(len(begins))
    return Grouping(len(begins), order, np.argsort(rank[pack_of_output], kind="stable"))


def _components(links: Sequence[tuple[Array, Array]], inputs: int, outputs: int) -> Array:
    """The component of each input, then of each output."""
    from scipy import sparse

    ones: list[Array] = []
    others: list[Array] = []
    for rows, columns in links:
        # A star instead of all pairs.
        members = np.concatenate([columns, rows + inputs])
        ones.append(np.full(len(members), members[0]))
        others.append(members)
    first, second = (np.concatenate(ends) if ends else np.zeros(0, np.int64) for ends in (ones, others))
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(inputs + outputs, inputs + outputs))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1])


def _packs(inputs: Array, outputs: Array) -> Array:
    """The pack of each component; all packs have as many inputs and outputs as the largest component, or are alike.

    ``inputs`` and ``outputs`` are the component of each.
    """
    count = int(max(inputs.max(initial=-1), outputs.max(initial=-1))) + 1
    sizes = np.stack([np.bincount(labels, minlength=count) for labels in (inputs, outputs)], axis=1)
    kinds = np.unique(sizes, axis=0)
    members = [np.flatnonzero((sizes == size).all(axis=1)) for size in kinds]
    packs, used, largest = np.empty(count, np.int64), 0, sizes.max(axis=0)
    for size, own in zip(kinds, members, strict=True):
        at_once = int(largest[0] // max(size[0], 1))
        if (size * at_once != largest).any() or len(own) % at_once:
            return _alike_packs(count, members)
        packs[own] = used + np.arange(len(own)) // at_once
        used += len(own) // at_once
    return packs


def _alike_packs(count: int, members: Sequence[Array]) -> Array:
    """The pack of each of ``count`` components; each pack has as many ``members`` of each size."""
    packs, alike = np.empty(count, np.int64), math.gcd(*map(len, members))
    for own in members:
        packs[own] = np.arange(len(own)) * alike // len(own)
    return packs
