"""Poolings of torch -> operations.

The arguments of a function are ``given`` by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loihi_convert.arrays import Pair, Shape
from loihi_convert.frontend.operations import AveragePool, MaxPool, Operation, refuse


def average_pool(given: Mapping[str, Any], before: Shape, after: Shape, *, is_signal: bool) -> AveragePool:
    """Return the average pooling with these arguments, or `refuse` it; shapes as in `layers.operation_of`."""
    kernel, stride, padding = _window(given, is_signal=is_signal)
    counts_padding = given.get("count_include_pad") is not False
    counted = [
        _counted(*axis, counts_padding=counts_padding)
        for axis in zip(kernel, stride, padding, before[1:], after[1:], strict=True)
    ]
    divisors = {rows * columns for rows in counted[0] for columns in counted[1]}
    override = given.get("divisor_override")
    if override is None and len(divisors) > 1:
        refuse(
            f"divides by {min(divisors)} at the border and by {max(divisors)} elsewhere",
            supported="the same divisor for all windows",
            hint="Use count_include_pad=True, without ceil_mode.",
        )
    return AveragePool(kernel, stride, padding, 1 / (divisors.pop() if override is None else override))


def _counted(kernel: int, stride: int, pad: int, extent: int, count: int, *, counts_padding: bool) -> set[int]:
    """The divisors of windows along one axis, as torch counts pixels."""
    first, end = (-pad, extent + pad) if counts_padding else (0, extent)
    starts = range(-pad, -pad + count * stride, stride)
    return {min(start + kernel, end) - max(start, first) for start in starts}


def max_pool(given: Mapping[str, Any], before: Shape, after: Shape, *, is_signal: bool) -> MaxPool:
    """Return the max pooling with these arguments, or `refuse` it; shapes as in `layers.operation_of`."""
    if given.get("return_indices"):
        refuse("returns indices", supported="max pooling without indices")
    pool = MaxPool(*_window(given, is_signal=is_signal), pair(given.get("dilation") or 1, is_signal, 1))
    windows = zip(pool.kernel, pool.stride, pool.padding, pool.dilation, before[1:], after[1:], strict=True)
    if not all(_reads_map(*axis) for axis in windows):
        refuse(
            "has windows that lie outside the map, where torch gives -inf",
            supported="at least one pixel of the map in each window",
            hint="Use a smaller dilation, padding or kernel, or larger images.",
        )
    return pool


def _reads_map(kernel: int, stride: int, pad: int, gap: int, extent: int, count: int) -> bool:
    """Whether each of ``count`` windows along an axis contains a pixel of the map."""
    starts = range(-pad, count * stride - pad, stride)
    return all(any(0 <= start + gap * place < extent for place in range(kernel)) for start in starts)


def _window(given: Mapping[str, Any], *, is_signal: bool) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding of a pooling."""
    kernel, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
    return pair(kernel, is_signal, 1), pair(stride, is_signal, 1), pair(given.get("padding") or 0, is_signal, 0)


def adaptive_pool(before: Shape, after: Shape, *, is_average: bool) -> AveragePool | MaxPool:
    """Return the pooling of ``before`` to ``after`` with windows of one size, or `refuse` it.

    The i-th of k windows along an axis of n pixels is floor(i n / k) .. ceil((i + 1) n / k) - 1, so they are alike, and
    at a constant step, only if n or n - 1 is a multiple of k.
    """
    axes = list(zip(before[1:], after[1:], strict=True))
    if len(before) != 3 or any(many < few or many % few > 1 for many, few in axes):
        refuse(
            f"gives {after[1:]} for {before[1:]}",
            supported="sizes that divide the size of the map, or that less 1, or multiples of it",
            hint="Use larger images, or put nn.Identity() in its place and train the first Linear again."
            if any(many < few for many, few in axes)
            else f"Choose {_divided(axes)}, or images of another size, and train the next Linear again.",
        )
    (height, rows), (width, columns) = axes
    stride = (height // rows, width // columns)
    kernel = (stride[0] + height % rows, stride[1] + width % columns)
    if is_average:
        return AveragePool(kernel, stride, (0, 0), 1 / (kernel[0] * kernel[1]))
    return MaxPool(kernel, stride, (0, 0), (1, 1))


def _divided(axes: Sequence[Pair]) -> Shape:
    """The largest sizes that `adaptive_pool` supports, up to those wanted; ``axes`` has the size of the map first."""
    return tuple(max(size for size in range(1, few + 1) if many % size <= 1) for many, few in axes)


def interpolated(given: Mapping[str, Any], before: Shape, after: Shape) -> Operation:
    """Return an interpolation to a smaller map, or `refuse` it; `reader.py` takes the pixels of mode nearest."""
    mode, factors = given.get("mode", "nearest"), {many / few for many, few in zip(before[1:], after[1:], strict=True)}
    # A bilinear half is the mean of two pixels.
    is_half = factors <= {1, 2} and not (given.get("align_corners") or given.get("antialias"))
    if is_half if mode in ("linear", "bilinear") else mode == "area" and all(map(float.is_integer, factors)):
        return adaptive_pool(before, after, is_average=True)
    found = f"makes {after[1:]} of {before[1:]} by mode {mode}"
    return refuse(found, supported="nearest and area by whole factors, bilinear by 2", hint="Use average pooling.")


def pair(value: Any, is_signal: bool, along_height: int) -> Pair:
    """Return (vertical, horizontal) from a number or a pair; (``along_height``, horizontal) for a signal's layer."""
    numbers = [int(value)] * 2 if isinstance(value, int) else [int(number) for number in value]
    return (along_height, numbers[-1]) if is_signal else (numbers[0], numbers[-1])
