"""Functions of torch that the tracer records as calls of simpler ones.

=====================================  ===============================================================================
function                               calls
=====================================  ===============================================================================
``max(x, dim)``                        ``amax``, ``argmax``
max pooling with ``return_indices``    the same without, and the indices
``stack(tensors, dim)``                ``unsqueeze`` of each, ``cat``
``mean`` or ``sum`` over that ``dim``  ``+`` of the tensors, ``/`` their number
``amax`` or ``max`` over that ``dim``  ``maximum`` of the tensors
``amin`` over that ``dim``             ``minimum`` of the tensors
the same of ``(N, C, k, H, W)``        the same of its ``k`` parts
``cat`` of tensors and constants       ``cat`` of the tensors and zeros, ``+`` of the constants
``cat`` along height or width          ``pad`` of each with zeros, ``+`` of all
``maximum``, ``minimum`` with numbers  ``clamp``, except ``maximum`` with 0, a ReLU
the same with other constants          ``-`` the constants, ``relu``, ``+`` the constants
``torch.batch_norm``                   ``functional.batch_norm``, whose arguments are in another order
``hardsigmoid``                        ``/ 6``, ``+ 0.5``, ``clamp(0, 1)``
``softshrink(x, bound)``               ``relu`` of ``x - bound``, ``-`` ``relu`` of ``-bound - x``
``addmm(bias, x, weight)``             ``@``, ``+``, and ``*`` for ``alpha`` and ``beta``
``einsum`` of one tensor and weights   ``@`` of the flattened tensor, or a convolution of single pixels
``pad`` with a number                  ``-`` the number, ``pad`` with zeros, ``+`` the number
=====================================  ===============================================================================
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from torch import fx
from torch.nn import functional

from loihi_convert.frontend.operations import LARGEST_PADDING

_MOST_INPUTS: Final = 5_000
"""Most inputs of an einsum whose weights are found: they are as many outputs of an identity matrix."""

CAT_CALLED: Final = ("cat", "concat", "concatenate")
EXTREMES_CALLED: Final = ("maximum", "minimum", "max", "min")

_PAIRWISE: Final[Mapping[str, Callable[..., Any]]] = {
    "mean": operator.add,
    "sum": operator.add,
    "amax": torch.maximum,
    "amin": torch.minimum,
}

_WITH_INDICES: Final[Mapping[str, Callable[..., Any]]] = {
    "max_pool1d_with_indices": functional.max_pool1d,
    "max_pool2d_with_indices": functional.max_pool2d,
    "adaptive_max_pool1d_with_indices": functional.adaptive_max_pool1d,
    "adaptive_max_pool2d_with_indices": functional.adaptive_max_pool2d,
}
"""The same poolings without indices."""

Create = Callable[..., Any]
"""Records a call of a function, its first argument, with the others, and returns its `fx.Proxy`."""


def decomposed(create: Create, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the proxies of simpler calls in place of ``target``, a function or the name of a method, or ``None``."""
    name = getattr(target, "__name__", target)
    if name == "einsum":
        return _einsum(create, *args)
    if target is torch.batch_norm and len(args) == 9:
        x, weight, bias, mean, variance, *others = args
        return create(functional.batch_norm, x, mean, variance, weight, bias, *others[:3])
    is_of_two = name in EXTREMES_CALLED and len(args) == 2 and not kwargs
    if is_of_two and (clamped := _extreme(create, name, *args)) is not None:
        return clamped
    if name == "hardsigmoid" and len(args) == 1 and not kwargs.get("inplace"):
        return create(torch.clamp, create(operator.add, create(operator.truediv, args[0], 6), 0.5), 0, 1)
    if name == "softshrink" and args:
        return _softshrink(create, *args, **kwargs)
    if name == "addmm" and len(args) == 3 and set(kwargs) <= {"alpha", "beta"}:
        return _addmm(create, *args, **kwargs)
    if name in CAT_CALLED:
        return _joined(create, *args, **kwargs)
    if name in ("pad", "_pad"):
        return _pad(create, *args, **kwargs)
    if name in _WITH_INDICES:
        # Most models do not use the indices.
        pooled = create(_WITH_INDICES[name], *args, **{**kwargs, "return_indices": False})
        return pooled, create(operator.getitem, create(target, *args, **kwargs), 1)
    names = ("tensors", "dim") if name == "stack" else ("input", "dim", "keepdim")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "axis" in given:
        given["dim"] = given.pop("axis")
    if not set(given) <= {*names}:
        return None
    if name == "max" and isinstance(given.get("dim"), int):
        # Most models do not use the indices of the largest numbers.
        over = {"dim": given["dim"], "keepdim": given.get("keepdim", False)}
        largest = _of_stacked(create, "amax", given)
        largest = create(torch.amax, given["input"], **over) if largest is None else largest
        found: Any = [largest, create(torch.argmax, given["input"], **over)]
        return torch.return_types.max(found)
    if name == "stack":
        tensors, axis = tuple(given["tensors"]), given.get("dim", 0)
        if axis == 0:
            joined = create(torch.stack, tensors)
        else:
            parts = [create(torch.unsqueeze, each, axis) for each in tensors]
            joined = _with_constants(create, parts, axis)
            joined = create(torch.cat, parts, axis) if joined is None else joined
        joined.node.meta["stacked"] = tensors, axis
        return joined
    return _of_stacked(create, name, given)


def _extreme(create: Create, name: str, x: Any, other: Any) -> Any:
    """A clamp for a maximum or minimum of a tensor and a repeated number, a ReLU for other constants.

    ``None`` for two tensors of the image, and for constants that repeat images or maps.
    """
    if not _depends_on_image(x):
        x, other = other, x
    value = _value_of(other)
    if not _depends_on_image(x) or _depends_on_image(other) or not isinstance(value, torch.Tensor):
        return None
    before, is_max = x.node.meta["value"].shape, name.startswith("max")
    if np.broadcast_shapes(before, value.shape) != before:
        return None
    if (bound := repeated_number(value)) is not None:
        return create(torch.clamp, x, *((bound, None) if is_max else (None, bound)))
    beyond = create(torch.relu, create(operator.sub, *((x, other) if is_max else (other, x))))
    return create(operator.add, beyond, other) if is_max else create(operator.sub, other, beyond)


def _addmm(create: Create, bias: Any, x: Any, weight: Any, *, alpha: float = 1, beta: float = 1) -> Any:
    product = create(torch.matmul, x, weight)
    scaled = [
        tensor if factor == 1 else create(operator.mul, tensor, factor)
        for tensor, factor in ((product, alpha), (bias, beta))
    ]
    return create(operator.add, *scaled)


def _softshrink(create: Create, x: Any, lambd: float = 0.5) -> Any:
    above = create(torch.relu, create(operator.sub, x, lambd))
    return create(operator.sub, above, create(torch.relu, create(operator.sub, -lambd, x)))


def _pad(create: Create, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """``None`` if it pads with zeros, or not with a number up to `LARGEST_PADDING`."""
    if mode != "constant" or not isinstance(value, int | float) or not 0 < abs(value) <= LARGEST_PADDING:
        return None
    padded = create(functional.pad, create(operator.sub, x, float(value)), pad)
    return create(operator.add, padded, float(value))


def _einsum(create: Create, equation: Any, *operands: Any) -> Any:
    """A linear map of each image, found by what it makes of an identity matrix; ``None`` if it is not such a map."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    known = [_value_of(each) for each in tensors]
    traced = [place for place, each in enumerate(tensors) if _depends_on_image(each)]
    given, arrow, result = str(equation).replace(" ", "").partition("->")
    if len(traced) != 1 or not arrow or "." in equation or known[traced[0]].ndim < 2:
        return None
    (place,) = traced
    terms = given.split(",")
    own, others = terms[place], "".join(terms[:place] + terms[place + 1 :])
    pixels = own[2:] if result[2:] == own[2:] and len(result) > 2 else ""
    if len(set(own)) < len(own) or own[:1] != result[:1] or {own[0], *pixels} & {*others}:
        return None
    shape = known[place].shape[1:2] if pixels else known[place].shape[1:]
    if len(result) - len(pixels) > 2 or (count := math.prod(shape)) > _MOST_INPUTS:
        return None
    terms[place] = own[: len(own) - len(pixels)]
    known[place] = torch.eye(count, dtype=known[place].dtype).reshape(count, *shape)
    weight = torch.einsum(f"{','.join(terms)}->{result[: len(result) - len(pixels)]}", known)
    if not pixels:
        return create(torch.matmul, create(torch.flatten, tensors[place], 1), weight)
    kernel = weight.T.reshape(-1, count, *(1 for _ in pixels))
    return create(torch.conv2d if len(pixels) == 2 else torch.conv1d, tensors[place], kernel)


def _joined(create: Create, tensors: Any, dim: Any = 0, **named: Any) -> Any:
    axis = named.get("axis", dim)
    if not isinstance(tensors, list | tuple) or not set(named) <= {"axis"}:
        return None
    joined = _with_constants(create, tensors, axis)
    return _along_pixels(create, tensors, axis) if joined is None else joined


def _with_constants(create: Create, tensors: Sequence[Any], axis: Any) -> Any:
    """``None`` without constants, and for zeros and one tensor.

    Also if the constants stand between tensors of the image, differ between images, or are images of the batch.
    """
    groups = [(own, list(parts)) for own, parts in groupby(tensors, _depends_on_image)]
    values = [_value_of(part) for own, parts in groups if not own for part in parts]
    if not values or sum(own for own, _ in groups) != 1 or axis in (0, -values[0].ndim):
        return None
    (image,) = (parts for own, parts in groups if own)
    are_zeros = not any(bool(value.any()) for value in values)
    if (are_zeros and len(image) == 1) or any(bool((value != value[:1]).any()) for value in values):
        return None
    joined = image[0] if len(image) == 1 else create(torch.cat, image, axis)
    parts = [part for own, others in groups for part in ([joined] if own else others)]
    zeros = [create(torch.zeros_like, part) for part in parts]
    of_image, of_constants = (
        [part if (part is joined) is is_image else zero for part, zero in zip(parts, zeros, strict=True)]
        for is_image in (True, False)
    )
    found = create(torch.cat, of_image, axis)
    return found if are_zeros else create(operator.add, found, create(torch.cat, of_constants, axis))


def _along_pixels(create: Create, tensors: Sequence[Any], axis: Any) -> Any:
    """``None`` if it runs along another axis, or joins less than two tensors of the image."""
    if not isinstance(axis, int) or not all(map(_depends_on_image, tensors)) or len(tensors) < 2:
        return None
    shapes = [tensor.node.meta["value"].shape for tensor in tensors]
    rank = len(shapes[0])
    if axis % rank < 2 or any(len(shape) != rank or not shape.numel() for shape in shapes):
        return None
    sizes, others = [shape[axis] for shape in shapes], (0, 0) * (rank - 1 - axis % rank)
    margins = [(*others, sum(sizes[:place]), sum(sizes[place + 1 :])) for place in range(len(sizes))]
    padded = [create(functional.pad, tensor, margin) for tensor, margin in zip(tensors, margins, strict=True)]
    return reduce(lambda one, other: create(operator.add, one, other), padded)


def _depends_on_image(tensor: Any) -> bool:
    return isinstance(tensor, fx.Proxy) and not tensor.node.meta["is_constant"]


def _value_of(tensor: Any) -> Any:
    return tensor.node.meta["value"] if isinstance(tensor, fx.Proxy) else tensor


def repeated_number(value: torch.Tensor) -> float | None:
    """Return the number that ``value`` repeats; None if it holds several or none."""
    numbers: list[float] = torch.unique(value).tolist()
    return float(numbers[0]) if len(numbers) == 1 else None


def _of_stacked(create: Create, name: Any, given: Mapping[str, Any]) -> Any:
    """A reduction over the axis along which tensors were stacked, from these; ``None`` for anything else."""
    tensors = (
        () if name not in _PAIRWISE or given.get("keepdim") else _stacked(create, given["input"], given.get("dim"))
    )
    if not tensors:
        return None
    found = reduce(lambda one, other: create(_PAIRWISE[name], one, other), tensors)
    return create(operator.truediv, found, len(tensors)) if name == "mean" else found


def _stacked(create: Create, joined: Any, axes: Any) -> tuple[Any, ...]:
    """The tensors that were stacked along ``axes``; none if something else happened since, as they may have changed.

    Those of one axis of groups of channels, ``(N, C, k, H, W)``, are taken from ``joined``.
    """
    (axis, *others) = axes if isinstance(axes, tuple | list) and axes else (axes,)
    if not isinstance(joined, fx.Proxy) or others or not isinstance(axis, int):
        return ()
    shape = joined.node.meta["value"].shape
    if "stacked" not in joined.node.meta:
        is_of_groups = len(shape) == 5 and axis % 5 in (1, 2) and shape[3:].numel() > 1
        return tuple(create(torch.select, joined, axis, place) for place in range(shape[axis] if is_of_groups else 0))
    tensors, along = joined.node.meta["stacked"]
    return tensors if joined.node.next.op == "root" and (axis - along) % len(shape) == 0 else ()
