"""Relays in Loihi's integers: the weight equals the threshold, for every target and method, on `ref` and Lava."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import oracle
from support.relay_networks import NETWORKS, images, residual, wrong_spikes

from loihi_convert import netx
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import RunResult, first_difference
from loihi_convert.chip import limits
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.flow import report_quantization
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Granularity, Method, Reset, Target
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense
from loihi_convert.metrics import advice

TIMESTEPS = 5


class Way(NamedTuple):
    """How a network is converted."""

    method: Method = "percentile"
    reset: Reset = "soft"
    target: Target = "lava"
    thresholds: Granularity = "channel"
    corrected: bool = False
    bits: int = 8


WAYS = {
    "soft": Way(),
    "hard": Way(reset="hard"),
    "hard, fitted": Way("least-squares", reset="hard"),
    "corrected": Way("least-squares", corrected=True),
    "scalar": Way(thresholds="scalar"),
    "scalar, hard": Way(reset="hard", thresholds="scalar", corrected=True),
    "loihi2": Way(target="loihi2"),
    "loihi2, corrected": Way("least-squares", target="loihi2", corrected=True),
}

METHODS: tuple[Method, ...] = (
    "ngu-lee",
    "spike-norm",
    "rmp",
    "act-norm",
    "robust-norm",
    "act-norm-channelwise",
    "least-squares",
)


@cache
def balanced(name: str, way: Way) -> SpikingNetwork:
    options = BalanceOptions(
        method=way.method,
        percentile=99.9 if way.method == "percentile" else None,
        reset=way.reset,
        input_coding="constant",
        bias_correction=way.corrected,
    )
    return balance(NETWORKS[name], images(30), TIMESTEPS, options)


def converted(name: str, way: Way) -> QuantizedNetwork:
    options = QuantizeOptions(weight_bits=way.bits, target=way.target, thresholds=way.thresholds)
    return quantize(balanced(name, way), images(30), options)


def spikes_of(result: RunResult) -> list[Array]:
    return [np.zeros(0) if trace.spikes is None else trace.spikes for trace in result.traces]


def assert_relays_repeat(name: str, network: QuantizedNetwork) -> None:
    result = run_network(network, images(6, seed=7), TIMESTEPS, trace=True)
    spikes = spikes_of(result)
    assert wrong_spikes(NETWORKS[name], spikes) == 0
    for layer, fired in zip(network.layers, spikes, strict=True):
        if layer.relay_of is not None:
            assert fired[:, :, layer.relay_of >= 0].any(), "relays that never fire prove nothing"
    for before, after, layer in zip(
        network.used_amplitudes, network.used_amplitudes[1:], network.layers[1:], strict=False
    ):
        if layer.relay_of is not None:
            relays = layer.relay_of >= 0
            assert np.array_equal(after[relays], before[layer.relay_of[relays]])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_relays_repeat_every_spike(name: str, way: str) -> None:
    network = converted(name, WAYS[way])
    assert_relays_repeat(name, network)
    oracle.assert_equal(
        network,
        images(2, seed=7),
        run_network(network, images(2, seed=7), TIMESTEPS, trace=True),
        TIMESTEPS,
        is_stock=WAYS[way].target == "loihi2",
    )


@pytest.mark.parametrize("method", METHODS)
def test_relays_repeat_every_spike_by_every_method(method: Method) -> None:
    for name, way in itertools.product(NETWORKS, (Way(method), Way(method, target="loihi2"))):
        assert_relays_repeat(name, converted(name, way))
        if method != "rmp":
            assert_relays_repeat(name, converted(name, way._replace(reset="hard", target="lava")))


@pytest.mark.parametrize(
    "options",
    [
        BalanceOptions(method="ngu-lee", amplitude="literal"),
        BalanceOptions(method="ngu-lee", amplitude="literal", reset="hard"),
        BalanceOptions(method="percentile", poisson_seed=3),
        BalanceOptions(method="percentile", poisson_seed=3, reset="hard"),
        BalanceOptions(method="percentile", readout="spikes"),
        BalanceOptions(method="percentile", initial_potential="zero", alpha=0.7),
        BalanceOptions(bias_correction=True),
    ],
)
def test_relays_repeat_every_spike_with_any_balancing(options: BalanceOptions) -> None:
    for name in ("residual", "two levels"):
        assert_relays_repeat(name, quantize(balance(NETWORKS[name], images(30), TIMESTEPS, options), images(30)))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("way", ["soft", "hard", "scalar", "loihi2"])
def test_relays_repeat_every_spike_with_few_weight_bits(way: str, bits: int) -> None:
    network = converted("residual", WAYS[way]._replace(bits=bits))
    spikes = spikes_of(run_network(network, images(6, seed=7), TIMESTEPS, trace=True))
    assert wrong_spikes(NETWORKS["residual"], spikes) == 0
    assert max(int(np.abs(layer.weight).max()) for layer in network.layers) <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("way", WAYS)
def test_a_relays_weight_is_its_threshold(way: str) -> None:
    """The relay of a dead channel has weight 0."""
    layer = converted("residual", WAYS[way]).layers[1]
    rows = layer.weight[5:].reshape(4, -1)
    weights = [64, 64, 64] if WAYS[way].thresholds == "channel" else [int(layer.threshold[0])] * 3
    assert rows.sum(axis=1).tolist() == [*weights, 0]
    assert np.count_nonzero(rows, axis=1).tolist() == [1, 1, 1, 0]
    assert layer.threshold[5:8].tolist() == weights
    assert layer.threshold[8] == (limits.NEVER_FIRES if WAYS[way].thresholds == "channel" else weights[0])
    assert not layer.initial_potential[5:].any()


def test_relays_do_not_change_rounding() -> None:
    """Channels of a convolution have the same integers with and without relays in their layer."""
    cnn = residual()
    stem, conv1, _, last = cnn.layers
    alone = replace(conv1.synapse, weight=conv1.synapse.weight[:5], bias=conv1.synapse.bias[:5])
    readout = replace(last, synapse=Dense(np.ones((3, 5 * 64))))
    options = BalanceOptions(method="percentile")
    without = replace(cnn, layers=(stem, replace(conv1, synapse=alone, relay_of=None), readout))
    found = converted("residual", Way()).layers[1]
    wanted = quantize(balance(without, images(30), TIMESTEPS, replace(options, percentile=99.9)), images(30)).layers[1]
    assert np.array_equal(found.weight[:5], wanted.weight)
    assert found.threshold[:5].tolist() == wanted.threshold.tolist()


def test_the_report_omits_relays() -> None:
    network, real = converted("residual", Way(bits=5)), balanced("residual", Way(bits=5))
    report = report_quantization(network, real, images(10)).layers[1]
    own = network.layers[1].threshold
    assert report.thresholds == (own[:5].min(), own[:5].max())
    assert report.dead_channels == ()
    assert report.weight_error > 0
    assert report_quantization(network, real, images(10)).layers[0].dead_channels == (3,)


def test_a_layer_of_relays_only_is_not_reported() -> None:
    for way in (Way(), Way(thresholds="scalar"), Way(target="loihi2")):
        report = report_quantization(converted("two levels", way), balanced("two levels", way), images(10)).layers[2]
        assert (report.weight_bits, report.thresholds, report.weight_error) == (None, None, 0)


# One pixel -> a neuron of threshold 10 and one that never fires -> a relay of each.
def integers(
    weights: Sequence[Sequence[int]] = ((7, 0), (0, 0)),
    relay_of: Sequence[int] = (0, 1),
    thresholds: Sequence[int] = (7, 7),
) -> QuantizedNetwork:
    def layer(name: str, weight: Array, threshold: Sequence[int], largest: int = 1) -> QuantizedLayer:
        neuron = IntegerNeuron(np.array(threshold, np.int32), np.zeros(2, np.int32))
        return QuantizedLayer(name, Dense(weight.astype(np.int32)), neuron, np.ones(2), largest)

    first = layer("first", np.array([[1], [0]]), [10, limits.NEVER_FIRES], 255)
    second = replace(layer("second", np.array(weights), thresholds), relay_of=np.array(relay_of))
    last = QuantizedLayer("last", Dense(np.array([[1, 1]], np.int32)), None, np.ones(1))
    return QuantizedNetwork((1, 1, 1), (first, second, last), 4, 8, 8, "soft")


def test_the_constructor_accepts_exact_relays() -> None:
    network = integers()
    spikes = spikes_of(run_network(network, np.full((1, 1, 1, 1), 4, np.uint8), 5, trace=True))
    assert spikes[0][0, :, 0].tolist() == spikes[1][0, :, 0].tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"weights": [[6, 0], [0, 0]]}, "weight 6 of channel 0, whose threshold is 7"),
        ({"weights": [[8, 0], [0, 0]]}, "weight 8 of channel 0, whose threshold is 7"),
        ({"weights": [[7, 1], [0, 0]]}, "more than one weight"),
        ({"weights": [[0, 7], [0, 0]]}, "does not repeat the channel"),
        ({"relay_of": [0, 2]}, "does not repeat the channel"),
        ({"thresholds": [7, 6], "weights": [[7, 0], [0, 7]]}, "weight 7 of channel 1, whose threshold is 6"),
    ],
)  # fmt: skip
def test_the_constructor_refuses_relays_that_are_not_exact(network: dict[str, Any], found: str) -> None:
    with pytest.raises(RangeError) as caught:
        integers(**network)
    assert caught.value.where == "second"
    assert found in caught.value.found


@pytest.mark.parametrize(("index", "name"), [(0, "first"), (2, "last")])
def test_neither_the_first_nor_the_last_layer_has_relays(index: int, name: str) -> None:
    network = integers()
    layers = list(network.layers)
    layers[index] = replace(layers[index], relay_of=np.full(layers[index].synapse.channels, -1))
    replace(network, layers=tuple(layers))
    neuron = None if index else IntegerNeuron(np.ones(2, np.int32), np.zeros(2, np.int32))
    weight = np.array([[1], [0]], np.int32) if index == 0 else np.array([[1, 0]], np.int32)
    relay_of = np.array([0, -1]) if index == 0 else np.array([0])
    layers[index] = replace(layers[index], synapse=Dense(weight), neuron=neuron, relay_of=relay_of)
    with pytest.raises(RangeError) as caught:
        replace(network, layers=tuple(layers))
    assert (caught.value.where, caught.value.found) == (name, "has relays")


def test_advice_on_thresholds_ignores_relays() -> None:
    assert advice.smallest_threshold(integers()) == (10, "first")


@pytest.fixture(scope="module")
def lava() -> Iterator[LavaBackend]:
    with LavaBackend() as backend:
        yield backend


@pytest.mark.lava
@pytest.mark.parametrize("way", WAYS)
def test_lava_equals_ref_in_every_layer(lava: LavaBackend, tmp_path: Path, way: str) -> None:
    for name in NETWORKS if way in ("soft", "hard") else ("residual", "two levels"):
        network = converted(name, WAYS[way])
        path = tmp_path / f"{name}.net"
        netx.write(network, path)
        pixels = images(2, seed=7)
        by_lava = lava.run(netx.read(path), pixels, TIMESTEPS, trace=True)
        assert first_difference(by_lava, run_network(network, pixels, TIMESTEPS, trace=True)) is None
        assert wrong_spikes(NETWORKS[name], spikes_of(by_lava)) == 0
