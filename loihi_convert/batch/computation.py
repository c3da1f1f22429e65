"""A computation that depends on nothing else, named by a digest of all that determines its result."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from loihi_convert.dependencies import installed_version
from loihi_convert.devices import torch_threads
from loihi_convert.errors import InputError, LoihiConvertError, RangeError, UnsupportedModelError, UsageError, rendered
from loihi_convert.records import Record

# Errors of the network and the options; all others may be the machine's.
_FINAL: Final = (RangeError, UnsupportedModelError, UsageError)

R = TypeVar("R", bound=Record)


def package_version() -> str:
    """Return the version of this package."""
    found = installed_version("loihi-convert")
    if found is None:
        raise UsageError("loihi-convert is not installed; its version is unknown")
    return found


@dataclass(frozen=True, kw_only=True)
class Cell(ABC, Generic[R]):
    """One computation, which any process on any machine can do.

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
        """Everything that determines the result except the version, as JSON values; no paths.

        By default the fields: a cell by its name, and a value that has a ``key`` by that.
        """
        return {"kind": type(self).__name__, **{name: _key(value) for name, value in self._fields().items()}}

    @property
    def needs(self) -> tuple[Cell[Any], ...]:
        """The cells whose results `compute` takes; by default those among the fields, one after the other.

        They need not be part of the key if it determines them.
        """
        values = [
            part for value in self._fields().values() for part in (value if isinstance(value, tuple) else [value])
        ]
        return tuple(value for value in values if isinstance(value, Cell))

    @abstractmethod
    def compute(self, needed: Sequence[Any]) -> R:
        """Return the result, given those of `needs`.

        Raises
        ------
        RangeError, UnsupportedModelError, UsageError
            If there is none: computing again would fail again.
        LoihiConvertError
            For another reason.
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
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell.

    Parameters
    ----------
    result
        A `Record` of the cell's `result_type`; None if the cell failed.
    error
        Why, one sentence.
    is_final
        Whether computing the cell again would give the same: true for a result, and for a network or options that
        cannot be converted; false if the machine failed.
    duration
        Seconds that the cell took; not part of the result.
    """

    result: Any = None
    error: str | None = None
    is_final: bool = True
    duration: float = 0.0


def compute(cell: Cell[Any], needed: Sequence[Any] = (), *, is_alone: bool = False) -> Outcome:
    """Return the outcome of ``cell``; an error becomes part of the outcome, except an interruption.

    It is computed on one thread, so that floating-point numbers are the same in every process.

    Parameters
    ----------
    needed
        The results of the cells that it needs.
    is_alone
        Whether no other process computes on this machine: a cell that `Cell.is_exact` then takes all threads.
    """
    started = time.monotonic()
    try:
        _require_version(cell)
        with nullcontext() if is_alone and cell.is_exact else torch_threads(1):
            found = Outcome(result=cell.compute(needed))
    except LoihiConvertError as error:
        found = Outcome(error=rendered(error), is_final=isinstance(error, _FINAL))
    # A bug, or a full memory, must not end the other cells; the row names it.
    except Exception as error:
        found = Outcome(error=f"{type(error).__name__}: {error}", is_final=False)
    return replace(found, duration=time.monotonic() - started)


def _require_version(cell: Cell[Any]) -> None:
    if cell.package != package_version():
        raise InputError(
            f"this machine has loihi-convert {package_version()}",
            where="package",
            expected=f"must be {cell.package}, as where the command began",
        )


def require_unchanged(found: object, expected: object, where: str | Path) -> None:
    """Raise an `InputError` if the digests of what a cell reads, ``where``, are not those of its key."""
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
    if isinstance(value, Cell):
        return value.name
    if hasattr(value, "key"):
        return value.key
    if isinstance(value, tuple):
        return [_key(part) for part in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
