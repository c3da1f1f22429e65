"""Populations -> `ReluNetwork`: a chain of layers whose channels are populations and relays.

Requires: populations on levels (`levels.py`).
Ensures: one layer per level. A layer has one kernel, stride, padding and number of groups: smaller kernels are embedded
in the largest, a relay has a single tap of weight 1, and parts of a layer without common channels become groups
(`groups.py`). A level with one population that uses only the level before keeps its own geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Shape
from loihi_convert.frontend.lower.layer import Layer
from loihi_convert.frontend.lower.levels import Levels, Sample
from loihi_convert.frontend.lower.value import IMAGE
from loihi_convert.ir.network import ReluLayer, ReluNetwork


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


def to_chain(levels: Levels, image_shape: Shape, notes: tuple[str, ...] = ()) -> Chain:
    """Return ``levels`` as a chain for images ``(C, H, W)``."""
    relays = levels.needed()
    channels = [[Sample(IMAGE, channel) for channel in range(image_shape[0])]]
    counts, blocks = [1], np.zeros(image_shape[0], np.int64)
    for level in range(1, levels.depth + 1):
        own = [Sample(number, c) for number in levels.on(level) for c in range(levels.populations[number].shape[0])]
        channels.append([*own, *relays[level]])
        layer = Layer(levels, level, channels[level - 1], channels[level])
        plain = layer.plain_term
        # A dense layer has no groups, and the outputs of the last layer keep their order.
        groups = None if plain is not None or layer.is_dense else layer.groups(blocks)
        if plain is not None and not layer.is_dense:
            counts.append(plain.window.groups)
        # The image's channels keep their order.
        elif groups is None or (level == 1 and not np.array_equal(groups.inputs, np.arange(image_shape[0]))):
            counts.append(1)
        else:
            channels[level - 1] = [channels[level - 1][place] for place in groups.inputs]
            channels[level] = [channels[level][place] for place in groups.outputs]
            counts.append(groups.count)
        blocks = np.arange(len(channels[level])) // (len(channels[level]) // counts[-1])
    layers: list[ReluLayer] = []
    for level in range(1, levels.depth + 1):
        names = {layer.name for layer in layers}
        layers.append(Layer(levels, level, channels[level - 1], channels[level]).layer(counts[level], names))
    return Chain(ReluNetwork(image_shape, tuple(layers), notes), levels, tuple(map(tuple, channels)))
