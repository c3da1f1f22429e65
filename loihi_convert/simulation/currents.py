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
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn import functional

from loihi_convert.errors import DataError
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.poisson import poisson_spikes
from loihi_convert.ir.quantized import with_pixel_bits
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation.convolution import MAX_BYTE, Convolution, Geometry, channels_last_of, onednn_errs
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.kernel_structure import Structure, rate, worthwhile_structure
from loihi_convert.simulation.split_convolution import SplitConvolution

_DIVIDED: Final[
    WeakKeyDictionary[Synapse, dict[tuple[Shape, bool, bool], tuple[Array, Geometry, Structure | None]]]
] = WeakKeyDictionary()


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
        covers_map, output_size = not isinstance(synapse, Conv), _size(synapse.output_shape(input_shape))
        weight, geometry, structure = _divided(synapse, input_shape, averages, bytes_up_to is not None)
        self._convolution: Convolution | SplitConvolution
        if structure is None:
            self._convolution = Convolution(weight, geometry, pooled, largest_input=bytes_up_to, covers_map=covers_map)
        else:
            self._convolution = SplitConvolution(
                structure, geometry.stride, pooled, output_size, largest_input=bytes_up_to, covers_map=covers_map
            )

    @property
    def uses_int8(self) -> bool:
        return self._convolution.uses_int8

    def __call__(self, inputs: Array) -> Array:
        """Return float32 ``(N, H_out, W_out, C_out)`` for ``(N, H, W, C)`` of `input_dtype`."""
        return self._convolution(inputs)


def _divided(
    synapse: Synapse, input_shape: Shape, averages: bool, is_int8: bool
) -> tuple[Array, Geometry, Structure | None]:
    """Return the kernel, its geometry, and what it is divided into; kept as long as the synapse lives.

    A network is simulated many times while its thresholds are balanced.
    """
    known = _DIVIDED.setdefault(synapse, {})
    key = (input_shape, averages, is_int8)
    if key not in known:
        weight, geometry = as_convolution(synapse, input_shape)
        if averages and synapse.pool != (1, 1):
            weight = weight / math.prod(synapse.pool)
        pooled, structure = pooled_maps(input_shape, synapse.pool)[:2], None
        if not onednn_errs(geometry, weight.shape[2:], pooled):
            size = _size(synapse.output_shape(input_shape))
            structure = worthwhile_structure(
                weight, geometry, pooled, size, rate=rate(is_int8=is_int8), is_integer=not averages
            )
        known[key] = (weight, geometry, structure)
    return known[key]


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


def _size(shape: Shape) -> Pair:
    """Rows and columns of ``(C, H, W)``; (1, 1) for a vector."""
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)


MAX_PIXEL: Final = 255


def require_images(input_shape: Shape, images: ImageArray, where: str = "images") -> None:
    """Raise a `DataError` unless ``images`` are uint8 ``(N, *input_shape)``, N >= 1."""
    shape = f"uint8 of shape (N, {', '.join(map(str, input_shape))}), N >= 1"
    if not isinstance(getattr(images, "dtype", None), np.dtype):
        found, expected = f"found an object of type {type(images).__name__}", f"must be a NumPy array, {shape}"
        raise DataError(found, where=where, expected=expected)
    if images.dtype != np.uint8 or images.shape[1:] != input_shape or len(images) < 1:
        raise DataError(f"found {images.dtype} of shape {images.shape}", where=where, expected=f"must be {shape}")


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
