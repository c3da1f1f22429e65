"""How many threads a computation gets, and how those wait that have nothing to do.

OpenMP's threads spin for milliseconds when they wait. Where other programs want the cores too, a small network then
takes ten times as long on two threads as on one: each of its hundreds of parallel regions waits for a thread that
cannot run.
"""

from __future__ import annotations

import os
from typing import Final

MULTIPLY_ADDS_PER_THREAD: Final = 32_000_000
"""Below this a thread costs more than it saves: about a millisecond of arithmetic, spread over some ten layers."""


def thread_count(multiply_adds: int, available: int) -> int:
    """Return how many threads a step of ``multiply_adds`` gets: 1..``available``, each with enough to do.

    A small step gets 1 on every machine, so its floating-point sums, whose order depends on the number of threads, do
    not depend on the machine's cores.
    """
    return min(available, max(1, multiply_adds // MULTIPLY_ADDS_PER_THREAD))


def wait_passively() -> None:
    """Let idle threads sleep instead of spin, in this process and those it starts, unless the user says otherwise.

    OpenMP reads this when it is loaded, so it must be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
