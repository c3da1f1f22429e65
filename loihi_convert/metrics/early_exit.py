"""Early exit: average latency against accuracy if each image stops as soon as its class is clear.

The margin rule (the Top-K cutoff of D. Wu et al., Front. Neurosci. 2025, 19, 1522788): stop after the first step at
which the output of the best class leads that of the second by at least the margin, at the latest after T. Outputs are
those of `RunResult.outputs`: potentials in weight units of the last layer, which has one scale for all classes, or
spike counts; so leads and margins are integers in that unit. Classes with equal outputs have a lead of 0: margin 0
stops every image after step 1. The lead of a single output, a logit, is its magnitude. Early exit is for classes: a
regression has no lead.

The margin is chosen on images that are not part of the run. Everything is computed from the recorded outputs of
complete runs of T steps: no step is skipped, only counted. Steps are those of one layer; on Lava every layer adds one,
so the average latency there is the average T + depth. By then, each layer has also worked one step more than the next
layer; as in `evaluate`, that work is not included in the synaptic operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from loihi_convert.backends.result import RunResult
from loihi_convert.data.dataset import HeldOutSplit
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import TOLERANCE_POINTS
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import Interval, wilson_interval
from loihi_convert.ir.network import classes_of
from loihi_convert.metrics.work import CircuitWork

CURVE_POINTS: Final = 16
"""Number of margins of the curve, besides the chosen margin and none: even steps in log T, from 1."""


class MarginChoice(Record):
    """The margins of early exit, chosen for a network and a T on images that are not part of the run.

    Attributes
    ----------
    margin
        The smallest with which those images lose at most `tolerance_points` of accuracy against T. On other images the
        loss may be larger: 0.1 points of 2,000 images are just two images.
    curve_margins
        The smallest margins with an average T of 1, T^(1/16), ..., T^(15/16) (`CURVE_POINTS`); ascending.
    tolerance_points
        Percentage points, 0..100.
    timesteps
        T.
    split, image_count
        The split and number of the images. Calibration images have also set the thresholds, so their accuracy is
        slightly too high; validation images have not.
    by_labels
        Whether their labels were known; if not, the class after T counted as correct.
    """

    margin: int
    curve_margins: tuple[int, ...]
    tolerance_points: float
    timesteps: int
    split: HeldOutSplit
    image_count: int
    by_labels: bool


class ExitPoint(Record):
    """Result of one margin on the images of the run. Fractions are 0..1, None if there is nothing to compare with.

    Attributes
    ----------
    margin
        Smallest lead of the best class over the second at which an image stops, in units of the output; None: never
        before T.
    average_timesteps
        Mean over images of the step 1..T after which they stop.
    median_timesteps, percentile_95_timesteps
        The first step after which half, or 95 %, of the images have stopped.
    correct_count, accuracy, accuracy_interval
        For the classes at those steps; the interval is Wilson's, 95 %.
    agreement_with_cnn
        Fraction of images with the same class as from the CNN.
    agreement_with_last
        Fraction of images with the same class as after T.
    synaptic_operations
        As in `evaluation.Point.synaptic_operations`, for the steps of each image until it stops.
    """

    margin: int | None
    average_timesteps: float = Field(ge=1)
    median_timesteps: int
    percentile_95_timesteps: int
    correct_count: int | None
    accuracy: float | None
    accuracy_interval: Interval | None
    agreement_with_cnn: float | None
    agreement_with_last: float
    synaptic_operations: float


class EarlyExit(Record):
    """Average T against accuracy of one run.

    Attributes
    ----------
    choice
        The margins, and how they were chosen.
    points
        In order of ascending margin: those of `choice`, then None (no image stops before T).
    exit_share
        Fraction of images that stop after each step 1..T, with the chosen margin.
    synaptic_operations_saved
        1 - (mean with the chosen margin) / (mean over all T steps); None if there are none.
    """

    choice: MarginChoice
    points: tuple[ExitPoint, ...]
    exit_share: tuple[float, ...]
    synaptic_operations_saved: float | None

    @model_validator(mode="after")
    def _has_chosen_point(self) -> EarlyExit:
        if self.choice.margin not in [point.margin for point in self.points]:
            raise ValueError(f"no point of the chosen margin {self.choice.margin}")
        return self

    @property
    def chosen_point(self) -> ExitPoint:
        """The point of the chosen margin."""
        return next(point for point in self.points if point.margin == self.choice.margin)


def choose_margin(
    outputs: Array, labels: Array | None, *, split: HeldOutSplit, tolerance_points: float = TOLERANCE_POINTS
) -> MarginChoice:
    """Return the smallest margin that loses at most ``tolerance_points`` (0..100) of accuracy against T.

    ``outputs``, integers ``(N, T, outputs)``, are those of images of ``split`` that are not part of the run, ``labels``
    ``(N,)``; without them, the class after T counts as correct.
    """
    margins, average_timesteps, correct_counts = _trade(outputs, labels)
    image_count, timesteps, _ = outputs.shape
    # The last margin exceeds every lead before T, and loses nothing.
    lost = correct_counts[-1] - correct_counts
    # Exact: 1.14 x 5,000 is less than 57 x 100 in floating point.
    most_lost = math.floor(Fraction(repr(float(tolerance_points))) * image_count / 100)
    averages = [timesteps ** (k / CURVE_POINTS) for k in range(CURVE_POINTS)]
    return MarginChoice(
        margin=int(margins[np.argmax(lost <= most_lost)]),
        curve_margins=tuple(sorted(set(margins[np.searchsorted(average_timesteps, averages)].tolist()))),
        tolerance_points=tolerance_points,
        timesteps=timesteps,
        split=split,
        image_count=image_count,
        by_labels=labels is not None,
    )


def evaluate_early_exit(
    result: RunResult,
    choice: MarginChoice,
    *,
    labels: Array | None = None,
    cnn_predictions: Array | None = None,
    circuit: CircuitWork | None = None,
) -> EarlyExit:
    """Return the results of early exit on the images of ``result``; ``choice`` is of the same network and T.

    ``labels`` and ``cnn_predictions`` are ``(N,)``, if known; ``circuit`` as in `evaluation.evaluate`.
    """
    margins = (*sorted({choice.margin, *choice.curve_margins}), None)
    # Steps, classes and operations, by part of the images and margin.
    parts = [_stops(part, margins, circuit) for part in result.parts()]
    found = dict(zip(margins, np.concatenate(parts, axis=2), strict=True))

    def at(margin: int | None) -> ExitPoint:
        steps, classes, operations = found[margin]
        stopped = np.bincount(steps).cumsum()
        correct = share(classes, labels)
        return ExitPoint(
            margin=margin,
            average_timesteps=float(steps.mean()),
            median_timesteps=int(np.argmax(2 * stopped >= len(steps))),
            percentile_95_timesteps=int(np.argmax(100 * stopped >= 95 * len(steps))),
            correct_count=correct.matches,
            accuracy=correct.fraction,
            accuracy_interval=correct.interval,
            agreement_with_cnn=share(classes, cnn_predictions).fraction,
            agreement_with_last=float((classes == found[None][1]).mean()),
            synaptic_operations=float(operations.mean()),
        )

    (steps, _, operations), all_steps = found[choice.margin], found[None][2].mean()
    return EarlyExit(
        choice=choice,
        points=tuple(map(at, margins)),
        exit_share=tuple((np.bincount(steps - 1, minlength=choice.timesteps) / len(steps)).tolist()),
        synaptic_operations_saved=float(1 - operations.mean() / all_steps) if all_steps else None,
    )


def _stops(part: RunResult, margins: Sequence[int | None], circuit: CircuitWork | None) -> Array:
    """int64 ``(margins, 3, N)``: the step after which each image stops, its class, and its operations until then."""
    outputs = part.outputs
    highest, predictions = _highest_leads(outputs), classes_of(outputs)
    of_circuit = 0 if circuit is None else replace(circuit, result=part).synaptic_operations
    operations = (part.synaptic_operations.sum(axis=2) + of_circuit).cumsum(axis=1)
    each = [_steps(highest, margin) for margin in margins]
    return np.stack([(steps, _at(predictions, steps), _at(operations, steps)) for steps in each])


class Share(NamedTuple):
    """How many images have the expected class, the fraction, and its Wilson interval; None if unknown."""

    matches: int | None
    fraction: float | None
    interval: Interval | None


def share(predictions: Array | None, expected: Array | None) -> Share:
    """Return on how many of N images the classes, both ``(N,)``, are equal."""
    if predictions is None or expected is None:
        return Share(None, None, None)
    count, images = int(np.count_nonzero(predictions == expected)), len(expected)
    return Share(count, count / images, wilson_interval(count, images))


def _trade(outputs: Array, labels: Array | None) -> tuple[Array, Array, Array]:
    """Margins, ascending from 0, average T, and number of correct classes, wherever the exit of an image changes.

    The values at a margin hold up to the next one. An image stops after step t for m in (h(t - 1), h(t)], where h(t) is
    its highest lead in steps 1..t. At m = h(t) + 1 it continues to t + 1, and the number of correct classes changes by
    one unless both classes are correct or both wrong.
    """
    highest = _highest_leads(outputs)
    predictions = classes_of(outputs)
    right = (predictions == (predictions[:, -1] if labels is None else labels)[:, None]).astype(np.int64)
    margins, place = np.unique(highest + 1, return_inverse=True)
    place = place.ravel()
    later = np.bincount(place)
    gained = np.bincount(place, weights=np.diff(right, axis=1).ravel()).astype(np.int64)
    average_timesteps = 1 + np.append(0, later).cumsum() / len(outputs)
    return np.append(0, margins), average_timesteps, right[:, 0].sum() + np.append(0, gained).cumsum()


def _highest_leads(outputs: Array) -> Array:
    """int64 ``(N, T - 1)``: the largest lead in steps 1..t, for each t < T."""
    before = outputs[:, :-1]
    if outputs.shape[2] == 1:
        leads = np.abs(before[:, :, 0].astype(np.int64))
    else:
        two = np.partition(before, -2, axis=2)[:, :, -2:].astype(np.int64)
        leads = two[:, :, 1] - two[:, :, 0]
    return np.asarray(np.maximum.accumulate(leads, axis=1))


def _steps(highest: Array, margin: int | None) -> Array:
    """int64 ``(N,)``: the step after which each image stops, 1 + the number before T with too small a lead so far."""
    too_small = highest < (math.inf if margin is None else margin)
    return np.asarray(1 + too_small.sum(axis=1))


def _at(values: Array, steps: Array) -> Array:
    """``(N,)``: each image's value after its step, from ``(N, T)``."""
    return np.asarray(values[np.arange(len(steps)), steps - 1])
