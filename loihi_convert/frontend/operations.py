"""The layers of a CNN as operations that can become a spiking network; all others are refused by name.

====================================================  =====================
module                                                operation
====================================================  =====================
``Conv1d``, ``Conv2d``, ``Linear``                    `Conv`, `Dense`
``BatchNorm1d``, ``BatchNorm2d``, ``SyncBatchNorm``    `Affine`
torchvision's ``Normalize``                           `Affine`
``ReLU``, ``ReLU6``, ``Hardtanh(0, b)``, ``qcfs.Qcfs``  `Relu`
``Threshold(0, 0)``                                   `Relu`
``from_nir.FiringRate``                                 `Relu`
``LeakyReLU``, ``PReLU``                              `LeakyRelu`
``AvgPool1d/2d``, ``AdaptiveAvgPool1d/2d``            `AveragePool`
``MaxPool1d/2d``, ``AdaptiveMaxPool1d/2d``            `MaxPool`
``Softmax``, ``LogSoftmax``, ``Sigmoid``, at the end   `Ending`
====================================================  =====================

Rearrangements without computation (flatten, slices, channel shuffle, zero padding) are a `Move`. Functions and methods
are read by `reader.py`. Signals ``(C, L)`` are maps ``(C, 1, L)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.from_nir.rate import FiringRate
from loihi_convert.ir.synapse import Conv, Dense

SUPPORTED: Final = (
    "Conv1d/2d, Linear, BatchNorm1d/2d, ReLU, ReLU6, LeakyReLU, PReLU, average and max pooling, +, -, cat, chunk, "
    "Flatten, Dropout, Identity, + - * / by constants, a last Softmax or Sigmoid"
)

_ADVICES: Final = (
    ("Train with ReLU.", "GELU ELU SELU CELU SiLU Mish Hardswish Hardsigmoid Hardtanh Softplus Sigmoid Tanh"),
    ("Products of activations (attention, gates) are not supported; train without them.", "mul matmul bmm einsum"),
    ("Train with BatchNorm2d, or without.", "GroupNorm LayerNorm InstanceNorm2d LocalResponseNorm"),
    ("A classifier does not need upsampling; remove it.", "ConvTranspose2d Upsample Interpolate PixelShuffle"),
    ("Attention is not supported; train a convolutional network.", "MultiheadAttention scaled_dot_product_attention"),
    ("Recurrent layers are not supported; train a feed-forward network.", "RNN LSTM GRU"),
    ("Train with average or max pooling, or a strided convolution.", "LPPool2d FractionalMaxPool2d"),
)
# The module LeakyReLU and the function leaky_relu get the same advice.
_ADVICE: Final = {kind.lower().replace("_", ""): advice for advice, kinds in _ADVICES for kind in kinds.split()}
NOTHING: Final = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity,
)  # fmt: skip
"""Modules without an effect at inference."""

MOVES: Final = (
    nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelUnshuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d,
    nn.ConstantPad2d,
)  # fmt: skip
"""Modules that only rearrange numbers, or pad with zeros."""

CONVOLUTION_ARGUMENTS: Final = ("weight", "bias", "stride", "padding", "dilation", "groups")
BATCH_NORM_ARGUMENTS: Final = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
AVERAGE_POOL_ARGUMENTS: Final = (
    "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
)  # fmt: skip
MAX_POOL_ARGUMENTS: Final = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d)
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = gain x + shift``, such as batch normalization at inference.

    ``gain`` is float64 ``(C,)``; ``shift`` ``(C,)`` or, if it differs between pixels, ``(C, H, W)``.
    """

    gain: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Relu:
    """``y = min(max(x, 0), ceiling)``, or `qcfs.Qcfs` with ``threshold``, float64 ``(C,)``, and ``levels``.

    A threshold without levels is that of neurons, as of a NIR file; the ceiling is then the same number.
    """

    threshold: Array | None = None
    levels: int | None = None
    ceiling: float = np.inf


@dataclass(frozen=True, eq=False)
class LeakyRelu:
    """``y = max(x, 0) - slope max(-x, 0)``; ``slope`` is float64 ``(C,)``, or ``(1,)`` for all channels."""

    slope: Array


@dataclass(frozen=True)
class AveragePool:
    """The sum over windows of ``kernel``, with padding as 0, times ``factor``."""

    kernel: Pair
    stride: Pair
    padding: Pair
    factor: float

    @property
    def tiles(self) -> bool:
        """Whether windows do not overlap, so that each pixel belongs to one window."""
        return self.stride == self.kernel and self.padding == (0, 0) and self.factor == 1 / np.prod(self.kernel)


@dataclass(frozen=True)
class MaxPool:
    """The largest value in each window of ``kernel``; padding is never the largest."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


@dataclass(frozen=True, eq=False)
class Move:
    """``y = x.ravel()[index]``, and 0 where ``index`` is -1; int64 of y's shape, without the batch axis."""

    index: Array


@dataclass(frozen=True)
class Add:
    """The sum of the inputs, each times its entry in ``factors``."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class Cat:
    """The inputs concatenated: their channels or, for vectors, their values."""


@dataclass(frozen=True)
class Ending:
    """A softmax, its logarithm, or a sigmoid, which preserves the order of the outputs; only at the end."""


Operation = Conv | Dense | Affine | Relu | LeakyRelu | AveragePool | MaxPool | Move | Add | Cat | Ending


def refuse(name: str, kind: str, why: str, *, supported: str = SUPPORTED, hint: str = "") -> NoReturn:
    """Raise an `UnsupportedModelError`: where, what was found, what is supported, what to do."""
    hint = hint or _ADVICE.get(kind.lower().replace("_", ""), "")
    raise UnsupportedModelError(f"{kind} {why}", where=name, expected=f"supported: {supported}", hint=hint)


def is_one_operation(module: nn.Module) -> bool:
    """Return whether `operation_of_module` supports ``module`` although torch.fx would step into it."""
    return (
        isinstance(module, Qcfs | FiringRate)
        or _is_normalize(module)
        or _is_plain(module, *_CONVOLUTIONS, *_NORMS, nn.Linear)
    )


def operation_of_module(
    name: str, kind: str, module: nn.Module, input_shape: Shape, shape: Shape, rank: int
) -> Operation:
    """Return the operation of ``module`` from ``input_shape`` to ``shape``, or `refuse` it.

    Shapes without the batch axis: ``(C, H, W)`` or ``(N,)``; ``rank`` is the number of axes of its input in torch.
    """
    if _is_plain(module, *_CONVOLUTIONS):
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        if module.padding_mode != "zeros":
            mode = f"pads with mode {module.padding_mode}, padding {module.padding}"
            refuse(name, kind, mode, supported="zero padding")
        arguments = {argument: getattr(module, argument) for argument in CONVOLUTION_ARGUMENTS}
        return convolution(name, kind, arguments, is_signal=isinstance(module, nn.Conv1d))
    if _is_plain(module, nn.Linear):
        assert isinstance(module, nn.Linear)
        return dense(name, kind, module.weight, module.bias, input_shape)
    if _is_plain(module, *_NORMS):
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
        return batch_norm(name, kind, {argument: getattr(module, argument) for argument in BATCH_NORM_ARGUMENTS})
    if isinstance(module, Qcfs):
        return Relu(_array(module.thresholds), module.levels)
    if isinstance(module, FiringRate):
        return Relu(np.ones(shape[0]), ceiling=1.0)
    if isinstance(module, nn.ReLU):
        return Relu()
    # Includes ReLU6, a subclass.
    if isinstance(module, nn.Hardtanh):
        return clamp(name, kind, module.min_val, module.max_val)
    if isinstance(module, nn.Threshold):
        return threshold(name, kind, module.threshold, module.value)
    if isinstance(module, nn.LeakyReLU):
        return LeakyRelu(np.array([module.negative_slope]))
    if isinstance(module, nn.PReLU):
        return LeakyRelu(_array(module.weight))
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return softmax(name, kind, module.dim, rank)
    if isinstance(module, nn.Sigmoid | nn.LogSigmoid):
        return Ending()
    if _is_normalize(module):
        mean, std = (np.array(getattr(module, values), np.float64).reshape(-1) for values in ("mean", "std"))
        return Affine(np.ones(input_shape[0]) / std, -mean / std * np.ones(input_shape[0]))
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        arguments = {argument: getattr(module, argument, None) for argument in AVERAGE_POOL_ARGUMENTS}
        return average_pool(name, kind, arguments, input_shape, shape, is_signal=isinstance(module, nn.AvgPool1d))
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        arguments = {argument: getattr(module, argument) for argument in MAX_POOL_ARGUMENTS}
        return max_pool(name, kind, arguments, is_signal=isinstance(module, nn.MaxPool1d))
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
        return adaptive_pool(name, kind, input_shape, shape, is_average=True)
    if isinstance(module, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d):
        return adaptive_pool(name, kind, input_shape, shape, is_average=False)
    refuse(name, kind, "has no spiking equivalent here")


def clamp(name: str, kind: str, low: Any, high: Any) -> Relu:
    """Return the ReLU that clips to ``low``..``high``, or `refuse` it."""
    if low != 0 or not (high is None or (isinstance(high, int | float) and high > 0)):
        refuse(name, kind, f"clips to {low}..{high}", supported="from 0 to a positive number, or no upper bound")
    return Relu(ceiling=np.inf if high is None else float(high))


def threshold(name: str, kind: str, least: Any, value: Any) -> Relu:
    """Return the ReLU that puts ``value`` in place of numbers up to ``least``, or `refuse` it."""
    if least != 0 or value != 0:
        refuse(name, kind, f"puts {value} in place of numbers up to {least}", supported="0 in place of numbers up to 0")
    return Relu()


def softmax(name: str, kind: str, axis: Any, rank: int) -> Ending:
    """Return a softmax over ``axis`` of a tensor with ``rank`` axes, or `refuse` it."""
    # As torch chooses it.
    chosen = int(rank != 3) if axis is None else axis
    if not isinstance(chosen, int) or chosen % rank != 1:
        refuse(name, kind, f"runs over axis {axis}", supported="the class axis, 1")
    return Ending()


def average_pool(
    name: str, kind: str, arguments: Mapping[str, Any], input_shape: Shape, shape: Shape, *, is_signal: bool
) -> AveragePool:
    """Return the pooling with ``arguments``, named in `AVERAGE_POOL_ARGUMENTS`, or `refuse` it."""
    kernel, padding = _pair(arguments["kernel_size"], is_signal, 1), _pair(arguments.get("padding") or 0, is_signal, 0)
    stride = _pair(arguments.get("stride") or arguments["kernel_size"], is_signal, 1)
    counts_padding = arguments.get("count_include_pad") is not False
    counted = [
        _counted(*axis, counts_padding=counts_padding)
        for axis in zip(kernel, stride, padding, input_shape[1:], shape[1:], strict=True)
    ]
    divisors = {rows * columns for rows in counted[0] for columns in counted[1]}
    override = arguments.get("divisor_override")
    if override is None and len(divisors) > 1:
        refuse(
            name,
            kind,
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


def max_pool(name: str, kind: str, arguments: Mapping[str, Any], *, is_signal: bool) -> MaxPool:
    """Return the pooling with ``arguments``, named in `MAX_POOL_ARGUMENTS`, or `refuse` it."""
    if arguments.get("return_indices"):
        refuse(name, kind, "returns indices", supported="max pooling without indices")
    kernel = _pair(arguments["kernel_size"], is_signal, 1)
    stride = _pair(arguments.get("stride") or arguments["kernel_size"], is_signal, 1)
    dilation = _pair(arguments.get("dilation") or 1, is_signal, 1)
    return MaxPool(kernel, stride, _pair(arguments.get("padding") or 0, is_signal, 0), dilation)


def adaptive_pool(name: str, kind: str, input_shape: Shape, shape: Shape, *, is_average: bool) -> AveragePool | MaxPool:
    """Return the pooling to ``shape`` with nonoverlapping windows, or `refuse` it."""
    if len(input_shape) != 3 or any(before % after for before, after in zip(input_shape[1:], shape[1:], strict=True)):
        refuse(
            name,
            kind,
            f"gives {shape[1:]} for {input_shape[1:]}",
            supported="sizes that divide the size of the map, or multiples of it",
        )
    kernel = (input_shape[1] // shape[1], input_shape[2] // shape[2])
    if is_average:
        return AveragePool(kernel, kernel, (0, 0), 1 / (kernel[0] * kernel[1]))
    return MaxPool(kernel, kernel, (0, 0), (1, 1))


def convolution(name: str, kind: str, arguments: Mapping[str, Any], *, is_signal: bool) -> Conv:
    """Return the convolution with ``arguments``, named in `CONVOLUTION_ARGUMENTS`."""
    weight, bias = _array(arguments["weight"]), arguments.get("bias")
    weight = weight[:, :, None] if is_signal else weight
    dilation, padding = _pair(arguments.get("dilation") or 1, is_signal, 1), arguments.get("padding") or 0
    if padding == "same":
        total = [gap * (kernel - 1) for gap, kernel in zip(dilation, weight.shape[2:], strict=True)]
        start, end = [rows // 2 for rows in total], [rows - rows // 2 for rows in total]
    else:
        start = end = list(_pair(0 if padding == "valid" else padding, is_signal, 0))
    weight, dilated, padded = equally_padded(weight, dilation, start, end)
    return Conv(
        weight=weight,
        bias=None if bias is None else _array(bias),
        stride=_pair(arguments.get("stride") or 1, is_signal, 1),
        padding=_pair(padded, is_signal, 0),
        dilation=_pair(dilated, is_signal, 1),
        groups=arguments.get("groups") or 1,
    )


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


def dense(name: str, kind: str, weight: Tensor, bias: Tensor | None, input_shape: Shape) -> Dense:
    """Return the dense layer of ``weight``, ``(N_out, N_in)``, or ``(N_in,)`` for one output; or `refuse` it."""
    if len(input_shape) != 1:
        refuse(name, kind, "is applied to feature maps", supported="Linear after Flatten")
    weights = _array(weight).reshape(-1, *input_shape)
    return Dense(weights, None if bias is None else np.broadcast_to(_array(bias), len(weights)))


def batch_norm(name: str, kind: str, arguments: Mapping[str, Any]) -> Affine:
    """Return the batch normalization with ``arguments``, named in `BATCH_NORM_ARGUMENTS`, or `refuse` it."""
    mean, variance, gamma, beta = map(arguments.get, ("running_mean", "running_var", "weight", "bias"))
    if mean is None or variance is None:
        refuse(name, kind, "has no running statistics; train with track_running_stats=True")
    gain = 1 / np.sqrt(_array(variance) + arguments.get("eps", 1e-5))
    shift = -_array(mean) * gain
    if gamma is not None:
        gain, shift = gain * _array(gamma), shift * _array(gamma)
    return Affine(gain, shift if beta is None else shift + _array(beta))


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` is one of ``kinds`` and computes the same; fake-quantized layers, for example, do not."""
    return any(
        isinstance(module, kind) and all(getattr(type(module), each) is getattr(kind, each) for each in _methods(kind))
        for kind in kinds
    )


def _methods(kind: type[nn.Module]) -> tuple[str, ...]:
    """The methods that compute, which a subclass may override."""
    return ("forward", "_conv_forward") if kind in _CONVOLUTIONS else ("forward",)


def _is_normalize(module: nn.Module) -> bool:
    """Detected by name: importing torchvision takes a second, and a model that uses it has already imported it."""
    return type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision.transforms")


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    return parameter.detach().cpu().to(torch.float64).numpy()


def _pair(value: Any, is_signal: bool, along_height: int) -> Pair:
    """(vertical, horizontal) from a number or a pair; (``along_height``, horizontal) for a signal's layer."""
    numbers = [int(value)] * 2 if isinstance(value, int) else [int(number) for number in value]
    return (along_height, numbers[-1]) if is_signal else (numbers[0], numbers[-1])
