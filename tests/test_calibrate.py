"""Corrections of biases and initial potentials for few time steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_balance import random_cnn

from loihi_convert import netx
from loihi_convert.conversion import agreement
from loihi_convert.conversion.agreement import fitted_images
from loihi_convert.conversion.balancing import balance, correct_biases
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import InitialPotential
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.pipeline.opening import float_network
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import outputs


def images(count: int = 60) -> Array:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


def test_maps_with_many_positions_are_fitted_on_few_images() -> None:
    shapes = ((64, 64), (8, 8), (1, 1))
    layers = [ReluLayer(f"conv{index}", Conv(np.ones((1, 1, 1, 1)), pool=(pool, pool)))
              for index, pool in enumerate((1, 8, 8))]  # fmt: skip
    network = ReluNetwork((1, 64, 64), tuple(layers))
    assert network.shapes == tuple((1, *shape) for shape in shapes)
    assert fitted_images(network) == (128, 512, 32_768)


def test_thresholds_and_corrections_are_fitted_on_these_images(monkeypatch: pytest.MonkeyPatch) -> None:
    cnn, options = random_cnn(0), BalanceOptions(method="least-squares")
    on_all = balance(cnn, images(200), 3, options)
    monkeypatch.setattr(agreement, "SAMPLES", 1)
    monkeypatch.setattr(agreement, "FEWEST_FITTED", 64)
    on_few = balance(cnn, images(200), 3, options)
    assert [layer.neuron and layer.neuron.threshold.tolist() for layer in on_few.layers] != [
        layer.neuron and layer.neuron.threshold.tolist() for layer in on_all.layers
    ]
    found, wanted = (correct_biases(cnn, on_all, images(200)[:count]) for count in (200, 64))
    for layer, other in zip(found.layers[1:], wanted.layers[1:], strict=True):
        assert layer.correction is not None
        assert np.array_equal(layer.correction, other.correction)
        assert layer.neuron is None or np.array_equal(layer.neuron.initial_potential, other.neuron.initial_potential)


def one_hidden_neuron() -> tuple[ReluNetwork, SpikingNetwork]:
    """One neuron of threshold 1, starting at 0, relays a pixel x, which is read out with weights 1 and -1."""
    first, last = Dense(np.array([[1.0]])), Dense(np.array([[1.0], [-1.0]]))
    neuron = IntegrateAndFire(np.array([1.0]), np.array([1.0]), np.array([0.0]))
    layers = (SpikingLayer("first", first, neuron), SpikingLayer("last", last, None))
    cnn = ReluNetwork((1, 1, 1), (ReluLayer("first", first), ReluLayer("last", last)))
    return cnn, SpikingNetwork((1, 1, 1), layers, 1, "soft")


def test_by_hand() -> None:
    """Pixels 0.2, 0.6, 0.8 at T = 1: the rounding that is nearest is 0, 1, 1; a mean of 2/3 where the CNN has 1.6/3."""
    cnn, network = one_hidden_neuron()
    pixels = np.array([51, 153, 204], np.uint8).reshape(3, 1, 1, 1)
    # Starting at 0, no neuron fires.
    assert outputs(network, pixels, 1)[:, -1, 0].tolist() == [0, 0, 0]
    corrected = correct_biases(cnn, network, pixels)
    first, last = corrected.layers
    assert first.neuron is not None
    assert first.neuron.initial_potential.tolist() == [0.5]
    assert first.correction is None
    assert last.correction == pytest.approx([1.6 / 3 - 2 / 3, 2 / 3 - 1.6 / 3], abs=1e-6)
    assert outputs(corrected, pixels, 1)[:, -1, 0] == pytest.approx([-0.4 / 3, 2.6 / 3, 2.6 / 3], abs=1e-6)
    assert corrected.provenance["calibration"] == 3


def test_an_initial_potential_is_that_of_the_corrected_bias() -> None:
    """As `test_by_hand`, with a second neuron of threshold 1 and bias 0.4, whose activations are 0.6, 1.0 and 1.2.

    Its bias is corrected by 1.6/3 - 2/3 = -2/15, so spikes 0, 1, 1 give currents of 4/15 and 19/15. It should fire for
    all three pixels, which takes an initial potential of 11/15 or more: 0.75. With the CNN's bias 0.65 would do.
    """
    cnn, network = one_hidden_neuron()
    second = Dense(np.array([[1.0]]), np.array([0.4]))
    cnn = replace(cnn, layers=(cnn.layers[0], ReluLayer("second", second), cnn.layers[1]))
    neuron = network.layers[0].neuron
    layers = (network.layers[0], SpikingLayer("second", second, neuron), network.layers[1])
    pixels = np.array([51, 153, 204], np.uint8).reshape(3, 1, 1, 1)
    shown: list[tuple[int, int]] = []
    with progress_to(lambda done, total: shown.append((done, total))):
        corrected = correct_biases(cnn, replace(network, layers=layers), pixels)
    _, middle, last = corrected.layers
    assert middle.correction == pytest.approx([-2 / 15], abs=1e-6)
    assert middle.neuron is not None
    assert middle.neuron.initial_potential.tolist() == [0.75]
    # It fires for all, by 1; the mean activation is 2.8/3.
    assert last.correction == pytest.approx([-0.2 / 3, 0.2 / 3], abs=1e-6)
    # Two passes for each layer but the first, which needs one. The last ends at the total.
    assert shown[-1] == (15, 15)
    assert shown == sorted(shown)


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("timesteps", [1, 2, 8])
def test_mean_outputs_are_those_of_the_cnn(timesteps: int, reset: str) -> None:
    """The mean is exact only on the calibration images."""
    cnn = random_cnn(1)
    network = balance(cnn, images(), timesteps, BalanceOptions(method="percentile", reset=reset))
    corrected = correct_biases(cnn, network, images())
    scores = cnn_scores(cnn, images())
    before, after = (outputs(found, images(), timesteps)[:, -1] / timesteps for found in (network, corrected))
    assert after.mean(axis=0) == pytest.approx(scores.mean(axis=0), abs=1e-4)
    assert before.mean(axis=0) != pytest.approx(scores.mean(axis=0), abs=1e-3)
    if reset == "hard":
        assert all(not layer.neuron.initial_potential.any() for layer in corrected.layers if layer.neuron is not None)


@pytest.mark.parametrize(("initial_potential", "share"), [("zero", 0.0), ("half", 0.5)])
def test_an_initial_potential_that_is_given_stays(initial_potential: InitialPotential, share: float) -> None:
    options = BalanceOptions(method="percentile", initial_potential=initial_potential, bias_correction=True)
    first, second, _ = balance(random_cnn(1), images(), 2, options).layers
    for layer in (first, second):
        assert layer.neuron is not None
        threshold = np.where(np.isfinite(layer.neuron.threshold), layer.neuron.threshold, 0.0)
        assert np.array_equal(layer.neuron.initial_potential, share * threshold)
    assert second.correction is not None
    fitted = balance(random_cnn(1), images(), 2, replace(options, initial_potential=None)).layers[1]
    assert fitted.neuron is not None
    alive = np.isfinite(fitted.neuron.threshold)
    assert (fitted.neuron.initial_potential != 0.5 * fitted.neuron.threshold)[alive].any()


def test_spikes_of_the_classes_start_where_they_did() -> None:
    """Their counts are compared, not their rates with the CNN's."""
    cnn = random_cnn(1)
    network = balance(cnn, images(), 4, BalanceOptions(method="percentile", readout="spikes"))
    before, after = (one.layers[-1].neuron for one in (network, correct_biases(cnn, network, images())))
    assert before is not None
    assert after is not None
    assert np.array_equal(after.initial_potential, before.initial_potential)


def test_written_and_read_again(tmp_path: Path) -> None:
    cnn = random_cnn(1)
    network = correct_biases(cnn, balance(cnn, images(), 2, BalanceOptions(method="percentile")), images())
    quantized = quantize(network, images())
    path = tmp_path / "model.net"
    netx.write(quantized, path)
    read = netx.read(path)
    real = float_network(read, cnn)
    assert np.array_equal(outputs(real, images(), 2), outputs(network, images(), 2))
    for layer, expected in zip(read.layers[1:], network.layers[1:], strict=True):
        assert layer.correction is not None
        assert np.array_equal(layer.correction, expected.correction)  # type: ignore[arg-type]


def test_literal_spikes_cannot_be_corrected() -> None:
    cnn = random_cnn(1)
    with pytest.raises(UsageError) as raised:
        correct_biases(cnn, balance(cnn, images(), 2, BalanceOptions(method="ngu-lee", amplitude="literal")), images())
    assert (raised.value.where, raised.value.found) == ("amplitude", "found literal spikes")
    assert "compensated" in raised.value.expected
