"""Integrate-and-fire dynamics: traces derived by hand, closed forms, and integers against the int64 oracle."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import random_network

from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import first_difference
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import IntegrateAndFire, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation import image_shards, simulator
from loihi_convert.simulation.simulator import Block, last_outputs, outputs


def single_neuron(
    weight: int, threshold: int, *, bias: int = 0, initial: int = 0, reset: Reset = "soft"
) -> QuantizedNetwork:
    """One pixel -> one neuron -> one output that counts its spikes."""
    neuron = IntegerNeuron(np.array([threshold]), np.array([initial]))
    hidden = Dense(np.array([[weight]], np.int32), np.array([bias], np.int32))
    layers = (
        QuantizedLayer("hidden", hidden, neuron, np.ones(1), 255),
        QuantizedLayer("output", Dense(np.array([[1]], np.int32)), None, np.ones(1)),
    )
    return QuantizedNetwork((1, 1, 1), layers, timesteps=8, max_timesteps=100, pixel_bits=8, reset=reset)


def trace(network: QuantizedNetwork, pixel: int, timesteps: int) -> tuple[list[int], list[int], list[int]]:
    """Spikes and potentials of the neuron, potentials of the output."""
    run = run_network(network, np.array([[[[pixel]]]], np.uint8), timesteps, trace=True)
    traces = (run.traces[0].spikes, run.traces[0].potentials, run.traces[1].potentials)
    spikes, potentials, outputs = (trace.astype(int).ravel().tolist() for trace in traces)
    return spikes, potentials, outputs


@pytest.mark.parametrize(
    ("network", "pixel", "spikes", "potentials"),
    [
        # I = 3 x 2 = 6, threshold 10: V = 6; 12 -> 2; 8; 14 -> 4; 10 -> 0 (V = threshold fires).
        (single_neuron(3, 10), 2, [0, 1, 0, 1, 1], [6, 2, 8, 4, 0]),
        # The same with hard reset: V = 6; 12 -> 0; 6; 12 -> 0; 6.
        (single_neuron(3, 10, reset="hard"), 2, [0, 1, 0, 1, 0], [6, 0, 6, 0, 6]),
        # V0 = 5: 11 -> 1; 7; 13 -> 3; 9; 15 -> 5.
        (single_neuron(3, 10, initial=5), 2, [1, 0, 1, 0, 1], [1, 7, 3, 9, 5]),
        # I = 25 > threshold: one spike per step, the remainder accumulates: 15, 30, 45, ...
        (single_neuron(5, 10), 5, [1, 1, 1, 1, 1], [15, 30, 45, 60, 75]),
        # The bias is added at every step: I = 0 + 4.
        (single_neuron(0, 10, bias=4), 9, [0, 0, 1, 0, 1], [4, 8, 2, 6, 0]),
        # With negative currents V is clipped at -131071: 127 x 255 = 32385, 4 x 32385 = 129540.
        (single_neuron(-127, 10), 255, [0, 0, 0, 0, 0], [-32385, -64770, -97155, -129540, -131071]),
        # Upwards: 97155 per step (32385 + bias 64770), threshold 1: V reaches the limit in the third step.
        (single_neuron(127, 1, bias=64770), 255, [1, 1, 1, 1, 1], [97154, 131070, 131070, 131070, 131070]),
        # Threshold 131072 is above the limit, so a dead channel never fires.
        (single_neuron(127, 131072), 255, [0, 0, 0, 0, 0], [32385, 64770, 97155, 129540, 131071]),
    ],
)
def test_hand_traces(network: QuantizedNetwork, pixel: int, spikes: list[int], potentials: list[int]) -> None:
    found = trace(network, pixel, 5)
    assert found == (spikes, potentials, np.cumsum(spikes).tolist())


@given(
    pixel=st.integers(0, 255), weight=st.integers(0, 127), threshold=st.integers(1, 65535), half=st.booleans(),
    timesteps=st.integers(1, 40),
)  # fmt: skip
def test_constant_current_has_a_closed_form(
    pixel: int, weight: int, threshold: int, half: bool, timesteps: int
) -> None:
    """N(t) = min(t, floor((V0 + t I) / threshold)) without clipping: at most one spike per step, none lost."""
    current, initial = pixel * weight, threshold // 2 if half else 0
    if initial + timesteps * current > 131071:
        timesteps = max(1, (131071 - initial) // max(current, 1))
    _, _, counts = trace(single_neuron(weight, threshold, initial=initial), pixel, timesteps)
    expected = []
    for step in range(1, timesteps + 1):
        due = (initial + step * current) // threshold
        # A neuron whose current exceeds the threshold lags behind, and fires at every step from then on.
        expected.append(min(due, (expected[-1] if expected else 0) + 1))
    assert counts == expected


@given(
    activation=st.floats(-1, 1), ratio=st.floats(1, 3), timesteps=st.integers(1, 64), half=st.booleans()
)  # fmt: skip
@settings(deadline=None)
def test_rate_times_threshold_approximates_relu(activation: float, ratio: float, timesteps: int, half: bool) -> None:
    """|amplitude x spikes / T - relu(I)| <= threshold / T (V0 = 0) or threshold / 2T (V0 = threshold / 2)."""
    threshold = max(abs(activation), 0.01) * ratio
    neuron = IntegrateAndFire(
        np.array([threshold]), np.array([threshold]), np.array([threshold / 2 if half else 0.0])
    )  # fmt: skip
    layers = (
        SpikingLayer("hidden", Dense(np.array([[activation]])), neuron),
        SpikingLayer("output", Dense(np.array([[1.0]])), None),
    )
    network = SpikingNetwork((1, 1, 1), layers, timesteps, "soft")
    potentials = outputs(network, np.full((1, 1, 1, 1), 255, np.uint8), timesteps)
    error = abs(float(potentials[0, -1, 0]) / timesteps - max(activation, 0.0))
    rounding = 1e-4
    assert error <= threshold * (0.5 if half else 1.0) / timesteps + rounding


def test_a_channel_with_an_infinite_threshold_never_fires() -> None:
    neuron = IntegrateAndFire(np.array([np.inf]), np.zeros(1), np.zeros(1))
    layers = (
        SpikingLayer("hidden", Dense(np.array([[1.0]])), neuron),
        SpikingLayer("output", Dense(np.array([[1.0]])), None),
    )
    network = SpikingNetwork((1, 1, 1), layers, 4, "soft")
    potentials = outputs(network, np.full((1, 1, 1, 1), 255, np.uint8), 4)
    assert potentials.ravel().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("moments", [2**22, 1000, 1])
@pytest.mark.parametrize("cores", [1, 3])
def test_the_block_size_does_not_change_results(monkeypatch: pytest.MonkeyPatch, moments: int, cores: int) -> None:
    """Blocks of many or single images and steps, any number of threads; torch's own number of threads is restored."""
    network, images = random_network(7, image_count=9)
    expected = run_network(network, images, 6, trace=True)
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", moments)
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        found = run_network(network, images, 6, trace=True)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert first_difference(found, expected) is None


def test_an_error_in_one_thread_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = random_network(7, image_count=9)
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", 1)
    taken: list[Block] = []

    def take(block: Block) -> None:
        taken.append(block)
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        simulator.Simulator(network).run(images, 6, take)
    assert len(taken) <= before
    assert torch.get_num_threads() == before


def test_large_images_are_taken_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the number of images, also if the image is larger than any layer."""
    seen = []

    def block_size(device: str, largest: int, images: int, steps: int) -> tuple[int, int]:
        seen.append(largest)
        return 2, steps

    monkeypatch.setattr("loihi_convert.simulation.simulator.block_size", block_size)
    layer = QuantizedLayer("fc", Dense(np.ones((2, 3 * 40 * 50), np.int32)), None, np.ones(2), 1)
    network = QuantizedNetwork((3, 40, 50), (layer,), 1, 1, pixel_bits=1, reset="soft")
    run_network(network, np.zeros((5, 3, 40, 50), np.uint8), 1)
    assert seen == [3 * 40 * 50]


def test_threads_that_simulate_at_once_use_all_cores() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with image_shards.ONE_THREAD:
        assert torch.get_num_threads() == 1
        found: list[int] = []
        other = threading.Thread(
            target=lambda: image_shards.on_cores("cpu", lambda _: found.append(image_shards.ONE_THREAD.cores), 1, 1)
        )
        other.start()
        other.join()
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (found, after) == ([3], 3)


@pytest.mark.parametrize("seed", range(6))
def test_the_last_outputs_are_those_of_all_steps(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    network, images = random_network(seed)
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", 1)
    steps = network.timesteps
    assert np.array_equal(last_outputs(network, images, steps), outputs(network, images, steps)[:, -1])


def test_weights_of_eight_bits_give_what_those_of_32_give() -> None:
    rng = np.random.default_rng(0)

    def network(dtype: type[np.signedinteger[Any]]) -> QuantizedNetwork:
        weights = [np.random.default_rng(1).integers(-9, 10, shape) for shape in ((8, 3, 3, 3), (8, 8, 3, 3), (5, 512))]
        neuron = IntegerNeuron(np.full(8, 99), np.zeros(8, np.int64))
        first, second, last = (weight.astype(dtype) for weight in weights)
        layers = (
            QuantizedLayer("first", Conv(first), neuron, np.ones(8), 255),
            QuantizedLayer("second", Conv(second), neuron, np.ones(8)),
            QuantizedLayer("last", Dense(last), None, np.ones(5)),
        )
        return QuantizedNetwork((3, 12, 12), layers, 4, 4, 8, "soft")

    images = rng.integers(0, 256, (4, 3, 12, 12), np.uint8)
    found = [run_network(network(dtype), images, 4).potentials for dtype in (np.int8, np.int32)]
    assert found[0].any()
    assert np.array_equal(*found)
