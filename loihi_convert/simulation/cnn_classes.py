"""The CNN's classes: in bfloat16 on processors that are faster with it, in float32 wherever the class depends on it.

A run compares the integers with the classes of the CNN. With AMX, a product in bfloat16, which keeps 8 of float32's 24
bits, takes a fraction of the time, and moves scores by about a hundredth of their spread. So all images are computed in
bfloat16, and again in float32:

- some images, from which the largest error is known,
- all images whose two best scores differ by less than `_MARGIN` times the largest error seen so far.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert.arrays import Array, Shape
from loihi_convert.cnn.small_maps import SmallMaps
from loihi_convert.devices import has_fast_bfloat16
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.blocks import on_cores
from loihi_convert.simulation.convolution import onednn_errs
from loihi_convert.simulation.currents import as_convolution, channels_last, pooled_maps
from loihi_convert.simulation.image_shards import ImageArray, Shard, joined_parts, on_shards
from loihi_convert.simulation.inputs import MAX_PIXEL
from loihi_convert.simulation.relu import cnn_scores

_MARGIN: Final = 4.0
_COMPARED: Final = 256
"""Images computed both ways at first."""

_LEAST_WORK: Final = 10**11
"""Multiply-accumulates below which float32 takes less than a second."""

_BLOCK: Final = 2**22
"""Largest number of images x neurons of the largest layer computed at once: 8 MiB."""
_IMAGES: Final = 64


def comparable_scores(network: ReluNetwork, images: ImageArray) -> Array:
    """Return scores of the CNN with the classes of `relu.cnn_scores`: float32 ``(N, outputs)`` for uint8 ``images``.

    For a regression, for little work, and on a processor that has no fast bfloat16 they are those of `relu.cnn_scores`.
    Else they may differ in the second digit where the class does not depend on it.
    """
    return joined_parts(on_shards(_comparable_scores, network, images))


def _comparable_scores(network: ReluNetwork, shard: Shard, *, progress: Progress = no_progress) -> Array:
    images = np.asarray(shard.images)
    is_worthwhile = (network.multiply_accumulates or 0) * len(images) >= _LEAST_WORK and has_fast_bfloat16()
    if network.task == "regression" or not is_worthwhile or not suits_bfloat16(network):
        return cnn_scores(network, images)
    return corrected(network, images, scores_in_bfloat16(network, images))


def corrected(network: ReluNetwork, images: Array, scores: Array) -> Array:
    """Return approximate ``scores``, ``(N, outputs)``, with those on which a class depends in float32."""
    scores, is_exact, limit = scores.copy(), np.zeros(len(images), np.bool_), 0.0
    chosen = np.unique(np.linspace(0, len(images) - 1, _COMPARED).astype(np.intp))
    while len(chosen):
        exact = cnn_scores(network, images[chosen])
        limit = max(limit, _MARGIN * _largest_error(scores[chosen] - exact))
        scores[chosen], is_exact[chosen] = exact, True
        chosen = np.flatnonzero(~is_exact & (_margins(scores) < limit))
    return scores


def _largest_error(errors: Array) -> float:
    """The most by which the difference of two scores of an image, or a single score, is wrong."""
    if not np.isfinite(errors).all():
        return math.inf
    return float(np.abs(errors).max() if errors.shape[1] == 1 else np.ptp(errors, axis=1).max())


def _margins(scores: Array) -> Array:
    """How far the class of each image is from another one, see `task.classes_of`; -1 if scores are not finite."""
    is_finite = np.asarray(np.isfinite(scores).all(axis=1))
    if scores.shape[1] == 1:
        return np.where(is_finite, np.abs(scores[:, 0]), np.float32(-1))
    second, best = np.sort(np.where(is_finite[:, None], scores, 0), axis=1)[:, -2:].T
    return np.where(is_finite, best - second, np.float32(-1))


def suits_bfloat16(network: ReluNetwork) -> bool:
    """Whether oneDNN computes all layers, and no activation has steps, at which a small error becomes a large one."""
    for layer, shape in zip(network.layers, (network.input_shape, *network.shapes), strict=False):
        weight, geometry = as_convolution(layer.synapse, shape)
        size = pooled_maps(shape, layer.synapse.pool)[:2]
        if layer.levels is not None or onednn_errs(geometry, weight.shape[2:], size):
            return False
    return True


def scores_in_bfloat16(network: ReluNetwork, images: Array) -> Array:
    """Return the CNN's scores, each layer rounded to bfloat16: float32 ``(N, outputs)`` for uint8 ``images``."""
    shapes = (network.input_shape, *network.shapes)
    layers = [_Layer(layer, shape) for layer, shape in zip(network.layers, shapes, strict=False)]
    found = np.empty((len(images), *network.shapes[-1]), np.float32)
    at_once = max(1, min(_IMAGES, _BLOCK // max(math.prod(shape) for shape in shapes)))

    def score(rows: slice) -> None:
        maps = torch.from_numpy(channels_last(images[rows]) / np.float32(MAX_PIXEL))
        maps = maps.permute(0, 3, 1, 2).bfloat16()
        with SmallMaps():
            for layer in layers[:-1]:
                maps = layer.activated(layer(maps))
        scores = layers[-1](maps).float()
        found[rows] = scores.reshape(-1, *network.shapes[-1]).numpy()

    on_cores("cpu", score, len(images), at_once)
    return found


class _Layer:
    """A synapse and its activation in bfloat16, as functions of maps ``(N, C, H, W)``, channels last."""

    def __init__(self, layer: ReluLayer, input_shape: Shape) -> None:
        self._pool = layer.synapse.pool
        weight, self._geometry = as_convolution(layer.synapse, input_shape)
        self._covers_map = not isinstance(layer.synapse, Conv)
        self._kernel = _bfloat16(weight).contiguous(memory_format=torch.channels_last)
        bias, ceiling = layer.synapse.bias, layer.ceiling
        # oneDNN adds a bias per channel before it rounds.
        self._bias = None if bias is None or bias.ndim > 1 else _bfloat16(bias)
        self._pixel_bias = None if bias is None or bias.ndim == 1 else _bfloat16(bias)
        self._ceiling = None if ceiling is None else _bfloat16(ceiling)[:, None, None]

    def __call__(self, maps: Tensor) -> Tensor:
        """Return the values before the activation."""
        if self._pool != (1, 1):
            maps = functional.avg_pool2d(maps, self._pool)
        if self._covers_map:
            inputs, weights = (tensor.permute(0, 2, 3, 1).flatten(1) for tensor in (maps, self._kernel))
            return functional.linear(inputs, weights, self._bias)[:, :, None, None]
        maps = functional.conv2d(maps, self._kernel, self._bias, *self._geometry)
        return maps if self._pixel_bias is None else maps + self._pixel_bias

    def activated(self, maps: Tensor) -> Tensor:
        """Return ReLU of ``maps``, at most the ceiling; may be in place."""
        maps = functional.relu_(maps)
        return maps if self._ceiling is None else torch.minimum(maps, self._ceiling)


def _bfloat16(values: Array) -> Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32)).bfloat16()
