"""Activations of every network between the CNN and the file, compared with the CNN's on images.

Relays are left out of the errors and ranges of each layer: their error is that of the layer they repeat. A layer with
only relays has that layer's errors, and no range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.ir.network import classes_of
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.relays import only_relays, own_channels
from loihi_convert.progress import Progress
from loihi_convert.records import Record
from loihi_convert.simulation.intermediate import Intermediate
from loihi_convert.simulation.relu import ReluChain

# Largest number of images x neurons of all layers compared at once: 32 MiB per network.
_BLOCK: Final = 2**23


class LayerError(Record):
    """Errors of a layer's activations against the CNN's, over all images, positions, and channels except relays.

    Attributes
    ----------
    correlation
        Pearson correlation; None if either is constant.
    mean_squared_error
        In squared units of the CNN.
    relative_error
        Mean squared error / the CNN's mean square: 1 for a silent layer; None if all the CNN's activations are 0.
    """

    correlation: float | None
    mean_squared_error: float
    relative_error: float | None


class ErrorSums:
    """Sums over pairs of activations, to compute correlation and errors."""

    def __init__(self) -> None:
        self._count = 0
        # Sums of x, y, x^2, y^2, x y and (x - y)^2.
        self._sums = np.zeros(6)

    def add(self, found: Array, expected: Array) -> None:
        x, y = found.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        self._count += x.size
        difference = x - y
        self._sums += (x.sum(), y.sum(), x @ x, y @ y, x @ y, difference @ difference)

    @property
    def error(self) -> LayerError:
        x, y, xx, yy, xy, square = (self._sums / self._count).tolist()
        # The variance of a constant is 0 up to rounding errors.
        is_varied = xx - x * x > 1e-12 * xx and yy - y * y > 1e-12 * yy
        return LayerError(
            correlation=(xy - x * y) / math.sqrt((xx - x * x) * (yy - y * y)) if is_varied else None,
            mean_squared_error=square,
            relative_error=square / yy if yy > 0 else None,
        )


class ActivationRange:
    """Range of the CNN's activations in a layer relative to its thresholds, ``(C,)``."""

    def __init__(self, threshold: Array) -> None:
        self._threshold = threshold
        self._largest = np.zeros(len(threshold))
        self._positive = self._above = 0

    def add(self, maps: Array) -> None:
        rows = maps.reshape(-1, len(self._threshold))
        np.maximum(self._largest, rows.max(axis=0), out=self._largest)
        self._positive += int(np.count_nonzero(rows > 0))
        # A channel that can never fire clips everything.
        limit = np.where(np.isfinite(self._threshold), self._threshold, 0).astype(np.float32)
        self._above += int(np.count_nonzero((rows > limit) & (rows > 0)))

    @property
    def threshold_to_largest(self) -> float | None:
        known = np.isfinite(self._threshold) & (self._largest > 0)
        return float(np.median(self._threshold[known] / self._largest[known])) if known.any() else None

    @property
    def share_above_threshold(self) -> float | None:
        return self._above / self._positive if self._positive else None


def final_classes(activations: Sequence[Array]) -> Array:
    """Return the predicted classes from the last layer's activations: int64 ``(N,)``."""
    return classes_of(activations[-1].reshape(len(activations[-1]), -1))


class ComparedActivations(NamedTuple):
    """Classes and activation errors of every network on the images.

    Classes are int64: ``classes``, ``(1 + networks, N)``, are those of the CNN and of the networks after it;
    ``resumed``, ``(layers, N)``, those of the CNN continued from each layer of the file. ``errors`` are by network and
    layer, ``ranges`` by layer.
    """

    classes: Array
    resumed: Array
    errors: list[list[ErrorSums]]
    ranges: list[ActivationRange | None]


def compare_activations(
    chain: ReluChain,
    networks: Sequence[Intermediate],
    network: QuantizedNetwork,
    images: Array,
    progress: Progress,
) -> ComparedActivations:
    """Compare the activations of every network with the CNN's, in batches; the last network is the file."""
    depth = len(network.layers)
    owns = [own_channels(layer.relay_of) for layer in network.layers]
    compared = ComparedActivations(
        classes=np.empty((1 + len(networks), len(images)), np.int64),
        resumed=np.empty((depth, len(images)), np.int64),
        errors=[[ErrorSums() for _ in range(depth)] for _ in networks],
        ranges=[
            None
            if layer.balanced is None or only_relays(layer.relay_of)
            else ActivationRange(layer.balanced.threshold[own])
            for layer, own in zip(network.layers, owns, strict=True)
        ],
    )
    size = max(1, _BLOCK // sum(math.prod(shape) for shape in network.shapes))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        expected = chain(images[rows])
        compared.classes[0, rows] = final_classes(expected)
        if network.readout == "spikes":
            # A spike count is never negative.
            expected[-1] = np.maximum(expected[-1], 0)
        wanted = [maps[..., own] for maps, own in zip(expected, owns, strict=True)]
        for layer_range, maps in zip(compared.ranges, wanted, strict=True):
            if layer_range is not None:
                layer_range.add(maps)
        for index, between in enumerate(networks):
            found = between.activations(images[rows], start)
            compared.classes[1 + index, rows] = final_classes(found)
            for sums, maps, own, own_wanted in zip(compared.errors[index], found, owns, wanted, strict=True):
                sums.add(maps[..., own], own_wanted)
        for index, maps in enumerate(found):
            compared.resumed[index, rows] = final_classes(chain.after(index, maps) or found)
        progress(min(start + size, len(images)), len(images))
    return compared
