"""A growing simulation against one that starts from the images at every layer; spikes that fit the memory or do not."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loihi_convert.conversion.balancing import balance, correct_biases
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.network import ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.simulation import image_shards, simulator
from loihi_convert.simulation.currents import Inputs
from loihi_convert.simulation.layers import CpuLayer
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.relu import ReluChain, cnn_activation, unchanged
from loihi_convert.simulation.simulator import extremes

TIMESTEPS = 7


def network() -> ReluNetwork:
    """Five layers whose weights are eighths: with pixels of 0 and 255, and spikes worth 1, float32 is exact."""
    rng = np.random.default_rng(0)

    def eighths(*shape: int) -> Array:
        return rng.integers(-8, 12, shape) / 8

    layers = (
        ReluLayer("conv1", Conv(eighths(5, 1, 3, 3), eighths(5))),
        ReluLayer("conv2", Conv(eighths(6, 5, 2, 2), pool=(2, 2))),
        ReluLayer("conv3", Conv(eighths(4, 6, 2, 2), eighths(4), padding=(1, 1))),
        ReluLayer("fc1", Dense(eighths(9, 36))),
        ReluLayer("fc2", Dense(eighths(4, 9), eighths(4))),
    )
    return ReluNetwork((1, 9, 9), layers)


def images() -> Array:
    return (np.random.default_rng(1).integers(0, 2, (11, 1, 9, 9)) * 255).astype(np.uint8)


# Room for all spikes, for those of some images, for none; blocks of all images and steps, or of few.
MEMORY = st.sampled_from([0, 2**31]) | st.integers(0, 3000)
MOMENTS = st.sampled_from([2**22]) | st.integers(1, 3000)


@given(MEMORY, MOMENTS, st.none() | st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_equals_simulations_from_the_images(memory: int, moments: int, poisson_seed: int | None) -> None:
    """Whatever is kept, and in however many blocks of images and steps."""
    with mock.patch.object(image_shards, "_CPU_BLOCK", moments):
        _compare_with_simulations_from_the_images(memory, poisson_seed)


def _compare_with_simulations_from_the_images(memory: int, poisson_seed: int | None) -> None:
    cnn = network()
    balanced = balance(
        cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee", amplitude="literal", poisson_seed=poisson_seed)
    )
    simulation = GrowingSimulation(cnn, images(), TIMESTEPS, "soft", memory=memory, poisson_seed=poisson_seed)
    for index, layer in enumerate(cnn.layers):
        fixed = balanced.layers[:index]
        found = simulation.largest_currents(fixed)
        partial = SpikingNetwork(
            cnn.input_shape,
            (*fixed, SpikingLayer(layer.name, layer.synapse, None)),
            TIMESTEPS,
            "soft",
            poisson_seed=poisson_seed,
        )
        assert np.array_equal(found, extremes(partial, images(), TIMESTEPS).currents[-1])


# Room for all spikes, or for none; whole blocks of steps, or parts.
@pytest.mark.parametrize("memory", [2**31, 0])
@pytest.mark.parametrize("moments", [2**22, 300])
def test_mean_excess_is_the_difference_of_the_mean_currents(
    monkeypatch: pytest.MonkeyPatch, memory: int, moments: int
) -> None:
    """The potential after T steps of a layer that only integrates is T times its mean current, bias included."""
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", moments)
    cnn = network()
    balanced = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee"))
    simulation = GrowingSimulation(cnn, images(), TIMESTEPS, "soft", memory=memory)
    simulation.largest_currents([])
    for index in range(1, len(cnn.layers)):
        fixed = balanced.layers[:index]
        found = simulation.mean_excess(fixed)
        # What was kept serves another pass of the same layers.
        assert np.array_equal(simulation.mean_excess(fixed), found)
        simulation.largest_currents(fixed)
        layer = cnn.layers[index]
        potentials: list[Array] = []
        partial = SpikingNetwork(
            cnn.input_shape, (*fixed, SpikingLayer(layer.name, layer.synapse, None)), TIMESTEPS, "soft"
        )

        def take(block: simulator.Block, potentials: list[Array] = potentials) -> None:
            recorded = block.layers[-1].potentials
            if block.steps.stop == TIMESTEPS:
                potentials.append(recorded[:, -1])

        simulator.Simulator(partial).run(images(), TIMESTEPS, take)
        before = [cnn_activation(cnn, number) for number in range(index)]
        wanted = ReluChain(cnn, depth=index + 1, activations=[*before, unchanged])(images())[-1]
        mean = np.concatenate(potentials).mean(axis=(0, 1, 2), dtype=np.float64) / TIMESTEPS
        assert found == pytest.approx(mean - wanted.mean(axis=(0, 1, 2), dtype=np.float64), rel=1e-5, abs=1e-5)


def test_on_a_gpu() -> None:
    """torch's CPU by another name takes the same code as a GPU."""
    cnn = network()
    by_cpu = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee", amplitude="literal"))
    by_gpu = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee", amplitude="literal"), device="cpu:0")
    for found, expected in zip(by_gpu.layers[:-1], by_cpu.layers, strict=False):
        assert np.array_equal(found.neuron.threshold, expected.neuron.threshold)


@pytest.mark.parametrize(("memory", "passes"), [(2**31, 3), (0, 5)])
def test_kept_spikes_are_not_simulated_again(monkeypatch: pytest.MonkeyPatch, memory: int, passes: int) -> None:
    """From the third layer on no pass begins with the images; without memory all five do."""
    begun: list[int] = []
    inputs = Inputs.__call__

    def counted(self: Inputs, part: Array, first_image: int, first_step: int, steps: int) -> Array:
        begun.append(len(part))
        return inputs(self, part, first_image, first_step, steps)

    cnn = network()
    balanced = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee", amplitude="literal"))
    monkeypatch.setattr(Inputs, "__call__", counted)
    simulation = GrowingSimulation(cnn, images(), TIMESTEPS, "soft", memory=memory)
    for index in range(len(cnn.layers)):
        simulation.largest_currents(balanced.layers[:index])
    assert sum(begun) == passes * len(images())


def test_no_layer_of_the_cnn_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are fitted to the activations of one layer after another, each computed from those of the one before."""
    begun: list[int] = []
    chain = ReluChain.__call__

    def counted(self: ReluChain, part: Array) -> list[Array]:
        begun.append(len(part))
        return chain(self, part)

    cnn = network()
    balanced = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee"))
    monkeypatch.setattr(ReluChain, "__call__", counted)
    for memory, passes in ((2**31, 1), (0, 4)):
        begun.clear()
        simulation = GrowingSimulation(cnn, images(), TIMESTEPS, "soft", whole=True, memory=memory)
        for index in range(len(cnn.layers) - 1):
            thresholds = np.ones((2, cnn.layers[index].synapse.channels))
            simulation.rate_errors(balanced.layers[:index], thresholds, thresholds / 2)
        assert sum(begun) == passes * len(images())


@pytest.mark.parametrize("poisson_seed", [None, 3])
def test_currents_to_which_thresholds_were_fitted_make_the_layer_fire(
    monkeypatch: pytest.MonkeyPatch, poisson_seed: int | None
) -> None:
    """Each layer's currents are computed once; nothing that is found depends on that."""
    computed: list[int] = []
    currents_of = CpuLayer.currents_of

    def counted(self: CpuLayer, inputs: torch.Tensor) -> torch.Tensor:
        computed.append(self._shape[2])
        return currents_of(self, inputs)

    cnn = network()
    balanced = balance(cnn, images(), TIMESTEPS, BalanceOptions(method="ngu-lee", poisson_seed=poisson_seed))
    monkeypatch.setattr(CpuLayer, "currents_of", counted)
    found = []
    for memory in (2**31, 0):
        computed.clear()
        simulation = GrowingSimulation(
            cnn, images(), TIMESTEPS, "soft", whole=True, memory=memory, poisson_seed=poisson_seed
        )
        errors = []
        for index in range(len(cnn.layers) - 1):
            fixed = balanced.layers[:index]
            excess = simulation.mean_excess(fixed) if index else 0.0
            thresholds = np.ones((2, cnn.layers[index].synapse.channels))
            errors.append((excess, simulation.rate_errors(fixed, thresholds, thresholds / 2).errors))
        found.append((errors, list(computed)))
    (kept, once), (simulated, _) = found
    assert once == [layer.synapse.channels for layer in cnn.layers[:-1]]
    for mine, other in zip(kept, simulated, strict=True):
        assert all(np.array_equal(*both) for both in zip(mine, other, strict=True))


@pytest.mark.parametrize("memory", [2**31, 0])
def test_a_layer_may_use_the_first_images_only(memory: int) -> None:
    """As if there were no others; whole blocks of 64."""
    cnn = network()
    photos = (np.random.default_rng(4).integers(0, 2, (300, 1, 9, 9)) * 255).astype(np.uint8)
    balanced = balance(cnn, photos, TIMESTEPS, BalanceOptions(method="ngu-lee"))
    simulation = GrowingSimulation(
        cnn, photos, TIMESTEPS, "soft", whole=True, most_images=(10, 65, 64, 200, 999), memory=memory
    )
    seen: list[tuple[int, int]] = []
    for index, count in enumerate((64, 128, 64, 256, 300)):
        fixed, thresholds = balanced.layers[:index], np.ones((2, cnn.layers[index].synapse.channels))
        fewer = GrowingSimulation(cnn, photos[:count], TIMESTEPS, "soft", whole=True)
        if index:
            assert np.array_equal(simulation.mean_excess(fixed), fewer.mean_excess(fixed))
        with progress_to(lambda *state: seen.append(state)):
            found = simulation.rate_errors(fixed, thresholds, thresholds / 2)
        assert np.array_equal(found.errors, fewer.rate_errors(fixed, thresholds, thresholds / 2).errors)
        assert seen[-1] == (count, count)


@pytest.mark.parametrize("moments", [2**22, 2000])
def test_no_bit_depends_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch, moments: int) -> None:
    """Sums of floating-point numbers over images: of rates' errors, and of currents."""
    monkeypatch.setattr(image_shards, "_CPU_BLOCK", moments)
    rng = np.random.default_rng(2)
    layers = tuple(
        ReluLayer(layer.name, layer.synapse.with_input_factors(rng.random(channels)))
        for layer, channels in zip(network().layers, (1, 5, 6, 4, 9), strict=True)
    )
    cnn = ReluNetwork((1, 9, 9), layers)
    photos = rng.integers(0, 256, (150, 1, 9, 9)).astype(np.uint8)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        balanced = balance(cnn, photos, TIMESTEPS, BalanceOptions(method="least-squares", reset="hard"))
        corrected = correct_biases(cnn, balanced, photos)
        values = [layer.correction for layer in corrected.layers[1:]]
        values += [getattr(layer.neuron, name) for layer in balanced.layers[:-1] for name in ("threshold", "amplitude")]
        found.append([value.tobytes() for value in values])
    assert found[0] == found[1]
