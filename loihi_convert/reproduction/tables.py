"""Our measurements compared with the paper's numbers, and their CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loihi_convert.records import wilson_interval
from loihi_convert.report import paper
from loihi_convert.reproduction import images
from loihi_convert.reproduction.paper_cells import Setting, Variant

BLANK: Final = "-"
"""What the paper could not measure, and what does not exist here."""

MAXIMA: Final = ("ngu-lee", "spike-norm", "rmp", "act-norm", "act-norm-channelwise")
"""Methods whose thresholds are the largest value found on the calibration images, which grows with their number."""

_ENOUGH_FOR_MAXIMA: Final = 10_000
_CSV_COLUMNS: Final = """
table data method reset alpha timesteps variant amplitude initial_potential readout poisson_seed weight_bits
calibration_images test_images network training_seed accuracy interval_low interval_high paper_accuracy difference
cnn_accuracy paper_cnn_accuracy conversion_loss paper_conversion_loss loss_difference refusal
"""


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
class Entry:
    """A cell of the paper in one variant.

    Parameters
    ----------
    cell
        The paper's cell.
    variant
        The variant of the measurement.
    setting
        All settings of the measurement; None for the CNN, and if the cell does not have this variant.
    outcome
        The measured result; None if not measured.
    cnn
        The result of our CNN on the same test images.
    network, training_seed
        The checkpoint's file name and training seed.
    """

    cell: paper.Cell
    variant: Variant
    setting: Setting | None
    outcome: Measured | None
    cnn: Measured
    network: str
    training_seed: int

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
    def paper_loss(self) -> float | None:
        """The paper's conversion loss, in points."""
        return less(paper.cnn_accuracy(self.cell.data), self.cell.accuracy)

    @property
    def loss_difference(self) -> float | None:
        """Our conversion loss - the paper's, in points."""
        return less(self.loss, self.paper_loss)


@dataclass(frozen=True)
class BestEntry:
    """The best of our methods for one T, compared with the best in a table of the paper for that T.

    Parameters
    ----------
    cell
        The paper's best.
    method, network
        The method of our best, and the file name of its checkpoint; empty without a result.
    outcome
        Its result.
    cnn
        The result of our CNN, before any fine-tuning, on the same test images.
    """

    cell: paper.Cell
    method: str
    network: str
    outcome: Measured
    cnn: Measured


def best_of_paper(cells: Sequence[paper.Cell], timesteps: int) -> paper.Cell:
    """Return the cell of ``cells`` with the highest accuracy at this T."""
    return max((cell for cell in cells if cell.timesteps == timesteps), key=lambda cell: cell.accuracy or 0.0)


def csv_table(entries: Sequence[Entry], bests: Sequence[BestEntry] = ()) -> str:
    """Return CSV with one line per entry; missing numbers are empty."""
    header = _CSV_COLUMNS.split()
    lines = []
    for one in entries:
        cell, made, outcome = one.cell, one.setting, one.outcome
        low, high = interval(outcome)
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
        cell, outcome = two.cell, two.outcome
        low, high = interval(outcome)
        loss, theirs = less(two.cnn.accuracy, outcome.accuracy), less(paper.cnn_accuracy(cell.data), cell.accuracy)
        lines.append(
            (
                *(cell.table, cell.data, two.method, "soft", 1.0, cell.timesteps, "best"),
                *("compensated", None, "potential", None, None),
                *(outcome.calibration_images, outcome.images, two.network, None),
                *(_number(outcome.accuracy), low, high, _number(cell.accuracy)),
                *(_number(less(outcome.accuracy, cell.accuracy)), _number(two.cnn.accuracy)),
                *(
                    _number(paper.cnn_accuracy(cell.data)),
                    _number(loss),
                    _number(theirs),
                    _number(less(loss, theirs)),
                    outcome.refusal,
                ),
            )
        )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return stream.getvalue()


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


def less(one: float | None, other: float | None) -> float | None:
    """Return one - other; None if either is unknown."""
    return None if one is None or other is None else one - other


def _number(value: float | None) -> str:
    return "" if value is None else text(value)


def text(value: float | None) -> str:
    """Return a number with two decimals."""
    # A negative difference that rounds to zero would be written as -0.00.
    return BLANK if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")


def signed(value: float | None) -> str:
    """Return a difference with two decimals and its sign."""
    return BLANK if value is None else f"{value:+.2f}".replace("-0.00", "+0.00")


def counted(entries: Sequence[Entry]) -> list[str]:
    """Return the numbers of images of the entries, one sentence per number of test images."""
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


def flattered(entries: Sequence[Entry]) -> list[str]:
    """Return a warning if thresholds are maxima over few calibration images, which favours small T."""
    few: dict[int, dict[str, None]] = {}
    for entry in entries:
        made, outcome = entry.setting, entry.outcome
        if made is None or outcome is None or made.method not in MAXIMA:
            continue
        if outcome.calibration_images < _ENOUGH_FOR_MAXIMA:
            few.setdefault(outcome.calibration_images, {})[made.method] = None
    return [
        f"The thresholds of {', '.join(methods)} are maxima over only {count:,} calibration images. Fewer images give "
        "lower thresholds, which raise the accuracy at few time steps: do not compare it with the paper's."
        for count, methods in few.items()
    ]
