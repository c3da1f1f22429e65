"""Functions of each number alone: not recognized, but evaluated at a few points and fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.reading.graph import LARGEST_PADDING, PADDINGS, Affine, LeakyRelu, Relu, refuse
from loihi_convert.reading.values import map_shape

_FAR: Final = 2.0**100
"""So far from 0 that only the factor, or the bound, of a function is left: ``f(_FAR) / _FAR`` is exactly its factor."""

_NEAR: Final = [number * 10.0**power for power in range(-4, 5) for number in (1, 2.5, 6.1)]

POINTS: Final = torch.tensor([-_FAR, *(-each for each in reversed(_NEAR)), 0, *_NEAR, _FAR], dtype=torch.float64)

_TOLERANCE: Final = 1e-9

Fitted = Affine | Relu | LeakyRelu


def fitted(values: Tensor) -> Fitted | None:
    """Return the operation that has ``values`` at `POINTS`, ``(P, ...)``; None if it is none of these.

    The arrays of an `Affine` or `LeakyRelu` have the shape ``values.shape[1:]``.
    """
    values = values.double()
    points = POINTS.reshape(-1, *(1,) * (values.ndim - 1))
    first, last, zero = values[0], values[-1], values[len(POINTS) // 2]

    def is_same(guess: Tensor) -> bool:
        return torch.allclose(guess, values, rtol=_TOLERANCE, atol=_TOLERANCE)

    if not values.isfinite().all():
        return None
    if is_same(last / _FAR * points + zero):
        # Not -0.0.
        return Affine((last / _FAR).numpy() + 0.0, zero.numpy() + 0.0)
    if is_same(points.clamp(min=0) + first / -_FAR * points.clamp(max=0)) and bool((first != 0).any()):
        return LeakyRelu((first / -_FAR).numpy())
    if is_same(points.maximum(first).minimum(last)):
        floor, ceiling = _only(first), _only(last)
        if floor is None or ceiling is None:
            refuse("clips to bounds that differ between numbers", supported="one bound for all")
        return Relu(floor=-np.inf if floor <= -_FAR else floor, ceiling=np.inf if ceiling >= _FAR else ceiling)
    return None


def _only(numbers: Tensor) -> float | None:
    return float(numbers.flatten()[0]) if bool((numbers == numbers.flatten()[0]).all()) else None


def per_channel(numbers: Array, shape: Any, order: tuple[Shape, Array] | None = None) -> Array:
    """Return ``numbers``, broadcastable to ``shape[1:]``, as ``(C,)`` if each channel has one number, else as a map.

    ``order``: the shape of the map, and the place in it of each number of ``shape[1:]``; None: they are in order.
    """
    whole = np.broadcast_to(numbers, tuple(shape[1:]) or (1,))
    if order is not None:
        maps, places = order
        ordered = np.empty(int(np.prod(maps)))
        ordered[places.ravel()] = whole.ravel()
        whole = ordered.reshape(maps)
    else:
        whole = whole.reshape(map_shape(shape))
    rows = whole.reshape(len(whole), -1)
    is_one = np.array_equal(rows, np.broadcast_to(rows[:, :1], rows.shape), equal_nan=True)
    return rows[:, 0].copy() if is_one else whole.copy()


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
        refuse(f"pads with {value}", supported=PADDINGS)
    return torch.constant_pad_nd(x - float(value), pad) + float(value)


def _rrelu(
    depends: Depends, x: Tensor, noise: Tensor, low: float = 1 / 8, high: float = 1 / 3, training: bool = False, *_: Any
) -> Any:
    return NotImplemented if training else torch.nn.functional.leaky_relu(x, (low + high) / 2)


def _rrelu_and_noise(depends: Depends, x: Tensor, noise: Tensor, *rest: Any) -> Any:
    found = _rrelu(depends, x, noise, *rest)
    return found if found is NotImplemented else (found, noise)


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
