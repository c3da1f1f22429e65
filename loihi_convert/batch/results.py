"""The outcomes of a sweep: its Pareto front, the best cell in words, and every cell as a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from loihi_convert.batch.computation import Outcome
from loihi_convert.batch.conversion import CellResult, PlannedCell
from loihi_convert.errors import low_to_high
from loihi_convert.ground.choices import SweepCost
from loihi_convert.ground.files import write_atomically
from loihi_convert.ground.statistics import CONFIDENCE, mcnemar_p_value
from loihi_convert.report.chart import (
    NEUTRAL,
    Axes,
    Chart,
    Mark,
    Series,
    decade_ticks,
    error_frame,
    frame,
    timestep_ticks,
)
from loihi_convert.report.page import Page, Paragraph, Pictures, Section, html
from loihi_convert.report.table import Table, count, number, percent, percent_interval, points, quantity_range

CSV_NAME: Final = "sweep.csv"
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


def quality(result: CellResult) -> float | None:
    """Return what to make large: accuracy, else agreement with the CNN, else minus the RMSE; None if none is known."""
    if result.accuracy is not None:
        return result.accuracy
    if result.agreement_with_cnn is not None:
        return result.agreement_with_cnn
    error = result.rmse if result.rmse is not None else result.rmse_to_cnn
    return None if error is None else -error


def quality_words(result: CellResult) -> str:
    """Return `quality` with its unit: 99.43 %, 98.10 % as the CNN, RMSE 0.0123, RMSE 0.0123 to the CNN."""
    known = quality(result)
    if known is None:
        return "unknown"
    if result.accuracy is not None:
        return f"{percent(known)} %"
    if result.agreement_with_cnn is not None:
        return f"{percent(known)} % as the CNN"
    return f"RMSE {number(-known)}{'' if result.rmse is not None else ' to the CNN'}"


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
        kept += [
            (mine, found)
            for place, (mine, found) in enumerate(known)
            if not any(
                all(theirs <= own for theirs, own in zip(other, mine, strict=True)) and (other != mine or index < place)
                for index, (other, _) in enumerate(known)
                if index != place
            )
        ]
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
        **asdict(planned.cell.setting),
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


PAGE_NAME: Final = "sweep.html"

_COSTS: Final[Mapping[SweepCost, tuple[str, str]]] = {
    "timesteps": ("Latency", "latency T, time steps"),
    "synops": ("Synaptic operations", "synaptic operations an image"),
    "energy": ("Energy", "energy an image on Loihi 1, low estimate, µJ"),
    "cores": ("Neurocores", "neurocores of Loihi 2, high estimate"),
}


_MICRO: Final = 1e-6


class _Measure(NamedTuple):
    """What a chart shows upwards: its name, which values are best, and its factor on `front.quality`."""

    label: str
    best: Literal["highest", "lowest"]
    factor: float


def write_page(path: Path, results: SweepResults) -> None:
    """Write the page of a sweep as one HTML file; an `InputError` if that is not possible."""
    write_atomically(path, html(sweep_page(results)).encode(errors="backslashreplace"))


def sweep_page(results: SweepResults) -> Page:
    """Return the page of a sweep."""
    cells = results.cells
    sections = [*_cost_sections(results), Section("cells", "Cells", (_table(results),))]
    images = ", ".join(dict.fromkeys(one.images for one in cells))
    subtitle = f"{len(cells)} cells on {images}. Intervals are Wilson's, 95 %. Energy and neurocores are estimates."
    networks = list(dict.fromkeys(one.network_name for one in cells))
    name = networks[0] if len(networks) == 1 else f"{len(networks)} networks"
    return Page(f"Sweep of {name}", (f"{verdict(results.front, results.names)}.",), subtitle, tuple(sections))


def _cost_sections(results: SweepResults) -> Iterator[Section]:
    """The charts, in a section for each set of images."""
    said = (
        "Each mark is a cell: one export and its run on exact integers (ref). The line joins the cells that no shown "
        "cell beats at this cost."
    )
    groups = comparable(results.found)
    for index, group in enumerate(groups):
        if charts := tuple(_charts(group, results.names)):
            title = "Result and cost" if len(groups) == 1 else f"Result and cost: {group[0].planned.images}"
            yield Section(f"costs-{index}" if index else "costs", title, (Paragraph(said), Pictures(charts)))


def _charts(done: Sequence[Found], names: Sequence[str]) -> Iterator[Chart]:
    """The charts of one measure, a series for each network, and the front of what is shown."""
    measure = _measure(done)
    if measure is None:
        return
    known = [found for found in done if quality(found.result) is not None]
    networks = list(dict.fromkeys(found.planned.network_name for found in known))
    for kind in COSTS:
        unit = _MICRO if kind == "energy" else 1.0
        points = [(found, at / unit) for found in known if (at := cost(found, kind)) is not None and at > 0]
        if not points:
            continue
        marks: dict[str, list[Mark]] = {network: [] for network in networks}
        for found, at in points:
            height = measure.factor * (quality(found.result) or 0.0)
            mark = Mark(at, height, _mark_words(found, names), key=found.planned.cell.name)
            marks[found.planned.network_name].append(mark)
        series = [Series(network, index, tuple(of), line="") for index, (network, of) in enumerate(marks.items()) if of]
        best = marks_on_front([mark for one in series for mark in one.marks], measure.best)
        series.insert(0, Series("best at this cost", NEUTRAL, tuple(best), is_line_only=True, front=measure.best))
        name, label = _COSTS[kind]
        yield Chart(name, "", series, _axes(series, kind, label, measure))


def _measure(done: Sequence[Found]) -> _Measure | None:
    """What all cells can be compared by; None if the cells have different measures, or none."""
    kinds = {
        "accuracy" if found.result.accuracy is not None
        else "agreement" if found.result.agreement_with_cnn is not None
        else "error"
        for found in done if quality(found.result) is not None
    }  # fmt: skip
    if len(kinds) != 1:
        return None
    if kinds == {"error"}:
        return _Measure("RMSE", "lowest", -1.0)
    return _Measure("accuracy, %" if kinds == {"accuracy"} else "agreement with the CNN's class, %", "highest", 100.0)


def marks_on_front(marks: Sequence[Mark], best: Literal["highest", "lowest"]) -> list[Mark]:
    """Return the marks that no other beats, from the cheapest: each is better than all cheaper ones."""
    sign = 1.0 if best == "highest" else -1.0
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda one: (one.x, -sign * one.y)):
        if not found or sign * mark.y > sign * found[-1].y:
            found.append(mark)
    return found


def _axes(series: Sequence[Series], kind: SweepCost, label: str, measure: _Measure) -> Axes:
    marks = [mark for one in series for mark in one.marks]
    left, right = min(mark.x for mark in marks), max(mark.x for mark in marks)
    if measure.best == "highest":
        best = {(mark.x, mark.y) for one in series if one.front for mark in one.marks}
        shown = frame(marks, (), best)
    else:
        shown = error_frame(marks, [])
    # Room for marks at both ends, also if all cells cost the same.
    margin = math.exp(0.06 * math.log(right / left)) if right > left else 1.5
    steps = sorted({mark.x for mark in marks})
    ticks = timestep_ticks(steps, left) if kind == "timesteps" else decade_ticks(left / margin, right * margin)
    last = 100.0 if measure.best == "highest" else math.inf
    return Axes(label, measure.label, left / margin, right * margin, shown.bottom, shown.top, tuple(ticks), (), last)


def _mark_words(found: Found, names: Sequence[str]) -> str:
    result = found.result
    parts = [
        quality_words(result),
        f"T = {found.planned.cell.setting.timesteps}",
        f"{count(result.synaptic_operations)} SynOps",
    ]
    return f"{cell_words(found.planned, names)}: {', '.join(parts)}"


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


def _table(results: SweepResults) -> Table:
    names, rows = results.names, []
    for planned, outcome in results.computed:
        shown = {title(name): value(planned, name) for name in names}
        shown["Pareto\nfront"] = "yes" if planned.cell.name in results.names_on_front else "no"
        if outcome.result is None:
            rows.append({**shown, "balanced by": outcome.error or ""})
        else:
            rows.append({**shown, **figures(Found(planned, outcome.result))})
    headers = tuple(dict.fromkeys(header for row in rows for header in row))
    return Table(
        "on the Pareto front: no other cell is as good at no more of every cost",
        headers,
        tuple(tuple(row.get(header, "") for header in headers) for row in rows),
        text_columns=len(names) + 2,
        filtered_columns=len(names) + 1,
        keys=tuple(planned.cell.name for planned, _ in results.computed),
    )
