"""Loops compiled to machine code with numba: how they are compiled, and where the result is cached.

Such loops are in files named ``*_kernels.py``, each called by one module next to it, which documents them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import llvmlite.binding
from numba import njit
from numba.core import event

COMPILING: Final = "compiling loops for this processor: about ten seconds, only the first time"
"""Logged, at level INFO of this module's logger, when a loop is compiled that no cache has."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; cache the machine code on disk if a cache folder is writable."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_ = functools.partial(njit, nogil=True, error_model="numpy", **options)
        try:
            made: Callable[..., Any] = compile_(cache=True)(function)
        except RuntimeError:
            # Neither this folder nor the user's cache folder is writable.
            made = compile_()(function)
        return made

    return decorate


class _FirstCompilation(event.Listener):
    """Logs `COMPILING` once in a process."""

    def __init__(self) -> None:
        self._is_told = False

    def on_start(self, event: event.Event) -> None:
        is_ours = event.data["dispatcher"].py_func.__module__.startswith(f"{__package__}.")
        if is_ours and not self._is_told:
            self._is_told = True
            logging.getLogger(__name__).info(COMPILING)

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _FirstCompilation())  # type: ignore[no-untyped-call]


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return LLVM's names of this processor's features, such as ``avx512vnni``; empty if it cannot tell."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, is_there in features.items() if is_there)


def cpu_name() -> str:
    """Return LLVM's name of this kind of processor, such as ``znver5`` or ``sapphirerapids``."""
    return str(llvmlite.binding.get_host_cpu_name())
