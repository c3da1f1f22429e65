"""Loops as machine code (numba): the one place that knows how they are compiled, and where the result is kept.

Files of loops, ``*_kernels.py``, are called by the one module beside them that says what they are for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; keep the machine code on disk where there is a place for it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compile_ = functools.partial(njit, nogil=True, error_model="numpy", **options)
        try:
            made: Callable[..., Any] = compile_(cache=True)(function)
        except RuntimeError:
            # Neither this folder nor the user's cache folder can be written.
            made = compile_()(function)
        return made

    return decorate


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return what LLVM calls the features of this processor, as ``avx512vnni``; none where it does not know them."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, is_there in features.items() if is_there)
