"""Memory that is freed during a training is used again without new pages from the kernel."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from loihi_convert.cnn.kept_memory import kept_memory

BYTES = 1 << 26
PAGES = BYTES // resource.getpagesize()

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")


def filled() -> int:
    """Fill a large tensor and free it; return how many pages the kernel added to the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(BYTES, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_freed_memory_is_used_again() -> None:
    with kept_memory():
        filled()
        assert filled() < PAGES / 10


def test_it_is_returned_at_the_end() -> None:
    with kept_memory():
        filled()
        during = resident_bytes()
    assert resident_bytes() < during - BYTES / 2
