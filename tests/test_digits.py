"""A readout in two digits: exact after joining, on `ref` and on Lava, with the weight bits that one digit has not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.changed_files import overwrite
from support.refusals import refusal, refused
from support.relay_networks import images

from loihi_convert import netx
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import RunResult, concatenated, first_difference
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.flow import report_quantization, to_integers
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import NetxError, RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import AnyMethod, Granularity, Reset
from loihi_convert.ir.network import ReluLayer, ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork, joined_digits, joined_synapse
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.metrics.evaluation import evaluate
from loihi_convert.report.contents import describe
from loihi_convert.simulation.simulator import clipped_images, outputs

TIMESTEPS = 64


def averaging() -> ReluNetwork:
    """A convolution of 24 channels on a map of 16 x 16, its global average, and 4 classes."""
    rng = np.random.default_rng(0)
    layers = (
        # A neuron in ten fires, as in a trained CNN.
        ReluLayer("conv", Conv(rng.normal(size=(24, 1, 3, 3)) / 3, np.full(24, -0.4), padding=(1, 1))),
        ReluLayer("fc", Dense(rng.normal(size=(4, 24)), rng.normal(size=4) / 10, pool=(16, 16))),
    )
    return ReluNetwork((1, 16, 16), layers)


def pixels(count: int, seed: int = 0) -> Array:
    return np.kron(images(count, seed=seed), np.ones((1, 1, 2, 2), np.uint8))


@cache
def balanced(reset: Reset = "soft") -> SpikingNetwork:
    return balance(averaging(), pixels(20), TIMESTEPS, BalanceOptions(method="percentile", reset=reset))


@cache
def quantized(
    *, split_readout: bool = True, reset: Reset = "soft", thresholds: Granularity = "channel"
) -> QuantizedNetwork:
    options = QuantizeOptions(split_readout=split_readout, thresholds=thresholds)
    return quantize(balanced(reset), pixels(20), options)


def bits_of_the_head(network: QuantizedNetwork) -> int:
    found = report_quantization(network, balanced(network.reset), pixels(5)).layers[-1].weight_bits
    assert found is not None
    return found[2]


@given(st.lists(st.integers(-(2**13), 2**13), min_size=1, max_size=9), st.integers(1, 7))
def test_two_digits_are_the_number(values: list[int], low_bits: int) -> None:
    weight = np.array([values], np.int32)
    whole = QuantizedLayer("fc", Dense(weight, weight[:, 0]), None, np.ones(1), low_bits=low_bits)
    stored = whole.stored
    assert stored.synapse.channels == 2
    assert np.array_equal(joined_synapse(stored.synapse, low_bits).weight, weight)
    assert np.array_equal(joined_synapse(stored.synapse, low_bits).bias, weight[:, 0])
    low = stored.weight[1]
    assert (low >= -(2 ** (low_bits - 1))).all()
    assert (low < 2 ** (low_bits - 1)).all()
    assert stored.scale.tolist() == [2**low_bits, 1]


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_the_head_after_a_global_average_keeps_its_bits(reset: Reset) -> None:
    one, two = quantized(split_readout=False, reset=reset), quantized(reset=reset)
    assert bits_of_the_head(one) <= 5
    assert bits_of_the_head(two) == 8
    assert two.max_timesteps >= TIMESTEPS
    assert not clipped_images(two, pixels(20), TIMESTEPS)[-1].any()
    # Rounding the head is then no error worth mentioning beside the rest.
    real = outputs(balanced(reset), pixels(20), TIMESTEPS)[:, -1]
    errors = [
        np.abs(outputs(network, pixels(20), TIMESTEPS)[:, -1] * network.layers[-1].scale[0] - real).mean()
        for network in (one, two)
    ]
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize(
    ("timesteps", "options", "is_hinted"),
    [
        (TIMESTEPS, QuantizeOptions(), True),
        (TIMESTEPS, QuantizeOptions(split_readout=True), False),
        (1, QuantizeOptions(), False),
    ],
)
def test_a_readout_of_few_bits_is_hinted_at(timesteps: int, options: QuantizeOptions, is_hinted: bool) -> None:
    notes = to_integers(
        averaging(), pixels(20), timesteps, ConversionOptions(BalanceOptions(method="percentile"), options)
    ).notes
    assert any("`split_readout`" in note for note in notes) == is_hinted


@pytest.mark.parametrize(
    ("method", "reset", "options", "is_split"),
    [
        ("auto", "soft", QuantizeOptions(), True),
        ("auto", "soft", QuantizeOptions(split_readout=False), False),
        ("auto", "soft", QuantizeOptions(max_cores=128), False),
        ("auto", "hard", QuantizeOptions(), False),
        ("percentile", "soft", QuantizeOptions(), False),
    ],
)
def test_auto_splits_a_readout_that_loses_bits(
    method: AnyMethod, reset: Reset, options: QuantizeOptions, is_split: bool
) -> None:
    done = to_integers(
        averaging(), pixels(60), TIMESTEPS, ConversionOptions(BalanceOptions(method=method, reset=reset), options)
    )
    assert bool(done.quantized.low_bits) == is_split
    assert any("(`split_readout`)" in note for note in done.notes) == is_split


def test_a_split_that_changes_nothing_is_not_hinted_at() -> None:
    # A white pixel is 255 in each of 64 steps: with these inputs even small digits leave the range of the potential.
    alone = ReluNetwork((1, 16, 16), (ReluLayer("fc", Dense(np.random.default_rng(0).normal(size=(4, 256)))),))
    options = QuantizeOptions(pixel_bits=8, split_readout=True)
    notes = to_integers(alone, pixels(20), 64, ConversionOptions(BalanceOptions(method="percentile"), options)).notes
    (note,) = (note for note in notes if note.startswith("fc: weights"))
    assert "`timesteps`" in note
    assert "`split_readout`" not in note


def test_only_the_readout_differs() -> None:
    one, two = quantized(split_readout=False), quantized()
    assert np.array_equal(one.layers[0].weight, two.layers[0].weight)
    assert (one.low_bits, two.low_bits > 0, two.shapes, two.stored.shapes) == (
        0,
        True,
        one.shapes,
        ((24, 16, 16), (8,)),
    )
    assert two.provenance["quantize"]["low_bits"] == two.low_bits


def test_where_the_bits_suffice_nothing_is_split() -> None:
    network = ReluNetwork((1, 16, 16), (*averaging().layers[:1], ReluLayer("fc", Dense(np.ones((2, 24 * 256))))))
    spiking = balance(network, pixels(10), 1, BalanceOptions(method="percentile"))
    assert quantize(spiking, pixels(10), QuantizeOptions(split_readout=True)).low_bits == 0


def test_options_that_a_split_readout_contradicts() -> None:
    for balancing, quantizing in (
        (BalanceOptions(method="percentile", readout="spikes"), QuantizeOptions(split_readout=True)),
        (BalanceOptions(method="percentile"), QuantizeOptions(split_readout=True, target="loihi2")),
    ):
        with refused("split_readout"):
            to_integers(averaging(), pixels(10), 4, ConversionOptions(balancing, quantizing))


def assert_whole(network: QuantizedNetwork, result: RunResult, shown: Array, timesteps: int) -> None:
    """The integers of the oracle for both digits, joined."""
    potentials, spikes = oracle.run(network.stored, shown, timesteps)
    assert np.array_equal(result.potentials, joined_digits(potentials[-1], network.low_bits))
    assert np.array_equal(result.traces[-1].potentials, result.potentials)
    assert result.traces[0].spikes is not None
    assert np.array_equal(result.traces[0].spikes, spikes[0])


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_ref_joins_the_digits_exactly(tmp_path: Path, reset: Reset) -> None:
    network, shown = quantized(reset=reset), pixels(1, seed=5)
    result = run_network(network, shown, 3, trace=True)
    assert_whole(network, result, shown, 3)
    netx.write(network, tmp_path / "model.net")
    with ReferenceBackend() as ref:
        assert first_difference(ref.run(netx.read(tmp_path / "model.net"), shown, 3, trace=True), result) is None


def test_potentials_beyond_the_range_of_one() -> None:
    """What one potential could not hold at this scale is held by two, to the last unit."""
    network = quantized()
    result = run_network(network, pixels(3), TIMESTEPS)
    assert np.abs(result.potentials).max() > 2**17
    doubled = replace(network.layers[-1], synapse=replace(network.layers[-1].synapse, weight=network.layers[-1].weight))
    assert np.array_equal(
        run_network(replace(network, layers=(network.layers[0], doubled)), pixels(3), TIMESTEPS).potentials,
        result.potentials,
    )


def saturating() -> QuantizedNetwork:
    """400 neurons with hard reset, which all fire in every step; the high digits reach the ends of LIF in six steps."""
    neuron = IntegerNeuron(np.ones(400, np.int32), np.zeros(400, np.int32))
    weight = np.repeat(np.array([[8000], [-8000]], np.int32), 400, axis=1)
    layers = (
        QuantizedLayer("hidden", Dense(np.ones((400, 1), np.int32)), neuron, np.ones(400), 255),
        QuantizedLayer("fc", Dense(weight), None, np.ones(2), low_bits=7),
    )
    return QuantizedNetwork((1, 1, 1), layers, timesteps=8, max_timesteps=8, pixel_bits=8, reset="hard")


def test_each_digit_is_rounded_down_at_the_ends_of_lif() -> None:
    """LIF clips at +-131071.984375, of which Lava's probes show the whole part."""
    network, white = saturating(), np.full((1, 1, 1, 1), 255, np.uint8)
    result = run_network(network, white, 8, trace=True)
    # 8000 = 63 x 128 - 64 and -8000 = -62 x 128 - 64: all four digits leave the range within 8 steps.
    assert result.potentials[0, -1].tolist() == [131071 * 128 - 131072, -131072 * 128 - 131072]
    assert_whole(network, result, white, 8)


def test_the_energy_includes_the_neurons_of_both_digits() -> None:
    network, white = saturating(), np.full((1, 1, 1, 1), 255, np.uint8)
    energy = evaluate(run_network(network, white, 8), network).energy
    assert energy is not None
    assert [one.membrane_updates for one in energy.estimates] == [(400 + 2 * 2) * t for t in (1, 2, 4, 8)]


def test_the_energy_includes_the_synapses_of_both_digits() -> None:
    """20 = 3 x 8 - 4 and 16 = 2 x 8: pixels reach 3 synapses. Each is a multiplication, each neuron an addition."""
    layer = QuantizedLayer("fc", Dense(np.array([[20, 16]], np.int32)), None, np.ones(1), 255, low_bits=3)
    network = QuantizedNetwork((2, 1, 1), (layer,), timesteps=1, max_timesteps=1, pixel_bits=8, reset="soft")
    energy = evaluate(run_network(network, np.zeros((1, 2, 1, 1), np.uint8), 1), network).energy
    assert energy is not None
    wanted = (3 * 0.23e-12 + 2 * 0.03e-12, 3 * 4.6e-12 + 2 * 0.9e-12)
    assert energy.estimates[0].arithmetic_joules == pytest.approx(wanted)


def test_the_file_says_that_there_are_two_digits(tmp_path: Path) -> None:
    path, network = tmp_path / "model.net", quantized()
    netx.write(network, path)
    found = netx.read(path)
    assert found.low_bits == network.low_bits
    assert np.array_equal(found.layers[-1].weight, network.layers[-1].weight)
    assert np.array_equal(found.layers[-1].scale, network.layers[-1].scale)
    with h5py.File(path) as file:
        assert file["layer/3/shape"][()].tolist() == [8]
        assert file["loihi_convert/layer/1/low_bits"][()] == network.low_bits
        assert "low_bits" not in file["loihi_convert/layer/0"]
    assert describe(path).about["readout"] == f"potential in two digits, the low one of {network.low_bits} bits"
    netx.write(found, tmp_path / "again.net")
    assert (tmp_path / "again.net").read_bytes() == path.read_bytes()


def test_what_two_digits_hold_is_not_called_saturated() -> None:
    network = quantized()
    result = run_network(network, pixels(3), TIMESTEPS)
    assert evaluate(result, network).saturated_images == 0


def test_a_digit_at_the_end_of_its_range_is_called_saturated() -> None:
    """Outputs 63 and 70 in digits of 7 bits: 0, 63 and 1, -58. In 9 steps a white pixel adds 9 x 255 x 63 = 144,585."""
    layer = QuantizedLayer("fc", Dense(np.array([[63], [70]], np.int32)), None, np.ones(2), 255, low_bits=7)
    network = QuantizedNetwork((1, 1, 1), (layer,), timesteps=9, max_timesteps=9, pixel_bits=8, reset="soft")
    images = np.array([255, 0, 255, 9], np.uint8).reshape(4, 1, 1, 1)
    for steps, saturated in ((9, 2), (8, 0)):
        result = run_network(network, images, steps)
        parts = [run_network(network, images[rows], steps) for rows in (slice(1), slice(1, 4))]
        for found in (result, concatenated(parts)):
            assert evaluate(found, network).saturated_images == saturated


@pytest.mark.parametrize("value", [0, -1, 8, 2**30])
def test_damaged_digits_are_refused(tmp_path: Path, value: int) -> None:
    path = tmp_path / "model.net"
    netx.write(quantized(), path)
    overwrite(path, "layer/1/low_bits", value)
    with pytest.raises(NetxError) as caught:
        netx.read(path)
    assert caught.value.where.startswith(str(path))


def test_digits_of_another_size_are_refused(tmp_path: Path) -> None:
    """The weights that are stored are not the digits that such a number has."""
    path, network = tmp_path / "model.net", quantized()
    netx.write(network, path)
    overwrite(path, "layer/1/low_bits", network.low_bits - 1)
    with pytest.raises(NetxError, match="is inconsistent with the rest"):
        netx.read(path)


def test_an_odd_number_of_stored_outputs_is_not_digits() -> None:
    assert refusal(RangeError, joined_synapse, Dense(np.ones((3, 4), np.int32)), 2) == ("weight", "found 3 outputs")


def test_only_a_dense_readout_has_digits() -> None:
    network = quantized(split_readout=False)
    for index, low_bits in ((0, 3), (1, 8), (1, -1)):
        layers = list(network.layers)
        layers[index] = replace(layers[index], low_bits=low_bits)
        with refused(layers[index].name, kind=RangeError):
            replace(network, layers=tuple(layers))


@pytest.mark.lava
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_lava_runs_both_digits(tmp_path: Path, reset: Reset) -> None:
    network, shown = quantized(reset=reset), pixels(2, seed=5)
    netx.write(network, tmp_path / "model.net")
    with LavaBackend() as lava:
        by_lava = lava.run(netx.read(tmp_path / "model.net"), shown, 5, trace=True)
    assert first_difference(by_lava, run_network(network, shown, 5, trace=True)) is None


@pytest.mark.lava
def test_lava_clips_both_digits(tmp_path: Path) -> None:
    netx.write(saturating(), tmp_path / "model.net")
    white = np.full((1, 1, 1, 1), 255, np.uint8)
    with LavaBackend() as lava:
        by_lava = lava.run(netx.read(tmp_path / "model.net"), white, 8, trace=True)
    assert first_difference(by_lava, run_network(saturating(), white, 8, trace=True)) is None
