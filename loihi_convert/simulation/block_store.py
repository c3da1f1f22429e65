"""What `layerwise.py` keeps of a block of images from one pass to the next, and how results of blocks are added."""

from __future__ import annotations

import functools
import math
import operator
import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from loihi_convert.arrays import Array

_Kept = TypeVar("_Kept")


class BlockStore(Generic[_Kept]):
    """Values of one layer, by the first image of each block, for as many blocks as fit ``memory`` bytes."""

    def __init__(self, memory: int) -> None:
        self._free = memory
        self._blocks: dict[int, tuple[int, _Kept, int]] = {}
        self._lock = threading.Lock()

    def look(self, start: int) -> tuple[int, _Kept] | None:
        """Return the layer and its values for the block at ``start``; None if they are not kept."""
        found = self._blocks.get(start)
        return None if found is None else found[:2]

    def put(self, start: int, layer: int, value: _Kept, size: int) -> None:
        """Keep ``value``, of ``size`` bytes, in place of the one kept before; if it does not fit, keep neither."""
        with self._lock:
            _, _, before = self._blocks.pop(start, (0, None, 0))
            self._free += before
            if size <= self._free:
                self._free -= size
                self._blocks[start] = layer, value, size


class Packed:
    """Spikes ``(B, T, H, W, C)``: one bit each unless summed over windows."""

    def __init__(self, spikes: Array) -> None:
        self._shape = spikes.shape
        self._is_bits = spikes.dtype == np.uint8 and int(spikes.max(initial=0)) <= 1
        self._data = np.packbits(spikes) if self._is_bits else spikes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(self._data.nbytes)

    def unpacked(self) -> Tensor:
        """Return the spikes."""
        if not self._is_bits:
            return torch.from_numpy(self._data)
        return torch.from_numpy(np.unpackbits(self._data, count=math.prod(self._shape)).reshape(self._shape))


_Sum = TypeVar("_Sum")


class GroupSums(Generic[_Sum]):
    """Sums of the values of consecutive blocks, one sum for each group of blocks, in whatever order the values arrive.

    Values are added in the order of their blocks, so that a sum of floating-point numbers has the same bits on any
    number of cores; and groups are the same in any shards of images, so that `total` of all groups has, too.

    Parameters
    ----------
    blocks
        Number of blocks in a group.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks, self._next = blocks, 0
        self._groups: list[_Sum] = []
        self._waiting: dict[int, _Sum] = {}
        self._lock = threading.Lock()

    def add(self, block: int, value: _Sum) -> None:
        """Add the value of ``block``, counted from 0, once those before it have been added."""
        with self._lock:
            self._waiting[block] = value
            while self._next in self._waiting:
                value = self._waiting.pop(self._next)
                if self._next % self._blocks:
                    self._groups[-1] = self._groups[-1] + value  # type: ignore[operator]
                else:
                    self._groups.append(value)
                self._next += 1

    @property
    def groups(self) -> list[_Sum]:
        """The sums, in order."""
        assert not self._waiting, "a value is missing"
        return self._groups


def total(groups: Iterable[_Sum]) -> _Sum:
    """Return the sum of ``groups``, added in their order."""
    return functools.reduce(operator.add, groups)
