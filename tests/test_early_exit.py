"""Exit steps and margins worked out by hand, the exact trade-off against trying every margin, and what may choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from loihi_convert.backends.result import RunResult
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.metrics.early_exit import (
    CURVE_POINTS,
    TOLERANCE_POINTS,
    ExitPoint,
    MarginChoice,
    choose_margin,
    evaluate_early_exit,
)

# Four images, three steps, three classes. In the order of steps, class and lead are
#   image 0: 0 by 4, 0 by 6, 0 by 9       image 1: 1 by 1, 0 by 0 (tied with 2), 2 by 5
#   image 2: 2 by 8, 2 by 2, 1 by 1       image 3: 0 by 0 (all tied), 1 by 3, 1 by 3
OUTPUTS = np.array(
    [
        [[4, 0, -9], [7, 1, 0], [9, 0, 0]],
        [[1, 2, 0], [3, 0, 3], [0, -5, 5]],
        [[0, -7, 8], [0, 5, 7], [0, 9, 8]],
        [[0, 0, 0], [-2, 1, -3], [-4, -1, -7]],
    ],
    np.int32,
)
LABELS = np.array([0, 2, 1, 1])


def run(outputs: Array, operations: Array | None = None) -> RunResult:
    """One hidden layer whose spikes reach ``operations`` (N, T) synapses."""
    operations = np.ones(outputs.shape[:2], int) if operations is None else operations
    return RunResult(outputs, operations[:, :, None], operations[:, :, None], seconds=0.5, startup_seconds=0.25)


def choice_of(timesteps: int, *margins: int) -> MarginChoice:
    return MarginChoice(
        margin=margins[0],
        curve_margins=margins,
        tolerance_points=TOLERANCE_POINTS,
        timesteps=timesteps,
        split="validation",
        image_count=1,
        by_labels=False,
    )


def points_of(outputs: Array, *margins: int, labels: Array | None = None) -> list[ExitPoint]:
    """The results with each of ``margins``, ascending, then of complete runs."""
    return list(evaluate_early_exit(run(outputs), choice_of(outputs.shape[1], *margins), labels=labels).points)


def exit_of(image: Array, margin: int | None) -> tuple[float, int]:
    """The step after which an image, outputs ``(T, classes)``, stops, and its class then: the label that is right."""
    for label in range(max(image.shape[1], 2)):
        points = points_of(image[np.newaxis], margin or 0, labels=np.array([label]))
        point = points[-1] if margin is None else points[0]
        if point.correct_count:
            return point.average_timesteps, label
    raise AssertionError("no class is right")


def margin_of(outputs: Array, labels: Array | None, tolerance_points: float = TOLERANCE_POINTS) -> int:
    return choose_margin(outputs, labels, split="validation", tolerance_points=tolerance_points).margin


def outputs_of(classes: list[list[int]], leads: list[list[int]]) -> Array:
    """Potentials of three classes of which ``classes`` leads by ``leads``."""
    return np.asarray(np.array(leads)[:, :, None] * np.eye(3, dtype=int)[np.array(classes)], np.int32)


@pytest.mark.parametrize(
    ("margin", "steps", "classes"),
    [
        (0, [1, 1, 1, 1], [0, 1, 2, 0]),
        # At least the margin: a lead of 1 is enough for it, a tie is not.
        (1, [1, 1, 1, 2], [0, 1, 2, 1]),
        (2, [1, 3, 1, 2], [0, 2, 2, 1]),
        (4, [1, 3, 1, 3], [0, 2, 2, 1]),
        # Image 2 led by 8 once: that it falls back later does not matter.
        (5, [2, 3, 1, 3], [0, 2, 2, 1]),
        (9, [3, 3, 3, 3], [0, 2, 1, 1]),
        (None, [3, 3, 3, 3], [0, 2, 1, 1]),
    ],
)
def test_exit_steps_by_hand(margin: int | None, steps: list[int], classes: list[int]) -> None:
    assert [exit_of(image, margin) for image in OUTPUTS] == list(zip(steps, classes, strict=True))


def test_chosen_margin_by_hand() -> None:
    # Right of 4: margin 0: image 0; 1: 0, 3; 2..8: 0, 1, 3; from 9 on all, as after T.
    chosen = {loss: margin_of(OUTPUTS, LABELS, loss) for loss in (0, 24.9, 25, 50, 75)}
    assert chosen == {0: 9, 24.9: 9, 25: 2, 50: 1, 75: 0}
    # Without labels the classes after T are the right ones: here they are the labels.
    assert [margin_of(OUTPUTS, None, loss) for loss in chosen] == list(chosen.values())
    # More right answers than after T are no loss.
    assert margin_of(OUTPUTS, np.array([0, 1, 2, 0])) == 0


def test_the_tolerance_is_exact() -> None:
    """1.14 points of 5,000 images are 57 images, although 1.14 x 5000 is 5699.99... in floating point."""
    wrong = 57
    outputs = outputs_of([[1, 0]] * wrong + [[0, 0]] * (5000 - wrong), [[7, 9]] * wrong + [[3, 9]] * (5000 - wrong))
    assert margin_of(outputs, np.zeros(5000, int), 1.14) == 0
    assert margin_of(outputs, np.zeros(5000, int), 1.13) == 8


def test_figures_by_hand() -> None:
    # The two images that choose are right after T; the second one is wrong by a lead of 4 at first.
    choosing = outputs_of([[0, 0, 0], [1, 0, 0]], [[5, 9, 9], [4, 6, 9]])
    choice = choose_margin(choosing, np.zeros(2, int), split="validation")
    assert (choice.margin, choice.timesteps, choice.image_count, choice.by_labels) == (5, 3, 2, True)
    # The second image goes on to step 2 from margin 5 on and to 3 from 7 on, the first one from 6 and from 10 on: the
    # average T is 1, 1.5, 2, 2.5, 3. Each is the first to reach one of 1, 3^(1/16), ..., 3^(15/16) = 2.80.
    assert choice.curve_margins == (0, 5, 6, 7, 10)
    operations = np.array([[1, 2, 3], [10, 20, 30], [100, 200, 300], [1000, 2000, 3000]])
    found = evaluate_early_exit(run(OUTPUTS, operations), choice, labels=LABELS, cnn_predictions=np.array([0, 2, 2, 2]))
    assert found.choice == choice
    point = found.chosen_point
    # Steps 2, 3, 1, 3 and classes 0, 2, 2, 1, of which image 2 is wrong and another than after T.
    assert point.average_timesteps == 2.25
    assert (point.median_timesteps, point.percentile_95_timesteps) == (2, 3)
    assert found.exit_share == (0.25, 0.25, 0.5)
    assert (point.correct_count, point.accuracy) == (3, 0.75)
    assert point.accuracy_interval == wilson_interval(3, 4)
    assert (point.agreement_with_cnn, point.agreement_with_last) == (0.75, 0.75)
    # 1 + 2, 10 + 20 + 30, 100, 6000; all steps are 6 x 1111.
    assert point.synaptic_operations == (3 + 60 + 100 + 6000) / 4
    assert found.synaptic_operations_saved == pytest.approx(1 - 6163 / 6666)
    curve = [(p.margin, p.average_timesteps) for p in found.points]
    assert curve == [(0, 1.0), (5, 2.25), (6, 2.25), (7, 2.5), (10, 3.0), (None, 3.0)]


@pytest.mark.parametrize(("late", "expected"), [(1, 1), (2, 2)])
def test_95_percent_of_the_images_exit_within_this_step(late: int, expected: int) -> None:
    """19 of 20 images are 95 %."""
    outputs = outputs_of([[0, 0]] * 20, [[9, 9]] * (20 - late) + [[1, 9]] * late)
    assert points_of(outputs, 5)[0].percentile_95_timesteps == expected


def test_only_held_out_images_choose() -> None:
    """Each set, alone, would choose another margin; the images that run move nothing."""
    held_out = outputs_of([[1, 0], [0, 0]], [[4, 9], [6, 9]])
    ran = outputs_of([[1, 0], [0, 0]], [[40, 90], [60, 90]])
    labels = np.zeros(2, int)
    assert (margin_of(held_out, labels), margin_of(ran, labels)) == (5, 41)
    choice = choose_margin(held_out, labels, split="calibration")
    for outputs in (held_out, ran, -ran):
        found = evaluate_early_exit(run(outputs), choice, labels=labels)
        assert found.choice == choice
        assert [point.margin for point in found.points] == [*sorted({5, *choice.curve_margins}), None]
    # A lead of 40 is far above the margin: the images that ran pay for what the others chose.
    assert evaluate_early_exit(run(ran), choice, labels=labels).chosen_point.accuracy == 0.5


any_outputs = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4)).flatmap(
    lambda shape: arrays.arrays(np.int32, shape, elements=st.integers(-6, 6))
)


@settings(deadline=None)
@given(any_outputs, st.sampled_from([0.0, 10.0, 20.0, 100.0]), st.integers(0, 99))
def test_the_chosen_margin_is_the_smallest_of_all_that_are_tried(outputs: Array, loss: float, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, outputs.shape[2], len(outputs))
    *points, last = points_of(outputs, *range(14), labels=labels)
    lost = [(last.correct_count or 0) - (point.correct_count or 0) for point in points]
    assert margin_of(outputs, labels, loss) == next(m for m in range(14) if 100 * lost[m] <= loss * len(outputs))


@settings(deadline=None)
@given(any_outputs)
def test_the_margins_of_the_curve_are_the_smallest_that_reach_their_average(outputs: Array) -> None:
    averages = [point.average_timesteps for point in points_of(outputs, *range(14))]
    timesteps = outputs.shape[1]
    wanted = [timesteps ** (k / CURVE_POINTS) for k in range(CURVE_POINTS)]
    expected = {next(m for m, average in enumerate(averages) if average >= target) for target in wanted}
    assert choose_margin(outputs, None, split="validation").curve_margins == tuple(sorted(expected))


def test_the_lead_of_one_output_is_its_magnitude() -> None:
    outputs = np.array([[-1, -4, 2], [3, 1, 9]], np.int32)[:, :, np.newaxis]
    found = {margin: [exit_of(image, margin) for image in outputs] for margin in (0, 3, 4, None)}
    assert found == {0: [(1, 0), (1, 1)], 3: [(2, 0), (1, 1)], 4: [(2, 0), (3, 1)], None: [(3, 1), (3, 1)]}
