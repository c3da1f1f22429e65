"""Relays in every reported number: omitted or listed separately, as specified by the table in `ir.network`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import relay_networks
from support.residual import OWN_CHANNELS, RELAYS, float_networks, residual_images, residual_network

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.checks.finding import findings
from loihi_convert.checks.network_rules import CNN_ACTIVITY_RULES, LAYER_RULES, NetworkRun, cnn_activity, layer_runs
from loihi_convert.chip import limits
from loihi_convert.chip.energy import SPIKE_ENERGY, SYNAPTIC_ENERGY, UPDATE_ENERGY
from loihi_convert.chip.resources import Populated, resources
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import own_channels
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.metrics.advice import CAUSES, advice
from loihi_convert.metrics.diagnosis import ErrorSums, diagnose
from loihi_convert.metrics.evaluation import evaluate
from loihi_convert.metrics.work import relay_work
from loihi_convert.pipeline import checking
from loihi_convert.pipeline.checking import load_file
from loihi_convert.pipeline.options import CheckOptions
from loihi_convert.report.conversion_tables import network_table, resource_table
from loihi_convert.simulation.intermediate import intermediate_networks
from loihi_convert.simulation.relu import ReluChain, currents


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_relays_of_the_residual_network_repeat_every_spike(reset: Reset) -> None:
    result = run_network(residual_network(reset=reset), residual_images(5), 8, trace=True)
    stem, inner = (trace.spikes for trace in result.traces[:2])
    assert stem.any()
    assert np.array_equal(inner[:, :, OWN_CHANNELS:], stem)


def test_the_architecture_lists_relays_separately() -> None:
    network = residual_network()
    cnn, spiking = float_networks(network)
    architecture = "2x6x6-4c3-3c3+4r-4c3-3"
    assert network.summary == f"{architecture}, T = 4, soft reset, for lava"
    assert repr(cnn) == f"ReluNetwork({architecture})"
    assert repr(spiking) == f"SpikingNetwork({architecture}, T = 4, soft reset)"


NETWORKS = [
    residual_network(),
    residual_network(reset="hard"),
    # Amplitudes fitted for hard reset do not exist with soft reset.
    residual_network(reset="hard", amplitude_factor=1.3),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_relays_repeat_in_every_network_between_the_cnn_and_the_file(network: QuantizedNetwork) -> None:
    images = residual_images(20)
    networks = intermediate_networks(*float_networks(network), network, 8)
    assert len(networks) >= 6
    for between in networks:
        stem, inner, *_ = between.activations(images, 0)
        assert stem.any()
        assert np.allclose(inner[..., OWN_CHANNELS:], stem, rtol=1e-6, atol=0), between.cause


@pytest.mark.parametrize("name", sorted(relay_networks.NETWORKS))
@pytest.mark.parametrize(
    "options",
    [
        BalanceOptions(method="percentile", percentile=97),
        BalanceOptions(method="least-squares", reset="hard"),
        BalanceOptions(method="ngu-lee", amplitude="literal"),
    ],
)
def test_relays_of_converted_networks_repeat_through_every_layer(name: str, options: BalanceOptions) -> None:
    cnn, images = relay_networks.NETWORKS[name], relay_networks.images()
    spiking = balance(cnn, images, 4, options)
    network = quantize(spiking, images)
    networks = intermediate_networks(cnn, spiking, network, 4)
    # With soft reset neurons start at half their threshold, relays at 0.
    assert ("initial_potential" in [between.cause for between in networks]) == (options.reset == "hard")
    for between in networks:
        found = between.activations(images, 0)
        for index, layer in enumerate(cnn.layers):
            for channel in np.flatnonzero([] if layer.relay_of is None else layer.relay_of >= 0):
                # A relay has one tap, so its input is the synapse's output for the maps of the layer before.
                synapse, maps = layer.synapse, found[index - 1].transpose(0, 3, 1, 2)
                wanted = currents(synapse, maps.astype(np.float32), averages=True)[:, channel]
                relayed = found[index][..., channel].reshape(wanted.shape)
                assert np.allclose(relayed, wanted, rtol=1e-5, atol=1e-7), (between.cause, index, channel)
    diagnosis = diagnose(cnn, spiking, network, images, None, 4)
    for layer, of_file in zip(diagnosis.layers, network.layers, strict=True):
        is_nothing_else = of_file.relay_of is not None and bool((of_file.relay_of >= 0).all())
        assert (layer.weight_bits is None) == is_nothing_else
        assert not is_nothing_else or (layer.lost_images, layer.share_above_threshold) == (0, None)
    for cause in CAUSES:
        told = " ".join(advice(diagnosis.model_copy(update={"main_cause": cause}), network))
        assert "relays:" not in told


def test_a_layer_has_the_errors_of_its_own_channels() -> None:
    network, images = residual_network(), residual_images(20)
    cnn, spiking = float_networks(network)
    diagnosis = diagnose(cnn, spiking, network, images, None, 8)
    wanted = ReluChain(cnn)(images)[1][..., :OWN_CHANNELS]
    for stage, between in zip(diagnosis.stages[1:], intermediate_networks(cnn, spiking, network, 8), strict=True):
        sums = ErrorSums()
        sums.add(between.activations(images, 0)[1][..., :OWN_CHANNELS], wanted)
        assert stage.layers[1] == sums.error
    threshold = spiking.layers[1].neuron.threshold[:OWN_CHANNELS]
    inner = diagnosis.layers[1]
    assert inner.threshold_to_largest == pytest.approx(np.median(threshold / wanted.max(axis=(0, 1, 2))))
    assert inner.share_above_threshold == pytest.approx((wanted > threshold).sum() / (wanted > 0).sum())


def test_advice_ignores_thresholds_of_relays() -> None:
    network = residual_network()
    cnn, spiking = float_networks(network)
    diagnosis = diagnose(cnn, spiking, network, residual_images(5), None, 4)
    (*_, told) = advice(diagnosis.model_copy(update={"main_cause": "thresholds"}), network)
    own = (layer.threshold[own_channels(layer.relay_of)] for layer in network.spiking_layers)
    smallest = min(int(threshold.min()) for threshold in own)
    assert network.layers[1].threshold.min() < smallest
    assert f"the smallest threshold is {smallest} weight units" in told


def test_weight_bits_of_a_layer_ignore_relays() -> None:
    network = residual_network()
    inner = network.layers[1]
    # Own weights have 3 bits, relays 8: the median over all 7 channels would be 8.
    weight = inner.weight.copy()
    weight[:OWN_CHANNELS] = np.clip(weight[:OWN_CHANNELS], -3, 3)
    changed = replace(inner, synapse=replace(inner.synapse, weight=weight))
    network = replace(network, layers=(network.layers[0], changed, *network.layers[2:]))
    diagnosis = diagnose(*float_networks(network), network, residual_images(5), None, 4)
    assert diagnosis.layers[1].weight_bits == 3


def test_firing_rates_ignore_relays() -> None:
    network, images = residual_network(), residual_images(5)
    result = run_network(network, images, 8, trace=True)
    evaluation = evaluate(result, network)
    stem, inner, outer = (trace.spikes for trace in result.traces[:-1])
    assert [layer.relay_neuron_count for layer in evaluation.layers] == [0, RELAYS * 36, 0, 0]
    assert [layer.neuron_count for layer in evaluation.layers] == [4 * 36, 7 * 36, 4 * 36, 3]
    for point in evaluation.points:
        t = point.timesteps
        own = [spikes[:, :t] for spikes in (stem, inner[:, :, :OWN_CHANNELS], outer)]
        assert point.firing_rate == pytest.approx([spikes.mean() for spikes in own])
        possible = sum(spikes.size for spikes in own)
        assert point.activation_sparsity == pytest.approx(1 - sum(spikes.sum() for spikes in own) / possible)
        repeated = inner[:, :t, OWN_CHANNELS:].sum() / 5
        assert repeated > 0
        assert point.relay_spikes_per_image == repeated
        assert point.spikes_per_image == pytest.approx(sum(spikes.sum() for spikes in own) / 5 + repeated)
        # A relay has one outgoing synapse, into the sum.
        assert point.relay_synaptic_operations == repeated
        assert point.synaptic_operations == pytest.approx(result.synaptic_operations[:, :t].sum() / 5)


def test_operations_of_relays_before_a_padded_kernel_are_an_estimate() -> None:
    network, images = residual_network(), residual_images(5)
    outer = network.layers[2]
    weight = outer.weight.copy()
    weight[:, OWN_CHANNELS:] = 1
    layers = (*network.layers[:2], replace(outer, synapse=replace(outer.synapse, weight=weight)), network.layers[3])
    network = replace(network, layers=layers)
    result = run_network(network, images, 8, trace=True)
    point = evaluate(result, network).points[-1]
    inner = result.traces[1].spikes
    repeated = inner[:, :, OWN_CHANNELS:]
    exact = (repeated * network.fan_outs[1][OWN_CHANNELS:]).sum() / 5
    # 4 kernels at each of 36 positions: 4 x 16 x 16 of 36 x 36 taps; the rest lies outside the map.
    assert point.relay_synaptic_operations == pytest.approx(repeated.sum() / 5 * 4 * 16 * 16 / 36)
    assert point.relay_synaptic_operations == pytest.approx(exact, rel=0.1)


def test_operations_of_relays_are_never_more_than_those_of_the_layer() -> None:
    """Their estimate may be, if only neurons at the border, which reach fewer synapses, have fired."""
    network = residual_network()
    result = run_network(network, residual_images(2), 4)
    work = relay_work(replace(result, synaptic_operations=np.full_like(result.synaptic_operations, 1)), network)
    assert work.spikes[-1, 1] > 8
    assert work.synaptic_operations[-1].tolist() == [0, 8, 0]


def test_macs_of_the_cnn_ignore_relays() -> None:
    network = residual_network()
    layers = evaluate(run_network(network, residual_images(1), 1), network).layers
    # Along an axis of 6 a padded kernel of 3 has 16 taps inside the map.
    own = np.count_nonzero(network.layers[1].weight[:OWN_CHANNELS], axis=(0, 1)) * np.outer([5, 6, 5], [5, 6, 5])
    assert layers[1].multiply_accumulates == own.sum()


def test_without_spikes_by_channel_the_rates_beside_relays_are_unknown() -> None:
    network = residual_network()
    result = replace(run_network(network, residual_images(5), 8), channel_spikes=())
    point = evaluate(result, network).points[-1]
    assert [rate is None for rate in point.firing_rate] == [False, True, False]
    assert point.activation_sparsity is None
    assert (point.relay_spikes_per_image, point.relay_synaptic_operations) == (None, None)
    assert point.spikes_per_image == pytest.approx(result.spike_counts.sum() / 5)


def test_energy_includes_relays() -> None:
    network, images = residual_network(), residual_images(5)
    result = run_network(network, images, 8)
    evaluation = evaluate(result, network)
    for point, one in zip(evaluation.points, evaluation.energy.estimates, strict=True):
        assert one.membrane_updates == (4 + 7 + 4) * 36 * point.timesteps + 3 * point.timesteps
        assert one.relay_membrane_updates == RELAYS * 36 * point.timesteps
        assert one.relay_spikes == point.relay_spikes_per_image
        assert one.relay_synaptic_operations == point.relay_synaptic_operations
        constants = zip(SYNAPTIC_ENERGY, UPDATE_ENERGY, SPIKE_ENERGY, strict=True)
        for (synapse, update, spike), found in zip(constants, one.relay_loihi1_joules, strict=True):
            parts = synapse.value * one.relay_synaptic_operations, update.value * one.relay_membrane_updates
            assert found == pytest.approx(sum(parts) + spike.value * one.relay_spikes)
    unknown = evaluate(replace(result, channel_spikes=()), network).energy
    assert unknown.estimates[-1].relay_loihi1_joules is None
    assert unknown.estimates[-1].loihi1_joules == evaluation.energy.estimates[-1].loihi1_joules


def test_resources_count_relays_and_name_their_cores() -> None:
    """2 channels and 6 relays on 64 x 64 pixels: 16 cores of 2,048 neurons, and 4 without relays. The 6 channels
    before: 8 cores of 3,072.
    """
    weight = np.zeros((8, 6, 1, 1), np.int32)
    weight[:2] = 1
    weight[np.arange(2, 8), np.arange(6), 0, 0] = 1
    relay_of = np.array([-1, -1, 0, 1, 2, 3, 4, 5])
    synapses = [
        Populated("first", Conv(np.ones((6, 1, 1, 1), np.int32))),
        Populated("second", Conv(weight), None, relay_of),
    ]
    chips = resources((1, 64, 64), synapses)
    first, second = chips.layers
    assert (first.relay_neurons, first.cores, first.relay_cores) == (0, (8, 8), (0, 0))
    assert (second.neurons, second.relay_neurons) == (8 * 4096, 6 * 4096)
    assert (second.cores, second.relay_cores) == ((16, 16), (12, 12))
    assert (chips.cores, chips.relay_cores) == ((24, 24), (12, 12))
    table = resource_table(chips)
    assert "24 of 128 neurocores, 12 of them for relays" in table.caption
    assert [row[1] for row in table.rows] == ["24,576", "8,192 + 24,576"]


def test_cores_of_dense_relays() -> None:
    """A dense matrix stores the zeros of relays, too. 100 words a row hold 319 neurons, 50 words 159: 4 to 8 cores for
    1,160 neurons, 4 to 7 for the 1,000 that are not relays.
    """
    weight = np.ones((1160, 160), np.int32)
    weight[1000:] = np.eye(160)
    relay_of = np.concatenate([np.full(1000, -1), np.arange(160)])
    first = Populated("first", Dense(np.ones((160, 4), np.int32)))
    _, layer = resources((4,), [first, Populated("second", Dense(weight), None, relay_of)]).layers
    assert (layer.cores, layer.relay_neurons, layer.relay_cores) == ((4, 8), 160, (0, 1))


def with_dead_stem(network: QuantizedNetwork) -> QuantizedNetwork:
    """The first channel of `stem` can never fire. Its relay could, but never receives a spike."""
    stem = network.layers[0]
    threshold = stem.neuron.threshold.copy()
    threshold[0] = limits.NEVER_FIRES
    weight = stem.weight.copy()
    weight[0] = 0
    neuron = replace(stem.neuron, threshold=threshold)
    return replace(
        network,
        layers=(replace(stem, neuron=neuron, synapse=replace(stem.synapse, weight=weight)), *network.layers[1:]),
    )


def with_dead_relay(network: QuantizedNetwork) -> QuantizedNetwork:
    """The first relay can never fire, because its channel is known to be dead."""
    inner = network.layers[1]
    threshold, weight = inner.neuron.threshold.copy(), inner.weight.copy()
    threshold[OWN_CHANNELS], weight[OWN_CHANNELS] = limits.NEVER_FIRES, 0
    changed = replace(
        inner, neuron=replace(inner.neuron, threshold=threshold), synapse=replace(inner.synapse, weight=weight)
    )
    return replace(network, layers=(network.layers[0], changed, *network.layers[2:]))


def findings_of(network: QuantizedNetwork, folder: Path, images: Array) -> list[tuple[str, str | None, str]]:
    netx.write(network, folder / "model.net")
    checked = checking.check(load_file(folder / "model.net"), images, CheckOptions(timesteps=8))
    return [(finding.rule, finding.layer, finding.found) for finding in checked.findings]


@pytest.mark.parametrize(
    "network", [with_dead_stem(residual_network()), with_dead_relay(with_dead_stem(residual_network()))]
)
def test_a_silent_channel_is_named_and_its_relay_is_not(network: QuantizedNetwork, tmp_path: Path) -> None:
    found = findings_of(network, tmp_path, residual_images(20))
    about_channels = [entry for entry in found if "channel" in entry[0]]
    dead = ("every channel can fire", "stem", "1 of 4 channels (0) can never fire in T = 8 steps")
    assert dead in about_channels
    assert not [entry for entry in about_channels if entry[1] == "inner"]


def test_a_saturated_channel_is_named_and_its_relay_is_not(tmp_path: Path) -> None:
    network = residual_network()
    stem = network.layers[0]
    bias = np.zeros(4, np.int32)
    bias[1] = 100_000
    weight = np.abs(stem.weight)
    network = replace(
        network,
        layers=(replace(stem, synapse=replace(stem.synapse, weight=weight, bias=bias)), *network.layers[1:]),
    )
    found = findings_of(network, tmp_path, residual_images(20))
    saturated = [entry[1:] for entry in found if entry[0] == "no channel is active at every step"]
    assert saturated == [("stem", "1 of 4 channels (1) fire at every step and position of 20 images")]


def test_silent_channels_of_the_cnn_do_not_name_relays() -> None:
    cnn, _ = float_networks(with_dead_stem(residual_network()))
    found = dict(cnn_activity(cnn, residual_images(20)))
    assert found["stem"].firing_rate[0] == found["inner"].firing_rate[OWN_CHANNELS] == 0
    named = [finding.layer for finding in findings(CNN_ACTIVITY_RULES, found.items(), "lava")]
    assert named == ["stem"]


def test_own_channels_are_counted_in_findings() -> None:
    network = residual_network()
    inner = network.layers[1]
    threshold = inner.neuron.threshold.copy()
    threshold[1] = limits.NEVER_FIRES
    weight = inner.weight.copy()
    weight[1] = 0
    changed = replace(
        inner, neuron=replace(inner.neuron, threshold=threshold), synapse=replace(inner.synapse, weight=weight)
    )
    network = replace(network, layers=(network.layers[0], changed, *network.layers[2:]))
    (found,) = findings(LAYER_RULES[1:2], layer_runs(NetworkRun(network, 8)), "lava")
    assert (found.layer, found.found) == ("inner", "1 of 3 channels (1) can never fire in T = 8 steps")


def test_check_lists_relays_separately(tmp_path: Path) -> None:
    netx.write(residual_network(), tmp_path / "model.net")
    checked = checking.check(load_file(tmp_path / "model.net"))
    assert [layer.relay_neurons for layer in checked.chips.layers] == [0, RELAYS * 36, 0, 0]
    assert [row[1] for row in resource_table(checked.chips).rows] == ["144", "108 + 144", "144", "3"]


def test_the_table_of_a_network_lists_relays_separately() -> None:
    network = residual_network()
    inner = network.layers[1]
    weight = inner.weight.copy()
    weight[:OWN_CHANNELS] = np.clip(weight[:OWN_CHANNELS], -3, 3)
    changed = replace(inner, synapse=replace(inner.synapse, weight=weight))
    network = replace(network, layers=(network.layers[0], changed, *network.layers[2:]))
    table = network_table(network)
    row = dict(zip(table.headers, table.rows[1], strict=True))
    assert row["neurons\n+ relays"] == "108 + 144"
    assert row["weight\nbits"] == "3"
    own = inner.threshold[:OWN_CHANNELS]
    assert row["thresholds"] == f"{own.min()}..{own.max()}"
