"""Images -> inputs of the first layer (pixels or Poisson spikes), and synapse -> input currents of batches, on the CPU.

Axes: N images or image-steps, then H W C, channels last. Inputs are already summed over the windows of the pooling
before the synapse (`layers.py`, `sum_pool`); outputs do not include the bias.

Constant pixels need the currents of only one step, spikes those of all steps. In both cases the maps are summed over
the windows of a pooling before the first synapse, channels last, as in all layers.

A `Convolution` uses the fastest arithmetic that is exact:

==============  =======================================================================================================
arithmetic      exact for integers because
==============  =======================================================================================================
int8            oneDNN's convolution, or matrix product, of uint8 spikes by int8 weights sums in int32 and returns
                float32. Processors without a dot product of bytes first add two products in int16: at most
                2 x 127 x 129 = 32766
float32         every partial sum is below 2^23 (the exactness rules of `chip.rules`), in any order of summation
==============  =======================================================================================================

Settings of torch that round are off meanwhile (`exact_products`). For speed, a program may let torch round operands to
bfloat16 (8 bits) or TF32 (11 bits). A sum of spikes or pixels over a pooling window, or a digit of a graded spike, may
need more bits.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.nn import functional

from loihi_convert.chip import limits
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ground.compiled import cpu_features
from loihi_convert.ir.quantized import poisson_spikes, with_pixel_bits
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation.image_shards import ONE_THREAD


def convolution_of(synapse: Synapse, input_shape: Shape, *, averages: bool, takes_spikes: bool) -> Convolution:
    """Return a synapse as a function of a batch of its inputs after the pooling; spikes have `sum_dtype`.

    ``input_shape`` is that before the pooling, which ``averages`` (floating point) or sums (integers).
    ``takes_spikes``: inputs are sums of spikes; otherwise they may be any number.
    """
    pooled, largest_input = pooled_maps(input_shape, synapse.pool), math.prod(synapse.pool)
    bytes_up_to = largest_input if takes_spikes and not averages and largest_input <= MAX_BYTE else None
    weight, geometry = as_convolution(synapse, input_shape)
    if averages and largest_input > 1:
        weight = weight / largest_input
    covers_map = not isinstance(synapse, Conv)
    return Convolution(weight, geometry, pooled, largest_input=bytes_up_to, covers_map=covers_map)


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

    ``summed``, float64 ``(H', W', C)``: inputs summed over the windows of the pooling and over any number of maps.
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


def sum_dtype(pool: Pair) -> type[np.uint8] | type[np.float32]:
    """Return the dtype of spikes summed over windows of ``pool``."""
    return np.uint8 if math.prod(pool) <= np.iinfo(np.uint8).max else np.float32


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
        return pooled.astype(sum_dtype(self.pool)).reshape(len(images), steps, *pooled.shape[1:])


MAX_BYTE: Final = (2**15 - 1) // (2 * limits.WEIGHT_LIMIT)
"""Largest input (spikes summed over a window) for which int8 arithmetic is exact on every processor."""


# A kernel of more bytes, for which the cache of a core is too small, is multiplied as a matrix if the output has few
# pixels: oneDNN's convolution would read it again for each map. With AMX, 512 x 512 x 3 x 3 then takes 65 % of its time
# on 4 x 4 pixels, 25 % on 2 x 2.
_LARGE_KERNEL: Final = 2**20
_SMALL_MAP: Final = 16


class Geometry(NamedTuple):
    """Stride, padding, dilation and groups, in the order of torch's arguments."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


# Shapes of kernel, input and batch, and numbers of threads, for which int8 was compared with float32 on the inputs of a
# simulation. By these oneDNN selects its code; that it is exact for the weights of a kernel is seen for each kernel.
_COMPARED: Final[set[tuple[Any, ...]]] = set()


class Convolution:
    """A convolution as a function of a batch.

    Parameters
    ----------
    weight
        ``(C_out, C_in / groups, K_h, K_w)``, floats or integers.
    geometry
        Stride, padding, dilation and groups.
    input_shape
        ``(H, W, C)``.
    largest_input
        If given, inputs are bytes in 0..largest_input and weights fit bytes; ``None``: both may be any number.
    covers_map
        Whether the kernel covers the whole map, so that there is one output position.
    """

    def __init__(
        self,
        weight: Array,
        geometry: Geometry,
        input_shape: tuple[int, int, int],
        *,
        largest_input: int | None,
        covers_map: bool,
    ) -> None:
        self._geometry, self._covers_map = geometry, covers_map
        with np.errstate(over="ignore"):
            kernel = torch.from_numpy(weight.astype(np.float32))
        # A channels-last kernel is a matrix with rows in H, W, C order.
        self._kernel = kernel.contiguous(memory_format=torch.channels_last)
        self._onednn_errs = onednn_errs(geometry, kernel.shape[2:], input_shape[:2])
        self._shape = (kernel.shape, geometry, input_shape)
        self._int8: Callable[[Array], Array] | None = None
        is_fast = not self._onednn_errs and has_fast_int8(weight, geometry.groups)
        if is_fast and largest_input is not None and largest_input <= MAX_BYTE:
            self._int8 = self._int8_if_equal(weight, input_shape, largest_input)

    @property
    def uses_int8(self) -> bool:
        """Whether the arithmetic is int8."""
        return self._int8 is not None

    def __call__(self, inputs: Array) -> Array:
        """Return float32 ``(N, H_out, W_out, C_out)`` for ``(N, H, W, C)``, uint8 or float32."""
        if self._int8 is None:
            return self.in_float32(inputs)
        selected = (*self._shape, len(inputs), torch.get_num_threads())
        if selected in _COMPARED:
            return self._int8(inputs)
        exact = self.in_float32(inputs)
        if np.array_equal(self._int8(inputs), exact):
            _COMPARED.add(selected)
        return exact

    def in_float32(self, inputs: Array) -> Array:
        """Return the same in float32 arithmetic."""
        inputs = inputs.astype(np.float32, copy=False)
        with exact_products():
            if self._covers_map:
                matrix = self._kernel.permute(0, 2, 3, 1).flatten(1)
                return functional.linear(torch.from_numpy(inputs).flatten(1), matrix)[:, None, None].numpy()
            maps = torch.from_numpy(inputs).permute(0, 3, 1, 2)
            if self._onednn_errs:
                return channels_last_of(convolved_by_product(maps, self._kernel, self._geometry))
            return channels_last_of(functional.conv2d(maps, self._kernel, None, *self._geometry))

    def _int8_if_equal(
        self, weight: Array, input_shape: tuple[int, int, int], largest_input: int
    ) -> Callable[[Array], Array] | None:
        """int8 arithmetic, if this build of torch supports it for this synapse and it gives the same as float32."""
        inputs = np.random.default_rng(0).integers(0, largest_input, (2, *input_shape), np.uint8, endpoint=True)
        try:
            # As in a simulation: for another number of threads oneDNN may order the weights otherwise, and would then
            # order them anew in every call.
            with ONE_THREAD:
                int8 = (
                    _Int8Product(weight, self._geometry)
                    if _is_faster_as_product(weight, self._geometry, input_shape)
                    else _Int8(weight, self._geometry, input_shape)
                )
                found = int8(inputs)
        except (AttributeError, NotImplementedError, RuntimeError):
            return None
        return int8 if np.array_equal(found, self.in_float32(inputs)) else None


def convolved_by_product(maps: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Return a convolution computed as a matrix product (im2col): ``(N, C_out, H_out, W_out)``."""
    (stride, padding, dilation, groups), size = geometry, kernel.shape[2:]
    height, width = _output_size(geometry, size, maps.shape[2:])
    columns = functional.unfold(maps, size, dilation, padding, stride)
    rows = kernel.reshape(groups, len(kernel) // groups, -1)
    found = rows @ columns.reshape(len(maps), groups, -1, columns.shape[2])
    return found.reshape(len(maps), len(kernel), height, width)


def has_fast_int8(weight: Array, groups: int) -> bool:
    """Whether oneDNN has fast int8 code for a kernel ``(C_out, C_in / groups, K_h, K_w)`` on this processor."""
    # Before AVX-512 and AVX-VNNI it has none for groups, unless they are of 1 channel or of multiples of 4: such a
    # layer then takes 20 to 100 times as long as in float32.
    outputs, inputs = len(weight) // groups, weight.shape[1]
    is_plain = groups == 1 or inputs == outputs == 1 or (inputs % 4 == 0 and outputs % 4 == 0)
    return is_plain or not cpu_features().isdisjoint({"avx512bw", "avxvnni"})


def onednn_errs(geometry: Geometry, size: Sequence[int], input_size: Sequence[int]) -> bool:
    """Whether oneDNN, in torch 2.3 to 2.13, returns wrong results or crashes with SIGSEGV.

    Results are wrong where a horizontal stride leaves a single column. It crashes, in bytes, bfloat16 or float32, where
    some outputs see only padding: beside the map, or because the kernel's dilation jumps over it.
    """
    outputs = _output_size(geometry, size, input_size)
    sees_nothing = any(
        not _sees_the_map(output * stride - padding, dilation, taps, length)
        for count, stride, padding, dilation, taps, length in zip(outputs, *geometry[:3], size, input_size, strict=True)
        for output in range(count)
    )
    return sees_nothing or (outputs[1] == 1 and geometry.stride[1] > 1)


def _sees_the_map(start: int, dilation: int, taps: int, length: int) -> bool:
    """Whether any of ``taps`` positions from ``start`` on, ``dilation`` apart, is in 0..length - 1."""
    first = max(0, -(start // dilation))
    return first < taps and start + first * dilation < length


def _output_size(geometry: Geometry, size: Sequence[int], input_size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the output of a kernel of ``size``."""
    stride, padding, dilation, _ = geometry
    rows, columns = (
        (length + 2 * padding[axis] - dilation[axis] * (size[axis] - 1) - 1) // stride[axis] + 1
        for axis, length in enumerate(input_size)
    )
    return rows, columns


def _is_faster_as_product(weight: Array, geometry: Geometry, input_shape: tuple[int, int, int]) -> bool:
    pixels = math.prod(_output_size(geometry, weight.shape[2:], input_shape[:2]))
    if geometry.groups != 1:
        return False
    # A convolution of one pixel multiplies image by image.
    is_large = 1 < pixels <= _SMALL_MAP and weight.size > _LARGE_KERNEL
    return is_large or (pixels == 1 and not any(geometry.padding))


class _Int8:
    """A convolution of uint8 by int8 in oneDNN, as PyTorch's quantized networks use it, with all scales 1."""

    def __init__(self, weight: Array, geometry: Geometry, input_shape: tuple[int, int, int]) -> None:
        height, width, channels = input_shape
        self._geometry = geometry
        # Whatever torch's default dtype and device are.
        self._ones = torch.from_numpy(np.ones(len(weight), np.float32))
        self._zeros = torch.from_numpy(np.zeros(len(weight), np.int64))
        kernel = torch.from_numpy(weight.astype(np.int8, order="C"))
        self._packed: Any = torch.ops.onednn.qconv_prepack(
            kernel, self._ones, 1.0, 0, *geometry, [1, channels, height, width]
        )

    def __call__(self, inputs: Array) -> Array:
        maps = torch.from_numpy(inputs).permute(0, 3, 1, 2)
        found = torch.ops.onednn.qconv2d_pointwise(
            *(maps, 1.0, 0, self._packed, self._ones, self._zeros, None, *self._geometry),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return channels_last_of(found)


class _Int8Product:
    """The same as a matrix product: a row for each output pixel, of all bytes that it sees."""

    def __init__(self, weight: Array, geometry: Geometry) -> None:
        self._size, self._geometry = weight.shape[2:], geometry
        # Whatever torch's default dtype and device are.
        self._ones = torch.from_numpy(np.ones(len(weight), np.float32))
        self._zeros = torch.from_numpy(np.zeros(len(weight), np.int64))
        rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        self._packed: Any = torch.ops.onednn.qlinear_prepack(torch.from_numpy(rows.astype(np.int8)), None)

    def __call__(self, inputs: Array) -> Array:
        seen = self._seen(inputs)
        images, height, width = seen.shape[:3]
        found = torch.ops.onednn.qlinear_pointwise(
            *(torch.from_numpy(seen.reshape(images * height * width, -1)), 1.0, 0),
            *(self._packed, self._ones, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""),
        )
        return np.asarray(found.view(images, height, width, -1).numpy())

    def _seen(self, inputs: Array) -> Array:
        """``(N, H_out, W_out, K_h, K_w, C)``; a view without padding."""
        (stride, padding, dilation, _), size = self._geometry, self._size
        if any(padding):
            inputs = np.pad(inputs, ((0, 0), *((edge, edge) for edge in padding), (0, 0)))
        spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True))
        windows: Array = sliding_window_view(inputs, spans, (1, 2), writeable=True)  # type: ignore[call-overload]
        windows = windows[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
        return windows.transpose(0, 1, 2, 4, 5, 3)


def channels_last_of(maps: Tensor) -> Array:
    """``(N, C, H, W)`` as contiguous ``(N, H, W, C)``."""
    return maps.permute(0, 2, 3, 1).contiguous().numpy()


# oneDNN reads the first that is set, once.
_FPMATH_MODES: Final = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")

# Since torch 2.9; "none" inherits from the setting above it.
_PRECISION: Final = "fp32_precision"


class SharedSetting:
    """A setting of torch that holds while any thread is within it.

    Such a setting is one for all threads: restored by each as it found it, it would return while others are still
    within.

    Parameters
    ----------
    setting
        Opens a context in which it holds.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[object]]) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._open = setting
        self._setting = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._setting.enter_context(self._open())
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._setting.close()


@contextlib.contextmanager
def exact_products(device: str = "cpu") -> Iterator[None]:
    """Within it, float32 products on ``device``, ``"cpu"`` or another torch device, round no operand."""
    # autocast is a setting of each thread; the others are one for all.
    with _UNROUNDED, torch.autocast(torch.device(device).type, enabled=False):
        yield


@contextlib.contextmanager
def _unrounded() -> Iterator[None]:
    for name in _FPMATH_MODES:
        if (mode := os.environ.get(name) or "STRICT").upper() != "STRICT":
            expected = "must be STRICT or not set: other modes round the operands of float32 products"
            raise UsageError(f"found {mode!r}", where=f"environment variable {name}", expected=expected)
    # NNPACK's transforms (Winograd, Fourier) round.
    with torch.backends.nnpack.flags(enabled=False), ExitStack() as restored:
        backends: Any = torch.backends
        if hasattr(backends.cuda.matmul, _PRECISION):
            for backend in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
                before = getattr(backend, _PRECISION)
                # "none" where no setting above it rounds.
                if before not in ("none", "ieee"):
                    setattr(backend, _PRECISION, "ieee")
                    restored.callback(_restore, backend, before)
        else:
            # torch before 2.9, which has one setting for matrix products, and none that rounds convolutions on a CPU.
            restored.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


def _restore(backend: object, before: str) -> None:
    """Set ``backend`` to inherit, if that gives the precision ``before``, or to it."""
    for precision in ("none", before):
        setattr(backend, _PRECISION, precision)
        if getattr(backend, _PRECISION) == before:
            return


_UNROUNDED: Final = SharedSetting(_unrounded)
