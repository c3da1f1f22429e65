"""Computes the cells that are not in a folder, and reports progress."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from loihi_convert.batch.computation import Cell, Outcome
from loihi_convert.batch.executors import Executor
from loihi_convert.batch.store import Claim, Store
from loihi_convert.progress import Progress, no_progress

_POLL_SECONDS: Final = 0.5
# Fewest cells from which the time left is estimated.
_FEWEST: Final = 3

Told = Callable[[Cell[Any], Outcome, str], None]
"""Called after each computed cell with how many are done and the time left, in words; empty for the last."""


def missing(cells: Sequence[Cell[Any]], store: Store) -> tuple[Cell[Any], ...]:
    """Return the cells that are not in ``store``, each after the missing cells that it needs."""
    found: dict[str, Cell[Any] | None] = {}

    def add(cell: Cell[Any]) -> None:
        if cell.name in found:
            return
        is_missing = store.get(cell) is None
        for need in cell.needs if is_missing else ():
            add(need)
        found[cell.name] = cell if is_missing else None

    for cell in cells:
        add(cell)
    return tuple(cell for cell in found.values() if cell is not None)


def compute_missing(
    cells: Sequence[Cell[Any]],
    store: Store,
    executor: Executor,
    *,
    told: Told = lambda cell, outcome, left: None,
    progress: Progress = no_progress,
) -> dict[str, Outcome]:
    """Compute `missing` cells and put them into ``store``; return the outcomes that are not final, by name.

    A cell that another command computes in the same folder is left to it. A cell that needs one that fails has its
    error.

    Raises
    ------
    InputError
        If the folder cannot be used or is full, at the first cell that is not kept.
    PlatformError
        As in `Executor.next_done`. Finished cells are kept.
    """
    store.create()
    waiting = missing(cells, store)
    total = len({cell.name for cell in (*cells, *waiting)})
    computing = _Computing(waiting, store, executor, told, _Clock(total, waiting, progress))
    try:
        computing.all()
    finally:
        computing.release()
    return computing.unfinished


class _Computing:
    """Keeps an executor busy until no cell is left."""

    def __init__(
        self, waiting: Sequence[Cell[Any]], store: Store, executor: Executor, told: Told, clock: _Clock
    ) -> None:
        self.unfinished: dict[str, Outcome] = {}
        self._waiting = deque(waiting)
        self._store, self._executor, self._told, self._clock = store, executor, told, clock
        self._claims: dict[str, Claim] = {}
        self._needed: dict[str, Outcome] = {}

    def all(self) -> None:
        while self._waiting or self._claims:
            self._submit()
            if self._claims:
                cell, outcome = self._executor.next_done()
                self._finish(cell, outcome)
                self._release(cell)
            elif self._waiting:
                # Others compute all that is left.
                time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Let others have what is not finished."""
        for claim in self._claims.values():
            claim.release()

    def _release(self, cell: Cell[Any]) -> None:
        # Ctrl-C may come between the two: a claim that is not in the list would never be released.
        self._claims[cell.name].release()
        del self._claims[cell.name]

    def _submit(self) -> None:
        """Give the executor as many cells as it has slots; look at each waiting cell at most once."""
        slots = self._executor.slots
        for _ in range(len(self._waiting)):
            if len(self._claims) >= slots:
                return
            cell = self._waiting.popleft()
            needed = [self._outcome(need) for need in cell.needs]
            failed = next((one for one in needed if one is not None and one.result is None), None)
            if failed is not None:
                self._finish(cell, Outcome(error=failed.error, is_final=failed.is_final))
                continue
            claim = None if None in needed else self._store.claim(cell)
            if claim is None:
                self._waiting.append(cell)
                continue
            self._claims[cell.name] = claim
            if self._store.get(cell) is not None:
                self._release(cell)
                self._clock.count(cell)
            else:
                self._executor.submit(cell, tuple(one.result for one in needed if one is not None))

    def _outcome(self, need: Cell[Any]) -> Outcome | None:
        """The outcome of a cell that another one needs; None if it is not computed."""
        known = self._needed.get(need.name) or self.unfinished.get(need.name) or self._store.get(need)
        if known is not None:
            self._needed[need.name] = known
        return known

    def _finish(self, cell: Cell[Any], outcome: Outcome) -> None:
        if outcome.is_final:
            self._store.put(cell, outcome)
        else:
            self.unfinished[cell.name] = outcome
        self._told(cell, outcome, self._clock.done(cell, outcome))


def estimated_seconds(
    cells: Sequence[Cell[Any]], every: Sequence[Cell[Any]], store: Store, seconds_per_work: float
) -> tuple[float, int]:
    """Return how many seconds ``cells`` take on one core, and from how many measured cells of ``every`` this follows.

    With none, a multiplication takes ``seconds_per_work``.
    """
    measured = [(cell.work, store.duration(cell)) for cell in every]
    rates = [seconds / work for work, seconds in measured if seconds is not None]
    rate = statistics.median(rates) if rates else seconds_per_work
    return rate * sum(cell.work for cell in cells), len(rates)


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Clock:
    """Counts cells, and estimates the time left from the seconds per work of each kind of cell so far.

    Sums, not means of ratios: a small cell takes most of its time for what a large one needs once, too.
    """

    def __init__(self, total: int, waiting: Sequence[Cell[Any]], progress: Progress) -> None:
        self._total, self._done, self._progress = total, total - len(waiting), progress
        self._started, self._durations, self._measured = time.monotonic(), 0.0, 0
        # By kind of cell.
        self._left: dict[type, float] = defaultdict(float)
        self._seconds: dict[type, float] = defaultdict(float)
        self._work: dict[type, float] = defaultdict(float)
        for cell in waiting:
            self._left[type(cell)] += cell.work
        progress(self._done, total)

    def done(self, cell: Cell[Any], outcome: Outcome) -> str:
        """Count a computed cell; return how many are done and the time left, in words; empty for the last."""
        self._durations += outcome.duration
        if outcome.result is not None:
            self._measured += 1
            self._seconds[type(cell)] += outcome.duration
            self._work[type(cell)] += cell.work
        self.count(cell)
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

    def count(self, cell: Cell[Any]) -> None:
        """Count a finished cell, computed here or by another command."""
        self._left[type(cell)] -= cell.work
        self._done += 1
        self._progress(self._done, self._total)
