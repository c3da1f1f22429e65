"""Loops compiled to machine code with numba: how they are compiled, and where the result is cached.

Such loops are in files named ``*_kernels.py``, each called by one module next to it, which documents them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from numba import njit


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


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return LLVM's names of this processor's features, such as ``avx512vnni``; empty if it cannot tell."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, is_there in features.items() if is_there)
