"""Where torch computes: on the CPU, or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, get_args

from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import Device

if TYPE_CHECKING:
    import torch


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
        hint = "Choose a GPU by the variable CUDA_VISIBLE_DEVICES." if name.startswith("cuda:") else ""
        raise UsageError(f"found {name}", where="device", expected=one_of(get_args(Device)), hint=hint)
    has_gpu = name != "cpu" and _has_gpu()
    if name == "cuda" and not has_gpu:
        raise UsageError(
            "torch finds no GPU",
            where="device",
            hint="Use `device='cpu'`, or install a torch build with GPU support.",
        )
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
