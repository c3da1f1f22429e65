"""Neurons, synapses and memory of each layer, and the neurocores of Loihi 2 that they take: an estimated range.

Public documents give two figures. *Shared*: every weight of the file is stored once, 0 not at all, and a neuron takes
its two state variables. *Expanded*: every synapse has its own byte, 0 included where a layer is dense, and a neuron
takes as much as on Loihi 1. The true figure lies in between: it depends on Loihi 2's convolutional connectivity and
compression, which are not public. In both

- no neurocore is shared by two layers; expanded, a layer is halved until each part fits, as Lava's compiler is reported
  to do (OzU-CAST/LoihiScalingEfficiency on GitHub, "Hardware Resources"),
- a weight has 8 bits.

Not counted: axons and routing tables, indices of sparse synapses, biases and delays, the recurrent synapse of a soft
reset, copies of a kernel in each core that a map is divided among, the input and the readout. So even the expanded
figure is not guaranteed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array, Shape
from loihi_convert.chip import limits
from loihi_convert.ir.synapse import Dense, Synapse
from loihi_convert.records import Record


class LayerResources(Record):
    """Resources of one layer; its synapses are its inputs, from the layer before and from its own neurons.

    Attributes
    ----------
    name
        The layer.
    neurons
        How many.
    fan_in
        Synapses of nonzero weight that reach one of its neurons, at most.
    fan_out
        Synapses that leave one of its neurons, at most; 0 for the last layer.
    synapses
        Of nonzero weight, those repeated by a pooling included.
    weights
        In the file: netx has no pooling, so a kernel after one repeats every weight ``pooling`` times.
    pooling
        Inputs of one pooling window; 1: no pooling.
    shared_bytes, expanded_bytes
        Memory for weights and neurons, see this module.
    shared_cores, expanded_cores
        Neurocores of Loihi 2.
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
        """Least number of neurocores, as far as this module counts."""
        return sum(layer.shared_cores for layer in self.layers)

    @property
    def expanded_cores(self) -> int:
        """Neurocores if no synapse shares its weight with another."""
        return sum(layer.expanded_cores for layer in self.layers)

    @property
    def boundary(self) -> str:
        """What the figures count, in words."""
        return (
            "from each weight stored once to a byte for each synapse; 8 bits a weight, no core shared by two layers; "
            "without axons and routing, sparse indices, biases, the synapse of a soft reset, input and readout"
        )


def resources(
    input_shape: Shape, synapses: Sequence[tuple[str, Synapse]], recurrent: Mapping[str, Dense] | None = None
) -> tuple[LayerResources, ...]:
    """Return the resources of each layer.

    Parameters
    ----------
    input_shape
        Of the network.
    synapses
        In order, with their layers' names.
    recurrent
        Synapses from a layer's own neurons, by the layer's name.
    """
    recurrent = recurrent or {}
    shapes = [input_shape]
    for _, synapse in synapses:
        shapes.append(synapse.output_shape(shapes[-1]))
    fan_outs = [synapse.fan_out(shape) for (_, synapse), shape in zip(synapses, shapes, strict=False)]
    leaving = [*fan_outs[1:], np.zeros(shapes[-1], np.int64)]
    return tuple(
        _layer_resources(name, synapse, shape, int(counts.sum()), after, recurrent.get(name))
        for (name, synapse), shape, counts, after in zip(synapses, shapes, fan_outs, leaving, strict=False)
    )


def _layer_resources(
    name: str, synapse: Synapse, input_shape: Shape, synapse_count: int, fan_out: Array, recurrent: Dense | None
) -> LayerResources:
    neurons, window = fan_out.size, math.prod(synapse.pool)
    rows = synapse.weight.reshape(synapse.channels, -1)
    fan_in = np.count_nonzero(rows, axis=1) * window
    nonzero = int(fan_in.sum())
    # A dense matrix also stores its zeros, and a kernel after a pooling those of its dilation.
    is_dense = isinstance(synapse, Dense)
    stored = neurons * math.prod(input_shape) if is_dense else synapse.without_pooling(input_shape).weight.size
    every = stored if is_dense else synapse_count
    if recurrent is not None:
        reached = recurrent.fan_out((neurons,))
        fan_in, fan_out = fan_in + np.count_nonzero(recurrent.weight, axis=1), fan_out.reshape(-1) + reached
        nonzero, synapse_count = nonzero + int(reached.sum()), synapse_count + int(reached.sum())
        stored, every = stored + recurrent.weight.size, every + recurrent.weight.size
    shared = nonzero + limits.LIF_BYTES * neurons
    expanded = every + limits.LOIHI_1_NEURON_BYTES * neurons
    needed = _cores(neurons, expanded)
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
        shared_cores=_cores(neurons, shared),
        expanded_cores=1 << (needed - 1).bit_length(),
    )


def _cores(neurons: int, size: int) -> int:
    return max(1, math.ceil(neurons / limits.NEURONS_PER_CORE), math.ceil(size / limits.CORE_BYTES))
