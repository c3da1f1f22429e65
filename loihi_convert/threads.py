"""The number of usable cores, the number of threads of a computation, and how idle threads wait.

OpenMP's threads spin for milliseconds while they wait. If other programs need the cores too, a small network then takes
ten times as long on two threads as on one: each of its hundreds of parallel regions waits for a thread that cannot run.
"""

from __future__ import annotations

import os
from typing import Final

MULTIPLY_ADDS_PER_THREAD: Final = 32_000_000
"""With less work a thread costs more than it saves: about a millisecond of arithmetic, over about ten layers."""


def usable_core_count() -> int:
    """Return the number of cores that this process may use, or all where the system does not tell, such as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(multiply_adds: int, available: int) -> int:
    """Return how many threads a step of ``multiply_adds`` gets: 1..``available``, each with enough work.

    A small step gets 1 thread on every machine. The order of floating-point sums depends on the number of threads, so
    it does not depend on the machine's cores.
    """
    return min(available, max(1, multiply_adds // MULTIPLY_ADDS_PER_THREAD))


def wait_passively() -> None:
    """Let idle threads sleep instead of spin, in this process and its children, unless the user has set a policy.

    OpenMP reads this when it is loaded, so it must be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
