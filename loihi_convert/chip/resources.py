"""Neurons, synapses and memory of each layer, and the Loihi 2 neurocores they take: an estimated range.

Public documents allow two estimates. *Shared*: every weight in the file is stored once, zeros are not stored, and a
neuron takes its two state variables. *Expanded*: every synapse has its own byte, including zeros if a layer is dense,
and a neuron takes as much as on Loihi 1. The true value lies in between: it depends on Loihi 2's convolutional
connectivity and compression, which are not public. In both

- no neurocore is shared by two layers; *expanded*, a layer is halved until each part fits, as Lava's compiler
reportedly
  does (OzU-CAST/LoihiScalingEfficiency on GitHub, "Hardware Resources"),
- a weight has 8 bits.

Relays (`ir.relays`) count like all other neurons. The cores due to relays are those of their layer minus the cores of
the layer without them. Synapses from relays count for the layers they reach.

Not counted: axons and routing tables, indices of sparse synapses, biases and delays, the recurrent synapse of a soft
reset, copies of a kernel in the cores that share a map, the input and the readout. So even the expanded estimate is not
an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array, Shape
from loihi_convert.chip import limits
from loihi_convert.ir.relays import relay_count, without_relays
from loihi_convert.ir.synapse import Dense, Synapse
from loihi_convert.records import Record


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
        Largest number of synapses from one of its neurons; 0 for the last layer.
    synapses
        Number of nonzero synapses, including those repeated by a pooling.
    weights
        Number of weights in the file: netx has no pooling, so a kernel after a pooling repeats each weight ``pooling``
        times.
    pooling
        Number of inputs in a pooling window; 1 without pooling.
    shared_bytes, expanded_bytes
        Memory for weights and neurons, see this module.
    shared_cores, expanded_cores
        Number of Loihi 2 neurocores.
    relay_neurons
        Number of neurons that are relays.
    relay_shared_cores, relay_expanded_cores
        Number of neurocores due to relays.
    """

    name: str
    neurons: int
    fan_in: int
    fan_out: int
    synapses: int
    weights: int
    pooling: int
    shared_bytes: int
    expanded_bytes: int
    shared_cores: int
    expanded_cores: int
    relay_neurons: int = 0
    relay_shared_cores: int = 0
    relay_expanded_cores: int = 0


@dataclass(frozen=True)
class Chips:
    """A network's layers and the number of Loihi 2 chips available for it."""

    layers: tuple[LayerResources, ...]
    chips: int

    @property
    def cores(self) -> int:
        """Neurocores of all chips."""
        return self.chips * limits.NEUROCORES

    @property
    def shared_cores(self) -> int:
        """Smallest number of neurocores, within the limits of this module's estimate."""
        return sum(layer.shared_cores for layer in self.layers)

    @property
    def expanded_cores(self) -> int:
        """Number of neurocores if no two synapses share a weight."""
        return sum(layer.expanded_cores for layer in self.layers)

    @property
    def has_relays(self) -> bool:
        """Whether any neuron is a relay."""
        return any(layer.relay_neurons for layer in self.layers)

    @property
    def relay_shared_cores(self) -> int:
        """Number of `shared_cores` due to relays."""
        return sum(layer.relay_shared_cores for layer in self.layers)

    @property
    def relay_expanded_cores(self) -> int:
        """Number of `expanded_cores` due to relays."""
        return sum(layer.relay_expanded_cores for layer in self.layers)

    @property
    def boundary(self) -> str:
        """The assumptions of the estimate, in words."""
        return (
            "from each weight stored once to one byte per synapse; 8 bits per weight, no core shared by two layers; "
            "without axons and routing, sparse indices, biases, the synapse of a soft reset, input and readout"
        )


def resources(
    input_shape: Shape,
    synapses: Sequence[tuple[str, Synapse]],
    recurrent: Mapping[str, Dense] | None = None,
    *,
    relays: Sequence[Array | None] | None = None,
) -> tuple[LayerResources, ...]:
    """Return the resources of each layer.

    Parameters
    ----------
    input_shape
        Input shape of the network.
    synapses
        Synapses in order, with the names of their layers.
    recurrent
        Synapses from a layer's own neurons, by the layer's name.
    relays
        ``relay_of`` of each layer, as in `ir.network.ReluLayer`; by default no layer has relays.
    """
    recurrent = recurrent or {}
    relays = relays or [None] * len(synapses)
    shapes = [input_shape]
    for _, synapse in synapses:
        shapes.append(synapse.output_shape(shapes[-1]))
    fan_outs = [synapse.fan_out(shape) for (_, synapse), shape in zip(synapses, shapes, strict=False)]
    leaving = [*fan_outs[1:], np.zeros(shapes[-1], np.int64)]
    layers = [
        _layer_resources(name, synapse, shape, int(counts.sum()), after, recurrent.get(name))
        for (name, synapse), shape, counts, after in zip(synapses, shapes, fan_outs, leaving, strict=False)
    ]
    return tuple(
        _with_relays(layer, synapse, shape, relay_of)
        for layer, (_, synapse), shape, relay_of in zip(layers, synapses, shapes, relays, strict=False)
    )


def _with_relays(layer: LayerResources, synapse: Synapse, input_shape: Shape, relay_of: Array | None) -> LayerResources:
    """``layer`` with the number of cores due to its relays."""
    count = relay_count(relay_of)
    if count == 0:
        return layer
    relays = layer.neurons * count // synapse.channels
    neurons, own = layer.neurons - relays, without_relays(synapse, relay_of)
    every = neurons * math.prod(input_shape) if isinstance(synapse, Dense) else int(own.fan_out(input_shape).sum())
    shared, expanded = _bytes(neurons, int(np.count_nonzero(own.weight)), every)
    return layer.model_copy(
        update={
            "relay_neurons": relays,
            "relay_shared_cores": layer.shared_cores - _shared_cores(neurons, shared),
            "relay_expanded_cores": layer.expanded_cores - _expanded_cores(neurons, expanded),
        }
    )


def _layer_resources(
    name: str, synapse: Synapse, input_shape: Shape, synapse_count: int, fan_out: Array, recurrent: Dense | None
) -> LayerResources:
    neurons, window = fan_out.size, math.prod(synapse.pool)
    rows = synapse.weight.reshape(synapse.channels, -1)
    fan_in = np.count_nonzero(rows, axis=1) * window
    nonzero = int(fan_in.sum())
    # A dense matrix also stores its zeros, and a kernel after a pooling the zeros of its dilation.
    is_dense = isinstance(synapse, Dense)
    stored = neurons * math.prod(input_shape) if is_dense else synapse.without_pooling(input_shape).weight.size
    every = stored if is_dense else synapse_count
    if recurrent is not None:
        reached = recurrent.fan_out((neurons,))
        fan_in, fan_out = fan_in + np.count_nonzero(recurrent.weight, axis=1), fan_out.reshape(-1) + reached
        nonzero, synapse_count = nonzero + int(reached.sum()), synapse_count + int(reached.sum())
        stored, every = stored + recurrent.weight.size, every + recurrent.weight.size
    shared, expanded = _bytes(neurons, nonzero, every)
    return LayerResources(
        name=name,
        neurons=neurons,
        fan_in=int(fan_in.max()),
        fan_out=int(fan_out.max()),
        synapses=synapse_count,
        weights=stored,
        pooling=window,
        shared_bytes=shared,
        expanded_bytes=expanded,
        shared_cores=_shared_cores(neurons, shared),
        expanded_cores=_expanded_cores(neurons, expanded),
    )


def _bytes(neurons: int, nonzero: int, every: int) -> tuple[int, int]:
    """Memory, shared and expanded, of ``neurons`` with ``nonzero`` stored weights and ``every`` synapses."""
    return nonzero + limits.LIF_BYTES * neurons, every + limits.LOIHI_1_NEURON_BYTES * neurons


def _expanded_cores(neurons: int, size: int) -> int:
    return 1 << (_shared_cores(neurons, size) - 1).bit_length()


def _shared_cores(neurons: int, size: int) -> int:
    return max(1, math.ceil(neurons / limits.NEURONS_PER_CORE), math.ceil(size / limits.CORE_BYTES))
