"""The work of relays in a run, and the work that the circuit of stock neurons adds, counted from what it recorded.

Relays
------
`ref` counts spikes by channel, but synaptic operations only by layer. The operations of a relay channel are computed as
its spikes x the mean fan-out of its neurons. That is exact if all neurons of the channel have the same fan-out: where a
skip enters a sum, or passes one more layer, pixel by pixel. Otherwise it is an estimate, for example for a relay before
a padded kernel: neurons at the border have fewer synapses.

Circuit
-------
A run counts spikes, and the synapses of the next layer that they reach. For an image that is shown for T steps, the
circuit (`ir.neuron_model`, `backends.lava.networks`) adds, with P the smallest power of two >= T:

===================  ==================================================================================
steps                2P instead of T, because of the resets (`backends.lava.exchange`)
neurons              R, which pass on the bit that switches the biases: one for each layer after the
                     first, up to the last layer with a bias. Each spikes in T steps.
synaptic operations  the soft resets: one for each spike of the network. In each of T steps, one for
                     each bias that is not 0, and one for each of the R neurons.
===================  ==================================================================================

Unless T is a power of two, neurons may also spike in steps T + 1 to P, which a run does not simulate. As long as u does
not wrap, their spikes and synaptic operations are at most P - T times those of

- the first layer in step T: without input, a neuron that is below its threshold stays there;
- all neurons of the other layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from loihi_convert.backends.lava.exchange import reset_interval, stock_interval
from loihi_convert.backends.result import RunResult
from loihi_convert.chip.energy import CircuitEvents
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import ReluNetwork, Spiking, relay_count, without_relays
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import PixelBias, Synapse


class RelayWork(NamedTuple):
    """The relays of each of L spiking layers.

    Parameters
    ----------
    neurons
        int64 ``(L,)``.
    spikes
        float64 ``(T, L)``, up to each step, summed over images; NaN in layers with relays if the run did not count
        spikes by channel.
    synaptic_operations
        The same for the synapses that these spikes reach.
    """

    neurons: Array
    spikes: Array
    synaptic_operations: Array


def relay_work(result: RunResult, network: Spiking[Any]) -> RelayWork:
    """Return the work of the relays of ``network`` in a run."""
    counts = result.spike_counts.shape
    neurons, work = np.zeros(counts[2], np.int64), np.zeros((2, *counts[1:]))
    for index, (layer, fan_out) in enumerate(zip(network.spiking_layers, network.stored.fan_outs, strict=True)):
        if layer.relay_of is None or not relay_count(layer.relay_of):
            continue
        relays = layer.relay_of >= 0
        neurons[index] = relay_count(layer.relay_of) * math.prod(fan_out.shape[1:])
        if not result.channel_spikes:
            work[:, :, index] = np.nan
            continue
        spikes = result.channel_spikes[index][:, relays].cumsum(axis=0)
        reached = spikes @ fan_out[relays].reshape(len(spikes.T), -1).mean(axis=1)
        every = result.synaptic_operations[:, :, index].sum(axis=0).cumsum()
        work[:, :, index] = spikes.sum(axis=1), np.minimum(reached, every)
    return RelayWork(neurons, *work)


def known(value: float) -> float | None:
    """Return ``value``, or None if it is NaN, that is, not counted."""
    return None if math.isnan(value) else value


@dataclass(frozen=True, eq=False)
class CircuitWork:
    """The work that the circuit of ``network`` adds to the run ``result``; see this module's docstring."""

    result: RunResult
    network: QuantizedNetwork

    @property
    def synaptic_operations(self) -> Array:
        """int64 ``(N, T)``: the circuit's synaptic operations in each of the steps 1..T."""
        stored = self.network.stored
        biases = sum(
            int(np.count_nonzero(np.broadcast_to(layer.bias.T, shape[::-1])))
            for layer, shape in zip(stored.layers, stored.shapes, strict=True)
            if layer.bias is not None
        )
        return np.asarray(self.result.spike_counts.sum(axis=2) + (biases + self._neurons))

    def events(self, timesteps: int) -> CircuitEvents:
        """Return the work for images shown for ``timesteps`` steps, mean over images."""
        spikes, operations = self._most_spikes_without_input(timesteps)
        further_steps = reset_interval(timesteps) - timesteps
        return CircuitEvents(
            steps=stock_interval(timesteps),
            neurons=self._neurons,
            spikes=self._neurons * timesteps,
            synaptic_operations=float(self.synaptic_operations[:, :timesteps].sum(axis=1).mean()),
            further_spikes=further_steps * spikes,
            further_synaptic_operations=further_steps * (operations + spikes),
        )

    @property
    def _neurons(self) -> int:
        """R."""
        return max((index for index, layer in enumerate(self.network.layers) if layer.bias is not None), default=0)

    def _most_spikes_without_input(self, timesteps: int) -> tuple[float, float]:
        """The most spikes in a step after ``timesteps``, and the synapses of the next layer that they reach."""
        first_layer, others = np.s_[:, timesteps - 1, :1], self.network.fan_outs[1:]
        spikes = float(self.result.spike_counts[first_layer].sum(axis=1).mean())
        operations = float(self.result.synaptic_operations[first_layer].sum(axis=1).mean())
        return spikes + sum(fan_out.size for fan_out in others), operations + sum(int(one.sum()) for one in others)


class LayerSize(Record):
    """The size of one layer, and its work if it computed with numbers.

    Attributes
    ----------
    name
        The module's name in the CNN.
    neuron_count
        Number of neurons of the layer.
    multiply_accumulates
        Multiplications by a nonzero weight for one image if the layer, as it is in the file, were one of a CNN, after
        average pooling (NeuroBench: effective MACs, if no activation were 0); none for relays. The CNN's own layer may
        have fewer: max pooling and LeakyReLU become further neurons.
    relay_neuron_count
        Number of neurons that are relays.
    """

    name: str
    neuron_count: int
    multiply_accumulates: int
    relay_neuron_count: int


def layer_sizes(network: Spiking[Any]) -> tuple[LayerSize, ...]:
    """Return the size of each layer."""
    layers, input_shapes = [], (network.input_shape, *network.shapes)
    for layer, input_shape, shape in zip(network.layers, input_shapes, network.shapes, strict=False):
        relays, synapse = 0, layer.synapse
        if layer.relay_of is not None and not isinstance(synapse, PixelBias):
            relays = relay_count(layer.relay_of) * math.prod(shape[1:])
            synapse = without_relays(synapse, layer.relay_of)
        layers.append(
            LayerSize(
                name=layer.name,
                neuron_count=math.prod(shape),
                multiply_accumulates=multiplications(synapse, input_shape),
                relay_neuron_count=relays,
            )
        )
    return tuple(layers)


def multiplications(synapse: Synapse | PixelBias, input_shape: Shape) -> int:
    """Return the number of multiplications by a nonzero weight in ``synapse`` for one image, as in a CNN."""
    # A spike before a pooling reaches the synapses of its whole window; a CNN multiplies the average once.
    return int(synapse.fan_out(input_shape).sum()) // math.prod(synapse.pool)


def cnn_multiplications(network: ReluNetwork) -> int:
    """Return the sum of `multiplications` over the layers: the work of a time step of the float SNN."""
    shapes = (network.input_shape, *network.shapes)
    return sum(multiplications(layer.synapse, shape) for layer, shape in zip(network.layers, shapes, strict=False))
