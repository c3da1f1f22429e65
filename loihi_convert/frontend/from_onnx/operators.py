"""Each ONNX operator as calls of torch's modules and functions.

For attributes and inputs see https://onnx.ai/onnx/operators/. Some attributes became inputs in a later opset; these are
read from both.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.arrays import Array, Shape
from loihi_convert.frontend.from_onnx import shapes
from loihi_convert.frontend.from_onnx.node import Call, Calls, OnnxNode, as_tensor, unknown

NOT_SUPPORTED: Final = (
    *("LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Attention", "ConvTranspose", "Resize", "Upsample"),
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
)
"""Operators without a spiking equivalent; a file with one of them is refused before anything is read."""

FLOATS: Final = (1, 10, 11, 16)
"""FLOAT, FLOAT16, DOUBLE, BFLOAT16 of ``onnx.TensorProto``."""

_BOOL: Final = 9


def _loaded(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    module.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, strict=False)
    return module


def _conv(node: OnnxNode) -> Calls:
    weight, bias = node.weights(1), node.constant(2)
    rank = weight.ndim - 2
    if rank not in (1, 2):
        raise unknown(f"has {rank} axes; supported: 1 and 2")
    stride, dilation, begin, end = _window(node, tuple(weight.shape[2:]))
    padded, dilation, padding = equally_padded(weight.numpy(), dilation, begin, end)
    weight, kernel = as_tensor(padded), padded.shape[2:]
    groups = int(node.attributes.get("group", 1))
    made: Any = (nn.Conv1d, nn.Conv2d)[rank - 1]
    module = made(
        weight.shape[1] * groups, weight.shape[0], kernel, stride, padding, dilation, groups, bias=bias is not None
    )
    return node.called(_loaded(module, weight=weight, bias=None if bias is None else as_tensor(bias)))


def _window(node: OnnxNode, kernel: Shape) -> tuple[Shape, Shape, Shape, Shape]:
    """Stride, dilation, and the padding at the start and end of each axis."""
    rank, attributes = len(kernel), node.attributes
    stride = tuple(attributes.get("strides", (1,) * rank))
    dilation = tuple(attributes.get("dilations", (1,) * rank))
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        pads = tuple(attributes.get("pads", (0,) * 2 * rank))
        return stride, dilation, pads[:rank], pads[rank:]
    if mode == b"VALID":
        return stride, dilation, (0,) * rank, (0,) * rank
    totals = [
        max(0, (math.ceil(size / step) - 1) * step + (length - 1) * spread + 1 - size)
        for size, length, step, spread in zip(node.shape[1:], kernel, stride, dilation, strict=True)
    ]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (stride, dilation, large, small) if mode == b"SAME_LOWER" else (stride, dilation, small, large)


def _pool(node: OnnxNode) -> Calls:
    rank = len(node.shape) - 1
    if rank not in (1, 2) or node.output_count > 1:
        raise unknown(f"pools {rank} axes with {node.output_count} outputs; supported: 1 or 2 axes, one output")
    kernel = tuple(node.attributes["kernel_shape"])
    stride, dilation, begin, end = _window(node, kernel)
    ceil_mode, counts = (bool(node.attributes.get(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    padded: list[Call] = []
    if begin != end:
        is_same = node.values[node.image].meta["is_nonnegative"] if node.kind == "MaxPool" else counts
        longest = max(map(operator.sub, (*begin, *end), kernel * 2))
        if not is_same or ceil_mode or set(dilation) != {1} or longest >= 0:
            raise unknown(
                f"has padding {begin} and {end}; supported: equal padding at both ends, a max pooling after Relu, "
                "Clip or Max, or an average pooling that counts the padding",
                "Train with padding='valid'.",
            )
        # Zeros change no maximum of values that are never negative. From the last axis to the first.
        sides = tuple(side for pair in reversed(tuple(zip(begin, end, strict=True))) for side in pair)
        padded, begin = [Call(functional.pad, node.image, sides)], (0,) * rank
    made: Any
    if node.kind == "MaxPool":
        made = (nn.MaxPool1d, nn.MaxPool2d)[rank - 1]
        pool = made(kernel, stride, begin, dilation, ceil_mode=ceil_mode)
    elif set(dilation) != {1}:
        raise unknown(f"has dilations {dilation}; supported: 1")
    else:
        made = (nn.AvgPool1d, nn.AvgPool2d)[rank - 1]
        pool = made(kernel, stride, begin, ceil_mode=ceil_mode, count_include_pad=counts)
    return [*padded, Call(pool, Call.PREVIOUS if padded else node.image)]


def _global_pool(node: OnnxNode) -> Calls:
    rank = len(node.shape) - 1
    if rank not in (1, 2):
        raise unknown(f"pools {rank} axes; supported: 1 and 2")
    kinds: Any = {
        "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        "GlobalMaxPool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    }[node.kind]
    return node.called(kinds[rank - 1](1))


def _batch_norm(node: OnnxNode) -> Calls:
    if node.attributes.get("training_mode", 0):
        raise unknown("is in training mode", "Export the CNN in eval mode.")
    weight, bias, mean, variance = (node.weights(index) for index in (1, 2, 3, 4))
    kind = nn.BatchNorm2d if len(node.shape) == 3 else nn.BatchNorm1d
    module = kind(len(weight), float(node.attributes.get("epsilon", 1e-5)))
    return node.called(_loaded(module, weight=weight, bias=bias, running_mean=mean, running_var=variance))


def _gemm(node: OnnxNode) -> Calls:
    if node.attributes.get("transA", 0):
        raise unknown("transposes its image")
    weight, bias = node.weights(1) * node.attributes.get("alpha", 1.0), node.constant(2)
    weight = weight if node.attributes.get("transB", 0) else weight.T
    shift = None if bias is None else as_tensor(np.broadcast_to(np.squeeze(bias), (len(weight),)))
    return _linear(node, weight, None if shift is None else shift * node.attributes.get("beta", 1.0))


def _matmul(node: OnnxNode) -> Calls:
    if node.weights(1).ndim != 2:
        raise unknown("is not a product with a single weight matrix")
    return _linear(node, node.weights(1).T, None)


def _einsum(node: OnnxNode) -> Calls:
    operands = [name if name in node.examples else node.weights(place) for place, name in enumerate(node.inputs)]
    return [Call(torch.einsum, node.attributes["equation"].decode(), *operands)]


def _linear(node: OnnxNode, weight: Tensor, bias: Tensor | None) -> Calls:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return node.called(_loaded(module, weight=weight.contiguous(), bias=bias))


_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}


def _operands(node: OnnxNode) -> list[str | float | Tensor]:
    """All inputs, aligned, as arguments of a call."""
    node.require_aligned()
    return [name if name in node.values else _number(node.for_each_image(name)) for name in node.inputs]


def _number(values: Array) -> float | Tensor:
    """A constant with a single value as a number."""
    return float(values.reshape(-1)[0]) if values.size == 1 else as_tensor(values)


_COMPARISONS: Final[dict[str, Callable[..., Any]]] = {
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
"""Conditions, as in where(x > 0, x, 0), a ReLU; the front end refuses other uses."""


def _of_two(node: OnnxNode) -> Calls:
    return [Call((_ARITHMETIC | _COMPARISONS)[node.kind], *_operands(node))]


def _where(node: OnnxNode) -> Calls:
    arguments = _operands(node)
    if node.examples[node.image].dtype != torch.bool:
        raise unknown("chooses by a value that is not a comparison")
    return [Call(torch.where, *arguments)]


_OF_SEVERAL: Final[Mapping[str, Callable[..., Any]]] = {
    "Sum": operator.add,
    "Mean": operator.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
}


def _of_several(node: OnnxNode) -> Calls:
    node.require_aligned()
    first, *others = (name if name in node.values else as_tensor(node.for_each_image(name)) for name in node.inputs)
    if not others:
        return node.called(nn.Identity())
    calls = [Call(_OF_SEVERAL[node.kind], first, others[0])]
    calls += [Call(_OF_SEVERAL[node.kind], Call.PREVIOUS, other) for other in others[1:]]
    return [*calls, Call(operator.truediv, Call.PREVIOUS, len(node.inputs))] if node.kind == "Mean" else calls


_REDUCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
}


def _reduction(node: OnnxNode) -> Calls:
    axes = tuple(map(node.axis, node.numbers("axes", 1) or ()))
    if not axes:
        raise unknown("reduces all axes, the batch too")
    if 0 in axes:
        raise unknown("reduces the batch axis", shapes.BATCH_HINT)
    return [Call(_REDUCTIONS[node.kind], node.image, axes, bool(node.attributes.get("keepdims", 1)))]


def _clip(node: OnnxNode) -> Calls:
    low, high = node.number("min", 1), node.number("max", 2)
    if low is None and high is None:
        return node.called(nn.Identity())
    if low == 0 and high is None:
        return node.called(nn.ReLU())
    if low is not None and high is not None:
        if low >= high:
            raise unknown(f"clips to {low}..{high}")
        return node.called(nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high))
    return [Call(torch.clamp, node.image, low, high)]


def _hard_sigmoid(node: OnnxNode) -> Calls:
    scaled = Call(operator.mul, node.image, float(node.attributes.get("alpha", 0.2)))
    shifted = Call(operator.add, Call.PREVIOUS, float(node.attributes.get("beta", 0.5)))
    return [scaled, shifted, Call(nn.Hardtanh(0, 1), Call.PREVIOUS)]


def _shrink(node: OnnxNode) -> Calls:
    limit, bias = (float(node.attributes.get(name, default)) for name, default in (("lambd", 0.5), ("bias", 0.0)))
    if limit != bias or limit < 0:
        raise unknown(f"has bias {bias:g} and lambd {limit:g}; supported: the same number, as of Softshrink")
    return node.called(nn.Softshrink(limit))


def _prelu(node: OnnxNode) -> Calls:
    shape, channels = tuple(node.weights(1).shape), node.shape[0]
    if math.prod(shape) > 1 and (1, *shape)[-len(node.shape) :] != (channels, *(1,) * (len(node.shape) - 1)):
        raise unknown(f"has slopes of shape {shape}; supported: one, or one per channel")
    slope = node.weights(1).reshape(-1)
    return node.called(_loaded(nn.PReLU(len(slope)), weight=slope))


def _softmax(node: OnnxNode) -> Calls:
    axis = node.axis(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)))
    if axis == 0:
        raise unknown("normalizes over the batch", shapes.BATCH_HINT)
    if node.opset < 13 and math.prod(node.shape[axis:]) > 1:
        raise unknown(f"normalizes over all axes of {node.shape} from axis {axis} on", "Export it with opset 13.")
    return node.called(nn.Softmax(axis) if node.kind == "Softmax" else nn.LogSoftmax(axis))


def _nothing(node: OnnxNode) -> Calls:
    return node.called(nn.Identity())


def _dropout(node: OnnxNode) -> Calls:
    is_training = node.constant(2)
    if is_training is not None and is_training.any():
        raise unknown("is in training mode", "Export the CNN in eval mode.")
    return _nothing(node)


def _cast(node: OnnxNode) -> Calls:
    wanted, is_condition = int(node.attributes["to"]), node.examples[node.image].dtype == torch.bool
    if wanted not in FLOATS and not (is_condition and wanted == _BOOL):
        raise unknown("casts to another type; supported: floating point")
    return [Call(torch.clone, node.image)] if is_condition else _nothing(node)


_REFUSED_LATER: Final[Mapping[str, Callable[[OnnxNode], Calls]]] = {
    "Elu": lambda node: node.called(nn.ELU(node.attributes.get("alpha", 1.0))),
    "Selu": lambda node: node.called(nn.SELU()),
    "Softplus": lambda node: node.called(nn.Softplus()),
    "HardSwish": lambda node: node.called(nn.Hardswish()),
    "Gelu": lambda node: node.called(nn.GELU()),
    "Mish": lambda node: node.called(nn.Mish()),
}
"""Read, so that the front end can refuse them with advice on what to use instead."""

OPERATORS: Final[Mapping[str, Callable[[OnnxNode], Calls]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "Relu": lambda node: node.called(nn.ReLU()),
    "Clip": _clip,
    "LeakyRelu": lambda node: node.called(nn.LeakyReLU(node.attributes.get("alpha", 0.01))),
    "PRelu": _prelu,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ARITHMETIC, _of_two),
    **dict.fromkeys(_OF_SEVERAL, _of_several),
    **dict.fromkeys(_COMPARISONS, _of_two),
    "Not": lambda node: [Call(torch.logical_not, node.image)],
    "Where": _where,
    "Neg": lambda node: [Call(torch.neg, node.image)],
    "Abs": lambda node: [Call(torch.abs, node.image)],
    "Concat": shapes.concat,
    "Split": shapes.split,
    "Flatten": shapes.flatten,
    "Reshape": shapes.reshape,
    "Squeeze": shapes.squeeze,
    "Unsqueeze": shapes.unsqueeze,
    "Transpose": shapes.transpose,
    "Slice": shapes.sliced,
    "Gather": shapes.gather,
    "Expand": shapes.expand,
    "Tile": shapes.tile,
    "Pad": shapes.pad,
    "SpaceToDepth": shapes.space_to_depth,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Dropout": _dropout,
    "Identity": _nothing,
    "Cast": _cast,
    "Sigmoid": lambda node: node.called(nn.Sigmoid()),
    "Tanh": lambda node: node.called(nn.Tanh()),
    "HardSigmoid": _hard_sigmoid,
    "Shrink": _shrink,
    **_REFUSED_LATER,
}
"""By ``op_type``."""

WITHOUT_BATCH: Final = frozenset(
    {
        *("MatMul", "Relu", "Clip", "LeakyRelu", "Neg", "Abs", "Softmax", "LogSoftmax", "Dropout", "Identity", "Cast"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Sigmoid", "Tanh", "HardSigmoid", "Shrink"),
        *(*_REDUCTIONS, *_ARITHMETIC, *_OF_SEVERAL, *_REFUSED_LATER),
    }
)
"""Operators that are read the same if the batch axis of their inputs was dropped."""

SUPPORTED: Final = tuple(kind for kind in OPERATORS if kind not in _REFUSED_LATER)
"""Those that may have a spiking equivalent."""


def equally_padded(
    weight: Array, dilation: Sequence[int], start: Sequence[int], end: Sequence[int]
) -> tuple[Array, tuple[int, ...], tuple[int, ...]]:
    """Return the kernel, dilation and padding of the same convolution with equal padding at both ends of each axis.

    ``weight`` is ``(C_out, C_in / groups, ...)``; the kernel has zeros at the end that needs less padding than the
    other, and between its taps instead of a dilation.
    """
    if list(start) == list(end):
        return weight, tuple(dilation), tuple(start)
    padding = tuple(map(max, start, end))
    sizes = [gap * (taps - 1) + 1 for gap, taps in zip(dilation, weight.shape[2:], strict=True)]
    kernel = np.zeros((*weight.shape[:2], *(n + abs(a - b) for n, a, b in zip(sizes, start, end, strict=True))))
    places = [slice(p - a, p - a + n, gap) for p, a, n, gap in zip(padding, start, sizes, dilation, strict=True)]
    kernel[(slice(None), slice(None), *places)] = weight
    return kernel, (1,) * len(sizes), padding
