"""Where cells are computed: one interface, and the executor of this process."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from loihi_convert.sweep.cell import Cell
from loihi_convert.sweep.compute import compute
from loihi_convert.sweep.outcome import Outcome


class Executor(Protocol):
    """Computes cells in any order."""

    @property
    def slots(self) -> int:
        """How many cells to submit before waiting, at least 1; it may change as workers come and go."""
        ...

    def submit(self, cell: Cell) -> None:
        """Have ``cell`` computed."""
        ...

    def next_done(self) -> tuple[Cell, Outcome]:
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
        self._cells: deque[Cell] = deque()

    @property
    def slots(self) -> int:
        """1."""
        return 1

    def submit(self, cell: Cell) -> None:
        """Put ``cell`` into the queue."""
        self._cells.append(cell)

    def next_done(self) -> tuple[Cell, Outcome]:
        """Compute the next cell of the queue."""
        cell = self._cells.popleft()
        return cell, compute(cell)
