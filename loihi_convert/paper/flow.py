"""Measures tables and figures of the paper, compares them with the paper's numbers, and writes the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from loihi_convert.batch.computation import Computation, Outcome
from loihi_convert.batch.flow import compute_missing, missing
from loihi_convert.errors import UsageError
from loihi_convert.ground.files import make_folder, write_atomically
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.paper.exhibits import EXHIBITS, Exhibit
from loihi_convert.paper.figures import accuracy_figure, channel_figure
from loihi_convert.paper.measurements import Accuracy, Best, Choosing, CnnAccuracy
from loihi_convert.paper.options import PaperOptions
from loihi_convert.paper.page import markdown_page
from loihi_convert.paper.panels import channel_values, panels, read_rows, table_rows
from loihi_convert.paper.plan import Part, Plan, Tell
from loihi_convert.paper.tables import BestEntry, PaperEntry, counted, csv_table, flattered, number, row_name
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
    files
        The files written.
    entries, bests
        Our accuracies with the paper's; empty for a figure of channels.
    notes, warnings
        How a table was measured, and possible causes of misreading; one sentence each.
    """

    exhibit: Exhibit
    files: tuple[Path, ...]
    entries: tuple[PaperEntry, ...] = ()
    bests: tuple[BestEntry, ...] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def reproduce(
    exhibits: Sequence[Exhibit],
    options: PaperOptions,
    opened: Callable[[int], AbstractContextManager[DaskWorkers | None]] = lambda most: nullcontext(),
    *,
    device: str = "cpu",
    tell: Tell = lambda sentence: None,
    bars: ProgressFactory = no_progress_bar,
) -> tuple[list[Reproduced], int]:
    """Measure all missing results, those of all tables and figures together, and write each table and figure.

    Parameters
    ----------
    opened
        Opens workers for a number of computations; None: this process computes.
    device
        Where to simulate: ``"cpu"``, or another torch device.

    Returns
    -------
    tuple
        The tables and figures, and the number of results that failed for a passing reason.

    Raises
    ------
    UsageError
        If the networks, methods or T do not match the table.
    InputError
        If a network or a folder cannot be used.
    PlatformError
        As in `compute_missing`.
    """
    plan = Plan(exhibits, options, device, tell)
    if not options.computed_only and (left := missing(plan.computations, plan.store)):

        def told(one: Computation[Any], outcome: Outcome, state: str) -> None:
            tell(f"{one}: {_found(one, outcome)}{f' ({state})' if state else ''}")

        name = str(plan.parts[0].exhibit) if len(plan.parts) == 1 else "reproduce"
        with opened(len(left)) as workers, bars(name) as progress:
            plan.failed = compute_missing(plan.computations, plan.store, workers, told=told, progress=progress)
    return [_written(plan, part, options.output, options.width) for part in plan.parts], len(plan.failed)


def redraw(figure: Exhibit, options: PaperOptions) -> Reproduced:
    """Draw ``figure`` again from `PaperOptions.tables`, without measuring anything.

    Raises
    ------
    UsageError
        If the figure does not show accuracies, or the tables contain none of its cells.
    InputError
        If a table or the folder of the output cannot be used.
    """
    if figure.shows != "accuracies":
        known = [one.name for one in EXHIBITS.values() if (one.kind, one.shows) == ("figure", "accuracies")]
        raise UsageError(f"{figure} shows no accuracies", where="tables", expected=f"is for figures {', '.join(known)}")
    variants = options.variants or figure.variants
    drawn = panels(read_rows(options.tables or (), figure), figure, variants)
    if not drawn:
        found = f"no accuracy of {figure} in variant {' or '.join(variants)}"
        raise UsageError(found, where="tables", hint="Choose `variants`.")
    drawing = accuracy_figure(figure.title, drawn, options.width)
    return Reproduced(figure, _write_figure(options.output / figure.stem, drawing, "", options.width))


def _written(plan: Plan, part: Part, output: Path, width: Width) -> Reproduced:
    """Write one table or figure."""
    exhibit, stem = part.exhibit, output / part.exhibit.stem
    if exhibit.shows != "accuracies":
        measured = list(plan.channels(part))
        missed = [f"{row_name(one.cell)}, {one.variant.name}" for one in measured if not one.values]
        warnings = [f"Not measured: {'; '.join(missed)}."] if missed else []
        if len(missed) == len(measured):
            return Reproduced(exhibit, (), warnings=warnings)
        shown = channel_values(exhibit, [one for one in measured if one.values])
        drawing = channel_figure(exhibit.title, shown.panels, shown.quantity, width)
        return Reproduced(exhibit, _write_figure(stem, drawing, shown.csv_text, width), warnings=warnings)
    entries, bests = plan.entries(part), plan.bests(part)
    notes, warnings, numbers = list[str](), flattered(entries), csv_table(entries, bests)
    if exhibit.kind == "table":
        notes = _notes(plan, part, entries)
        page = markdown_page(exhibit.title, entries, bests, notes=notes, warnings=warnings)
        files = _write(stem, {".md": page.encode(errors="backslashreplace"), ".csv": numbers.encode()})
    elif drawn := panels(table_rows(numbers), exhibit, part.variant_names):
        files = _write_figure(stem, accuracy_figure(exhibit.title, drawn, width), numbers, width)
    else:
        files = ()
        warnings.append("Nothing is drawn: no cell is measured, and the paper prints no value.")
    return Reproduced(exhibit, files, entries, bests, notes, warnings)


def _found(one: Computation[Any], outcome: Outcome) -> str:
    """What a computation gave, in a few words."""
    result = outcome.result
    if result is None:
        return f"failed: {outcome.error}"
    if not isinstance(one, Accuracy | CnnAccuracy | Choosing):
        return "done"
    chosen = f", {result.method}, {result.network}" if isinstance(result, Best) else ""
    return f"{100 * result.correct / one.test.count:.2f} %{chosen}"


def _notes(plan: Plan, part: Part, entries: Sequence[PaperEntry]) -> list[str]:
    """Return how a table was measured, one sentence per fact."""
    notes = []
    for data in dict.fromkeys(cell.data for cell in part.cells):
        network = plan.networks[data]
        made, cnn, theirs = network.source.provenance, plan.cnn(data, None), paper.cnn_accuracy(data)
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
