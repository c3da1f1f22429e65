"""Modules and functions of torch -> operations; all others are refused.

======================================================  =====================
module                                                  operation
======================================================  =====================
``Conv1d``, ``Conv2d``, ``Linear``                      `Conv`, `Dense`
``BatchNorm1d``, ``BatchNorm2d``, ``SyncBatchNorm``     `Affine`
torchvision's ``Normalize``                             `Affine`
``ReLU``, ``ReLU6``, ``Hardtanh``, ``qcfs.Qcfs``        `Relu`
``Threshold(0, 0)``                                     `Relu`
``from_nir.FiringRate``                                 `Relu`
``LeakyReLU``, ``RReLU``, ``PReLU``                     `LeakyRelu`
``AvgPool1d/2d``, ``AdaptiveAvgPool1d/2d``              `AveragePool`
``MaxPool1d/2d``, ``AdaptiveMaxPool1d/2d``              `MaxPool`
``Softmax``, ``LogSoftmax``, ``Sigmoid``,
``LogSigmoid``, ``Tanh``, at the end                    `Ending`
======================================================  =====================

A module is read as the function that it calls, with its attributes as arguments. Rearrangements without computation
(flatten, slices, channel shuffle, zero padding) are a `Move`, made by `reader.py`, as are the operations of several
tensors. Signals ``(C, L)`` are maps ``(C, 1, L)``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.arrays import Array, Shape
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.frontend.from_nir import FiringRate
from loihi_convert.frontend.from_torch.decompositions import repeated_number
from loihi_convert.frontend.from_torch.pools import adaptive_pool, average_pool, interpolated, max_pool, pair
from loihi_convert.frontend.operations import BEFORE_QUANTIZATION, Affine, Ending, LeakyRelu, Operation, Relu, refuse
from loihi_convert.ir.synapse import Conv, Dense

DROPOUTS: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
MOVES: Final = (
    nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelUnshuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d,
    nn.ConstantPad2d,
)  # fmt: skip
"""Modules that only rearrange numbers, or pad with zeros."""

_CONVOLUTION: Final = ("weight", "bias", "stride", "padding", "dilation", "groups")
_AVERAGE_POOL: Final = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAX_POOL: Final = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("conv1d", "conv2d"), _CONVOLUTION),
    "linear": ("weight", "bias"),
    **dict.fromkeys(("matmul", "mm"), ("other",)),
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    **dict.fromkeys(("clamp", "clip", "clamp_min"), ("min", "max")),
    "clamp_max": ("max",),
    "hardtanh": ("min_val", "max_val"),
    "threshold": ("threshold", "value"),
    "leaky_relu": ("negative_slope",),
    "rrelu": ("lower", "upper", "training"),
    "prelu": ("weight",),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _AVERAGE_POOL),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _MAX_POOL),
    **dict.fromkeys(("softmax", "log_softmax"), ("dim",)),
    "interpolate": ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
}
"""The arguments after the tensor of functions that `operation_of` supports, if it reads any."""

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d)
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_FUNCTIONS: Final[Mapping[type[nn.Module], str]] = {
    nn.ReLU: "relu",
    # Includes ReLU6, a subclass.
    nn.Hardtanh: "hardtanh",
    nn.Threshold: "threshold",
    nn.LeakyReLU: "leaky_relu",
    nn.RReLU: "rrelu",
    nn.PReLU: "prelu",
    nn.AvgPool1d: "avg_pool1d",
    nn.AvgPool2d: "avg_pool2d",
    nn.MaxPool1d: "max_pool1d",
    nn.MaxPool2d: "max_pool2d",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveMaxPool1d: "adaptive_max_pool1d",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool2d",
    nn.Upsample: "interpolate",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "logsigmoid",
    nn.Tanh: "tanh",
}
"""The function that a module calls, with its attributes as arguments."""


def is_one_operation(module: nn.Module) -> bool:
    """Return whether `operation_of_module` supports ``module`` although torch.fx would step into it."""
    return (
        isinstance(module, Qcfs | FiringRate)
        or _is_normalize(module)
        or _is_plain(module, *_CONVOLUTIONS, *_NORMS, nn.Linear)
    )


def operation_of_module(module: nn.Module, before: Shape, after: Shape, rank: int) -> Operation:
    """Return the operation of ``module``, or `refuse` it; shapes and rank as in `operation_of`."""
    if re.match(r"torch\..*(quantized|\.qat\.)", type(module).__module__):
        refuse("is quantized", supported="floating point", hint=BEFORE_QUANTIZATION)
    if isinstance(module, Qcfs):
        return Relu(_array(module.thresholds), module.levels)
    if isinstance(module, FiringRate):
        return Relu(np.ones(after[0]), ceiling=1.0)
    if _is_normalize(module):
        mean, std = (np.array(getattr(module, values), np.float64).reshape(-1) for values in ("mean", "std"))
        return Affine(np.ones(before[0]) / std, -mean / std * np.ones(before[0]))
    function = next((name for kind, name in _FUNCTIONS.items() if isinstance(module, kind)), "")
    if _is_plain(module, *_CONVOLUTIONS):
        if module.padding_mode != "zeros":
            refuse(
                f"pads with mode {module.padding_mode}, padding {module.padding}",
                supported="zero padding",
                hint="Train with zeros.",
            )
        function = "conv1d" if isinstance(module, nn.Conv1d) else "conv2d"
    elif _is_plain(module, *_NORMS):
        function = "batch_norm"
    elif _is_plain(module, nn.Linear):
        function = "linear"
    given = {argument: getattr(module, argument, None) for argument in ARGUMENTS.get(function, ())}
    return operation_of(function, given, before, after, rank)


def operation_of(function: str, given: Mapping[str, Any], before: Shape, after: Shape, rank: int) -> Operation:
    """Return the operation of a function of torch.nn.functional, or `refuse` it.

    Parameters
    ----------
    function
        Its name, without the underscore of the function that works in place.
    given
        Its `ARGUMENTS`, by name; tensors must not depend on the image.
    before, after
        Shapes of its input and output, without the batch axis: ``(C, H, W)`` or ``(N,)``.
    rank
        The number of axes of its input in torch.
    """
    is_signal = function.endswith("1d")
    if is_signal and len(before) != 3:
        refuse(f"is applied to a tensor of shape {before}", supported="signals (C, L)")
    if function in ("conv1d", "conv2d"):
        return _convolution(given, is_signal=is_signal)
    if function == "linear":
        return _dense(given["weight"], given.get("bias"), before)
    if function in ("matmul", "mm"):
        (weight,) = given.values()
        if weight.ndim > 2:
            refuse(f"takes a tensor of shape {tuple(weight.shape)}", supported="a matrix")
        return _dense(weight.T if weight.ndim == 2 else weight, None, before)
    if function == "batch_norm":
        return _batch_norm(given)
    if function == "relu":
        return Relu()
    if function == "relu6":
        return Relu(ceiling=6.0)
    if function in ("clamp", "clip", "clamp_min", "clamp_max"):
        return _clamp(_bound(given.get("min")), _bound(given.get("max")))
    if function == "hardtanh":
        return _clamp(given.get("min_val", -1), given.get("max_val", 1))
    if function == "threshold":
        least, value = given["threshold"], given["value"]
        if least != 0 or value != 0:
            refuse(f"puts {value} in place of numbers up to {least}", supported="0 in place of numbers up to 0")
        return Relu()
    if function in ("abs", "absolute"):
        return LeakyRelu(np.array([-1.0]))
    if function == "leaky_relu":
        return LeakyRelu(np.array([given.get("negative_slope", 0.01)]))
    if function == "rrelu":
        if given.get("training"):
            refuse("is not switched off in eval mode; pass training=self.training")
        return LeakyRelu(np.array([(given.get("lower", 1 / 8) + given.get("upper", 1 / 3)) / 2]))
    if function == "prelu":
        return LeakyRelu(_array(given["weight"]))
    if function in ("neg", "negative"):
        return Affine(-np.ones(before[0]), np.zeros(before[0]))
    if function in ("avg_pool1d", "avg_pool2d"):
        return average_pool(given, before, after, is_signal=is_signal)
    if function in ("max_pool1d", "max_pool2d"):
        return max_pool(given, before, after, is_signal=is_signal)
    if function in ("adaptive_avg_pool1d", "adaptive_avg_pool2d"):
        return adaptive_pool(before, after, is_average=True)
    if function in ("adaptive_max_pool1d", "adaptive_max_pool2d"):
        return adaptive_pool(before, after, is_average=False)
    if function == "interpolate" and all(map(operator.ge, before, after)):
        return interpolated(given, before, after)
    if function in ("softmax", "log_softmax"):
        # As torch chooses it.
        axis = int(rank != 3) if given.get("dim") is None else given["dim"]
        # A signal (C, L) counts as a map (C, 1, L).
        sizes = (1, before[0], before[-1]) if rank == 3 else (1, *before)
        if not isinstance(axis, int) or axis % rank == 0 or sizes[axis % rank] != math.prod(sizes):
            over = f"runs over axis {given.get('dim')}" + (f" of {sizes[1:]}" if rank > 2 else "")
            hint = "End with a Linear layer, or with global average pooling." if (axis, rank) == (1, 4) else ""
            refuse(over, supported="the class axis; all others but that of the batch have length 1", hint=hint)
        return Ending()
    if function in ("sigmoid", "logsigmoid", "tanh"):
        return Ending()
    return refuse("has no spiking equivalent here")


def _bound(given: Any) -> Any:
    """A bound of a clamp: a number, also as a tensor that repeats it, or None."""
    if not isinstance(given, Tensor):
        return given
    if (bound := repeated_number(given)) is None:
        refuse("clips to bounds that differ between numbers", supported="one bound for all")
    return bound


def _clamp(low: Any, high: Any) -> Relu:
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    if not all(isinstance(bound, int | float) for bound in (low, high)) or not low < high:
        refuse(f"clips to {low}..{high}", supported="numbers, the lower one first")
    return Relu(floor=float(low), ceiling=float(high))


def _convolution(given: Mapping[str, Any], *, is_signal: bool) -> Conv:
    weight, bias = _array(given["weight"]), given.get("bias")
    weight = weight[:, :, None] if is_signal else weight
    dilation, padding = pair(given.get("dilation") or 1, is_signal, 1), given.get("padding") or 0
    if padding == "same":
        total = [gap * (kernel - 1) for gap, kernel in zip(dilation, weight.shape[2:], strict=True)]
        start, end = [rows // 2 for rows in total], [rows - rows // 2 for rows in total]
    else:
        start = end = list(pair(0 if padding == "valid" else padding, is_signal, 0))
    weight, dilated, padded = equally_padded(weight, dilation, start, end)
    return Conv(
        weight=weight,
        bias=None if bias is None else _array(bias),
        stride=pair(given.get("stride") or 1, is_signal, 1),
        padding=pair(padded, is_signal, 0),
        dilation=pair(dilated, is_signal, 1),
        groups=given.get("groups") or 1,
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


def _dense(weight: Tensor, bias: Tensor | None, before: Shape) -> Dense:
    """The dense layer of ``weight``, ``(N_out, N_in)``, or ``(N_in,)`` for one output."""
    if len(before) != 1:
        refuse("is applied to feature maps", supported="Linear after Flatten, or of channels in the last axis")
    weights = _array(weight).reshape(-1, *before)
    return Dense(weights, None if bias is None else np.broadcast_to(_array(bias), len(weights)))


def _batch_norm(given: Mapping[str, Any]) -> Affine:
    mean, variance, gamma, beta = map(given.get, ("running_mean", "running_var", "weight", "bias"))
    if given.get("training"):
        refuse(
            "takes its statistics from the batch",
            supported="running statistics, in eval mode",
            hint="Let eval mode switch it: F.batch_norm needs training=self.training, and running statistics.",
        )
    if mean is None or variance is None:
        refuse("has no running statistics; train with track_running_stats=True")
    gain = 1 / np.sqrt(_array(variance) + given.get("eps", 1e-5))
    shift = -_array(mean) * gain
    if gamma is not None:
        gain, shift = gain * _array(gamma), shift * _array(gamma)
    return Affine(gain, shift if beta is None else shift + _array(beta))


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` is one of ``kinds`` and computes the same; fake-quantized layers, for example, do not."""
    methods = ("forward", "_conv_forward")
    return any(
        isinstance(module, kind)
        and all(getattr(type(module), each, None) is getattr(kind, each, None) for each in methods)
        for kind in kinds
    )


def _is_normalize(module: nn.Module) -> bool:
    """Detected by name: importing torchvision takes a second, and a model that uses it has already imported it."""
    return type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision.transforms")


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    if not isinstance(parameter, Tensor):
        # A quantized tensor of Brevitas, for example, has tensors of its own kind.
        refuse(f"has weights of type {type(parameter).__name__}", supported="torch.Tensor", hint=BEFORE_QUANTIZATION)
    return parameter.detach().cpu().to(torch.float64).numpy()
