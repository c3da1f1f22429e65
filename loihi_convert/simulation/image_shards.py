"""Images divided into shards, which several processes compute apart.

Every bit of a joined result is that of the undivided images. The integers of an image do not depend on other images,
and a shard begins where a block of the float networks begins, see `blocks.block_multiple`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from loihi_convert.arrays import Array
from loihi_convert.simulation.blocks import block_multiple

SHARDS_PER_SLOT: Final = 4
"""Shards for each slot of the workers: a slow worker gets fewer than a fast one."""

SHARD_BYTES: Final = 2**27
"""Most bytes of pixels in a shard, unless a block of the float networks has more."""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Processes that compute shards."""

    @property
    def slots(self) -> int:
        """How many shards are computed at the same time, at least 1."""
        ...

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        done: Callable[[Item], None] = lambda item: None,
    ) -> list[Result]:
        """Return ``function(shared, item)`` for each of ``items``, in their order; ``done`` is called as each ends.

        Raises
        ------
        LoihiConvertError
            The first error of ``function``.
        PlatformError
            If a worker cannot compute an item, or there are no workers any more.
        """
        ...


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive images of a run.

    Parameters
    ----------
    first
        Index of the first image in the run.
    images
        uint8 ``(N, C, H, W)``, N >= 1; `StoredImages` are read by the process that runs them.
    """

    first: int
    images: Array

    def __str__(self) -> str:
        """The images in words, numbered from 0 as in predictions.csv."""
        return f"images {self.first}..{self.first + len(self.images) - 1}"


def shards(images: Array, count: int, device: str) -> list[Shard]:
    """Return ``images`` in at most ``count`` shards of equal size, as far as blocks of floats allow, or more.

    Parameters
    ----------
    images
        uint8 ``(N, C, H, W)``, N >= 1.
    count
        At least 1. A shard has at most `SHARD_BYTES`.
    device
        The device of the float networks.
    """
    unit = block_multiple(device)
    most = max(1, SHARD_BYTES // (unit * math.prod(images.shape[1:])))
    size = unit * min(most, math.ceil(math.ceil(len(images) / unit) / count))
    return [Shard(first, images[first : first + size]) for first in range(0, len(images), size)]
