"""Keep freed memory in the process while a network is trained.

By default glibc returns a large tensor's memory to the kernel when the tensor is freed. The next step gets new pages,
each of which the kernel has to clear: a third of the time of a training through spikes on a virtual machine.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Final

# Parameters of mallopt, from glibc's <malloc.h>.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4

_NEVER: Final = -1
_DEFAULT_MMAP_MAX: Final = 65_536
_LARGEST_MMAP_THRESHOLD: Final = 1 << 25
"""The largest value to which glibc raises the threshold by itself, after large memory was freed."""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep all memory that is freed inside the ``with`` block until its end; do nothing without glibc.

    Afterwards glibc's thresholds are those of a process that has freed large memory, whatever they were before.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        libc.malloc_trim(0)
