"""Images -> inputs of the first layer (pixels or Poisson spikes), and synapse -> input currents of batches, on the CPU.

Axes: N images or image-steps, then H W C, channels last. Inputs are already summed over the windows of the pooling
before the synapse (`neurons.py`, `sum_pool`); outputs do not include the bias.

Constant pixels need the currents of only one step, spikes those of all steps. In both cases the maps are summed over
the windows of a pooling before the first synapse, channels last, as in all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.ir.poisson import poisson_spikes
from loihi_convert.ir.quantized import with_pixel_bits
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation.convolution import MAX_BYTE, Convolution, Geometry, channels_last_of


class Currents:
    """A synapse as a function of a batch.

    Parameters
    ----------
    synapse
        The synapse, in floating point or integers.
    input_shape
        ``(C, H, W)`` or ``(N,)``, before pooling.
    averages
        Whether pooling averages (floating point) or sums (integers).
    takes_spikes
        Whether the inputs are sums of spikes; otherwise they may be any number.

    Attributes
    ----------
    input_dtype
        Dtype of the inputs: uint8 for sums of spikes over windows of up to 255 inputs, else float32.
    uses_int8
        Whether the arithmetic is int8.
    """

    def __init__(self, synapse: Synapse, input_shape: Shape, *, averages: bool, takes_spikes: bool) -> None:
        pooled, largest_input = pooled_maps(input_shape, synapse.pool), math.prod(synapse.pool)
        self.input_dtype = np.uint8 if takes_spikes and largest_input <= np.iinfo(np.uint8).max else np.float32
        bytes_up_to = largest_input if takes_spikes and not averages and largest_input <= MAX_BYTE else None
        covers_map = not isinstance(synapse, Conv)
        weight, geometry = as_convolution(synapse, input_shape)
        if averages and largest_input > 1:
            weight = weight / largest_input
        self._convolution = Convolution(weight, geometry, pooled, largest_input=bytes_up_to, covers_map=covers_map)

    @property
    def uses_int8(self) -> bool:
        return self._convolution.uses_int8

    def __call__(self, inputs: Array) -> Array:
        """Return float32 ``(N, H_out, W_out, C_out)`` for ``(N, H, W, C)`` of `input_dtype`."""
        return self._convolution(inputs)


def as_convolution(synapse: Synapse, input_shape: Shape) -> tuple[Array, Geometry]:
    """Return the weights ``(C_out, C_in, height, width)`` and the geometry of ``synapse`` after its pooling.

    A dense synapse is a convolution whose kernel covers the whole map.
    """
    if isinstance(synapse, Conv):
        return synapse.weight, Geometry(synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    height, width, channels = pooled_maps(input_shape, synapse.pool)
    return synapse.weight.reshape(-1, channels, height, width), Geometry((1, 1), (0, 0), (1, 1), 1)


def summed_currents(synapse: Synapse, input_shape: Shape, summed: Array) -> Array:
    """Return the currents of a float network's synapse, summed over positions, without biases: float64 ``(C_out,)``.

    Parameters
    ----------
    synapse
        The synapse, whose pooling averages.
    input_shape
        ``(C, H, W)`` or ``(N,)``, before pooling.
    summed
        float64 ``(H', W', C)``: inputs, summed over the windows of the pooling and over any number of maps.
    """
    weight, (stride, padding, dilation, groups) = as_convolution(synapse, input_shape)
    maps, kernel = torch.tensor(summed).permute(2, 0, 1)[None], torch.tensor(weight, dtype=torch.float64)
    found = functional.conv2d(maps, kernel, None, stride, padding, dilation, groups)
    return np.asarray(found[0].sum((1, 2)).numpy() / math.prod(synapse.pool))


def channels_last(images: Array) -> Array:
    """Return ``(N, C, H, W)`` as contiguous float32 ``(N, H, W, C)``."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1), np.float32)


def sum_pool(maps: Array, pool: Pair) -> Array:
    """Return maps ``(N, H, W, C)`` summed over windows of ``pool``: ``(N, H', W', C)``, of the same dtype."""
    if pool == (1, 1):
        return maps
    return channels_last_of(functional.avg_pool2d(torch.from_numpy(maps).permute(0, 3, 1, 2), pool, divisor_override=1))


def pooled_maps(input_shape: Shape, pool: Pair) -> tuple[int, int, int]:
    """Return (H', W', C) of the inputs of a synapse after its pooling; a vector is a map of one pixel."""
    channels, height, width = input_shape if len(input_shape) == 3 else (*input_shape, 1, 1)
    return height // pool[0], width // pool[1], channels


MAX_PIXEL: Final = 255


@dataclass(frozen=True)
class Inputs:
    """Images as inputs of the first synapse.

    Parameters
    ----------
    pool
        Window of the pooling before the synapse.
    poisson_seed
        Seed of the Poisson spikes; ``None``: pixels, the same in every step.
    pixel_bits
        Bits of the integers that pixels are rounded to; ``None``: pixel / 255.
    """

    pool: Pair
    poisson_seed: int | None = None
    pixel_bits: int | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the input is the same in every step."""
        return self.poisson_seed is None

    def __call__(self, images: Array, first_image: int, first_step: int, steps: int) -> Array:
        """Return ``(N, steps, H', W', C)`` for uint8 ``(N, C, H, W)``; one step for constant pixels.

        float32, or uint8 for spikes if their sums fit. ``first_image`` is the index in the whole run, ``first_step``
        counts from 0.
        """
        if self.poisson_seed is None:
            maps = channels_last(images if self.pixel_bits is None else with_pixel_bits(images, self.pixel_bits))
            if self.pixel_bits is None:
                maps = maps / np.float32(MAX_PIXEL)
            return sum_pool(maps, self.pool)[:, np.newaxis]
        spikes = poisson_spikes(images, self.poisson_seed, first_image, first_step, steps)
        pooled = sum_pool(channels_last(spikes.reshape(-1, *images.shape[1:])), self.pool)
        fits = math.prod(self.pool) <= np.iinfo(np.uint8).max
        return pooled.astype(np.uint8 if fits else np.float32).reshape(len(images), steps, *pooled.shape[1:])
