"""Files of this package as unmodified lava-dl runs them: by hand, and beside lava-dl itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import SUPPORT, stock_lava_dl

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense

T = 6


def integers(values: object) -> Array:
    return np.array(values, np.int32)


def network(*layers: QuantizedLayer, input_shape: tuple[int, int, int]) -> QuantizedNetwork:
    return QuantizedNetwork(input_shape, layers, timesteps=T, max_timesteps=T, pixel_bits=8, reset="soft")


def dense(
    name: str, weight: object, bias: object = None, threshold: object = None, initial: object = None
) -> QuantizedLayer:
    synapse = Dense(integers(weight), None if bias is None else integers(bias))
    neuron = None if threshold is None else IntegerNeuron(integers(threshold), integers(initial))
    return QuantizedLayer(name, synapse, neuron, np.ones(len(synapse.weight)), 255 if name == "first" else 1)


def potentials(layers: tuple[QuantizedLayer, ...], pixels: list[int], steps: int) -> list[list[list[int]]]:
    made = network(*layers, input_shape=(1, 1, len(pixels)))
    images = np.array(pixels, np.uint8).reshape(1, 1, 1, -1)
    traces = run_network(made, images, steps, trace=True, neuron=NeuronModel.STOCK_LIF).traces
    return [trace.potentials[0].tolist() for trace in traces]


def test_a_trace_by_hand() -> None:
    """Pixel 255, T = 3; V0 is ignored, and a spike leaves 0::

    channel  w     b        int16(b)  theta  V
    0        1     0        0         500    255, 510 -> 0, 255
    1        0     40,000   -25,536   500    -25,536, -51,072, -76,608
    2        -1    0        0         500    -255, -510, -765
    """
    first = dense("first", [[1], [0], [-1]], [0, 40_000, 0], [500] * 3, [499] * 3)
    hidden, output = potentials((first, dense("fc", [[7, 1, 1], [-3, 1, 1]])), [255], 3)
    assert hidden == [[255, -25_536, -255], [0, -51_072, -510], [255, -76_608, -765]]
    assert output == [[0, 0], [7, -3], [7, -3]]


def test_currents_wrap_above_two_to_the_seventeen() -> None:
    """4 x 127 x 255 = 129,540, and 6 x 254 + 6 + 2 = 1,532 more are 2^17, which does not wrap."""
    pixels = [255] * 4 + [254, 6, 2]
    rows = [[127] * 4 + last for last in ([6, 1, 1], [6, 1, 2], [6, 2, 1])]
    rows.append([-weight for weight in rows[0]])
    first = dense("first", rows, None, [1_000] * 4, [0] * 4)
    hidden, _ = potentials((first, dense("fc", [[1] * 4, [-1] * 4])), pixels, 1)
    # 131,072 is above the threshold; 131,074 - 2^18; 131,078 - 2^18; -131,072 + 2^18 is above it.
    assert hidden == [[0, -131_070, -131_066, 0]]


def test_a_readout_wraps_without_a_bias_and_fires_with_one() -> None:
    """A readout's weights of +-127 receive a spike in each step: with bias 32,640, v changes by 32,767.

    After four steps v is 131,068. 163,835 is clipped at 131,071 + 63/64, which is above vThMant, 131,071.
    Without bias u wraps, once a step: here pixels enter the readout, 8 x 127 x 255 = 259,080.
    """
    spiking = dense("first", [[1] * 8], None, [1], [0])
    readout = dense("fc", [[127], [-127]], [32_640, -32_640])
    _, found = potentials((spiking, readout), [255] * 8, 5)
    assert found == [*([32_767 * step, -32_767 * step] for step in range(1, 5)), [0, -131_072]]
    (found,) = potentials((dense("first", [[127] * 8, [-127] * 8]),), [255] * 8, 2)
    assert found == [[259_080 - 2**18, 2**18 - 259_080], [256_016 - 2**18, 2**18 - 256_016]]


def wild(rng: np.random.Generator, *, has_bias: bool) -> QuantizedNetwork:
    """A convolution whose currents wrap and whose biases do not fit int16, and a dense layer after a pooling."""
    kernel = rng.integers(-127, 128, (4, 2, 5, 5)).astype(np.int32)
    kernel[0] = np.abs(kernel[0])
    conv = Conv(kernel, integers([0, 70_000, -40_000, 300]), padding=(2, 2))
    hidden = Dense(rng.integers(-90, 91, (6, 4 * 9)).astype(np.int32), rng.integers(-9, 9, 6).astype(np.int32), (2, 2))
    readout = Dense(
        rng.integers(-50, 51, (3, 6)).astype(np.int32), integers([40_000, -5, 33_000]) if has_bias else None
    )
    return network(
        QuantizedLayer("conv", conv, IntegerNeuron(integers([20_000] * 4), integers([10_000] * 4)), np.ones(4), 255),
        QuantizedLayer("hidden", hidden, IntegerNeuron(integers([100] * 6), integers([50] * 6)), np.ones(6)),
        QuantizedLayer("fc", readout, None, np.ones(3)),
        input_shape=(2, 6, 6),
    )


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_layers_of_a_gpu_give_the_same(has_bias: bool) -> None:
    """On torch's CPU under another name."""
    made = wild(np.random.default_rng(1), has_bias=has_bias)
    images = np.random.default_rng(2).integers(0, 256, (4, 2, 6, 6)).astype(np.uint8)
    one, other = (
        run_network(made, images, T, neuron=NeuronModel.STOCK_LIF, device=device).potentials
        for device in ("cpu", "cpu:0")
    )
    assert np.array_equal(one, other)


@pytest.mark.lava
def test_unmodified_lava_dl_gives_the_same_potentials(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 2, 6, 6)).astype(np.uint8)
    images[0] = 255
    np.save(tmp_path / "images.npy", images)
    made = {name: wild(rng, has_bias=name == "bias") for name in ("bias", "plain")}
    calls = []
    for name, each in made.items():
        netx.write(each, tmp_path / f"{name}.net")
        calls.append((SUPPORT / "run_stock_netx.py", tmp_path / f"{name}.net", tmp_path / "images.npy", T,
                      tmp_path / f"{name}.npy"))  # fmt: skip
    stock_lava_dl.run_scripts(*calls)
    for name, each in made.items():
        found = np.load(tmp_path / f"{name}.npy")
        run = run_network(each, images, T, trace=True, neuron=NeuronModel.STOCK_LIF)
        assert np.array_equal(found, run.potentials), name
        assert all(trace.spikes is None or 0 < trace.spikes.mean() < 1 for trace in run.traces)
        # Each difference matters.
        for other in (NeuronModel.SOFT, NeuronModel.HARD):
            assert not np.array_equal(found, run_network(each, images, T, neuron=other).potentials)
