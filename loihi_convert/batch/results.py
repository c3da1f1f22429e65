"""The outcomes of a sweep, its Pareto front, and its CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loihi_convert.batch.computation import Outcome
from loihi_convert.batch.front import COSTS, Found, front
from loihi_convert.batch.grid import PlannedCell
from loihi_convert.batch.table import row
from loihi_convert.choices import SweepCost


@dataclass(frozen=True, eq=False)
class SweepResults:
    """What a sweep has found so far.

    Parameters
    ----------
    cells
        All cells of the grid.
    outcomes
        By name; None if a cell is not computed.
    names
        The options to show, `grid.varied`.
    costs
        The costs that the front compares.
    """

    cells: tuple[PlannedCell, ...]
    outcomes: Mapping[str, Outcome | None]
    names: tuple[str, ...]
    costs: Sequence[SweepCost] = COSTS

    @cached_property
    def computed(self) -> tuple[tuple[PlannedCell, Outcome], ...]:
        """The cells with an outcome: figures or an error."""
        found = ((planned, self.outcomes[planned.cell.name]) for planned in self.cells)
        return tuple((planned, outcome) for planned, outcome in found if outcome is not None)

    @property
    def missing(self) -> int:
        """Number of cells without an outcome."""
        return len(self.cells) - len(self.computed)

    @cached_property
    def found(self) -> tuple[Found, ...]:
        """The cells with figures."""
        return tuple(Found(planned, one.result) for planned, one in self.computed if one.result is not None)

    @cached_property
    def front(self) -> tuple[Found, ...]:
        """The Pareto front, the best cell first, see `front.front`."""
        return front(self.found, self.costs)

    @cached_property
    def names_on_front(self) -> frozenset[str]:
        """The names of the cells on the front."""
        return frozenset(found.planned.cell.name for found in self.front)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `computed` cells, see `table.row`."""
        return [
            row(planned, outcome, is_on_front=planned.cell.name in self.names_on_front)
            for planned, outcome in self.computed
        ]
