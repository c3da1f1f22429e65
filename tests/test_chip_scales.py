"""Target loihi2: bounds of u against every possible input, scales that satisfy them, grids, and their cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_balance import random_cnn
from test_quantize import digits_like

from loihi_convert.backends.reference import run_network
from loihi_convert.chip import limits
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.flow import report_quantization
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.scales import is_proven, potential_bounds, snap_to_chip_grid
from loihi_convert.errors import RangeError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.neuron_model import NeuronModel, circuit
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation.simulator import clipped_images


def layer_of(weights: Array, bias: int, threshold: int, initial: int) -> QuantizedLayer:
    neuron = IntegerNeuron(np.array([threshold]), np.array([initial]))
    return QuantizedLayer("hidden", Dense(weights[None], np.array([bias])), neuron, np.ones(1))


@given(
    weights=st.lists(st.integers(-20, 20), min_size=1, max_size=3), bias=st.integers(-15, 15),
    threshold=st.integers(1, 40), share=st.floats(0, 0.999), timesteps=st.integers(1, 4), is_constant=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_no_input_leaves_the_bounds(
    weights: list[int], bias: int, threshold: int, share: float, timesteps: int, is_constant: bool
) -> None:
    """All sequences of all spikes, or all images of pixels 0 and 1: u and V before each reset."""
    initial = int(threshold * share)
    layer = layer_of(np.array(weights), bias, threshold, initial)
    (low,), (high,) = potential_bounds(layer, timesteps, is_constant=is_constant)
    currents = np.array(list(itertools.product([0, 1], repeat=len(weights)))) @ weights + bias
    sequences = (
        np.repeat(currents[:, None], timesteps, axis=1)
        if is_constant
        else np.array(list(itertools.product(currents, repeat=timesteps)))
    )
    u, fired = np.zeros(len(sequences), int), np.zeros(len(sequences), int)
    lowest, highest = 0, -(2**30)
    for step in range(timesteps):
        u = u - threshold * fired + sequences[:, step]
        fired = (u > threshold - initial - 1).astype(int)
        lowest, highest = min(lowest, int(u.min())), max(highest, int(u.max()) + initial)
    assert low <= lowest
    assert highest <= high
    # Where nothing has fired before, the bounds are met.
    if low == timesteps * currents.min():
        assert lowest == low
    if timesteps == 1:
        assert highest == high


def test_bounds_by_hand() -> None:
    """Weights 30 and -10, theta = 20, V0 = 5, T = 4: I is -10..30.

    Pixels: u >= 4 x -10. Spikes: after a spike V >= 0, u >= -5, then 3 x -10 more: -35, which is above -40.
    V <= 19 + 30 + 2 x (30 - 20) = 69, or 5 + 30 + 3 x 10 = 65.
    """
    layer = layer_of(np.array([30, -10]), 0, 20, 5)
    for is_constant in (True, False):
        low, high = potential_bounds(layer, 4, is_constant=is_constant)
        assert (low.item(), high.item()) == (-40, 69)
    low, _ = potential_bounds(layer_of(np.array([30, -10]), 0, 20, 15), 4, is_constant=False)
    assert low.item() == -15 - 30


def attacks(network: QuantizedNetwork) -> Array:
    """All white, all black, noise, and for each channel white on its negative, and on its positive weights alone."""
    rng = np.random.default_rng(0)
    shape, synapse = network.input_shape, network.layers[0].synapse
    images = [np.zeros(shape), np.ones(shape), *rng.integers(0, 2, (6, *shape))]
    for sign, kernel in itertools.product((-1, 1), np.sign(synapse.weight)):
        image = np.zeros(shape)
        if isinstance(synapse, Conv):
            taps = (kernel == sign).repeat(synapse.pool[0], axis=1).repeat(synapse.pool[1], axis=2)
            patch = image[:, : taps.shape[1], : taps.shape[2]]
            patch[:] = taps[:, : patch.shape[1], : patch.shape[2]]
        else:
            image[:] = (kernel == sign).reshape(shape)
        images.append(image)
    return (255 * np.array(images)).astype(np.uint8)


@given(seed=st.integers(0, 1000), timesteps=st.sampled_from([1, 4, 16, 64]), pixel_bits=st.sampled_from([None, 8, 3]),
       is_dense=st.booleans(), poisson=st.booleans())  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_no_image_wraps_the_first_layer(
    seed: int, timesteps: int, pixel_bits: int | None, is_dense: bool, poisson: bool
) -> None:
    cnn = random_cnn(seed)
    if is_dense:
        rng = np.random.default_rng(seed)
        layers = (
            ReluLayer("fc1", Dense(rng.normal(size=(6, 64)), rng.normal(size=6))),
            ReluLayer("fc2", Dense(rng.normal(size=(3, 6)))),
        )
        cnn = ReluNetwork((1, 8, 8), layers)
    spiking = balance(
        cnn, digits_like(seed), timesteps, BalanceOptions(method="ngu-lee", poisson_seed=seed if poisson else None)
    )
    network = quantize(
        spiking, digits_like(seed), QuantizeOptions(pixel_bits=None if poisson else pixel_bits, target="loihi2")
    )
    assert network.target == "loihi2"
    assert network.max_timesteps == timesteps
    found = clipped_images(network, attacks(network), timesteps)
    assert found[0].tolist() == [0, 0, 0]
    # The later layers, on the inputs their scales were chosen for.
    costs = report_quantization(network, spiking, digits_like(seed))
    assert costs.layers[0].is_proven
    assert all(layer.low_clipped == layer.high_clipped == 0 for layer in costs.layers)
    for layer in network.layers[:-1]:
        circuit(layer)


def test_attacks_wrap_what_is_not_proven() -> None:
    """The same weights four times as large: an image of the attacks wraps them, and the bounds say that one may."""
    spiking = balance(random_cnn(3), digits_like(3), 64, BalanceOptions(method="ngu-lee"))
    network = quantize(spiking, digits_like(3), QuantizeOptions(target="loihi2"))
    first = network.layers[0]
    louder = replace(first, synapse=replace(first.synapse, weight=np.clip(4 * first.weight, -127, 127)))
    loud = replace(network, layers=(louder, *network.layers[1:]))
    assert not is_proven(louder, 64, is_constant=True)
    assert clipped_images(loud, attacks(network), 64)[0].any()
    assert run_network(loud, attacks(network), 64).wrapped_images


def test_the_proof_is_no_tighter_than_it_must_be() -> None:
    """8-bit white takes 255 a step and unit of a negative weight, so T = 64 leaves 131071 / 64 / 255 = 8.03 units."""
    neuron = IntegrateAndFire(np.array([1.0]), np.array([1.0]), np.zeros(1))
    layers = (
        SpikingLayer("hidden", Dense(np.array([[1.0, -8.0]])), neuron),
        SpikingLayer("output", Dense(np.array([[1.0]])), None),
    )
    images = np.array([[255, 0]], np.uint8).reshape(1, 2, 1, 1)
    network = quantize(
        SpikingNetwork((2, 1, 1), layers, 64, "soft"), images, QuantizeOptions(pixel_bits=8, target="loihi2")
    )
    assert network.layers[0].weight.tolist() == [[1, -8]]


def test_few_pixel_bits_where_many_steps_leave_no_weights() -> None:
    rng = np.random.default_rng(0)
    layers = (
        ReluLayer("conv", Conv(rng.normal(size=(2, 1, 5, 5)))),
        ReluLayer("fc", Dense(np.array([[1.0, -1.0], [-1.0, 1.0]]))),
    )
    images = rng.integers(0, 256, (50, 1, 5, 5)).astype(np.uint8)
    bits = []
    for timesteps in (1, 8, 64):
        spiking = balance(ReluNetwork((1, 5, 5), layers), images, timesteps, BalanceOptions(method="ngu-lee"))
        bits.append(quantize(spiking, images, QuantizeOptions(target="loihi2")).pixel_bits)
    assert bits[0] > bits[1] > bits[2]


@pytest.mark.parametrize(("count", "timesteps"), [(1, 2048), (2048, 1)])
def test_no_weights_left_is_an_error(count: int, timesteps: int) -> None:
    """At T = 2048 a single black weight of 1 and 8-bit white is 255 x 2048 = 522240 below 0, or at T = 1 2048 such."""
    neuron = IntegrateAndFire(np.array([1.0]), np.array([1.0]), np.zeros(1))
    layers = (
        SpikingLayer("hidden", Dense(np.array([[1.0, *[-1.0] * count]])), neuron),
        SpikingLayer("output", Dense(np.array([[1.0]])), None),
    )
    images = np.array([[255, *[0] * count]], np.uint8).reshape(1, -1, 1, 1)
    spiking = SpikingNetwork((1 + count, 1, 1), layers, timesteps, "soft")
    with pytest.raises(RangeError) as raised:
        quantize(spiking, images, QuantizeOptions(pixel_bits=8, target="loihi2"))
    assert (raised.value.where, raised.value.found.endswith(f"at T = {timesteps}")) == ("hidden", True)
    assert "`pixel_bits`" in raised.value.hint
    # 5 bits: 31 x 2048 = 63488, and two units fit.
    assert np.abs(quantize(spiking, images, QuantizeOptions(pixel_bits=5, target="loihi2")).layers[0].weight).max() == 2


def test_onto_the_grids_by_hand() -> None:
    """Thresholds up to 1000 need 2^2: 1000 = 250 x 4, 13 -> 12, 1 -> 4 (m is at least 1); V0 their half.

    Biases up to 300 need 2^2: -300 = -75 x 4, 5 -> 4.
    """
    threshold = np.array([1000, 13, 1, limits.NEVER_FIRES])
    real = IntegrateAndFire(np.array([1000.0, 13.2, 1.3, np.inf]), np.ones(4), np.array([500.0, 6.6, 0.65, 0.0]))
    neuron = IntegerNeuron(threshold, threshold // 2)
    synapse = Dense(np.array([[1], [1], [1], [0]]), np.array([-300, 5, 0, 0]))
    found = snap_to_chip_grid(QuantizedLayer("hidden", synapse, neuron, np.ones(4), balanced=real))
    assert found.threshold.tolist() == [1000, 12, 4, limits.NEVER_FIRES]
    assert found.initial_potential.tolist() == [500, 6, 2, 0]
    assert found.bias.tolist() == [-300, 4, 0, 0]


def test_levels_far_apart_become_all_odd_by_hand() -> None:
    """Thresholds 101 x 2^7 and 2^7 with V0 101 and 0: levels 12826 and 127 are beyond 8191 apart, so only every second
    one is possible. With V0 100 both are odd."""
    threshold = np.array([12_928, 128])
    real = IntegrateAndFire(threshold.astype(float), np.ones(2), np.array([101.0, 0.0]))
    layer = QuantizedLayer(
        "hidden", Dense(np.ones((2, 1), int)), IntegerNeuron(threshold, np.array([101, 0])), np.ones(2), balanced=real
    )
    found = snap_to_chip_grid(layer)
    assert (found.threshold.tolist(), found.initial_potential.tolist()) == ([12_928, 128], [100, 0])


def test_levels_of_a_layer_are_brought_together() -> None:
    """Thresholds 30000 and 100 units: levels 29900 apart, of which 16382 are possible. The larger one gives way."""
    threshold = np.array([30000.0, 100.0])
    layers = (
        SpikingLayer("hidden", Dense(np.eye(2) * 127), IntegrateAndFire(threshold, threshold, np.zeros(2))),
        SpikingLayer("output", Dense(np.array([[1.0, 1.0]])), None),
    )
    images = np.full((1, 2, 1, 1), 255, np.uint8)
    network = quantize(
        SpikingNetwork((2, 1, 1), layers, 2, "soft"), images, QuantizeOptions(pixel_bits=1, target="loihi2")
    )
    first = network.layers[0]
    large, small = first.threshold.tolist()
    assert small == 128
    assert 0.99 * 16382 < large - small <= 16382
    assert first.threshold * first.scale == pytest.approx(threshold, rel=0.3)
    # 127 units of weight became fewer by as much.
    assert first.weight[0, 0] == pytest.approx(127 * large / 30000, abs=1)


def test_account_says_what_the_grid_changed() -> None:
    """Thresholds 1000 and 13.2 units: the grid of 2^2 rounds the latter to 12, which is 9 % less."""
    threshold = np.array([1000.0, 13.2])
    layers = (
        SpikingLayer("hidden", Dense(np.eye(2) * 127), IntegrateAndFire(threshold, threshold, np.zeros(2))),
        SpikingLayer("output", Dense(np.array([[1.0, 1.0]])), None),
    )
    spiking = SpikingNetwork((2, 1, 1), layers, 2, "soft")
    images = np.full((1, 2, 1, 1), 255, np.uint8)
    costs = report_quantization(
        quantize(spiking, images, QuantizeOptions(pixel_bits=1, target="loihi2")), spiking, images
    )
    assert costs.layers[0].threshold_error == pytest.approx(1.2 / 13.2)
    assert costs.layers[1].threshold_error == 0
    assert [layer.is_proven for layer in costs.layers] == [True, True]
    plain = report_quantization(quantize(spiking, images), spiking, images)
    assert [layer.is_proven for layer in plain.layers] == [None, None]


def test_hard_reset_is_refused() -> None:
    spiking = balance(random_cnn(0), digits_like(0), 4, BalanceOptions(method="ngu-lee", reset="hard"))
    with pytest.raises(UsageError) as raised:
        quantize(spiking, digits_like(0), QuantizeOptions(target="loihi2"))
    assert raised.value.where == "target"
    assert "hard reset" in raised.value.found


@pytest.mark.parametrize("share", [0.5, 0.75, 0.95])
def test_the_circuits_potential_has_headroom_below_its_first_one(share: float) -> None:
    """300 spikes a step with small negative weights: V falls from V0 far below 0, and the circuit's u is V - V0."""
    ones = np.ones(300)
    first = SpikingLayer("first", Dense(np.ones((300, 1))), IntegrateAndFire(ones, ones, 0 * ones))
    both = IntegrateAndFire(np.ones(2), np.ones(2), np.full(2, share))
    last = SpikingLayer("last", Dense(np.eye(2)), None)
    images = np.array([255, 0], np.uint8).reshape(2, 1, 1, 1)
    for weight in np.linspace(6e-4, 1.3e-3, 15):
        second = SpikingLayer("second", Dense(np.vstack([np.full(300, -weight), np.full(300, 5e-4)])), both)
        spiking = SpikingNetwork((1, 1, 1), (first, second, last), 16, "soft")
        network = quantize(spiking, images, QuantizeOptions(target="loihi2"))
        done, soft = (run_network(network, images, 16, neuron=neuron) for neuron in (None, NeuronModel.SOFT))
        assert done.wrapped_images == 0
        assert np.array_equal(done.spike_counts, soft.spike_counts)
