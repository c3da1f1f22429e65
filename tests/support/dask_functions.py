"""Functions and computations for workers of Dask, which import them by name."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from loihi_convert.batch.computation import Computation
from loihi_convert.errors import DataError, RangeError
from loihi_convert.ground.options import Record


class Number(Record):
    """The result of a test cell."""

    value: int


@dataclass(frozen=True)
class Numbered(Computation[Number]):
    """Its number, plus those of the cells that it needs."""

    result_type: ClassVar[type[Record]] = Number

    number: int
    before: tuple[Numbered, ...] = ()

    @property
    def key(self) -> Mapping[str, Any]:
        return {"number": self.number}

    @property
    def needs(self) -> tuple[Numbered, ...]:
        return self.before

    def compute(self, needed: Sequence[Number]) -> Number:
        return Number(value=self.number + sum(one.value for one in needed))


class Failing(Numbered):
    """Has no result."""

    def compute(self, needed: Sequence[Number]) -> Number:
        raise RangeError("too large", where="fc")


class Killing(Numbered):
    """Kills its worker."""

    def compute(self, needed: Sequence[Number]) -> Number:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(needed)


RUNNING: set[int] = set()


def at_once(seconds: float, item: int) -> int:
    """Return how many items this process computes at the same time."""
    RUNNING.add(item)
    time.sleep(seconds)
    found = len(RUNNING)
    RUNNING.discard(item)
    return found


@dataclass(frozen=True)
class AtOnce(Numbered):
    """How many cells this process computes at the same time."""

    def compute(self, needed: Sequence[Number]) -> Number:
        return Number(value=at_once(0.02, self.number))


def times(factor: int, item: int) -> int:
    return factor * item


def refused(where: str, item: int) -> int:
    if item == 2:
        raise DataError("is broken", where=where, expected="must be whole", hint="Mend it.")
    return item


def stumbling(folder: Path, item: int) -> int:
    """Die once while computing item 1, and always while computing item 3."""
    if item == 3 or (item == 1 and not (folder / "died").exists()):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def unexpected(shared: None, item: int) -> int:
    return [shared][item]  # type: ignore[return-value]


def page_faults(size: int, item: int) -> int:
    """The page faults of this process while it makes ``item`` arrays of ``size`` bytes, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(item):
        np.ones(size, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
