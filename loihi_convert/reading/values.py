"""What the tensors of a recorded run hold: numbers of nodes of the graph, in any order, or functions of each of them.

Functions are not recognized, but evaluated at a few `POINTS` and `fitted`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.reading.graph import LARGEST_PADDING, PADDINGS, Affine, LeakyRelu, Relu, refuse

IMAGES: Final = 2
"""Images of the recorded run: two, so that mixing them is noticed."""


@dataclass(eq=False)
class Value:
    """A tensor that depends on the image, as numbers of the graph's nodes.

    Parameters
    ----------
    shape
        Its shape, images first.
    node
        The index of the node whose numbers these are; None if they are those of several.
    positions
        Which of the node's numbers, float64 of ``shape``: counted from 1 over all images; 0 is a zero. Of several
        nodes, counted over all nodes. None: all, in order.
    probes
        By node: the function of its numbers that the value is, each at the same place, evaluated at
        `POINTS`: ``(P, ...)``, broadcastable to ``(P, *shape[1:])``. Only of the nearest nodes.
    unfit
        Why the function of ``node`` is not an operation: the value is then known only by its ``probes``.
    after
        The module that it comes from, for names.
    """

    shape: torch.Size
    node: int | None
    positions: Tensor | None = None
    probes: dict[int, Tensor] = field(default_factory=dict)
    unfit: UnsupportedModelError | None = None
    after: str = ""

    @property
    def roots(self) -> list[int]:
        """The nodes of which this is a known function, the nearest first."""
        own = [] if self.unfit is not None or self.node is None or self.node in self.probes else [self.node]
        return [*own, *self.probes]


@dataclass(eq=False)
class Lost:
    """A tensor that depends on an obstacle, and whose numbers cannot be taken as those of a node."""

    node: int


def counted(shape: Any, start: int = 0) -> Tensor:
    """Return ``start + 1, start + 2, ...`` in ``shape``, float64."""
    return torch.arange(start + 1, start + math.prod(shape) + 1, dtype=torch.float64).reshape(tuple(shape))


def map_shape(shape: Any) -> Shape:
    """Return the shape of one image of a tensor; that of a signal ``(C, L)`` is ``(C, 1, L)``."""
    one = tuple(shape[1:]) or (1,)
    # As of an ONNX file for one image.
    one = one[1:] if len(one) == 4 and one[0] == 1 else one
    return (one[0], 1, one[1]) if len(one) == 2 else one


def places(positions: Tensor, count: int) -> np.ndarray[Any, Any] | None:
    """Return where each number of an image is among the node's ``count``, int64 from 0, -1 for a zero.

    None if images are mixed, or rearranged differently.
    """
    numbers = positions.numpy().astype(np.int64)
    if numbers.shape[:1] != (IMAGES,):
        return None
    first, second = numbers
    if not np.array_equal(np.where(first > 0, first + count, 0), second) or first.max(initial=0) > count:
        return None
    return np.asarray(first - 1)


def mapped(function: Any, tree: Any) -> Any:
    """Return ``tree``, nested lists, tuples and dicts, with ``function`` of each leaf."""
    if isinstance(tree, list | tuple):
        return [mapped(function, each) for each in tree]
    if isinstance(tree, dict):
        return {name: mapped(function, each) for name, each in tree.items()}
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of ``tree`` in order."""
    found: list[Any] = []
    mapped(found.append, tree)
    return found


_RESHAPES: Final = ("view", "_unsafe_view", "_reshape_alias")
_NAMED: Final = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking")


def evaluated(
    call: Any,
    args: Any,
    kwargs: Any,
    numbers: Callable[[Value], Tensor],
    *,
    constants: Callable[[Tensor], Tensor] | None = None,
    is_probe: bool = False,
) -> Any:
    """Return the result of ``call`` in float64, with ``numbers`` in place of values, and maybe others for constants.

    ``is_probe``: the first axis of the numbers counts points, not images; constants must be the same for all images.
    """

    def given(each: Any) -> Any:
        if isinstance(each, Value):
            return numbers(each)
        if not isinstance(each, Tensor):
            return each
        if is_probe and each.ndim == len(call.shape) and len(each) == IMAGES:
            if not torch.equal(each[0], each[1]):
                refuse(
                    "has a constant that differs between images",
                    supported="the same for all images",
                    hint="If it is noise, add it only if self.training.",
                )
            each = each[:1]
        if not each.is_floating_point():
            return each
        return each.double().cpu() if constants is None else constants(each.double().cpu())

    args = mapped(given, args)
    if call.name == "_to_copy":
        return args[0].double()
    if call.name in _RESHAPES:
        return args[0].reshape(args[1])
    kept = {name: each for name, each in kwargs.items() if name not in _NAMED}
    found = call.target(*args, **mapped(given, kept))
    return found[0] if isinstance(found, tuple) and call.is_elementwise else found


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
