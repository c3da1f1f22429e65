"""The compiled pass of integrate, fire, reset and pool, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.synapse import Dense
from loihi_convert.simulation.layers import (
    CpuLayer,
    LayerBlock,
    LayerSpec,
    RateErrors,
    Recording,
    one_step,
    rate_errors,
)

EVERYTHING = Recording(potentials=True, spikes=True, counts=True, currents=True, clipping=True)


def spec(
    shape: Shape, threshold: Array, initial: Array, *, bias: Array | None = None, limit: float = math.inf,
    is_soft: bool = True, is_integer: bool = True, pool: Pair = (1, 1), fan_out: Array | None = None,
) -> LayerSpec:  # fmt: skip
    """Neurons of ``shape`` after a synapse of which only the bias matters."""
    synapse = Dense(np.zeros((len(threshold), 1)), bias)
    neuron = NeuronModel.SOFT if is_soft else NeuronModel.HARD
    return LayerSpec(synapse, (1,), False, shape, threshold, initial, limit, neuron, is_integer, pool, fan_out)


class Neurons:
    """The neurons of a `CpuLayer`, with NumPy arrays."""

    def __init__(self, layer: LayerSpec) -> None:
        self.layer = CpuLayer(layer)

    def initial_states(self, images: int) -> Array:
        return self.layer.initial_states(images).numpy()

    def fire(self, states: Array | None, currents: Array, steps: int, recording: Recording) -> tuple[Array, LayerBlock]:
        before = None if states is None else torch.from_numpy(states)
        pooled, block = self.layer.fire(before, torch.from_numpy(currents), steps, recording)
        return pooled.numpy(), block


def plain(
    currents: Array, threshold: Array, initial: Array, bias: Array, limit: float, is_soft: bool
) -> tuple[Array, Array, Array]:
    """Spikes and potentials, ``(B, T, H, W, C)``, and clipped, ``(B, 2)``, for currents of the first shape."""
    v = np.broadcast_to(initial, currents[:, 0].shape).astype(np.float64)
    spikes, potentials = np.zeros(currents.shape, bool), np.zeros(currents.shape)
    clipped = np.zeros((len(currents), 2), bool)
    for step in range(currents.shape[1]):
        v = v + currents[:, step] + bias
        flat = v.reshape(len(v), -1)
        clipped |= np.stack([flat.min(axis=1) < -limit, flat.max(axis=1) > limit], axis=1)
        v = np.clip(v, -limit, limit)
        spikes[:, step] = v >= threshold
        v = np.where(spikes[:, step], v - threshold if is_soft else 0, v)
        potentials[:, step] = v
    return spikes, potentials, clipped


def windows(spikes: Array, pool: tuple[int, int]) -> Array:
    """``(B, T, H', W', C)``: spikes summed over each whole window."""
    images, steps, height, width, channels = spikes.shape
    (pool_h, pool_w), rows, columns = pool, height // pool[0], width // pool[1]
    whole = spikes[:, :, : rows * pool_h, : columns * pool_w]
    return whole.reshape(images, steps, rows, pool_h, columns, pool_w, channels).sum(axis=(3, 5))


@given(
    seed=st.integers(0, 2**32), channels=st.sampled_from([1, 3, 4, 8, 12, 16, 33]), height=st.integers(1, 9),
    width=st.integers(1, 70), pool=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1), (2, 3), (16, 17)]),
    is_constant=st.booleans(), is_soft=st.booleans(), bias_axes=st.sampled_from([0, 1, 3]),
    goes_on=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_equals_plain_loops(
    seed: int, channels: int, height: int, width: int, pool: tuple[int, int], is_constant: bool,
    is_soft: bool, bias_axes: int, goes_on: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    height, width = max(height, pool[0]), max(width, pool[1])
    images, steps, shape = 3, 5, (channels, height, width)
    threshold = rng.integers(1, 60000, channels)
    initial = (threshold * rng.random(channels)).astype(np.int64)
    bias = None if bias_axes == 0 else rng.integers(-9000, 9000, shape[:bias_axes])
    fan_out = np.zeros(shape, np.int64)
    rows, columns = height // pool[0], width // pool[1]
    per_window = rng.integers(0, 500, (channels, rows, columns)).repeat(pool[0], axis=1).repeat(pool[1], axis=2)
    fan_out[:, : per_window.shape[1], : per_window.shape[2]] = per_window
    currents = rng.integers(-40000, 60000, (images, 1 if is_constant else steps, height, width, channels))
    neurons = Neurons(
        spec(shape, threshold, initial, bias=bias, limit=131071, is_soft=is_soft, pool=pool, fan_out=fan_out)
    )
    state = neurons.initial_states(images) if goes_on else None
    pooled, block = neurons.fire(
        state, currents.astype(np.float32).reshape(images, -1, math.prod(shape)), steps, EVERYTHING
    )
    full_bias = np.zeros(1) if bias is None else bias if bias.ndim == 1 else bias.transpose(1, 2, 0)
    shown = np.broadcast_to(currents, (images, steps, *currents.shape[2:]))
    spikes, potentials, clipped = plain(shown, threshold, initial, full_bias, 131071, is_soft)
    assert np.array_equal(block.spikes, spikes)
    assert np.array_equal(block.potentials, potentials)
    assert state is None or np.array_equal(state.reshape(potentials[:, -1].shape), potentials[:, -1])
    assert pooled.dtype == (np.uint8 if math.prod(pool) <= 255 else np.float32)
    assert np.array_equal(pooled, windows(spikes, pool))
    assert np.array_equal(block.spike_counts, spikes.sum(axis=(2, 3, 4)))
    assert np.array_equal(block.channel_spikes, spikes.sum(axis=(0, 2, 3)))
    assert np.array_equal(block.synaptic_operations, (spikes * fan_out.transpose(1, 2, 0)).sum(axis=(2, 3, 4)))
    assert np.array_equal(block.largest_current, (currents + full_bias).max(axis=(0, 1, 2, 3)))
    assert np.array_equal(block.clipped, clipped)


def test_large_fan_outs_are_added_exactly() -> None:
    """float32 does not hold 2^24 + 1: 3 neurons that all fire reach 3 x 2^24 + 3 synapses."""
    neurons = Neurons(spec((3,), np.ones(3), np.zeros(3), fan_out=np.full(3, 2**24 + 1)))
    _, block = neurons.fire(None, np.ones((1, 1, 3), np.float32), 1, Recording(counts=True))
    assert block.synaptic_operations.tolist() == [[3 * 2**24 + 3]]


@pytest.mark.parametrize(("width", "channels"), [(7, 200), (9, 300), (13, 64), (12, 700)])
def test_spikes_of_each_channel_are_counted_in_any_number_of_counters(width: int, channels: int) -> None:
    rng = np.random.default_rng(0)
    shape = (channels, 2, width)
    currents = rng.integers(0, 2, (2, 3, math.prod(shape))).astype(np.float32)
    neurons = Neurons(spec(shape, np.ones(channels), np.zeros(channels)))
    _, block = neurons.fire(None, currents, 3, Recording(counts=True))
    assert np.array_equal(block.channel_spikes, currents.reshape(2, 3, -1, channels).sum(axis=(0, 2)))


def test_two_calls_go_on_where_the_first_ended() -> None:
    rng = np.random.default_rng(0)
    currents = rng.integers(-100, 900, (2, 7, 6)).astype(np.float32)
    neurons = Neurons(spec((6,), np.full(6, 1000), np.full(6, 500)))
    whole = neurons.fire(None, currents, 7, Recording(spikes=True))[1].spikes
    state = neurons.initial_states(2)
    parts = [
        neurons.fire(state, np.ascontiguousarray(currents[:, part]), part.stop - part.start, Recording(spikes=True))[1]
        for part in (slice(0, 3), slice(3, 7))
    ]
    assert np.array_equal(np.concatenate([part.spikes for part in parts], axis=1), whole)


def test_real_thresholds_are_reached_at_equality() -> None:
    """V >= threshold in float32, to the last bit: the number before the threshold does not fire."""
    threshold = np.float32(0.1)
    currents = np.array([threshold, np.nextafter(threshold, np.float32(0))], np.float32).reshape(1, 1, 2)
    neurons = Neurons(spec((2,), np.full(2, threshold), np.zeros(2), is_integer=False))
    _, block = neurons.fire(None, currents, 1, EVERYTHING)
    assert block.spikes.ravel().tolist() == [1, 0]
    assert block.potentials.ravel().tolist() == [0, currents[0, 0, 1]]


def test_lavas_lif_fires_above_threshold_minus_one() -> None:
    """At its limit, 131071 + 63/64, it reaches every threshold but 131073: v > vThMant (DESIGN of Lava's LIF)."""
    currents = np.full((1, 1, 2), 131071 + 65535, np.float32)
    limit = 131072 - 2**-6
    neurons = Neurons(spec((2,), np.array([131072, 131073]), np.zeros(2), limit=limit, is_soft=False))
    _, block = neurons.fire(None, currents, 1, EVERYTHING)
    assert block.spikes.ravel().tolist() == [1, 0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_neurons_of_infinite_threshold_never_spend(value: float) -> None:
    neurons = Neurons(spec((1,), np.array([np.inf]), np.zeros(1), is_integer=False))
    _, block = neurons.fire(None, np.full((1, 1, 1), value, np.float32), 1, EVERYTHING)
    assert (block.spikes.item(), block.potentials.item()) == (0, np.float32(value))


@pytest.mark.parametrize("is_soft", [True, False])
@pytest.mark.parametrize("is_constant", [True, False])
def test_rate_errors_equal_plain_loops(is_soft: bool, is_constant: bool) -> None:
    """Dyadic numbers, so that float32 is exact; more neurons than are taken together."""
    rng = np.random.default_rng(0)
    images, steps, shape = 3, 4, (4, 40, 20)
    neurons, count = math.prod(shape), 5
    bias = rng.integers(-8, 8, 4) / 8
    currents = rng.integers(-8, 40, (images, 1 if is_constant else steps, neurons)) / 8
    activations = rng.integers(0, 40, (images, neurons)) / 8
    thresholds = rng.integers(1, 60, (count, 4)) / 8
    layer = spec(shape, np.ones(4), np.zeros(4), bias=bias, is_soft=is_soft, is_integer=False)
    found = rate_errors(
        layer, currents.astype(np.float32), activations.astype(np.float32), thresholds, thresholds / 2, steps
    )  # fmt: skip
    shown = np.broadcast_to(currents, (images, steps, neurons))[..., None, None].reshape(images, steps, 40, 20, 4)
    for tried, threshold in enumerate(thresholds):
        spikes, _, _ = plain(shown, threshold, threshold / 2, bias, math.inf, is_soft)
        errors = (spikes.sum(axis=1) * threshold / steps - activations.reshape(images, 40, 20, 4)) ** 2
        assert found.errors[tried] == pytest.approx(errors.sum(axis=(0, 1, 2)), rel=1e-6)


def test_the_worth_that_brings_rates_nearest_to_activations() -> None:
    """Threshold 1, one step: 1.5 and 2.5 fire, 0.5 does not. sum r x / sum r^2 = 4 / 2.

    What is left is 0.5^2 + (2 - 1.5)^2 + (2 - 2.5)^2. Threshold 4: nothing fires, a spike is worth its threshold.
    """
    activations = np.array([[0.5], [1.5], [2.5]], np.float32)
    layer = spec((1,), np.ones(1), np.zeros(1), is_soft=False, is_integer=False)
    thresholds = np.array([[1.0], [4.0]])
    halves = [rate_errors(layer, part[:, None], part, thresholds, 0 * thresholds, 1)
              for part in (activations[:1], activations[1:])]  # fmt: skip
    found = halves[0] + halves[1]
    assert found.errors.ravel().tolist() == [0.25 + 0.25 + 2.25, 0.25 + 2.25 + 6.25]
    assert found.amplitude_factors.ravel().tolist() == [2.0, 1.0]
    assert found.least_errors.ravel().tolist() == [0.75, 0.25 + 2.25 + 6.25]


def test_the_worth_of_a_spike_is_never_negative() -> None:
    """It fires only where the activation is 0, so the error is sum r^2 + sum x^2, here with a rounding error."""
    found = RateErrors(errors=np.array([[np.nextafter(1.25, 2)]]), rates=np.ones((1, 1)), activations=np.array([0.25]))
    assert found.amplitude_factors.tolist() == [[0.0]]
    assert found.least_errors.tolist() == [[0.25]]


@pytest.mark.parametrize("model", NeuronModel)
@pytest.mark.parametrize("is_last", [False, True])
def test_the_kernels_equal_one_step_in_plain_tensors(model: NeuronModel, is_last: bool) -> None:
    rng = np.random.default_rng(3)
    threshold = np.array([900, 40000, 131000, 7])
    neurons = LayerSpec(
        *(Dense(np.zeros((4, 1)), np.array([5, -3, 0, 60])), (1,), False, (4, 2, 3)),
        *(None if is_last else threshold, None if is_last else threshold // 2, model.limit, model, True, (1, 1), None),
    )
    currents = rng.integers(-90000, 90000, (3, 40, 24)).astype(np.float32)
    pooled, block = Neurons(neurons).fire(None, currents, 40, EVERYTHING)
    tensors = neurons.neurons.on("cpu")
    states = tensors.initial.repeat(3, 1)
    for step in range(40):
        states, potentials, spikes = one_step(tensors, states, torch.from_numpy(currents[:, step]))
        assert np.array_equal(block.potentials[:, step].reshape(3, -1), potentials.numpy())
        assert np.array_equal(pooled[:, step].reshape(3, -1), spikes.float().numpy())
    assert pooled.any() != is_last
