"""Threshold balancing: algorithm 2 by hand, percentiles in closed form, convergence, and every wrong option."""

from __future__ import annotations

import inspect
import pydoc
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusals import refused

from loihi_convert.conversion import agreement, methods
from loihi_convert.conversion.balancing import balance, choose_method, correct_biases
from loihi_convert.conversion.methods import balance_by_method
from loihi_convert.conversion.options import BalanceOptions, require_timesteps
from loihi_convert.errors import DataError, RangeError, UsageError
from loihi_convert.ground.choices import Method, Reset
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation.relu import relu_outputs
from loihi_convert.simulation.simulator import outputs


def pixels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def chain_of(*weights: float) -> ReluNetwork:
    """Return a chain with one neuron per layer."""
    layers = tuple(ReluLayer(f"fc{index}", Dense(np.array([[weight]]))) for index, weight in enumerate(weights))
    return ReluNetwork((1, 1, 1), layers)


def random_cnn(seed: int) -> ReluNetwork:
    rng = np.random.default_rng(seed)
    layers = (
        ReluLayer("conv1", Conv(rng.normal(size=(5, 1, 3, 3)) / 3, rng.normal(size=5) / 10)),
        ReluLayer("conv2", Conv(rng.normal(size=(6, 5, 2, 2)) / 4, pool=(2, 2))),
        ReluLayer("fc", Dense(rng.normal(size=(4, 6 * 4)) / 5, rng.normal(size=4) / 10)),
    )
    return ReluNetwork((1, 8, 8), layers)


def test_algorithm_2_by_hand() -> None:
    """Images 0.4 and 1.0 (102 and 255), weights 2 and 3.

    First layer: currents 0.8 and 2.0, threshold 2.0. Image 1.0 fires at every step, image 0.4 in 0.8, 1.6, 2.4 (fires
    at step 3). Second layer, compensated: a spike is worth 2.0, its largest current is 3 x 2.0 = 6. Literal: worth 1,
    largest current 3. No mean over steps: the largest current of any single step counts.
    """
    images = pixels(102, 255)
    compensated = balance(chain_of(2, 3, 1), images, 3, BalanceOptions(method="ngu-lee", initial_potential="zero"))
    literal = balance(
        chain_of(2, 3, 1), images, 3, BalanceOptions(method="ngu-lee", amplitude="literal", initial_potential="zero")
    )
    assert compensated.layers[0].neuron.threshold == pytest.approx(2)
    assert compensated.layers[1].neuron.threshold == pytest.approx(6)
    assert literal.layers[1].neuron.threshold == pytest.approx(3)
    assert compensated.layers[1].neuron.amplitude == pytest.approx(6)
    assert literal.layers[1].neuron.amplitude == pytest.approx(1)
    assert compensated.layers[2].neuron is None


def test_a_spiking_readout_has_one_threshold_for_all_classes() -> None:
    """Classes 2 x and -x of images 0.4 and 1.0: the largest current of any of them is 2; per channel it would be 2 and
    none. Spikes within 3 steps at V0 = 1: 2 x fires 3 times at 1.0 and once at 0.4 (1.8, 2.6 fires, 1.4).
    """
    network = ReluNetwork((1, 1, 1), (ReluLayer("fc", Dense(np.array([[2.0], [-1.0]]))),))
    spiking = balance(network, pixels(102, 255), 3, BalanceOptions(method="ngu-lee", readout="spikes"))
    neuron = spiking.layers[0].neuron
    assert neuron.threshold == pytest.approx([2, 2])
    assert (spiking.readout, balance(network, pixels(255), 3, BalanceOptions(method="ngu-lee")).readout) == (
        "spikes",
        "potential",
    )
    assert outputs(spiking, pixels(102, 255), 3).tolist() == [[[0, 0], [1, 0], [1, 0]], [[1, 0], [2, 0], [3, 0]]]
    by_percentile = balance(
        network, pixels(102, 255), 3, BalanceOptions(method="percentile", percentile=50, readout="spikes")
    )
    # Activations 0.8 and 2.0 of the first class: the lower one is their 50th percentile.
    assert by_percentile.layers[0].neuron.threshold == pytest.approx([0.8, 0.8], abs=2 / 2048)


def test_thresholds_depend_on_t_because_layers_before_spike() -> None:
    """A bright image 1.0 and a dark one 0.4; layer 1 has channels a = x and b = 0.5 x - 0.3; layer 2 is a - 2 b.

    Thresholds of layer 1 are the bright image's currents, 1 and 0.2, so that it fires both at every step: layer 2
    receives 1 x 1 - 2 x 0.2 = 0.6. The dark image fires a alone (b's current is -0.1), at 0.4, 0.8, 1.2: step 3. Then
    layer 2 receives 1.0, which counts only if T >= 3.
    """
    layers = (
        ReluLayer("fc1", Dense(np.array([[1.0], [0.5]]), np.array([0.0, -0.3]))),
        ReluLayer("fc2", Dense(np.array([[1.0, -2.0]]))),
        ReluLayer("fc3", Dense(np.array([[1.0]]))),
    )
    network = ReluNetwork((1, 1, 1), layers)
    short, long = (
        balance(network, pixels(102, 255), steps, BalanceOptions(method="ngu-lee", initial_potential="zero"))
        .layers[1]
        .neuron
        for steps in (2, 3)
    )
    assert short.threshold == pytest.approx(0.6)
    assert long.threshold == pytest.approx(1.0)


def test_alpha_scales_and_half_starts_in_the_middle() -> None:
    neuron = (
        balance(chain_of(2, 1), pixels(255), 4, BalanceOptions(method="ngu-lee", alpha=0.25, initial_potential="half"))
        .layers[0]
        .neuron
    )
    assert (neuron.threshold, neuron.initial_potential, neuron.amplitude) == (0.5, 0.25, 0.5)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_compensated_converges_to_the_cnn(seed: int) -> None:
    network = random_cnn(seed)
    images = np.random.default_rng(seed).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    expected = np.concatenate([outputs[-1].numpy() for outputs in relu_outputs(network, images)])
    errors = []
    for timesteps in (16, 256):
        spiking = balance(network, images, timesteps, BalanceOptions(method="ngu-lee"))
        potentials = outputs(spiking, images, timesteps)
        errors.append(np.abs(potentials[:, -1] / timesteps - expected).max())
    # The error falls as 1 / T. Over 300 seeds 16 times the steps left at most 0.13 of it, and at most 0.009.
    assert errors[1] < errors[0] / 5
    assert errors[1] < 0.02


def test_per_channel_percentile_of_positive_activations() -> None:
    """Activations 1..100 (hundredths): 90 of 100 lie at or below 0.90; negatives and zeros do not count."""
    values = np.concatenate([np.arange(1, 101), np.zeros(300, np.int64)])
    layers = (
        ReluLayer("fc1", Dense(np.array([[2.55], [-1.0], [5.1]]))),
        ReluLayer("fc2", Dense(np.ones((1, 3)))),
    )
    network = ReluNetwork((1, 1, 1), layers)
    neuron = balance(network, pixels(*values), 4, BalanceOptions(method="percentile", percentile=90)).layers[0].neuron
    # A bin of the histogram is at most 1/2048 of the maximum.
    assert neuron.threshold[0] == pytest.approx(0.90, abs=1 / 2048)
    assert neuron.threshold[2] == pytest.approx(1.80, abs=2 / 2048)
    assert np.isinf(neuron.threshold[1])
    assert neuron.amplitude[1] == 0
    full = balance(network, pixels(*values), 4, BalanceOptions(method="percentile", percentile=100)).layers[0].neuron
    assert full.threshold[0] == pytest.approx(1.0, rel=1e-6)


def test_a_percentile_is_that_of_the_first_images_and_a_maximum_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loihi_convert.conversion.methods.MOST", 100)
    network = ReluNetwork(
        (1, 1, 1), (ReluLayer("fc1", Dense(np.ones((1, 1)))), ReluLayer("fc2", Dense(np.ones((1, 1)))))
    )
    images = pixels(*range(1, 101), *(255,) * 50)
    for percentile, expected in ((50, 50 / 255), (100, 1)):
        options = BalanceOptions(method="percentile", percentile=percentile)
        neuron = balance(network, images, 4, options).layers[0].neuron
        assert neuron.threshold == pytest.approx([expected], abs=1 / 2048)


def test_dead_channels_never_fire_and_send_nothing() -> None:
    layers = (ReluLayer("fc1", Dense(np.array([[1.0], [-1.0], [0.0]]))), ReluLayer("fc2", Dense(np.ones((2, 3)))))
    neuron = (
        balance(
            ReluNetwork((1, 1, 1), layers), pixels(200), 4, BalanceOptions(method="ngu-lee", initial_potential="half")
        )
        .layers[0]
        .neuron
    )
    assert neuron.threshold[1:].tolist() == [np.inf, np.inf]
    assert neuron.amplitude[1:].tolist() == [0, 0]
    assert neuron.initial_potential[1:].tolist() == [0, 0]


def test_provenance_says_how() -> None:
    spiking = balance(chain_of(1, 1), pixels(1, 2, 3), 7, BalanceOptions(method="ngu-lee", alpha=0.5))
    assert spiking.timesteps == 7
    assert spiking.provenance["balance"] == {
        "method": "ngu-lee",
        "amplitude": "compensated",
        "alpha": 0.5,
        "initial_potential": "half",
        "reset": "soft",
        "input": "constant",
        "readout": "potential",
        "timesteps": 7,
        "calibration_images": 3,
    }


@pytest.mark.parametrize(
    ("options", "where", "found", "expected"),
    [
        ({"alpha": 0.0}, "alpha", "0.0", "in (0, 1]"),
        ({"alpha": float("nan")}, "alpha", "nan", "in (0, 1]"),
        ({"alpha": "two"}, "alpha", "'two'", "in (0, 1]"),
        ({"percentile": 101.0}, "percentile", "101.0", "in (0, 100]"),
        ({"percentile": 99.0}, "percentile", "99.0", "only for `method='percentile'`"),
        ({"method": "ngu-lee", "percentile": 99.0}, "percentile", "'ngu-lee'", "only for `method='percentile'`"),
        ({"input_coding": "constant", "poisson_seed": 3}, "poisson_seed", "given", "`input_coding='poisson'`"),
        ({"input_coding": "spikes"}, "input_coding", "'spikes'", "one of constant, poisson"),
        ({"method": "spike-norm", "initial_potential": "half"}, "initial_potential", "'half'", "`reset='hard'`"),
        ({"method": "best"}, "method", "'best'", "auto, ngu-lee, spike-norm, rmp, act-norm"),
        ({"method": "rmp", "reset": "hard"}, "reset", "'hard'", "soft with `method='rmp'`"),
        ({"poisson_seed": -1}, "poisson_seed", "-1", "0..2,147,483,647"),
        ({"amplitude": "big"}, "amplitude", "'big'", "one of compensated, literal"),
        ({"readout": "rate"}, "readout", "'rate'", "one of potential, spikes"),
        ({"reset": "firm"}, "reset", "'firm'", "one of soft, hard"),
        ({"reset": "hard", "initial_potential": "half"}, "initial_potential", "'half'", "zero with `reset='hard'`"),
        ({"initial_potential": "full"}, "initial_potential", "'full'", "one of zero, half"),
        ({"method": "least-squares", "amplitude": "literal"}, "amplitude", "'literal'", "`method='least-squares'`"),
        ({"bias_correction": True, "amplitude": "literal"}, "amplitude", "'literal'", "`bias_correction`"),
    ],
)
def test_wrong_options(options: dict[str, Any], where: str, found: str, expected: str) -> None:
    with refused(where, found, expected):
        BalanceOptions(**options)


@pytest.mark.parametrize(
    ("options", "reset", "seed"),
    [
        ({}, "soft", None),
        ({"method": "ngu-lee"}, "soft", None),
        ({"method": "ngu-lee", "poisson_seed": 3}, "soft", 3),
        ({"method": "ngu-lee", "input_coding": "poisson"}, "soft", 0),
        ({"method": "rmp"}, "soft", 0),
        ({"method": "spike-norm"}, "hard", 0),
        ({"method": "spike-norm", "reset": "soft", "input_coding": "constant"}, "soft", None),
    ],
)
def test_neurons_are_the_published_ones_unless_given(options: dict[str, Any], reset: str, seed: int | None) -> None:
    chosen = BalanceOptions(**options)
    assert (chosen.neuron_reset, chosen.input_seed) == (reset, seed)
    if chosen.method != "auto":
        spiking = balance(chain_of(1, 1), pixels(100, 200), 4, chosen)
        assert (spiking.reset, spiking.poisson_seed) == (reset, seed)


def test_help_shows_every_option_and_its_default() -> None:
    shown = pydoc.plain(pydoc.render_doc(balance))
    documented = inspect.getdoc(BalanceOptions)
    for field in fields(BalanceOptions):
        assert f"{field.name}={field.default!r}" in shown
        assert f"\n{field.name}\n" in documented


def test_auto_and_correction_are_resolved_by_balance() -> None:
    """`balance` equals its stages applied one by one; `balance_by_method` accepts only a method."""
    cnn = random_cnn(2)
    images = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8)).astype(np.uint8)
    best, *_ = choose_method(cnn, images, 2)
    balanced = balance_by_method(cnn, images, 2, best.chosen(BalanceOptions()))
    expected = correct_biases(cnn, balanced, images) if best.corrected else balanced
    found = balance(cnn, images, 2)
    assert thresholds_of(found) == thresholds_of(expected)
    assert found.provenance == expected.provenance
    with pytest.raises(UsageError) as raised:
        balance_by_method(cnn, images, 2, BalanceOptions())
    assert (raised.value.where, raised.value.found) == ("method", "found 'auto'")


@pytest.mark.parametrize("images", [pixels(), pixels(1).astype(np.float32), np.zeros((3, 1, 2, 2), np.uint8)])
def test_wrong_images(images: np.ndarray) -> None:
    with pytest.raises(DataError) as raised:
        balance(chain_of(1, 1), images, 4)
    assert raised.value.where == "calibration images"
    assert str(images.shape) in raised.value.found
    assert "uint8 of shape (N, 1, 1, 1)" in raised.value.expected


@pytest.mark.parametrize(
    ("timesteps", "initial_potential", "ceiling"),
    [(1, "half", np.inf), (3, "half", np.inf), (8, "zero", np.inf), (8, "half", 1.5)],
)
def test_least_squares_finds_the_best_of_its_candidates(timesteps: int, initial_potential: Any, ceiling: float) -> None:
    """One neuron: each candidate is tried in a separate network. The ceiling is itself one of them."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 1)).astype(np.uint8)
    activations = np.minimum(images.ravel() / 127.5, ceiling)
    first, last = chain_of(2, 1).layers
    network = ReluNetwork((1, 1, 1), (replace(first, ceiling=np.array([ceiling])), last))
    balanced = balance(
        network, images, timesteps, BalanceOptions(method="least-squares", initial_potential=initial_potential)
    )
    errors = {}
    for candidate in np.minimum(methods._CANDIDATES * activations.max(), ceiling):
        threshold = np.array([candidate])
        initial = threshold / 2 if initial_potential == "half" else 0 * threshold
        neuron = IntegrateAndFire(threshold, threshold, initial)
        layers = (replace(balanced.layers[0], neuron=neuron), balanced.layers[1])
        rates = outputs(replace(balanced, layers=layers), images, timesteps)[:, -1, 0] / timesteps
        errors[candidate] = np.square(rates - activations).sum()
    best = min(errors, key=lambda candidate: errors[candidate])
    assert balanced.layers[0].neuron.threshold == pytest.approx(best)
    assert 0 < best < 2.2


def test_least_squares_lowers_thresholds_where_steps_are_few() -> None:
    """With one step every activation becomes 0 or the threshold: the best one cuts off less than half the largest."""
    images = np.random.default_rng(0).integers(0, 256, (200, 1, 1, 1)).astype(np.uint8)
    thresholds = []
    for timesteps in (1, 4, 32):
        neuron = balance(chain_of(1, 1), images, timesteps, BalanceOptions(method="least-squares")).layers[0].neuron
        thresholds.append(float(neuron.threshold[0]))
    assert thresholds == sorted(thresholds)
    # E (x - theta [x >= theta / 2])^2 over x in 0..1 is theta^3 / 12 + (1 - theta)^3 / 3, least at theta = 2 / 3.
    assert thresholds[0] == pytest.approx(2 / 3, abs=0.07)
    assert thresholds[-1] == pytest.approx(1.0, abs=0.1)


def test_least_squares_fits_the_amplitude_to_a_hard_reset() -> None:
    """One step from V0 = 0: x in 0..1 fires from theta on, and is worth the mean of what fires, a = (1 + theta) / 2.

    The error theta^3 / 3 + (1 - theta)^3 / 12 is least at theta = 1 / 3, a = 2 / 3. Over many steps a spike is worth
    the threshold and what a reset throws away, half the current on average. Soft reset throws nothing away.
    """
    images = np.random.default_rng(0).integers(0, 256, (400, 1, 1, 1)).astype(np.uint8)

    def neuron(timesteps: int, reset: Reset) -> IntegrateAndFire:
        balanced = balance(chain_of(1, 1), images, timesteps, BalanceOptions(method="least-squares", reset=reset))
        assert not balanced.layers[0].neuron.is_literal
        return balanced.layers[0].neuron

    once = neuron(1, "hard")
    assert once.threshold == pytest.approx(1 / 3, abs=0.05)
    assert once.amplitude == pytest.approx(2 / 3, abs=0.03)
    often = neuron(32, "hard")
    assert 1.05 < float((often.amplitude / often.threshold)[0]) < 1.5
    soft = neuron(1, "soft")
    assert np.array_equal(soft.amplitude, soft.threshold)


def test_literal_spikes_are_known_by_their_amplitude() -> None:
    threshold = np.array([0.5, np.inf])
    assert IntegrateAndFire(threshold, np.array([1.0, 0.0]), np.zeros(2)).is_literal
    assert not IntegrateAndFire(threshold, np.array([0.5, 0.0]), np.zeros(2)).is_literal
    assert not IntegrateAndFire(threshold, np.array([0.7, 0.0]), np.zeros(2)).is_literal
    # Its amplitude is 1, equal to its threshold.
    assert not IntegrateAndFire(np.array([1.0, np.inf]), np.array([1.0, 0.0]), np.zeros(2)).is_literal


def test_least_squares_leaves_dead_channels_dead() -> None:
    balanced = balance(chain_of(-1, 1), pixels(100, 200), 4, BalanceOptions(method="least-squares"))
    assert np.isinf(balanced.layers[0].neuron.threshold).all()


def thresholds_of(network: SpikingNetwork) -> list[list[float]]:
    return [[] if layer.neuron is None else layer.neuron.threshold.tolist() for layer in network.layers]


def two_channels() -> ReluNetwork:
    """Return fc1 with channels 2 x and x, and fc2, which adds both."""
    layers = (ReluLayer("fc1", Dense(np.array([[2.0], [1.0]]))), ReluLayer("fc2", Dense(np.array([[1.0, 1.0]]))))
    return ReluNetwork((1, 1, 1), (*layers, ReluLayer("fc3", Dense(np.array([[1.0]])))))


def test_activation_norms_by_hand() -> None:
    """Images 0.4 and 1.0: activations of fc1 (0.8, 0.4) and (2, 1), of fc2 1.2 and 3."""
    images = pixels(102, 255)
    of_layer = balance(two_channels(), images, 4, BalanceOptions(method="act-norm"))
    assert thresholds_of(of_layer) == [pytest.approx([2, 2]), pytest.approx([3]), []]
    of_channel = balance(two_channels(), images, 4, BalanceOptions(method="act-norm-channelwise"))
    assert thresholds_of(of_channel) == [pytest.approx([2, 1]), pytest.approx([3]), []]
    assert thresholds_of(balance(two_channels(), images, 9, BalanceOptions(method="act-norm", alpha=0.5)))[
        0
    ] == pytest.approx([1, 1])


def test_every_method_has_a_line_and_a_new_one_needs_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(methods.METHODS) == get_args(Method)

    def constant(balancing: methods._Balancing) -> methods.Balanced:
        return methods.Balanced(np.full(2, float(balancing.timesteps)), np.ones(2))

    monkeypatch.setitem(methods.METHODS, "rmp", methods.BalancingMethod(constant))
    found = balance(two_channels(), pixels(102, 255), 3, BalanceOptions(method="rmp"))
    assert found.layers[0].neuron.threshold.tolist() == [3, 3]


def test_counts_of_classes_are_worth_the_same_with_a_hard_reset() -> None:
    """`run` compares the counts as they are, so no class has an amplitude of its own."""
    cnn = two_channels()
    spiking = balance(
        cnn, pixels(*range(0, 255, 5)), 4, BalanceOptions(method="least-squares", reset="hard", readout="spikes")
    )
    neuron = spiking.layers[-1].neuron
    assert len(set(neuron.threshold)) == 1
    assert np.array_equal(neuron.amplitude, neuron.threshold)


def test_robust_norm_is_the_percentile_of_a_whole_layer() -> None:
    """Of 1,000 pixels 255 and one of them brighter by weight: 2,000 activations, 99.9 % of which are at most 1."""
    bright = np.full((1000, 2, 1, 1), 255, np.uint8)
    bright[1:, 1] = 0
    weight = np.array([[1.0, 4.0], [1.0, 0.0]])
    network = ReluNetwork((2, 1, 1), (ReluLayer("fc1", Dense(weight)), ReluLayer("fc2", Dense(np.ones((1, 2))))))
    robust = balance(network, bright, 4, BalanceOptions(method="robust-norm"))
    # A bin is at most 1/2048 of the largest activation, 5.
    assert thresholds_of(robust)[0] == pytest.approx([1, 1], abs=5 / 2048)
    assert thresholds_of(balance(network, bright, 4, BalanceOptions(method="act-norm")))[0] == pytest.approx([5, 5])


@pytest.mark.parametrize("method", ["act-norm", "robust-norm", "act-norm-channelwise", "percentile", "least-squares"])
def test_activations_beyond_float32_are_refused(method: Any) -> None:
    """fc1 gives up to 1e30 twice, fc2 infinity in one channel, in the other infinity less infinity."""
    first, second = np.full((2, 1), 1e30), np.array([[1e30, 0.0], [1e30, -1e30]])
    layers = (ReluLayer("fc1", Dense(first)), ReluLayer("fc2", Dense(second)), ReluLayer("fc3", Dense(np.ones((1, 2)))))
    with pytest.raises(RangeError) as raised:
        balance(ReluNetwork((1, 1, 1), layers), pixels(128, 255), 4, BalanceOptions(method=method))
    assert raised.value.where == "fc2"
    assert "the largest float32" in raised.value.found


def test_spike_norm_by_hand() -> None:
    """A white pixel spikes in every step: fc1 receives (2, 1), one threshold 2 for both.

    Literal, hard reset: channel 2 x fires in every step; x in every second one, when fc2 receives 2 instead of 1.
    Soft reset fires the same here. ngu-lee's channels (2, 1) fire both in every step: 2 as well, but from step 1 on.
    """
    white = pixels(255)
    options: dict[str, Any] = {"amplitude": "literal", "poisson_seed": 3, "initial_potential": "zero"}
    for steps, expected in ((1, 1.0), (2, 2.0)):
        spike_norm = balance(two_channels(), white, steps, BalanceOptions(method="spike-norm", reset="hard", **options))
        assert thresholds_of(spike_norm) == [pytest.approx([2, 2]), pytest.approx([expected]), []]
        rmp = balance(two_channels(), white, steps, BalanceOptions(method="rmp", **options))
        assert thresholds_of(rmp) == thresholds_of(spike_norm)
        assert (rmp.reset, rmp.poisson_seed) == ("soft", 3)
        ngu_lee = balance(two_channels(), white, steps, BalanceOptions(method="ngu-lee", **options))
        assert thresholds_of(ngu_lee) == [pytest.approx([2, 1]), pytest.approx([2.0]), []]


def test_the_number_of_fitted_images_depends_on_its_own_latency_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = 1 is fitted to all 40 images, T = 16 to the 8 brightest; maxima would be those of all for both."""
    monkeypatch.setattr(agreement, "FEWEST", 8)
    monkeypatch.setattr(agreement, "STEPS", 128)
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    images[8:] //= 3
    options = BalanceOptions(method="least-squares")
    cnn = random_cnn(1)
    one, many = (balance(cnn, images, steps, options) for steps in (1, 16))
    assert thresholds_of(one) != thresholds_of(balance(cnn, images[:8], 1, options))
    assert thresholds_of(many) == thresholds_of(balance(cnn, images[:8], 16, options))
    # So are its biases.
    found, expected = (correct_biases(cnn, many, some).layers[-1].correction for some in (images, images[:8]))
    assert np.array_equal(found, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("timesteps", [(4, 4), (), (0,), (2**20 + 1,), (True,)])
def test_wrong_latencies(timesteps: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        require_timesteps(timesteps)
    assert raised.value.where == "timesteps"


def test_a_default_and_its_value_are_the_same_key() -> None:
    assert (
        BalanceOptions(method="spike-norm").key == BalanceOptions(method="spike-norm", reset="hard", poisson_seed=0).key
    )
    assert BalanceOptions(method="percentile").key == BalanceOptions(method="percentile", percentile=99.0).key
    assert BalanceOptions(method="rmp").key != BalanceOptions(method="rmp", input_coding="constant").key
