"""nn.Module -> ReluNetwork: the CNN as synapses with ReLU between them.

The chain of operations (`chain.py`) must be, as often as one likes::

    [Pool] [Flatten] (Conv | Dense) [Affine] Relu

and end with ``[Pool] Flatten Dense [Affine]``, whose membrane potentials become the class scores. Batch norm (Affine)
folds into the synapse before it; pooling joins the next synapse, as a linear map of the spikes. Any other order is
refused by name.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from loihi_convert.chain import Affine, Flatten, Link, Pool, Relu, read_chain
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.network import ReluLayer, ReluNetwork
from loihi_convert.synapse import Conv, Dense, Shape, Synapse


def convert(model: nn.Module, input_shape: Shape) -> ReluNetwork:
    """Return the CNN as a chain of synapses with ReLU between them; its outputs equal the model's own in eval mode.

    Parameters
    ----------
    model
        Takes images in 0..1, float32 ``(N, C, H, W)``, and returns class scores ``(N, classes)``. It is not changed.
    input_shape
        ``(C, H, W)``.

    Raises
    ------
    UnsupportedModelError
        If the model holds an operation, or an order of operations, that cannot spike; names the module.
    InputError
        If the model does not take images of ``input_shape``.
    """
    training = model.training
    try:
        links = read_chain(model.eval(), input_shape)
    finally:
        model.train(training)
    return _assemble(links, input_shape)


def _assemble(links: tuple[Link, ...], input_shape: Shape) -> ReluNetwork:
    """Close a layer at each ReLU: a synapse with the pooling before it and the batch norm behind it."""
    layers: list[ReluLayer] = []
    pool: Link | None = None
    layer: ReluLayer | None = None
    for link in links:
        operation = link.operation
        if isinstance(operation, Conv | Dense):
            if layer is not None:
                link.refuse(f"follows {layer.name} without ReLU between them, where spikes would be sent")
            layer = ReluLayer(link.name, _behind_pool(operation, link, pool))
            pool = None
        elif isinstance(operation, Affine):
            if layer is None:
                link.refuse("does not directly follow a Conv2d or Linear; it cannot be folded")
            layer = replace(layer, synapse=_folded(layer.synapse, operation))
        elif isinstance(operation, Relu):
            if layer is not None:
                layers.append(layer)
                layer = None
            elif pool is not None or not layers:
                link.refuse("is a ReLU without a Conv2d or Linear directly before it; put pooling after ReLU")
        elif isinstance(operation, Pool):
            if layer is not None:
                link.refuse(f"stands between {layer.name} and its ReLU; put the pooling after the ReLU")
            if pool is not None:
                link.refuse(f"follows the pooling {pool.name}; supported is one pooling between two layers")
            pool = link
        elif isinstance(operation, Flatten) and layer is not None and isinstance(layer.synapse, Conv):
            link.refuse(f"stands between {layer.name} and its ReLU; put it after the ReLU")
    if layer is None or not isinstance(layer.synapse, Dense) or pool is not None:
        last = links[-1].name if links else "nothing"
        raise UnsupportedModelError(
            f"{last}: the model ends here; it must end with a Linear layer, whose membrane potentials become the class "
            "scores, without ReLU or pooling after it."
        )
    return ReluNetwork(tuple(input_shape), (*layers, layer))


def _behind_pool(synapse: Conv | Dense, link: Link, pool: Link | None) -> Synapse:
    """``synapse`` with the pooling joined: exact without padding, or where the window divides the pooling's input."""
    if pool is None or not isinstance(pool.operation, Pool):
        return synapse
    size, (_, height, width) = pool.operation.size, pool.input_shape
    if isinstance(synapse, Conv) and synapse.padding != (0, 0) and (height % size[0] or width % size[1]):
        link.refuse(f"is padded after {pool.name}, whose window {size} does not divide its input {(height, width)}")
    return replace(synapse, pool=size)


def _folded(synapse: Synapse, norm: Affine) -> Synapse:
    """``norm`` after ``synapse`` as one synapse."""
    bias = np.zeros(synapse.channels) if synapse.bias is None else synapse.bias
    gain = norm.gain.reshape(-1, *(1,) * (synapse.weight.ndim - 1))
    return replace(synapse, weight=synapse.weight * gain, bias=bias * norm.gain + norm.shift)
