"""Numbers of a tensor that functions such as ``flatten`` rearrange: where they come from, and where they are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loihi_convert.arrays import Shape
from loihi_convert.frontend.from_torch.tracing import TRACED_IMAGES, same_storage


@dataclass(frozen=True, eq=False)
class Moved:
    """Rearranged numbers of one node of a `Graph`.

    Parameters
    ----------
    base
        The node, as an index.
    tensor
        Their original positions, from 1, of `TRACED_IMAGES` images; 0 for a zero. A tuple if a function returned
        several tensors.
    memory
        Like ``tensor``, but positions in memory: the ``memory`` of a view is a view.
    """

    base: int
    tensor: Any
    memory: Any

    def copied(self) -> Moved:
        """Return the same numbers in other memory."""
        return Moved(self.base, self.tensor, self.memory.clone())

    def shares(self, memory: Tensor) -> bool:
        """Whether some number is kept in ``memory``."""
        return (
            isinstance(self.memory, Tensor)
            and same_storage(self.memory, memory)
            and bool(torch.isin(self.memory, memory.flatten()).any())
        )

    def keeps_images_apart(self, count: int) -> bool:
        """Whether the two images, of ``count`` numbers each, are not mixed, and rearranged in the same way."""
        positions = self.tensor.numpy().astype(np.int64)
        if positions.shape[:1] != (TRACED_IMAGES,):
            return False
        first, second = positions
        return bool(np.array_equal(np.where(first > 0, first + count, 0), second) and first.max(initial=0) <= count)


def stored_as(value: Tensor, positions: Tensor) -> Tensor:
    """Return ``positions``, float64 in the shape of ``value``, in the order in which that is stored.

    The functions of which ``value`` has views, such as ``view`` and ``flatten``, then give views of them, too.
    """
    # An obstacle may return quantized numbers, which torch cannot copy into other dtypes.
    like = torch.empty(value.shape) if value.is_quantized else value
    found = torch.empty_like(like, dtype=torch.float64, device="cpu")
    return found.copy_(positions.reshape(value.shape))


def positions_of(shape: Shape) -> Tensor:
    """Return the positions of `TRACED_IMAGES` maps of ``shape`` in order, from 1, as in `Moved.tensor`."""
    return torch.arange(1, TRACED_IMAGES * math.prod(shape) + 1, dtype=torch.float64).reshape(TRACED_IMAGES, *shape)


def shape_of(tensor: Tensor) -> Shape:
    """Return the shape of one image; a signal ``(C, L)`` counts as a map ``(C, 1, L)``, a number as one output."""
    shape = tuple(tensor.shape[1:]) or (1,)
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape
