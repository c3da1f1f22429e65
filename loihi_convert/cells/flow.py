"""Computes the cells of a sweep that are not in its folder, and tells how far it is."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from loihi_convert.cells.executors import Executor
from loihi_convert.cells.store import Claim, Store
from loihi_convert.errors import InputError
from loihi_convert.progress import Progress, no_progress
from loihi_convert.sweep.cell import Cell
from loihi_convert.sweep.grid import SECONDS_PER_WORK, PlannedCell
from loihi_convert.sweep.outcome import Outcome

_POLL_SECONDS: Final = 0.5
# Cells from which a time left is foretold.
_FEWEST: Final = 3

Told = Callable[[PlannedCell, Outcome, str], None]
"""Called after each computed cell with how many are done and the time left, in words; empty for the last."""


def missing(cells: Sequence[PlannedCell], store: Store) -> tuple[PlannedCell, ...]:
    """Return the cells that are not in ``store``."""
    return tuple(planned for planned in cells if store.get(planned.cell) is None)


def compute_missing(
    cells: Sequence[PlannedCell],
    store: Store,
    executor: Executor,
    *,
    told: Told = lambda planned, outcome, left: None,
    progress: Progress = no_progress,
) -> dict[str, Outcome]:
    """Compute the cells that are not in ``store`` and put them there; return the outcomes that are not final, by name.

    A cell that another sweep computes in the same folder is left to it.

    Raises
    ------
    InputError
        If the folder cannot be used.
    PlatformError
        As in `Executor.next_done`. Finished cells are kept.
    """
    store.create()
    by_name = {planned.cell.name: planned for planned in cells}
    waiting = deque(missing(cells, store))
    claims: dict[str, Claim] = {}
    unfinished: dict[str, Outcome] = {}
    clock = _Clock(len(cells), len(cells) - len(waiting), sum(planned.work for planned in waiting), progress)
    try:
        while waiting or claims:
            _submit(waiting, claims, store, executor, clock)
            if not claims:
                if waiting:
                    # Others compute all that is left.
                    time.sleep(_POLL_SECONDS)
                continue
            cell, outcome = executor.next_done()
            outcome = _stored(cell, outcome, store)
            claims.pop(cell.name).release()
            if not outcome.is_final:
                unfinished[cell.name] = outcome
            planned = by_name[cell.name]
            told(planned, outcome, clock.done(planned, outcome))
    finally:
        for claim in claims.values():
            claim.release()
    return unfinished


def estimated_seconds(cells: Sequence[PlannedCell], every: Sequence[PlannedCell], store: Store) -> tuple[float, int]:
    """Return how many seconds ``cells`` take on one core, and from how many measured cells of ``every`` this follows.

    With none the speed of one machine is assumed.
    """
    measured = [(planned.work, store.duration(planned.cell)) for planned in every]
    rates = [seconds / work for work, seconds in measured if seconds is not None]
    rate = statistics.median(rates) if rates else SECONDS_PER_WORK
    return rate * sum(planned.work for planned in cells), len(rates)


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _submit(
    waiting: deque[PlannedCell], claims: dict[str, Claim], store: Store, executor: Executor, clock: _Clock
) -> None:
    """Give ``executor`` as many cells as it has slots; look at each waiting cell at most once."""
    slots = executor.slots
    for _ in range(len(waiting)):
        if len(claims) >= slots:
            return
        planned = waiting.popleft()
        claim = store.claim(planned.cell)
        if claim is None:
            waiting.append(planned)
        elif store.get(planned.cell) is not None:
            claim.release()
            clock.found(planned)
        else:
            claims[planned.cell.name] = claim
            executor.submit(planned.cell)


def _stored(cell: Cell, outcome: Outcome, store: Store) -> Outcome:
    """Store a final outcome; one that cannot be written is not final."""
    if not outcome.is_final:
        return outcome
    try:
        store.put(cell, outcome)
    except InputError as error:
        return Outcome(error=str(error), is_final=False)
    return outcome


class _Clock:
    """Counts cells, and foretells the time left from the durations so far.

    The median over cells leaves out the first, which also read images and compile.
    """

    def __init__(self, total: int, done: int, work: float, progress: Progress) -> None:
        self._total, self._done, self._left, self._progress = total, done, work, progress
        self._started, self._durations, self._rates = time.monotonic(), 0.0, list[float]()
        progress(done, total)

    def done(self, planned: PlannedCell, outcome: Outcome) -> str:
        """Count a computed cell; return how many are done and the time left, in words; empty for the last."""
        self._durations += outcome.duration
        if outcome.result is not None:
            self._rates.append(outcome.duration / planned.work)
        self.found(planned)
        if self._done == self._total:
            return ""
        text = f"{self._done} of {self._total}"
        if len(self._rates) < _FEWEST:
            return text
        at_once = max(1.0, self._durations / (time.monotonic() - self._started))
        return f"{text}, about {duration(statistics.median(self._rates) * self._left / at_once)} left"

    def found(self, planned: PlannedCell) -> None:
        """Count a cell that another sweep has computed."""
        self._left -= planned.work
        self._done += 1
        self._progress(self._done, self._total)
