"""Our measurements compared with the paper's numbers, and their CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loihi_convert.report import paper
from loihi_convert.report.formats import points, signed_points
from loihi_convert.reproduction import images
from loihi_convert.reproduction.variants import Setting, Variant
from loihi_convert.runs.csv_files import csv_bytes
from loihi_convert.statistics import wilson_interval

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


class _Compared:
    """A cell of the paper, our result, and that of our CNN on the same test images."""

    cell: paper.Cell
    outcome: Measured | None
    cnn: Measured

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


@dataclass(frozen=True)
class Entry(_Compared):
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


@dataclass(frozen=True)
class BestEntry(_Compared):
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
    settings = ("amplitude", "initial_potential", "readout", "poisson_seed", "weight_bits")
    rows = [
        {
            **_numbers(one),
            "method": one.cell.method,
            "reset": one.cell.reset,
            "alpha": one.cell.alpha,
            "variant": one.variant.name,
            **({name: getattr(one.setting, name) for name in settings} if one.setting else {}),
            "network": one.network,
            "training_seed": one.training_seed,
        }
        for one in entries
    ]
    rows += [
        {
            **_numbers(best),
            "method": best.method,
            "reset": "soft",
            "alpha": 1.0,
            "variant": "best",
            "amplitude": "compensated",
            "readout": "potential",
            "network": best.network,
        }
        for best in bests
    ]
    columns = _CSV_COLUMNS.split()
    return csv_bytes(columns, ([row.get(column) for column in columns] for row in rows)).decode()


def _numbers(one: _Compared) -> dict[str, object]:
    """Return the columns that compare our result with the paper's and with our CNN's."""
    low, high = interval(one.outcome)
    measured = {
        "accuracy": one.accuracy,
        "paper_accuracy": one.cell.accuracy,
        "difference": one.difference,
        "cnn_accuracy": one.cnn.accuracy,
        "paper_cnn_accuracy": paper.cnn_accuracy(one.cell.data),
        "conversion_loss": one.loss,
        "paper_conversion_loss": paper_loss(one.cell),
        "loss_difference": one.loss_difference,
    }
    return {
        "table": one.cell.table,
        "data": one.cell.data,
        "timesteps": one.cell.timesteps,
        "interval_low": low,
        "interval_high": high,
        **{name: "" if value is None else text(value) for name, value in measured.items()},
        "calibration_images": one.outcome and one.outcome.calibration_images,
        "test_images": one.outcome and one.outcome.images,
        "refusal": one.outcome and one.outcome.refusal,
    }


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


def text(value: float | None) -> str:
    """Return a number with two decimals."""
    return points(value) or BLANK


def signed(value: float | None) -> str:
    """Return a difference with two decimals and its sign."""
    return signed_points(value) or BLANK


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
