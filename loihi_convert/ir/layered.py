"""What all networks have in common: layers in sequence, each of which receives the outputs of the one before."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import numpy as np

from loihi_convert.arrays import Array, Shape
from loihi_convert.choices import Readout
from loihi_convert.ir.synapse import PixelBias, Synapse


def layer_words(name: str) -> str:
    """Return ``name`` of a layer for a sentence: ``layer 9`` for the 9 of an `nn.Sequential`."""
    return f"layer {name}" if name[:1].isdigit() else name


class HasSynapse(Protocol):
    """The part of a layer that the geometry of its network needs."""

    @property
    def synapse(self) -> Synapse | PixelBias: ...


AnyLayer = TypeVar("AnyLayer", bound=HasSynapse)


class Layered(Generic[AnyLayer]):
    """Base of the networks, with their fields ``input_shape``, ``(C, H, W)`` or ``(N,)``, and ``layers``, in order."""

    input_shape: Shape
    layers: tuple[AnyLayer, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.synapse.output_shape(shapes[-1]))
        return tuple(shapes[1:])


class Spiking(Layered[AnyLayer]):
    """Base of the networks whose layers all spike, or all but the last."""

    @property
    def readout(self) -> Readout:
        """The output: the last layer's membrane potential, or its spike counts."""
        raise NotImplementedError

    @property
    def spiking_layers(self) -> tuple[AnyLayer, ...]:
        """The layers whose spikes are counted: all, or all but the last."""
        return self.layers if self.readout == "spikes" else self.layers[:-1]

    @property
    def fan_outs(self) -> tuple[Array, ...]:
        """Number of nonzero synapses from each neuron, per spiking layer: int64 in the layer's shape."""
        shapes = self.shapes
        after = [layer.synapse.fan_out(shape) for layer, shape in zip(self.layers[1:], shapes[:-1], strict=True)]
        # The spikes of the last layer reach none.
        return (*after, np.zeros(shapes[-1], np.int64))[: len(self.spiking_layers)]
