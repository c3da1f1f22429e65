"""What the tensors of a recorded run hold: numbers of nodes of the graph, in any order, or functions of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Shape
from loihi_convert.reading.graph import refuse

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
        `elementwise.POINTS`: ``(P, ...)``, broadcastable to ``(P, *shape[1:])``. Only of the nearest nodes.
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
        own = [] if self.is_pending or self.node is None or self.node in self.probes else [self.node]
        return [*own, *self.probes]

    def copied(self) -> Value:
        """Return the same numbers, of another tensor."""
        return replace(self)

    @property
    def is_pending(self) -> bool:
        """Whether no node holds these numbers yet."""
        return self.unfit is not None


@dataclass(eq=False)
class Lost:
    """A tensor that depends on an obstacle, and whose numbers cannot be taken as those of a node."""

    node: int


def counted(shape: Any, start: int = 0) -> Tensor:
    """Return ``start + 1, start + 2, ...`` in ``shape``, float64."""
    return torch.arange(start + 1, start + math.prod(shape) + 1, dtype=torch.float64).reshape(tuple(shape))


def map_shape(shape: Any) -> Shape:
    """Return the shape of one image of a tensor.

    A signal ``(C, L)`` counts as a map ``(C, 1, L)``, a number as one, and ``(1, C, H, W)``, as of an ONNX file for one
    image, as a map.
    """
    one = tuple(shape[1:]) or (1,)
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
