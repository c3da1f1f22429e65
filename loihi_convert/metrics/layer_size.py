"""The size of each layer of a network, and its work if it computed with numbers."""

from __future__ import annotations

import math

from loihi_convert.external import AnyNetwork
from loihi_convert.external.cuba import CubaLayer
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.records import Record
from loihi_convert.ir.graded import GradedLayer
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.ir.relays import relay_count, without_relays
from loihi_convert.ir.synapse import PixelBias, Synapse


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


def layer_sizes(network: AnyNetwork) -> tuple[LayerSize, ...]:
    """Return the size of each layer."""
    layers = []
    synaptic: tuple[QuantizedLayer | CubaLayer | GradedLayer, ...] = network.layers
    for layer, input_shape, shape in zip(
        synaptic, (network.input_shape, *network.shapes), network.shapes, strict=False
    ):
        relays, synapse = 0, layer.synapse
        if not isinstance(layer, CubaLayer) and not isinstance(synapse, PixelBias) and layer.relay_of is not None:
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
