"""Our measurements compared with the paper's numbers, and their CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.paper import images
from loihi_convert.paper.fingerprint import fingerprint
from loihi_convert.paper.variants import PaperSetting, Variant
from loihi_convert.report import paper
from loihi_convert.report.table import points, signed_points
from loihi_convert.runs.columns import as_csv

BLANK: Final = "-"
"""What the paper could not measure, and what does not exist here."""

# Methods whose thresholds are the largest value found on the calibration images, which grows with their number.
_MAXIMA: Final = ("ngu-lee", "spike-norm", "rmp", "act-norm", "act-norm-channelwise")
_ENOUGH_FOR_MAXIMA: Final = 10_000
_SETTINGS: Final = ("amplitude", "initial_potential", "readout", "poisson_seed", "weight_bits")


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
class _Compared:
    """A cell of the paper and what we measured.

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
    """

    cell: paper.Cell
    outcome: Measured | None
    cnn: Measured
    network: str

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
        return {
            "table": self.cell.table,
            "data": self.cell.data,
            "method": self.cell.method,
            "reset": self.cell.reset,
            "alpha": self.cell.alpha,
            "timesteps": self.cell.timesteps,
            "variant": None,
            **dict.fromkeys(_SETTINGS),
            "calibration_images": self.outcome and self.outcome.calibration_images,
            "test_images": self.outcome and self.outcome.images,
            "network": self.network,
            "training_seed": None,
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
            "conversion": None,
        }


@dataclass(frozen=True)
class PaperEntry(_Compared):
    """A cell of the paper in one variant.

    Parameters
    ----------
    variant
        The variant of the measurement.
    setting
        All settings of the measurement; None for the CNN, and if the cell does not have this variant.
    training_seed
        The training seed of the checkpoint.
    """

    variant: Variant
    setting: PaperSetting | None
    training_seed: int

    @property
    def columns(self) -> dict[str, object]:
        """See `_Compared.columns`."""
        found = {**super().columns, "variant": self.variant.name, "training_seed": self.training_seed}
        if self.setting is not None:
            found |= {name: getattr(self.setting, name) for name in _SETTINGS}
            found["conversion"] = fingerprint(self.setting)
        return found


@dataclass(frozen=True)
class BestEntry(_Compared):
    """The best of our methods for one T, and the cell with the paper's best for that T.

    Parameters
    ----------
    method
        The method of our best; empty without a result.
    """

    outcome: Measured
    method: str

    @property
    def columns(self) -> dict[str, object]:
        """See `_Compared.columns`."""
        made = {"method": self.method, "reset": "soft", "alpha": 1.0, "variant": "best", "amplitude": "compensated"}
        return {**super().columns, **made, "readout": "potential", "conversion": fingerprint(None)}


def csv_table(entries: Sequence[PaperEntry], bests: Sequence[BestEntry] = ()) -> str:
    """Return CSV with one line per entry; missing numbers are empty."""
    return as_csv([one.columns for one in (*entries, *bests)]).decode()


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
    """Return the numbers of images of the entries, one sentence for T up to `images.LONG` and one for larger T."""
    found = []
    for is_long, where in ((False, f"T up to {images.LONG}"), (True, f"T > {images.LONG}")):
        measured = [
            one.outcome
            for one in entries
            if one.outcome and one.setting and (one.setting.timesteps > images.LONG) == is_long
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
        if made is None or outcome is None or made.method not in _MAXIMA:
            continue
        if outcome.calibration_images < _ENOUGH_FOR_MAXIMA:
            few.setdefault(outcome.calibration_images, {})[made.method] = None
    return [
        f"The thresholds of {', '.join(methods)} are maxima over only {count:,} calibration images. Fewer images give "
        "lower thresholds, which raise the accuracy at few time steps: do not compare it with the paper's."
        for count, methods in few.items()
    ]
