"""How a layer is divided among neurocores: the tile of a convolution, the neurons per core of a dense layer.

Rules inferred from the 34 layers that lava-dl's notebooks print (*Synaptic memory* below); the compiler itself is not
public. All 21 tiles come out as printed.

Convolutions
    A tile of w x h positions and c channels is one core, so a layer takes ceil(W / w) ceil(H / h) ceil(C / c). A tile
    has at most 4,095 neurons, and its kernel must fit the synaptic memory. w is a power of two, at most W (PilotNet's
    fifth layer: 16 of 20 columns, although all 2,560 neurons would fit a core); h and c are H and C, halved and rounded
    up some number of times. Of these tiles the one with the fewest cores is taken (PilotNet's columns of full height);
    of several, the one with the fewest divisions of the channels, then the one that comes from halving width and height
    in turn: width first, or height first if the channels are divided (YOLO-KP's layers).
Dense layers
    As many neurons per core as the synaptic memory holds: *low*. The older tables (those in counts: Oxford, PilotNet)
    were split as if only half of the memory could be used: 3 cores for 200 inputs and 256 neurons, where 2 would do,
    and 12 for PilotNet's 2,560 inputs and 100 neurons, where 6 would. The newer ones (in per cent: MNIST, YOLO-KP) use
    up to 86 %. *high* is half of the memory, with rows packed as in the older tables.

An axon takes at least one word, and a core has as many words as axons in, so memory always runs out first: axons limit
only a dense layer with more inputs than a core has axons.

Synaptic memory
---------------
Words of synaptic memory that a neurocore of Loihi 2 takes for the synapses of its neurons.

Intel's compiler is not public. lava-dl's notebooks print what it did with five networks: 34 layers, with the words of
synaptic memory per core (`tests/golden/loihi2_compiler_cores.csv`; lava-dl d825ac5, ``tutorials/lava/lib/dl/netx``).
The formulas below were fitted to these figures. A *row* is what one input spike reads: one input channel at one tap of
a kernel, or one input of a dense layer.

===============================  =======================================================================================
synapses                         words of a row
===============================  =======================================================================================
convolution, c channels a core   ``ceil((5 c + 48) / 64)``: 12.8 weights a word, and 0.75 word a row
dense, n neurons a core          ``ceil((5 n + 3) / 16)``: 3.2 synapses a word, and 0.19 word a row
===============================  =======================================================================================

Of the 20 layers with a kernel, 15 take exactly these words. Four of 64 channels take 5 words a row, not 6: PilotNet's
three with weights of 5 bits, and one of YOLO-KP. YOLO-KP's last layer, of 48, takes 6, not 5. Of the 13 dense layers,
MNIST's three and PilotNet's last take exactly these words, the others 2 to 25 % fewer, most where weights have 5 bits.
Zeros are stored like other weights: PilotNet's two networks have different zeros, and the same words.

The tables say nothing about grouped convolutions and the stock circuit (`ir.neuron_model`). Groups are counted as rows
that reach the channels of their own group only. The circuit's recurrent synapse is counted as a row of one synapse for
each neuron, its bias source as one dense row.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from loihi_convert.chip import limits
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import layer_words

Limit = Literal["neurons", "tile width", "synaptic memory", "axons"]
"""What makes a layer take more than one core. ``tile width``: the width of a tile is a power of two."""


class Tile(NamedTuple):
    """Positions and channels of a convolution in one core, in Lava's order."""

    width: int
    height: int
    channels: int


@dataclass(frozen=True)
class Partition:
    """A layer on neurocores.

    Parameters
    ----------
    cores
        Number of neurocores.
    neurons, words
        Neurons and words of synaptic memory in the fullest core.
    tile
        For a convolution.
    limit
        What makes it take more than one core; None for one core.
    fits
        Whether one neuron's synapses fit a core. If not, ``cores`` counts them as if they could be divided.
    """

    cores: int
    neurons: int
    words: int
    tile: Tile | None
    limit: Limit | None
    fits: bool


@dataclass(frozen=True)
class ConvLayer:
    """A convolution.

    Parameters
    ----------
    width, height
        Size of its output.
    kernel
        Its kernel.
    has_reset, has_bias
        As in `circuit_words`.
    """

    width: int
    height: int
    kernel: Kernel
    has_reset: bool = False
    has_bias: bool = False

    def partitions(self) -> tuple[Partition, Partition]:
        """Return the partition, twice: no row of a convolution needs a range."""
        best = min(self._tiles(self._words), default=None)
        _, unlimited = min(self._tiles(lambda _: 0))
        # If not even one position of one channel fits, channels are taken singly.
        tile = unlimited._replace(channels=1) if best is None else best[1]
        cores, words, neurons = self._cores(tile), self._words(tile), math.prod(tile)
        if best is None:
            cores *= math.ceil(words / limits.SYNAPSE_WORDS)
        limit: Limit | None = "neurons"
        if cores > self._cores(unlimited):
            limit = "synaptic memory"
        elif cores == 1:
            limit = None
        elif self.width * self.height * self.kernel.channels <= limits.NEURONS_PER_CORE:
            limit = "tile width"
        found = Partition(cores, neurons, words, tile, limit, best is not None)
        return found, found

    def _words(self, tile: Tile) -> int:
        circuit = circuit_words(math.prod(tile), has_reset=self.has_reset, has_bias=self.has_bias)
        return self.kernel.words(tile.channels) + circuit

    def _cores(self, tile: Tile) -> int:
        size = (self.width, self.height, self.kernel.channels)
        return math.prod(-(-whole // part) for whole, part in zip(size, tile, strict=True))

    def _tiles(self, words: Callable[[Tile], int]) -> Iterator[tuple[tuple[int, ...], Tile]]:
        """Yield the tiles that fit a core, each with a key that is smallest for the one that the compiler takes."""
        widest = 1 << (self.width.bit_length() - 1)
        for across, width in enumerate(_halvings(widest)):
            for down, height in enumerate(_halvings(self.height)):
                for deep, channels in enumerate(_halvings(self.kernel.channels)):
                    tile = Tile(width, height, channels)
                    if math.prod(tile) <= limits.NEURONS_PER_CORE and words(tile) <= limits.SYNAPSE_WORDS:
                        # Halved in turn, height is 0 or 1 times behind width, or ahead of it if channels are divided.
                        out_of_turn = abs(2 * (down - across) + (-1 if deep else 1))
                        yield (self._cores(tile), deep, out_of_turn, across), tile


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer.

    Parameters
    ----------
    neurons
        Its neurons.
    inputs
        Its inputs, and its own neurons if they are connected to each other.
    has_reset, has_bias
        As in `circuit_words`.
    """

    neurons: int
    inputs: int
    has_reset: bool = False
    has_bias: bool = False

    def partitions(self) -> tuple[Partition, Partition]:
        """Return the partitions with the fewest and the most cores."""
        return (
            self._partition(limits.SYNAPSE_WORDS, dense_words),
            self._partition(limits.SYNAPSE_WORDS // 2, packed_dense_words),
        )

    def _partition(self, memory: int, words: Callable[[int, int], float]) -> Partition:
        """Return the partition if the words for neurons and inputs must fit ``memory``."""
        most = min(self.neurons, limits.NEURONS_PER_CORE)
        fitting = bisect_right(
            range(1, most + 1), memory, key=lambda count: math.ceil(words(count, self.inputs)) + self._circuit(count)
        )
        fits = self._words(1) <= limits.SYNAPSE_WORDS
        cores = math.ceil(self.neurons / max(1, fitting))
        neurons = math.ceil(self.neurons / cores)
        if not fits:
            cores *= math.ceil(self._words(1) / limits.SYNAPSE_WORDS)
        limit: Limit | None = "neurons"
        if self.inputs > limits.AXONS_PER_CORE:
            limit = "axons"
        elif cores == 1:
            limit = None
        elif fitting < most:
            limit = "synaptic memory"
        return Partition(cores, neurons, self._words(neurons), None, limit, fits)

    def _words(self, neurons: int) -> int:
        return dense_words(neurons, self.inputs) + self._circuit(neurons)

    def _circuit(self, neurons: int) -> int:
        return circuit_words(neurons, has_reset=self.has_reset, has_bias=self.has_bias)


def _halvings(size: int) -> Iterator[int]:
    """Yield ``size``, and its halves, rounded up, until 1."""
    yield size
    while size > 1:
        size = -(-size // 2)
        yield size


@dataclass(frozen=True)
class Kernel:
    """The kernel of a convolution as netx stores it, with a pooling before it written out.

    Parameters
    ----------
    taps
        Height times width.
    inputs
        Input channels of one group.
    channels
        Output channels of all groups.
    groups
        Number of groups.
    """

    taps: int
    inputs: int
    channels: int
    groups: int = 1

    def words(self, channels: int) -> int:
        """Return the words for ``channels`` of its output channels, in one core."""
        per_group = self.channels // self.groups
        rows = self.taps * self.inputs * math.ceil(channels / per_group)
        return rows * math.ceil((5 * min(channels, per_group) + 48) / 64)


def dense_words(neurons: int, inputs: int) -> int:
    """Return the words for ``neurons`` of a dense layer in one core, each with a synapse from each of ``inputs``."""
    return inputs * math.ceil((5 * neurons + 3) / 16)


def packed_dense_words(neurons: float, inputs: int) -> float:
    """Return `dense_words` with rows not rounded up, as on average in the older tables, but of at least a word."""
    return inputs * max(1.0, (5 * neurons + 3) / 16)


def circuit_words(neurons: int, *, has_reset: bool, has_bias: bool) -> int:
    """Return the words of the stock circuit in one core: each neuron inhibits itself, a bias source reaches all."""
    return has_reset * neurons * dense_words(1, 1) + has_bias * dense_words(neurons, 1)


CoreRange = tuple[int, int]
"""Fewest and most neurocores."""

_SHOWN: Final = 3

_LARGEST_STRIDE: Final = 4
"""A stride does not replace a larger pooling, such as a global one."""

_WORTH_CHANNELS: Final = 1 / 4
"""Smallest share of a layer's cores that fewer channels must save; the fewest channels that do are named. One channel
less can halve the cores: 8 x 8 x 64 neurons are one too many for a core."""


class Saving(Record):
    """One change.

    Attributes
    ----------
    layer
        The layer to change.
    change
        The change in words.
    before, after
        Neurocores of the layers whose cores change.
    """

    layer: str
    change: str
    before: CoreRange
    after: CoreRange

    @property
    def saved(self) -> int:
        """Neurocores saved, in the middle of both ranges, doubled to stay an integer."""
        return sum(self.before) - sum(self.after)

    @property
    def sentence(self) -> str:
        """The change and its effect."""
        return (
            f"{self.change} in {layer_words(self.layer)} ({span(self.after)} instead of {span(self.before)} neurocores)"
        )


@dataclass(frozen=True)
class Placed:
    """A layer of the network, and the pooling before it.

    Parameters
    ----------
    name
        Its name.
    layer
        The layer as the file stores it, with the pooling written out in its kernel or inputs.
    own
        Number of its channels that are not relays.
    pool
        (vertical, horizontal) window of the pooling; (1, 1) for none.
    unpooled
        The layer without the pooling: what it takes if its input is already small.
    """

    name: str
    layer: ConvLayer | DenseLayer
    own: int
    pool: tuple[int, int]
    unpooled: ConvLayer | DenseLayer


def span(cores: CoreRange) -> str:
    """Return a range as text: "3 to 5", or "3" if both ends are equal."""
    return " to ".join(f"{count:,}" for count in dict.fromkeys(cores))


def cores_of(*layers: ConvLayer | DenseLayer) -> CoreRange:
    """Return the neurocores of some layers together."""
    both = [layer.partitions() for layer in layers]
    return sum(low.cores for low, _ in both), sum(high.cores for _, high in both)


def savings(placed: Sequence[Placed]) -> tuple[Saving, ...]:
    """Return the changes that save most neurocores, the best first; at most one per layer."""
    best: dict[str, Saving] = {}
    for index, layer in enumerate(placed):
        is_last = index == len(placed) - 1
        for saving in _changes(layer, placed[index - 1] if index else None, is_last=is_last):
            if saving.saved > 0 and (layer.name not in best or saving.saved > best[layer.name].saved):
                best[layer.name] = saving
    return tuple(sorted(best.values(), key=lambda saving: -saving.saved)[:_SHOWN])


def _changes(placed: Placed, before: Placed | None, *, is_last: bool) -> Iterator[Saving]:
    name, cores = placed.name, cores_of(placed.layer)
    # The outputs of the last layer are the task's.
    fewer = [] if is_last or placed.own <= 1 else [1, *(placed.own // part for part in (8, 4, 2) if placed.own > part)]
    for count in fewer:
        after = cores_of(without_channels(placed.layer, count))
        if sum(cores) - sum(after) >= _WORTH_CHANNELS * sum(cores):
            what = "channels" if isinstance(placed.layer, ConvLayer) else "neurons"
            yield Saving(
                layer=name, change=f"{placed.own - count} {what} instead of {placed.own}", before=cores, after=after
            )
            break
    if placed.pool == (1, 1) or before is None or not isinstance(before.layer, ConvLayer):
        return
    both = cores_of(before.layer, placed.layer)
    tall, wide = placed.pool
    strided = replace(
        before.layer, width=max(1, before.layer.width // wide), height=max(1, before.layer.height // tall)
    )
    if max(tall, wide) <= _LARGEST_STRIDE:
        yield Saving(
            layer=before.name,
            change=f"a stride of {tall if tall == wide else f'{tall} x {wide}'} instead of the pooling after it,",
            before=both,
            after=cores_of(strided, placed.unpooled),
        )
    channels = before.layer.kernel.channels
    pooling = replace(strided, kernel=Kernel(tall * wide, 1, channels, channels), has_bias=False)
    yield Saving(
        layer=before.name,
        change="the pooling as a layer of its own, a strided convolution with groups = channels, after the ReLU",
        before=both,
        after=cores_of(before.layer, pooling, placed.unpooled),
    )


def without_channels(layer: ConvLayer | DenseLayer, fewer: int) -> ConvLayer | DenseLayer:
    """Return the layer without ``fewer`` of its channels, or neurons."""
    if isinstance(layer, DenseLayer):
        return replace(layer, neurons=layer.neurons - fewer)
    kernel = layer.kernel
    # Groups of a layer with relays may be as many as its channels; those that go take their groups along.
    groups = max(1, kernel.groups * (kernel.channels - fewer) // kernel.channels)
    return replace(layer, kernel=replace(kernel, channels=kernel.channels - fewer, groups=groups))
