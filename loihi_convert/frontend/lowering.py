"""nn.Module -> ReluNetwork: the CNN as synapses with ReLU between them.

The chain of operations (`chain.py`) must be, as often as one likes::

    [Affine] [Pool] [Flatten] (Conv | Dense) [Affine] Relu

with the optional operations in front in any order and number, and end with such a Dense without Relu, whose membrane
potentials become the class scores; or with the average of whole maps, one for each class. Any other order is refused by
name.

- Batch norm behind a synapse folds into its weights and bias.
- Batch norm, or the normalization of the input, in front of a synapse folds into it too. Where the synapse pads with
  zeros the shift does not reach the border, and the bias becomes one per neuron: exact, as the CNN computes it.
- Pooling joins the synapse behind it, as a linear map of the spikes; it commutes with a batch norm beside it, and with
  a pointwise convolution in front of it, which on maps of one pixel is a Dense, as are those behind it.
- The average of whole maps behind a ReLU, at the end, becomes a Dense of weights 1, one for each class.
- A softmax at the end is dropped, with a note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from loihi_convert.arrays import Array, Shape
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError
from loihi_convert.frontend.chain import Link, read_chain
from loihi_convert.frontend.operations import Affine, Flatten, Pool, Relu, Softmax
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense, Synapse


def to_relu_network(
    model: nn.Module,
    input_shape: Shape,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> ReluNetwork:
    """Return the CNN as a chain of synapses with ReLU between them; its outputs equal the model's own in eval mode.

    Parameters
    ----------
    model
        Takes images, float32 ``(N, C, H, W)``, and returns class scores ``(N, classes)``. It is not changed.
    input_shape
        ``(C, H, W)``.
    mean, std
        Per channel, where the model wants ``(pixel / 255 - mean) / std`` and does not compute it itself.

    Raises
    ------
    UnsupportedModelError
        If the model holds an operation, or an order of operations, that cannot spike; names the module.
    InputError
        If the model does not take images of ``input_shape``, or holds NaN or an infinity.
    UsageError
        If ``mean`` or ``std`` do not have one finite value per channel, or ``std`` is not positive.
    """
    channels = input_shape[0]
    normalization = _normalization(channels, per_channel(mean, channels, "mean"), per_channel(std, channels, "std"))
    training = {module: module.training for module in model.modules()}
    try:
        # Numbers that are not finite are reported below, with the layer they end up in.
        with np.errstate(all="ignore"):
            network = _Assembly(normalization).run(read_chain(model.eval(), input_shape), tuple(input_shape))
    finally:
        for module, mode in training.items():
            module.training = mode
    for layer in network.layers:
        arrays = (layer.synapse.weight, layer.synapse.bias)
        if not all(array is None or np.isfinite(array).all() for array in arrays):
            raise InputError(
                "with batch norm folded, a weight or bias is NaN or infinite",
                where=layer.name,
                expected="must be finite",
                hint="Train the CNN again.",
            )
    return network


def per_channel(values: float | Sequence[float] | None, channels: int, where: str) -> tuple[float, ...] | None:
    """Return one number per channel: ``values``, or the one number for all.

    Raises
    ------
    UsageError
        If ``values``, of the parameter ``where``, are not numbers.
    """
    if values is None:
        return None
    try:
        given = (float(values),) if isinstance(values, int | float) else tuple(map(float, values))
    except (TypeError, ValueError) as error:
        raise UsageError(f"found {values!r}", where=where, expected="must be a number, or one per channel") from error
    return given * channels if len(given) == 1 else given


def _normalization(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Affine | None:
    if mean is None and std is None:
        return None
    centre, spread = (0.0,) * channels if mean is None else mean, (1.0,) * channels if std is None else std
    for parameter, values in (("mean", centre), ("std", spread)):
        if len(values) != channels:
            raise UsageError(
                f"found {tuple(values)} for images of {channels} channels",
                where=parameter,
                expected="must be one number per channel",
            )
        if not all(map(math.isfinite, values)) or (parameter == "std" and min(values) <= 0):
            least = "finite and above 0" if parameter == "std" else "finite"
            raise UsageError(f"found {tuple(values)}", where=parameter, expected=f"must be {least}")
    gain = 1 / np.array(spread, np.float64)
    return Affine(gain, -np.array(centre, np.float64) * gain)


class _Assembly:
    """Closes a layer at each ReLU: a synapse with the operations before and after it."""

    def __init__(self, normalization: Affine | None) -> None:
        self._layers: list[ReluLayer] = []
        self._open: ReluLayer | None = None
        # What waits for the next synapse.
        self._affine = normalization
        self._pools: list[Link] = []
        self._notes: list[str] = []

    def run(self, links: Sequence[Link], input_shape: Shape) -> ReluNetwork:
        for link in links:
            self._take(link)
        if self._open is None and self._layers and self._pools:
            self._average_maps()
        if self._open is None or not isinstance(self._open.synapse, Dense) or self._pools:
            last = links[-1].name if links else "the model"
            raise UnsupportedModelError(
                "the model ends here",
                where=last,
                expected="must end with a Linear layer, whose membrane potentials become the class scores, without "
                "ReLU or pooling after it, or with the average of whole maps, one for each class",
            )
        return ReluNetwork(input_shape, (*self._layers, self._open), tuple(self._notes))

    def _take(self, link: Link) -> None:
        operation = link.operation
        if self._notes:
            link.refuse("follows a softmax", supported="a softmax at the end")
        if isinstance(operation, Conv | Dense):
            self._take_synapse(link, operation)
        elif isinstance(operation, Affine):
            self._take_affine(operation)
        elif isinstance(operation, Relu):
            self._take_relu(link, operation)
        elif isinstance(operation, Pool):
            if self._open is None:
                self._pools.append(link)
            elif not (isinstance(self._open.synapse, Dense) and operation.size == (1, 1)):
                self._open = _pooled_behind(self._open, link, operation)
        elif isinstance(operation, Flatten):
            if self._open is not None and isinstance(self._open.synapse, Conv):
                link.refuse(f"stands between {self._open.name} and its ReLU; put it after the ReLU")
        else:
            assert isinstance(operation, Softmax)
            self._notes.append(f"{link.name}: the {link.kind} at the end is dropped; arg max is the same without it.")

    def _take_synapse(self, link: Link, synapse: Synapse) -> None:
        if self._open is not None:
            link.refuse(
                f"follows {self._open.name} without ReLU between them", hint="Put a ReLU between the two layers."
            )
        if isinstance(synapse, Conv) and self._layers and isinstance(self._layers[-1].synapse, Dense):
            if not _is_pointwise(synapse) or synapse.groups > 1:
                link.refuse("is a convolution of maps of one pixel; make it 1 x 1, without groups, or a Linear layer")
            synapse = Dense(synapse.weight[:, :, 0, 0], synapse.bias)
        pool = (1, 1)
        for before in self._pools:
            assert isinstance(before.operation, Pool)
            # Windows of windows: a x a of b x b are ab x ab, and the remainders that are dropped are the same.
            pool = (pool[0] * before.operation.size[0], pool[1] * before.operation.size[1])
        if self._pools and isinstance(synapse, Conv) and synapse.padding != (0, 0):
            _, height, width = self._pools[0].input_shape
            if height % pool[0] or width % pool[1]:
                names = ", ".join(before.name for before in self._pools)
                link.refuse(f"is padded after {names}, whose window {pool} does not divide its input {(height, width)}")
        if self._affine is not None:
            synapse = _folded_in_front(synapse, self._affine, link.input_shape)
        self._open = ReluLayer(link.name, replace(synapse, pool=pool))
        self._affine, self._pools = None, []

    def _average_maps(self) -> None:
        last = self._pools[-1]
        assert isinstance(last.operation, Pool)
        channels, *extent = last.input_shape
        if tuple(extent) == last.operation.size:
            ones = Dense(np.eye(channels))
            self._take_synapse(Link(last.name, last.kind, ones, (channels, 1, 1)), ones)

    def _take_affine(self, affine: Affine) -> None:
        if self._open is not None:
            self._open = replace(self._open, synapse=_folded_behind(self._open.synapse, affine))
        elif self._affine is None:
            self._affine = affine
        else:
            first = self._affine
            # A norm of flattened features has more values than one of their channels.
            repeats = affine.gain.size // first.gain.size
            gain, shift = np.repeat(first.gain, repeats), np.repeat(first.shift, repeats)
            self._affine = Affine(affine.gain * gain, affine.gain * shift + affine.shift)

    def _take_relu(self, link: Link, relu: Relu) -> None:
        if self._open is not None:
            self._layers.append(replace(self._open, threshold=relu.threshold, levels=relu.levels))
            self._open = None
        elif self._affine is not None or self._pools or not self._layers:
            link.refuse("is a ReLU without a Conv2d or Linear before it; put pooling and batch norm after a ReLU")
        elif relu.threshold is not None:
            link.refuse(f"is a second activation behind {self._layers[-1].name}; leave out the first one")


def _pooled_behind(layer: ReluLayer, link: Link, pool: Pool) -> ReluLayer:
    """``pool`` after a pointwise convolution as one synapse: the average of its outputs is that of its inputs."""
    synapse = layer.synapse
    if not isinstance(synapse, Conv) or not _is_pointwise(synapse):
        link.refuse(f"stands between {layer.name} and its ReLU; put the pooling after the ReLU")
    size = (synapse.pool[0] * pool.size[0], synapse.pool[1] * pool.size[1])
    if link.input_shape[1:] != pool.size or synapse.groups > 1:
        return replace(layer, synapse=replace(synapse, pool=size))
    return replace(layer, synapse=Dense(synapse.weight[:, :, 0, 0], synapse.bias, size))


def _is_pointwise(synapse: Conv) -> bool:
    return (synapse.weight.shape[2:], synapse.stride, synapse.padding) == ((1, 1), (1, 1), (0, 0))


def _folded_behind(synapse: Synapse, affine: Affine) -> Synapse:
    """``affine`` after ``synapse`` as one synapse."""
    bias = np.zeros(synapse.channels) if synapse.bias is None else synapse.bias
    weight = synapse.weight * _per_channel(affine.gain, synapse.weight.ndim)
    return replace(
        synapse,
        weight=weight,
        bias=bias * _per_channel(affine.gain, bias.ndim) + _per_channel(affine.shift, bias.ndim),
    )


def _folded_in_front(synapse: Synapse, affine: Affine, input_shape: Shape) -> Synapse:
    """``affine`` before ``synapse``, whose input (after pooling) has ``input_shape``, as one synapse."""
    shift = np.repeat(affine.shift, math.prod(input_shape) // affine.shift.size)
    if isinstance(synapse, Dense):
        constant: Array = synapse.weight @ shift
    else:
        by_torch = functional.conv2d(
            torch.from_numpy(shift.reshape(1, *input_shape)),
            torch.from_numpy(synapse.weight.copy()),
            None,
            synapse.stride,
            synapse.padding,
            synapse.dilation,
            synapse.groups,
        )
        constant = by_torch[0].numpy()
        if synapse.padding == (0, 0):
            # Every neuron sees the whole kernel: one value per channel.
            constant = constant[:, 0, 0]
    bias = np.zeros(synapse.channels) if synapse.bias is None else synapse.bias
    return replace(synapse.with_input_factors(affine.gain), bias=_per_channel(bias, constant.ndim) + constant)


def _per_channel(values: Array, axes: int) -> Array:
    """``(C,)`` as ``(C, 1, ...)`` with ``axes`` axes."""
    return values.reshape(-1, *(1,) * (axes - 1))
