"""Relays repeat every spike of their source: in floats and integers, with every method, reset and target."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from support import relay_networks
from support.relay_networks import NETWORKS, images, wrong_spikes

from loihi_convert.conversion.balancing import balance, choose_method, correct_biases
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Method, Reset
from loihi_convert.ir.network import ReluLayer, ReluNetwork, SpikingNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.simulation.layers import Recording
from loihi_convert.simulation.relu import relu_outputs
from loihi_convert.simulation.simulator import Block, Simulator

PER_LAYER: tuple[Method, ...] = ("act-norm", "robust-norm", "spike-norm", "rmp")
WITH_THRESHOLDS: Method = "qcfs"


def spikes_of(network: SpikingNetwork, pixels: Array, timesteps: int) -> list[Array]:
    """bool ``(N, T, *shape)`` of each layer that fires."""
    found = [np.zeros((len(pixels), timesteps, *shape), np.bool_) for shape in network.shapes]

    def take(block: Block) -> None:
        for fired, layer in zip(found, block.layers, strict=True):
            if layer.spikes.size:
                maps = layer.spikes.transpose(0, 1, 4, 2, 3)
                fired[block.images, block.steps] = maps.reshape(*maps.shape[:2], *fired.shape[2:])

    Simulator(network, Recording(spikes=True)).run(pixels, timesteps, take)
    return found


def options_of(method: Method, reset: Reset) -> BalanceOptions | None:
    if method == "rmp" and reset == "hard":
        return None
    return BalanceOptions(method=method, reset=reset, input_coding="constant")


@pytest.mark.parametrize("method", [method for method in get_args(Method) if method != WITH_THRESHOLDS])
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_relays_repeat_every_spike_in_real_numbers(method: Method, reset: Reset) -> None:
    options = options_of(method, reset)
    if options is None:
        return
    for name, network in NETWORKS.items():
        spiking = balance(network, images(), 6, options)
        fired = spikes_of(spiking, images(), 6)
        assert wrong_spikes(network, fired) == 0, name
        assert fired[-2].any()
        for before, layer in zip(spiking.layers, spiking.layers[1:], strict=False):
            if layer.relay_of is None:
                continue
            relays = np.flatnonzero(layer.relay_of >= 0)
            amplitude = before.neuron.amplitude[layer.relay_of[relays]]
            assert np.array_equal(layer.neuron.amplitude[relays], amplitude)
            assert np.array_equal(layer.neuron.threshold[relays], np.where(amplitude > 0, amplitude, np.inf))
            assert not layer.neuron.initial_potential[relays].any()


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_relays_repeat_literal_spikes(reset: Reset) -> None:
    network = NETWORKS["residual"]
    spiking = balance(network, images(), 6, BalanceOptions(method="ngu-lee", amplitude="literal", reset=reset))
    assert wrong_spikes(network, spikes_of(spiking, images(), 6)) == 0
    neuron = spiking.layers[1].neuron
    assert neuron.threshold[5:].tolist() == [1, 1, 1, np.inf]
    assert neuron.amplitude[5:].tolist() == [1, 1, 1, 0]


def test_the_relay_of_a_dead_channel_is_dead() -> None:
    for options in (
        BalanceOptions(method="act-norm-channelwise"),
        BalanceOptions(method="least-squares", reset="hard"),
    ):
        neuron = balance(NETWORKS["residual"], images(), 4, options).layers[1].neuron
        assert (neuron.threshold[8], neuron.amplitude[8], neuron.initial_potential[8]) == (np.inf, 0, 0)


@pytest.mark.parametrize("method", PER_LAYER)
def test_per_layer_methods_ignore_relays(method: Method) -> None:
    """Relayed activations may be far larger than the layer's own; they must not raise its threshold."""
    network = NETWORKS["residual"]
    stem, conv1, *others = network.layers
    # The same layer without its relays has the same threshold.
    weight, bias = conv1.synapse.weight[:5] / 20, conv1.synapse.bias
    small = replace(conv1.synapse, weight=np.concatenate([weight, conv1.synapse.weight[5:]]), bias=bias / 20)
    alone = (stem, ReluLayer("conv1", replace(conv1.synapse, weight=weight, bias=bias[:5] / 20)))
    readout = ReluLayer("fc", Dense(np.ones((2, 5 * 64))))
    plain = balance(ReluNetwork((1, 8, 8), (*alone, readout)), images(), 4, BalanceOptions(method=method))
    with_relays = replace(network, layers=(stem, replace(conv1, synapse=small), *others))
    found, wanted = balance(with_relays, images(), 4, BalanceOptions(method=method)).layers[1].neuron, plain.layers[1]
    assert found.threshold[:5] == pytest.approx(wanted.neuron.threshold)
    assert len(set(found.threshold[:5].tolist())) == 1


@pytest.mark.parametrize("method", ["percentile", "least-squares"])
def test_corrections_do_not_change_relays(method: Method) -> None:
    network = NETWORKS["residual"]
    spiking = balance(network, images(), 4, BalanceOptions(method=method))
    corrected = correct_biases(network, spiking, images())
    before, after = spiking.layers[1], corrected.layers[1]
    assert after.correction[:5].all()
    assert not after.correction[5:].any()
    assert not after.neuron.initial_potential[5:].any()
    assert np.array_equal(after.neuron.threshold, before.neuron.threshold)
    assert wrong_spikes(network, spikes_of(corrected, images(), 4)) == 0


def test_auto_balances_a_network_with_relays() -> None:
    network = NETWORKS["strided"]
    best, *_ = choose_method(network, images(60), 4)
    assert best.method != "qcfs"
    assert wrong_spikes(network, spikes_of(balance(network, images(60), 4), images(), 4)) == 0


def clipped_chain(ceiling: list[float]) -> ReluNetwork:
    """Pixel -> x, 3 x and x / 2, each clipped at a ceiling -> their sum."""
    layers = (
        ReluLayer("fc1", Dense(np.array([[1.0], [3.0], [0.5]])), ceiling=np.array(ceiling)),
        ReluLayer("fc2", Dense(np.ones((1, 3)))),
    )
    return ReluNetwork((1, 1, 1), layers)


def pixels(*values: int) -> Array:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def test_activations_are_clipped_at_the_ceiling() -> None:
    (outputs,) = relu_outputs(clipped_chain([0.25, 2.0, np.inf]), pixels(0, 51, 255))
    assert outputs[0].numpy() == pytest.approx(np.array([[0, 0, 0], [0.2, 0.6, 0.1], [0.25, 2, 0.5]]))


@pytest.mark.parametrize("method", ["ngu-lee", "act-norm-channelwise", "percentile", "least-squares"])
def test_thresholds_are_at_most_the_ceiling(method: Method) -> None:
    spiking = balance(clipped_chain([0.25, 2.0, np.inf]), pixels(0, 51, 255), 16, BalanceOptions(method=method))
    neuron = spiking.layers[0].neuron
    assert (neuron.threshold <= [0.25, 2.0, 0.56]).all()
    assert neuron.threshold[0] > 0.2


def test_a_threshold_at_the_ceiling_clips_exactly() -> None:
    """Pixel 1.0 gives 3, clipped at 2: the channel fires at every step and never more."""
    spiking = balance(clipped_chain([np.inf, 2.0, np.inf]), pixels(255), 8, BalanceOptions(method="ngu-lee"))
    assert spiking.layers[0].neuron.threshold == pytest.approx([1, 2, 0.5])
    assert spikes_of(spiking, pixels(255), 8)[0].all()


def mixed(thresholds: list[float]) -> ReluNetwork:
    """Pixel -> x and 3 x, with learned thresholds or NaN -> the same and a relay of the second -> their sum."""
    layers = (
        ReluLayer("fc1", Dense(np.array([[1.0], [3.0]])), np.array(thresholds), 4),
        ReluLayer("fc2", Dense(np.array([[1.0, 1.0], [0.0, 1.0]])), relay_of=np.array([-1, 1])),
        ReluLayer("fc3", Dense(np.array([[1.0, 1.0]]))),
    )
    return ReluNetwork((1, 1, 1), layers)


def test_a_channel_whose_threshold_is_nan_has_plain_relu() -> None:
    """With four levels up to 0.8, 0.2 and 1.0 become 0.2 and 0.8; 3 x 0.2 and 3 x 1.0 do not change."""
    (outputs,) = relu_outputs(mixed([0.8, np.nan]), pixels(51, 255))
    assert outputs[0].numpy() == pytest.approx(np.array([[0.2, 0.6], [0.8, 3.0]]))


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_qcfs_takes_learned_thresholds_and_fits_the_others(reset: Reset) -> None:
    network, calibration = mixed([0.8, np.nan]), pixels(51, 153, 255)
    for steps in (2, 16):
        spiking, other = (
            balance(network, calibration, steps, BalanceOptions(method=method, reset=reset))
            for method in ("qcfs", "least-squares")
        )
        first, second = spiking.layers[0].neuron, spiking.layers[1].neuron
        least_squares = other.layers[0].neuron
        assert first.threshold[0] == 0.8
        assert first.amplitude[0] == 0.8
        assert (first.threshold[1], first.amplitude[1]) == (least_squares.threshold[1], least_squares.amplitude[1])
        assert second.threshold[1] == second.amplitude[1] == first.amplitude[1]
        assert np.isfinite(second.threshold).all()


def test_a_relay_needs_no_learned_threshold() -> None:
    """All other channels have one, so nothing is fitted."""
    network = mixed([0.8, 1.5])
    first, second, last = network.layers
    learned = replace(network, layers=(first, replace(second, threshold=np.array([2.0, np.nan]), levels=4), last))
    for layer, thresholds in zip(
        balance(learned, pixels(255), 4, BalanceOptions(method="qcfs")).layers, ([0.8, 1.5], [2.0, 1.5]), strict=False
    ):
        assert layer.neuron.threshold.tolist() == thresholds


def test_qcfs_is_refused_where_no_channel_has_a_threshold() -> None:
    network = mixed([np.nan, np.nan])
    with pytest.raises(UsageError) as caught:
        balance(network, pixels(255), 4, BalanceOptions(method="qcfs"))
    assert caught.value.where == "method"
    assert "qcfs" not in [trial.method for trial in choose_method(network, pixels(255, 51), 4)]
    assert "qcfs" in [trial.method for trial in choose_method(mixed([0.8, np.nan]), pixels(255, 51), 4)]


def test_copies_of_a_relay_share_the_skip() -> None:
    """Two relays of weight 1/2 give the next layer the same input as one of weight 1."""
    once, twice = (relay_networks.residual(copies) for copies in (1, 2))
    outputs = [
        np.concatenate([found[-1].numpy() for found in relu_outputs(network, images())]) for network in (once, twice)
    ]
    assert np.allclose(outputs[0], outputs[1], atol=1e-5)
