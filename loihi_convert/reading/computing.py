"""Operations that compute with several numbers: to support one, add an entry to `COMPUTING`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.reading.graph import (
    BEFORE_QUANTIZATION,
    PADDINGS,
    Add,
    AveragePool,
    Cat,
    Ending,
    MaxPool,
    Move,
    Relu,
    Rounding,
    refuse,
    rounded_relu,
)
from loihi_convert.reading.recording import Call
from loihi_convert.reading.values import IMAGES, Value, counted, map_shape

if TYPE_CHECKING:
    from loihi_convert.reading.reader import Reader


def _convolution(reader: Reader, call: Call) -> Value:
    x, weight, bias, stride, padding, dilation, is_transposed, _, groups = reader.of(call.args)
    if is_transposed:
        refuse("has no spiking equivalent here")
    kernel, offset = array(weight), None if bias is None else array(bias)
    if x.shape[:1] != (IMAGES,) or len(x.shape) != kernel.ndim:
        refuse(f"is applied to a tensor of shape {tuple(x.shape[1:])}", supported="maps (C, H, W), signals (C, L)")
    if kernel.ndim == 3:
        # A signal is a map of one row.
        kernel, stride, padding, dilation = kernel[:, :, None], (1, *stride), (0, *padding), (1, *dilation)
    synapse = Conv(kernel, offset, pair(stride), pair(padding), pair(dilation), groups)
    return reader.add(synapse, (reader.number(x),), call.shape)


def _dense(reader: Reader, call: Call) -> Value:
    """``x @ w``, plus a bias; or ``w @ x``, as its transposed."""
    given = reader.of(call.args)
    bias, x, weight = given if call.name in ("addmm", "baddbmm", "addmv") else (None, *given)
    alpha, beta = (float(call.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    matrix = array(weight)
    if call.name in ("bmm", "baddbmm"):
        if not (matrix == matrix[:1]).all():
            refuse("has no spiking equivalent here")
        matrix = matrix[0]
    matrix = alpha * matrix.reshape(x.shape[-1], -1)
    offset = None if bias is None else beta * np.broadcast_to(array(bias).reshape(-1), (matrix.shape[1],))
    rows = x.shape[:-1].numel()
    x = reader.plain(x)
    if rows == IMAGES:
        vector = Value(torch.Size((IMAGES, x.shape[-1])), x.node, reader.positions(x).reshape(IMAGES, -1))
        found = reader.add(Dense(matrix.T, offset), (reader.number(vector),), torch.Size((IMAGES, matrix.shape[1])))
        return Value(call.shape, found.node)
    base = () if x.node is None else reader.nodes[x.node].shape
    # One row a pixel, with the channels last.
    is_last = len(base) == 3 and x.shape[-1] == base[0] and rows * base[0] == IMAGES * math.prod(base)
    if is_last:
        pixels = reader.positions(x).reshape(IMAGES, -1, base[0])
        is_last = torch.equal(pixels.movedim(-1, 1).flatten(), counted((x.shape.numel(),)))
    if not is_last:
        refuse("is applied to feature maps", supported="Linear after Flatten, or of channels in the last axis")
    assert x.node is not None
    maps = (matrix.shape[1], *base[1:])
    positions = counted((IMAGES, maps[0], base[1] * base[2])).movedim(1, -1).reshape(call.shape)
    return reader.add(Conv(matrix.T[:, :, None, None], offset), (x.node,), call.shape, maps, positions)


def _batch_norm(reader: Reader, call: Call) -> Value:
    x, weight, bias, mean, variance, *rest = reader.of(call.args)
    if "no_training" not in call.name and rest[0]:
        if mean is None:
            refuse("has no running statistics; train with track_running_stats=True")
        refuse("takes its statistics from the batch", supported="running statistics, in eval mode")
    gain = 1 / np.sqrt(array(variance) + rest[-1])
    shift = -array(mean) * gain
    if weight is not None:
        gain, shift = gain * array(weight), shift * array(weight)
    if bias is not None:
        shift = shift + array(bias)
    ones = (1,) * (len(x.shape) - 2)
    return reader.affine(gain.reshape(-1, *ones), shift.reshape(-1, *ones), x)


def _max_pool(reader: Reader, call: Call) -> Value:
    number = _maps(reader, call)
    kernel, stride, padding, dilation, _ = _options(call, (), (0,), (1,), False)
    pool = MaxPool(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))
    return reader.add(pool, (number,), call.shape)


def _options(call: Call, *defaults: object) -> Any:
    """The kernel of a pooling, and what torch takes after it, by default ``defaults``."""
    return *call.args[1:], *defaults[len(call.args) - 2 :]


def _average_pool(reader: Reader, call: Call) -> Value:
    number = _maps(reader, call)
    kernel, stride, padding, _, counts_padding, divisor = _options(call, (), (0,), False, True, None)
    window = pair(kernel), pair(stride or kernel), pair(padding)

    def counted(size: int, step: int, pad: int, extent: int, count: int) -> set[int]:
        """The divisors of windows along one axis, as torch counts pixels."""
        first, end = (-pad, extent + pad) if counts_padding else (0, extent)
        starts = range(-pad, -pad + count * step, step)
        return {min(start + size, end) - max(start, first) for start in starts}

    maps = reader.nodes[number].shape[1:], map_shape(call.shape)[1:]
    rows, columns = (counted(*axis) for axis in zip(*window, *maps, strict=True))
    divisors = {divisor} if divisor else {row * column for row in rows for column in columns}
    if len(divisors) > 1:
        refuse(
            f"divides by {min(divisors)} at the border and by {max(divisors)} elsewhere",
            supported="the same divisor for all windows",
        )
    return reader.add(AveragePool(*window, 1 / divisors.pop()), (number,), call.shape)


def _padded(reader: Reader, call: Call) -> Any:
    """With zeros, or with -inf, as before a maximum, where zeros do as well: where nothing is negative."""
    x = reader.of(call.args[0])
    if call.args[2:] == (-math.inf,):
        if not _is_nonnegative(reader, reader.number(x)):
            refuse("pads with -inf", supported=f"{PADDINGS}; -inf after a ReLU")
        call = replace(call, args=call.args[:2])
    return reader.moved(call, [x])


def _is_nonnegative(reader: Reader, number: int) -> bool:
    waiting, seen = [number], set[int]()
    while waiting:
        node = reader.nodes[waiting.pop()]
        operation = node.operation
        keeps = isinstance(operation, MaxPool | AveragePool | Move | Cat)
        if keeps or (isinstance(operation, Add) and min(operation.factors) >= 0):
            waiting += {*node.inputs} - seen
            seen |= {*node.inputs}
        elif not (isinstance(operation, Relu) and operation.floor >= 0):
            return False
    return True


def _adaptive_pool(reader: Reader, call: Call) -> Value:
    x = reader.of(call.args[0])
    before, after = x.shape[2:], call.shape[2:]
    if before != after and all(many % few == 0 for few, many in zip(before, after, strict=True)):
        # Each window is one pixel.
        positions = functional.interpolate(reader.positions(reader.plain(x)), size=tuple(after), mode="nearest")
        return reader.placed(positions, x.node)
    # The i-th of k windows along an axis of n pixels is floor(i n / k) .. ceil((i + 1) n / k) - 1, so they are alike,
    # and at a constant step, only if n or n - 1 is a multiple of k.
    number = _maps(reader, call)
    maps, wanted = reader.nodes[number].shape, map_shape(call.shape)
    axes = list(zip(maps[1:], wanted[1:], strict=True))
    if any(many < few or many % few > 1 for many, few in axes):
        refuse(
            f"gives {wanted[1:]} for {maps[1:]}",
            supported="sizes that divide the size of the map, or that less 1, or multiples of it",
        )
    (height, rows), (width, columns) = axes
    stride = (height // rows, width // columns)
    kernel = (stride[0] + height % rows, stride[1] + width % columns)
    return reader.add(_window("mean" if "avg" in call.name else "amax", kernel, stride), (number,), call.shape)


def _maps(reader: Reader, call: Call) -> int:
    x = reader.of(call.args[0])
    if len(x.shape) != 4:
        refuse(f"is applied to a tensor of shape {tuple(x.shape[1:])}", supported="maps (C, H, W)")
    return reader.number(x)


def _reduced(reader: Reader, call: Call) -> Value:
    """Mean, sum or maximum over the height, the width or both; mean or sum over the channels; also minimum of parts."""
    x = reader.plain(reader.of(call.args[0]))
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    rank = len(x.shape)
    axes = {axis % rank for axis in ([given] if isinstance(given, int) else given or ())}
    kind = {"max": "amax"}.get(call.name, call.name)
    if x.node is not None and axes and kind != "amin" and _are_whole_maps(reader, x, axes):
        channels, *size = reader.nodes[x.node].shape
        found = reader.add(_window(kind, pair(size), pair(size)), (x.node,), torch.Size((IMAGES, channels, 1, 1)))
        return Value(call.shape, found.node)
    if len(axes) == 1 and (x.node is None or (rank == 5 and axes <= {1, 2})):
        return _of_parts(reader, call, x, kind, axes.pop())
    if axes == {1} and kind in ("mean", "sum"):
        number = reader.number(x)
        channels, *size = reader.nodes[number].shape
        weight = np.full((1, channels, *(1 for _ in size)), 1.0 if kind == "sum" else 1 / channels)
        made = reader.add(Conv(weight) if size else Dense(weight), (number,), torch.Size((IMAGES, 1, *size)))
        return Value(call.shape, made.node)
    if kind == "amin" or not axes or not axes <= set(range(2, rank)) or len(map_shape(x.shape)) != 3:
        what = f"{call.name} over {'all axes' if given is None else f'axes {given}'}"
        refuse(f"takes the {what}", supported="height, width, or both; mean and sum also over the channels")
    number = reader.number(x)
    channels, height, width = reader.nodes[number].shape
    is_signal = rank == 3
    kernel = (height if 2 in axes and not is_signal else 1, width if rank - 1 in axes else 1)
    pool = _window(kind, kernel, kernel)
    maps = (channels, height // kernel[0], width // kernel[1])
    return reader.add(pool, (number,), call.shape, maps if len(map_shape(call.shape)) == 3 else map_shape(call.shape))


def _window(kind: str, kernel: Pair, stride: Pair) -> AveragePool | MaxPool:
    if kind == "amax":
        return MaxPool(kernel, stride, (0, 0), (1, 1))
    return AveragePool(kernel, stride, (0, 0), 1.0 if kind == "sum" else 1 / (kernel[0] * kernel[1]))


def _are_whole_maps(reader: Reader, x: Value, axes: set[int]) -> bool:
    """Whether ``axes``, in any order, are the pixels of each map of its node."""
    assert x.node is not None
    maps = reader.nodes[x.node].shape
    if len(maps) != 3 or x.shape.numel() != IMAGES * math.prod(maps):
        return False
    positions = reader.positions(x)
    others = [axis for axis in range(positions.ndim) if axis not in axes]
    pixels = math.prod(positions.shape[axis] for axis in axes)
    grouped = positions.permute(*others, *sorted(axes)).reshape(-1, pixels).sort(dim=1).values
    wanted = counted((IMAGES * maps[0], maps[1] * maps[2]))
    return grouped.shape == wanted.shape and torch.equal(grouped, wanted)


def _of_parts(reader: Reader, call: Call, x: Value, kind: str, axis: int) -> Value:
    """Over an axis along which several tensors are stacked, or channels grouped: of these, one after another."""
    parts = [reader.placed(each.contiguous(), x.node) for each in reader.positions(x).unbind(axis)]
    found, *others = parts
    for other in others:
        shape = found.shape
        if kind in ("amax", "amin"):
            # max(a, b) = b + relu(a - b), min(a, b) = b - relu(b - a)
            ordered, sign = ((found, other), 1.0) if kind == "amax" else ((other, found), -1.0)
            gap = reader.add(Relu(), (reader.number(reader.total(shape, ordered, (1.0, -1.0))),), shape)
            found = reader.total(shape, (other, gap), (1.0, sign))
        else:
            found = reader.total(shape, (found, other), (1.0, 1.0))
    if kind == "mean":
        ones = (1,) * (len(found.shape) - 1)
        found = reader.affine(np.full(ones, 1 / len(parts)), np.zeros(ones), found)
    return Value(call.shape, found.node, None if found.positions is None else found.positions.reshape(call.shape))


def _rounding(reader: Reader, call: Call) -> Value | None:
    """A `Rounding`, an obstacle until it is clipped; or part of a QCFS activation."""
    (x,) = reader.of(call.args)
    number = reader.number(x)
    try:
        with reader.place.named():
            return reader.quantized(*rounded_relu(reader.nodes, number, call.name), call.shape)
    except UnsupportedModelError as obstacle:
        return reader.add(Rounding(), (number,), call.shape, obstacle=obstacle)


def _ending(reader: Reader, call: Call) -> Value:
    x = reader.plain(reader.of(call.args[0]))
    if "softmax" in call.name:
        rank, axis = len(x.shape), call.args[1]
        if axis % rank == 0 or x.shape[axis] != x.shape[1:].numel():
            over = f"runs over axis {axis}" + (f" of {tuple(x.shape[1:])}" if rank > 2 else "")
            hint = "End with a Linear layer, or with global average pooling." if (axis, rank) == (1, 4) else ""
            refuse(over, supported="the class axis; all others but that of the batch have length 1", hint=hint)
    ending = Ending(call.name.removesuffix("_forward").replace("_", ""))
    if x.node is not None and reader.order(x) is not None:
        return reader.add(ending, (x.node,), call.shape, reader.nodes[x.node].shape, reader.positions(x))
    return reader.add(ending, (reader.number(x),), call.shape)


def array(tensor: Any) -> Array:
    """Return a constant as float64."""
    if isinstance(tensor, Value):
        refuse(
            "has no spiking equivalent here", supported="weights that do not depend on the image, as second argument"
        )
    if not isinstance(tensor, Tensor):
        refuse(f"has weights of type {type(tensor).__name__}", supported="torch.Tensor", hint=BEFORE_QUANTIZATION)
    return tensor.detach().cpu().to(torch.float64).numpy()


def require_two_alike(whole: torch.Size, shapes: Sequence[torch.Size]) -> None:
    """Refuse to join anything but tensors of one shape, apart from one channel for all."""
    if any(len(shape) != len(whole) or shape[2:] != whole[2:] for shape in shapes):
        refuse(
            f"joins tensors of shapes {' and '.join(str(tuple(shape[1:])) for shape in shapes)}",
            supported="equal shapes, or one channel beside several",
        )


COMPUTING: Final[Mapping[str, Callable[[Any, Call], Any]]] = {
    "convolution": _convolution,
    **dict.fromkeys(("mm", "addmm", "mv", "addmv", "bmm", "baddbmm"), _dense),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_native_batch_norm_legit_functional",
            "_batch_norm_no_update",
        ),
        _batch_norm,
    ),
    "constant_pad_nd": _padded,
    "avg_pool2d": _average_pool,
    "max_pool2d_with_indices": _max_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    **dict.fromkeys(("mean", "sum", "amax", "max", "amin"), _reduced),
    **dict.fromkeys(("floor", "round"), _rounding),
    **dict.fromkeys(("_softmax", "_log_softmax", "sigmoid", "log_sigmoid_forward", "tanh"), _ending),
}
"""By ATen's name."""


def pair(numbers: Sequence[int]) -> Pair:
    """Return (vertical, horizontal) from one or two numbers."""
    return numbers[0], numbers[-1]
