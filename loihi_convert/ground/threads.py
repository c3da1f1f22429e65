"""The usable cores, the number of threads of a computation, and how idle threads wait.

OpenMP's threads spin for milliseconds while they wait. If other programs need the cores too, a small network then takes
ten times as long on two threads as on one: each of its hundreds of parallel regions waits for a thread that cannot run.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MULTIPLY_ADDS_PER_THREAD: Final = 32_000_000
"""With less work a thread costs more than it saves: about a millisecond of arithmetic, over about ten layers."""

_BINDING: Final = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_LIBRARIES: Final = ("libgomp", "libomp", "libiomp5")


def usable_core_count() -> int:
    """Return the number of cores that this process may use, or all where the system does not tell, such as macOS."""
    return len(_usable_cores()) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def on_usable_cores() -> Iterator[None]:
    """Let threads and processes that are started meanwhile use all cores that this process may use.

    They inherit the cores of the thread that starts them, which is bound to a single one if it has loaded OpenMP under
    ``OMP_PROC_BIND`` or ``OMP_PLACES``. Clusters set these.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    cores = _usable_cores() if before else before
    if cores == before:
        yield
        return
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _usable_cores() -> set[int]:
    """The cores of this thread and, if OpenMP has bound it to some of them, all those that OpenMP uses."""
    return os.sched_getaffinity(0).union(*(_cores_of_openmp(library) for library in _openmp_libraries()))


def _openmp_libraries() -> set[str]:
    """Paths of the OpenMP libraries that this process has loaded, if they may bind threads."""
    if not any(name in os.environ for name in _BINDING):
        return set()
    try:
        mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    except OSError:
        return set()
    paths = {fields[5] for fields in mapped if len(fields) == 6}
    return {path for path in paths if Path(path).name.startswith(_LIBRARIES) and ".so" in Path(path).name}


def _cores_of_openmp(path: str) -> set[int]:
    """The cores of all places (OpenMP 4.5); none if the library binds no threads."""
    try:
        library = ctypes.CDLL(path)
        cores: set[int] = set()
        for place in range(library.omp_get_num_places()):
            numbers = (ctypes.c_int * library.omp_get_place_num_procs(place))()
            library.omp_get_place_proc_ids(place, numbers)
            cores.update(numbers)
    except (OSError, AttributeError):
        return set()
    return cores


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
