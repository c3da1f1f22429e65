"""Images divided into shards, which several processes compute apart, and shards into blocks, one for each core.

Every bit of a joined result is that of the undivided images. The integers of an image do not depend on other images,
and a shard begins where a block of the float networks begins, see `block_multiple`.

A block passes through its steps layer by layer. Its currents take at most 16 MiB, 32 in a float network, or one step of
one image: memory does not grow with the number of images, and with that of steps only where rates are fitted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.devices import on_usable_cores
from loihi_convert.ground.progress import current_progress

SHARDS_PER_WORKER: Final = 4
"""Shards for each worker: a slow one gets fewer than a fast one."""

SHARD_BYTES: Final = 2**27
"""Most bytes of pixels in a shard, unless a block of the float networks has more."""

_Shared = TypeVar("_Shared")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers(Protocol):
    """Processes that compute shards."""

    @property
    def count(self) -> int:
        """The number of processes, each of which computes one shard at a time; at least 1."""
        ...

    def map(
        self,
        function: Callable[[_Shared, _Item], _Result],
        shared: _Shared,
        items: Sequence[_Item],
        *,
        place: Callable[[_Item], Hashable] | None = None,
        done: Callable[[_Item], None] = lambda item: None,
    ) -> list[_Result]:
        """Return ``function(shared, item)`` for each of ``items``, in their order; ``done`` is called as each ends.

        Items with the same ``place`` are computed by the same worker, if it is free: what it keeps is of use again.

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

    def __len__(self) -> int:
        return len(self.images)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.asarray(self.images, dtype)

    def __str__(self) -> str:
        """The images in words, numbered from 0 as in predictions.csv."""
        return f"images {self.first}..{self.first + len(self.images) - 1}"


def shards(images: Array, count: int, device: str) -> list[Shard]:
    """Return ``images``, uint8 ``(N, C, H, W)``, in ``count`` shards of equal size, or more for `SHARD_BYTES`.

    Blocks of the float networks on ``device`` are not divided.
    """
    unit = block_multiple(device)
    most = max(1, SHARD_BYTES // (unit * math.prod(images.shape[1:])))
    size = unit * min(most, math.ceil(math.ceil(len(images) / unit) / count))
    return [Shard(first, images[first : first + size]) for first in range(0, len(images), size)]


@dataclass(frozen=True, eq=False)
class DividedImages:
    """Images that workers compute on, shard by shard: uint8 ``(N, C, H, W)``.

    A slice gives other divided images, whose first image is number 0; ``numpy.asarray`` reads them in this process.

    Parameters
    ----------
    images
        The images; `StoredImages` are read by the workers.
    workers
        The workers.
    device
        As in `shards`.
    """

    images: Array
    workers: Workers
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, C, H, W)``."""
        return self.images.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return self.images.dtype

    @property
    def shards(self) -> list[Shard]:
        """The images in shards, several for each worker."""
        return shards(self.images, SHARDS_PER_WORKER * self.workers.count, self.device)

    def map(
        self,
        function: Callable[[_Shared, Shard], _Result],
        shared: _Shared,
        *,
        place: Callable[[Shard], Hashable] | None = None,
    ) -> list[_Result]:
        """Return ``function(shared, shard)`` for each shard, in order."""
        progress, done = current_progress(), 0

        def count(shard: Shard) -> None:
            nonlocal done
            done += len(shard.images)
            progress(done, len(self))

        return self.workers.map(function, shared, self.shards, place=place, done=count)

    def parts(self, function: Callable[..., _Result], **own: object) -> list[_Result]:
        """Return ``function(images=shard, **own)`` for each shard, in order; ``function`` is one of a module."""
        return self.map(_of_part, (function, own))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> DividedImages:
        return replace(self, images=self.images[index])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.images, dtype, copy=True) if copy else np.asarray(self.images, dtype)


def _of_part(call: tuple[Callable[..., _Result], dict[str, object]], shard: Shard) -> _Result:
    function, own = call
    return function(images=shard, **own)


ImageArray: TypeAlias = "Array | DividedImages"
"""uint8 ``(N, C, H, W)``: images that this process computes on, or workers."""


def joined_parts(parts: Sequence[Array]) -> Array:
    """Return arrays of consecutive images as one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


# Images x steps x neurons of the largest layer simulated at once: 16 MiB of currents per core.
_CPU_BLOCK: Final = 2**22
_GPU_BLOCK: Final = 2**26
# Most images of a float network simulated at once: powers of two.
_CPU_FLOATS: Final = 64
_GPU_FLOATS: Final = 1024


def block_size(device: str, largest: int, image_count: int, timesteps: int) -> tuple[int, int]:
    """Return the numbers of images and steps simulated at once if the largest layer has ``largest`` neurons."""
    moments = max(1, (_CPU_BLOCK if device == "cpu" else _GPU_BLOCK) // largest)
    steps = min(timesteps, moments)
    return max(1, min(moments // steps, -(-image_count // _cores(device)))), steps


def float_block_size(device: str, largest: int, timesteps: int) -> tuple[int, int]:
    """Return the same for a float network, a power of two: it depends on neither images nor cores, since the last bit
    of a sum may depend on the size of a batch."""
    images, steps = block_size(device, largest, block_multiple(device) * _cores(device), timesteps)
    return 2 ** (images - 1).bit_length(), steps


def block_multiple(device: str) -> int:
    """Return the most images that a float network takes at once. Dividing a run after a multiple changes no bit."""
    return _CPU_FLOATS if device == "cpu" else _GPU_FLOATS


class _OneThread:
    """Within it, torch's own threading is off for the calling thread and those it starts.

    Several threads may be within it, as on Dask's workers: a number of cores that one of them read while another is
    within would be 1.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within, self._cores = 0, 1

    @property
    def cores(self) -> int:
        """The number of threads that torch uses outside."""
        with self._lock:
            return self._cores if self._within else torch.get_num_threads()

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._cores = torch.get_num_threads()
            self._within += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            torch.set_num_threads(self._cores)


ONE_THREAD: Final = _OneThread()
"""The context in which a thread of `on_cores` works."""


def _cores(device: str) -> int:
    return ONE_THREAD.cores if device == "cpu" else 1


def on_cores(device: str, work: Callable[[slice], None], count: int, at_once: int) -> None:
    """Call ``work`` with each block of ``at_once`` of ``count`` images, the last one shorter, in any order.

    It is called on as many threads as torch uses, whose own threading is off meanwhile. On a GPU, one thread does all
    work.
    """
    cores, progress = _cores(device), current_progress()
    is_stopped, lock, done = threading.Event(), threading.Lock(), 0

    @torch.inference_mode()
    def guarded(start: int) -> None:
        nonlocal done
        rows = slice(start, min(start + at_once, count))
        try:
            if is_stopped.is_set():
                return
            work(rows)
            with lock:
                done += rows.stop - rows.start
                progress(done, count)
        except BaseException:
            is_stopped.set()
            raise

    with (
        on_usable_cores(),
        ONE_THREAD,
        ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as threads,
    ):
        try:
            for block in [threads.submit(guarded, start) for start in range(0, count, at_once)]:
                block.result()
        except BaseException:
            is_stopped.set()
            raise
