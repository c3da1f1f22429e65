"""Computations that depend on nothing else, named by a digest of all that determines them; a folder of their outcomes.

::

    cells/<name>.json     identity, result or error, and their SHA-256; the same bytes wherever it is computed
    cells/<name>.seconds  how long it took, for estimates
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from pydantic import ValidationError

from loihi_convert.errors import InputError, LoihiConvertError, RangeError, UnsupportedModelError, UsageError, rendered
from loihi_convert.ground.dependencies import installed_version
from loihi_convert.ground.devices import torch_threads
from loihi_convert.ground.files import make_folder, write_atomically
from loihi_convert.ground.options import Record
from loihi_convert.ground.progress import current_progress, quiet

if TYPE_CHECKING:
    from loihi_convert.batch.clusters import DaskWorkers

# Errors of the network and the options; all others may be the machine's.
_FINAL: Final = (RangeError, UnsupportedModelError, UsageError)
_REMOVE: Final = "Delete it to compute it again."

R = TypeVar("R", bound=Record)


def package_version() -> str:
    """Return the version of this package."""
    found = installed_version("loihi-convert")
    if found is None:
        raise UsageError("loihi-convert is not installed; its version is unknown")
    return found


@dataclass(frozen=True, kw_only=True)
class Computation(ABC, Generic[R]):
    """What any process on any machine can compute, such as a cell of a sweep or of the paper's tables.

    Parameters
    ----------
    package
        Version of this package.
    work
        Approximate number of multiplications by a weight; not part of `name`.
    """

    result_type: ClassVar[type[Record]]
    format: ClassVar[int] = 2
    """Goes up when a change of the package changes results of this kind, which are then computed again."""
    is_exact: ClassVar[bool] = False
    """Whether the result is the same on any number of threads, as that of integers is."""

    package: str = field(default_factory=package_version)
    work: float = field(default=1.0, compare=False)

    @property
    def key(self) -> Mapping[str, Any]:
        """Everything that determines the result except the version, as JSON values; no paths. By default the fields."""
        return {"kind": type(self).__name__, **{name: _key(value) for name, value in self._fields().items()}}

    @property
    def needs(self) -> tuple[Computation[Any], ...]:
        """The computations whose results `compute` takes; by default those among the fields, one after the other.

        They need not be part of the key if it determines them.
        """
        values = [
            part for value in self._fields().values() for part in (value if isinstance(value, tuple) else [value])
        ]
        return tuple(value for value in values if isinstance(value, Computation))

    @abstractmethod
    def compute(self, needed: Sequence[Any]) -> R:
        """Return the result, given those of `needs`.

        A `RangeError`, `UnsupportedModelError` or `UsageError` says that computing again would fail again.
        """

    def _fields(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("package", "work")}

    @property
    def identity(self) -> Mapping[str, Any]:
        """`key`, and the version of the package."""
        return {"format": self.format, "package": self.package, **self.key}

    @cached_property
    def name(self) -> str:
        """SHA-256 of `identity`, hexadecimal."""
        return _digest(self.identity)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a computation.

    Parameters
    ----------
    result
        A `Record` of its `result_type`; None if it failed.
    error
        Why, one sentence.
    is_final
        Whether computing again would give the same: true for a result, and for a network or options that cannot be
        converted; false if the machine failed.
    duration
        Seconds that it took; not part of the result.
    """

    result: Any = None
    error: str | None = None
    is_final: bool = True
    duration: float = 0.0


def outcome_of(one: Computation[Any], needed: Sequence[Outcome] = (), *, is_alone: bool = False) -> Outcome:
    """Return the outcome of ``one``; an error becomes part of the outcome, except an interruption.

    It is computed on one thread, so that floating-point numbers are the same in every process.

    Parameters
    ----------
    needed
        The outcomes of what it needs; the error of one is its own error.
    is_alone
        Whether no other process computes on this machine: what `Computation.is_exact` then takes all threads.
    """
    started = time.monotonic()
    for other in needed:
        if other.result is None:
            return replace(other, duration=0.0)
    try:
        with nullcontext() if is_alone and one.is_exact else torch_threads(1):
            found = Outcome(result=one.compute([other.result for other in needed]))
    except LoihiConvertError as error:
        found = Outcome(error=rendered(error), is_final=isinstance(error, _FINAL))
    # A bug, or a full memory, must not end the others; the row names it.
    except Exception as error:
        found = Outcome(error=f"{type(error).__name__}: {error}", is_final=False)
    return replace(found, duration=time.monotonic() - started)


class Store:
    """Outcomes in a folder.

    Parameters
    ----------
    folder
        Where `create` makes it.
    parameter
        Name of the parameter that chose it, for errors.
    """

    def __init__(self, folder: Path, parameter: str = "output") -> None:
        self.folder, self._parameter = folder, parameter
        self._cells = folder / "cells"

    def create(self) -> None:
        """Create the folder; raise an `InputError` if that is not possible."""
        make_folder(self._cells, self._parameter)

    def get(self, one: Computation[Any]) -> Outcome | None:
        """Return the stored outcome, or None; raise an `InputError` if its file is damaged.

        None, too, if it was stored by an earlier version, without its digest.
        """
        path = self.path(one)
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({error})", where=path, hint=_REMOVE) from error
        try:
            content = json.loads(text)
            if content["key"] != json.loads(json.dumps(one.identity)):
                raise InputError("its contents do not match its name", where=path, hint=_REMOVE)
            stored = content.pop("sha256", None)
            if stored is None:
                return None
            if stored != _digest(content):
                raise InputError("changed since it was computed: its SHA-256 differs", where=path, hint=_REMOVE)
            if "error" in content:
                return Outcome(error=str(content["error"]))
            return Outcome(result=one.result_type.model_validate_json(json.dumps(content["result"])))
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            raise InputError("not the result of a cell", where=path, hint=_REMOVE) from error

    def put(self, one: Computation[Any], outcome: Outcome) -> None:
        """Store a final outcome; its file is written completely or not at all.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        assert outcome.is_final
        result = outcome.result
        found = {"error": outcome.error} if result is None else {"result": result.model_dump(mode="json")}
        content = {"key": one.identity, **found}
        content["sha256"] = _digest(content)
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        try:
            write_atomically(self.path(one), (text + "\n").encode())
        except InputError as error:
            hint = "Finished cells are kept. Make the folder writable, and run the same command again to continue."
            raise InputError(error.found, where=self._cells, hint=hint) from error
        # A refusal takes no time.
        if outcome.result is not None:
            with suppress(InputError):
                write_atomically(self.path(one, "seconds"), f"{outcome.duration:.3f}\n".encode())

    def duration(self, one: Computation[Any]) -> float | None:
        """Return how many seconds it took, if known."""
        try:
            return float(self.path(one, "seconds").read_text())
        except (OSError, ValueError):
            return None

    def path(self, one: Computation[Any], suffix: str = "json") -> Path:
        """Return the file of its outcome."""
        return self._cells / f"{one.name}.{suffix}"


def require_unchanged(found: object, expected: object, where: str | Path) -> None:
    """Raise an `InputError` if the digests of what is read, ``where``, are not those of its key."""
    if found != expected:
        raise InputError(
            "has changed since the command began, or differs on this machine",
            where=where,
            hint="Start the command again. If workers of a cluster were started before it changed, start new ones.",
        )


@contextmanager
def opened_before() -> Iterator[None]:
    """Turn errors of a network that the command has opened into errors of this machine: of its files or memory."""
    try:
        yield
    except (UnsupportedModelError, UsageError) as error:
        raise InputError(error.found, where=error.where, expected=error.expected, hint=error.hint) from error


def _key(value: Any) -> Any:
    if isinstance(value, Computation):
        return value.name
    if hasattr(value, "key"):
        return value.key
    if isinstance(value, tuple):
        return [_key(part) for part in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# Fewest results from which the time left is estimated.
_FEWEST: Final = 3

Told = Callable[[Computation[Any], Outcome, str], None]
"""Called after each outcome with how many are done and the time left, in words; empty for the last."""

Known = Callable[[Computation[Any]], Outcome]
"""Returns the outcome of what is stored, or was computed before."""


def missing(wanted: Sequence[Computation[Any]], store: Store) -> tuple[Computation[Any], ...]:
    """Return what is not in ``store``, each after what it needs and is missing, too."""
    found: dict[str, Computation[Any] | None] = {}

    def add(one: Computation[Any]) -> None:
        if one.name in found:
            return
        is_missing = store.get(one) is None
        for need in one.needs if is_missing else ():
            add(need)
        found[one.name] = one if is_missing else None

    for one in wanted:
        add(one)
    return tuple(one for one in found.values() if one is not None)


def compute_missing(
    wanted: Sequence[Computation[Any]],
    store: Store,
    workers: DaskWorkers | None = None,
    *,
    told: Told = lambda one, outcome, left: None,
) -> dict[str, Outcome]:
    """Compute what is `missing` and put it into ``store``; return the outcomes that are not final, by name.

    ``workers`` None: this process computes.

    Raises
    ------
    InputError
        If the folder cannot be used or is full, at the first outcome that is not kept.
    PlatformError
        If the workers are gone. What is finished is kept.
    """
    store.create()
    waiting = missing(wanted, store)
    total = len({one.name for one in (*wanted, *waiting)})
    done, left = total - len(waiting), sum(one.work for one in waiting)
    progress, started, measured = current_progress(), time.monotonic(), list[float]()
    found: dict[str, Outcome] = {}

    def known(one: Computation[Any]) -> Outcome:
        outcome = found.get(one.name) or store.get(one)
        assert outcome is not None
        return outcome

    progress(done, total)
    for one, outcome in (_outcomes_here if workers is None else workers.outcomes)(waiting, known):
        found[one.name] = outcome
        if outcome.is_final:
            store.put(one, outcome)
        done, left = done + 1, left - one.work
        progress(done, total)
        if outcome.result is not None:
            measured.append(one.work)
        state = f"{done} of {total}" if done < total else ""
        if state and len(measured) >= _FEWEST:
            state += f", about {duration((time.monotonic() - started) * left / sum(measured))} left"
        told(one, outcome, state)
    return {name: outcome for name, outcome in found.items() if not outcome.is_final}


_VERIFIED: Final = 3
"""Outcomes that `recomputed` computes again: each takes as long as before."""


def recomputed(wanted: Sequence[Computation[Any]], store: Store) -> str:
    """Compute some stored outcomes of ``wanted`` again, evenly spaced, and return a sentence on how many.

    Raises
    ------
    InputError
        If one differs, or is damaged; the digests of all are compared, see `Store.get`.
    """
    known = {one.name: (one, outcome) for one in wanted if (outcome := store.get(one)) is not None}
    chosen = [*known.values()][:: -(-len(known) // _VERIFIED) or 1]
    with tempfile.TemporaryDirectory() as folder:
        failed = compute_missing([one for one, _ in chosen], again := Store(Path(folder)))
        for one, outcome in chosen:
            if (found := failed.get(one.name) or again.get(one)) != outcome:
                why = (found and found.error) or "another result"
                raise InputError(f"computed again: {why}", where=store.path(one), hint=_REMOVE)
    return f"{len(chosen)} of {len(known)} cells computed again: equal; the SHA-256 of every cell matches"


def _outcomes_here(waiting: Sequence[Computation[Any]], known: Known) -> Iterator[tuple[Computation[Any], Outcome]]:
    for one in waiting:
        with quiet():
            outcome = outcome_of(one, list(map(known, one.needs)), is_alone=True)
        yield one, outcome


def estimated_seconds(
    left: Sequence[Computation[Any]], every: Sequence[Computation[Any]], store: Store, seconds_per_work: float
) -> tuple[float, int]:
    """Return how many seconds ``left`` takes on one core, and from how many measured ones of ``every`` this follows.

    With none, a multiplication takes ``seconds_per_work``.
    """
    measured = [(one.work, store.duration(one)) for one in every]
    rates = [seconds / work for work, seconds in measured if seconds is not None]
    rate = statistics.median(rates) if rates else seconds_per_work
    return rate * sum(one.work for one in left), len(rates)


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
