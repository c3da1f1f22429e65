"""The context in which torch's float32 products and sums of integers are exact: settings that round are off.

For speed, a program may let torch round operands to bfloat16 (8 bits) or TF32 (11 bits). A sum of spikes or pixels over
a pooling window, or a digit of a graded spike, may need more bits.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final

import torch

from loihi_convert.errors import UsageError

# oneDNN reads the first that is set, once.
_FPMATH_MODES: Final = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")

# Since torch 2.9; "none" inherits from the setting above it.
_PRECISION: Final = "fp32_precision"


class SharedSetting:
    """A setting of torch that holds while any thread is within it.

    Such a setting is one for all threads: restored by each as it found it, it would return while others are still
    within.

    Parameters
    ----------
    setting
        Opens a context in which it holds.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[object]]) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._open = setting
        self._setting = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._setting.enter_context(self._open())
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._setting.close()


@contextlib.contextmanager
def exact_products(device: str = "cpu") -> Iterator[None]:
    """Within it, float32 products on ``device``, ``"cpu"`` or another torch device, round no operand.

    Raises
    ------
    UsageError
        If the environment tells oneDNN to round.
    """
    # autocast is a setting of each thread; the others are one for all.
    with _UNROUNDED, torch.autocast(torch.device(device).type, enabled=False):
        yield


@contextlib.contextmanager
def _unrounded() -> Iterator[None]:
    for name in _FPMATH_MODES:
        if (mode := os.environ.get(name) or "STRICT").upper() != "STRICT":
            expected = "must be STRICT or not set: other modes round the operands of float32 products"
            raise UsageError(f"found {mode!r}", where=f"environment variable {name}", expected=expected)
    # NNPACK's transforms (Winograd, Fourier) round.
    with torch.backends.nnpack.flags(enabled=False), ExitStack() as restored:
        backends: Any = torch.backends
        if hasattr(backends.cuda.matmul, _PRECISION):
            for backend in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
                before = getattr(backend, _PRECISION)
                # "none" where no setting above it rounds.
                if before not in ("none", "ieee"):
                    setattr(backend, _PRECISION, "ieee")
                    restored.callback(_restore, backend, before)
        else:
            # torch before 2.9, which has one setting for matrix products, and none that rounds convolutions on a CPU.
            restored.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


def _restore(backend: object, before: str) -> None:
    """Set ``backend`` to inherit, if that gives the precision ``before``, or to it."""
    for precision in ("none", before):
        setattr(backend, _PRECISION, precision)
        if getattr(backend, _PRECISION) == before:
            return


_UNROUNDED: Final = SharedSetting(_unrounded)
