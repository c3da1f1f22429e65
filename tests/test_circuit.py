"""Soft reset from stock processes: its integers, and `ref` as Lava's LIF computes them, wraps and leak included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.networks import random_loihi2_network, random_network
from support.strategies import Case, loihi2_networks

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.loihi2.board import Board
from loihi_convert.backends.reference import run_network
from loihi_convert.chip import limits
from loihi_convert.errors import RangeError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel, circuit, neuron_model
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation import image_shards

TIMESTEPS = 6
CIRCUITS = {False: NeuronModel.CIRCUIT, True: NeuronModel.LEAKY_CIRCUIT}


@given(case=loihi2_networks(), leaks=st.booleans())
@settings(max_examples=15, deadline=None)
def test_ref_equals_the_oracle(case: Case, leaks: bool) -> None:
    network, images = case
    result = run_network(network, images, TIMESTEPS, trace=True, neuron=CIRCUITS[leaks])
    oracle.assert_equal(network, images, result, TIMESTEPS, is_stock=True, leaks=leaks)


@given(loihi2_networks())
@settings(max_examples=15, deadline=None)
def test_the_circuit_is_a_soft_reset_neuron_until_it_wraps(case: Case) -> None:
    """Every spike and potential of the neurons that the file says; which clip beyond 131071, where u + V0 does not."""
    network, images = case
    own = run_network(network, images, TIMESTEPS, trace=True, neuron=NeuronModel.SOFT)
    stock = run_network(network, images, TIMESTEPS, trace=True, neuron=NeuronModel.CIRCUIT)
    assert own.wrapped_images is None
    clips = any((np.abs(trace.potentials) >= limits.POTENTIAL_LIMIT - 2**15).any() for trace in own.traces)
    if not stock.wrapped_images and not clips:
        assert all(np.array_equal(a.potentials, b.potentials) for a, b in zip(own.traces, stock.traces, strict=True))
        oracle.assert_equal(network, images, own, TIMESTEPS)


def test_random_networks_are_worth_comparing() -> None:
    """Some wrap, most do not; every exponent occurs; both level spans occur; some biases are negative."""
    networks = [random_loihi2_network(seed) for seed in range(300)]
    circuits = [circuit(layer) for network, _ in networks for layer in network.layers if layer.neuron is not None]
    wrapped = [run_network(network, images, TIMESTEPS).wrapped_images for network, images in networks[:40]]
    assert 5 < np.count_nonzero(wrapped) < 35
    assert {found.bias_exp for found in circuits} == {6, 7}
    assert {found.self_weight_exp for found in circuits} == set(range(8))
    assert min(int(found.bias_mant.min()) for found in circuits) < 0
    assert any(found.source_mant is not None and found.source_exp > 0 for found in circuits)
    assert any(network.poisson_seed is not None for network, _ in networks)


@given(loihi2_networks())
@settings(max_examples=25, deadline=None)
def test_the_integers_of_the_circuit(case: Case) -> None:
    """Within their bits they are what they stand for; a channel that never fires subtracts nothing, and cannot fire."""
    for layer in case[0].layers:
        found = circuit(layer)
        if layer.bias is not None:
            assert found.source_mant is not None
            assert np.abs(found.source_mant).max() <= 127
            assert np.array_equal(found.source_mant << found.source_exp, layer.bias)
        assert found.bias_mant.min() >= -4096
        assert found.bias_mant.max() <= 4095
        assert 0 <= found.vth <= 131071
        if layer.neuron is not None:
            alive = layer.neuron.threshold < limits.NEVER_FIRES
            levels = layer.neuron.threshold - layer.neuron.initial_potential - 1
            assert found.self_weight_mant.max() <= 255
            assert np.array_equal((found.self_weight_mant << found.self_weight_exp)[alive], layer.threshold[alive])
            assert np.array_equal((found.vth - (found.bias_mant << found.bias_exp - 6))[alive], levels[alive])
            assert not found.self_weight_mant[~alive].any()
            assert (found.bias_mant[~alive] <= 0).all()


def white_pixel(*weights: int, threshold: int, initial: int, bias: int | None = None) -> QuantizedNetwork:
    """Pixels of one bit -> one neuron -> one output of weight 1."""
    biases = None if bias is None else np.array([bias])
    neuron = IntegerNeuron(np.array([threshold]), np.array([initial]))
    layers = (
        QuantizedLayer("hidden", Dense(np.array([weights]), biases), neuron, np.ones(1)),
        QuantizedLayer("output", Dense(np.array([[1]])), None, np.ones(1)),
    )
    return QuantizedNetwork((len(weights), 1, 1), layers, 6, 6, 1, "soft", target="loihi2")


def white(count: int) -> Array:
    return np.full((1, count, 1, 1), 255, np.uint8)


def test_biases_of_distant_levels_start_at_the_largest_by_hand() -> None:
    """Levels 0 and 5119 (threshold - V0 - 1): biases of 13 bits end at 4095 and -4096, so vth is 4095."""
    neuron = IntegerNeuron(np.array([5120, 5120], np.int32), np.array([5119, 0], np.int32))
    found = circuit(QuantizedLayer("fc", Dense(np.ones((2, 1), np.int32)), neuron, np.ones(2)))
    assert (found.vth, found.bias_exp, found.bias_mant.tolist()) == (4095, 6, [4095, -1024])
    assert [self_weight << found.self_weight_exp for self_weight in found.self_weight_mant] == [5120, 5120]


def test_six_steps_by_hand() -> None:
    """Weight 3, bias 2 (I = 5), theta = 8, V0 = 4: u must exceed 8 - 4 - 1 = 3.

    ==  =============  =  =====================
    t   u              s  V = 4 + u - 8 s
    ==  =============  =  =====================
    1   0 + 5     = 5  1  1    (own: 4 + 5 - 8)
    2   5 - 8 + 5 = 2  0  6
    3   2 + 5     = 7  1  3
    4   7 - 8 + 5 = 4  1  0
    5   4 - 8 + 5 = 1  0  5
    6   1 + 5     = 6  1  2
    ==  =============  =  =====================
    """
    network = white_pixel(3, threshold=8, initial=4, bias=2)
    for neuron in (NeuronModel.CIRCUIT, NeuronModel.SOFT):
        hidden, output = run_network(network, white(1), 6, trace=True, neuron=neuron).traces
        assert hidden.spikes is not None
        assert hidden.spikes.ravel().tolist() == [1, 0, 1, 1, 0, 1]
        assert hidden.potentials.ravel().tolist() == [1, 6, 3, 0, 5, 2]
        assert output.potentials.ravel().tolist() == [1, 1, 2, 3, 3, 4]


def test_u_wraps_by_hand() -> None:
    """I = -100 x 400 = -40000: u falls to -40000, -80000, -120000, then -160000 + 262144 = 102144 > 7: it fires.

    Then 102144 - 8 - 40000 = 62136, and 62136 - 8 - 40000 = 22128; SoftResetIF would stay at -131071.
    """
    network = white_pixel(*[-100] * 400, threshold=8, initial=0)
    result = run_network(network, white(400), 6, trace=True)
    hidden = result.traces[0]
    assert hidden.spikes is not None
    assert hidden.spikes.ravel().tolist() == [0, 0, 0, 1, 1, 1]
    assert hidden.potentials.ravel().tolist() == [-40000, -80000, -120000, 102136, 62128, 22120]
    assert result.wrapped_images == 1
    assert run_network(network, white(400), 3).wrapped_images == 0


@pytest.mark.parametrize(
    ("weight", "bias", "expected", "wrapped"),
    [(1, 0, 131072, 0), (1, 1, 131074 - 262144, 1), (-1, 1, -131070, 0), (-1, 0, -131072 + 262144, 1)],
)
def test_the_edge_of_the_range(weight: int, bias: int, expected: int, wrapped: int) -> None:
    """u stays in (-2^17, 2^17]. The weights sum up to 65536 = 516 x 127 + 4, twice, and so does the bias."""
    weights = np.array([[127 * weight] * 516 + [4 * weight]])
    layers = (QuantizedLayer("output", Dense(weights, np.array([bias])), None, np.ones(1)),)
    network = QuantizedNetwork((517, 1, 1), layers, 2, 2, 1, "soft", target="loihi2")
    result = run_network(network, white(517), 2)
    assert result.potentials[0, 1].tolist() == [expected]
    assert result.wrapped_images == wrapped


def test_the_leak_by_hand() -> None:
    """du = 0 takes ceil(64 u / 4096) / 64 of u a step. I = 100, theta = 4000, V0 = 0; rounded down to whole units.

    ==  ==========================  ============================
    t   64 u                        u
    ==  ==========================  ============================
    1   6400                        100
    2   6400 - 2 + 6400   = 12798   199.97
    3   12798 - 4 + 6400  = 19194   299.91   12798 / 4096 = 3.1
    4   19194 - 5 + 6400  = 25589   399.83   19194 / 4096 = 4.7
    ==  ==========================  ============================
    """
    network = white_pixel(100, threshold=4000, initial=0)
    result = run_network(network, white(1), 4, trace=True, neuron=NeuronModel.LEAKY_CIRCUIT)
    assert result.traces[0].potentials.ravel().tolist() == [100, 199, 299, 399]
    # Downwards it leaks towards 0 too: -6400, -12798, -19194 are -100, -199.97, -299.91.
    negative = white_pixel(-100, threshold=4000, initial=0)
    result = run_network(negative, white(1), 3, trace=True, neuron=NeuronModel.LEAKY_CIRCUIT)
    assert result.traces[0].potentials.ravel().tolist() == [-100, -200, -300]


@pytest.mark.parametrize("leaks", [False, True])
def test_on_a_gpu(leaks: bool) -> None:
    """torch's CPU under another device name uses the same code as a GPU."""
    for seed in range(12):
        network, images = random_loihi2_network(seed)
        result = run_network(network, images, TIMESTEPS, trace=True, neuron=CIRCUITS[leaks], device="cpu:0")
        oracle.assert_equal(network, images, result, TIMESTEPS, is_stock=True, leaks=leaks)


def test_blocks_of_steps_go_on_where_the_last_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapped and leaky u is carried from block to block."""
    network, images = random_loihi2_network(16)
    whole = run_network(network, images, TIMESTEPS, trace=True, neuron=NeuronModel.LEAKY_CIRCUIT)
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", 1)
    parts = run_network(network, images, TIMESTEPS, trace=True, neuron=NeuronModel.LEAKY_CIRCUIT)
    assert whole.wrapped_images == parts.wrapped_images == 3
    assert np.array_equal(whole.potentials, parts.potentials)


def test_networks_for_lava_do_not_wrap() -> None:
    network, images = random_network(3)
    assert run_network(network, images, TIMESTEPS).wrapped_images is None


def test_only_files_of_target_loihi2_have_stock_neurons() -> None:
    network, _ = random_network(3)
    with pytest.raises(UsageError) as raised:
        neuron_model(network, "stock")
    assert "target lava" in raised.value.found
    assert "`target='loihi2'`" in raised.value.hint
    with pytest.raises(UsageError) as raised:
        neuron_model(network, leak=True)
    assert raised.value.where == "leak"


def test_what_a_run_computes_follows_from_the_file_and_the_request() -> None:
    chip = white_pixel(1, threshold=8, initial=0)
    lava = replace(chip, target="lava")
    hard = replace(lava, reset="hard")
    assert [neuron_model(chip, choice) for choice in (None, "stock", "own")] == [
        NeuronModel.CIRCUIT,
        NeuronModel.CIRCUIT,
        NeuronModel.SOFT,
    ]
    assert neuron_model(chip, leak=True) is neuron_model(chip, "stock", leak=True) is NeuronModel.LEAKY_CIRCUIT
    assert [neuron_model(network) for network in (lava, hard)] == [NeuronModel.SOFT, NeuronModel.HARD]
    assert [(model.reset, model.is_circuit, model.leaks, model.fraction_bits) for model in NeuronModel] == [
        ("soft", False, False, 0),
        ("hard", False, False, 6),
        ("hard", False, False, 6),
        ("soft", True, False, 6),
        ("soft", True, True, 6),
    ]
    assert (NeuronModel.CIRCUIT.du, NeuronModel.LEAKY_CIRCUIT.du) == (-1, 0)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"neuron": "LIF"}, "neuron"),
        ({"neuron": "own", "leak": True}, "leak"),
        ({"lava_layout": "layer"}, "lava_layout"),
    ],
)
def test_options_that_are_unknown_or_contradict_each_other(options: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as raised:
        BackendOptions(**options)
    assert raised.value.where == where


@pytest.mark.parametrize(
    ("backend", "options", "where"),
    [
        ("ref", {"lava_python": "python3"}, "lava_python"),
        ("ref", {"lava_layout": "layers"}, "lava_layout"),
        ("loihi2", {"lava_layout": "layers"}, "lava_layout"),
        ("loihi2", {"neuron": "own"}, "neuron"),
        ("sim", {"board": Board()}, "board"),
        ("ref", {"profile": True}, "profile"),
    ],
)
def test_options_of_another_backend_are_refused(backend: str, options: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_backend(backend, BackendOptions(**options))
    assert raised.value.where == where
    assert backend in raised.value.found


def test_the_file_says_its_target(tmp_path: Path) -> None:
    network, images = random_loihi2_network(5)
    netx.write(network, tmp_path / "chip.net")
    assert netx.read(tmp_path / "chip.net").target == "loihi2"
    with open_backend("ref") as backend:
        result = backend.run(netx.read(tmp_path / "chip.net"), images, TIMESTEPS, trace=True)
    oracle.assert_equal(network, images, result, TIMESTEPS, is_stock=True)
    with open_backend("ref", BackendOptions(neuron="own")) as backend:
        result = backend.run(netx.read(tmp_path / "chip.net"), images, TIMESTEPS, trace=True)
    oracle.assert_equal(network, images, result, TIMESTEPS)


def with_hidden(network: QuantizedNetwork, threshold: Array, initial: Array, synapse: Dense | Conv) -> QuantizedNetwork:
    hidden = QuantizedLayer("hidden", synapse, IntegerNeuron(threshold, initial), np.ones(len(threshold)))
    output = QuantizedLayer("output", Dense(np.ones((1, len(threshold)), int)), None, np.ones(1))
    return replace(network, layers=(hidden, output))


@pytest.mark.parametrize(
    ("threshold", "initial", "weight", "bias", "message"),
    [
        ([257, 2], [0, 0], 1, 0, r"thresholds 2\.\.257 with no common power of two; must be m x 2\^e with m"),
        ([32768, 128], [20000, 0], 1, 0, r"thresholds 128\.\.32768 with no common power of two"),
        ([8, 9], [0, 0], 1, 129, r"biases 129\.\.129 with no common power of two; .* m -127\.\.127 and one e 0\.\.7"),
        ([32640, 128], [0, 0], 1, 0, r"levels 127\.\.32639 \(threshold - V0 - 1\) for one vth .* 8191 apart"),
        ([16384, 128], [1, 0], 1, 0, r"levels 127\.\.16382 .*, or 16382 if all are even or all are odd"),
        ([131072, 8], [0, 0], 1, 0, r"a channel that never fires, with weights or a bias other than 0"),
        ([8, 8], [0, 0], 127, 0, r"a current that can reach 137160; must be at most 131071, beyond which u"),
    ],
)  # fmt: skip
def test_chip_rules(threshold: list[int], initial: list[int], weight: int, bias: int, message: str) -> None:
    inputs = 1080 if weight == 127 else 1
    synapse = Dense(np.full((2, inputs), weight), np.array([bias, bias]))
    network = white_pixel(*[1] * inputs, threshold=8, initial=0)
    with pytest.raises(RangeError, match=rf"hidden: breaks the rule '.*': {message}"):
        with_hidden(network, np.array(threshold), np.array(initial), synapse)
    # The same integers are no fault on Lava.
    with_hidden(replace(network, target="lava"), np.array(threshold), np.array(initial), synapse)


def test_hard_reset_is_no_circuit() -> None:
    with pytest.raises(RangeError, match="reset: found 'hard' with target loihi2; must be soft"):
        replace(white_pixel(1, threshold=8, initial=0), reset="hard")
