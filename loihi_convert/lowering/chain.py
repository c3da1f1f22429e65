"""nn.Module -> `ReluNetwork`: the steps in order, and what is checked before and after them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from torch import nn

from loihi_convert.data.in_memory import as_input_shape
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError, require_kind
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.normalization import Normalization, channel_normalization
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.quantized import MAX_NAME_LENGTH
from loihi_convert.lowering.layer import Layer
from loihi_convert.lowering.levels import Levels, Relays, Sample, placed
from loihi_convert.lowering.max_pool import pooled_after_relu
from loihi_convert.lowering.operations import affine_of
from loihi_convert.lowering.traversal import ending_of, populated
from loihi_convert.lowering.value import IMAGE
from loihi_convert.reading.graph import Affine, Ending, Graph
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
        chain = _chain(graph, input_shape, affine, skip_copies)
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


def _chain(graph: Graph, image_shape: Shape, normalization: Affine | None, skip_copies: int) -> Chain:
    ending, notes = ending_of(graph), graph.notes
    if ending is not None:
        notes = (*notes, f"{ending.name}: the {ending.kind} at the end is dropped; it does not change the argmax.")

    populations, found = populated(graph, image_shape, normalization)
    if found:
        found[0].others = found[1:]
        raise found[0]
    chain = to_chain(Relays(placed(populations), skip_copies), image_shape, notes)
    network = replace(
        chain.network,
        ending=ending.operation.function if ending is not None and isinstance(ending.operation, Ending) else "",
        multiply_accumulates=graph.multiply_accumulates,
    )
    return replace(chain, network=network)


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
            groups.append(found.count)
        else:
            groups.append(1 if plain is None or layer.is_dense else plain.window.groups)
    return channels, groups


def _unique(name: str, taken: Collection[str]) -> str:
    """``name``, printable, and different from all names in ``taken``."""
    # Leave room for a number at the end.
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)[: MAX_NAME_LENGTH - 8]
    numbered = (f"{printable} #{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([printable], numbered) if each not in taken)
