"""Levels -> `ReluNetwork`: a chain of layers whose channels are populations and relays.

Requires: populations on levels, and their relays (`relays.py`).
Ensures: one layer per level (`layer.py`). Parts of a layer without common channels are groups of its kernel
(`groups.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Shape
from loihi_convert.frontend.lower.layer import Layer
from loihi_convert.frontend.lower.levels import Levels
from loihi_convert.frontend.lower.relays import Relays, Sample
from loihi_convert.frontend.lower.value import IMAGE
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.quantized import MAX_NAME_LENGTH


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
