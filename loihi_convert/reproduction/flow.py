"""Measures a table or figure of the paper, compares it with the paper's numbers, and writes the files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from loihi_convert.errors import InputError, UsageError
from loihi_convert.files import write_atomically
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.report import paper
from loihi_convert.report.figure_style import SIZES, Kind, Width, image_bytes
from loihi_convert.reproduction.best import BestOfOurs
from loihi_convert.reproduction.channels import channel_values
from loihi_convert.reproduction.figures import accuracy_figure, channel_figure
from loihi_convert.reproduction.measure import Measurements
from loihi_convert.reproduction.meter import Meter
from loihi_convert.reproduction.page import markdown_page
from loihi_convert.reproduction.panels import OF_ACCURACIES, panels, read_rows
from loihi_convert.reproduction.paper_cells import (
    Setting,
    Variant,
    chosen_cells,
    distinct_variants,
    figure_cells,
    setting,
)
from loihi_convert.reproduction.request import Request, Tell, best_of_ours, opened_networks
from loihi_convert.reproduction.tables import BestEntry, Entry, best_of_paper, counted, csv_table, flattered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES: Final = {
    "table 2": "Table 2: methods on MNIST",
    "table 3": "Table 3: methods on Fashion-MNIST",
    "table A2": "Table A2: factors alpha on MNIST",
    "table A3": "Table A3: factors alpha on Fashion-MNIST",
    "table A4": "Table A4: neurons and methods on MNIST",
    "table headline": "The numbers of the abstract",
    "figure 6": "Figure 6: accuracy against latency, MNIST",
    "figure 7": "Figure 7: average firing rate of every channel, MNIST",
    "figure 8": "Figure 8: accuracy against latency, Fashion-MNIST",
    "figure 9": "Figure 9: factors alpha",
    "figure 11": "Figure 11: accuracy against latency, CIFAR-10",
    "figure 12": "Figure 12: neurons and methods, MNIST",
    "figure A4": "Figure A4: thresholds of every channel, MNIST",
    "figure A5": "Figure A5: thresholds of every channel, Fashion-MNIST",
}
"""Every table and figure, and what it shows."""

# Tables and figures that also show the best of our methods.
_WITH_BEST: Final = ("table 2", "table 3", "figure 6", "figure 8", "figure 11")
_OF_CHANNELS: Final = ("figure 7", "figure A4", "figure A5")
_RATE_TIMESTEPS: Final = (64,)


@dataclass(frozen=True)
class Reproduced:
    """The result of a request.

    Parameters
    ----------
    title
        Title of the table or figure.
    entries, bests
        Our accuracies with the paper's; empty for a figure of channels.
    notes, warnings
        How a table was measured, and possible causes of misreading; one sentence each.
    files
        The files written.
    """

    title: str
    files: tuple[Path, ...]
    entries: tuple[Entry, ...] = ()
    bests: tuple[BestEntry, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def reproduce(
    request: Request, *, tell: Tell = lambda sentence: None, bars: ProgressFactory = no_progress_bar
) -> Reproduced:
    """Measure all missing results and write the table or figure.

    Raises
    ------
    UsageError
        If the networks, methods or T do not match the table.
    InputError
        If a network or a folder cannot be used.
    """
    cells = paper.table(request.name) if request.kind == "table" else figure_cells(request.name)
    timesteps = _RATE_TIMESTEPS if request.title == "figure 7" and request.timesteps is None else request.timesteps
    networks = opened_networks(request, tell)
    every = dict.fromkeys(cell.data for cell in cells)
    cells = chosen_cells(cells, request.title, list(networks), timesteps, request.methods)
    for data in every:
        if data not in networks:
            tell(f"{request.title}: no network was trained on {data}; its cells are left out")
    variants = distinct_variants(request.variants, cells)
    title = TITLES[request.title]
    if request.title in _OF_CHANNELS:
        found = channel_values(request, networks, cells, variants, bars)
        figure = channel_figure(title, found.panels, found.quantity, request.width)
        return Reproduced(title, _write_figure(request.stem, figure, found.csv_text, request.width))
    entries, bests = _measured(request, networks, cells, variants, tell, bars)
    warnings = tuple(flattered(entries))
    numbers = csv_table(entries, bests)
    if request.kind == "figure":
        rows = list(csv.DictReader(numbers.splitlines()))
        names = [variant.name for variant in variants]
        figure = accuracy_figure(title, panels(rows, request.name, names), request.width)
        return Reproduced(
            title, _write_figure(request.stem, figure, numbers, request.width), entries, bests, warnings=warnings
        )
    notes = tuple(_notes(networks, entries))
    files = request.stem.with_suffix(".md"), request.stem.with_suffix(".csv")
    _write(files[0], markdown_page(title, entries, bests, notes=notes, warnings=warnings))
    _write(files[1], numbers)
    return Reproduced(title, files, entries, bests, notes, warnings)


def redraw(name: str, tables: Sequence[Path], variants: Sequence[str], output: Path, width: Width) -> Reproduced:
    """Draw figure ``name`` again from CSV tables, without measuring anything.

    Raises
    ------
    UsageError
        If the figure does not show accuracies, or the tables contain none of its cells.
    InputError
        If a table or the folder ``output`` cannot be used.
    """
    title = f"figure {name}"
    if name not in OF_ACCURACIES:
        raise UsageError(
            f"{title} shows no accuracies", where="tables", expected=f"is for figures {', '.join(OF_ACCURACIES)}"
        )
    figure = accuracy_figure(TITLES[title], panels(read_rows(tables, name), name, variants), width)
    return Reproduced(TITLES[title], _write_figure(output / f"figure-{name}", figure, "", width))


def _measured(
    request: Request,
    networks: dict[str, Measurements],
    cells: Sequence[paper.Cell],
    variants: Sequence[Variant],
    tell: Tell,
    bars: ProgressFactory,
) -> tuple[tuple[Entry, ...], tuple[BestEntry, ...]]:
    """Return each cell in each variant, and the best of our methods for each data set and T; compute missing ones."""
    bests_of = best_of_ours(request, networks, tell) if request.title in _WITH_BEST and request.with_best else {}
    made = {
        (cell, variant): setting(
            cell,
            variant,
            seed=request.poisson_seed,
            weight_bits=request.weight_bits,
            is_exported=request.title == "table headline",
        )
        for cell in cells
        for variant in variants
    }
    if not request.computed_only:
        wanted = {
            data: [one for (cell, _), one in made.items() if cell.data == data and one is not None] for data in networks
        }
        _compute(request, networks, wanted, bests_of, cells, bars)
    entries = tuple(
        _entry(networks[cell.data], cell, variant, made[cell, variant]) for cell in cells for variant in variants
    )
    return entries, tuple(_best_entries(networks, bests_of, cells))


def _compute(
    request: Request,
    networks: dict[str, Measurements],
    wanted: dict[str, list[Setting]],
    bests_of: dict[str, BestOfOurs],
    cells: Sequence[paper.Cell],
    bars: ProgressFactory,
) -> None:
    """Compute all settings of each data set, and the best of our methods for each T."""
    steps = _steps(bests_of, cells)
    with bars(request.title) as progress:
        meter = Meter(progress)
        meter.total = sum(network.work(wanted[data]) for data, network in networks.items())
        meter.total += sum(bests_of[data].work(t) for data in steps for t in steps[data])
        for data, network in networks.items():
            network.accuracies(wanted[data], meter)
            for t in steps.get(data, ()):
                bests_of[data].find(t, meter)


def _steps(bests_of: dict[str, BestOfOurs], cells: Sequence[paper.Cell]) -> dict[str, list[int]]:
    """Return every T of each data set, ascending."""
    return {
        data: sorted({cell.timesteps for cell in cells if cell.data == data and cell.timesteps is not None})
        for data in bests_of
    }


def _entry(network: Measurements, cell: paper.Cell, variant: Variant, made: Setting | None) -> Entry:
    cnn = network.cnn(cell.timesteps)
    outcome = cnn if cell.method == paper.CNN else None if made is None else network.stored(made)
    return Entry(cell, variant, made, outcome, cnn, network.name, int(network.source.provenance["seed"]))


def _best_entries(
    networks: dict[str, Measurements], bests_of: dict[str, BestOfOurs], cells: Sequence[paper.Cell]
) -> Iterator[BestEntry]:
    for data, steps in _steps(bests_of, cells).items():
        for t in reversed(steps):
            if (best := bests_of[data].stored(t)) is not None:
                theirs = best_of_paper([cell for cell in cells if cell.data == data], t)
                yield BestEntry(theirs, best, networks[data].cnn(t))


def _notes(networks: dict[str, Measurements], entries: Sequence[Entry]) -> list[str]:
    """Return how a table was measured, one sentence per fact."""
    notes = []
    for data, network in networks.items():
        made = network.source.provenance
        cnn = network.cnn(None)
        theirs = paper.cnn_accuracy(data)
        beside = "" if theirs is None else f" (the paper's: {theirs:.2f} %)"
        notes.append(
            f"{data}: {made['architecture']}, training seed {made['seed']}, `{network.name}` "
            f"(SHA-256 {network.digest[:12]}), {cnn.accuracy:.2f} % of {cnn.images:,} test images{beside}."
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
    for kind in get_args(Kind):
        _write(stem.with_suffix(f".{kind}"), image_bytes(figure, kind, dpi=SIZES[width].dpi))
    if numbers:
        _write(stem.with_suffix(".csv"), numbers)
    return tuple(stem.with_suffix(suffix) for suffix in (".png", ".svg", ".pdf", ".csv")[: None if numbers else -1])


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"cannot be created ({error.strerror})"
        raise InputError(found, where=path.parent, hint="Choose another `output`.") from error
    write_atomically(path, content.encode() if isinstance(content, str) else content)
