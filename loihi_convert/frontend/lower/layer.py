"""One level as a layer: the synapses of its populations and relays in one kernel."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array, Pair, frozen
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower.groups import Grouping, grouped
from loihi_convert.frontend.lower.levels import Levels, Sample, offsets_of
from loihi_convert.frontend.lower.populations import Population
from loihi_convert.frontend.lower.value import Term
from loihi_convert.frontend.lower.window import Window
from loihi_convert.ir.network import ReluLayer
from loihi_convert.ir.quantized import MAX_NAME_LENGTH
from loihi_convert.ir.synapse import Conv, Dense, Synapse

# Most populations mentioned in the name of a layer.
_NAMES: Final = 3


class _Piece(NamedTuple):
    """Synapses of one kernel tap: all inputs to all outputs, or pairwise if ``weight`` is (n,)."""

    outputs: Array
    inputs: Array
    weight: Array
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One level as a layer; ``inputs`` and ``outputs`` are the channels of the level before and of this level."""

    levels: Levels
    level: int
    inputs: Sequence[Sample]
    outputs: Sequence[Sample]

    @property
    def populations(self) -> list[Population]:
        return [self.levels.populations[number] for number in self.levels.on(self.level)]

    @property
    def is_dense(self) -> bool:
        return self.levels.is_dense(self.level)

    @property
    def plain_term(self) -> Term | None:
        """The only term of the only population, if it connects all channels of both levels, in order."""
        (first, *others) = self.populations
        if others or len(first.value.terms) != 1 or len(self.outputs) != first.shape[0]:
            return None
        (term,) = first.value.terms
        taken = [Sample(term.source, int(channel)) for channel in term.columns]
        in_order = [sample.channel for sample in self.outputs] == [*range(len(self.outputs))]
        is_whole = np.array_equal(term.rows, np.arange(len(self.outputs))) and taken == list(self.inputs)
        return term if in_order and is_whole and self.levels.of[term.source] == self.level - 1 else None

    def groups(self, blocks: Array) -> Grouping | None:
        """See `groups.grouped`."""
        links = []
        for piece in self._pieces((1, 1)):
            if piece.weight.ndim == 1:
                links += [(piece.outputs[k : k + 1], piece.inputs[k : k + 1]) for k in range(len(piece.outputs))]
            else:
                links.append((piece.outputs, piece.inputs))
        return grouped(links, len(self.inputs), len(self.outputs), blocks)

    def layer(self, groups: int, names: Collection[str]) -> ReluLayer:
        """Return the layer, with its kernel in ``groups`` groups and a name that is not in ``names``."""
        if self.is_dense and (size := self.levels.size(self.level)) != (1, 1):
            raise UnsupportedModelError(
                f"gives maps of {size} after a dense layer",
                where=self._name(),
                expected="supported: dense layers, and maps of one pixel, after a dense layer",
            )
        term, bias = self.plain_term, self._bias()
        synapse = self._synapse(groups, bias) if term is None else self._as_it_is(term.window, term.size, bias)
        return ReluLayer(_unique(self._name(), names), synapse, *self._activation(), self._relay_of())

    def _as_it_is(self, window: Window, size: Pair, bias: Array | None) -> Synapse:
        """The window with its own geometry."""
        extent = (size[0] // window.pool[0], size[1] // window.pool[1])
        if self.is_dense:
            kernel = window.weight
            if window.groups > 1 or kernel.shape[2:] != extent or window.padding != (0, 0) or window.dilation != (1, 1):
                kernel = _over_map(window.ungrouped(), extent)
            return Dense(kernel.reshape(len(kernel), -1), _flat(bias), window.pool)
        # A convolution pads both ends equally; pixels that do not fill a stride are left over at the second.
        ends = zip(window.padding, window.after((window.inputs, *extent)), window.stride, strict=True)
        if min(window.padding) < 0 or not all(0 <= pad - after < stride for pad, after, stride in ends):
            return self._synapse(window.groups, bias)
        return Conv(window.weight, bias, window.stride, window.padding, window.dilation, window.groups, window.pool)

    def _synapse(self, groups: int, bias: Array | None) -> Synapse:
        """All pieces in one kernel."""
        pool = self._pool()
        pieces = list(self._pieces(pool))
        size = self.levels.size(self.level - 1)
        extent = (size[0] // pool[0], size[1] // pool[1])
        if self.is_dense:
            weight = np.zeros((len(self.outputs), len(self.inputs), *extent))
            _write(weight, pieces, (0, 0))
            return Dense(weight.reshape(len(weight), -1), _flat(bias), pool)
        stride, count = self.levels.stride(self.level), self.levels.size(self.level)
        # With a single output position the stride does not matter.
        stride = (max(1, stride[0] // pool[0]), max(1, stride[1] // pool[1]))
        (top, rows), (left, columns) = (
            _padding_and_kernel(set(shifts) or {0}, *along)
            for shifts, *along in (
                ([piece.rows for piece in pieces], stride[0], count[0], extent[0]),
                ([piece.columns for piece in pieces], stride[1], count[1], extent[1]),
            )
        )
        weight = np.zeros((len(self.outputs), len(self.inputs) // groups, rows, columns))
        _write(weight, pieces, (top, left))
        return Conv(frozen(weight), bias, stride, (top, left), groups=groups, pool=pool)

    def _pool(self) -> Pair:
        """The pooling common to all terms; (1, 1) if there are relays."""
        terms = [term for population in self.populations for term in population.value.terms]
        pools = {term.window.pool for term in terms}
        has_relays = len(self.outputs) > sum(population.shape[0] for population in self.populations)
        before, size = self.level - 1, self.levels.size(self.level - 1)
        whole = all(self.levels.cell(before, term.source) == (1, 1) and term.size == size for term in terms)
        return pools.pop() if len(pools) == 1 and whole and not has_relays else (1, 1)

    def _pieces(self, pool: Pair) -> Iterator[_Piece]:
        """The synapses of all terms and relays; windows keep their pooling if it is ``pool``."""
        place = {sample: number for number, sample in enumerate(self.inputs)}
        first: dict[int, list[int]] = {}
        for number, sample in enumerate(self.outputs):
            if self.levels.of[sample.source] == self.level:
                first.setdefault(sample.source, []).append(number)
            else:
                source, shift = self.levels.relayed(self.level, sample)
                yield _Piece(np.array([number]), np.array([place[source]]), np.ones(1), *shift)
        for number in self.levels.on(self.level):
            order = np.argsort([self.outputs[each].channel for each in first[number]])
            outputs = np.array(first[number])[order]
            for term in self.levels.populations[number].value.terms:
                window = term.window if term.window.pool == pool else term.window.unpooled()
                for copy in range(copies := self.levels.copies(number, term)):
                    shared = window if copies == 1 else replace(window, weight=window.weight / copies)
                    yield from self._of_term(replace(term, window=shared), outputs, place, copy)

    def _of_term(self, term: Term, outputs: Array, place: dict[Sample, int], copy: int) -> Iterator[_Piece]:
        window, rows = term.window, outputs[term.rows]
        down, across = (self.levels.taps(self.level, term.source, offsets_of(window, axis), axis) for axis in (0, 1))
        each, many = window.weight.shape[1], window.outputs // window.groups
        for a, row in enumerate(down):
            for b, column in enumerate(across):
                tap, used = window.weight[:, :, a, b], window.inputs_at(a, b)
                if not used.size:
                    continue
                samples = (Sample(term.source, int(c), row.pixels, column.pixels, copy) for c in term.columns[used])
                inputs = np.full(window.inputs, -1)
                inputs[used] = [place[sample] for sample in samples]
                if window.is_channelwise:
                    yield _Piece(rows[used], inputs[used], tap[used, 0], row.cells, column.cells)
                    continue
                for group in range(window.groups):
                    mine = np.arange(group * each, (group + 1) * each)
                    mine = mine[inputs[mine] >= 0]
                    if mine.size:
                        part = tap[group * many : (group + 1) * many, mine - group * each]
                        yield _Piece(
                            rows[group * many : (group + 1) * many], inputs[mine], part, row.cells, column.cells
                        )

    def _bias(self) -> Array | None:
        """The constants of all populations; relays have no constant."""
        constants = [population.value.constant for population in self.populations]
        if all(constant is None for constant in constants):
            return None
        if len(constants) == 1 and len(self.outputs) == self.populations[0].shape[0] and self.plain_term is not None:
            return constants[0]
        are_maps = any(constant is not None and constant.ndim == 3 for constant in constants)
        bias = np.zeros((len(self.outputs), *(self.levels.size(self.level) if are_maps else ())))
        for number, population in zip(self.levels.on(self.level), self.populations, strict=True):
            maps = population.value.map_of_constant()
            for place, sample in enumerate(self.outputs):
                if sample.source == number:
                    bias[place] = maps[sample.channel] if are_maps else maps[sample.channel, 0, 0]
        return bias

    def _activation(self) -> tuple[Array | None, int | None, Array | None]:
        """Thresholds, levels and ceilings of the channels."""
        thresholds, ceilings = np.full(len(self.outputs), np.nan), np.full(len(self.outputs), np.inf)
        levels = {population.levels for population in self.populations if population.levels is not None}
        if len(levels) > 1:
            raise UnsupportedModelError(
                f"has Qcfs activations with {' and '.join(map(str, sorted(levels)))} levels in one layer",
                where=self._name(),
                expected="supported: one number of levels per layer",
            )
        for place, sample in enumerate(self.outputs):
            if self.levels.of[sample.source] == self.level:
                population = self.levels.populations[sample.source]
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
            -1 if self.levels.of[sample.source] == self.level else place[self.levels.relayed(self.level, sample)[0]]
            for sample in self.outputs
        ]
        return np.array(found) if max(found) >= 0 else None

    def _name(self) -> str:
        names = list(dict.fromkeys(population.name for population in self.populations))
        more = [f"{len(names) - _NAMES + 1} more"] if len(names) > _NAMES else []
        return " + ".join(names if not more else [*names[: _NAMES - 1], *more])


def _unique(name: str, taken: Collection[str]) -> str:
    """``name``, printable, and different from all names in ``taken``."""
    # Leave room for a number at the end.
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)[: MAX_NAME_LENGTH - 8]
    numbered = (f"{printable} #{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([printable], numbered) if each not in taken)


def _write(weight: Array, pieces: Sequence[_Piece], corner: Pair) -> None:
    """Add ``pieces`` to ``weight``, ``(C_out, C_in / groups, K_h, K_w)``; its tap at ``corner`` has no shift."""
    each = weight.shape[1]
    for outputs, inputs, values, rows, columns in pieces:
        # A dense layer has no padding: inputs outside the map are 0.
        if not (0 <= rows + corner[0] < weight.shape[2] and 0 <= columns + corner[1] < weight.shape[3]):
            continue
        tap = weight[:, :, rows + corner[0], columns + corner[1]]
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


def _over_map(window: Window, extent: Pair) -> Array:
    """A window with a single output position as a kernel of the whole map."""
    weight = np.zeros((window.outputs, window.inputs, *extent))
    for a, row in enumerate(offsets_of(window, 0)):
        for b, column in enumerate(offsets_of(window, 1)):
            if 0 <= row < extent[0] and 0 <= column < extent[1]:
                weight[:, :, row, column] += window.weight[:, :, a, b]
    return weight


def _flat(bias: Array | None) -> Array | None:
    return None if bias is None else bias.reshape(len(bias))
