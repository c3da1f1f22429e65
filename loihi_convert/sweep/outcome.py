"""The result of a cell, or why it has none."""

from __future__ import annotations

from dataclasses import dataclass

from loihi_convert.records import Interval, Record


class CellResult(Record):
    """Figures of one exported file after T steps; numbers per image are means over the images of the run.

    Attributes
    ----------
    image_count
        Number of images.
    accuracy, accuracy_interval, cnn_accuracy
        Fractions 0..1 of the integer network (with its 95 % interval) and of the CNN; None without labels.
    agreement_with_cnn
        Fraction of images with the CNN's class; None for a regression.
    rmse, rmse_to_cnn
        Root mean square error to the targets and to the CNN's outputs, of a regression.
    spikes, synaptic_operations
        Per image, see `evaluation.Point`.
    joules, seconds
        Energy and time of an inference on Loihi 1, low and high estimate, see `chip.energy`.
    cores
        Fewest and most Loihi 2 neurocores, an estimate, see `chip.resources`.
    balanced_by
        The method and corrections used, if ``auto`` chose them.
    saturated_images
        Images with an output potential at the limit of its range.
    """

    image_count: int
    accuracy: float | None
    accuracy_interval: Interval | None
    cnn_accuracy: float | None
    agreement_with_cnn: float | None
    rmse: float | None
    rmse_to_cnn: float | None
    spikes: float
    synaptic_operations: float
    joules: Interval | None
    seconds: Interval | None
    cores: tuple[int, int]
    balanced_by: str
    saturated_images: int


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Parameters
    ----------
    result
        None if the cell failed.
    error
        Why, one sentence.
    is_final
        Whether computing the cell again would give the same: true for a result, and for a network or options that
        cannot be converted; false if the machine failed.
    duration
        Seconds that the cell took; not part of the result.
    """

    result: CellResult | None = None
    error: str | None = None
    is_final: bool = True
    duration: float = 0.0
