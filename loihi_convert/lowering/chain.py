"""nn.Module -> `ReluNetwork`: the steps in order, and the last one: each two successive levels become a layer.

Ensures: layers with one kernel, stride, padding and number of groups: smaller kernels are embedded in the largest, and
a relay has a single tap of weight 1. A level with one population that uses only the level before keeps its own
geometry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Final, NamedTuple

import numpy as np
from torch import nn

from loihi_convert.data.in_memory import as_input_shape
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError, require_kind
from loihi_convert.ground.arrays import Array, Pair, Shape, frozen, sparse_zeros
from loihi_convert.ground.normalization import Normalization, channel_normalization
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.quantized import MAX_NAME_LENGTH
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.lowering.levels import Levels, Relays, Sample, placed
from loihi_convert.lowering.operations import affine_of
from loihi_convert.lowering.traversal import ending_of, pooled_after_relu, populated
from loihi_convert.lowering.value import IMAGE, Population, Term
from loihi_convert.lowering.window import Window, pooled_size
from loihi_convert.reading.graph import Ending, Graph
from loihi_convert.reading.reader import read_graph
from loihi_convert.reading.users_code import require_weights, without_wrappers


def to_relu_network(
    model: nn.Module,
    input_shape: Shape,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    skip_copies: int = 1,
) -> ReluNetwork:
    """Return the CNN as a chain of synapses with ReLUs between them; its outputs are the model's in eval mode.

    Parameters
    ----------
    model
        Takes images, float32 ``(N, C, H, W)``, or signals ``(N, C, L)``, or those of one channel without its axis;
        returns class scores ``(N, classes)``. It is not changed.
    input_shape
        ``(C, H, W)``; for signals ``(C, L)``.
    mean, std
        Per channel, if the model expects ``(pixel / 255 - mean) / std`` and does not compute it itself.
    skip_copies
        Relays that carry each value of a skip connection into a convolution: with r relays its weights there are r
        times smaller, which leaves more of the 8 bits to the convolution.

    Raises
    ------
    UnsupportedModelError
        If the model contains an operation, or an order of operations, without a spiking equivalent; names the first
        such place; the errors in its ``others``, the further ones.
    InputError
        If the model does not accept images of ``input_shape``, or contains NaN or infinity.
    UsageError
        If ``input_shape`` is not such a shape, only one of ``mean`` and ``std`` is given, they do not have one finite
        value per channel, or ``std`` is not positive; or if ``skip_copies`` is below 1.
    """
    input_shape = as_input_shape(input_shape)
    normalization = channel_normalization(mean, std, input_shape[0])
    return lowered(model, input_shape, normalization, skip_copies=skip_copies).network


def lowered(
    model: nn.Module,
    input_shape: Shape,
    normalization: Normalization | None = None,
    *,
    skip_copies: int = 1,
) -> Chain:
    """Return the same as `to_relu_network`, with a description of each channel."""
    require_kind("model", model, nn.Module, "must be a torch.nn.Module", "`convert` also takes the path of a file.")
    if isinstance(skip_copies, bool) or not isinstance(skip_copies, Integral) or skip_copies < 1:
        raise UsageError(f"found {skip_copies!r}", where="skip_copies", expected="must be a whole number, at least 1")
    input_shape = as_input_shape(input_shape)
    affine = None if normalization is None else affine_of(normalization.per_channel(input_shape[0]))
    # Non-finite numbers are reported below, with the layer they end up in.
    with np.errstate(all="ignore"):
        graph = _graph(model, input_shape)
        populations, found = populated(graph, input_shape, affine)
        if found:
            found[0].others = found[1:]
            raise found[0]
        notes, ending = graph.notes, ending_of(graph)
        if ending is not None:
            notes = (*notes, f"{ending.name}: the {ending.kind} at the end is dropped; it does not change the argmax.")
        chain = to_chain(Relays(placed(populations), skip_copies), input_shape, notes)
    function = ending.operation.function if ending is not None and isinstance(ending.operation, Ending) else ""
    network = replace(chain.network, ending=function, multiply_accumulates=graph.multiply_accumulates)
    chain = replace(chain, network=network)
    for layer in chain.network.layers:
        arrays = (layer.synapse.weight, layer.synapse.bias)
        if not all(array is None or np.isfinite(array).all() for array in arrays):
            raise InputError(
                "a weight or bias is NaN or infinite (with batch norm folded)",
                where=layer.name,
                expected="must be finite",
            )
    return chain


def obstacles(model: nn.Module, input_shape: Shape) -> tuple[UnsupportedModelError, ...]:
    """Return all places in ``model`` without a spiking equivalent, in order; raises what `to_relu_network` does."""
    input_shape = as_input_shape(input_shape)
    with np.errstate(all="ignore"):
        return populated(_graph(model, input_shape), input_shape)[1]


def _graph(model: nn.Module, input_shape: Shape) -> Graph:
    model = without_wrappers(model)
    require_weights(model)
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        return pooled_after_relu(read_graph(model, input_shape))
    finally:
        for module, mode in training.items():
            module.training = mode


@dataclass(frozen=True, eq=False)
class Chain:
    """A network, and a description of its channels.

    Parameters
    ----------
    network
        The chain.
    levels
        The populations.
    channels
        For each level, starting with the image: the content of each channel.
    """

    network: ReluNetwork
    levels: Levels
    channels: tuple[tuple[Sample, ...], ...]


def to_chain(relays: Relays, image_shape: Shape, notes: tuple[str, ...]) -> Chain:
    """Return levels and their ``relays`` as a chain for images ``(C, H, W)``."""
    channels, groups = _in_groups(relays, image_shape[0])
    layers: list[ReluLayer] = []
    for level in range(1, relays.levels.depth + 1):
        layer = Layer(relays, level, channels[level - 1], channels[level])
        name = _unique(layer.name, {before.name for before in layers})
        layers.append(layer.relu_layer(name, groups[level]))
    return Chain(ReluNetwork(image_shape, tuple(layers), notes), relays.levels, tuple(map(tuple, channels)))


def _in_groups(relays: Relays, image_channels: int) -> tuple[list[list[Sample]], list[int]]:
    """The channels of each level, and the number of groups of the kernel before it, both from the image.

    The groups of a kernel need its inputs in the order of the groups. So a level's channels are ordered twice: by the
    groups of its own kernel and then, within these, by those of the next.
    """
    levels, relayed = relays.levels, relays.by_level()
    channels, groups = [[Sample(IMAGE, channel) for channel in range(image_channels)]], [1]
    for level in range(1, levels.depth + 1):
        own = [Sample(number, c) for number in levels.on(level) for c in range(levels.populations[number].shape[0])]
        channels.append([*own, *relayed[level]])
        layer = Layer(relays, level, channels[level - 1], channels[level])
        found, plain = None, layer.plain_term
        # A dense layer has no groups, and the outputs of the last layer keep their order.
        if plain is None and not layer.is_dense:
            before = len(channels[level - 1])
            found = layer.grouping(np.arange(before) // (before // groups[level - 1]))
        # The image's channels keep their order.
        if found is not None and (level > 1 or np.array_equal(found.inputs, np.arange(image_channels))):
            channels[level - 1] = [channels[level - 1][place] for place in found.inputs]
            channels[level] = [channels[level][place] for place in found.outputs]
            groups.append(found.groups)
        else:
            groups.append(1 if plain is None or layer.is_dense else plain.window.groups)
    return channels, groups


def _unique(name: str, taken: Collection[str]) -> str:
    """``name``, printable, and different from all names in ``taken``."""
    # Leave room for a number at the end.
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)[: MAX_NAME_LENGTH - 8]
    numbered = (f"{printable} #{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([printable], numbered) if each not in taken)


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
        linked = np.zeros((len(self.outputs), len(self.inputs)), np.bool_)
        for outputs, inputs, weight, _ in self._pieces((1, 1)):
            linked[(outputs, inputs) if weight.ndim == 1 else np.ix_(outputs, inputs)] = True
        return grouped(linked, blocks)

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
        weight = sparse_zeros((len(self.outputs), len(self.inputs) // groups, rows, columns))
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
        maps = {
            number: self._levels.populations[number].value.map_of_constant() for number in self._levels.on(self.level)
        }
        none = np.zeros(self._levels.size(self.level))
        bias = np.stack([maps[each.source][each.channel] if each.source in maps else none for each in self.outputs])
        are_maps = any(constant is not None and constant.ndim == 3 for constant in constants)
        return bias if are_maps else bias[:, 0, 0]

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
    """The padding, equal at both ends, and the size of a kernel with taps at ``shifts`` for ``count`` positions."""
    # A convolution has floor((extent + 2 p - k) / stride) + 1 output positions, the first of which starts at -p.
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


class Grouping(NamedTuple):
    """The number of groups of a kernel, and its input and output channels, ordered by group: int64."""

    groups: int
    inputs: Array
    outputs: Array


def grouped(linked: Array, blocks: Array) -> Grouping | None:
    """Return the groups of a kernel; ``None`` if there is only one.

    Parameters
    ----------
    linked
        bool ``(outputs, inputs)``: which channels are connected.
    blocks
        int64 ``(inputs,)``: the group of each input in the layer before, which must be preserved.
    """
    from scipy import sparse

    inputs, both = linked.shape[1], sparse.csr_array(linked)
    label = sparse.csgraph.connected_components(sparse.bmat([[None, both.T], [both, None]]), directed=False)[1]
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
