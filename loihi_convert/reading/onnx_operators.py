"""Each ONNX operator in torch's words: to support one, add a line to `OPERATORS`, and a case to ``tests/test_onnx.py``.

An entry takes the attributes and the inputs, None where they are omitted, and returns the first output or all. Sizes,
axes and weights are tensors that the same entries compute. Some attributes became inputs in a later opset, and are read
from both; for all of them see https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert.reading.graph import refuse

Attributes = Mapping[str, Any]
"""By name; also ``opset``, ``outputs``, their number, and ``batch``, the file's number of images if it is fixed."""

FLOATS: Final = (1, 10, 11, 16)
"""FLOAT, FLOAT16, DOUBLE, BFLOAT16 of ``onnx.TensorProto``: all are read as float32."""
_BOOL: Final = 9


def _ints(values: Any) -> list[int]:
    return [int(each) for each in (values.flatten() if isinstance(values, Tensor) else values)]


def _given(attributes: Attributes, name: str, given: Any) -> list[int] | None:
    """The integers of an input or, in earlier opsets, of an attribute; None if neither is given."""
    values = attributes.get(name) if given is None else given
    return None if values is None else _ints(values)


def _number(attributes: Attributes, name: str, given: Any, default: float) -> float:
    return float(attributes.get(name, default) if given is None else given)


def _window(a: Attributes, x: Tensor, kernel: Sequence[int], outside: float) -> tuple[Tensor, Any, Any, Any]:
    """``x``, padded with ``outside`` if its two ends differ; strides, dilations, and the padding that is left."""
    rank = len(kernel)
    strides, dilations, pads = (a.get(name, [n] * rank) for name, n in (("strides", 1), ("dilations", 1), ("pads", 0)))
    begin, end = pads[:rank], pads[-rank:]
    mode = a.get("auto_pad", "NOTSET")
    if mode == "VALID":
        begin = end = [0] * rank
    elif mode.startswith("SAME"):
        each = zip(x.shape[2:], kernel, strides, dilations, strict=True)
        totals = [max(0, (-(-size // step) - 1) * step + (taps - 1) * gap + 1 - size) for size, taps, step, gap in each]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        begin, end = (large, small) if mode == "SAME_LOWER" else (small, large)
    if begin == end:
        return x, strides, dilations, begin
    # From the last axis to the first.
    sides = [side for pair in reversed([*zip(begin, end, strict=True)]) for side in pair]
    return functional.pad(x, sides, value=outside), strides, dilations, [0] * rank


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, strides, dilations, padding = _window(a, x, weight.shape[2:], 0)
    conv = {3: functional.conv1d, 4: functional.conv2d}[weight.ndim]
    return conv(x, weight, bias, strides, padding, dilations, a.get("group", 1))


def _pool(a: Attributes, x: Tensor, *, is_max: bool) -> Tensor:
    kernel, counts, ceil = a["kernel_shape"], bool(a.get("count_include_pad", 0)), bool(a.get("ceil_mode", 0))
    padded, strides, dilations, padding = _window(a, x, kernel, -math.inf if is_max else 0)
    is_outside = any(pad >= size for pad, size in zip(a.get("pads", ()), [*kernel] * 2, strict=False))
    if padded is not x and (ceil or is_outside or not (is_max or counts)):
        refuse(
            "has different padding at its two ends",
            supported="equal padding, a max pooling, or an average pooling that counts the padding; without ceil_mode, "
            "and less than the kernel",
        )
    pools: Any = (functional.max_pool1d, functional.max_pool2d) if is_max else (torch.avg_pool1d, functional.avg_pool2d)
    pool: Callable[..., Tensor] = pools[len(kernel) - 1]
    if is_max:
        return pool(padded, kernel, strides, padding, dilations, ceil)
    if set(dilations) != {1}:
        refuse(f"has dilations {dilations}", supported="1")
    return pool(padded, kernel, strides, padding, ceil, counts)


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = (a.get(name, 1.0) for name in ("alpha", "beta"))
    weight = weight if a.get("transB") else weight.T
    weight = weight if alpha == 1 else weight * alpha
    shift = None if bias is None else (bias * beta).flatten().expand(len(weight))
    return functional.linear(x.T if a.get("transA") else x, weight, shift)


def _batch_norm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """In float64, as batch norm of a torch module is folded."""
    if a.get("training_mode"):
        refuse("is in training mode", hint="Export the CNN in eval mode.")
    gain = 1 / (variance.double() + a.get("epsilon", 1e-5)).sqrt()
    shift = -mean.double() * gain * weight + bias
    ones = (1,) * (x.ndim - 2)
    found: Tensor = x * (gain * weight).reshape(-1, *ones) + shift.reshape(-1, *ones)
    return found.float()


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def softmax(a: Attributes, x: Tensor) -> Tensor:
        if a["opset"] >= 13:
            return function(x, a.get("axis", -1))
        # Over all axes from this one on.
        axis = a.get("axis", 1) % x.ndim
        return function(x.flatten(axis), axis).reshape(x.shape)

    return softmax


def _shrink(a: Attributes, x: Tensor) -> Tensor:
    limit, bias = a.get("lambd", 0.5), a.get("bias", 0.0)
    if limit != bias:
        refuse(f"has bias {bias:g} and lambd {limit:g}", supported="the same number, as of Softshrink")
    return functional.softshrink(x, limit)


def _dropout(a: Attributes, x: Tensor, ratio: Any = None, is_training: Any = None) -> Tensor:
    if is_training is not None and bool(is_training):
        refuse("is in training mode", hint="Export the CNN in eval mode.")
    return x


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
        found = _given(a, "axes", axes)
        if not found and a.get("noop_with_empty_axes"):
            return x
        return function(x, found or [*range(x.ndim)], bool(a.get("keepdims", 1)))

    return reduced


def _product(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    return functools.reduce(lambda y, axis: y.prod(axis, keepdim), sorted(k % x.ndim for k in axes)[::-1], x)


def _of_all(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _, *inputs: functools.reduce(function, inputs)


def _of_each(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda _, *inputs: function(*inputs)


def _pad(a: Attributes, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    if (mode := a.get("mode", "constant")) != "constant":
        refuse(f"pads with mode {mode}", supported="numbers")
    sides, places = _given(a, "pads", pads) or [], [*range(x.ndim)] if axes is None else _ints(axes)
    amounts = {k % x.ndim: pair for k, *pair in zip(places, sides, sides[len(places) :], strict=False)}
    # From the last axis to the first.
    order = [side for axis in reversed(range(x.ndim)) for side in amounts.get(axis, [0, 0])]
    return functional.pad(x, order, value=_number(a, "value", value, 0.0)) if any(order) else x


def _reshape(a: Attributes, x: Tensor, shape: Any = None) -> Tensor:
    sizes = _given(a, "shape", shape) or []
    if not a.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    # The number of images may be any.
    return x.reshape([len(x), *sizes[1:]] if sizes[:1] == [a.get("batch")] else sizes)


def _squeeze(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    found = _given(a, "axes", axes)
    return x.squeeze() if found is None else x.squeeze(tuple(found))


def _unsqueeze(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    found = _given(a, "axes", axes) or []
    return functools.reduce(torch.unsqueeze, sorted(axis % (x.ndim + len(found)) for axis in found), x)


def _slice(a: Attributes, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    first, last = _given(a, "starts", starts) or [], _given(a, "ends", ends) or []
    places = _given(a, "axes", axes) or [*range(len(first))]
    for axis, *bounds in zip(places, first, last, _given(a, "steps", steps) or [1] * len(first), strict=True):
        every = range(x.shape[axis])
        if (chosen := every[slice(*bounds)]) != every:
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
    return x


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    found = x.index_select(axis, indices.flatten() % x.shape[axis])
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _split(a: Attributes, x: Tensor, sizes: Any = None) -> Sequence[Tensor]:
    axis = a.get("axis", 0)
    return torch.split(x, _given(a, "split", sizes) or -(-x.shape[axis] // a["outputs"]), axis)


def _space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    # Torch counts the places in a block within each channel, ONNX the channels within each place.
    channels, block = x.shape[1], a["blocksize"]
    parts = functional.pixel_unshuffle(x, block)
    return parts.reshape(len(x), channels, block**2, *parts.shape[2:]).transpose(1, 2).flatten(1, 2)


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(torch.float32 if a["to"] in FLOATS else torch.bool if a["to"] == _BOOL else torch.int64)


def _dequantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    if scale.ndim > 1:
        refuse("has scales of blocks", supported="one for each channel, or for all")
    axis = a.get("axis", 1) % x.ndim
    return ((x.movedim(axis, -1) - (0 if zero is None else zero)) * scale).movedim(-1, axis)


def _div(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    is_whole = not (x.is_floating_point() or y.is_floating_point())
    return torch.div(x, y, rounding_mode="trunc" if is_whole else None)


_REFUSED_LATER: Final[Mapping[str, Callable[..., Any]]] = {
    "Elu": lambda a, x: functional.elu(x, a.get("alpha", 1.0)),
    "Selu": lambda _, x: functional.selu(x),
    "Softplus": lambda _, x: functional.softplus(x),
    "HardSwish": lambda _, x: functional.hardswish(x),
    "Gelu": lambda _, x: functional.gelu(x),
    "Mish": lambda _, x: functional.mish(x),
}
"""Read, so that they are refused with advice on what to use instead."""

OPERATORS: Final[Mapping[str, Callable[..., Any]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _of_each(torch.matmul),
    "Einsum": lambda a, *x: torch.einsum(a["equation"], *x),
    "BatchNormalization": _batch_norm,
    "Relu": _of_each(torch.relu),
    "Clip": lambda a, x, low=None, high=None: torch.clamp(
        x, _number(a, "min", low, -math.inf), _number(a, "max", high, math.inf)
    ),
    "LeakyRelu": lambda a, x: functional.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda _, x, slope: torch.where(x > 0, x, slope * x),
    "AveragePool": functools.partial(_pool, is_max=False),
    "MaxPool": functools.partial(_pool, is_max=True),
    "GlobalAveragePool": lambda _, x: x.mean([*range(2, x.ndim)], keepdim=True),
    "GlobalMaxPool": lambda _, x: x.amax([*range(2, x.ndim)], keepdim=True),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "Add": _of_each(torch.add),
    "Sub": _of_each(torch.sub),
    "Mul": _of_each(torch.mul),
    "Div": _div,
    "DequantizeLinear": _dequantize,
    "Mod": _of_each(torch.remainder),
    "Sum": _of_all(torch.add),
    "Mean": lambda _, *x: functools.reduce(torch.add, x) / len(x),
    "Max": _of_all(torch.maximum),
    "Min": _of_all(torch.minimum),
    "Equal": _of_each(torch.eq),
    "Greater": _of_each(torch.gt),
    "GreaterOrEqual": _of_each(torch.ge),
    "Less": _of_each(torch.lt),
    "LessOrEqual": _of_each(torch.le),
    "Not": _of_each(torch.logical_not),
    "Where": _of_each(torch.where),
    "Neg": _of_each(torch.neg),
    "Abs": _of_each(torch.abs),
    "Floor": _of_each(torch.floor),
    "Ceil": _of_each(torch.ceil),
    "Sqrt": _of_each(torch.sqrt),
    "Reciprocal": _of_each(torch.reciprocal),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Split": _split,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda a, x: x.permute(a.get("perm", [*reversed(range(x.ndim))])),
    "Slice": _slice,
    "Gather": _gather,
    "Expand": lambda _, x, sizes: x.expand(np.broadcast_shapes(x.shape, tuple(_ints(sizes)))),
    "Tile": lambda _, x, repeats: x.tile(_ints(repeats)),
    "Pad": _pad,
    "SpaceToDepth": _space_to_depth,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Sigmoid": _of_each(torch.sigmoid),
    "Tanh": _of_each(torch.tanh),
    "HardSigmoid": lambda a, x: torch.clamp(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "Shrink": _shrink,
    "Dropout": _dropout,
    "Identity": lambda _, x: x,
    "Cast": _cast,
    "Shape": lambda a, x: torch.tensor(x.shape, dtype=torch.int64)[a.get("start") : a.get("end")],
    "Size": lambda _, x: torch.tensor(x.numel()),
    "Constant": lambda a: next(torch.as_tensor(each) for name, each in a.items() if name.startswith("value")),
    "ConstantOfShape": lambda a, sizes: a.get("value", torch.zeros(1)).expand(_ints(sizes)),
    **_REFUSED_LATER,
}
"""By ``op_type``."""

SUPPORTED: Final = ", ".join(kind for kind in OPERATORS if kind not in _REFUSED_LATER)
"""Those that may have a spiking equivalent."""
