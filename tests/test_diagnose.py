"""Where the accuracy goes: hand-derived activations, losses that add up, and the right cause of spoilt networks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

from loihi_convert import cli
from loihi_convert.backends.reference import run_network
from loihi_convert.cnn.checkpoint import load_model
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.cnn.train import train
from loihi_convert.conversion.balance import balance
from loihi_convert.conversion.calibrate import calibrate
from loihi_convert.conversion.convert import convert
from loihi_convert.conversion.quantize import quantize
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import InputError
from loihi_convert.network import (
    IntegrateAndFire,
    QuantizedNetwork,
    ReluLayer,
    ReluNetwork,
    SpikingLayer,
    SpikingNetwork,
)
from loihi_convert.results import advice, diagnose
from loihi_convert.results.diagnose import Diagnosis
from loihi_convert.simulation.intermediate import intermediate_networks
from loihi_convert.synapse import Array, Dense

WHITE = np.full((1, 1, 1, 1), 255, np.uint8)


def tiny_cnn() -> ReluNetwork:
    """A white pixel gives neurons D, E, A, B of the first layer 1.5, 0.8, 1 and 0.5; C of the second -A + 2 B = 0."""
    return ReluNetwork(
        input_shape=(1, 1, 1),
        layers=(
            ReluLayer("first", Dense(np.array([[1.5], [0.8], [1.0], [0.5]]))),
            ReluLayer("second", Dense(np.array([[0.0, 0.0, -1.0, 2.0]]))),
            ReluLayer("classes", Dense(np.array([[1.0], [-1.0]]))),
        ),
    )


def tiny_spiking(cnn: ReluNetwork) -> SpikingNetwork:
    """The same with thresholds of 1; all neurons start at 0.5 but E, which starts at 0."""
    first = IntegrateAndFire(np.ones(4), np.ones(4), np.array([0.5, 0.0, 0.5, 0.5]))
    second = IntegrateAndFire(np.ones(1), np.ones(1), np.array([0.5]))
    layers = tuple(
        SpikingLayer(layer.name, layer.synapse, neuron)
        for layer, neuron in zip(cnn.layers, (first, second, None), strict=True)
    )
    return SpikingNetwork((1, 1, 1), layers, timesteps=2, reset="soft")


def tiny_activations(cnn: ReluNetwork, spiking: SpikingNetwork) -> dict[str, list[list[float]]]:
    networks = intermediate_networks(cnn, spiking, quantize(spiking, WHITE), timesteps=2)
    return {network.cause: [maps.ravel().tolist() for maps in network.activations(WHITE)] for network in networks}


def test_activations_derived_by_hand() -> None:
    cnn = tiny_cnn()
    found = tiny_activations(cnn, tiny_spiking(cnn))
    # D: min(1.5, 1). All others are below their thresholds.
    assert found["clipping"] == [pytest.approx([1, 0.8, 1, 0.5]), [0], [0, 0]]
    # T = 2: D floor(3 + 1/2) = 3 -> 2 of 2; E floor(1.6 + 1/2) = 2; A floor(2.5) = 2; B floor(1.5) = 1.
    assert found["levels"] == [[1, 1, 1, 0.5], [0], [0, 0]]
    # E from 0: floor(1.6) = 1.
    assert found["initial_potential"] == [[1, 0.5, 1, 0.5], [0], [0, 0]]
    # A spikes at both steps. B: 0.5 + 0.5 spikes, 0; then 0.5. So C receives -1 + 2 = 1, then -1, on average the 0 of
    # the CNN, but 0.5 + 1 spikes and leaves 0.5, which then falls to -0.5: one spike in two steps.
    assert found["timing"] == [[1, 0.5, 1, 0.5], [0.5], [0.5, -0.5]]
    assert list(found) == ["clipping", "levels", "initial_potential", "timing", "weights", "thresholds", "saturation"]


def test_a_hard_reset_comes_after_the_soft_one() -> None:
    cnn = tiny_cnn()
    soft = tiny_spiking(cnn)
    empty = tuple(
        replace(
            layer,
            neuron=None
            if layer.neuron is None
            else replace(layer.neuron, initial_potential=0 * layer.neuron.threshold),
        )
        for layer in soft.layers
    )
    # E gets 0.9: 0.9, 1.8 spikes. A spikes twice. B: 0.5, 1 spikes.
    found = tiny_activations(cnn, replace(soft, layers=empty, reset="hard"))
    assert found["timing"][0] == found["reset"][0] == [1, 0.5, 1, 0.5]
    # C receives -1, then 1: never 1.
    assert found["reset"][1] == [0]


def test_a_spike_worth_1_is_a_cause_of_its_own() -> None:
    cnn = tiny_cnn()
    soft = tiny_spiking(cnn)
    doubled = IntegrateAndFire(np.full(4, 2.0), np.ones(4), np.ones(4))
    found = tiny_activations(cnn, replace(soft, layers=(replace(soft.layers[0], neuron=doubled), *soft.layers[1:])))
    assert found["clipping"][0] == pytest.approx([1.5, 0.8, 1, 0.5])
    assert found["amplitude"][0] == pytest.approx([0.75, 0.4, 0.5, 0.25])


def test_the_levels_of_a_qcfs_network_are_not_clipping() -> None:
    """With L = 1 the CNN itself says D 1, E 1, A 1, B floor(0.5 + 1/2) = 1, C floor(min(-1 + 2, 1) + 1/2) = 1."""
    plain = tiny_cnn()
    layers = tuple(
        replace(layer, threshold=np.ones(layer.synapse.channels), levels=1) if layer.name != "classes" else layer
        for layer in plain.layers
    )
    cnn = replace(plain, layers=layers)
    found = tiny_activations(cnn, tiny_spiking(plain))
    assert found["clipping"] == [[1, 1, 1, 1], [1], [1, -1]]
    assert found["levels"][0] == [1, 1, 1, 0.5]


class Digits(NamedTuple):
    splits: DataSplits
    cnn: ReluNetwork


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    path = tmp_path_factory.mktemp("diagnose") / "model.pt"
    splits = load_data("digits")
    train("digits-cnn", splits, replace(default_recipe("digits"), epochs=8), seed=0, output=path)
    model, checkpoint = load_model(path)
    return Digits(splits, convert(model, checkpoint.input_shape))


def rounded(
    digits: Digits, timesteps: int, *, factors: dict[str, float] | None = None, weight_bits: int = 8, **options: Any
) -> tuple[SpikingNetwork, QuantizedNetwork]:
    """The network in real numbers and in integers; thresholds of the named layers times ``factors``."""
    images = digits.splits.calibration_images()
    spiking = balance(digits.cnn, images, timesteps, **{"method": "percentile", **options})
    layers = []
    for layer in spiking.layers:
        factor = (factors or {}).get(layer.name, 1.0)
        if layer.neuron is not None and factor != 1:
            neuron = layer.neuron
            scaled = IntegrateAndFire(
                factor * neuron.threshold, factor * neuron.amplitude, factor * neuron.initial_potential
            )
            layer = replace(layer, neuron=scaled)
        layers.append(layer)
    spiking = replace(spiking, layers=tuple(layers))
    return spiking, quantize(spiking, images, weight_bits=weight_bits)


def diagnosed(
    digits: Digits, networks: tuple[SpikingNetwork, QuantizedNetwork], *, has_labels: bool = True
) -> Diagnosis:
    """On the test images: nothing is chosen by them here, and there are twice as many."""
    spiking, network = networks
    test = digits.splits.test
    labels = test.known_labels if has_labels else None
    found = diagnose.diagnose(digits.cnn, spiking, network, test.images, labels, network.timesteps)
    # Losses by cause and by layer are each the whole loss, image for image.
    assert sum(stage.lost_images for stage in found.stages) == found.lost_images
    assert sum(layer.lost_images for layer in found.layers) == found.lost_images
    assert sum(stage.changed_images for stage in found.stages) == len(test) - found.stages[-1].agreement_count
    assert found.lost_images == found.newly_wrong - found.newly_right
    return found


EVERY_THRESHOLD = ("conv1", "conv2")


def test_a_good_network_has_nothing_to_mend(digits: Digits) -> None:
    spiking, network = rounded(digits, 16)
    found = diagnosed(digits, (spiking, network))
    assert (found.is_noteworthy, found.main_cause, found.first_layer) == (False, None, None)
    assert advice.verdict(found).startswith("Nothing to mend: the file ")
    assert advice.advice(found, network) == ()
    for layer in found.stages[-1].layers:
        assert layer.correlation is not None
        assert layer.correlation > 0.98


@pytest.mark.parametrize(
    ("spoilt", "cause", "words"),
    [
        (
            {"timesteps": 4, "factors": dict.fromkeys(EVERY_THRESHOLD, 20.0)},
            "levels",
            r"thresholds are 1\d\.\d times the largest activation .* Lower the thresholds: `export --balance auto`",
        ),
        (
            {"timesteps": 16, "weight_bits": 2},
            "weights",
            "The weights were rounded to 2 bits: `export --weight-bits 8`.",
        ),
        (
            {"timesteps": 1, "initial_potential": "zero"},
            "initial_potential",
            "Neurons start at potential 0, .* `export --initial-potential half`",
        ),
        (
            {"timesteps": 16, "factors": dict.fromkeys(EVERY_THRESHOLD, 0.03)},
            "clipping",
            r"\d\d\.\d % of the positive activations are above the threshold.* Raise the thresholds",
        ),
        (
            {"timesteps": 16, "amplitude": "literal", "method": "ngu-lee"},
            "amplitude",
            "`export --amplitude compensated`",
        ),
    ],
    ids=["thresholds 20 times too high", "2-bit weights", "T = 1 from 0", "thresholds too low", "spikes worth 1"],
)
def test_the_right_cause_is_named(digits: Digits, spoilt: dict[str, Any], cause: str, words: str) -> None:
    spiking, network = rounded(digits, **spoilt)
    found = diagnosed(digits, (spiking, network))
    assert found.main_cause == cause
    assert re.search(words, " ".join(advice.advice(found, network)))
    assert f"Main cause: {advice.CAUSES[found.main_cause]} (" in advice.verdict(found)
