"""uint8 images -> the integers that enter a network of another tool, normalized as in lava-dl."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.errors import DataError, InputError, RangeError
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.normalization import Normalization

DEFAULT_NORMALIZATION: Final = Normalization((0.5,), (0.5,))
"""To -1..1, as in lava-dl's test networks."""


def require_images(network: CubaNetwork | GradedNetwork, images: Array, normalization: Normalization) -> None:
    """Raise unless ``images`` can be run on ``network`` with this ``normalization``.

    Raises
    ------
    InputError
        If the images do not fit the network, or the last layer has maps, which give no class.
    UsageError
        As in `Normalization.per_channel`.
    """
    shape = network.input_shape
    found = images.shape[1:]
    # Pixels enter a network with flat inputs in C, H, W order.
    fits = found == shape or (len(shape) == 1 and math.prod(found) == shape[0])
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 1 or not fits:
        axes = ", ".join(map(str, shape))
        expected = f"must be uint8 of shape (N, {axes}){' or of as many pixels' if len(shape) == 1 else ''}, N >= 1"
        raise DataError(f"{images.dtype} of shape {images.shape}", where="images", expected=expected)
    if math.prod(network.shapes[-1]) != network.shapes[-1][0]:
        raise InputError(
            f"maps of shape {network.shapes[-1]} in the last layer",
            where=network.layers[-1].name,
            expected="must have one neuron per class",
        )
    normalization.per_channel(found[0], is_shape_known=True)


def pixel_inputs(network: CubaNetwork | GradedNetwork, images: Array, normalization: Normalization) -> Array:
    """Return uint8 images ``(N, C, H, W)`` as inputs for `simulate`, or for sigma-delta neurons: int32
    ``(N, *input_shape)``.

    Input neurons get ``trunc(weight x + bias)`` with x = (pixel / 255 - mean) / std. A synapse gets the pixels, 0..255,
    as 8-bit graded spikes.

    Raises
    ------
    RangeError
        If a bias of an input neuron does not fit Lava's int16, or the state of a sigma-delta neuron its 24 bits.
    """
    synapse = network.layers[0].synapse
    values = images.astype(np.float64)
    if isinstance(synapse, PixelBias):
        mean, std = (np.array(numbers).reshape(-1, 1, 1) for numbers in normalization)
        x = (values / 255 - mean) / std
        values = np.trunc(synapse.weight * x + synapse.bias)
        limit = limits.LIF_BIAS_LIMIT
        if isinstance(network, GradedNetwork):
            limit = limits.CURRENT_LIMIT >> (network.spike_exp + limits.SIGMA_DELTA_STATE_EXP)
        if (largest := np.abs(values).max(initial=0)) > limit:
            raise RangeError(
                f"a pixel bias of magnitude {largest:,.0f} (weight {synapse.weight:,}, bias {synapse.bias:,})",
                where=network.layers[0].name,
                expected=f"must be at most {limit:,}, or Lava wraps",
                hint="Pass another `mean` and a larger `std`.",
            )
    return values.astype(np.int32).reshape(len(images), *network.input_shape)
