"""Poolings of torch -> operations; ``before`` and ``after`` are the shapes ``(C, H, W)`` of the maps."""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.ground.arrays import Pair, Shape
from loihi_convert.reading.operations import AveragePool, MaxPool, refuse


def average_pool(
    before: Shape,
    after: Shape,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> AveragePool:
    """Return the average pooling with torch's arguments, or `refuse` it."""
    window = pair(kernel), pair(stride or kernel), pair(padding)
    counted = [
        _counted(*axis, counts_padding=count_include_pad) for axis in zip(*window, before[1:], after[1:], strict=True)
    ]
    divisors = {rows * columns for rows in counted[0] for columns in counted[1]}
    if divisor_override is None and len(divisors) > 1:
        refuse(
            f"divides by {min(divisors)} at the border and by {max(divisors)} elsewhere",
            supported="the same divisor for all windows",
            hint="Use count_include_pad=True, without ceil_mode.",
        )
    return AveragePool(*window, 1 / (divisor_override or divisors.pop()))


def _counted(kernel: int, stride: int, pad: int, extent: int, count: int, *, counts_padding: bool) -> set[int]:
    """The divisors of windows along one axis, as torch counts pixels."""
    first, end = (-pad, extent + pad) if counts_padding else (0, extent)
    starts = range(-pad, -pad + count * stride, stride)
    return {min(start + kernel, end) - max(start, first) for start in starts}


def max_pool(
    before: Shape,
    after: Shape,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> MaxPool:
    """Return the max pooling with torch's arguments, or `refuse` it."""
    pool = MaxPool(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))
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


def pair(numbers: Sequence[int]) -> Pair:
    """Return (vertical, horizontal) from one or two numbers."""
    return numbers[0], numbers[-1]
