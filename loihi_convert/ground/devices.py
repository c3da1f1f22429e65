"""Where torch computes: on the CPU, or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import Device

if TYPE_CHECKING:
    import torch

MULTIPLY_ADDS_PER_THREAD: Final = 32_000_000
"""With less work a thread costs more than it saves: about a millisecond of arithmetic, over about ten layers."""

_CORES: Final = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
"""The cores of this process before torch loads OpenMP, which under ``OMP_PROC_BIND`` binds this thread to one of them.
Clusters set that."""


def usable_core_count() -> int:
    """Return the number of cores that this process may use, or all where the system does not tell, such as macOS."""
    return len(_CORES) or os.cpu_count() or 1


@contextmanager
def on_usable_cores() -> Iterator[None]:
    """Let threads and processes that are started meanwhile use all cores that this process may use.

    They inherit the cores of the thread that starts them.
    """
    before = os.sched_getaffinity(0) if _CORES else _CORES
    if before == _CORES:
        yield
        return
    os.sched_setaffinity(0, _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def thread_count(multiply_adds: int, available: int) -> int:
    """Return how many threads a step of ``multiply_adds`` gets: 1..``available``, each with enough work."""
    # The order of floating-point sums depends on it: a small step gets 1 thread on every machine.
    return min(available, max(1, multiply_adds // MULTIPLY_ADDS_PER_THREAD))


def wait_passively() -> None:
    """Let idle threads sleep instead of spin, in this process and its children, unless the user has set a policy."""
    # OpenMP reads this when it is loaded, so torch must not be imported yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


AnyDevice: TypeAlias = "Device | torch.device"


def chosen_device(device: str | torch.device) -> str:
    """Return the name of ``device``: ``auto`` is a GPU if torch finds one, ``cuda:0`` is the same as ``cuda``.

    Raises
    ------
    UsageError
        If it is another device, or this machine lacks it.
    """
    name = "cuda" if str(device) == "cuda:0" else str(device)
    if name not in get_args(Device):
        expected = f"{one_of(get_args(Device))}; CUDA_VISIBLE_DEVICES chooses a GPU"
        raise UsageError(f"found {name}", where="device", expected=expected)
    has_gpu = name != "cpu" and _has_gpu()
    if name == "cuda" and not has_gpu:
        raise UsageError("torch finds no GPU", where="device", expected="must be `device='cpu'` without one")
    return "cuda" if has_gpu else "cpu"


def _has_gpu() -> bool:
    # Loads torch, which not every command needs.
    import torch

    return torch.cuda.is_available()


def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32: with AMX, or AVX512-BF16 on AMD's.

    On an Emerald Rapids without AMX, which has AVX512's dot products, too, they take longer than float32.
    """
    import torch

    from loihi_convert.ground.compiled import cpu_name

    # Not public in any release so far; torch below 2.6 has at most one of them.
    has_dot_products, has_amx = (
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return bool(has_amx or (has_dot_products and cpu_name().startswith("znver")))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads of the CPU within this context.

    With one, several processes share the cores, and sums keep their order.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
