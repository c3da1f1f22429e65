"""How images are divided into blocks, and blocks into those of each core.

A block passes through its steps layer by layer. Its currents take at most 16 MiB, 32 in a float network, or one step of
one image: memory does not grow with the number of images, and with that of steps only where rates are fitted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ground.threads import on_usable_cores

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
    """Return the same for a float network; the number of images is rounded up to a power of two.

    It depends neither on the number of images nor on that of cores, because the last bit of a sum may depend on the
    size of a batch.
    """
    images, steps = block_size(device, largest, block_multiple(device) * _cores(device), timesteps)
    return 2 ** (images - 1).bit_length(), steps


def block_multiple(device: str) -> int:
    """Return the largest number of images that a float network takes at once; smaller ones divide it.

    A run may be divided after any multiple of it: no bit of its results changes.
    """
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


def on_cores(
    device: str, work: Callable[[slice], None], count: int, at_once: int, *, progress: Progress = no_progress
) -> None:
    """Call ``work`` with each block of ``at_once`` of ``count`` images, the last one shorter, in any order.

    It is called on as many threads as torch uses, whose own threading is off meanwhile. On a GPU, one thread does all
    work.
    """
    cores = _cores(device)
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
