"""Two successive levels -> a layer of the chain: synapses, biases, and neurons.

Requires: the channels of both levels, and the number of groups of the kernel (`chain.py`).
Ensures: a layer with one kernel, stride, padding and number of groups: smaller kernels are embedded in the largest, and
a relay has a single tap of weight 1. A level with one population that uses only the level before keeps its own
geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array, Pair, frozen
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower.groups import Grouping, grouped
from loihi_convert.frontend.lower.levels import Levels
from loihi_convert.frontend.lower.pieces import Piece, pieces_of
from loihi_convert.frontend.lower.populations import Population
from loihi_convert.frontend.lower.relays import Relays, Sample
from loihi_convert.frontend.lower.value import Term
from loihi_convert.frontend.lower.window import Window, pooled_size
from loihi_convert.ir.network import ReluLayer
from loihi_convert.ir.synapse import Conv, Dense, Synapse

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
        """See `groups.grouped`."""
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
