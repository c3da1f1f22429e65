"""The largest currents found by bounds against those of all currents, error 0: weights whose sums float32 holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.simulation import largest_currents
from loihi_convert.simulation.currents import Currents
from loihi_convert.simulation.device import CpuLayer
from loihi_convert.simulation.largest_currents import LargestCurrents
from loihi_convert.simulation.layer_spec import LayerSpec
from loihi_convert.simulation.neurons import Neurons
from loihi_convert.simulation.simulator import layers_on


def stage_of(synapse: Synapse, input_shape: Shape) -> LayerSpec:
    return LayerSpec(
        synapse=synapse,
        input_shape=input_shape,
        takes_spikes=True,
        shape=synapse.output_shape(input_shape),
        threshold=None,
        initial_potential=None,
        limit=math.inf,
        neuron=NeuronModel.SOFT,
        is_integer=False,
        pool=(1, 1),
        fan_out=None,
    )


def uses_bounds(synapse: Synapse, input_shape: Shape) -> bool:
    """Whether the currents themselves are not computed."""
    spec = stage_of(synapse, input_shape)

    class Unused(Currents):
        def __call__(self, inputs: Array) -> Array:
            raise AssertionError

    unused = Unused(synapse, input_shape, averages=True, takes_spikes=True)
    height, width = (size // pool for size, pool in zip((*input_shape, 1, 1)[1:3], synapse.pool, strict=True))
    inputs = torch.ones(1, 1, height, width, input_shape[0], dtype=torch.uint8)
    try:
        LargestCurrents(spec, CpuLayer(unused, Neurons(spec)), (1,)).take(0, inputs)
    except AssertionError:
        return False
    return True


def random_synapse(rng: np.random.Generator) -> tuple[Synapse, Shape]:
    """Of more than 100 inputs a neuron; multiples of 2^-10 below 4, some channels dead, some never excited."""
    height, width = (int(size) for size in rng.integers(4, 9, 2))
    pool = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    outputs = int(rng.integers(1, 7))
    if rng.integers(2):
        inputs = int(rng.integers(26, 40))
        weight = rng.integers(-4096, 4097, (outputs, inputs, 2, 3)) / 1024
        stride, padding, dilation = (tuple(int(n) for n in rng.integers(low, 3, 2)) for low in (1, 0, 1))
        pad = (min(padding[0], 1), min(padding[1], 1))
        shape = (inputs, (height + 2) * pool[0], (width + 2) * pool[1])
        synapse: Synapse = Conv(weight, None, stride, pad, dilation, 1, pool)
    else:
        shape = (9, height * pool[0], width * pool[1])
        weight = rng.integers(-4096, 4097, (outputs, 9 * height * width)) / 1024
        synapse = Dense(weight, None, pool)
    weight = np.array(weight)
    weight[rng.random(outputs) < 0.2] = 0
    for relay in np.flatnonzero(rng.random(outputs) < 0.2):
        is_tap = np.arange(weight[relay].size) == rng.integers(0, weight[relay].size)
        weight[relay] *= is_tap.reshape(weight[relay].shape)
    inhibited = rng.random(outputs) < 0.2
    weight[inhibited] = -np.abs(weight[inhibited])
    out = synapse.output_shape(shape)
    bias = rng.integers(-4096, 4097, out if rng.integers(2) else outputs) / 1024
    if isinstance(synapse, Conv):
        return Conv(weight, bias, synapse.stride, synapse.padding, synapse.dilation, 1, pool), shape
    return Dense(weight, bias.reshape(outputs, -1)[:, 0], pool), shape


@given(seed=st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_equal_the_largest_of_all_currents(seed: int) -> None:
    """Any geometry, biases of channels or of neurons, sparse spikes or dense, the same steps in parts."""
    rng = np.random.default_rng(seed)
    synapse, shape = random_synapse(rng)
    spec = stage_of(synapse, shape)
    layer = layers_on("cpu", [spec])[0]
    _, height, width = shape
    rows, columns = height // synapse.pool[0], width // synapse.pool[1]
    window = math.prod(synapse.pool)
    spikes = rng.binomial(window, rng.choice([0.02, 0.3, 1.0]), (5, 6, rows, columns, shape[0]))
    inputs = torch.from_numpy(spikes.astype(np.uint8))
    largest = LargestCurrents(spec, layer, (2, 3, 6))
    for image in range(5):
        for first in (0, 4):
            largest.take(first, inputs[image : image + 1, first : first + 4 if first == 0 else 6])
    currents = layer.currents_of(inputs).numpy() + spec.biases
    channels = synapse.channels
    for found, after in zip(largest.found(), (2, 3, 6), strict=True):
        assert np.array_equal(found, currents[:, :after].reshape(-1, channels).max(axis=0))


def test_where_rounding_reverses_the_order() -> None:
    """One weight of 127 and 300 of 0.49: rounded, these are 0, but together they bring 147."""
    weight = np.concatenate([[127.0], np.full(300, 0.49)])
    synapse, shape = Conv(weight.reshape(1, 301, 1, 1)), (301, 1, 2)
    spec = stage_of(synapse, shape)
    spikes = np.zeros((1, 1, 1, 2, 301), np.uint8)
    spikes[..., 0, 0] = 1
    spikes[..., 1, 1:] = 1
    largest = LargestCurrents(spec, layers_on("cpu", [spec])[0], (1,))
    largest.take(0, torch.from_numpy(spikes))
    assert largest.found() == pytest.approx(np.array([[147.0]]), rel=1e-6)


@pytest.mark.parametrize("relays", [0, 4])
def test_few_currents_are_summed(monkeypatch: pytest.MonkeyPatch, relays: int) -> None:
    """Of normal weights, at a tenth of the inputs spiking: the real weights are looked at for 1 current in 100.

    All currents of a relay that spikes are equal, and are looked at once.
    """
    rng = np.random.default_rng(0)
    weight, shape = rng.normal(size=(8, 64, 3, 3)), (64, 12, 12)
    weight[8 - relays :] = 0
    weight[range(8 - relays, 8), range(relays), 1, 1] = 1.3
    synapse = Conv(weight)
    spec = stage_of(synapse, shape)
    layer = layers_on("cpu", [spec])[0]
    largest = LargestCurrents(spec, layer, (40,))
    sums = 0
    current = largest_currents._current.py_func

    def counted(*arguments: object) -> object:
        nonlocal sums
        sums += 1
        return current(*arguments)

    monkeypatch.setattr(largest_currents, "_current", counted)
    monkeypatch.setattr(largest_currents, "raise_to_largest", largest_currents.raise_to_largest.py_func)
    spikes = torch.from_numpy((rng.random((4, 40, 12, 12, 64)) < 0.1).astype(np.uint8))
    for image in range(4):
        largest.take(0, spikes[image : image + 1])
    currents = layer.currents_of(spikes).numpy()
    assert largest.found() == pytest.approx(currents.reshape(1, -1, 8).max(axis=1), rel=1e-6)
    assert 0 < sums < currents.size / 100


@pytest.mark.parametrize(
    ("synapse", "shape", "bounded"),
    [
        (Conv(np.ones((2, 26, 2, 2))), (26, 4, 4), True),
        (Dense(np.ones((2, 101))), (101,), True),
        (Conv(np.ones((2, 25, 2, 2))), (25, 4, 4), False),  # 100 inputs: bounds take longer
        (Conv(np.ones((2, 26, 2, 2)), groups=2), (52, 4, 4), False),
        (Conv(np.ones((2, 26, 2, 2)), pool=(2, 65)), (26, 4, 130), False),  # 130 spikes a window
        (Dense(np.full((2, 101), 1e35)), (101,), True),
        (Dense(np.full((2, 101), 1e36)), (101,), False),  # 1e38 in all
        (Dense(np.full((2, 101), 1e39)), (101,), False),
    ],
)
def test_where_bounds_are_used(synapse: Synapse, shape: Shape, bounded: bool) -> None:
    has_bytes = Currents(Dense(np.ones((2, 9))), (9,), averages=False, takes_spikes=True).uses_int8
    assert uses_bounds(synapse, shape) == (bounded and has_bytes)
