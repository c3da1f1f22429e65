"""Where cells are computed: one interface, and the executor of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from loihi_convert.batch.computation import Cell, Outcome, compute


class Executor(Protocol):
    """Computes cells in any order."""

    @property
    def slots(self) -> int:
        """How many cells to submit before waiting, at least 1; it may change as workers come and go."""
        ...

    def submit(self, cell: Cell[Any], needed: Sequence[Any] = ()) -> None:
        """Have ``cell`` computed from ``needed``, the results of the cells that it needs."""
        ...

    def next_done(self) -> tuple[Cell[Any], Outcome]:
        """Wait for the next of the submitted cells.

        Raises
        ------
        PlatformError
            If none can be computed any more.
        """
        ...


class InThisProcess:
    """Computes one cell after the other, in this process."""

    def __init__(self) -> None:
        self._cells: deque[tuple[Cell[Any], Sequence[Any]]] = deque()

    @property
    def slots(self) -> int:
        """1."""
        return 1

    def submit(self, cell: Cell[Any], needed: Sequence[Any] = ()) -> None:
        """Put ``cell`` into the queue."""
        self._cells.append((cell, needed))

    def next_done(self) -> tuple[Cell[Any], Outcome]:
        """Compute the next cell of the queue."""
        cell, needed = self._cells.popleft()
        return cell, compute(cell, needed, is_alone=True)
