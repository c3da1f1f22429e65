"""Our measurements compared with the paper's numbers, and their CSV file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from loihi_convert.ground.statistics import Z_SCORE, wilson_interval
from loihi_convert.paper.fingerprints import fingerprint
from loihi_convert.paper.images import LONG
from loihi_convert.paper.variants import BEST, PaperSetting, Variant
from loihi_convert.report import paper
from loihi_convert.report.table import Table, markdown_table, points, signed_points, table_of
from loihi_convert.runs.columns import as_csv

BLANK: Final = "-"
"""What the paper could not measure, and what does not exist here."""

# Methods whose thresholds are the largest value found on the calibration images, which grows with their number.
_MAXIMA: Final = ("ngu-lee", "spike-norm", "rmp", "act-norm", "act-norm-channelwise")
_ENOUGH_FOR_MAXIMA: Final = 10_000
_BALANCING: Final = ("amplitude", "initial_potential", "readout", "poisson_seed")


@dataclass(frozen=True)
class Measured:
    """A measured accuracy.

    Parameters
    ----------
    correct
        Number of correctly classified images; None without a result.
    images
        Number of test images.
    calibration_images
        Number of images used to balance the thresholds; 0 for the CNN.
    refusal
        Why the result is missing, such as a network that does not fit Loihi's integer ranges.
    """

    correct: int | None
    images: int
    calibration_images: int
    refusal: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Accuracy in %."""
        return None if self.correct is None else 100 * self.correct / self.images


@dataclass(frozen=True)
class PaperEntry:
    """A cell of the paper in one variant, or the best of our methods beside the paper's best for a T.

    Parameters
    ----------
    cell
        The paper's cell.
    outcome
        Our result; None if not measured.
    cnn
        The result of our CNN, before any fine-tuning, on the same test images.
    network
        File name of the checkpoint; empty if there is none.
    variant
        The variant of the measurement, or `BEST`.
    setting
        All settings of the measurement; None for the CNN, for `BEST`, and if the cell does not have this variant.
    training_seed
        The training seed of the checkpoint; None for `BEST`.
    method
        The method of our best; empty without a result.
    """

    cell: paper.Cell
    outcome: Measured | None
    cnn: Measured
    network: str
    variant: Variant
    setting: PaperSetting | None = None
    training_seed: int | None = None
    method: str = ""

    @property
    def accuracy(self) -> float | None:
        """Our accuracy, in %."""
        return None if self.outcome is None else self.outcome.accuracy

    @property
    def difference(self) -> float | None:
        """Our accuracy - the paper's, in points."""
        return less(self.accuracy, self.cell.accuracy)

    @property
    def loss(self) -> float | None:
        """Conversion loss, in points: our CNN's accuracy - ours."""
        return less(self.cnn.accuracy, self.accuracy)

    @property
    def loss_difference(self) -> float | None:
        """Our conversion loss - the paper's, in points."""
        return less(self.loss, paper_loss(self.cell))

    @property
    def columns(self) -> dict[str, object]:
        """Its line of the CSV table; None: unknown here."""
        low, high = interval(self.outcome)
        method, reset, alpha = self.cell.method, self.cell.reset, self.cell.alpha
        made: dict[str, object] = dict.fromkeys(_BALANCING)
        if self.variant is BEST:
            method, reset, alpha = self.method, "soft", 1.0
            made |= {"amplitude": "compensated", "readout": "potential"}
        elif self.setting is not None:
            made = {name: getattr(self.setting.balancing, name) for name in _BALANCING}
        return {
            "table": self.cell.table,
            "data": self.cell.data,
            "method": method,
            "reset": reset,
            "alpha": alpha,
            "timesteps": self.cell.timesteps,
            "variant": self.variant.name,
            **made,
            "weight_bits": self.setting and self.setting.weight_bits,
            "calibration_images": self.outcome and self.outcome.calibration_images,
            "test_images": self.outcome and self.outcome.images,
            "network": self.network,
            "training_seed": self.training_seed,
            "accuracy": points(self.accuracy),
            "interval_low": low,
            "interval_high": high,
            "paper_accuracy": points(self.cell.accuracy),
            "difference": points(self.difference),
            "cnn_accuracy": points(self.cnn.accuracy),
            "paper_cnn_accuracy": points(paper.cnn_accuracy(self.cell.data)),
            "conversion_loss": points(self.loss),
            "paper_conversion_loss": points(paper_loss(self.cell)),
            "loss_difference": points(self.loss_difference),
            "refusal": self.outcome and self.outcome.refusal,
            "conversion": fingerprint(self.setting) if self.setting or self.variant is BEST else None,
        }


def csv_table(entries: Sequence[PaperEntry]) -> str:
    """Return CSV with one line per entry; missing numbers are empty."""
    return as_csv([one.columns for one in entries]).decode()


def row_name(cell: paper.Cell) -> str:
    """Return the name of a row: data set, T, method, reset, alpha."""
    timesteps = "" if cell.timesteps is None else f", T = {cell.timesteps}"
    return f"{cell.data}{timesteps}, {short_name(cell)}"


def short_name(cell: paper.Cell) -> str:
    """Return the name of a row without data set and T."""
    alpha = "" if cell.alpha in (None, 1.0) else f" alpha {cell.alpha:g}"
    return f"{cell.method} ({cell.reset}){alpha}"


def interval(outcome: Measured | None) -> tuple[str, str]:
    """Return the 95 % Wilson interval of an accuracy, in %; empty if it was not measured."""
    if outcome is None or outcome.correct is None:
        return "", ""
    low, high = wilson_interval(outcome.correct, outcome.images)
    return f"{100 * low:.2f}", f"{100 * high:.2f}"


def paper_loss(cell: paper.Cell) -> float | None:
    """Return the paper's conversion loss, in points."""
    return less(paper.cnn_accuracy(cell.data), cell.accuracy)


def less(one: float | None, other: float | None) -> float | None:
    """Return one - other; None if either is unknown."""
    return None if one is None or other is None else one - other


def number(value: float | None) -> str:
    """Return a number with two decimals."""
    return points(value) or BLANK


def signed(value: float | None) -> str:
    """Return a difference with two decimals and its sign."""
    return signed_points(value) or BLANK


def counted(entries: Sequence[PaperEntry]) -> list[str]:
    """Return the numbers of images of the entries, one sentence for T up to `LONG` and one for larger T."""
    found = []
    for is_long, where in ((False, f"T up to {LONG}"), (True, f"T > {LONG}")):
        measured = [
            one.outcome for one in entries if one.outcome and one.setting and (one.setting.timesteps > LONG) == is_long
        ]
        if measured:
            tested = _listed(outcome.images for outcome in measured)
            balanced = _listed(outcome.calibration_images for outcome in measured)
            found.append(f"{where}: {tested} test images, thresholds balanced on {balanced} training images.")
    return found


def _listed(numbers: Iterable[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(set(numbers)))


def flattered(entries: Sequence[PaperEntry]) -> list[str]:
    """Return a warning if thresholds are maxima over few calibration images, which favours small T."""
    few: dict[int, dict[str, None]] = {}
    for entry in entries:
        made, outcome = entry.setting, entry.outcome
        if made and outcome and made.balancing.method in _MAXIMA and outcome.calibration_images < _ENOUGH_FOR_MAXIMA:
            few.setdefault(outcome.calibration_images, {})[made.balancing.method] = None
    return [
        f"The thresholds of {', '.join(methods)} are maxima over only {count:,} calibration images. Fewer images give "
        "lower thresholds, which raise the accuracy at few time steps: do not compare it with the paper's."
        for count, methods in few.items()
    ]


PAPER_IMAGES: Final = 10_000
"""Test images of each data set, all of which the paper takes."""

Order = Literal["same order", "within chance", "opposite"]
"""How two rows rank here compared with the paper; equal rows are within chance."""

_ACCURACY: Final = (
    "Ours [95 % interval] (ours - the paper's, in points). "
    f"{BLANK}: the paper has no number, or it is not measured here."
)
_LOSS: Final = (
    "Accuracy of the CNN - accuracy of the SNN; in brackets: ours - the paper's. Ours is that of our CNN, the paper's "
    "that of its own."
)
_ORDER: Final = (
    "Pairs of rows at the same T that the paper tells apart: they differ by more than the 95 % interval of a "
    "difference on its 10,000 images. *Within chance*: our difference is inside its own interval. Pairs in the "
    "opposite order are listed."
)


def shown_tables(entries: Sequence[PaperEntry]) -> list[Table]:
    """Return accuracies, conversion losses and, if measured, the best of our methods for each T.

    ``entries`` are the cells in the paper's order, each in all variants.
    """
    best_rows = [
        {
            "T": str(one.cell.timesteps),
            "paper's best": f"{number(one.cell.accuracy)} ({one.cell.method})",
            "ours [95 % interval]": f"{number(one.accuracy)} [{', '.join(interval(one.outcome))}]",
            "ours - paper's": signed(one.difference),
            "method": one.method,
            "network": one.network,
        }
        for one in entries
        if one.variant is BEST
    ]
    accuracies = _compared(entries, lambda cell: cell.accuracy, _accuracy_text)
    losses = _compared(entries, paper_loss, lambda one: f"{number(one.loss)}{_in_brackets(one.loss_difference)}")
    shown = [
        (accuracies, "Accuracy, %", _ACCURACY),
        (losses, "Conversion loss, points", _LOSS),
        (best_rows, "The best of our methods", best_sentence(entries)),
    ]
    return [table_of(rows, words=rows[0], title=title, caption=caption) for rows, title, caption in shown if rows]


def markdown_page(
    title: str, entries: Sequence[PaperEntry], *, notes: Sequence[str] = (), warnings: Sequence[str] = ()
) -> str:
    """Return the page: `shown_tables`, and the order of the rows; ``notes`` say how the table was measured."""
    variants = _variants(entries)
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), *(f"- **Warning**: {one}" for one in warnings), ""]
    for table in shown_tables(entries):
        lines += [f"## {table.title}", "", table.caption, "", markdown_table(table.headers, table.rows)]
    if order := [line for variant in variants for line in order_lines(entries, variant)]:
        lines += ["## The order of the rows", "", _ORDER, "", *order, ""]
    lines += ["## Variants", "", *(f"- **{variant.name}**: {variant.description}." for variant in variants)]
    if refusals := refused(entries):
        lines += ["", "No number:", "", *(f"- {one}" for one in refusals)]
    return "\n".join(lines) + "\n"


class RowPair(NamedTuple):
    """Two rows at the same T that differ significantly in the paper, the better one there first, and how ours rank.

    Ours are within chance if our difference is within its 95 % interval; None: not both are measured here.
    """

    better: PaperEntry
    worse: PaperEntry
    order: Order | None


def pairs(entries: Sequence[PaperEntry], variant: Variant) -> list[RowPair]:
    """Return all pairs of rows of one data set and T that differ significantly in the paper."""
    rows = [
        (entry.cell.accuracy, entry)
        for entry in entries
        if entry.variant == variant and entry.cell.accuracy is not None and entry.cell.timesteps is not None
    ]
    found = []
    for (first, one), (second, two) in itertools.combinations(rows, 2):
        theirs = _difference(first, PAPER_IMAGES, second, PAPER_IMAGES)
        if abs(theirs) <= 1 or (one.cell.data, one.cell.timesteps) != (two.cell.data, two.cell.timesteps):
            continue
        better, worse = (one, two) if theirs > 0 else (two, one)
        order: Order | None = None
        if better.outcome and worse.outcome and better.accuracy is not None and worse.accuracy is not None:
            ours = _difference(better.accuracy, better.outcome.images, worse.accuracy, worse.outcome.images)
            order = "within chance" if abs(ours) <= 1 else "same order" if ours > 0 else "opposite"
        found.append(RowPair(better, worse, order))
    return found


def _difference(first: float, first_images: int, second: float, second_images: int) -> float:
    """Return the difference of two accuracies (%) divided by half its 95 % interval; infinite if that is zero."""
    if first == second:
        return 0.0
    variance = first * (100 - first) / first_images + second * (100 - second) / second_images
    return (first - second) / (Z_SCORE * math.sqrt(variance)) if variance else math.copysign(math.inf, first - second)


def order_lines(entries: Sequence[PaperEntry], variant: Variant) -> list[str]:
    """Return the number of `pairs` of each `Order` in a variant, and each pair in the opposite order."""
    found = pairs(entries, variant)
    orders = [pair.order for pair in found if pair.order is not None]
    if not orders:
        return []
    counts = ", ".join(f"{orders.count(order)} {order}" for order in get_args(Order))
    left_out = len(found) - len(orders)
    beside = f"; {left_out} more are not measured here" if left_out else ""
    return [
        f"- **{variant.name}**: {len(orders)} pairs of rows: {counts}{beside}.",
        *(
            f"  - {row_name(better.cell)} before {short_name(worse.cell)}: paper {better.cell.accuracy:.2f} and "
            f"{worse.cell.accuracy:.2f}, ours {better.accuracy:.2f} and {worse.accuracy:.2f}"
            for better, worse, order in found
            if order == "opposite"
        ),
    ]


def best_sentence(entries: Sequence[PaperEntry]) -> str:
    """Return the number of T at which ours reaches the paper's best, and how ours was chosen."""
    bests = [one for one in entries if one.variant is BEST]
    differences = [one.difference for one in bests if one.difference is not None]
    reached = sum(one >= 0 for one in differences)
    is_long = any((one.cell.timesteps or 0) > LONG for one in bests)
    beyond = f"; beyond T = {LONG} the method is that of T = {LONG}" if is_long else ""
    return (
        f"At or above the paper's at {reached} of {len(differences)} T. Methods are chosen on calibration images, "
        f"networks on validation images{beyond}. What runs is the exported file."
    )


def refused(entries: Sequence[PaperEntry]) -> list[str]:
    """Return each cell without a result, with the reason."""
    found = [(entry, entry.outcome.refusal) for entry in entries if entry.outcome]
    return list(dict.fromkeys(f"{row_name(e.cell)}, {e.variant.name}: {reason}" for e, reason in found if reason))


def _compared(
    entries: Sequence[PaperEntry], theirs: Callable[[paper.Cell], float | None], ours: Callable[[PaperEntry], str]
) -> list[dict[str, str]]:
    """Return one row per cell and one column per variant; columns that are equal in all rows are omitted."""
    variants = _variants(entries)
    cells = list(dict.fromkeys(entry.cell for entry in entries if entry.variant is not BEST))
    by_place = {(entry.cell, entry.variant): entry for entry in entries}
    columns: dict[str, Callable[[paper.Cell], str]] = {
        "data": lambda cell: cell.data,
        "T": lambda cell: BLANK if cell.timesteps is None else str(cell.timesteps),
        "method": lambda cell: "CNN" if cell.method == paper.CNN else cell.method,
        "reset": lambda cell: cell.reset or BLANK,
        "alpha": lambda cell: BLANK if cell.alpha is None else f"{cell.alpha:g}",
    }
    kept = {name: shown for name, shown in columns.items() if name == "T" or len(set(map(shown, cells))) > 1}
    return [
        {
            **{name: shown(cell) for name, shown in kept.items()},
            "paper": number(theirs(cell)),
            **{variant.name: ours(by_place[cell, variant]) for variant in variants},
        }
        for cell in cells
    ]


def _variants(entries: Sequence[PaperEntry]) -> list[Variant]:
    return [variant for variant in dict.fromkeys(entry.variant for entry in entries) if variant is not BEST]


def _accuracy_text(entry: PaperEntry) -> str:
    low, high = interval(entry.outcome)
    return f"{number(entry.accuracy)}{f' [{low}, {high}]' if low else ''}{_in_brackets(entry.difference)}"


def _in_brackets(difference: float | None) -> str:
    return "" if difference is None else f" ({signed(difference)})"
