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


def layout_of(sizes: Shape, given: Shape | None, path: Path) -> Layout:
    """Return the layout in which the file takes images.

    Where an image fits with channels first and last, they are first.

    Parameters
    ----------
    sizes
        Of one image in the file, without the batch axis; 0 where it leaves them open.
    given
        ``(C, H, W)``, ``(C, 1, L)`` for signals; None if unknown.
    path
        The file, for messages.

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
        if len(sizes) > 1 and min(sizes) > 0:
            return Layout(sizes)
        problem = "takes its input flat" if len(sizes) == 1 else "leaves the size of its images open"
        raise UsageError(f"{path.name} {problem}", where="input_shape", expected=_expected(sizes))
    # A signal is an image of one row.
    channels, *rest = (given[0], given[2]) if len(given) == 3 and given[1] == 1 and len(sizes) == 2 else given
    own, channels_last = (channels, *rest), (*rest, channels)
    if len(sizes) == 1 and sizes[0] in (0, math.prod(given)):
        note = f"{path.name} takes flat images: their values are read in the order (C, H, W)"
        return Layout(given, torch.flatten, (1,), (note,) if channels > 1 else ())
    if _fits(sizes, own):
        return Layout(own)
    if _fits(sizes, channels_last):
        last = len(own)
        note = f"{path.name} takes images with channels last, {channels_last}: the conversion takes {given}"
        return Layout(own, torch.permute, ((0, *range(2, last + 1), 1),), (note,))
    if channels == 1 and _fits(sizes, tuple(rest)):
        return Layout(own, torch.reshape, ((-1, *rest),))
    raise UsageError(f"found {given}", where="input_shape", expected=f"{_expected(sizes)}, as in {path.name}")


def _fits(sizes: Shape, shape: Shape) -> bool:
    return len(sizes) == len(shape) and all(size in (0, found) for size, found in zip(sizes, shape, strict=True))


def _expected(sizes: Shape) -> str:
    if len(sizes) == 1:
        return f"must be (C, H, W) with {sizes[0]} values" if sizes[0] else "must be (C, H, W)"
    named = (str(size) if size else letter for size, letter in zip(sizes, _LETTERS[len(sizes)], strict=True))
    return f"must be ({', '.join(named)})"
