"""Operations in words of simpler ones: to support one, add a line to `SIMPLER`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loihi_convert.reading.operations import LARGEST_PADDING, PADDINGS, refuse

Depends = Callable[[Any], bool]
"""Whether a tensor depends on the image."""


def _extreme(depends: Depends, a: Tensor, b: Tensor, sign: int) -> Any:
    """max(a, b) = b + relu(a - b); a clamp, if b is one number."""
    if not depends(a):
        a, b = b, a
    if depends(b):
        return b + torch.relu(a - b) if sign > 0 else b - torch.relu(b - a)
    if b.numel() and bool((b == b.flatten()[0]).all()):
        bound = b.flatten()[0].item()
        return torch.clamp(a, min=bound) if sign > 0 else torch.clamp(a, max=bound)
    return torch.relu(a - b) + b if sign > 0 else b - torch.relu(b - a)


def _padded(depends: Depends, x: Tensor, pad: Any, value: float = 0) -> Any:
    """Padding with zeros of what is shifted; with -inf, see `computing`."""
    if value in (0, -math.inf):
        return NotImplemented
    if not abs(value) <= LARGEST_PADDING:
        refuse(f"pads with {value}", supported=PADDINGS, hint="Train with zeros.")
    return torch.constant_pad_nd(x - float(value), pad) + float(value)


def _rrelu(
    depends: Depends, x: Tensor, noise: Tensor, low: float = 1 / 8, high: float = 1 / 3, training: bool = False, *_: Any
) -> Any:
    return NotImplemented if training else torch.nn.functional.leaky_relu(x, (low + high) / 2)


def _rrelu_and_noise(depends: Depends, x: Tensor, noise: Tensor, *rest: Any) -> Any:
    found = _rrelu(depends, x, noise, *rest)
    return found if found is NotImplemented else (found, noise)


def _product_and_sum(
    depends: Depends, y: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    return alpha * torch.mm(x, weight) + beta * y if depends(y) else NotImplemented


SIMPLER: Final[Mapping[str, Callable[..., Any]]] = {
    "hardsigmoid": lambda _, x: torch.clamp(x / 6 + 0.5, 0, 1),
    "softshrink": lambda _, x, bound=0.5: torch.relu(x - bound) - torch.relu(-bound - x),
    "maximum": lambda depends, a, b: _extreme(depends, a, b, 1),
    "minimum": lambda depends, a, b: _extreme(depends, a, b, -1),
    "_prelu_kernel": lambda _, x, slope: torch.where(x > 0, x, slope * x),
    "constant_pad_nd": _padded,
    "rrelu_with_noise": _rrelu,
    "rrelu_with_noise_functional": _rrelu_and_noise,
    "square": lambda _, x: x * x,
    "addmm": lambda depends, y, x, w, *, beta=1, alpha=1: (
        alpha * torch.mm(x, w) + beta * y if depends(y) else NotImplemented
    ),
    "fill": lambda depends, x, value: NotImplemented if depends(value) else torch.zeros_like(x) + value,
    "zero": lambda _, x: torch.zeros_like(x),
}
"""By ATen's name: the result by other operations, or ``NotImplemented``; the first argument tells what depends on the
image."""
