"""The CNN's classes computed in bfloat16: those of float32, whatever bfloat16 gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.networks import random_network

from loihi_convert.arrays import Array
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.ir.task import classes_of
from loihi_convert.simulation import cnn_classes
from loihi_convert.simulation.cnn_classes import comparable_scores, corrected, scores_in_bfloat16, suits_bfloat16
from loihi_convert.simulation.relu import cnn_scores

Recomputed = Callable[[], int]


def network_of(outputs: int = 10) -> ReluNetwork:
    """Two random layers, with scores around 0."""
    rng = np.random.default_rng(0)
    conv = ReluLayer("conv", Conv(rng.normal(0, 1, (4, 1, 3, 3)), rng.normal(0, 1, 4)))
    weight = rng.normal(0, 0.1, (outputs, 16))
    without_bias = ReluNetwork((1, 4, 4), (conv, ReluLayer("fc", Dense(weight))))
    means = cnn_scores(without_bias, images_for(without_bias)).mean(axis=0)
    return ReluNetwork((1, 4, 4), (conv, ReluLayer("fc", Dense(weight, -means))), multiply_accumulates=208)


def images_for(network: ReluNetwork, count: int = 1_000) -> Array:
    return np.random.default_rng(1).integers(0, 256, (count, *network.input_shape)).astype(np.uint8)


@pytest.fixture
def recomputed(monkeypatch: pytest.MonkeyPatch) -> Recomputed:
    """The number of images computed in float32 so far."""
    counts = []

    def counted(network: ReluNetwork, images: Array) -> Array:
        counts.append(len(images))
        return cnn_scores(network, images)

    monkeypatch.setattr(cnn_classes, "cnn_scores", counted)
    return lambda: sum(counts)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with fast bfloat16, and work for it."""
    monkeypatch.setattr(cnn_classes, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(cnn_classes, "_LEAST_WORK", 1)


@pytest.mark.parametrize("outputs", [1, 2, 10])
@pytest.mark.parametrize("size", [1e-4, 0.01, 10.0])
def test_classes_are_those_of_float32_whatever_the_errors(outputs: int, size: float) -> None:
    network = network_of(outputs)
    images = images_for(network)
    exact = cnn_scores(network, images)
    wrong = exact + np.random.default_rng(2).uniform(-size, size, exact.shape).astype(np.float32)
    assert np.array_equal(classes_of(corrected(network, images, wrong)), classes_of(exact))
    assert size < 0.01 or not np.array_equal(classes_of(wrong), classes_of(exact))


def test_only_some_images_are_computed_in_float32(recomputed: Recomputed) -> None:
    network = network_of()
    images = images_for(network, 4_000)
    found = corrected(network, images, scores_in_bfloat16(network, images))
    assert np.array_equal(classes_of(found), classes_of(cnn_scores(network, images)))
    assert 256 < recomputed() < 2_000


def test_a_larger_error_found_later_widens_the_margin() -> None:
    """Images that are not compared at first have ten times the error: those whose class is close show it."""
    network = network_of(1)
    images = images_for(network, 2_560)
    exact = cnn_scores(network, images)
    errors = np.full_like(exact, 0.1)
    errors[np.unique(np.linspace(0, len(images) - 1, 256).astype(np.intp))] = 0.01
    errors[exact > 0] *= -1
    assert np.array_equal(classes_of(corrected(network, images, exact + errors)), classes_of(exact))


@pytest.mark.parametrize("outputs", [1, 10])
@pytest.mark.parametrize("is_compared", [True, False])
def test_scores_that_are_not_finite_are_computed_in_float32(outputs: int, is_compared: bool) -> None:
    network = network_of(outputs)
    images = images_for(network)
    exact = cnn_scores(network, images)
    wrong = exact + 0.1
    # The first image is among those that are always compared.
    first = 0 if is_compared else 1
    wrong[first], wrong[first + 4, 0], wrong[first + 8] = np.nan, np.inf, -np.inf
    found = corrected(network, images, wrong)
    assert np.array_equal(found[first : first + 9 : 4], exact[first : first + 9 : 4])
    assert np.array_equal(classes_of(found), classes_of(exact))


@given(seed=st.integers(0, 2**31 - 1), has_ceiling=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_kind_of_layer_has_its_values_but_for_rounding(seed: int, has_ceiling: bool) -> None:
    integers, images = random_network(seed, image_count=70)
    layers = tuple(ReluLayer(layer.name, layer.synapse) for layer in integers.layers)
    if has_ceiling:
        largest = [np.arange(1.0, layer.synapse.channels + 1) * 100 for layer in layers[:-1]]
        clipped = (replace(layer, ceiling=bound) for layer, bound in zip(layers, largest, strict=False))
        layers = (*clipped, layers[-1])
    network = ReluNetwork(integers.input_shape, layers)
    assume(suits_bfloat16(network))
    exact, found = cnn_scores(network, images), scores_in_bfloat16(network, images)
    # A sum whose terms cancel has errors of the size of its terms.
    size = max(float(np.abs(cnn_scores(_absolute(network), images)).max()), 1e-9)
    assert np.abs(found - exact).max() <= 2.0**-6 * size


def _absolute(network: ReluNetwork) -> ReluNetwork:
    """The network with the magnitudes of all weights and biases."""
    layers = []
    for layer in network.layers:
        bias = None if layer.synapse.bias is None else np.abs(layer.synapse.bias)
        synapse = replace(layer.synapse, weight=np.abs(layer.synapse.weight), bias=bias)
        layers.append(replace(layer, synapse=synapse, ceiling=None))
    return ReluNetwork(network.input_shape, tuple(layers))


@pytest.mark.usefixtures("fast")
def test_used_where_it_is_faster(recomputed: Recomputed) -> None:
    network = network_of()
    images = images_for(network, 4_000)
    assert np.array_equal(classes_of(comparable_scores(network, images)), classes_of(cnn_scores(network, images)))
    assert recomputed() < 2_000


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("case", ["regression", "steps", "slow", "small"])
def test_else_the_scores_are_those_of_float32(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of()
    if case == "regression":
        network = replace(network, task="regression")
    elif case == "steps":
        first = replace(network.layers[0], threshold=np.full(4, 2.0), levels=4)
        network = replace(network, layers=(first, network.layers[1]))
    elif case == "slow":
        monkeypatch.setattr(cnn_classes, "has_fast_bfloat16", lambda: False)
    else:
        monkeypatch.setattr(cnn_classes, "_LEAST_WORK", 10**11)
    images = images_for(network)
    assert np.array_equal(comparable_scores(network, images), cnn_scores(network, images))
