"""Functions and methods of torch in a traced graph -> operations; the table is in `reader.py`."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Shape
from loihi_convert.frontend.from_torch.calls import ARITHMETIC, arguments_of, arithmetic_of, called, operands
from loihi_convert.frontend.from_torch.decompositions import CAT_CALLED, repeated_number
from loihi_convert.frontend.from_torch.layers import ARGUMENTS, operation_of
from loihi_convert.frontend.from_torch.moved import Moved, positions_of
from loihi_convert.frontend.from_torch.pools import adaptive_pool
from loihi_convert.frontend.from_torch.tracing import LIKE_CALLED, SHAPED_CALLED, TRACED_IMAGES, is_as_taken
from loihi_convert.frontend.operations import (
    PADDINGS,
    PRODUCTS,
    Add,
    Affine,
    AveragePool,
    Cat,
    MaxPool,
    Operation,
    refuse,
)
from loihi_convert.ir.synapse import Conv, Dense

_OTHER_PRODUCTS: Final = ("addmm", "bmm", "einsum", "tensordot")
NOTHING_CALLED: Final = ("clone", "detach", "float", "half", "double", "cpu", "to", "type", "type_as", "requires_grad_")
_DROPOUTS: Final = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
DROPOUT_CALLED: Final = {
    **dict.fromkeys(_DROPOUTS, ("p", "training")),
    # Of torchvision.
    "stochastic_depth": ("p", "mode", "training"),
    "drop_block2d": ("p", "block_size", "inplace", "eps", "training"),
}
"""The arguments after the tensor, by function."""
MOVES_CALLED: Final = (
    "flatten", "view", "reshape", "squeeze", "squeeze_", "unsqueeze", "unsqueeze_", "permute", "transpose", "swapaxes",
    "swapdims", "movedim", "moveaxis", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "getitem",
    "unflatten", "channel_shuffle", "pixel_unshuffle", "pad", "_pad", "index_select", "contiguous",
    "repeat", "tile", "repeat_interleave", "expand", "broadcast_to", "flip", "roll", *SHAPED_CALLED,
)  # fmt: skip

_COMPARISONS: Final = {
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal"), 1),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), -1),
}
"""1 if the first of two numbers is the larger one, else -1."""
_NOT_CALLED: Final = ("invert", "logical_not", "bitwise_not")

OVER_MAPS_CALLED: Final = ("mean", "sum", "amax")


def operation_of_call(node: fx.Node, before: Shape, after: Shape, rank: int) -> Operation:
    """The operation of a function or method on one tensor; shapes and rank as in `operation_of`."""
    # Functions that work in place end with an underscore; threshold calls _threshold.
    function = called(node).strip("_")
    if function in _OTHER_PRODUCTS and len(node.all_input_nodes) > 1:
        # The other factor does not depend on the image.
        refuse("has no spiking equivalent here", hint="Use nn.Linear, or x @ weight with a flattened x.")
    given = arguments_of(node, ARGUMENTS.get(function, ()))
    image = node.args[0] if node.args else given.pop("input", None)
    tensors = [each for each in given.values() if isinstance(each, fx.Node)]
    if function in ARGUMENTS and (image in tensors or not all(each.meta["is_constant"] for each in tensors)):
        refuse(
            "has no spiking equivalent here", supported="weights that do not depend on the image, as second argument"
        )
    values = {key: each.meta["value"] if isinstance(each, fx.Node) else each for key, each in given.items()}
    return operation_of(function, values, before, after, rank)


def _number(node: fx.Node, argument: Any) -> float | None:
    """An argument of ``node`` as a number, if it is one, or a constant tensor that repeats one."""
    if not isinstance(argument, fx.Node):
        return argument if isinstance(argument, int | float) else None
    value = argument.meta["value"]
    is_constant = argument.meta["is_constant"] and isinstance(value, Tensor)
    return repeated_number(value) if is_constant and is_as_taken(argument, node) else None


def relu_input(node: fx.Node) -> fx.Node | None:
    """Return ``x`` if ``node`` is ``maximum(x, 0)``, or x where a comparison finds it positive and else 0: a ReLU."""
    function, arguments = called(node).rstrip("_"), node.args
    choices: list[tuple[Any, Any, Any]] = []
    found: list[Any] = []
    if function in ("max", "maximum") and len(arguments) == 2:
        found = [x for x, y in (arguments, arguments[::-1]) if _number(node, y) == 0]
    elif function == "where" and len(arguments) == 3:
        mask, chosen = arguments[:2] if node.op == "call_function" else arguments[1::-1]
        choices = [(mask, chosen, arguments[2])]
    elif function == "masked_fill":
        given = arguments_of(node, ("mask", "value"))
        choices = [(given["mask"], given["value"], arguments[0] if arguments else given["input"])]
    elif arithmetic_of(node) == "mul" and len(arguments) == 2:
        choices = [(mask, x, 0) for x, mask in (arguments, arguments[::-1])]
    for mask, chosen, other in choices:
        pairs = ((chosen, other, 1), (other, chosen, -1))
        found += [x for x, zero, sign in pairs if _number(node, zero) == 0 and _sign(mask, x, node) == sign]
    return next((x for x in found if x.meta["value"].shape == node.meta["value"].shape), None)


def _sign(mask: Any, x: Any, node: fx.Node) -> int:
    """1 if ``mask`` is ``x > 0``, or a cast of it, of x as ``node`` takes it; -1 if it is ``x < 0``; else 0."""
    before, sign = node.prev, 1
    # Anything else might change x in place.
    while before.op == "get_attr" or called(before) in (*NOTHING_CALLED, *_NOT_CALLED, *LIKE_CALLED):
        if mask is before and called(before) in (*NOTHING_CALLED, *_NOT_CALLED):
            mask = before.args[0] if before.args else before.kwargs.get("input")
            sign = -sign if called(before) in _NOT_CALLED else sign
        before = before.prev
    if mask is not before or called(mask) not in _COMPARISONS or len(mask.args) != 2:
        return 0
    left, right = mask.args
    sign *= _COMPARISONS[called(mask)]
    return sign if left is x and _number(mask, right) == 0 else -sign if right is x and _number(mask, left) == 0 else 0


def takes_whole_maps(node: fx.Node, positions: Tensor, maps: Shape) -> bool:
    """Whether a mean, sum or maximum takes each of the ``maps`` as a whole, by the ``positions`` of its input in them.

    The axes may be in any order, and those of the pixels flattened to one.
    """
    axes = _axes(node, positions.ndim)
    if len(maps) != 3 or not axes:
        return False
    others = [axis for axis in range(positions.ndim) if axis not in axes]
    pixels = math.prod(positions.shape[axis] for axis in axes)
    grouped = positions.permute(*others, *axes).reshape(-1, pixels).sort(dim=1).values
    return torch.equal(grouped, positions_of(maps).reshape(TRACED_IMAGES * maps[0], -1))


def over_maps(
    node: fx.Node, maps: Shape, after: Shape, rank: int, *, is_whole: bool
) -> tuple[AveragePool | MaxPool | Conv | Dense, Shape]:
    """The mean, sum or maximum of ``maps`` over height or width, or of whole maps, and the shape that it gives.

    A mean or sum over the channels is a convolution; of a vector, a dense layer. ``after`` is the shape of what
    ``node`` returns.
    """
    function, axes = called(node), set(_axes(node, rank))
    supported = "height, width, or both" + ("" if function == "amax" else "; or the channels")
    if axes == {1} and not is_whole and function != "amax":
        channels, *size = maps
        weight = np.full((1, channels, *(1 for _ in size)), 1.0 if function == "sum" else 1 / channels)
        return Conv(weight) if size else Dense(weight), (1, *size)
    if not is_whole and (len(maps) != 3 or not axes or not axes <= set(range(2, rank))):
        what = {"mean": "averages", "sum": "sums", "amax": "takes the maximum"}[function]
        over = "all axes" if (given := _given_axes(node)) is None else f"axes {given}"
        hint = ""
        if not axes or 0 in axes:
            hint = "This mixes the images of the batch: reduce each image, as in x.flatten(1).mean(1, True)."
        elif axes == {1, 2, 3} and any(arithmetic_of(user) in ("sub", "truediv") for user in node.users):
            hint = "Normalize with a fixed mean and std, not those of each image, and train again."
        refuse(f"{what} over {over}", supported=supported, hint=hint)
    channels, height, width = maps
    if is_whole or len(axes) == rank - 2:
        height = width = 1
    shape = (channels, 1 if 2 in axes else height, 1 if 3 in axes else width)
    pool = adaptive_pool(maps, shape, is_average=function != "amax")
    if isinstance(pool, AveragePool) and function == "sum":
        pool = replace(pool, factor=1.0)
    return pool, shape if len(after) == 3 else after


def _axes(node: fx.Node, rank: int) -> list[int]:
    """The axes over which ``node`` reduces a tensor of ``rank`` axes; none if it reduces all."""
    axes = _given_axes(node)
    return [axis % rank for axis in ([axes] if isinstance(axes, int) else axes or ())]


def _given_axes(node: fx.Node) -> Any:
    arguments = arguments_of(node, ("dim",))
    return arguments.get("dim", arguments.get("axis"))


def returned_input(node: fx.Node, module: object) -> fx.Node | None:
    """Return the input that ``node`` returns: overwritten (``relu_``, ``ReLU(inplace=True)``, ``+=``) or as it is."""
    name = called(node)
    is_in_place = (
        "out" in node.kwargs
        or getattr(module, "inplace", False)
        or node.kwargs.get("inplace", False)
        or (module is None and (name.endswith("_") or (name in ARITHMETIC and name.startswith("i"))))
    )
    first = node.kwargs.get("out", node.args[0] if node.args else node.kwargs.get("input"))
    if not isinstance(first, fx.Node):
        return None
    # The tracer gives functions a copy.
    is_same = node.meta["value"] is first.meta["value"] or name in (*DROPOUT_CALLED, "detach")
    return first if is_in_place or is_same else None


def concatenation(node: fx.Node, from_image: Container[fx.Node]) -> tuple[Operation, tuple[fx.Node, ...]]:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    rank = node.meta["value"].ndim
    if not isinstance(axis, int) or axis % rank != 1:
        refuse(f"runs along axis {axis}", supported="the channel axis, 1, height and width")
    joined = node.args[0] if node.args else node.kwargs["tensors"]
    inputs = tuple(joined) if isinstance(joined, list | tuple) else ()
    if not all(each in from_image for each in inputs):
        refuse(
            "joins constants between tensors of the image, or constants that differ between images",
            supported="constants before or after these, the same for all images",
        )
    return Cat(), tuple(each for each in inputs if each.meta["value"].numel()) or refuse("joins empty tensors")


def joins_one(node: fx.Node, moved: Mapping[fx.Node, Moved], constants: Mapping[fx.Node, Tensor]) -> bool:
    """Whether ``node`` concatenates parts of one tensor, such as `chunk` returned, or one tensor and zeros."""
    if called(node) not in CAT_CALLED:
        return False
    joined = [before for before in node.all_input_nodes if before in moved]
    others = [constants.get(before) for before in node.all_input_nodes if before not in moved]
    has_zeros = bool(others) and not any(other is None or other.any() for other in others)
    has_parts = any(isinstance(before.meta["value"], tuple | list) for before in joined)
    return has_parts or (has_zeros and len({moved[before].base for before in joined}) == 1)


def sum_of_two(node: fx.Node, arithmetic: str) -> Add:
    """The sum or difference of two tensors."""
    if arithmetic not in ("add", "sub"):
        refuse("of two tensors has no spiking equivalent here", hint=PRODUCTS if arithmetic == "mul" else "")
    require_two_alike(node)
    factor = node.kwargs.get("alpha", 1)
    if not isinstance(factor, int | float):
        refuse(f"has the factor alpha = {factor}", supported="a number")
    return Add((1.0, float(factor) if arithmetic == "add" else -float(factor)))


def require_two_alike(node: fx.Node) -> None:
    """Refuse a function of anything but two tensors of one shape, apart from one channel, or one pixel, for all."""
    if len(operands(node)) != 2:
        refuse("does not combine exactly two tensors")
    whole = node.meta["value"].shape
    shapes = [each.meta["value"].shape for each in operands(node)]
    if any(len(shape) != len(whole) or shape[2:] not in (whole[2:], (1,) * len(whole[2:])) for shape in shapes):
        refuse(
            f"joins tensors of shapes {' and '.join(str(tuple(shape[1:])) for shape in shapes)}",
            supported="equal shapes, one channel beside several, or a mean of each channel",
            hint="Give both the same channels and size, by a convolution or pooling, and train again.",
        )


def affine(
    node: fx.Node, arithmetic: str, first: fx.Node, constants: Mapping[fx.Node, Tensor], shape: torch.Size
) -> Affine:
    """``y = gain x + shift`` of ``arithmetic`` with one of ``constants`` on ``first``, of ``shape``, with a batch axis.

    Both may differ between pixels, see `require_factor_per_channel`.
    """
    others = [argument for argument in node.args if argument is not first]
    if len(node.args) != 2 or len(others) != 1 or node.kwargs:
        refuse("does not combine the previous layer with a single constant")
    constant = constants.get(others[0]) if isinstance(others[0], fx.Node) else others[0]
    if not isinstance(constant, int | float | Tensor):
        refuse(f"combines the previous layer with {others[0]}", supported="numbers, buffers, parameters")
    if shape[:1] != (TRACED_IMAGES,):
        refuse("mixes images: its first axis is not the batch axis")
    values = torch.as_tensor(constant, dtype=torch.float64).detach().cpu()
    if node.meta["value"].shape != shape or values.ndim > len(shape):
        refuse(
            f"changes {tuple(shape[1:])} into {tuple(node.meta['value'].shape[1:])}",
            supported="a constant for each channel or pixel",
        )
    is_reversed = node.args[0] is not first
    channels = shape[1] if len(shape) > 1 else 1
    spread = values.expand(shape).reshape(TRACED_IMAGES, channels, -1)
    c = spread[0, :, 0].numpy()
    if not torch.equal(spread, spread[:1, :, :1].expand_as(spread)):
        if not torch.equal(spread[0], spread[1]):
            refuse(
                "has a constant that differs between images",
                supported="the same for all images",
                hint="If it is noise, add it only if self.training.",
            )
        # A signal (C, L) counts as a map (C, 1, L).
        c = spread[0].reshape(channels, *(1,) * (4 - len(shape)), *shape[2:]).numpy()
    if not np.isfinite(c).all() or (arithmetic == "truediv" and not c.all()):
        refuse("has a constant that is NaN, infinite, or 0 in a division", supported="finite numbers")
    one, zero = np.ones(channels), np.zeros(channels)
    if arithmetic == "add":
        return Affine(one, c)
    if arithmetic == "sub":
        return Affine(-one, c) if is_reversed else Affine(one, -c)
    if arithmetic == "mul":
        return Affine(c, zero)
    if is_reversed:
        refuse("divides a constant by the previous layer, which is not linear")
    return Affine(1 / c, zero)


def require_factor_per_channel(operation: Operation) -> None:
    """Refuse an `Affine` whose gain differs between the pixels of a channel."""
    if isinstance(operation, Affine) and operation.gain.ndim > 1:
        refuse(
            "has a factor that differs between pixels",
            supported="one factor per channel; + and - of any constants",
            hint="Normalize by one standard deviation per channel, and train again.",
        )


def repeats_pixels(node: fx.Node, module: nn.Module | None, before: torch.Size) -> bool:
    """Return whether ``node`` is an adaptive pooling to a larger map, each of whose windows is one pixel."""
    kind = type(module).__name__ if module is not None else called(node)
    if not kind.lower().startswith("adaptive") or not isinstance(node.meta["value"], Tensor):
        return False
    after = node.meta["value"].shape[2:]
    return before[2:] != after and all(many % few == 0 for few, many in zip(before[2:], after, strict=True))


def takes_pixels(node: fx.Node, module: nn.Module | None, before: torch.Size) -> bool:
    """Return whether ``node`` makes maps ``before`` smaller by a whole factor by taking single pixels of them."""
    if isinstance(module, nn.Upsample):
        mode = module.mode
    elif called(node) == "interpolate":
        mode = arguments_of(node, ARGUMENTS["interpolate"]).get("mode", "nearest")
    else:
        return False
    after = node.meta["value"].shape[2:]
    return mode.startswith("nearest") and all(many % few == 0 for many, few in zip(before[2:], after, strict=True))


def require_padding_with_zeros(node: fx.Node) -> None:
    """Refuse another padding; one with another number was recorded as `decompositions` describes."""
    if called(node) not in ("pad", "_pad"):
        return
    arguments = arguments_of(node, ("pad", "mode", "value"))
    if arguments.get("mode", "constant") != "constant" or arguments.get("value"):
        mode = arguments.get("mode", "constant")
        found = arguments["value"] if mode == "constant" else f"mode {mode}"
        refuse(f"pads with {found}", supported=PADDINGS, hint="Train with zeros.")
