"""What is computed on Dask: computations, or a function of many items that share much, each worker getting that once.

A worker returns what comes out; only this process writes, so workers need no access to its folder. They read the
checkpoints and images, under the same paths.
"""

from __future__ import annotations

import pickle
import platform
import threading
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from distributed import Client, as_completed, get_worker

from loihi_convert.batch.computation import Computation, Outcome, outcome_of
from loihi_convert.batch.flow import Known
from loihi_convert.errors import LoihiConvertError, PlatformError, rendered
from loihi_convert.ground.dependencies import installed_version

SAME_VERSIONS: Final = ("loihi-convert", "torch", "numpy")
"""Packages of which each worker must have the version of this process, for the same result to the last bit."""

# A worker with a queue of one item does not wait for this process.
_ITEMS_PER_WORKER: Final = 2

_COMPUTING: Final = threading.Lock()
"""Held in a worker while it computes: if it has several threads, they would change the number of threads of torch and
the output of each other's items."""

_Shared = TypeVar("_Shared")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DaskWorkers:
    """The workers of a Dask client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # The worker that computed an item of each place last.
        self._addresses: dict[Hashable, str] = {}

    @property
    def count(self) -> int:
        """The number of workers, at least 1."""
        return max(1, len(self._client.nthreads()))

    def map(
        self,
        function: Callable[[_Shared, _Item], _Result],
        shared: _Shared,
        items: Sequence[_Item],
        *,
        place: Callable[[_Item], Hashable] | None = None,
        done: Callable[[_Item], None] = lambda item: None,
    ) -> list[_Result]:
        """Return ``function(shared, item)`` for each of ``items``, in their order; ``done`` is called as each ends.

        An item is computed again if its worker dies, a few times. Items with the same ``place`` go to the same worker,
        unless it is busy and another one is idle.

        Parameters
        ----------
        function
            A function of a module, of which only the name is sent.
        shared, items
            Values that can be pickled; ``str(item)`` names an item in an error.

        Raises
        ------
        LoihiConvertError
            The first error of ``function``.
        PlatformError
            If a worker died, each time, while it computed an item; or has other versions than this process; or if the
            scheduler is gone.
        """
        waiting, running = deque(enumerate(items)), dict[Any, tuple[int, _Item]]()
        found: dict[int, _Result] = {}
        finished = as_completed()
        # As a task, not as scattered data: if its worker dies, another one gets it from the scheduler.
        kept = self._submit(_unchanged, _Packed(shared))
        try:
            while waiting or running:
                while waiting and len(running) < _ITEMS_PER_WORKER * self.count:
                    index, item = waiting.popleft()
                    address = None if place is None else self._addresses.get(place(item))
                    # A worker that is gone is not waited for.
                    near = {} if address is None else {"workers": [address], "allow_other_workers": True}
                    future = self._submit(_call, versions_here(), function, kept, item, **near)
                    running[future] = index, item
                    finished.add(future)
                future = next(finished)
                index, item = running.pop(future)
                address, found[index] = _result(future, item)
                if place is not None:
                    self._addresses[place(item)] = address
                done(item)
        finally:
            self._client.cancel([*running, kept], force=True)
        return [found[index] for index in range(len(items))]

    def outcomes(self, waiting: Sequence[Computation[Any]], known: Known) -> Iterator[tuple[Computation[Any], Outcome]]:
        """Yield what ``waiting``, each after what it needs, gives, as each ends; ``known`` is what is not among it.

        Raises
        ------
        PlatformError
            If the scheduler is gone.
        """
        futures: dict[str, Any] = {}
        running: dict[Any, Computation[Any]] = {}
        for one in waiting:
            needed = [futures.get(need.name) or known(need) for need in one.needs]
            future = self._submit(_outcome, versions_here(), one, *needed, key=f"cell-{one.name}")
            futures[one.name], running[future] = future, one
        futures.clear()
        for future in as_completed(list(running)):
            one = running.pop(future)
            if future.status == "finished":
                yield one, future.result()
                continue
            error = error_of(future, "it", gone="Finished cells are kept. Run the same command again for the rest.")
            reason = rendered(error) if isinstance(error, LoihiConvertError) else f"{type(error).__name__}: {error}"
            yield one, Outcome(error=reason, is_final=False)

    def _submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            # Dask warns about large arguments, such as files.
            warnings.simplefilter("ignore", UserWarning)
            return self._client.submit(function, *arguments, pure=False, **options)


class _Packed:
    """A pickled value, which a worker unpickles after its versions were compared."""

    def __init__(self, value: object) -> None:
        self.content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


@lru_cache(maxsize=1)
def _unpacked(content: bytes) -> Any:
    """Return the value, kept for the next item of the same worker."""
    return pickle.loads(content)


def _unchanged(value: _Packed) -> _Packed:
    return value


def _call(
    versions: Mapping[str, str], function: Callable[[Any, Any], Any], shared: _Packed, item: Any
) -> tuple[str, Any]:
    """Compute an item in a worker; return the worker's address, and the result."""
    require_versions(versions)
    with _COMPUTING:
        return get_worker().address, function(_unpacked(shared.content), item)


def _outcome(versions: Mapping[str, str], one: Computation[Any], *needed: Outcome) -> Outcome:
    """As `outcome_of`, in a worker, which must have ``versions``."""
    try:
        require_versions(versions)
    except PlatformError as error:
        return Outcome(error=rendered(error), is_final=False)
    with _COMPUTING:
        return outcome_of(one, needed)


def require_versions(versions: Mapping[str, str]) -> None:
    """Raise a `PlatformError` if this process has others than ``versions``, those of another process."""
    for name, here in versions_here().items():
        if here != versions[name]:
            raise PlatformError(
                f"the worker on {platform.node()} has {name} {here or '(none)'}",
                where="Dask",
                expected=f"must be {versions[name] or '(none)'}, as where the command runs",
                hint="Install the same environment everywhere.",
            )


def versions_here() -> dict[str, str]:
    """Return the versions of `SAME_VERSIONS`; empty texts for what is not installed."""
    return {name: installed_version(name) or "" for name in SAME_VERSIONS}


def error_of(future: Any, item: object, *, gone: str) -> Exception:
    """Return the error of a future that has ended without a result for ``item``; dead workers are a `PlatformError`.

    Raises
    ------
    PlatformError
        If the scheduler is gone, with the hint ``gone``.
    """
    if future.status != "error":
        raise PlatformError("has ended, or cannot be reached any more", where="Dask scheduler", hint=gone)
    error: Exception = future.exception()
    if type(error).__name__ != "KilledWorker":
        return error
    last = getattr(getattr(error, "last_worker", None), "address", None) or "unknown"
    return PlatformError(
        f"every worker that computed {item} died, the last at {last}",
        where="Dask",
        hint="The memory or the time limit of a worker may be too small.",
    )


def _result(future: Any, item: object) -> tuple[str, Any]:
    """What `_call` returned in a future that has ended.

    Raises
    ------
    LoihiConvertError
        As in `DaskWorkers.map`.
    """
    if future.status == "finished":
        found: tuple[str, Any] = future.result()
        return found
    error = error_of(future, item, gone="Run the same command again.")
    if isinstance(error, LoihiConvertError | MemoryError):
        raise error
    raise PlatformError(
        f"{item} cannot be computed by a worker ({type(error).__name__}: {error})",
        where="Dask",
        hint="If it can be computed without a cluster, the environments differ: install the same one everywhere.",
    ) from error
