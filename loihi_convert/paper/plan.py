"""From tables and figures to the computations of their cells, and from their outcomes to entries beside the paper's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from loihi_convert.batch.computation import Computation, Outcome, Store, compute_missing, missing
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import Width
from loihi_convert.ground.files import make_folder, write_atomically
from loihi_convert.ground.progress import progress_bar
from loihi_convert.paper.figures import MeasuredChannels, accuracy_charts, channel_charts
from loihi_convert.paper.measurements import Accuracy, Best, Choosing, CnnAccuracy, Rates
from loihi_convert.paper.networks import opened_networks, tuned_networks
from loihi_convert.paper.tables import (
    Measured,
    PaperEntry,
    counted,
    csv_table,
    flattered,
    markdown_page,
    number,
    row_name,
)
from loihi_convert.paper.variants import (
    BEST,
    Exhibit,
    PaperOptions,
    PaperSetting,
    Variant,
    chosen_variants,
    distinct_variants,
    setting,
)
from loihi_convert.report import paper
from loihi_convert.report.chart import SIZES, Chart, FigureFormat, figure_of, image_bytes

if TYPE_CHECKING:
    from loihi_convert.batch.clusters import DaskWorkers

Tell = Callable[[str], None]
"""Told of each result that has been computed, and of what is left out, in a sentence."""


@dataclass(frozen=True)
class Part:
    """A table or figure, and the setting of each of its cells in each variant."""

    exhibit: Exhibit
    settings: Mapping[tuple[paper.Cell, Variant], PaperSetting | None]

    @property
    def cells(self) -> list[paper.Cell]:
        """Its cells."""
        return list(dict.fromkeys(cell for cell, _ in self.settings))

    @property
    def made(self) -> list[tuple[str, PaperSetting]]:
        """The settings of all variants, each with its data set."""
        return [(cell.data, one) for (cell, _), one in self.settings.items() if one is not None]

    @property
    def best_steps(self) -> list[tuple[str, int]]:
        """Every data set with every T, in descending order, if the best of our methods is shown."""
        found = {(cell.data, cell.timesteps) for cell in self.cells if cell.timesteps is not None}
        data = list(dict.fromkeys(cell.data for cell in self.cells))
        return sorted(found, key=lambda step: (data.index(step[0]), -step[1])) if self.exhibit.has_best else []


class Plan:
    """The computations of all tables and figures, and their results once they are in the `store`.

    Settings that share thresholds are balanced together, whichever table or figure they belong to. Of several
    exhibits, those are left out that the networks, methods and T do not allow.

    Raises
    ------
    UsageError
        If none is left, or the only one has no such data set, method or T, or an option is impossible.
    InputError
        If a network cannot be used.
    """

    def __init__(self, exhibits: Sequence[Exhibit], options: PaperOptions, device: str, tell: Tell) -> None:
        asked = None if options.variants is None else chosen_variants(options.variants)
        self.networks = opened_networks(options, device)
        self.parts = _parts(exhibits, asked, options, self.networks, tell)
        self.store = Store(options.output) if options.cache is None else Store(options.cache, "cache")
        self.failed: dict[str, Outcome] = {}
        made = dict.fromkeys(one for part in self.parts for one in part.made)
        for data, network in self.networks.items():
            network.balance_together([one for name, one in made if name == data])
        self._bests: dict[tuple[str, int], Choosing] = {}
        steps = dict.fromkeys(step for part in self.parts for step in part.best_steps)
        if options.with_best and steps:
            tuned = tuned_networks(options, self.networks)
            self._bests = {
                (data, t): self.networks[data].best(tuned[data], t, options.weight_bits) for data, t in steps
            }
        elif options.tuned:
            raise UsageError(
                "given, but nothing of this has a best", where="tuned", expected="is for the best at each T"
            )
        self.computations = [one for part in self.parts for one in self._computations(part)]

    def _computations(self, part: Part) -> list[Computation[Any]]:
        found = [self._measuring(part.exhibit, data, one) for data, one in part.made]
        if part.exhibit.shows != "accuracies":
            return found
        cnns = [self.networks[cell.data].cnn(timesteps) for cell in part.cells for timesteps in (cell.timesteps, None)]
        return [*cnns, *found, *(self._bests[step] for step in part.best_steps if step in self._bests)]

    def _measuring(self, exhibit: Exhibit, data: str, one: PaperSetting) -> Computation[Any]:
        network = self.networks[data]
        if exhibit.shows == "accuracies":
            return network.accuracy(one)
        return network.rates(one) if exhibit.shows == "rates" else network.thresholds(one)

    def _outcome(self, one: Computation[Any]) -> Outcome | None:
        return self.store.get(one) or self.failed.get(one.name)

    def cnn(self, data: str, timesteps: int | None) -> Measured:
        """Return the accuracy of the CNN on the test images for this T."""
        one = self.networks[data].cnn(timesteps)
        return _measured(one, self._outcome(one) or Outcome(), 0)

    def entries(self, part: Part) -> list[PaperEntry]:
        """Return every cell in every variant, then the best of our methods for each data set and T, if measured."""
        found = []
        for (cell, variant), one in part.settings.items():
            cnn, network, ours = self.cnn(cell.data, cell.timesteps), self.networks[cell.data], None
            if cell.method == paper.CNN:
                ours = cnn
            elif one is not None:
                measuring = network.accuracy(one)
                if outcome := self._outcome(measuring):
                    ours = _measured(measuring, outcome, measuring.balancing.calibration.count)
            seed = int(network.source.provenance["seed"])
            found.append(PaperEntry(cell, ours, cnn, network.name, variant, one, seed))
        for data, t in part.best_steps:
            choosing = self._bests.get((data, t))
            if choosing and (outcome := self._outcome(choosing)):
                ours = _measured(choosing, outcome, choosing.candidates[0].calibration.count)
                best = outcome.result or Best(network="", method="", correct=0)
                compared = [cell for cell in part.exhibit.cells() if (cell.data, cell.timesteps) == (data, t)]
                theirs = max(compared, key=lambda cell: cell.accuracy or 0.0)
                found.append(PaperEntry(theirs, ours, self.cnn(data, t), best.network, BEST, method=best.method))
        return found

    def channels(self, part: Part) -> Iterator[MeasuredChannels]:
        """Yield the values of each cell of a figure of channels, by variant and T."""
        variants = list(dict.fromkeys(variant for _, variant in part.settings))
        made = [(variant, cell, one) for (cell, variant), one in part.settings.items() if one is not None]
        for variant, cell, one in sorted(made, key=lambda each: (variants.index(each[0]), each[2].timesteps)):
            outcome = self._outcome(self._measuring(part.exhibit, cell.data, one))
            result = None if outcome is None else outcome.result
            if result is None or isinstance(result, Rates):
                yield MeasuredChannels(cell, variant, {} if result is None else result.rates)
                continue
            names = [layer.name for layer in self.networks[cell.data].source.network.layers]
            layers = zip(names, result.network(one).layers, strict=False)
            yield MeasuredChannels(cell, variant, {name: layer.neuron.threshold.tolist() for name, layer in layers})


def _measured(one: Accuracy | CnnAccuracy | Choosing, outcome: Outcome, calibration_images: int) -> Measured:
    correct = None if outcome.result is None else outcome.result.correct
    return Measured(correct, one.test.count, calibration_images, outcome.error)


def _parts(
    exhibits: Sequence[Exhibit],
    asked: Sequence[Variant] | None,
    options: PaperOptions,
    networks: Collection[str],
    tell: Tell,
) -> list[Part]:
    found, is_several = [], len(exhibits) > 1
    for exhibit in exhibits:
        try:
            chosen = _chosen(exhibit, options, networks, is_several=is_several)
        except UsageError as error:
            if not is_several:
                raise
            tell(f"{exhibit} is left out: {error.found}; {error.expected}")
            continue
        for name in dict.fromkeys(cell.data for cell in exhibit.cells()):
            if name not in networks:
                tell(f"{exhibit}: no network was trained on {name}; its cells are left out")
        seed, bits = options.poisson_seed, options.weight_bits
        settings = {
            (cell, variant): setting(cell, variant, seed=seed, weight_bits=bits, is_exported=exhibit.is_exported)
            for cell, variant in itertools.product(
                chosen, distinct_variants(asked or chosen_variants(exhibit.variants), chosen)
            )
        }
        found.append(Part(exhibit, settings))
    if not found:
        raise UsageError("found none", where="reproduce", expected="must leave at least one table or figure")
    return found


def _chosen(
    exhibit: Exhibit, options: PaperOptions, networks: Collection[str], *, is_several: bool
) -> tuple[paper.Cell, ...]:
    """Return the cells of these networks, methods and T, and the CNN's; raise a `UsageError` if one is unknown.

    Of several exhibits, each takes what it has, and the error is that it has nothing.
    """
    cells = exhibit.cells()
    steps = sorted({cell.timesteps for cell in cells if cell.timesteps is not None and cell.data in networks})
    known: dict[str, tuple[Any, ...]] = {
        "models": tuple(dict.fromkeys(cell.data for cell in cells)),
        "methods": tuple(dict.fromkeys(cell.method for cell in cells if cell.method != paper.CNN)),
        "timesteps": tuple(steps),
    }
    asked = {
        "models": networks,
        "methods": options.methods or known["methods"],
        "timesteps": options.timesteps or exhibit.default_timesteps or known["timesteps"],
    }
    for where, values in asked.items():
        unknown = [value for value in values if value not in known[where]]
        if len(unknown) > (len(values) - 1 if is_several else 0):
            has = "needs networks trained on" if where == "models" else "has"
            expected = f"{exhibit} {has} {', '.join(map(str, known[where]))}"
            raise UsageError(f"found {','.join(map(str, unknown))}", where=where, expected=expected)
    return tuple(
        cell
        for cell in cells
        if cell.data in networks
        and cell.method in (*asked["methods"], paper.CNN)
        and cell.timesteps in (*asked["timesteps"], None)
    )


@dataclass(frozen=True)
class Reproduced:
    """A table or figure.

    Parameters
    ----------
    exhibit
        Which one it is.
    files
        The files written.
    entries
        Our accuracies with the paper's; empty for a figure of channels.
    notes, warnings
        How a table was measured, and possible causes of misreading; one sentence each.
    """

    exhibit: Exhibit
    files: tuple[Path, ...]
    entries: Sequence[PaperEntry] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def reproduce(
    exhibits: Sequence[Exhibit],
    options: PaperOptions,
    opened: Callable[[int], AbstractContextManager[DaskWorkers | None]] = lambda most: nullcontext(),
    *,
    device: str = "cpu",
    tell: Tell = lambda sentence: None,
) -> tuple[list[Reproduced], int]:
    """Measure all missing results, those of all tables and figures together, and write each table and figure.

    ``opened`` opens workers for a number of computations, or None if this process computes. Returns the tables and
    figures, and the number of results that failed for a passing reason. Errors are those of `Plan` and
    `compute_missing`.
    """
    plan = Plan(exhibits, options, device, tell)
    if not options.computed_only and (left := missing(plan.computations, plan.store)):

        def told(one: Computation[Any], outcome: Outcome, state: str) -> None:
            tell(f"{one}: {_found(one, outcome)}{f' ({state})' if state else ''}")

        name = str(plan.parts[0].exhibit) if len(plan.parts) == 1 else "reproduce"
        with opened(len(left)) as workers, progress_bar(name):
            plan.failed = compute_missing(plan.computations, plan.store, workers, told=told)
    return [_written(plan, part, options.output, options.width) for part in plan.parts], len(plan.failed)


def _written(plan: Plan, part: Part, output: Path, width: Width) -> Reproduced:
    """Write one table or figure."""
    exhibit, stem = part.exhibit, output / part.exhibit.stem
    if exhibit.shows != "accuracies":
        measured = list(plan.channels(part))
        missed = [f"{row_name(one.cell)}, {one.variant.name}" for one in measured if not one.values]
        warnings = [f"Not measured: {'; '.join(missed)}."] if missed else []
        if len(missed) == len(measured):
            return Reproduced(exhibit, (), warnings=warnings)
        charts, numbers = channel_charts(exhibit, [one for one in measured if one.values])
        return Reproduced(exhibit, _write_figure(stem, exhibit.title, charts, numbers, width), warnings=warnings)
    entries = plan.entries(part)
    notes, warnings, numbers = list[str](), flattered(entries), csv_table(entries)
    if exhibit.kind == "table":
        notes = _notes(plan, part, entries)
        page = markdown_page(exhibit.title, entries, notes=notes, warnings=warnings)
        files = _write(stem, {".md": page.encode(errors="backslashreplace"), ".csv": numbers.encode()})
    elif charts := list(accuracy_charts(exhibit, entries)):
        files = _write_figure(stem, exhibit.title, charts, numbers, width)
    else:
        files = ()
        warnings.append("Nothing is drawn: no cell is measured, and the paper prints no value.")
    return Reproduced(exhibit, files, entries, notes, warnings)


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
    settings = [one for _, one in part.made]
    seeds = sorted({one.balancing.poisson_seed for one in settings if one.balancing.poisson_seed is not None})
    bits = sorted({one.weight_bits for one in settings})
    poisson = f"; Poisson input of seed {', '.join(map(str, seeds))}" if seeds else ""
    notes.append(f"Accuracy of the integers, weights of {', '.join(map(str, bits))} bits, one network per T{poisson}.")
    return notes


def _write_figure(stem: Path, title: str, charts: Sequence[Chart], numbers: str, width: Width) -> tuple[Path, ...]:
    figure = figure_of(title, charts, width)
    # The order is fixed because drawing starts from the layout of the previous drawing.
    contents = {f".{kind}": image_bytes(figure, kind, dpi=SIZES[width].dpi) for kind in get_args(FigureFormat)}
    return _write(stem, {**contents, ".csv": numbers.encode()})


def _write(stem: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write a file for each suffix."""
    make_folder(stem.parent, "output")
    files = {stem.with_suffix(suffix): content for suffix, content in contents.items()}
    for path, content in files.items():
        write_atomically(path, content)
    return tuple(files)
