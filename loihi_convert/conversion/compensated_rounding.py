"""Weights -> integers, each rounding error compensated by the weights that are still to be rounded.

With the inputs x of a neuron and their covariance H, rounding weights w to q changes the current by an error of
variance ``(w - q) H (w - q)``; its mean is left to the bias. If weight j is rounded, the change of all later weights
that keeps this variance smallest is known in closed form (Hassibi and Stork, NIPS 1992). Frantar et al. (GPTQ, ICLR
2023) give all of them by one Cholesky decomposition of the inverse of H, which is the same for all neurons of a layer.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.synapse import Conv, Synapse

_MOST_SAMPLES: Final = 8_192
_MOST_INPUTS: Final = 4_100
"""Larger layers are rounded to the nearest integer: the decomposition takes time and memory with the third power."""
_DAMPING: Final = 0.01
"""Part of the mean variance that is added to each: inputs that hardly vary on the sample must not take all errors."""


def compensated(synapse: Synapse, weight: Array, messages: Array) -> Array:
    """Return ``weight``, real numbers in the shape of the synapse's, as 8-bit integers: int32.

    Parameters
    ----------
    synapse
        Its geometry.
    weight
        The weights in units of one integer.
    messages
        Inputs of the layer before the pooling, integers ``(N, C, ...)``.
    """
    groups = synapse.groups if isinstance(synapse, Conv) else 1
    rows = weight.reshape(groups, len(weight) // groups, -1)
    if rows.shape[2] > _MOST_INPUTS:
        return _as_integers(weight)
    inputs = _inputs(synapse, messages)
    found = np.stack(
        [
            _rounded(group, inputs[:, first : first + group.shape[1]])
            for group, first in zip(rows, range(0, inputs.shape[1], rows.shape[2]), strict=True)
        ]
    )
    return found.reshape(weight.shape)


def _inputs(synapse: Synapse, messages: Array) -> Array:
    """Samples of the inputs of one neuron, float64 ``(samples, inputs of all groups)``."""
    per_image = 1 if not isinstance(synapse, Conv) else math.prod(synapse.output_shape(messages.shape[1:])[1:])
    images = messages[: max(1, math.ceil(_MOST_SAMPLES / min(per_image, 64)))]
    maps = torch.from_numpy(images.astype(np.float64))
    if synapse.pool != (1, 1):
        maps = functional.avg_pool2d(maps, synapse.pool, divisor_override=1)
    if not isinstance(synapse, Conv):
        return maps.flatten(1).numpy()
    found, rng = [], np.random.default_rng(0)
    for index in range(len(maps)):
        image = maps[index : index + 1]
        patches = functional.unfold(image, synapse.weight.shape[2:], synapse.dilation, synapse.padding, synapse.stride)
        places = rng.choice(per_image, min(per_image, math.ceil(_MOST_SAMPLES / len(images))), replace=False)
        found.append(patches[0][:, torch.from_numpy(places)].T.numpy())
    return np.concatenate(found)


def _rounded(weight: Array, inputs: Array) -> Array:
    centred = inputs - inputs.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    variances = np.diagonal(covariance)
    if not variances.any():
        return _as_integers(weight)
    # The inputs that vary most are rounded first, while there are others to compensate.
    order = np.argsort(-variances)
    covariance = covariance[np.ix_(order, order)] + np.eye(len(order)) * _DAMPING * variances.mean()
    upper = np.linalg.cholesky(np.linalg.inv(covariance)).T
    left, found = weight[:, order].astype(np.float64), np.empty(weight.shape, np.int32)
    for column in range(len(order)):
        integers = _as_integers(left[:, column])
        error = (left[:, column] - integers) / upper[column, column]
        left[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
        found[:, order[column]] = integers
    return found


def _as_integers(weight: Array) -> Array:
    return np.asarray(np.clip(np.rint(weight), -limits.WEIGHT_LIMIT, limits.WEIGHT_LIMIT), np.int32)
