"""Loops compiled to machine code with numba: how they are compiled, and where the result is cached.

Such loops are in files named ``*_kernels.py``; the modules that call them document them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import llvmlite.binding
from numba import njit
from numba.core import event
from numba.core.caching import FunctionCache

COMPILING: Final = "compiling loops for this processor: a few seconds, only the first time"
"""Logged, at level INFO of this module's logger, when a loop is compiled that no cache has."""

NOT_KEPT: Final = (
    "compiling loops for this processor: a few seconds, each time, as no folder for them can be written; set "
    "NUMBA_CACHE_DIR to one that can"
)
"""Logged instead where machine code cannot be kept."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; cache the machine code on disk if a cache folder can be used."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = njit(nogil=True, error_model="numpy", **options)(function)
        # A RuntimeError means that neither this folder nor the user's cache folder is writable.
        with contextlib.suppress(RuntimeError):
            # As `njit(cache=True)` does; numba has no public function for another kind of cache.
            made._cache = _OptionalCache(function)  # type: ignore[no-untyped-call]
        return cast(Callable[..., Any], made)

    return decorate


class _OptionalCache(FunctionCache):
    """A cache without which loops are compiled again, for example when the disk is full or a file is damaged."""

    def load_overload(self, *args: Any) -> Any:
        with _without_disk():
            try:
                return super().load_overload(*args)  # type: ignore[no-untyped-call]
            except OSError:
                raise
            # A file that was written in part raises whatever unpickling it meets. Then start anew.
            except Exception:
                self.flush()  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, *args: Any) -> None:
        with _without_disk():
            super().save_overload(*args)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _tell_once(f"compiled loops cannot be cached ({error.strerror or error}): every command compiles them again")


@functools.cache
def _tell_once(text: str) -> None:
    logging.getLogger(__name__).info(text)


class _FirstCompilation(event.Listener):
    """Logs `COMPILING` or `NOT_KEPT` once in a process."""

    def __init__(self) -> None:
        self._is_told = False

    def on_start(self, event: event.Event) -> None:
        dispatcher = event.data["dispatcher"]
        if dispatcher.py_func.__module__.startswith("loihi_convert.") and not self._is_told:
            self._is_told = True
            is_kept = isinstance(dispatcher._cache, _OptionalCache)
            logging.getLogger(__name__).info(COMPILING if is_kept else NOT_KEPT)

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
