"""Every figure of an `Evaluation` against a run worked out by hand, Wilson's interval against its closed forms."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.strategies import Case, networks
from torch.nn import functional

from loihi_convert.backends import result as results
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import RunResult, result_size
from loihi_convert.chip import limits
from loihi_convert.errors import DataError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.statistics import constant_accuracy, mcnemar_p_value, wilson_interval
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.metrics.early_exit import MarginChoice
from loihi_convert.metrics.evaluation import Evaluation, ExpectedClasses, evaluate, reported_timesteps

# Class of each of four images after each of three steps, and what it should have been.
PREDICTIONS = np.array([[0, 0, 0], [1, 1, 1], [0, 2, 2], [0, 0, 1]])
LABELS = np.array([0, 1, 2, 2])
CNN_PREDICTIONS = np.array([0, 1, 2, 1])
FLOAT_PREDICTIONS = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 2, 2]])
SPIKES = np.array([[8, 0, 0], [0, 4, 2], [1, 1, 1], [0, 0, 7]])


def small_network(timesteps: int = 2) -> QuantizedNetwork:
    """4 x 4 pixels -> 2 channels of 2 x 2 -> pooled to 2 -> 3 classes; one of the 18 convolution weights is 0."""
    weight = np.ones((2, 1, 3, 3), np.int32)
    weight[1, 0, 0, 0] = 0
    neuron = IntegerNeuron(np.array([5, 5]), np.array([0, 0]))
    return QuantizedNetwork(
        input_shape=(1, 4, 4),
        layers=(
            QuantizedLayer("conv", Conv(weight), neuron, np.ones(2), largest_input=255),
            QuantizedLayer("classes", Dense(np.ones((3, 2), np.int32), pool=(2, 2)), None, np.ones(3)),
        ),
        timesteps=timesteps,
        max_timesteps=8,
        pixel_bits=8,
        reset="soft",
    )


def one_layer(weight: Array, *neuron: Array, timesteps: int = 1) -> QuantizedNetwork:
    """Two pixels -> one layer, with ``neuron`` = thresholds and initial potentials, or none."""
    neurons, scale = IntegerNeuron(*neuron) if neuron else None, np.ones(len(weight))
    layer = QuantizedLayer("only", Dense(weight), neurons, scale, largest_input=255)
    return QuantizedNetwork((1, 1, 2), (layer,), timesteps, timesteps, pixel_bits=8, reset="soft")


def small_run() -> RunResult:
    """Potentials that are 10 for the predicted class and 0 elsewhere; every spike reaches 3 synapses."""
    return RunResult(
        potentials=(10 * np.eye(3, dtype=np.int32))[PREDICTIONS],
        spike_counts=SPIKES[:, :, None],
        synaptic_operations=3 * SPIKES[:, :, None],
        seconds=0.5,
        startup_seconds=2.0,
    )


def full_evaluation() -> Evaluation:
    return evaluate(
        small_run(),
        small_network(),
        ExpectedClasses(LABELS, CNN_PREDICTIONS, FLOAT_PREDICTIONS),
        multiply_accumulates=74,
    )


def test_figures_of_the_whole_run() -> None:
    evaluation = full_evaluation()
    assert (evaluation.image_count, evaluation.timesteps, evaluation.depth) == (4, 2, 2)
    assert [(layer.name, layer.neuron_count) for layer in evaluation.layers] == [("conv", 8), ("classes", 3)]
    # 17 nonzero weights at 2 x 2 positions; 3 x 2 weights after the pooling.
    assert [layer.multiply_accumulates for layer in evaluation.layers] == [68, 6]
    assert evaluation.multiply_accumulates == 74
    assert evaluation.cnn_accuracy == 0.75
    assert evaluation.cnn_accuracy_interval == wilson_interval(3, 4)
    assert (evaluation.seconds, evaluation.startup_seconds, evaluation.images_per_second) == (0.5, 2.0, 8.0)
    assert evaluation.saturated_images == 0


def test_figures_at_every_timestep() -> None:
    points = full_evaluation().points
    assert [point.timesteps for point in points] == [1, 2, 3]
    assert [point.global_steps for point in points] == [3, 4, 5]
    assert [point.correct_count for point in points] == [2, 3, 3]
    assert [point.accuracy for point in points] == [0.5, 0.75, 0.75]
    assert [point.accuracy_interval for point in points] == [wilson_interval(c, 4) for c in (2, 3, 3)]
    assert [point.float_accuracy for point in points] == [1.0, 1.0, 1.0]
    assert [point.float_accuracy_interval for point in points] == [wilson_interval(4, 4)] * 3
    assert [point.conversion_loss_points for point in points] == [25.0, 0.0, 0.0]
    assert [point.agreement_with_cnn for point in points] == [0.5, 0.75, 1.0]
    assert [point.agreement_with_float for point in points] == [0.5, 0.75, 0.75]
    # 9, 14 and 24 spikes up to T = 1, 2, 3, of 4 images; 8 hidden neurons.
    assert [point.spikes_per_image for point in points] == [2.25, 3.5, 6.0]
    assert [point.synaptic_operations for point in points] == [6.75, 10.5, 18.0]
    assert [point.synaptic_operations_per_layer for point in points] == [(6.75,), (10.5,), (18.0,)]
    assert [point.firing_rate for point in points] == [(2.25 / 8,), (3.5 / 16,), (0.25,)]
    assert [point.activation_sparsity for point in points] == [1 - 2.25 / 8, 1 - 3.5 / 16, 0.75]


def test_without_labels_only_agreement_is_known() -> None:
    evaluation = evaluate(small_run(), small_network(), ExpectedClasses(None, CNN_PREDICTIONS, FLOAT_PREDICTIONS))
    assert evaluation.cnn_accuracy is None
    assert evaluation.cnn_accuracy_interval is None
    for point, known in zip(evaluation.points, full_evaluation().points, strict=True):
        unknown = dict.fromkeys(name for name in type(point).model_fields if "accuracy" in name)
        unknown |= {"correct_count": None, "conversion_loss_points": None}
        assert point == known.model_copy(update=unknown)


def test_labels_alone_give_the_fixed_point_accuracy() -> None:
    evaluation = evaluate(small_run(), small_network(), ExpectedClasses(LABELS))
    point = evaluation.points[-1]
    assert point.accuracy == 0.75
    assert evaluation.cnn_accuracy is None
    assert point.float_accuracy is None
    assert point.conversion_loss_points is None
    assert point.agreement_with_cnn is None
    assert point.agreement_with_float is None


@pytest.mark.parametrize(("balanced", "own"), [(1, 1), (2, 2), (3, 3), (5, 4)])
def test_own_point_is_at_the_timesteps_of_the_file_or_the_last(balanced: int, own: int) -> None:
    run = small_run()
    four_steps = [0, 1, 2, 2]
    longer = RunResult(
        run.potentials[:, four_steps],
        run.spike_counts[:, four_steps],
        run.synaptic_operations[:, four_steps],
        seconds=1.0,
        startup_seconds=0.0,
    )
    evaluation = evaluate(longer, small_network(balanced))
    assert evaluation.nominal_point.timesteps == own
    assert [point.timesteps for point in evaluation.points] == sorted({1, 2, own, 4})


@pytest.mark.parametrize("sign", [1, -1])
def test_saturation_at_any_step_counts_the_image_once(sign: int) -> None:
    potentials = small_run().potentials.copy()
    potentials[1, 0, 2] = potentials[1, 1, 2] = sign * limits.POTENTIAL_LIMIT
    potentials[2, 0, 0] = sign * (limits.POTENTIAL_LIMIT - 1)
    assert evaluate(replace(small_run(), potentials=potentials), small_network()).saturated_images == 1


@pytest.mark.parametrize(("weight", "saturated"), [(1, 1), (0, 0), (-1, 0)])
def test_a_spiking_readout_that_clips_before_its_reset(weight: int, saturated: int) -> None:
    """A white pixel adds 255 to a bias of 130,816, together 131,071; a black one nothing. The threshold is 1."""
    synapse = Dense(np.array([[weight], [0]], np.int32), np.array([130_816, 0], np.int32))
    layer = QuantizedLayer("out", synapse, IntegerNeuron(np.array([1, 1]), np.array([0, 0])), np.ones(2), 255)
    network = QuantizedNetwork((1, 1, 1), (layer,), 1, 8, 8, "soft")
    images = np.array([255, 0], np.uint8).reshape(2, 1, 1, 1)
    assert evaluate(run_network(network, images, 1), network).saturated_images == saturated


def test_a_spiking_readout_counts_as_a_spiking_layer() -> None:
    """Two classes, no hidden layer; of 2 images the first fires class 0, 1, 1 and the second class 1 once, at T = 3."""
    network = one_layer(np.array([[1, 0], [2, 3]]), np.array([5, 5]), np.array([0, 0]), timesteps=3)
    fired = np.array([[[1, 0], [0, 1], [0, 1]], [[0, 0], [0, 0], [0, 1]]], np.bool_)
    counts = fired.sum(axis=2, keepdims=True)
    # The potentials speak against it.
    result = RunResult(np.full((2, 3, 2), [4, -1], np.int32), counts, 0 * counts, 1.0, 0.0, output_spikes=fired)
    # 1 : 1 after two steps and 0 : 0 before any spike are the lower class.
    assert result.predictions.tolist() == [[0, 0, 1], [0, 0, 1]]
    evaluation = evaluate(result, network, ExpectedClasses(np.array([1, 1])))
    assert evaluation.readout == "spikes"
    assert [point.correct_count for point in evaluation.points] == [0, 0, 2]
    point = evaluation.points[-1]
    # 4 spikes of 2 images in 3 steps of 2 neurons.
    assert (point.spikes_per_image, point.firing_rate, point.synaptic_operations) == (2, (2 / 6,), 0)
    assert point.activation_sparsity == pytest.approx(4 / 6)


def test_network_without_hidden_layers() -> None:
    network = one_layer(np.array([[1, 0], [2, 3]]))
    nothing = np.zeros((2, 1, 0), np.int64)
    evaluation = evaluate(RunResult(np.zeros((2, 1, 2), np.int32), nothing, nothing, 1.0, 0.0), network)
    point = evaluation.points[0]
    assert (point.spikes_per_image, point.synaptic_operations, point.firing_rate) == (0.0, 0.0, ())
    assert point.activation_sparsity is None
    assert [layer.multiply_accumulates for layer in evaluation.layers] == [3]
    # The CNN's own are not known.
    assert evaluation.multiply_accumulates is None


def multiply_accumulates_by_torch(layer: QuantizedLayer, input_shape: tuple[int, ...]) -> float:
    """Pairs of a nonzero weight and an input inside the image: the synapse of weights 0 and 1 on an image of ones."""
    synapse = layer.synapse
    ones = torch.ones((1, *input_shape), dtype=torch.float64)
    if synapse.pool != (1, 1):
        ones = functional.avg_pool2d(ones, synapse.pool)
    nonzero = torch.from_numpy((synapse.weight != 0).astype(np.float64))
    if isinstance(synapse, Dense):
        return functional.linear(ones.flatten(1), nonzero).sum().item()
    return (
        functional.conv2d(ones, nonzero, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        .sum()
        .item()
    )


def random_run(network: QuantizedNetwork, image_count: int, timesteps: int, seed: int) -> RunResult:
    rng = np.random.default_rng(seed)
    neurons = [math.prod(shape) for shape in network.shapes[: len(network.spiking_layers)]]
    spikes = np.zeros((image_count, timesteps, len(neurons)), np.int64)
    for index, count in enumerate(neurons):
        spikes[:, :, index] = rng.integers(0, count + 1, (image_count, timesteps))
    potentials = rng.integers(-5, 5, (image_count, timesteps, network.shapes[-1][0])).astype(np.int32)
    fired = rng.random(potentials.shape) < 0.3 if network.readout == "spikes" else None
    return RunResult(potentials, spikes, 2 * spikes, 1.0, 0.0, output_spikes=fired)


@pytest.mark.parametrize("has_spikes", [False, True])
def test_an_evaluation_needs_little_memory_beside_the_result(monkeypatch: pytest.MonkeyPatch, has_spikes: bool) -> None:
    monkeypatch.setattr(results, "_PART_OUTPUTS", 2**13)
    network = small_network()
    if has_spikes:
        last = replace(network.layers[-1], neuron=IntegerNeuron(np.full(3, 5), np.zeros(3, int)))
        network = replace(network, layers=(*network.layers[:-1], last))
    run = random_run(network, 2_000, 256, 0)
    margins = {"margin": 2, "curve_margins": (1, 3), "split": "validation", "image_count": 9, "by_labels": True}
    choice = MarginChoice.model_validate({**margins, "tolerance_points": 0.1, "timesteps": 256})
    tracemalloc.start()
    evaluate(run, network, exit_choice=choice)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result_size(network, 2_000, 256) / 10


@settings(max_examples=40, deadline=None)
@given(networks())
def test_multiply_accumulates_of_random_networks(case: Case) -> None:
    network, _ = case
    evaluation = evaluate(random_run(network, 1, 1, 0), network)
    shapes = (network.input_shape, *network.shapes)
    for layer, expected, input_shape in zip(evaluation.layers, network.layers, shapes, strict=False):
        assert layer.multiply_accumulates == multiply_accumulates_by_torch(expected, input_shape)


@pytest.mark.parametrize(("labels", "found"), [(LABELS + 1, "found 1..3"), (LABELS - 1, "found -1..1")])
def test_labels_that_are_not_classes_of_the_network(labels: Array, found: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(small_run(), small_network(), ExpectedClasses(labels))
    assert (caught.value.where, caught.value.found) == ("labels", found)
    assert "0..2" in caught.value.expected


def test_figures_that_say_little_are_noted() -> None:
    assert full_evaluation().notes == ()
    same = np.full(4, 2)
    (note,) = evaluate(small_run(), small_network(), ExpectedClasses(cnn=same)).notes
    assert note.startswith("The CNN gives all 4 images the same class, 2: the agreement with the CNN means little")
    (note,) = evaluate(small_run(), small_network(), ExpectedClasses(same)).notes
    assert note.startswith("All 4 images are labelled with the same class, 2: the accuracy means little")
    (note,) = evaluate(small_run(), small_network(), ExpectedClasses(same, same)).notes
    assert (
        "same class, 2. All 4 images are labelled with the same class, 2: the agreement with the CNN and the " in note
    )


def test_a_cnn_no_better_than_a_constant_is_noted() -> None:
    """60 images, half of them of class 2, and a CNN that is right on the other half."""
    one = small_run()
    arrays = {
        name: np.concatenate([getattr(one, name)] * 15)
        for name in ("potentials", "spike_counts", "synaptic_operations")
    }
    run, labels = replace(one, **arrays), np.tile(LABELS, 15)
    (note,) = evaluate(run, small_network(), ExpectedClasses(labels, np.tile([0, 1, 0, 1], 15))).notes
    assert note.startswith(
        "The CNN itself classifies 50.00 % of these images, and always predicting their most frequent"
    )
    assert evaluate(run, small_network(), ExpectedClasses(labels, labels)).notes == ()


@pytest.mark.parametrize(
    ("accuracy", "counts", "expected"),
    [
        # Two standard errors: 2 sqrt(0.5 x 0.5 / 100) = 0.1.
        (0.58, (50, 50), 0.5),
        (0.62, (50, 50), None),
        # 2 sqrt(0.5 x 0.5 / 50) = 0.14; with fewer images anything higher will do.
        (0.6, (25, 25), 0.5),
        (0.6, (24, 24), None),
        (0.5, (24, 24), 0.5),
        # 59/60 and two standard errors are more than 1, which nothing exceeds.
        (1.0, (59, 1), None),
        (59 / 60, (59, 1), 59 / 60),
        # One class only, or too few images.
        (0.3, (60,), None),
        (0.3, (5, 5), 0.5),
        (0.3, (5, 4), None),
    ],
)
def test_an_accuracy_is_clearly_above_that_of_a_constant_or_not(
    accuracy: float, counts: tuple[int, ...], expected: float | None
) -> None:
    """``counts`` are the images of each class."""
    assert constant_accuracy(accuracy, np.repeat(np.arange(len(counts)), counts)) == expected


def test_one_output_tells_two_classes_apart() -> None:
    network = one_layer(np.array([[1, 2]]))
    nothing = np.zeros((3, 1, 0), np.int64)
    result = RunResult(np.array([-1, 0, 5], np.int32).reshape(3, 1, 1), nothing, nothing, 1.0, 0.0)
    found = evaluate(result, network, ExpectedClasses(np.array([0, 1, 1]), np.array([0, 0, 1])))
    assert (found.points[0].correct_count, found.points[0].agreement_with_cnn) == (2, 1.0)
    assert found.notes == ()
    with pytest.raises(DataError) as caught:
        evaluate(result, network, ExpectedClasses(np.array([0, 1, 2])))
    assert caught.value.expected.startswith("must be 0..1")


@pytest.mark.parametrize(
    ("timesteps", "expected"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (5, (1, 2, 4, 5))]
)
def test_reported_timesteps(timesteps: int, expected: tuple[int, ...]) -> None:
    assert reported_timesteps(timesteps) == expected


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemars_test_is_the_binomial_test_of_the_images_that_differ(only_first: int, only_second: int) -> None:
    different = only_first + only_second
    expected = binomtest(only_first, different).pvalue if different else 1.0
    assert mcnemar_p_value(only_first, only_second) == pytest.approx(expected, rel=1e-9, abs=1e-100)


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_interval_holds_the_fraction_and_mirrors(case: tuple[int, int]) -> None:
    correct, count = case
    low, high = wilson_interval(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    scipys = binomtest(correct, count).proportion_ci(confidence_level=0.95, method="wilson")
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)
    assert wilson_interval(count - correct, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "count"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_interval_of_nothing(correct: int, count: int) -> None:
    with pytest.raises(ValueError, match="must"):
        wilson_interval(correct, count)
