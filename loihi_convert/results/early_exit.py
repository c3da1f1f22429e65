"""Early exit: average latency against accuracy where each image stops once its class is clear.

The margin rule (the Top-K cutoff of D. Wu et al., Front. Neurosci. 2025, 19, 1522788): stop after the first step at
which the output of the first class leads that of the second by at least the margin, at the latest after T. Outputs are
those of `RunResult.outputs`: potentials in weight units of the last layer, which has one scale for all classes, or
spike counts; so leads and margins are integers of that unit.

The margin is chosen on images that are not run. Everything is read from the recorded outputs of whole runs of T steps:
no step is left out there, only counted. Steps are those of one layer; on Lava every layer adds one, so the average
latency there is the average T + depth. By then a layer has also worked for a step more than the one behind it; that
work is not in the synaptic operations here, as it is not in those of `evaluate`.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.backends import RunResult
from loihi_convert.data.dataset import HeldOutSplit
from loihi_convert.errors import DataError
from loihi_convert.results.schema import Interval, Record, wilson_interval
from loihi_convert.synapse import Array

LARGEST_LOSS_POINTS: Final = 0.1
"""Percentage points of accuracy that the chosen margin may lose, on the images that choose it."""

CURVE_POINTS: Final = 16
"""Margins of the curve, besides the chosen one and none: their average T is 1, T^(1/16), ... on the choosing images."""


class ExitPoint(Record):
    """What one margin gives on the images that ran. Fractions are 0..1, None where nothing is compared.

    Attributes
    ----------
    margin
        Least lead of the first class over the second, in units of the output; None: no image stops before T.
    average_timesteps
        Mean over images of the step 1..T after which they stop.
    median_timesteps, percentile_95_timesteps
        The first step after which half, or 95 %, of the images have stopped.
    correct_count, accuracy, accuracy_interval
        Of the classes at those steps; the interval is Wilson's, 95 %.
    agreement_with_cnn
        Fraction of images that get the CNN's class.
    agreement_with_last
        Fraction of images that get the class they have after T.
    synaptic_operations
        As `evaluate.Point.synaptic_operations`, of each image's steps until it stops.
    """

    margin: int | None
    average_timesteps: float
    median_timesteps: int
    percentile_95_timesteps: int
    correct_count: int | None
    accuracy: float | None
    accuracy_interval: Interval | None
    agreement_with_cnn: float | None
    agreement_with_last: float
    synaptic_operations: float


class EarlyExit(Record):
    """Average T against accuracy of one run, and the margin chosen for it on other images.

    Attributes
    ----------
    margin
        The smallest that costs the choosing images at most `largest_loss_points`.
    largest_loss_points
        Percentage points, against the same images after T.
    chosen_on, chosen_on_count
        The split that chose the margin, by a run on ``ref``, and its number of images. Calibration images have also
        set the thresholds, which flatters them a little; validation images have not.
    chosen_by_labels
        Whether accuracy was compared; where the choosing images have no labels, it was the class after T.
    points
        By ascending margin: 0 (every image stops after step 1), some in between, `margin`, and None (none before T).
    exit_share
        Fraction of images that stop after each step 1..T, with `margin`.
    synaptic_operations_saved
        1 - their mean with `margin` / that of all T steps; None where there are none.
    """

    margin: int
    largest_loss_points: float
    chosen_on: HeldOutSplit
    chosen_on_count: int
    chosen_by_labels: bool
    points: tuple[ExitPoint, ...]
    exit_share: tuple[float, ...]
    synaptic_operations_saved: float | None

    @property
    def chosen_point(self) -> ExitPoint:
        """The point of `margin`."""
        return next(point for point in self.points if point.margin == self.margin)


def exit_steps(outputs: Array, margin: int | None) -> tuple[Array, Array]:
    """Return the step 1..T after which each image stops, int64 ``(N,)``, and its class then, int64 ``(N,)``.

    The step is min {t : lead(t) >= margin}, at most T, where lead(t) >= 0 is the largest output minus the second
    largest after step t. Classes with equal outputs have a lead of 0: margin 0 stops every image after step 1, and any
    larger one waits until a class leads. The class is the lowest among equals, as in `RunResult.predictions`.

    Parameters
    ----------
    outputs
        Integers ``(N, T, classes)``, at least 2 classes.
    margin
        Whole number from 0, or None: no image stops before T.

    Raises
    ------
    DataError
        If ``outputs`` have another shape, or the margin is negative.
    """
    highest = _highest_leads(outputs)
    steps = _steps(highest, margin)
    return steps, _at(outputs.argmax(axis=2), steps)


def choose_margin(outputs: Array, labels: Array | None, largest_loss_points: float = LARGEST_LOSS_POINTS) -> int:
    """Return the smallest margin with which at most that many percentage points of accuracy are lost against T.

    Parameters
    ----------
    outputs
        Of images that only choose, integers ``(N, T, classes)``.
    labels
        ``(N,)``; without them, the class after T counts as right.
    largest_loss_points
        Percentage points, from 0.

    Raises
    ------
    DataError
        As `exit_steps`, and if there is not one label for each image.
    """
    trade = _trade(outputs, labels)
    # The last margin is larger than every lead before T, and loses nothing.
    lost = trade.correct_counts[-1] - trade.correct_counts
    return int(trade.margins[np.argmax(100 * lost <= largest_loss_points * len(outputs))])


def curve_margins(outputs: Array) -> tuple[int, ...]:
    """Return the smallest margins whose average T reaches T^(k / `CURVE_POINTS`), k = 0, 1, ...: even steps of log T.

    Parameters
    ----------
    outputs
        Of images that only choose, integers ``(N, T, classes)``.

    Raises
    ------
    DataError
        As `exit_steps`.
    """
    trade = _trade(outputs, None)
    averages = [outputs.shape[1] ** (k / CURVE_POINTS) for k in range(CURVE_POINTS)]
    return tuple(sorted(set(trade.margins[np.searchsorted(trade.average_timesteps, averages)].tolist())))


def evaluate_early_exit(
    result: RunResult,
    choosing: RunResult,
    *,
    chosen_on: HeldOutSplit,
    labels: Array | None = None,
    choosing_labels: Array | None = None,
    cnn_predictions: Array | None = None,
) -> EarlyExit:
    """Return what stopping early gives on the images of ``result``, with margins that only ``choosing`` chooses.

    Parameters
    ----------
    result
        Of the N images that ran over T time steps.
    choosing
        A run of the same network over T steps on other images.
    chosen_on
        The split those are from.
    labels, choosing_labels
        One for each image of ``result`` and ``choosing``, if known.
    cnn_predictions
        ``(N,)``: the CNN's class of each image of ``result``.

    Raises
    ------
    DataError
        If the shapes do not belong together, or there are fewer than 2 classes.
    """
    outputs, choosing_outputs = result.outputs, choosing.outputs
    if outputs.shape[1:] != choosing_outputs.shape[1:]:
        raise DataError(
            f"early exit: found outputs {outputs.shape} of the images that ran and {choosing_outputs.shape} of those "
            "that choose the margin; (N, T, classes) must be alike in T and classes. Run both with one file and T."
        )
    _check_one_each("labels", labels, outputs)
    _check_one_each("CNN predictions", cnn_predictions, outputs)
    margin = choose_margin(choosing_outputs, choosing_labels)
    margins = sorted({margin, *curve_margins(choosing_outputs)})

    highest, predictions = _highest_leads(outputs), outputs.argmax(axis=2)
    operations = result.synaptic_operations.sum(axis=2).cumsum(axis=1)
    image_count, timesteps = predictions.shape

    def fraction(classes: Array, expected: Array | None) -> float | None:
        return None if expected is None else float((classes == expected).mean())

    def point(margin: int | None) -> ExitPoint:
        steps = _steps(highest, margin)
        classes = _at(predictions, steps)
        stopped = np.bincount(steps).cumsum()
        correct = None if labels is None else int((classes == labels).sum())
        return ExitPoint(
            margin=margin,
            average_timesteps=float(steps.mean()),
            median_timesteps=int(np.argmax(2 * stopped >= image_count)),
            percentile_95_timesteps=int(np.argmax(100 * stopped >= 95 * image_count)),
            correct_count=correct,
            accuracy=fraction(classes, labels),
            accuracy_interval=None if correct is None else wilson_interval(correct, image_count),
            agreement_with_cnn=fraction(classes, cnn_predictions),
            agreement_with_last=float((classes == predictions[:, -1]).mean()),
            synaptic_operations=float(_at(operations, steps).mean()),
        )

    points = tuple(point(margin) for margin in (*margins, None))
    exits = np.bincount(exit_steps(outputs, margin)[0] - 1, minlength=timesteps)
    needed, all_steps = (points[place].synaptic_operations for place in (margins.index(margin), -1))
    return EarlyExit(
        margin=margin,
        largest_loss_points=LARGEST_LOSS_POINTS,
        chosen_on=chosen_on,
        chosen_on_count=len(choosing_outputs),
        chosen_by_labels=choosing_labels is not None,
        points=points,
        exit_share=tuple((exits / image_count).tolist()),
        synaptic_operations_saved=1 - needed / all_steps if all_steps else None,
    )


class _Trade(NamedTuple):
    """Latency against accuracy at every margin from which on some image stops later, ascending, the first one 0."""

    margins: Array
    average_timesteps: Array
    correct_counts: Array


def _trade(outputs: Array, labels: Array | None) -> _Trade:
    """What holds at margin m holds up to the next one.

    An image stops after step t for m in (h(t - 1), h(t)], where h(t) is its highest lead in steps 1..t: at
    m = h(t) + 1 it goes on to t + 1, and one right answer comes or goes if the two classes are not both right or wrong.
    """
    highest = _highest_leads(outputs)
    _check_one_each("labels", labels, outputs)
    predictions = outputs.argmax(axis=2)
    right = (predictions == (predictions[:, -1] if labels is None else labels)[:, None]).astype(np.int64)
    margins, place = np.unique(highest + 1, return_inverse=True)
    place = place.ravel()
    later = np.bincount(place)
    gained = np.bincount(place, weights=np.diff(right, axis=1).ravel()).astype(np.int64)
    return _Trade(
        margins=np.append(0, margins),
        average_timesteps=1 + np.append(0, later).cumsum() / len(outputs),
        correct_counts=right[:, 0].sum() + np.append(0, gained).cumsum(),
    )


def _highest_leads(outputs: Array) -> Array:
    """int64 ``(N, T - 1)``: the largest lead in steps 1..t, for each t < T."""
    if outputs.ndim != 3 or len(outputs) < 1 or outputs.shape[1] < 1 or outputs.shape[2] < 2:
        raise DataError(
            f"early exit: found outputs {outputs.shape}; a lead needs (N, T, classes), N and T >= 1, classes >= 2."
        )
    two = np.partition(outputs[:, :-1], -2, axis=2)[:, :, -2:].astype(np.int64)
    highest: Array = np.maximum.accumulate(two[:, :, 1] - two[:, :, 0], axis=1)
    return highest


def _steps(highest: Array, margin: int | None) -> Array:
    """The step after which each image stops: one more than the steps before T up to which its leads are too small."""
    if margin is not None and margin < 0:
        raise DataError(f"early exit: the margin is {margin}; allowed are whole numbers from 0.")
    too_small = highest < (math.inf if margin is None else margin)
    return np.asarray(1 + too_small.sum(axis=1))


def _at(values: Array, steps: Array) -> Array:
    """``(N,)``: of ``(N, T)``, each image's value after its step."""
    return np.asarray(values[np.arange(len(steps)), steps - 1])


def _check_one_each(name: str, array: Array | None, outputs: Array) -> None:
    if array is not None and array.shape != outputs.shape[:1]:
        raise DataError(f"early exit: found {name} {array.shape}; needed is one for each image, {outputs.shape[:1]}.")
