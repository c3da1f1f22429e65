"""Percentiles of the CNN's activations, layer by layer, from a histogram of calibration images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.relays import is_relay
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.activation_kernels import count_in_bins
from loihi_convert.simulation.image_shards import Images, Shard, on_shards
from loihi_convert.simulation.relu import ReluChain, on_blocks

_BINS: Final = 4096
"""Bins between 0 and the largest activation of a channel or layer."""

_NO_GROUP: Final = -1


class Activations:
    """The CNN's activations on calibration images, after ReLU except in the last layer.

    Images are computed when a percentile is first asked for, once for the largest activations, which are percentile
    100, and once for all others.

    Parameters
    ----------
    network
        The CNN.
    images
        uint8 ``(N, C, H, W)``.
    """

    def __init__(self, network: ReluNetwork, images: Images) -> None:
        self.images = images
        self._network = network
        self._largest: list[Array] = []
        self._counts: dict[bool, list[Array]] = {}

    def percentile(
        self, percentile: float, *, per_layer: bool = False, progress: Progress = no_progress
    ) -> list[Array]:
        """Return a percentile of the positive activations: float64 ``(C_out,)`` per layer.

        It is that of each channel or, with ``per_layer``, that of the layer, without relays, which repeat activations
        of other layers. 0 if none is positive, not finite if one overflows float32. Up to 1 / 4096 of the largest
        activation above the exact value; 100 is exact.
        """
        passes = (not self._largest) + (percentile < 100 and per_layer not in self._counts)
        done = 0

        def report(images: int, total: int) -> None:
            progress(done + images, passes * total)

        if not self._largest:
            self._largest = self._found_largest(report)
            done = len(self.images)
        groups = [self._groups(index, per_layer=per_layer) for index in range(len(self._network.layers))]
        largest = [_largest_of(*both) for both in zip(self._largest, groups, strict=True)]
        if percentile < 100:
            if per_layer not in self._counts:
                self._counts[per_layer] = self._found_counts(largest, groups, report)
            counts = self._counts[per_layer]
            largest = [_rank(*both, percentile) for both in zip(counts, largest, strict=True)]
        return [
            np.broadcast_to(values.astype(np.float64), layer.synapse.channels)
            for values, layer in zip(largest, self._network.layers, strict=True)
        ]

    def _groups(self, index: int, *, per_layer: bool) -> Array:
        """The group of each channel, whose activations are pooled; `_NO_GROUP`: not counted."""
        layer = self._network.layers[index]
        channels = layer.synapse.channels
        if not per_layer:
            return np.arange(channels)
        return np.where(is_relay(layer.relay_of, channels), _NO_GROUP, 0)

    def _found_largest(self, progress: Progress) -> list[Array]:
        parts = on_shards(_largest_of_shard, self._network, self.images, progress=progress)
        with np.errstate(invalid="ignore"):
            return [np.maximum.reduce(found) for found in zip(*parts, strict=True)]

    def _found_counts(self, largest: list[Array], groups: list[Array], progress: Progress) -> list[Array]:
        parts = on_shards(_counts_of_shard, (self._network, largest, groups), self.images, progress=progress)
        return [np.add.reduce(found) for found in zip(*parts, strict=True)]


def _largest_of_shard(network: ReluNetwork, shard: Shard, *, progress: Progress = no_progress) -> list[Array]:
    largest = [np.zeros(layer.synapse.channels, np.float32) for layer in network.layers]

    def take(index: int, maps: Array) -> None:
        # NaN, from infinity minus infinity, stays NaN.
        with np.errstate(invalid="ignore"):
            np.maximum(largest[index], maps.max(axis=(0, 1, 2)), out=largest[index])

    _each_layer(network, shard, take, progress)
    return largest


def _counts_of_shard(
    shared: tuple[ReluNetwork, list[Array], list[Array]], shard: Shard, *, progress: Progress = no_progress
) -> list[Array]:
    network, largest, groups = shared
    counts = [np.zeros((len(peak), _BINS), np.int64) for peak in largest]

    def take(index: int, maps: Array) -> None:
        count_in_bins(maps.reshape(-1, maps.shape[3]), groups[index], largest[index], counts[index])

    # Compile here, in one thread, as in `Neurons`.
    count_in_bins(np.empty((0, 1), np.float32), groups[0], largest[0], counts[0])
    _each_layer(network, shard, take, progress)
    return counts


def _each_layer(network: ReluNetwork, shard: Shard, take: Callable[[int, Array], None], progress: Progress) -> None:
    """Call ``take`` with the index of a layer and its activations on some images, once at a time for a layer."""
    locks = [threading.Lock() for _ in network.layers]

    def take_all(_: int, outputs: list[Array]) -> None:
        for index, maps in enumerate(outputs):
            with locks[index]:
                take(index, maps)

    on_blocks(ReluChain(network), np.asarray(shard.images), take_all, progress=progress)


def _largest_of(largest: Array, groups: Array) -> Array:
    """The largest value of each group: ``(groups,)`` for ``(C,)``; 0 if it has no channels."""
    found = np.zeros(groups.max(initial=0) + 1, np.float32)
    with np.errstate(invalid="ignore"):
        np.maximum.at(found, groups[groups != _NO_GROUP], largest[groups != _NO_GROUP])
    return found


def _rank(counts: Array, largest: Array, percentile: float) -> Array:
    """``(groups,)``: the upper edge of the bin with the percentile; ``counts`` is ``(groups, bins)``."""
    cumulative, share = counts.cumsum(axis=1), Fraction(repr(float(percentile))) / 100
    # Rounded up in integers: 0.99 x 100 in floating point may be above 99.
    rank = np.maximum(-(-cumulative[:, -1:] * share.numerator // share.denominator), 1)
    edge = np.minimum((cumulative < rank).sum(axis=1) + 1, _BINS)
    return np.asarray(largest * edge.astype(np.float32) / np.float32(_BINS))
