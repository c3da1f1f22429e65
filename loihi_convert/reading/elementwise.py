"""Functions of each number alone: not recognized, but evaluated at a few points and fitted."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.reading.operations import Affine, LeakyRelu, Relu, refuse
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
