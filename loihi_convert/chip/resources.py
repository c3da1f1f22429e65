"""Neurons, synapses and synaptic memory of each layer, and the Loihi 2 neurocores they take.

No public tool compiles for Loihi 2 without its board. The estimate follows what Intel's compiler printed for five
networks: `partition` divides a layer among cores, counts its synapses, and finds what to change.
`tests/test_compiler_cores.py` holds it to all 34 printed layers, to which it was fitted.
No core is shared by two layers.

Relays (`ir.network`) count like all other neurons. The cores due to relays are those of their layer minus the cores of
the layer without them.

The stock circuit (`ir.neuron_model`) is counted for target loihi2: a synapse from each neuron that can fire to itself,
one from the bias source to each neuron whose bias is not 0, and one core for each neuron that passes the bias source's
spike from layer to layer (`backends.loihi2.plan`). A last layer that only integrates does not reset.

Counted apart: the cores of the input, if it is a layer of neurons, as in one of the five networks. Not counted: host
adapters, output axons, and whatever the host reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.chip.partition import (
    ConvLayer,
    CoreRange,
    DenseLayer,
    Kernel,
    Limit,
    Placed,
    Saving,
    Tile,
    cores_of,
    savings,
    without_channels,
)
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.options import Record
from loihi_convert.ir.graded import with_constant_channel
from loihi_convert.ir.network import ReluNetwork, relay_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Dense, Synapse, pooled_shape


class LayerResources(Record):
    """Resources of one layer; its synapses are the incoming ones, from the layer before and from its own neurons.

    Attributes
    ----------
    name
        Name of the layer.
    neurons
        Number of neurons.
    fan_in
        Largest number of nonzero synapses that reach one of its neurons.
    fan_out
        Largest number of synapses from one of its neurons; of the last layer only those to its own neurons.
    synapses
        Number of nonzero synapses, including those repeated by a pooling.
    weights
        Number of weights in the file: netx has no pooling, so a kernel after a pooling repeats each weight ``pooling``
        times.
    pooling
        Number of inputs in a pooling window; 1 without pooling.
    cores
        Fewest and most Loihi 2 neurocores.
    tile
        Width, height and channels of one core's part of a convolution; None for a dense layer.
    core_neurons, core_words
        Neurons, and words of synaptic memory, of the fullest core with the fewest cores.
    limit
        What makes it take more than one core; None if it takes one.
    fits
        Whether the synapses of one of its neurons fit a core.
    relay_neurons
        Number of neurons that are relays.
    relay_cores
        Fewest and most neurocores due to relays.
    """

    name: str
    neurons: int
    fan_in: int
    fan_out: int
    synapses: int
    weights: int
    pooling: int
    cores: CoreRange
    tile: Tile | None
    core_neurons: int
    core_words: int
    limit: Limit | None
    fits: bool
    relay_neurons: int = 0
    relay_cores: CoreRange = (0, 0)


@dataclass(frozen=True)
class Chips:
    """A network's layers and the number of Loihi 2 chips available for it.

    Parameters
    ----------
    layers
        Resources of each layer.
    chips
        Number of chips.
    has_circuit
        Whether the synapses and neurons of the stock circuit are counted.
    source_cores
        Neurocores of the neurons that pass the bias source's spike on, one each.
    placed
        The layers' geometry, for `savings`.
    input_cores
        Neurocores of the input as a layer of neurons; not part of `cores`.
    """

    layers: tuple[LayerResources, ...]
    chips: int = 1
    has_circuit: bool = False
    source_cores: int = 0
    placed: tuple[Placed, ...] = ()
    input_cores: int = 0

    @property
    def available(self) -> int:
        """Neurocores of all chips."""
        return self.chips * limits.NEUROCORES

    @property
    def cores(self) -> CoreRange:
        """Fewest and most neurocores of the network."""
        low, high = (sum(layer.cores[end] for layer in self.layers) for end in (0, 1))
        return low + self.source_cores, high + self.source_cores

    @property
    def needed(self) -> int | None:
        """Chips that are enough for the network; None if no number is, because a neuron's synapses fit no core."""
        return math.ceil(self.cores[1] / limits.NEUROCORES) if all(layer.fits for layer in self.layers) else None

    @property
    def has_relays(self) -> bool:
        """Whether any neuron is a relay."""
        return any(layer.relay_neurons for layer in self.layers)

    @property
    def relay_cores(self) -> CoreRange:
        """Fewest and most of `cores` due to relays."""
        low, high = (sum(layer.relay_cores[end] for layer in self.layers) for end in (0, 1))
        return low, high

    @property
    def largest(self) -> tuple[LayerResources, ...]:
        """The layers, those with the most cores first."""
        return tuple(sorted(self.layers, key=lambda layer: -sum(layer.cores)))

    @property
    def savings(self) -> tuple[Saving, ...]:
        """What would save most, the best first."""
        return savings(self.placed)

    @property
    def boundary(self) -> str:
        """The assumptions of the estimate, in words."""
        circuit = "with the synapses of the stock circuit" if self.has_circuit else "without a stock circuit"
        return (
            "an estimate fitted to what Intel's compiler printed for 34 layers of five networks; nothing was "
            f"compiled for a chip or run on one; {circuit}, without host adapters, and without the input: as a layer "
            f"of neurons it takes {self.input_cores:,} more"
        )


class Populated(NamedTuple):
    """A layer whose resources are wanted.

    Parameters
    ----------
    name, synapse
        The layer's name, and its synapse from the layer before.
    recurrent
        A synapse from its own neurons.
    relay_of
        As in `ir.network.ReluLayer`.
    silent
        Whether each channel never fires; by default all fire.
    """

    name: str
    synapse: Synapse
    recurrent: Dense | None = None
    relay_of: Array | None = None
    silent: Array | None = None


def resources(
    input_shape: Shape,
    layers: Sequence[Populated],
    *,
    has_circuit: bool = False,
    has_output_neurons: bool = False,
    chips: int = 1,
) -> Chips:
    """Return the resources of each layer, and of the network.

    Parameters
    ----------
    input_shape
        Input shape of the network.
    layers
        Its layers, in order.
    has_circuit
        Whether neurons reset by the stock circuit of stock processes.
    has_output_neurons
        Whether the last layer has neurons that spike.
    chips
        Number of Loihi 2 chips available.
    """
    shape, found, placed, source_cores = input_shape, list[LayerResources](), list[Placed](), 0
    for index, layer in enumerate(layers):
        is_last, output_shape = index == len(layers) - 1, layer.synapse.output_shape(shape)
        circuit = (has_circuit and (has_output_neurons or not is_last), has_circuit and layer.synapse.bias is not None)
        after = np.zeros(output_shape, np.int64) if is_last else layers[index + 1].synapse.fan_out(output_shape)
        placed.append(_placed(layer, shape, circuit))
        found.append(_layer_resources(placed[-1], layer, shape, after))
        shape, source_cores = output_shape, index if circuit[1] else source_cores
    channels, height, width = (*input_shape, 1, 1)[:3]
    # Pixels have no synapses.
    pixels, _ = ConvLayer(width, height, Kernel(0, 0, channels)).partitions()
    return Chips(tuple(found), chips, has_circuit, source_cores, tuple(placed), pixels.cores)


def network_resources(network: ReluNetwork | QuantizedNetwork, *, has_circuit: bool = False, chips: int = 1) -> Chips:
    """Return the `resources` of a network, in the form in which it is stored."""
    stored = network.stored if isinstance(network, QuantizedNetwork) else network
    is_spiking = stored.layers[-1].threshold is not None
    return resources(
        stored.input_shape,
        _populated(stored),
        has_circuit=has_circuit,
        has_output_neurons=is_spiking,
        chips=chips,
    )


def _populated(network: ReluNetwork | QuantizedNetwork) -> list[Populated]:
    layers = [Populated(layer.name, layer.synapse, relay_of=layer.relay_of) for layer in network.layers]
    if isinstance(network, QuantizedNetwork):
        thresholds = [layer.threshold for layer in network.layers]
        silent = [None if threshold is None else threshold >= limits.NEVER_FIRES for threshold in thresholds]
        layers = [layer._replace(silent=never) for layer, never in zip(layers, silent, strict=True)]
    return layers


NeuronKind = Literal["own", "circuit", "LIF", "graded"]
"""See `NeuronCost`."""


class NeuronCost(Record):
    """What a network takes with one kind of neuron.

    Attributes
    ----------
    neurons
        "own": soft reset in microcode; "circuit": soft reset by the circuit of stock processes; "LIF": Lava's stock LIF
        neuron, which resets to 0; "graded": sigma-delta neurons (`ir.graded`), without the input neurons, as for the
        others.
    cores
        Fewest and most Loihi 2 neurocores.
    neuron_count
        Neurons, with those that pass the bias source's spike on.
    synapses
        Nonzero synapses, with those of the circuit.
    """

    neurons: NeuronKind
    cores: CoreRange
    neuron_count: int
    synapses: int


def neuron_costs(network: ReluNetwork | QuantizedNetwork) -> tuple[NeuronCost, ...]:
    """Return what ``network`` takes with each kind of neuron, which is what a soft reset costs on a chip.

    Only resources are compared: neurons that reset to 0, or send integers, fire differently, so accuracy differs, too.
    """
    plain, circuit = (network_resources(network, has_circuit=has_circuit) for has_circuit in (False, True))
    kinds: tuple[tuple[NeuronKind, Chips], ...] = (
        ("own", plain),
        ("circuit", circuit),
        ("LIF", plain),
        ("graded", _graded_resources(network)),
    )
    return tuple(
        NeuronCost(
            neurons=kind,
            cores=chips.cores,
            neuron_count=sum(layer.neurons for layer in chips.layers) + chips.source_cores,
            synapses=sum(layer.synapses for layer in chips.layers),
        )
        for kind, chips in kinds
    )


def _graded_resources(network: ReluNetwork | QuantizedNetwork) -> Chips:
    """Return the resources with sigma-delta neurons, see ``conversion.graded_rounding``.

    In a classification, biases of the outputs are synapses from one more channel before them (seldom two).
    """
    layers = _populated(network)
    if len(layers) > 1 and network.task == "classification":
        before, last = layers[-2:]
        if isinstance(last.synapse, Dense) and last.synapse.bias is not None:
            synapses = with_constant_channel(before.synapse, last.synapse, 1, np.ones(last.synapse.channels))
            relay_of = None if before.relay_of is None else np.append(before.relay_of, -1)
            layers[-2:] = before._replace(synapse=synapses[0], relay_of=relay_of), last._replace(synapse=synapses[1])
    return resources(network.input_shape, layers)


def _placed(layer: Populated, input_shape: Shape, circuit: tuple[bool, bool]) -> Placed:
    """Return the geometry of a layer; ``circuit``: its ``has_reset`` and ``has_bias``, as in `circuit_words`."""
    name, synapse = layer.name, layer.synapse
    own = synapse.channels - relay_count(layer.relay_of)
    if isinstance(synapse, Dense):
        inputs, pooled = (math.prod(shape) for shape in (input_shape, pooled_shape(input_shape, synapse.pool)))
        extra = 0 if layer.recurrent is None else synapse.channels
        dense = DenseLayer(synapse.channels, inputs + extra, *circuit)
        unpooled = DenseLayer(synapse.channels, pooled + extra, *circuit)
        return Placed(name, dense, own, synapse.pool, unpooled)
    _, height, width = synapse.output_shape(input_shape)

    def conv(pool: tuple[int, int]) -> ConvLayer:
        size = synapse.weight.shape[2:]
        spans = [(d * (k - 1) + 1) * p for d, k, p in zip(synapse.dilation, size, pool, strict=True)]
        kernel = Kernel(math.prod(spans), synapse.weight.shape[1], synapse.channels, synapse.groups)
        return ConvLayer(width, height, kernel, *circuit)

    return Placed(name, conv(synapse.pool), own, synapse.pool, conv((1, 1)))


def _layer_resources(placed: Placed, layer: Populated, input_shape: Shape, fan_out: Array) -> LayerResources:
    synapse, recurrent = layer.synapse, layer.recurrent
    neurons, fan_in = fan_out.size, synapse.fan_in(input_shape)
    # A dense matrix also stores its zeros, and a kernel after a pooling the zeros of its dilation.
    is_dense = isinstance(synapse, Dense)
    stored = neurons * math.prod(input_shape) if is_dense else synapse.without_pooling(input_shape).weight.size
    if recurrent is not None:
        fan_in = fan_in.reshape(-1) + recurrent.fan_in((neurons,))
        fan_out, stored = fan_out.reshape(-1) + recurrent.fan_out((neurons,)), stored + recurrent.weight.size
    # Channels last, where values of channels broadcast.
    fan_in, fan_out = fan_in.transpose(), fan_out.transpose()
    if placed.layer.has_reset:
        resets = 1 if layer.silent is None else ~layer.silent
        fan_in, fan_out = fan_in + resets, fan_out + resets
    if placed.layer.has_bias and synapse.bias is not None:
        fan_in = fan_in + (synapse.bias.transpose() != 0)
    low, high = placed.layer.partitions()
    return LayerResources(
        name=placed.name,
        neurons=neurons,
        fan_in=int(fan_in.max()),
        fan_out=int(fan_out.max()),
        synapses=int(fan_in.sum()),
        weights=stored,
        pooling=math.prod(synapse.pool),
        cores=(low.cores, high.cores),
        tile=low.tile,
        core_neurons=low.neurons,
        core_words=low.words,
        limit=high.limit,
        fits=low.fits,
        relay_neurons=neurons - neurons * placed.own // synapse.channels,
        relay_cores=_relay_cores(placed, synapse),
    )


def _relay_cores(placed: Placed, synapse: Synapse) -> CoreRange:
    """Return the cores of a layer minus those of the layer without its relays."""
    relays = synapse.channels - placed.own
    if relays == 0:
        return 0, 0
    low, high = cores_of(placed.layer)
    if placed.own == 0:
        return low, high
    own_low, own_high = cores_of(without_channels(placed.layer, relays))
    return max(0, low - own_low), max(0, high - own_high)
