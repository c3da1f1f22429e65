"""Ours beside the paper's: CSV, Markdown, and whether the methods come in the same order."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loihi_convert.records import wilson_interval
from loihi_convert.report import paper
from loihi_convert.report.formats import markdown_table
from loihi_convert.reproduction import images
from loihi_convert.reproduction.best import Best
from loihi_convert.reproduction.cells import Setting, Variant
from loihi_convert.reproduction.measure import Outcome

BLANK: Final = "-"
"""What the paper could not measure, and what does not exist here."""

PAPER_IMAGES: Final = 10_000
"""Test images of each data set, all of which the paper takes."""

_CSV_COLUMNS: Final = """
table data method reset alpha timesteps variant amplitude initial_potential readout poisson_seed weight_bits
calibration_images test_images network training_seed accuracy interval_low interval_high paper_accuracy difference
cnn_accuracy paper_cnn_accuracy conversion_loss paper_conversion_loss loss_difference refusal
"""

# Standard normal deviations of a 95 % interval.
_DEVIATIONS: Final = 1.96


@dataclass(frozen=True)
class Entry:
    """A cell of the paper in one variant.

    Parameters
    ----------
    cell
        The paper's.
    variant
        How it was measured.
    setting
        The same in detail; None for the CNN, and where there is no such variant of the cell.
    outcome
        What was measured; None where nothing was.
    cnn
        Of our CNN on the same test images.
    network, training_seed
        The checkpoint's file name, and the seed it was trained with.
    """

    cell: paper.Cell
    variant: Variant
    setting: Setting | None
    outcome: Outcome | None
    cnn: Outcome
    network: str
    training_seed: int

    @property
    def accuracy(self) -> float | None:
        """Ours, in %."""
        return None if self.outcome is None else self.outcome.accuracy

    @property
    def difference(self) -> float | None:
        """Our accuracy - the paper's, in points."""
        return _less(self.accuracy, self.cell.accuracy)

    @property
    def loss(self) -> float | None:
        """Conversion loss, in points: our CNN's accuracy - ours."""
        return _less(self.cnn.accuracy, self.accuracy)

    @property
    def paper_loss(self) -> float | None:
        """The same of the paper."""
        return _less(paper.cnn_accuracy(self.cell.data), self.cell.accuracy)

    @property
    def loss_difference(self) -> float | None:
        """Our conversion loss - the paper's."""
        return _less(self.loss, self.paper_loss)


@dataclass(frozen=True)
class BestEntry:
    """The best of our methods for one T, beside the best that a table of the paper has for that T.

    Parameters
    ----------
    cell
        The paper's best.
    best
        Ours.
    cnn
        Of our CNN, before any fine-tuning, on the same test images.
    """

    cell: paper.Cell
    best: Best
    cnn: Outcome


def best_of_paper(cells: Sequence[paper.Cell], timesteps: int) -> paper.Cell:
    """Return the cell of ``cells`` with the highest accuracy at this T."""
    return max((cell for cell in cells if cell.timesteps == timesteps), key=lambda cell: cell.accuracy or 0.0)


def csv_table(entries: Sequence[Entry], bests: Sequence[BestEntry] = ()) -> str:
    """Return a line for each entry; empty where there is no number."""
    header = _CSV_COLUMNS.split()
    lines = []
    for one in entries:
        cell, made, outcome = one.cell, one.setting, one.outcome
        low, high = _interval(outcome)
        lines.append(
            (
                *(cell.table, cell.data, cell.method, cell.reset, cell.alpha, cell.timesteps, one.variant.name),
                *((made.amplitude, made.initial_potential, made.readout) if made else (None, None, None)),
                *((made.poisson_seed, made.weight_bits) if made else (None, None)),
                *((outcome.calibration_images, outcome.images) if outcome else (None, None)),
                *(one.network, one.training_seed, _number(one.accuracy), low, high, _number(cell.accuracy)),
                *(_number(one.difference), _number(one.cnn.accuracy), _number(paper.cnn_accuracy(cell.data))),
                *(_number(one.loss), _number(one.paper_loss), _number(one.loss_difference)),
                outcome.refusal if outcome else None,
            )
        )
    for two in bests:
        cell, outcome = two.cell, two.best.outcome
        low, high = _interval(outcome)
        loss, theirs = _less(two.cnn.accuracy, outcome.accuracy), _less(paper.cnn_accuracy(cell.data), cell.accuracy)
        lines.append(
            (
                *(cell.table, cell.data, two.best.method, "soft", 1.0, cell.timesteps, "best"),
                *("compensated", None, "potential", None, None),
                *(outcome.calibration_images, outcome.images, two.best.network, None),
                *(_number(outcome.accuracy), low, high, _number(cell.accuracy)),
                *(_number(_less(outcome.accuracy, cell.accuracy)), _number(two.cnn.accuracy)),
                *(
                    _number(paper.cnn_accuracy(cell.data)),
                    _number(loss),
                    _number(theirs),
                    _number(_less(loss, theirs)),
                    None,
                ),
            )
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def markdown_page(
    title: str, entries: Sequence[Entry], bests: Sequence[BestEntry] = (), *, notes: Sequence[str] = ()
) -> str:
    """Return the page: accuracies, conversion losses, the best of ours, and the order of the rows.

    Parameters
    ----------
    title
        Heading of the page.
    entries
        The cells of the paper in their order, each in all variants.
    bests
        For each T, if they were measured.
    notes
        How it was measured, one sentence each.
    """
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    cells = list(dict.fromkeys(entry.cell for entry in entries))
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    lines += ["## Accuracy, %", "", f"In brackets: ours - the paper's, in points. {_NOT_MEASURED}", ""]
    lines += [_grid(entries, cells, variants, lambda cell: cell.accuracy, _accuracy_text)]
    lines += ["## Conversion loss, points", "", "Accuracy of the CNN - accuracy of the SNN; in brackets: ours - the "]
    lines[-1] += "paper's. Ours is that of our CNN, the paper's that of its own."
    lines += ["", _grid(entries, cells, variants, _paper_loss, _loss_text)]
    if bests:
        lines += ["## The best of our methods", "", *_best_lines(bests)]
    if order := [line for variant in variants for line in order_lines(entries, variant)]:
        lines += ["## The order of the rows", "", _ORDER_EXPLAINED, "", *order, ""]
    lines += ["## Variants", "", *(f"- **{variant.name}**: {variant.description}." for variant in variants)]
    refusals = dict.fromkeys(
        f"{_row_name(entry.cell)}, {entry.variant.name}: {entry.outcome.refusal}"
        for entry in entries
        if entry.outcome is not None and entry.outcome.refusal is not None
    )
    if refusals:
        lines += ["", "Where ours is missing, the network does not fit Loihi's integers:", ""]
        lines += [f"- {refusal}" for refusal in refusals]
    return "\n".join(lines) + "\n"


_NOT_MEASURED: Final = "-: the paper has no number, or it is not measured here."
_ORDER_EXPLAINED: Final = (
    "Pairs of rows at the same T that the paper tells apart, by more than the 95 % interval of a difference on its "
    "10,000 images. What we order the other way is listed; *within chance*: our difference is inside its own interval."
)


@dataclass(frozen=True)
class Pair:
    """Two rows at the same T that the paper tells apart, the better one first.

    Parameters
    ----------
    better, worse
        In the paper.
    is_same
        Ours come in that order, or are equal.
    is_chance
        Our difference is inside its 95 % interval.
    """

    better: Entry
    worse: Entry
    is_same: bool
    is_chance: bool


def pairs(entries: Sequence[Entry], variant: Variant) -> list[Pair]:
    """Return every pair of rows of one data set and T, both measured by the paper and here, that the paper tells
    apart."""
    found = []
    for better, worse in _told_apart(entries, variant):
        if better.accuracy is not None and worse.accuracy is not None:
            ours = _difference(better.accuracy, _images(better), worse.accuracy, _images(worse))
            found.append(Pair(better, worse, is_same=ours >= 0, is_chance=abs(ours) <= 1))
    return found


def _told_apart(entries: Sequence[Entry], variant: Variant) -> list[tuple[Entry, Entry]]:
    """The pairs of rows of one data set and T that the paper tells apart, its better row first, measured here or
    not."""
    rows = [
        entry
        for entry in entries
        if entry.variant == variant and None not in (entry.cell.accuracy, entry.cell.timesteps)
    ]
    found = []
    for one, two in itertools.combinations(rows, 2):
        if (one.cell.data, one.cell.timesteps) != (two.cell.data, two.cell.timesteps):
            continue
        better, worse = (one, two) if (one.cell.accuracy or 0) > (two.cell.accuracy or 0) else (two, one)
        if _difference(better.cell.accuracy, PAPER_IMAGES, worse.cell.accuracy, PAPER_IMAGES) > 1:
            found.append((better, worse))
    return found


def order_lines(entries: Sequence[Entry], variant: Variant) -> list[str]:
    """Return what `pairs` says of a variant: how many come in the paper's order, of how many, and each that does
    not."""
    found = pairs(entries, variant)
    if not found:
        return []
    others = [pair for pair in found if not pair.is_same]
    every = len(_told_apart(entries, variant))
    left_out = "" if len(found) == every else f"; {every - len(found)} more are not measured here"
    lines = [f"- **{variant.name}**: {len(found) - len(others)} of {len(found)} in the paper's order{left_out}."]
    for pair in others:
        better, worse = pair.better, pair.worse
        lines.append(
            f"  - {_row_name(better.cell)} before {_short_name(worse.cell)}: paper {better.cell.accuracy:.2f} and "
            f"{worse.cell.accuracy:.2f}, ours {better.accuracy:.2f} and {worse.accuracy:.2f}"
            + (", within chance" if pair.is_chance else "")
        )
    return lines


def _difference(first: float | None, first_images: int, second: float | None, second_images: int) -> float:
    """The difference of two accuracies in %, in units of half its 95 % interval; infinite where that is empty."""
    assert first is not None
    assert second is not None
    variance = first * (100 - first) / first_images + second * (100 - second) / second_images
    if first == second:
        return 0.0
    return (
        (first - second) / (_DEVIATIONS * math.sqrt(variance)) if variance else math.copysign(math.inf, first - second)
    )


def _images(entry: Entry) -> int:
    assert entry.outcome is not None
    return entry.outcome.images


def _best_lines(bests: Sequence[BestEntry]) -> list[str]:
    rows = []
    reached = 0
    for one in bests:
        accuracy, theirs = one.best.outcome.accuracy, one.cell.accuracy
        reached += (_less(accuracy, theirs) or 0.0) >= 0
        low, high = _interval(one.best.outcome)
        loss, their_loss = _less(one.cnn.accuracy, accuracy), _less(paper.cnn_accuracy(one.cell.data), theirs)
        rows.append(
            (
                *(
                    str(one.cell.timesteps),
                    f"{_text(theirs)} ({one.cell.method})",
                    f"{_text(accuracy)} ({low}..{high})",
                ),
                *(_signed(_less(accuracy, theirs)), _text(their_loss), _text(loss)),
                *(one.best.method, one.best.network, f"{one.best.outcome.images:,}"),
            )
        )
    header = (
        *("T", "paper's best", "ours (95 % interval)", "ours - paper's", "paper's loss", "our loss"),
        *("method", "network", "test images"),
    )
    is_long = any((one.cell.timesteps or 0) > images.LONG for one in bests)
    beyond = f"; beyond T = {images.LONG} the method is that of T = {images.LONG}" if is_long else ""
    return [
        f"At or above the paper's at {reached} of {len(bests)} T. Methods are chosen on calibration images, networks "
        f"on validation images{beyond}. What runs is the exported file.",
        "",
        markdown_table(header, rows),
    ]


def _grid(
    entries: Sequence[Entry],
    cells: Sequence[paper.Cell],
    variants: Sequence[Variant],
    theirs: Callable[[paper.Cell], float | None],
    ours: Callable[[Entry], str],
) -> str:
    """A table with a row for each cell and a column for each variant; what all rows have in common is left out."""
    by_place = {(entry.cell, entry.variant): entry for entry in entries}
    columns: list[tuple[str, Callable[[paper.Cell], str]]] = [
        ("data", lambda cell: cell.data),
        ("T", lambda cell: BLANK if cell.timesteps is None else str(cell.timesteps)),
        ("method", lambda cell: "CNN" if cell.method == paper.CNN else cell.method),
        ("reset", lambda cell: cell.reset or BLANK),
        ("alpha", lambda cell: BLANK if cell.alpha is None else f"{cell.alpha:g}"),
    ]
    kept = [(name, text) for name, text in columns if name == "T" or len({text(cell) for cell in cells}) > 1]
    header = [*(name for name, _ in kept), "paper", *(variant.name for variant in variants)]
    rows = [
        [
            *(text(cell) for _, text in kept),
            _text(theirs(cell)),
            *(ours(by_place[cell, variant]) for variant in variants),
        ]
        for cell in cells
    ]
    return markdown_table(header, rows)


def _paper_loss(cell: paper.Cell) -> float | None:
    return _less(paper.cnn_accuracy(cell.data), cell.accuracy)


def _accuracy_text(entry: Entry) -> str:
    return _with_difference(entry.accuracy, entry.difference)


def _loss_text(entry: Entry) -> str:
    return _with_difference(entry.loss, entry.loss_difference)


def _with_difference(value: float | None, difference: float | None) -> str:
    return _text(value) if value is None or difference is None else f"{_text(value)} ({_signed(difference)})"


def _row_name(cell: paper.Cell) -> str:
    timesteps = "" if cell.timesteps is None else f", T = {cell.timesteps}"
    return f"{cell.data}{timesteps}, {_short_name(cell)}"


def _short_name(cell: paper.Cell) -> str:
    alpha = "" if cell.alpha in (None, 1.0) else f" alpha {cell.alpha:g}"
    return f"{cell.method} ({cell.reset}){alpha}"


def _interval(outcome: Outcome | None) -> tuple[str, str]:
    if outcome is None or outcome.correct is None:
        return "", ""
    low, high = wilson_interval(outcome.correct, outcome.images)
    return f"{100 * low:.2f}", f"{100 * high:.2f}"


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _number(value: float | None) -> str:
    return "" if value is None else _text(value)


def _text(value: float | None) -> str:
    # A difference of floats that rounds to zero from below would read -0.00.
    return BLANK if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")


def _signed(value: float | None) -> str:
    return BLANK if value is None else f"{value:+.2f}".replace("-0.00", "+0.00")


def counted(entries: Sequence[Entry]) -> list[str]:
    """Return how many images the entries were measured with, one sentence for each number of test images."""
    found = []
    for is_long in (False, True):
        measured = [
            entry.outcome
            for entry in entries
            if entry.outcome is not None
            and entry.setting is not None
            and (entry.setting.timesteps > images.LONG) == is_long
        ]
        tested = sorted({outcome.images for outcome in measured})
        balanced = sorted({outcome.calibration_images for outcome in measured})
        if measured:
            where = f"T > {images.LONG}" if is_long else f"T up to {images.LONG}"
            found.append(
                f"{where}: {_listed(tested)} test images, thresholds balanced on {_listed(balanced)} training images."
            )
    return found


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)
