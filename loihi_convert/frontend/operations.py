"""What the modules of a CNN compute, as operations that can become a spiking network; the rest is refused by name.

====================================================  =====================
module                                                operation
====================================================  =====================
``Conv2d``, ``Linear``                                `Conv`, `Dense`
``BatchNorm1d``, ``BatchNorm2d``, ``SyncBatchNorm``    `Affine`
torchvision's ``Normalize``                           `Affine`
``ReLU``, our ``Qcfs``                                `Relu`
``AvgPool2d``                                         `Pool`
``AdaptiveAvgPool2d(1)``                              `Pool` of the whole map
``Flatten``                                           `Flatten`
``Softmax``, ``LogSoftmax``                           `Softmax`
Dropout, ``Identity``                                 none: nothing at inference
====================================================  =====================

Functions and methods, and the order of operations, are read by `chain.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ir.synapse import Conv, Dense

SUPPORTED: Final = (
    "Conv2d, Linear, BatchNorm1d/2d, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, Identity, "
    "+ - * / by constants, a last Softmax"
)

_ADVICES: Final = (
    ("Train with AvgPool2d or a strided convolution.", "MaxPool2d AdaptiveMaxPool2d LPPool2d"),
    ("Residual connections are not supported; train without them.", "add"),
    ("Branches are not supported; train a plain chain.", "cat stack concat chunk split"),
    ("Train with ReLU.", "GELU LeakyReLU PReLU ELU SELU CELU SiLU Mish ReLU6 Hardswish Hardtanh Softplus Sigmoid Tanh"),
    ("Attention by gates is not supported; train without it.", "mul"),
    ("Train with BatchNorm2d, or without.", "GroupNorm LayerNorm InstanceNorm2d LocalResponseNorm"),
    ("A classifier needs no upsampling; leave it out.", "ConvTranspose2d Upsample Interpolate"),
)
# The module LeakyReLU and the function leaky_relu get the same advice.
_ADVICE: Final = {kind.lower(): advice for advice, kinds in _ADVICES for kind in kinds.split()}
# Functions that are given their weights; the modules of these names (Conv2d, Linear) hold them.
_FUNCTIONS_OF_WEIGHTS: Final = ("conv2d", "linear", "batch_norm")
NOTHING: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
"""Modules that compute nothing at inference."""

AVG_POOL_ARGUMENTS: Final = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_WITH_WEIGHTS: Final = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = gain x + shift`` per channel: batch normalization at inference; each float64 ``(C,)``."""

    gain: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Relu:
    """``y = max(x, 0)``, or `qcfs.Qcfs`, which has ``threshold``, float64 ``(C,)``, and ``levels``."""

    threshold: Array | None = None
    levels: int | None = None


@dataclass(frozen=True)
class Pool:
    """Average over windows of ``size`` that tile the input; rows and columns that fill no window are dropped."""

    size: Pair


@dataclass(frozen=True)
class Flatten:
    """From ``(C, H, W)`` to one axis, in that order."""


@dataclass(frozen=True)
class Softmax:
    """Softmax or its logarithm over the classes: keeps their order."""


Operation = Conv | Dense | Affine | Relu | Pool | Flatten | Softmax


def refuse(name: str, kind: str, why: str, *, supported: str = SUPPORTED, hint: str = "") -> NoReturn:
    """Raise an `UnsupportedModelError`: where, what was found, what is supported, what to do."""
    if not hint and kind in _FUNCTIONS_OF_WEIGHTS:
        hint = "Use the modules nn.Conv2d, nn.Linear and nn.BatchNorm2d, which hold their weights."
    hint = hint or _ADVICE.get(kind.lower().replace("_", ""), "")
    raise UnsupportedModelError(f"{kind} {why}", where=name, expected=f"supported: {supported}", hint=hint)


def is_one_operation(module: nn.Module) -> bool:
    """Whether `operation_of_module` knows ``module`` though torch.fx would step into it."""
    return isinstance(module, Qcfs) or _is_normalize(module) or _is_plain(module, *_WITH_WEIGHTS)


def operation_of_module(name: str, kind: str, module: nn.Module, input_shape: Shape) -> Operation:
    """Return what ``module`` does with a tensor of ``input_shape``, without the batch axis; or `refuse` it."""
    if _is_plain(module, nn.Conv2d):
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros":
            refuse(name, kind, f"pads with mode {module.padding_mode}, padding {module.padding}", supported="zeros")
        return Conv(
            weight=_array(module.weight),
            bias=None if module.bias is None else _array(module.bias),
            stride=_pair(module.stride),
            padding=_padding(name, kind, module),
            dilation=_pair(module.dilation),
            groups=module.groups,
        )
    if _is_plain(module, nn.Linear):
        assert isinstance(module, nn.Linear)
        if len(input_shape) != 1:
            refuse(name, kind, "is applied to feature maps", supported="Linear after Flatten")
        return Dense(_array(module.weight), None if module.bias is None else _array(module.bias))
    if _is_plain(module, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm):
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
        return _batch_norm(name, kind, module)
    if isinstance(module, nn.ReLU):
        return Relu()
    if isinstance(module, Qcfs):
        return Relu(_array(module.thresholds), module.levels)
    if isinstance(module, nn.AvgPool2d):
        return average_pool(name, kind, {argument: getattr(module, argument) for argument in AVG_POOL_ARGUMENTS})
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return adaptive_pool(name, kind, module.output_size, input_shape)
    if isinstance(module, nn.Flatten):
        return Flatten()
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return softmax(name, kind, module.dim)
    if _is_normalize(module):
        mean, std = (np.array(getattr(module, values), np.float64).reshape(-1) for values in ("mean", "std"))
        return Affine(np.ones(input_shape[0]) / std, -mean / std * np.ones(input_shape[0]))
    refuse(name, kind, "has no spiking equivalent here")


def softmax(name: str, kind: str, axis: Any) -> Softmax:
    """Return a softmax over ``axis``, or `refuse` it."""
    if axis not in (1, -1, None):
        refuse(name, kind, f"runs over axis {axis}", supported="the axis of the classes, 1")
    return Softmax()


def _padding(name: str, kind: str, module: nn.Conv2d) -> Pair:
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        total = [dilation * (kernel - 1) for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)]
        if any(rows % 2 for rows in total):
            refuse(
                name, kind, f"pads kernel {module.kernel_size} to the same size by one more at one side; use odd sizes"
            )
        return (total[0] // 2, total[1] // 2)
    return _pair(module.padding)


def _batch_norm(name: str, kind: str, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm) -> Affine:
    if module.running_mean is None or module.running_var is None:
        refuse(name, kind, "keeps no running statistics; train with track_running_stats=True")
    mean, variance = _array(module.running_mean), _array(module.running_var)
    gain = 1 / np.sqrt(variance + module.eps)
    shift = -mean * gain
    if module.affine:
        gamma, beta = _array(module.weight), _array(module.bias)
        return Affine(gain * gamma, shift * gamma + beta)
    return Affine(gain, shift)


def average_pool(name: str, kind: str, arguments: Mapping[str, Any]) -> Pool:
    """Return the pooling that has ``arguments``, of `AVG_POOL_ARGUMENTS`, or `refuse` it."""
    kernel = _pair(arguments["kernel_size"])
    stride, padding = arguments.get("stride") or kernel, _pair(arguments.get("padding") or 0)
    ceil_mode = bool(arguments.get("ceil_mode"))
    if _pair(stride) != kernel or padding != (0, 0) or ceil_mode or arguments.get("divisor_override") is not None:
        refuse(
            name,
            kind,
            f"has kernel {kernel}, stride {_pair(stride)}, padding {padding}, ceil_mode {ceil_mode}",
            supported="kernel = stride, no padding, ceil_mode off and no divisor_override",
        )
    return Pool(kernel)


def adaptive_pool(name: str, kind: str, output_size: Any, input_shape: Shape) -> Pool:
    """Return the pooling of whole maps, or `refuse` another ``output_size``."""
    if len(input_shape) != 3 or output_size not in (1, (1, 1), [1, 1]):
        refuse(name, kind, f"has output size {output_size}", supported="1, the average of the whole map")
    return Pool((input_shape[1], input_shape[2]))


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` is one of ``kinds``, and computes what that computes: fake-quantized layers do not."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_normalize(module: nn.Module) -> bool:
    """By its name: importing torchvision takes a second, and a model that holds one has imported it."""
    return type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision.transforms")


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    return parameter.detach().cpu().to(torch.float64).numpy()


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
