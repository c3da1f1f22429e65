"""The cells that no other cell beats: none is as accurate at no more cost, and better in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, get_args

from loihi_convert.batch.conversion import CellResult
from loihi_convert.batch.grid import PlannedCell
from loihi_convert.choices import SweepCost

COSTS: Final[tuple[SweepCost, ...]] = get_args(SweepCost)


class Found(NamedTuple):
    """A computed cell and its result."""

    planned: PlannedCell
    result: CellResult


def quality(result: CellResult) -> float | None:
    """Return what to make large: accuracy, else agreement with the CNN, else minus the RMSE; None if none is known."""
    if result.accuracy is not None:
        return result.accuracy
    if result.agreement_with_cnn is not None:
        return result.agreement_with_cnn
    error = result.rmse if result.rmse is not None else result.rmse_to_cnn
    return None if error is None else -error


def cost(found: Found, kind: SweepCost) -> float | None:
    """Return one cost of a cell; None if unknown.

    Energy is the low estimate: the high one of ``loihi2`` is a loose bound unless T is a power of two (`circuit_work`).
    """
    if kind == "timesteps":
        return found.planned.cell.setting.timesteps
    if kind == "synops":
        return found.result.synaptic_operations
    if kind == "cores":
        return found.result.cores[1]
    return None if found.result.joules is None else found.result.joules[0]


def front(cells: Sequence[Found], costs: Sequence[SweepCost] = COSTS) -> tuple[Found, ...]:
    """Return the Pareto front, the most accurate first, then the cheapest; of equal cells the first.

    Only cells that ran the same images of the same task are compared. A cell without a known cost in ``costs`` or
    without labels, CNN and targets is left out.
    """
    chosen: list[tuple[Found, tuple[float, ...]]] = []
    for one in cells:
        values = [cost(one, kind) for kind in costs]
        level = quality(one.result)
        if level is not None and all(value is not None for value in values):
            chosen.append((one, (-level, *(value for value in values if value is not None))))
    kept = [
        (one, own)
        for index, (one, own) in enumerate(chosen)
        if not any(
            _compared_by(one) == _compared_by(other)
            and all(theirs <= mine for theirs, mine in zip(values, own, strict=True))
            and (values != own or place < index)
            for place, (other, values) in enumerate(chosen)
            if place != index
        )
    ]
    return tuple(one for one, _ in sorted(kept, key=lambda pair: pair[1]))


def comparable(cells: Iterable[Found]) -> tuple[tuple[Found, ...], ...]:
    """Return ``cells`` in groups of those that can be compared, in the order of their first cells."""
    groups: dict[object, list[Found]] = {}
    for found in cells:
        groups.setdefault(_compared_by(found), []).append(found)
    return tuple(map(tuple, groups.values()))


def _compared_by(found: Found) -> tuple[str, str]:
    """A key that cells have in common if they can be compared: their images and their task."""
    return found.planned.cell.digests.images, found.planned.cell.network.task
