"""How the input of an ONNX file arranges an image: channels first or last, without a channel axis, or flat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from loihi_convert.arrays import Shape
from loihi_convert.errors import InputError, UsageError
from loihi_convert.frontend.from_onnx.node import attributes_of

_LETTERS: Final = {1: ("K",), 2: ("C", "L"), 3: ("C", "H", "W")}
"""Names of open sizes, by the number of axes of one image."""


@dataclass(frozen=True, eq=False)
class Layout:
    """An arrangement of images.

    Parameters
    ----------
    input_shape
        ``(C, H, W)``, or ``(C, L)`` for signals: one image as the module takes it.
    function, arguments
        Turns a batch of those into the file's input, ``function(images, *arguments)``; None if they are equal.
    notes
        For the user.
    """

    input_shape: Shape
    function: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


_ARITHMETIC: Final = ("Identity", "Cast", "Add", "Sub", "Mul", "Div")
"""Operators that may normalize the image."""


def are_channels_last(graph: Any, name: str) -> bool | None:
    """Return whether ``graph``, an ``onnx.GraphProto``, moves the channels of its input ``name`` to the front first.

    False: it begins with a convolution, which takes channels first. None: neither, so that its input may be either.
    """
    for _ in graph.node:
        users = [node for node in graph.node if name in node.input and node.op_type != "Shape"]
        if len(users) == 1 and users[0].op_type in _ARITHMETIC:
            (name,) = users[0].output
            continue
        if any(node.op_type == "Conv" for node in users):
            return False
        moves = [node.op_type == "Transpose" and attributes_of(node).get("perm") == [0, 3, 1, 2] for node in users]
        return True if moves and all(moves) else None
    return None


def layout_of(sizes: Shape, given: Shape | None, path: Path, are_last: bool | None = None) -> Layout:
    """Return the layout in which the file takes images.

    Where an image fits with channels first and last, they are first, unless ``are_last``.

    Parameters
    ----------
    sizes
        Of one image in the file, without the batch axis; 0 where it leaves them open.
    given
        ``(C, H, W)``, ``(C, 1, L)`` for signals; None if unknown.
    path
        The file, for messages.
    are_last
        From `are_channels_last`.

    Raises
    ------
    UsageError
        If ``given`` is missing and the file does not determine it, or if it does not fit the file.
    InputError
        If the file's input has too many axes.
    """
    if len(sizes) not in _LETTERS:
        raise InputError(
            f"its input has {len(sizes) + 1} axes", where=path, expected="must be (N, C, H, W), (N, C, L) or (N, K)"
        )
    if given is None:
        is_known = len(sizes) > 1 and min(sizes) > 0
        if is_known and are_last:
            return _with_channels_last((sizes[-1], *sizes[:-1]), path)
        if is_known and are_last is None and len(sizes) == 3 and sizes[0] not in (1, 3) and sizes[2] in (1, 3):
            problem = f"{path.name} takes images {sizes}, with channels first or last"
            expected = f"must be (C, H, W): {(sizes[2], *sizes[:2])}, or {sizes} if channels are first"
            raise UsageError(problem, where="input_shape", expected=expected)
        if is_known:
            return Layout(sizes)
        problem = "takes its input flat" if len(sizes) == 1 else "leaves the size of its images open"
        raise UsageError(f"{path.name} {problem}", where="input_shape", expected=_expected(sizes))
    # A signal is an image of one row.
    channels, *rest = (given[0], given[2]) if len(given) == 3 and given[1] == 1 and len(sizes) == 2 else given
    own, channels_last = (channels, *rest), (*rest, channels)
    if len(sizes) == 1 and sizes[0] in (0, math.prod(given)):
        note = f"{path.name} takes flat images: their values are read in the order (C, H, W)"
        return Layout(given, torch.flatten, (1,), (note,) if channels > 1 else ())
    if _fits(sizes, own) and not (are_last and _fits(sizes, channels_last)):
        return Layout(own)
    if _fits(sizes, channels_last):
        return _with_channels_last(own, path)
    if channels == 1 and _fits(sizes, tuple(rest)):
        return Layout(own, torch.reshape, ((-1, *rest),))
    raise UsageError(f"found {given}", where="input_shape", expected=f"{_expected(sizes)}, as in {path.name}")


def _with_channels_last(own: Shape, path: Path) -> Layout:
    channels_last, taken = (*own[1:], own[0]), (own[0], *(1,) * (3 - len(own)), *own[1:])
    note = f"{path.name} takes images with channels last, {channels_last}: the conversion takes {taken}"
    return Layout(own, torch.permute, ((0, *range(2, len(own) + 1), 1),), (note,))


def _fits(sizes: Shape, shape: Shape) -> bool:
    return len(sizes) == len(shape) and all(size in (0, found) for size, found in zip(sizes, shape, strict=True))


def _expected(sizes: Shape) -> str:
    if len(sizes) == 1:
        return f"must be (C, H, W) with {sizes[0]} values" if sizes[0] else "must be (C, H, W)"
    named = (str(size) if size else letter for size, letter in zip(sizes, _LETTERS[len(sizes)], strict=True))
    return f"must be ({', '.join(named)})"
