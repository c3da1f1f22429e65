"""The outcomes of a sweep: its Pareto front, the best cell in words, and every cell as a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, get_args

from loihi_convert.batch.computation import Outcome
from loihi_convert.batch.conversion import CellResult, PlannedCell
from loihi_convert.errors import low_to_high
from loihi_convert.ground.choices import SweepCost
from loihi_convert.ground.statistics import CONFIDENCE, mcnemar_p_value
from loihi_convert.report.table import count, number, percent, percent_interval, points, quantity_range

CSV_NAME: Final = "sweep.csv"
PAGE_NAME: Final = "sweep.html"
COSTS: Final[tuple[SweepCost, ...]] = get_args(SweepCost)

_TITLES: Final = {
    "timesteps": "T",
    "method": "balance",
    "initial_potential": "initial potential",
    "input_coding": "input",
    "poisson_seed": "seed",
    "bias_correction": "correction",
    "weight_bits": "weight bits",
    "pixel_bits": "pixel bits",
    "split_readout": "split readout",
    "skip_copies": "skip copies",
}

ERRORS: Final = ("rmse", "rmse_to_cnn")
_QUALITIES: Final = ("accuracy", "agreement_with_cnn", *ERRORS)


class Found(NamedTuple):
    """A computed cell and its result."""

    planned: PlannedCell
    result: CellResult


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
        The options to show, `conversion.varied`.
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
        """The Pareto front, the best cell first, see `front`."""
        return front(self.found, self.costs)

    @cached_property
    def names_on_front(self) -> frozenset[str]:
        """The names of the cells on the front."""
        return frozenset(found.planned.cell.name for found in self.front)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `computed` cells, see `row`."""
        return [
            row(planned, outcome, is_on_front=planned.cell.name in self.names_on_front)
            for planned, outcome in self.computed
        ]


def judged_by(result: CellResult) -> str | None:
    """Return the figure that says how good a result is; None if none is known."""
    return next((name for name in _QUALITIES if getattr(result, name) is not None), None)


def quality(result: CellResult) -> float | None:
    """Return what to make large: accuracy, else agreement with the CNN, else minus the RMSE; None if none is known."""
    name = judged_by(result)
    value = None if name is None else float(getattr(result, name))
    return -value if value is not None and name in ERRORS else value


def quality_words(result: CellResult) -> str:
    """Return `quality` with its unit: 99.43 %, 98.10 % as the CNN, RMSE 0.0123, RMSE 0.0123 to the CNN."""
    name, known = judged_by(result), quality(result)
    if name is None or known is None:
        return "unknown"
    if name in ERRORS:
        return f"RMSE {number(-known)}{' to the CNN' if name == 'rmse_to_cnn' else ''}"
    return f"{percent(known)} %{'' if name == 'accuracy' else ' as the CNN'}"


def cost(found: Found, kind: SweepCost) -> float | None:
    """Return one cost of a cell; None if unknown.

    Energy is the low estimate: the high one of ``loihi2`` is a loose bound unless T is a power of two (`metrics.work`).
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

    These are the cells that no other cell beats: none is as accurate at no more cost, and better in one of them. Only
    cells that ran the same images of the same task are compared. A cell without a known cost in ``costs`` or without
    labels, CNN and targets is left out.
    """
    kept: list[tuple[tuple[Any, ...], Found]] = []
    for group in comparable(cells):
        known: list[tuple[tuple[Any, ...], Found]] = []
        for found in group:
            level, values = quality(found.result), [cost(found, kind) for kind in costs]
            if level is not None and None not in values:
                known.append(((-level, *values), found))
        best: list[tuple[tuple[Any, ...], Found]] = []
        # What beats a cell comes before it in this order.
        for mine, found in sorted(known, key=lambda pair: pair[0]):
            if not any(all(theirs <= own for theirs, own in zip(other, mine, strict=True)) for other, _ in best):
                best.append((mine, found))
        kept += best
    return tuple(found for _, found in sorted(kept, key=lambda pair: pair[0]))


def comparable(cells: Iterable[Found]) -> tuple[tuple[Found, ...], ...]:
    """Return ``cells`` in groups of those on the same images of the same task, in the order of their first cells."""
    groups: dict[object, list[Found]] = {}
    for found in cells:
        cell = found.planned.cell
        groups.setdefault((cell.digests.images, cell.network.cnn.task), []).append(found)
    return tuple(map(tuple, groups.values()))


def verdict(best: Sequence[Found], names: Sequence[str]) -> str:
    """Return the main result, one for each set of images: the best cell, and the cheapest that is not clearly worse.

    ``best`` is the front, ``names`` the options to show.
    """
    if not best:
        return "No cell has a result to compare"
    groups = comparable(best)
    if len(groups) == 1:
        return f"Best: {_best_of(best, names)}"
    others = [name for name in names if name != "data"]
    return ". ".join(f"Best on {group[0].planned.images}: {_best_of(group, others)}" for group in groups)


def _best_of(best: Sequence[Found], names: Sequence[str]) -> str:
    first = best[0].result
    answer = f"{quality_words(first)} with {cell_words(best[0].planned, names)}"
    if first.cnn_accuracy is not None:
        answer += f" (CNN {percent(first.cnn_accuracy)} %)"
    if first.cnn_rmse is not None:
        answer += f" (CNN {number(first.cnn_rmse)})"
    good = [found for found in best if found is best[0] or not _is_worse(found.result, first)]
    planned, cheap = min(good, key=lambda found: found.result.synaptic_operations)
    if cheap is first or not first.synaptic_operations:
        return answer
    share = cheap.synaptic_operations / first.synaptic_operations
    lower = points(100 * ((first.accuracy or 0) - (cheap.accuracy or 0)))
    count = first.image_count
    return (
        f"{answer}; at {100 * share:.0f} % of its SynOps: {quality_words(cheap)} with {cell_words(planned, names)}, "
        f"{lower} points lower, no significant difference on the same {count:,} image{'s' * (count > 1)} "
        f"(p = {_p_value(first, cheap):.2f}, McNemar's test)"
    )


def _is_worse(result: CellResult, first: CellResult) -> bool:
    """Whether ``result`` is less accurate than ``first``: below its interval, or by McNemar's test, at 95 %."""
    # The test alone would not do: it is never significant if fewer than six images differ.
    interval = first.accuracy_interval
    return interval is None or (result.accuracy or 0) < interval[0] or _p_value(first, result) < 1 - CONFIDENCE


def _p_value(first: CellResult, second: CellResult) -> float:
    """The p-value of McNemar's test of two cells on the same images, whose labels are known."""
    assert first.correct is not None
    assert second.correct is not None
    one, other = int(first.correct, 16), int(second.correct, 16)
    return mcnemar_p_value((one & ~other).bit_count(), (other & ~one).bit_count())


def row(planned: PlannedCell, outcome: Outcome | None, *, is_on_front: bool) -> dict[str, Any]:
    """Return a cell as JSON values: its name, where it comes from, its options, its figures, its error."""
    found = None if outcome is None else outcome.result

    def figures(*names: str) -> dict[str, Any]:
        return {name: getattr(found, name, None) for name in names}

    def ends(figure: str, name: str) -> dict[str, float | None]:
        low, high = getattr(found, figure, None) or (None, None)
        return {f"{name}_low": low, f"{name}_high": high}

    return {
        "network": planned.network_name,
        "data": planned.data,
        "images": planned.kind,
        "images_sha256": planned.cell.digests.images,
        **planned.cell.setting.varied,
        **figures("image_count", "accuracy"),
        **ends("accuracy_interval", "accuracy"),
        **figures("cnn_accuracy", "agreement_with_cnn", "rmse", "rmse_to_cnn", "cnn_rmse"),
        **figures("spikes", "synaptic_operations"),
        **ends("joules", "joules"),
        **ends("seconds", "loihi1_seconds"),
        **ends("cores", "neurocores"),
        **figures("balanced_by", "saturated_images"),
        "is_on_front": is_on_front,
        "error": outcome and outcome.error,
        "cell": planned.cell.name,
    }


def value(planned: PlannedCell, name: str) -> str:
    """Return the option ``name`` of a cell, or its network or data set, as a word."""
    own = {"network": planned.network_name, "data": planned.data}
    found = own[name] if name in own else getattr(planned.cell.setting, name)
    if isinstance(found, bool):
        return "yes" if found else "no"
    return "" if found is None else f"{found:g}" if isinstance(found, float) else str(found)


def title(name: str) -> str:
    """Return the heading of the column of `value`."""
    return _TITLES.get(name, name)


def cell_words(planned: PlannedCell, names: Sequence[str]) -> str:
    """Return a cell in a few words: those options of ``names`` that it has."""
    words = ((name, value(planned, name)) for name in names)
    plain = ("network", "data", "method")
    parts = [word if name in plain else f"{title(name)} {word}" for name, word in words if word]
    return ", ".join(parts) or planned.network_name


def figures(found: Found) -> dict[str, str]:
    """Return the figures of a cell by column of a table."""
    planned, result = found
    return {
        "balanced by": result.balanced_by,
        "result": quality_words(result),
        "interval, %": percent_interval(result.accuracy_interval) or "",
        "T": str(planned.cell.setting.timesteps),
        "SynOps\nan image": count(result.synaptic_operations),
        "energy\nan image": "" if result.joules is None else quantity_range(result.joules, "J"),
        "neurocores": low_to_high(result.cores),
    }
