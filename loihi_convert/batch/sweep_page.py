"""The page of a sweep: what is best at each cost as charts, and every cell in a table to filter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from loihi_convert.batch.results import (
    COSTS,
    ERRORS,
    Found,
    SweepResults,
    cell_words,
    comparable,
    cost,
    figures,
    judged_by,
    quality,
    quality_words,
    title,
    value,
    verdict,
)
from loihi_convert.ground.choices import SweepCost
from loihi_convert.ground.files import write_atomically
from loihi_convert.report.axes import Axes, Mark, Series, decade_ticks, error_frame, frame, timestep_ticks
from loihi_convert.report.chart import NEUTRAL, Chart
from loihi_convert.report.page import Page, Paragraph, Pictures, Section, html
from loihi_convert.report.table import Table, count

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
    names = {name for found in done if (name := judged_by(found.result)) is not None}
    if names and names <= set(ERRORS):
        return _Measure("RMSE", "lowest", -1.0)
    labels = {"accuracy": "accuracy, %", "agreement_with_cnn": "agreement with the CNN's class, %"}
    return _Measure(labels[names.pop()], "highest", 100.0) if len(names) == 1 else None


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
