"""Backend `sim` with stock neurons: the circuit on the real Lava runtime, against hand traces, the oracle and `ref`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import networks, oracle
from support.lava_programs import output_of

from loihi_convert.backends.backend import BackendOptions
from loihi_convert.backends.lava.exchange import LavaRun, Timing, reset_interval, stock_interval
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import first_difference
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Dense

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def simulator() -> Iterator[LavaBackend]:
    with LavaBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def leaky() -> Iterator[LavaBackend]:
    with LavaBackend(BackendOptions(leak=True)) as backend:
        yield backend


def layer(name: str, weights: Array, bias: Array | None = None, *neuron: list[int], white: int = 1) -> QuantizedLayer:
    """A dense layer, with ``neuron`` = thresholds and initial potentials, one per channel; or none."""
    return QuantizedLayer(
        name=name,
        synapse=Dense(weights.astype(np.int32), None if bias is None else bias.astype(np.int32)),
        neuron=IntegerNeuron(*(np.array(values, np.int32) for values in neuron)) if neuron else None,
        scale=np.ones(len(weights)),
        largest_input=white,
    )


def network_of(*layers: QuantizedLayer, target: str = "loihi2") -> QuantizedNetwork:
    return QuantizedNetwork(
        (1, 1, 1), layers, timesteps=8, max_timesteps=4095, pixel_bits=8, reset="soft", target=target
    )


def pixels(*values: int) -> Array:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def two_channels() -> QuantizedNetwork:
    """One pixel -> thresholds 10 from 0 and 20 from 5, the second with a bias of -4 -> 3 a spike and 2 a step."""
    first = layer("first", np.array([[1], [4]]), np.array([0, -4]), [10, 20], [0, 5], white=255)
    return network_of(first, layer("last", np.array([[3, 0], [0, 3]]), np.array([2, 0])))


def test_two_channels_of_one_population_follow_their_hand_traces(simulator: LavaBackend) -> None:
    """A spike where V, started at V0, reaches the channel's threshold, which is then subtracted; pixel 4, then 0.

    ========  ======================================  ==========================
    channel   current 4, threshold 10                 4 x 4 - 4 = 12, 20 from 5
    V         4 8 12- 6 10- 4 8                       17 29- 21- 13 25- 17 29-
    ========  ======================================  ==========================

    Seven steps, for which P = 8. The second channel fires in the last one: its -20 must not reach the next image,
    whose pixel 0 leaves the first channel at 0 and pulls the second one down by 4 a step.
    """
    result = simulator.run(two_channels(), pixels(4, 0, 4), 7, trace=True)
    hidden, output = result.traces
    assert hidden.spikes is not None
    traces = [[4, 8, 2, 6, 0, 4, 8], [17, 9, 1, 13, 5, 17, 9]]
    spikes = [[0, 0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0, 1]]
    for image in (0, 2):
        assert hidden.potentials[image].T.tolist() == traces
        assert hidden.spikes[image].T.astype(int).tolist() == spikes
        assert output.potentials[image, :, 0].tolist() == [2, 4, 9, 11, 16, 18, 20]
        assert output.potentials[image, :, 1].tolist() == (3 * np.cumsum(spikes[1])).tolist()
    assert hidden.potentials[1].T.tolist() == [[0] * 7, [1, -3, -7, -11, -15, -19, -23]]
    assert not hidden.spikes[1].any()
    assert result.spike_counts[0, :, 0].tolist() == np.sum(spikes, axis=0).tolist()


@pytest.mark.parametrize("timesteps", [1, 4, 5])
def test_neurons_that_fire_to_the_end_leave_the_next_image_alone(timesteps: int, simulator: LavaBackend) -> None:
    """255 a step on a threshold of 16: about 16 times T spikes are held back when the image ends, in four layers."""
    layers = [layer("0", np.array([[1]]), None, [16], [8], white=255)]
    layers += [layer(str(index), np.array([[100]]), np.array([3]), [16], [0]) for index in (1, 2)]
    network = network_of(*layers, layer("3", np.array([[1]]), np.array([1])))
    images = pixels(255, 0, 255, 9, 0)
    result = simulator.run(network, images, timesteps, trace=True)
    oracle.assert_equal(network, images, result, timesteps, is_stock=True)
    # Nothing wraps here, so soft-reset neurons give the same.
    oracle.assert_equal(network, images, replace(result, wrapped_images=None), timesteps)
    assert all(trace.spikes is None or trace.spikes[0, -1].all() for trace in result.traces)


def test_random_networks_equal_ref_and_the_oracle(
    circuit_seed: int, simulator: LavaBackend, leaky: LavaBackend
) -> None:
    network, images = networks.random_loihi2_network(circuit_seed)
    timesteps, leaks = 1 + circuit_seed % 7, circuit_seed % 4 == 3
    result = (leaky if leaks else simulator).run(network, images, timesteps, trace=True)
    oracle.assert_equal(network, images, result, timesteps, is_stock=True, leaks=leaks)
    neuron = neuron_model(network, leak=leaks)
    reference = run_network(network, images, timesteps, trace=True, neuron=neuron)
    assert first_difference(result, reference) is None


def test_a_leak_takes_a_4096th_a_step_rounded_away_from_zero(leaky: LavaBackend) -> None:
    """Pixel 5, weight 1, threshold 10: u = 320 64ths more a step, less a 64th of what was there, fires above 9 x 64.

    ====  ==================  ======================================  ==========
    step  u x 64                                                      V recorded
    ====  ==================  ======================================  ==========
    1     320                                                         5
    2     319 + 320 = 639     fires; (639 - 640) / 64, rounded down   -1
    3     638 + 320 - 640     318                                     4
    4     317 + 320 = 637     fires                                   -1
    ====  ==================  ======================================  ==========
    """
    network = network_of(layer("0", np.array([[1]]), None, [10], [0], white=255), layer("1", np.array([[1]])))
    result = leaky.run(network, pixels(5), 4, trace=True)
    hidden = result.traces[0]
    assert hidden.spikes is not None
    assert hidden.potentials.ravel().tolist() == [5, -1, 4, -1]
    assert hidden.spikes.ravel().tolist() == [0, 1, 0, 1]


ALL_OF_LAVA = """
import sys, contextlib
from pathlib import Path
from loihi_convert.backends.lava import host
host.import_lava()
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from loihi_convert.backends.lava import networks

class HalvingConv(PyConvModelFixed):
    # On the CPU Lava's Conv ignores weight_exp, which is -1 in the circuit.
    def clamp_precision(self, x):
        return super().clamp_precision(x >> 1)

models = networks.models
networks.models = lambda run: {**models(run), Conv: HalvingConv, Dense: PyDenseModelBitAcc}

class Host:
    stepping = contextlib.nullcontext

host._run(host.LavaRun.read(sys.argv[1]), Host())
"""


def test_with_lavas_own_models_of_conv_and_dense_nothing_changes(tmp_path: Path) -> None:
    """What `sim` replaces by matrix products; Lava's own models truncate weights to 8 bits, as the chip does."""
    network, images = networks.random_loihi2_network(28)
    run = LavaRun(str(tmp_path), network, len(images), 3, trace=True, neuron=NeuronModel.CIRCUIT)
    run.fill(images)
    output_of(ALL_OF_LAVA, tmp_path)
    oracle.assert_equal(network, images, run.result(), 3, is_stock=True)


def test_images_of_stock_neurons_lie_two_reset_intervals_apart() -> None:
    assert [reset_interval(timesteps) for timesteps in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]
    steps = Timing(images=3, batch_size=1, timesteps=3, layers=2, interval=stock_interval(3))
    # Two presentations of 8 steps, then 3 steps and 2 on the way.
    assert steps.total == 21
    assert [steps.images_done(step) for step in (4, 5, 12, 13, 20, 21)] == [0, 1, 1, 2, 2, 3]


def test_stock_neurons_are_asked_of_the_wrong_network_or_layout(simulator: LavaBackend) -> None:
    network = two_channels()
    with (
        LavaBackend(BackendOptions(lava_layout="layers")) as layers,
        pytest.raises(UsageError) as raised,
    ):
        layers.run(network, pixels(1), 1)
    assert raised.value.where == "lava_layout"
    with (
        LavaBackend(BackendOptions(neuron="stock")) as stock,
        pytest.raises(UsageError) as raised,
    ):
        stock.run(replace(network, target="lava"), pixels(1), 1)
    assert "the file was exported for target lava" in raised.value.found
    with LavaBackend(BackendOptions(neuron="own")) as own:
        owned = own.run(network, pixels(4, 0), 7)
    assert first_difference(owned, simulator.run(network, pixels(4, 0), 7)) is None


def test_the_program_of_the_page_prints_the_spikes_of_soft_reset() -> None:
    """By hand: weight 2, threshold 6, V0 = 3 and pixel 2 give V = 7, 5, 9, 7 before the resets, so 1, 0, 1, 1."""
    page = (Path(__file__).parents[1] / "docs/chip/stock-circuit.md").read_text()
    found = re.search(r"```python\n(.*?)```.*?\n```\n(pixel.*?)```", page, flags=re.DOTALL)
    assert found is not None
    program, printed = found.groups()
    assert printed == "pixel 2: [1, 0, 1, 1] [0, 1, 0, 0]\npixel 5: [1, 1, 1, 1] [1, 1, 0, 1]\n"
    # Python 3.11 and newer need the patch.
    assert output_of(f"from loihi_convert.backends.lava import host\nhost.import_lava()\n{program}") == printed
