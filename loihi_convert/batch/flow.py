"""Computes what is not in a folder, and reports progress."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from loihi_convert.batch.computation import Computation, Outcome, Store, outcome_of
from loihi_convert.ground.progress import Progress, no_progress

if TYPE_CHECKING:
    from loihi_convert.batch.dask_workers import DaskWorkers

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
    progress: Progress = no_progress,
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
    clock = _Clock(total, waiting, progress)
    found: dict[str, Outcome] = {}

    def known(one: Computation[Any]) -> Outcome:
        outcome = found.get(one.name) or store.get(one)
        assert outcome is not None
        return outcome

    for one, outcome in (_outcomes_here if workers is None else workers.outcomes)(waiting, known):
        found[one.name] = outcome
        if outcome.is_final:
            store.put(one, outcome)
        told(one, outcome, clock.done(one, outcome))
    return {name: outcome for name, outcome in found.items() if not outcome.is_final}


def _outcomes_here(waiting: Sequence[Computation[Any]], known: Known) -> Iterator[tuple[Computation[Any], Outcome]]:
    for one in waiting:
        yield one, outcome_of(one, list(map(known, one.needs)), is_alone=True)


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


class _Clock:
    """Counts outcomes, and estimates the time left from the seconds per work of each kind of computation so far.

    Sums, not means of ratios: a small computation takes most of its time for what a large one needs once, too.
    """

    def __init__(self, total: int, waiting: Sequence[Computation[Any]], progress: Progress) -> None:
        self._total, self._done, self._progress = total, total - len(waiting), progress
        self._started, self._durations, self._measured = time.monotonic(), 0.0, 0
        # By kind of computation.
        self._left: dict[type, float] = defaultdict(float)
        self._seconds: dict[type, float] = defaultdict(float)
        self._work: dict[type, float] = defaultdict(float)
        for one in waiting:
            self._left[type(one)] += one.work
        progress(self._done, total)

    def done(self, one: Computation[Any], outcome: Outcome) -> str:
        """Count an outcome; return how many are done and the time left, in words; empty for the last."""
        kind = type(one)
        self._durations += outcome.duration
        self._left[kind] -= one.work
        self._done += 1
        self._progress(self._done, self._total)
        if outcome.result is not None:
            self._measured += 1
            self._seconds[kind] += outcome.duration
            self._work[kind] += one.work
        if self._done == self._total:
            return ""
        text = f"{self._done} of {self._total}"
        if self._measured < _FEWEST:
            return text
        usual = sum(self._seconds.values()) / sum(self._work.values())
        left = sum(
            work * (self._seconds[kind] / self._work[kind] if kind in self._work else usual)
            for kind, work in self._left.items()
        )
        at_once = max(1.0, self._durations / (time.monotonic() - self._started))
        return f"{text}, about {duration(left / at_once)} left"
