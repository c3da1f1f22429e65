"""The form of the simulation for GPUs, on whatever device torch has here, against the one for CPUs, error 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import random_network

from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.devices import chosen_device
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.layers import Recording
from loihi_convert.simulation.simulator import Block, Simulator

# "meta" would compute nothing; torch's CPU by another name takes the same code as a GPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu:0"
EVERYTHING = Recording(potentials=True, spikes=True, counts=True, currents=True, clipping=True)


def recorded(network: QuantizedNetwork, images: Array, device: str) -> list[dict[str, Array]]:
    """Per layer, what was recorded of all images and steps."""
    blocks: list[Block] = []
    Simulator(network, EVERYTHING, device=device).run(images, 5, blocks.append)
    blocks.sort(key=lambda block: (block.images.start, block.steps.start))
    found = []
    for index in range(len(network.layers)):
        layers = [block.layers[index] for block in blocks]
        names = ("potentials", "spikes", "spike_counts", "synaptic_operations", "clipped")
        arrays = {name: np.concatenate([getattr(layer, name) for layer in layers]) for name in names}
        by_channel = np.sum([layer.channel_spikes for layer in layers], axis=0)
        largest = np.max([layer.largest_current for layer in layers], axis=0)
        found.append({**arrays, "channel_spikes": by_channel, "largest": largest})
    return found


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_the_cpu_in_everything_it_records(seed: int) -> None:
    network, images = random_network(seed, image_count=4)
    on_gpu, on_cpu = recorded(network, images, DEVICE), recorded(network, images, "cpu")
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    network, images = random_network(3, image_count=4)
    expected = recorded(network, images, "cpu")
    torch.set_default_dtype(dtype)
    try:
        found = recorded(network, images, DEVICE), recorded(network, images, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    for layers in found:
        for layer, wanted in zip(layers, expected, strict=True):
            assert all(np.array_equal(layer[name], values) for name, values in wanted.items())


def test_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == "cpu"
    with pytest.raises(UsageError) as raised:
        chosen_device("cuda")
    assert raised.value.where == "device"
    assert "`device='cpu'`" in raised.value.expected


def test_a_device_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device(torch.device("cpu")) == "cpu"
    assert [chosen_device(one) for one in ("cuda:0", torch.device("cuda"), torch.device("cuda", 0))] == ["cuda"] * 3


@pytest.mark.parametrize("device", ["tpu", torch.device("cuda", 1)])
def test_an_unknown_device(device: str | torch.device) -> None:
    with pytest.raises(UsageError) as raised:
        chosen_device(device)
    assert raised.value.where == "device"
    assert raised.value.expected == "must be one of auto, cpu, cuda; CUDA_VISIBLE_DEVICES chooses a GPU"
