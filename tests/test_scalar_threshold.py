"""One threshold per layer: folding into the weights, contents of the file, and equality on every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.changed_files import overwrite
from test_balance import pixels, random_cnn
from test_netx import assert_same, small_network

from loihi_convert import netx
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.checks.lava_dl import lava_dl_notes
from loihi_convert.conversion.balancing import balance, choose_method
from loihi_convert.conversion.flow import report_quantization
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.scales import scalar_scales
from loihi_convert.errors import NetxError, RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout, Reset
from loihi_convert.ir.network import IntegrateAndFire, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.simulation.relu import cnn_scores


def digits_like(seed: int, count: int = 20) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)


def scalar_network(seed: int, reset: Reset, timesteps: int = 8, readout: Readout = "potential") -> QuantizedNetwork:
    spiking = balance(
        random_cnn(seed), digits_like(seed), timesteps, BalanceOptions(method="ngu-lee", reset=reset, readout=readout)
    )
    return quantize(spiking, digits_like(seed), QuantizeOptions(thresholds="scalar"))


def one_layer(thresholds: list[float], weights: list[list[float]]) -> SpikingNetwork:
    """As many pixels as weights -> neurons with these thresholds, "hidden" -> two classes."""
    theta, count = np.array(thresholds), len(thresholds)
    amplitude = np.where(np.isfinite(theta), theta, 0.0)
    layers = (
        SpikingLayer("hidden", Dense(np.array(weights)), IntegrateAndFire(theta, amplitude, np.zeros(count))),
        SpikingLayer("output", Dense(np.array([[1.0] * count, [-1.0] * count])), None),
    )
    return SpikingNetwork((len(weights[0]), 1, 1), layers, 4, "hard")


def test_thresholds_fold_into_the_weights_by_hand() -> None:
    """Thresholds 4 and 1: weights / thresholds are 127/128, 1/4, 1/4 and 1/2; multiplied by 128 all are integers.

    Per channel both would use 127: the scales are then 4/128 and 1/128, thresholds 128 each. The largest weight over
    its threshold is 127/128, so 128 is also the first candidate.
    """
    spiking = one_layer([4.0, 1.0], [[127 / 32, 1.0], [0.25, 0.5]])
    images = np.zeros((1, 2, 1, 1), np.uint8)
    network = quantize(spiking, images, QuantizeOptions(pixel_bits=1, thresholds="scalar"))
    hidden = network.layers[0]
    assert hidden.threshold.tolist() == [128, 128]
    assert hidden.weight.tolist() == [[127, 32], [32, 64]]
    assert hidden.scale.tolist() == [4 / 128, 1 / 128]
    assert network.provenance["quantize"]["thresholds"] == "scalar"
    first, _ = report_quantization(network, spiking, images).layers
    assert first.weight_error == pytest.approx(0, abs=1e-12)
    assert first.thresholds == (128, 128)
    # 127 needs 8 bits, sign included; 64 needs 8, and would fit 7 as -64.
    assert first.weight_bits == (8, 8, 8)


def test_one_large_channel_does_not_reduce_the_levels_of_others() -> None:
    """A weight of 1 with a threshold of 0.01, and a hundred weights of 0.1..1 with thresholds of 1.

    Without clipping theta_q is 127 / 100, so 1: each of the hundred rounds to 0 or 1, off by 1/12 on average, in
    squares 8 together. With 7 the loud one is 0.01 / 7 x 127 = 0.18, off by 0.67, and the others by 1 / (12 x 49),
    0.17 together.
    """
    rng = np.random.default_rng(0)
    weights = np.vstack([[1.0, 0.0], rng.uniform(0.1, 1, (50, 2))])
    theta = np.array([0.01, *[1.0] * 50])
    scales = scalar_scales("conv", theta, weights, np.zeros(51), 1.0, 127)
    threshold = theta / scales
    assert np.allclose(threshold, threshold[0], rtol=1e-12)
    assert threshold[0] == pytest.approx(7, abs=2)
    found = np.clip(np.rint(weights / scales[:, None]), -127, 127) * scales[:, None]
    assert np.square(found - weights).sum() < 1


@given(seed=st.integers(0, 1000), bits=st.sampled_from([4, 8]))
@settings(max_examples=13, deadline=None)
def test_scales_are_optimal_under_the_conditions(seed: int, bits: int) -> None:
    """Proportional to thresholds, not below the minimum, with at most the error of the scale without clipping."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.2, 3, 6)
    theta[int(rng.integers(6))] = np.inf
    alive = np.isfinite(theta)
    weights, largest = rng.normal(size=(6, 9)), 2 ** (bits - 1) - 1
    least = rng.uniform(0, 0.02, 6)
    scales = scalar_scales("conv", theta, weights, least, 0.25, largest)
    threshold = theta[alive] / (0.25 * scales[alive])
    assert np.allclose(threshold, np.rint(threshold[0]), rtol=1e-12)
    assert np.all(scales[alive] >= least[alive] * (1 - 1e-9))
    assert np.all(scales[~alive] == 1)

    def error(threshold: float) -> float:
        tried = theta[alive] / (0.25 * threshold)
        rounded = np.clip(np.rint(weights[alive] / tried[:, None]), -largest, largest)
        return float(np.square(rounded * tried[:, None] - weights[alive]).sum())

    without_clipping = largest / (np.abs(weights[alive]).max(axis=1) / theta[alive]).max() / 0.25
    most = np.floor((theta[alive] / (0.25 * least[alive])).min())
    assert error(threshold[0]) <= error(np.clip(np.rint(without_clipping), 1, most)) * (1 + 1e-9)


@given(seed=st.integers(0, 1000), reset=st.sampled_from(["soft", "hard"]),
       readout=st.sampled_from(["potential", "spikes"]))  # fmt: skip
@settings(max_examples=6, deadline=None)
def test_no_threshold_is_rounded_and_ref_equals_the_oracle(seed: int, reset: Reset, readout: Readout) -> None:
    network = scalar_network(seed, reset, readout=readout)
    for layer in network.spiking_layers:
        assert len(set(layer.threshold.tolist())) == 1
        alive = np.isfinite(layer.balanced.threshold)
        assert layer.threshold[alive] * layer.scale[alive] == pytest.approx(layer.balanced.threshold[alive], rel=1e-9)
        assert not layer.weight[~alive].any()
    images = digits_like(seed, 2)
    oracle.assert_equal(network, images, run_network(network, images, 5, trace=True), 5)


def test_a_dead_channel_shares_the_threshold_and_is_listed() -> None:
    spiking = one_layer([1.0, np.inf], [[1.0], [-1.0]])
    network = quantize(spiking, pixels(255), QuantizeOptions(pixel_bits=1, thresholds="scalar"))
    assert network.layers[0].threshold.tolist() == [127, 127]
    assert network.layers[0].weight.tolist() == [[127], [0]]
    assert report_quantization(network, spiking, pixels(255)).layers[0].dead_channels == (1,)
    silent = quantize(
        one_layer([np.inf, np.inf], [[1.0], [-1.0]]), pixels(255), QuantizeOptions(pixel_bits=1, thresholds="scalar")
    )
    assert silent.layers[0].threshold.tolist() == [131072, 131072]


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_the_file_holds_one_number_and_is_read_as_one_per_channel(tmp_path: Path, reset: Reset) -> None:
    path, network = tmp_path / "model.net", scalar_network(3, reset)
    netx.write(network, path)
    with h5py.File(path) as file:
        vth = [file[f"layer/{index}/neuron/vThMant"] for index in (1, 2)]
        assert [(item.shape, item.dtype) for item in vth] == [((), np.int32)] * 2
        expected = [int(layer.threshold[0]) - 1 for layer in network.layers[:2] if layer.threshold is not None]
        assert [int(item[()]) for item in vth] == expected
    found = netx.read(path)
    assert_same(found, network)
    assert found.thresholds == "scalar"
    with ReferenceBackend() as ref:
        oracle.assert_equal(network, digits_like(3, 2), ref.run(netx.read(path), digits_like(3, 2), 4, trace=True), 4)


@pytest.mark.lava
def test_lava_runs_it_bit_for_bit(tmp_path: Path) -> None:
    with LavaBackend() as backend:
        for reset in ("soft", "hard"):
            path, network = tmp_path / f"{reset}.net", scalar_network(5, reset)  # type: ignore[arg-type]
            netx.write(network, path)
            images = digits_like(5, 3)
            oracle.assert_equal(network, images, backend.run(netx.read(path), images, 6, trace=True), 6)


def hard_and_scalar() -> QuantizedNetwork:
    first, last = small_network().layers
    neuron = IntegerNeuron(np.array([500, 500], np.int32), np.zeros(2, np.int32))
    layers = (replace(first, neuron=neuron), last)
    return replace(small_network(), reset="hard", layers=layers, thresholds="scalar")


def test_stock_lava_dl_needs_no_options() -> None:
    # test_netx.py runs such a file with a spiking readout.
    assert lava_dl_notes(hard_and_scalar()) == ()


def test_a_network_with_several_thresholds_is_not_scalar() -> None:
    message = r"conv: breaks the rule 'a layer has one threshold': thresholds 500\.\.700; must be one for all channels"
    with pytest.raises(RangeError, match=message):
        replace(small_network(), thresholds="scalar")


def test_a_file_with_inconsistent_thresholds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(hard_and_scalar(), path)
    overwrite(path, "thresholds", b"double")
    with pytest.raises(NetxError, match="'double'") as caught:
        netx.read(path)
    assert caught.value.where == f"{path}: thresholds"


def test_trials_run_the_network_that_is_exported() -> None:
    """A trial measures agreement with hard reset, scalar thresholds and V0 = 0."""
    cnn, images = random_cnn(0), digits_like(0, 60)
    best = choose_method(
        cnn,
        images,
        4,
        BalanceOptions(reset="hard", bias_correction=False),
        QuantizeOptions(thresholds="scalar", weight_bits=3),
    )[0]
    spiking = balance(cnn, images[:7], 4, best.chosen(BalanceOptions(reset="hard")))
    network = quantize(spiking, images[:7], QuantizeOptions(thresholds="scalar", weight_bits=3))
    assert network.reset == "hard"
    potentials = run_network(network, images[30:], 4).potentials[:, -1]
    scores = potentials * network.layers[-1].scale
    assert best.error == pytest.approx(float(np.square(scores / 4 - cnn_scores(cnn, images[30:])).mean()))


def test_currents_too_large_for_a_shared_threshold() -> None:
    with pytest.raises(RangeError) as raised:
        scalar_scales("conv", np.array([1.0, 1e-6]), np.ones((2, 1)), np.array([1e-5, 1e-5]), 1.0, 127)
    assert raised.value.where == "conv"
    assert "channel 1" in raised.value.found
    assert "`thresholds='channel'`" in raised.value.hint
