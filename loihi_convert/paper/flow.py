"""Measures tables and figures of the paper, compares them with the paper's numbers, and writes the files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from loihi_convert.batch.computation import Computation, Outcome, Store
from loihi_convert.batch.flow import compute_missing, missing
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.errors import UsageError
from loihi_convert.files import make_folder, write_atomically
from loihi_convert.paper.exhibits import EXHIBITS, Exhibit
from loihi_convert.paper.figures import accuracy_figure, channel_figure
from loihi_convert.paper.measurements import Accuracy, Choosing, CnnAccuracy
from loihi_convert.paper.page import markdown_page
from loihi_convert.paper.panels import channel_values, panels, read_rows, table_rows
from loihi_convert.paper.plan import CellPlan, PlannedExhibit, Tell, planned_parts
from loihi_convert.paper.request import Request, opened_networks
from loihi_convert.paper.results import Results
from loihi_convert.paper.stored import Best
from loihi_convert.paper.tables import (
    BestEntry,
    PaperEntry,
    counted,
    csv_table,
    flattered,
    number,
    row_name,
)
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.report import paper
from loihi_convert.report.figure_style import SIZES, FigureFormat, Width, image_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from loihi_convert.batch.dask_workers import DaskWorkers


@dataclass(frozen=True)
class Reproduced:
    """A table or figure.

    Parameters
    ----------
    exhibit
        Which one it is.
    entries, bests
        Our accuracies with the paper's; empty for a figure of channels.
    notes, warnings
        How a table was measured, and possible causes of misreading; one sentence each.
    files
        The files written.
    """

    exhibit: Exhibit
    files: tuple[Path, ...]
    entries: tuple[PaperEntry, ...] = ()
    bests: tuple[BestEntry, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """The result of a request: its tables and figures, and the number of cells that failed for a passing reason."""

    done: tuple[Reproduced, ...]
    failed: int


def reproduce(
    request: Request,
    opened: Callable[[int], AbstractContextManager[DaskWorkers | None]] = lambda most: nullcontext(),
    *,
    tell: Tell = lambda sentence: None,
    bars: ProgressFactory = no_progress_bar,
) -> Reproduction:
    """Measure all missing results, those of all tables and figures together, and write each table and figure.

    Parameters
    ----------
    opened
        Opens workers for a number of cells; None: this process computes.

    Raises
    ------
    UsageError
        If the networks, methods or T do not match the table, or ``weight_bits`` or ``poisson_seed`` is impossible.
    InputError
        If a network or a folder cannot be used.
    PlatformError
        As in `compute_missing`.
    """
    # An impossible value is refused now, not in each cell, after hours.
    QuantizeOptions(request.weight_bits)
    BalanceOptions(poisson_seed=request.poisson_seed)
    networks = opened_networks(request)
    parts = planned_parts(request, networks, tell)
    store = Store(request.output) if request.cache is None else Store(request.cache, "cache")
    plan = CellPlan(request, networks, parts, store)
    failed: dict[str, Outcome] = {}
    if not request.computed_only and (left := missing(plan.cells, store)):

        def told(cell: Computation[Any], outcome: Outcome, state: str) -> None:
            tell(f"{cell}: {_found(cell, outcome)}{f' ({state})' if state else ''}")

        name = str(parts[0].exhibit) if len(parts) == 1 else "reproduce"
        with opened(len(left)) as workers, bars(name) as progress:
            failed = compute_missing(plan.cells, store, workers, told=told, progress=progress)
    results = Results(plan, store, failed)
    return Reproduction(tuple(_written(request, part, results) for part in parts), len(failed))


def redraw(figure: Exhibit, tables: Sequence[Path], variants: Sequence[str], output: Path, width: Width) -> Reproduced:
    """Draw ``figure`` again from CSV tables, without measuring anything.

    Raises
    ------
    UsageError
        If the figure does not show accuracies, or the tables contain none of its cells.
    InputError
        If a table or the folder ``output`` cannot be used.
    """
    if figure.shows != "accuracies":
        known = [one.name for one in EXHIBITS.values() if (one.kind, one.shows) == ("figure", "accuracies")]
        raise UsageError(f"{figure} shows no accuracies", where="tables", expected=f"is for figures {', '.join(known)}")
    drawn = panels(read_rows(tables, figure), figure, variants)
    if not drawn:
        found = f"no accuracy of {figure} in variant {' or '.join(variants)}"
        raise UsageError(found, where="tables", hint="Choose `variants`.")
    stem = output / f"figure-{figure.name}"
    return Reproduced(figure, _write_figure(stem, accuracy_figure(figure.title, drawn, width), "", width))


def _written(request: Request, part: PlannedExhibit, results: Results) -> Reproduced:
    """Write one table or figure."""
    exhibit, width = part.exhibit, request.width
    stem = request.output / f"{exhibit.kind}-{exhibit.name}"
    warnings: tuple[str, ...]
    if exhibit.shows != "accuracies":
        measured = list(results.channels(part))
        known = [one for one in measured if one.values]
        missed = [f"{row_name(one.cell)}, {one.variant.name}" for one in measured if not one.values]
        warnings = (f"Not measured: {'; '.join(missed)}.",) if missed else ()
        if not known:
            return Reproduced(exhibit, (), warnings=warnings)
        shown = channel_values(exhibit, known)
        drawing = channel_figure(exhibit.title, shown.panels, shown.quantity, width)
        return Reproduced(exhibit, _write_figure(stem, drawing, shown.csv_text, width), warnings=warnings)
    entries, bests = results.entries(part), results.bests(part)
    warnings, numbers = tuple(flattered(entries)), csv_table(entries, bests)
    if exhibit.kind == "figure":
        rows = table_rows(csv.DictReader(numbers.splitlines()), stem)
        drawn = panels(rows, exhibit, [variant.name for variant in part.variants])
        if not drawn:
            empty = "Nothing is drawn: no cell is measured, and the paper prints no value."
            return Reproduced(exhibit, (), entries, bests, warnings=(*warnings, empty))
        files = _write_figure(stem, accuracy_figure(exhibit.title, drawn, width), numbers, width)
        return Reproduced(exhibit, files, entries, bests, warnings=warnings)
    notes = tuple(_notes(results, part, entries))
    page = markdown_page(exhibit.title, entries, bests, notes=notes, warnings=warnings)
    files = _write(stem, {".md": page.encode(errors="backslashreplace"), ".csv": numbers.encode()})
    return Reproduced(exhibit, files, entries, bests, notes, warnings)


def _found(cell: Computation[Any], outcome: Outcome) -> str:
    """What a cell gave, in a few words."""
    result = outcome.result
    if result is None:
        return f"failed: {outcome.error}"
    if not isinstance(cell, Accuracy | CnnAccuracy | Choosing):
        return "done"
    chosen = f", {result.method}, {result.network}" if isinstance(result, Best) else ""
    return f"{100 * result.correct / cell.test.count:.2f} %{chosen}"


def _notes(results: Results, part: PlannedExhibit, entries: Sequence[PaperEntry]) -> list[str]:
    """Return how a table was measured, one sentence per fact."""
    notes = []
    for data in dict.fromkeys(cell.data for cell in part.cells):
        network = results.plan.networks[data]
        made, cnn, theirs = network.source.provenance, results.cnn(data, None), paper.cnn_accuracy(data)
        beside = "" if theirs is None else f" (the paper's: {theirs:.2f} %)"
        notes.append(
            f"{data}: {made['architecture']}, training seed {made['seed']}, `{network.name}` "
            f"(SHA-256 {network.checkpoint.digest[:12]}), {number(cnn.accuracy)} % of {cnn.images:,} test "
            f"images{beside}."
        )
    notes += counted(entries)
    made_with = [entry.setting for entry in entries if entry.setting is not None]
    seeds = sorted({one.poisson_seed for one in made_with if one.poisson_seed is not None})
    bits = sorted({one.weight_bits for one in made_with})
    poisson = f"; Poisson input of seed {', '.join(map(str, seeds))}" if seeds else ""
    notes.append(f"Accuracy of the integers, weights of {', '.join(map(str, bits))} bits, one network per T{poisson}.")
    return notes


def _write_figure(stem: Path, figure: Figure, numbers: str, width: Width) -> tuple[Path, ...]:
    # The order is fixed because drawing starts from the layout of the previous drawing.
    contents = {f".{kind}": image_bytes(figure, kind, dpi=SIZES[width].dpi) for kind in get_args(FigureFormat)}
    return _write(stem, {**contents, ".csv": numbers.encode()} if numbers else contents)


def _write(stem: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write a file for each suffix."""
    make_folder(stem.parent, "output")
    files = {stem.with_suffix(suffix): content for suffix, content in contents.items()}
    for path, content in files.items():
        write_atomically(path, content)
    return tuple(files)
