"""Memory that is freed during a training is used again without new pages from the kernel."""

from __future__ import annotations

import ctypes
import re
import resource
from pathlib import Path

import pytest
import torch

from loihi_convert.cnn.fast_steps import kept_memory

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


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the kernel has no huge pages")
def test_the_kernel_is_asked_for_huge_pages() -> None:
    """For the mapping that holds a tensor; whether it has any depends on the kernel."""
    with kept_memory():
        # Untouched, and larger than what may be free already; it begins before the first huge page.
        middle = torch.empty(8 * BYTES, dtype=torch.uint8).data_ptr() + 4 * BYTES
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                inside = int(bounds[1], 16) <= middle < int(bounds[2], 16)
            elif inside and line.startswith("VmFlags:"):
                assert "hg" in line.split()
                return
    raise AssertionError("no mapping holds the tensor")
