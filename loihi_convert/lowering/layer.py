"""Two successive levels -> a layer of the chain: synapses, biases, and neurons.

Requires: the channels of both levels, and the number of groups of the kernel (`chain.py`).
Ensures: a layer with one kernel, stride, padding and number of groups: smaller kernels are embedded in the largest, and
a relay has a single tap of weight 1. A level with one population that uses only the level before keeps its own
geometry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Pair, frozen
from loihi_convert.ir.network import ReluLayer
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.lowering.levels import Levels, Relays, Sample
from loihi_convert.lowering.value import Population, Term
from loihi_convert.lowering.window import Window, pooled_size

# Most populations mentioned in the name of a layer.
_NAMES: Final = 3


@dataclass(frozen=True, eq=False)
class Layer:
    """The layer between two levels.

    Parameters
    ----------
    relays
        The levels and their relays.
    level
        The level of its neurons.
    inputs, outputs
        The channels of the level before and of this level, in order.
    """

    relays: Relays
    level: int
    inputs: Sequence[Sample]
    outputs: Sequence[Sample]

    @property
    def _levels(self) -> Levels:
        return self.relays.levels

    @property
    def _populations(self) -> list[Population]:
        return [self._levels.populations[number] for number in self._levels.on(self.level)]

    @property
    def is_dense(self) -> bool:
        return self._levels.is_dense[self.level]

    @property
    def plain_term(self) -> Term | None:
        """The only term of the only population, if it connects all channels of both levels, in order."""
        (first, *others) = self._populations
        if others or len(first.value.terms) != 1 or len(self.outputs) != first.shape[0]:
            return None
        (term,) = first.value.terms
        taken = [Sample(term.source, int(channel)) for channel in term.source_channels]
        in_order = [sample.channel for sample in self.outputs] == [*range(len(self.outputs))]
        is_whole = np.array_equal(term.channels, np.arange(len(self.outputs))) and taken == list(self.inputs)
        return term if in_order and is_whole and self._levels.of[term.source] == self.level - 1 else None

    @property
    def name(self) -> str:
        """The names of its populations, the first few if there are many."""
        names = list(dict.fromkeys(population.name for population in self._populations))
        more = [f"{len(names) - _NAMES + 1} more"] if len(names) > _NAMES else []
        return " + ".join(names if not more else [*names[: _NAMES - 1], *more])

    def grouping(self, blocks: Array) -> Grouping | None:
        """See `grouped`."""
        links = []
        for piece in self._pieces((1, 1)):
            if piece.weight.ndim == 1:
                links += [(piece.outputs[k : k + 1], piece.inputs[k : k + 1]) for k in range(len(piece.outputs))]
            else:
                links.append((piece.outputs, piece.inputs))
        return grouped(links, len(self.inputs), len(self.outputs), blocks)

    def relu_layer(self, name: str, groups: int) -> ReluLayer:
        """Return the layer under a ``name``, with its kernel in ``groups`` groups."""
        if self.is_dense and (size := self._levels.size(self.level)) != (1, 1):
            raise UnsupportedModelError(
                f"gives maps of {size} after a dense layer",
                where=self.name,
                expected="supported: dense layers, and maps of one pixel, after a dense layer",
            )
        term, bias = self.plain_term, self._bias()
        synapse = self._common(groups, bias) if term is None else self._own(term.window, term.size, bias)
        return ReluLayer(name, synapse, *self._activation(), self._relay_of())

    def _own(self, window: Window, size: Pair, bias: Array | None) -> Synapse:
        """A window that is the whole layer, with its own geometry; ``size`` is that of its input."""
        extent = pooled_size(size, window.pool)
        if self.is_dense:
            own = (window.groups, window.weight.shape[2:], window.padding, window.dilation)
            is_plain = own == (1, extent, (0, 0), (1, 1))
            return _dense(window.weight, bias, window.pool) if is_plain else self._common(1, bias)
        # A convolution pads both ends equally; pixels that do not fill a stride are left over at the second.
        ends = zip(window.padding, window.after((window.inputs, *extent)), window.stride, strict=True)
        if min(window.padding) < 0 or not all(0 <= pad - after < stride for pad, after, stride in ends):
            return self._common(window.groups, bias)
        return Conv(window.weight, bias, window.stride, window.padding, window.dilation, window.groups, window.pool)

    def _common(self, groups: int, bias: Array | None) -> Synapse:
        """All terms and relays in one kernel."""
        pool = self._pool()
        pieces = self._pieces(pool)
        extent = pooled_size(self._levels.size(self.level - 1), pool)
        if self.is_dense:
            weight = np.zeros((len(self.outputs), len(self.inputs), *extent))
            _write(weight, pieces, (0, 0))
            return _dense(weight, bias, pool)
        stride, count = self._levels.stride(self.level), self._levels.size(self.level)
        # With a single output position the stride does not matter.
        stride = (max(1, stride[0] // pool[0]), max(1, stride[1] // pool[1]))
        (top, rows), (left, columns) = (
            _padding_and_kernel({piece.shift[axis] for piece in pieces} or {0}, stride[axis], count[axis], extent[axis])
            for axis in (0, 1)
        )
        weight = np.zeros((len(self.outputs), len(self.inputs) // groups, rows, columns))
        _write(weight, pieces, (top, left))
        return Conv(frozen(weight), bias, stride, (top, left), groups=groups, pool=pool)

    def _pieces(self, pool: Pair) -> list[Piece]:
        return list(pieces_of(self.relays, self.level, self.inputs, self.outputs, pool))

    def _pool(self) -> Pair:
        """The pooling common to all terms; (1, 1) if there are relays."""
        terms = [term for population in self._populations for term in population.value.terms]
        pools = {term.window.pool for term in terms}
        has_relays = len(self.outputs) > sum(population.shape[0] for population in self._populations)
        before, size = self.level - 1, self._levels.size(self.level - 1)
        whole = all(self._levels.cell(before, term.source) == (1, 1) and term.size == size for term in terms)
        return pools.pop() if len(pools) == 1 and whole and not has_relays else (1, 1)

    def _bias(self) -> Array | None:
        """The constants of all populations; relays have no constant."""
        constants = [population.value.constant for population in self._populations]
        if all(constant is None for constant in constants):
            return None
        if self.plain_term is not None:
            return constants[0]
        are_maps = any(constant is not None and constant.ndim == 3 for constant in constants)
        bias = np.zeros((len(self.outputs), *(self._levels.size(self.level) if are_maps else ())))
        on_level = self._levels.on(self.level)
        maps = {number: self._levels.populations[number].value.map_of_constant() for number in on_level}
        for place, sample in enumerate(self.outputs):
            if sample.source in maps:
                constant = maps[sample.source][sample.channel]
                bias[place] = constant if are_maps else constant[0, 0]
        return bias

    def _activation(self) -> tuple[Array | None, int | None, Array | None]:
        """Thresholds, levels and ceilings of the channels, see `ReluLayer`."""
        thresholds, ceilings = np.full(len(self.outputs), np.nan), np.full(len(self.outputs), np.inf)
        levels = {population.levels for population in self._populations if population.levels is not None}
        if len(levels) > 1:
            raise UnsupportedModelError(
                f"has Qcfs activations with {' and '.join(map(str, sorted(levels)))} levels in one layer",
                where=self.name,
                expected="supported: one number of levels per layer",
            )
        for place, sample in enumerate(self.outputs):
            if self._levels.of[sample.source] == self.level:
                population = self._levels.populations[sample.source]
                ceilings[place] = population.ceiling
                if population.threshold is not None:
                    thresholds[place] = population.threshold[sample.channel]
        return (
            None if np.isnan(thresholds).all() else thresholds,
            levels.pop() if levels else None,
            None if np.isinf(ceilings).all() else ceilings,
        )

    def _relay_of(self) -> Array | None:
        place = {sample: number for number, sample in enumerate(self.inputs)}
        found = [
            -1 if self._levels.of[sample.source] == self.level else place[self.relays.repeated(self.level, sample)[0]]
            for sample in self.outputs
        ]
        return np.array(found) if max(found) >= 0 else None


def _write(weight: Array, pieces: Sequence[Piece], corner: Pair) -> None:
    """Add ``pieces`` to ``weight``, ``(C_out, C_in / groups, K_h, K_w)``; its tap at ``corner`` has no shift."""
    each = weight.shape[1]
    for outputs, inputs, values, shift in pieces:
        row, column = shift[0] + corner[0], shift[1] + corner[1]
        # A dense layer has no padding: inputs outside the map are 0.
        if not (0 <= row < weight.shape[2] and 0 <= column < weight.shape[3]):
            continue
        tap = weight[:, :, row, column]
        if values.ndim == 1:
            np.add.at(tap, (outputs, inputs % each), values)
        else:
            np.add.at(tap, (outputs[:, None], inputs[None, :] % each), values)


def _padding_and_kernel(shifts: set[int], stride: int, count: int, extent: int) -> tuple[int, int]:
    """The padding, equal at both ends, and the size of a kernel with taps at ``shifts`` and ``count`` output positions.

    A convolution has floor((extent + 2 p - k) / stride) + 1 output positions, the first of which starts at -p.
    """
    last = stride * (count - 1)
    padding = max(0, -min(shifts), max(shifts) + 1 - extent + last)
    return padding, max(max(shifts) + padding + 1, extent + 2 * padding - stride * count + 1)


def _dense(kernel: Array, bias: Array | None, pool: Pair) -> Dense:
    flat = None if bias is None else bias.reshape(len(bias))
    return Dense(kernel.reshape(len(kernel), -1), flat, pool)


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
