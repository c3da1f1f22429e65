"""Activations of the CNN, a `ReluNetwork`, layer by layer, in float32, and their percentiles from a histogram."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.cnn.qcfs import quantize_or_rectify
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.compiled import compiled
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, own_channels
from loihi_convert.ir.synapse import Synapse
from loihi_convert.simulation.currents import MAX_PIXEL, channels_last, convolution_of, sum_pool
from loihi_convert.simulation.image_shards import (
    DividedImages,
    ImageArray,
    Shard,
    block_multiple,
    joined_parts,
    on_cores,
)

# Largest number of images x neurons of the largest layer computed at once: 16 MiB.
_BLOCK: Final = 2**22

Activation = Callable[[Array], Array]
"""A function on float32 ``(N, H, W, C)`` that preserves the shape; it may overwrite what it is given."""


class ReluChain:
    """The CNN as a function from images to the activations of its layers.

    Parameters
    ----------
    network
        The CNN.
    depth
        Number of layers; default: all.
    activations
        One activation for each of these layers, instead of the CNN's.

    Attributes
    ----------
    images_at_once
        Number of images that fit a block, a power of two; smaller ones divide `image_shards.block_multiple`.
    """

    def __init__(
        self,
        network: ReluNetwork,
        depth: int | None = None,
        *,
        activations: Sequence[Activation] | None = None,
    ) -> None:
        shapes, layers = (network.input_shape, *network.shapes), network.layers[:depth]
        activations = activations or [cnn_activation(network, index) for index in range(len(layers))]
        self._layers = [
            (layer.synapse, convolution_of(layer.synapse, shape, averages=True, takes_spikes=False), activation)
            for layer, shape, activation in zip(layers, shapes[: len(layers)], activations, strict=True)
        ]
        if any(layer.levels is not None for layer in layers):
            # Compile here, in one thread, as in `Neurons`.
            quantize_or_rectify(np.empty((0, 1), np.float32), np.empty(1, np.float32), np.float32(1))
        largest = max(math.prod(shape) for shape in network.shapes)
        self.images_at_once = min(block_multiple("cpu"), 2 ** (max(1, _BLOCK // largest).bit_length() - 1))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def __call__(self, images: Array) -> list[Array]:
        """Return float32 ``(N, H, W, C)`` per layer, after ReLU except in the last, for uint8 ``(N, C, H, W)``."""
        return self.after(-1, channels_last(images) / np.float32(MAX_PIXEL))

    def after(self, index: int, maps: Array) -> list[Array]:
        """Return the activations of the layers after layer ``index``, whose activations are ``maps``."""
        outputs = []
        for synapse, operator, activation in self._layers[index + 1 :]:
            maps = activation(_with_bias(operator(sum_pool(maps, synapse.pool)), synapse))
            outputs.append(maps)
        return outputs


def cnn_activation(network: ReluNetwork, index: int) -> Activation:
    """Return the activation of layer ``index``: ReLU, perhaps with a ceiling, `qcfs.Qcfs`, or none in the last."""
    layer = network.layers[index]
    return unchanged if index == len(network.layers) - 1 else lambda maps: _activated(maps, layer)


def unchanged(maps: Array) -> Array:
    """Return ``maps`` unchanged."""
    return maps


def _activated(maps: Array, layer: ReluLayer) -> Array:
    """ReLU or, if the layer has thresholds, `qcfs.Qcfs`; at most the ceiling. In place: no new pages for large maps."""
    if layer.threshold is None or layer.levels is None:
        np.maximum(maps, 0, out=maps)
    else:
        thresholds = layer.threshold.astype(np.float32)
        quantize_or_rectify(maps.reshape(-1, maps.shape[3]), thresholds, np.float32(layer.levels))
    if layer.ceiling is not None:
        np.minimum(maps, layer.ceiling.astype(np.float32), out=maps)
    return maps


def clipped(maps: Array, neuron: IntegrateAndFire) -> Array:
    """Return amplitude x clip(maps / threshold, 0, 1): the mean output per step of a neuron at the ideal rate."""
    threshold, amplitude = neuron.threshold.astype(np.float32), neuron.amplitude.astype(np.float32)
    return np.asarray(np.clip(maps / threshold, 0, 1) * amplitude)


def relu_outputs(network: ReluNetwork, images: Array) -> Iterator[tuple[Tensor, ...]]:
    """Yield, in batches, the activations of every layer (after ReLU, except in the last) for uint8 ``images``."""
    chain = ReluChain(network)
    size = chain.images_at_once
    for start in range(0, len(images), size):
        outputs = chain(images[start : start + size])
        yield tuple(
            torch.from_numpy(_as_in_torch(maps, shape)) for maps, shape in zip(outputs, network.shapes, strict=True)
        )


def on_blocks(chain: ReluChain, images: Array, take: Callable[[int, list[Array]], None]) -> None:
    """Call ``take`` with the first of some of ``images``, uint8 ``(N, C, H, W)``, and what ``chain`` gives for them.

    Calls come from several threads, in any order; the division of the images does not depend on the number of cores.
    """
    on_cores(
        "cpu",
        lambda rows: take(rows.start, chain(images[rows])),
        len(images),
        chain.images_at_once,
    )


def cnn_scores(network: ReluNetwork, images: ImageArray | Shard) -> Array:
    """Return the CNN's class scores: float32 ``(N, classes)`` for uint8 ``images``.

    Every bit is the same on any number of cores, and for images that are divided as `image_shards.block_multiple` says.
    """
    if isinstance(images, DividedImages):
        return joined_parts(images.parts(cnn_scores, network=network))
    found = np.empty((len(images), *network.shapes[-1]), np.float32)

    def score(start: int, outputs: list[Array]) -> None:
        scores = outputs[-1].reshape(-1, *network.shapes[-1])
        found[start : start + len(scores)] = scores

    on_blocks(ReluChain(network), np.asarray(images), score)
    return found


def currents(synapse: Synapse, inputs: Array, *, averages: bool) -> Array:
    """Return input currents, float32 ``(B, *shape)``, for ``(B, C, H, W)``; pooling ``averages``, or sums."""
    operator = convolution_of(synapse, inputs.shape[1:], averages=averages, takes_spikes=False)
    found = operator(sum_pool(channels_last(inputs), synapse.pool))
    return _as_in_torch(_with_bias(found, synapse), synapse.output_shape(inputs.shape[1:]))


def _as_in_torch(maps: Array, shape: Shape) -> Array:
    """``(N, H, W, C)`` as ``(N, C, H, W)``, or ``(N, C)`` for a ``shape`` of one axis."""
    return maps.transpose(0, 3, 1, 2) if len(shape) == 3 else maps[:, 0, 0]


def _with_bias(maps: Array, synapse: Synapse) -> Array:
    """``maps`` with the bias of ``synapse`` added, in place."""
    if synapse.bias is None:
        return maps
    bias = synapse.bias if synapse.bias.ndim == 1 else synapse.bias.transpose(1, 2, 0)
    maps += bias.astype(np.float32)
    return maps


_BINS: Final = 4096
"""Bins of a histogram; a power of two."""

_NONE_YET: Final = -1000
"""Exponent below that of any positive float32."""


class Activations:
    """The CNN's activations on calibration images, after ReLU except in the last layer.

    Images are computed when a percentile is first asked for.

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

    def percentile(self, percentile: float, *, per_layer: bool = False) -> list[Array]:
        """Return a percentile of the positive activations: float64 ``(C_out,)`` per layer.

        It is that of each channel or, with ``per_layer``, that of the layer, without relays, which repeat activations
        of other layers. 0 if none is positive, not finite if one overflows float32. Up to 1 / 2048 of the largest
        activation above the exact value; 100 is exact.
        """
        if not self._layers:
            self._layers = _histograms(self._network, self.images)
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
        A power of two.
    """

    def __init__(self, channels: int, bins: int = _BINS) -> None:
        self._largest = np.zeros(channels, np.float32)
        self._exponents = np.full(channels, _NONE_YET)
        self._bins, self._counts = bins, np.zeros((channels, bins), np.int64)

    def add(self, maps: Array) -> None:
        """Add values, float32 ``(N, H, W, C)``."""
        self._make_room(maps.max(axis=(0, 1, 2)))
        scales = np.ldexp(float(self._bins), -np.maximum(self._exponents, -900))
        count_in_bins(maps.reshape(-1, maps.shape[3]), scales, self._counts)

    def with_values_of(self, other: Histogram) -> Histogram:
        """Return this histogram, after adding the values of ``other``, which may be changed."""
        self._make_room(other._largest)
        other._make_room(self._largest)
        self._counts += other._counts
        return self

    def of_channels(self, chosen: slice | Array) -> Histogram:
        """Return the values of ``chosen`` channels as those of one channel."""
        found = Histogram(1, self._bins)
        for largest, exponent, counts in zip(
            self._largest[chosen], self._exponents[chosen], self._counts[chosen], strict=True
        ):
            one = Histogram(1, self._bins)
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
        edge = np.ldexp(((cumulative < rank).sum(axis=1) + 1) / self._bins, self._exponents)
        return np.where(np.isfinite(largest), np.minimum(edge, largest), largest)

    def _make_room(self, largest: Array) -> None:
        """Widen the bins of the channels whose values reach ``largest``, ``(C,)``."""
        # NaN, from infinity minus infinity, stays NaN.
        with np.errstate(invalid="ignore"):
            self._largest = np.maximum(self._largest, largest)
        reached = np.where(np.isfinite(self._largest), self._largest, 0)
        exponents = np.where(reached > 0, np.frexp(reached)[1], self._exponents)
        for channel in np.flatnonzero(exponents > self._exponents):
            joined = 2 ** min(exponents[channel] - self._exponents[channel], self._bins.bit_length() - 1)
            counts = self._counts[channel].reshape(-1, joined).sum(axis=1)
            self._counts[channel, : len(counts)], self._counts[channel, len(counts) :] = counts, 0
        self._exponents = np.maximum(exponents, self._exponents)


def _histograms(network: ReluNetwork, images: ImageArray | Shard) -> list[Histogram]:
    if isinstance(images, DividedImages):
        parts = images.parts(_histograms, network=network)
        return [functools.reduce(Histogram.with_values_of, found) for found in zip(*parts, strict=True)]
    found = [Histogram(layer.synapse.channels) for layer in network.layers]
    locks = [threading.Lock() for _ in network.layers]

    def take(_: int, outputs: list[Array]) -> None:
        for histogram, lock, maps in zip(found, locks, outputs, strict=True):
            with lock:
                histogram.add(maps)

    # Compile here, in one thread, as in `Neurons`.
    count_in_bins(np.empty((0, 1), np.float32), np.empty(1), np.empty((1, 1), np.int64))
    on_blocks(ReluChain(network), np.asarray(images), take)
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
