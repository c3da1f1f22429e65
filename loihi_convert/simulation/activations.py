"""Percentiles of the CNN's activations, layer by layer, from a histogram of calibration images."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.relays import own_channels
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.image_shards import ImageArray, Shard, on_shards
from loihi_convert.simulation.relu import ReluChain, on_blocks

_BINS: Final = 4096
"""Bins of a histogram; a power of two."""

_NONE_YET: Final = -1000
"""Exponent below that of any positive float32."""


class Activations:
    """The CNN's activations on calibration images, after ReLU except in the last layer.

    Images are computed when a percentile is first asked for, and once more if that was 100, which needs no histogram.

    Parameters
    ----------
    network
        The CNN.
    images
        uint8 ``(N, C, H, W)``.
    """

    def __init__(self, network: ReluNetwork, images: ImageArray) -> None:
        self.images = images
        self._network = network
        self._layers: list[Histogram] = []

    def percentile(
        self, percentile: float, *, per_layer: bool = False, progress: Progress = no_progress
    ) -> list[Array]:
        """Return a percentile of the positive activations: float64 ``(C_out,)`` per layer.

        It is that of each channel or, with ``per_layer``, that of the layer, without relays, which repeat activations
        of other layers. 0 if none is positive, not finite if one overflows float32. Up to 1 / 2048 of the largest
        activation above the exact value; 100 is exact.
        """
        bins = _BINS if percentile < 100 else 0
        if not self._layers or self._layers[0].bins < bins:
            parts = on_shards(_histograms, (self._network, bins), self.images, progress=progress)
            self._layers = [functools.reduce(Histogram.with_values_of, found) for found in zip(*parts, strict=True)]
        found = []
        for histogram, layer in zip(self._layers, self._network.layers, strict=True):
            values = histogram.of_channels(own_channels(layer.relay_of)) if per_layer else histogram
            found.append(np.broadcast_to(values.percentile(percentile), layer.synapse.channels))
        return found


class Histogram:
    """The positive values of some channels, each counted in bins that divide 0..2^e evenly.

    2^e is the smallest power of two above the channel's largest value: it grows with the values, and bins are joined in
    pairs. So the histogram is the same in whatever order values come, and needs one pass over them.

    Parameters
    ----------
    channels
        Number of channels.
    bins
        `_BINS`, or 0: only the largest values are known.
    """

    def __init__(self, channels: int, bins: int) -> None:
        self._largest = np.zeros(channels, np.float32)
        self._exponents = np.full(channels, _NONE_YET)
        self._counts = np.zeros((channels, bins), np.int64)

    @property
    def bins(self) -> int:
        """The number of bins."""
        return self._counts.shape[1]

    def add(self, maps: Array) -> None:
        """Add values, float32 ``(N, H, W, C)``."""
        self._make_room(maps.max(axis=(0, 1, 2)))
        if self.bins:
            scales = np.ldexp(float(self.bins), -np.maximum(self._exponents, -900))
            count_in_bins(maps.reshape(-1, maps.shape[3]), scales, self._counts)

    def with_values_of(self, other: Histogram) -> Histogram:
        """Return this histogram, after adding the values of ``other``, which may be changed."""
        self._make_room(other._largest)
        other._make_room(self._largest)
        self._counts += other._counts
        return self

    def of_channels(self, chosen: slice | Array) -> Histogram:
        """Return the values of ``chosen`` channels as those of one channel."""
        found = Histogram(1, self.bins)
        for largest, exponent, counts in zip(
            self._largest[chosen], self._exponents[chosen], self._counts[chosen], strict=True
        ):
            one = Histogram(1, self.bins)
            one._largest[:], one._exponents[:], one._counts[:] = largest, exponent, counts
            found = found.with_values_of(one)
        return found

    def percentile(self, percentile: float) -> Array:
        """Return the upper edge of each channel's bin with the percentile, at most the largest: float64 ``(C,)``."""
        largest = self._largest.astype(np.float64)
        if percentile == 100:
            return largest
        cumulative, share = self._counts.cumsum(axis=1), Fraction(repr(float(percentile))) / 100
        # Rounded up in Python's integers: 0.99 x 100 in floating point may be above 99, and 64 bits may be too few.
        ranks = [max(-(-int(count) * share.numerator // share.denominator), 1) for count in cumulative[:, -1]]
        rank = np.array(ranks)[:, np.newaxis]
        edge = np.ldexp(((cumulative < rank).sum(axis=1) + 1) / self.bins, self._exponents)
        return np.where(np.isfinite(largest), np.minimum(edge, largest), largest)

    def _make_room(self, largest: Array) -> None:
        """Widen the bins of the channels whose values reach ``largest``, ``(C,)``."""
        # NaN, from infinity minus infinity, stays NaN.
        with np.errstate(invalid="ignore"):
            self._largest = np.maximum(self._largest, largest)
        reached = np.where(np.isfinite(self._largest), self._largest, 0)
        exponents = np.where(reached > 0, np.frexp(reached)[1], self._exponents)
        for channel in np.flatnonzero(exponents > self._exponents) if self.bins else ():
            joined = 2 ** min(exponents[channel] - self._exponents[channel], self.bins.bit_length() - 1)
            counts = self._counts[channel].reshape(-1, joined).sum(axis=1)
            self._counts[channel, : len(counts)], self._counts[channel, len(counts) :] = counts, 0
        self._exponents = np.maximum(exponents, self._exponents)


def _histograms(
    shared: tuple[ReluNetwork, int], shard: Shard, *, progress: Progress = no_progress
) -> Sequence[Histogram]:
    network, bins = shared
    found = [Histogram(layer.synapse.channels, bins) for layer in network.layers]
    locks = [threading.Lock() for _ in network.layers]

    def take(_: int, outputs: list[Array]) -> None:
        for histogram, lock, maps in zip(found, locks, outputs, strict=True):
            with lock:
                histogram.add(maps)

    # Compile here, in one thread, as in `Neurons`.
    count_in_bins(np.empty((0, 1), np.float32), np.empty(1), np.empty((1, 1), np.int64))
    on_blocks(ReluChain(network), np.asarray(shard.images), take, progress=progress)
    return found


@compiled()
def count_in_bins(maps: Array, scales: Array, counts: Array) -> None:
    """Add the positive values of ``maps``, float32 ``(rows, C)``, to ``counts``, int64 ``(C, bins)``.

    A value's bin is floor(value x scale of its channel), or the last one, where infinity counts, too.
    """
    last = counts.shape[1] - 1
    for row in range(maps.shape[0]):
        for channel in range(maps.shape[1]):
            value = maps[row, channel]
            if value > 0:
                place = np.float64(value) * scales[channel]
                counts[channel, int(place) if place < last else last] += 1
