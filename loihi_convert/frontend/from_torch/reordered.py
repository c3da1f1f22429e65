"""Operations on a tensor whose axes are in another order, such as channels last, as operations on the map.

The map then stays one of channels, height and width, which a synapse can read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Array, Shape, by_channel
from loihi_convert.frontend.from_torch.calls import called
from loihi_convert.frontend.from_torch.moved import Moved, positions_of, shape_of
from loihi_convert.frontend.from_torch.tracing import TRACED_IMAGES
from loihi_convert.frontend.operations import Add, Affine, Ending, Operation, Relu, refuse
from loihi_convert.ir.synapse import Conv, Dense


class OnMap(NamedTuple):
    """An operation on a map.

    Attributes
    ----------
    operation
        The operation.
    shape
        Shape of the map that it gives.
    positions
        The numbers of that map in the order of the tensor, as in `Moved.tensor`; an axis of length 1 may be more.
    """

    operation: Operation
    shape: Shape
    positions: Tensor


def is_over_last_axis(node: fx.Node, module: nn.Module | None) -> bool:
    """Return whether ``node`` multiplies the last axis by a matrix."""
    return isinstance(module, nn.Linear) or called(node) in ("linear", "matmul")


def channels_are_last(moved: Moved, base: Shape) -> bool:
    """Return whether ``moved`` is a whole map ``base``, ``(C, H, W)``, with channels last; the pixels in any shape."""
    if moved.tensor.ndim < 3 or len(base) != 3 or moved.tensor.shape[-1] != base[0]:
        return False
    return torch.equal(moved.tensor.movedim(-1, 1).flatten(), positions_of(base).flatten())


def on_map(operation: Operation, inputs: Sequence[Moved], bases: Sequence[Shape]) -> OnMap | None:
    """Return ``operation`` on ``inputs`` as one on the maps or vectors ``bases``; None if that is not the same."""
    (moved, *others), base = inputs, bases[0]
    if any(shape != base for shape in bases) or any(not torch.equal(each.tensor, moved.tensor) for each in others):
        return None
    if isinstance(operation, Dense) and channels_are_last(moved, base):
        shape = (len(operation.weight), *base[1:])
        pixels = moved.tensor.shape[1:-1]
        positions = positions_of(shape).reshape(TRACED_IMAGES, shape[0], *pixels).movedim(1, -1)
        return OnMap(Conv(operation.weight[:, :, None, None], operation.bias), shape, positions)
    if not isinstance(operation, Add | Affine | Relu | Ending) or not _is_reordered(moved, base):
        return None
    if isinstance(operation, Relu) and operation.threshold is not None:
        return None
    if isinstance(operation, Affine):
        gain, shift = (
            _on_map(values, moved.tensor).reshape(base[0], -1) for values in (operation.gain, operation.shift)
        )
        if (gain != gain[:, :1]).any():
            return None
        is_alike = bool((shift == shift[:, :1]).all())
        operation = Affine(gain[:, 0], shift[:, 0] if is_alike else shift.reshape(base))
    return OnMap(operation, base, moved.tensor)


def as_output(output: Moved, base: Shape) -> tuple[Moved, tuple[str, ...]]:
    """Return an ``output`` of the numbers of ``base``, a vector, as a vector; and a note if it has several axes.

    Others stay as they are. Refuses one of several axes whose numbers are in another order.
    """
    shape = tuple(output.tensor.shape[1:])
    if len(shape) < 2 or shape_of(output.tensor) == base or math.prod(base) > base[0]:
        return output, ()
    is_in_order = torch.equal(output.tensor.flatten(), positions_of(base).flatten())
    if math.prod(shape) == max(shape):
        notes = list[str]()
    elif is_in_order:
        notes = [f"the output of shape {shape} is taken as a vector of {math.prod(shape)} numbers."]
    else:
        refuse(f"gives an output of shape {shape}", supported="a vector", hint="Return y.flatten(1).")
    is_whole = is_in_order and len(output.tensor) == TRACED_IMAGES
    vector = output.tensor.reshape(TRACED_IMAGES, *base) if is_whole else output.tensor.flatten(1)
    return replace(output, tensor=vector), tuple(notes)


def _on_map(values: Array, positions: Tensor) -> Array:
    """``values`` of a tensor, one for each of its first axis or for each of its numbers, in the order of the map."""
    shape = positions.shape[1:] or (1,)
    if values.ndim == 1:
        values = np.broadcast_to(by_channel(values, len(shape)), shape)
    ordered = np.empty(math.prod(shape))
    ordered[positions[0].flatten().numpy().astype(np.int64) - 1] = values.reshape(-1)
    return ordered


def _is_reordered(moved: Moved, base: Shape) -> bool:
    """Whether these are all numbers of ``base``, in the same way in each image, in another shape or order."""
    if moved.tensor.shape[:1] != (TRACED_IMAGES,):
        return False
    order, every = moved.tensor[0].flatten().numpy(), np.arange(1, math.prod(base) + 1)
    if shape_of(moved.tensor) == base and np.array_equal(order, every):
        return False
    return np.array_equal(np.sort(order), every) and moved.keeps_images_apart(len(every))
