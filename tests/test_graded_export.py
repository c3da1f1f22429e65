"""CNNs as graded spikes: the integers, the file, the command line, and unmodified lava-dl."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support import SUPPORT, stock_lava_dl
from support.command_line import Invoke, invoker
from support.evaluations import bytes_of
from torch import Tensor, nn

from loihi_convert import external, netx
from loihi_convert.backends import result
from loihi_convert.backends.backend import open_backend
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import ReferenceBackend, run_graded
from loihi_convert.backends.result import RunResult, first_difference
from loihi_convert.chip import limits
from loihi_convert.chip.resources import Populated, network_resources, neuron_costs, resources
from loihi_convert.conversion import graded_rounding
from loihi_convert.conversion.graded import to_graded
from loihi_convert.conversion.graded_rounding import compensated
from loihi_convert.errors import InputError, NetxError, RangeError, UnsupportedModelError, UsageError
from loihi_convert.ground import devices
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Task
from loihi_convert.ground.progress import progress_to
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import ReluLayer, ReluNetwork, is_relay, relay_count
from loihi_convert.ir.synapse import Conv, Dense, PixelBias
from loihi_convert.lowering import to_relu_network
from loihi_convert.metrics.work import layer_sizes, multiplications, relay_work
from loihi_convert.netx.native import encode
from loihi_convert.pipeline.checking import check, load_file
from loihi_convert.pipeline.exporting import export_graded, read_graded
from loihi_convert.pipeline.opening import require_layers_of
from loihi_convert.reading.source import Source
from loihi_convert.report.contents import describe
from loihi_convert.runs import run_folder
from loihi_convert.simulation.relu import cnn_scores

SHAPE = (2, 8, 6)


def images(count: int = 60, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def chain() -> nn.Module:
    """Padding, stride, groups, pooling twice, biases."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(),
        nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AvgPool2d((3, 2)), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    with torch.no_grad():
        # So that every layer has channels that are active.
        model[3].bias += 0.3
        model[5].bias += 0.3
    return model


def pooled_last() -> nn.Module:
    """Max pooling before the output, which becomes a grouped convolution: the output's bias adds a channel to it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3))


class Skip(nn.Module):
    """A sum of two paths, which relays carry past a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)
        return self.fc(x.flatten(1))


class Wide(nn.Module):
    """A concatenation before the output: relays carry the stem past the convolution."""

    def __init__(self, has_bias: bool) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(8 * 24, 3, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.fc(torch.cat([torch.relu(self.conv(x)), x], dim=1).flatten(1))


def source(model: nn.Module) -> Source:
    return Source.from_module(model, SHAPE)


@pytest.fixture(scope="module")
def network() -> GradedNetwork:
    return to_graded(to_relu_network(chain(), SHAPE), images()).network


def test_the_integers_fit_and_stand_for_the_real_numbers(network: GradedNetwork) -> None:
    """The current of each layer for real inputs x in messages, times its scale, is near that of the CNN."""
    relu = to_relu_network(chain(), SHAPE)
    units: Array = np.full(2, 1 / 255)
    for layer, real in zip(network.layers[1:-1], relu.layers[:-1], strict=True):
        assert np.abs(layer.synapse.weight).max() <= limits.WEIGHT_LIMIT
        channels, pool = real.synapse.channels, np.prod(real.synapse.pool)
        wanted = real.synapse.with_input_factors(units).weight / pool / layer.scale[:channels].reshape(-1, 1, 1, 1)
        # Rounded to a neighbour, or further to compensate others' errors.
        assert np.abs(layer.synapse.weight[:channels] - wanted).mean() < 1
        units = 64 * layer.scale[:channels]
    last = network.layers[-1]
    assert (last.sends, np.unique(last.scale).size, network.spike_exp) == (False, 1, 0)


def test_the_outputs_are_those_of_the_cnn(network: GradedNetwork) -> None:
    held_out = images(200, seed=1)
    result = run_graded(network, held_out)
    expected = cnn_scores(to_relu_network(chain(), SHAPE), held_out).reshape(200, -1)
    found = network.real_outputs(result.potentials[:, 0])
    # 8-bit weights and pixels: errors of about 1 % of the spread of the outputs.
    assert np.abs(found - expected).mean() < 0.03 * expected.std()
    assert result.wrapped_images == 0


def test_the_output_bias_is_a_constant_channel(network: GradedNetwork) -> None:
    """The last hidden layer has one channel more, without weights; its message in the first window carries the bias."""
    previous, last = network.layers[-2], network.layers[-1]
    assert (previous.synapse.channels, last.synapse.bias) == (6, None)
    assert not previous.synapse.weight[5].any()
    message, window = int(previous.synapse.bias[5]), 3 * 2
    found = last.synapse.weight[:, 5] * message * window * last.scale
    expected = to_relu_network(chain(), SHAPE).layers[-1].synapse.bias
    # Half a step, and the correction of the mean error.
    assert np.abs(found - expected).max() < message * window * last.scale[0] / 2 + 0.02


@pytest.mark.parametrize("bias", [3.0, -40.0])
def test_an_output_bias_of_any_size_fits(bias: float) -> None:
    """Far above what 8-bit weights at the finest scale can add."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 1)).eval()
    with torch.no_grad():
        model[3].bias.fill_(bias)
    cnn, shown = to_relu_network(model, (1, 8, 8)), np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8))
    made = to_graded(cnn, shown.astype(np.uint8)).network
    found = made.real_outputs(run_graded(made, shown.astype(np.uint8)).potentials[:, 0])
    assert np.abs(found - cnn_scores(cnn, shown.astype(np.uint8)).reshape(64, 1)).max() < 0.001 * abs(bias) + 0.01


def threshold(weight: float, *biases: float) -> tuple[Source, Array]:
    """A pixel x times the weights 1, ``weight``, 0, ..., plus ``biases``. 240 images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, len(biases)))
    with torch.no_grad():
        model[1].weight[:], model[1].bias[:], model[3].weight[:] = 1.0, 0.0, 0.0
        model[3].weight[:2, 0], model[3].bias[:] = torch.tensor([1.0, weight]), torch.tensor(biases)
    return Source.from_module(model, (1, 1, 1)), np.r_[:120, 136:256].astype(np.uint8).reshape(240, 1, 1, 1)


@pytest.mark.parametrize(
    ("biases", "calibration", "constants"),
    [
        ((0, 0.5, -1), slice(None), 1),
        ((0, 0.5, -1000), slice(None), 2),
        ((-1e4, -1e4 + 0.5), slice(None), 1),
        ((1000, 1000.5, 999), slice(None), 1),
        # A single image, x = 1: the outputs have no standard deviation.
        ((0, 0.5, -1), slice(-1, None), 1),
        ((0, 0.5, -1000), slice(-1, None), 2),
    ],
)
def test_a_bias_far_from_the_others_needs_two_constants(
    biases: tuple[float, ...], calibration: slice, constants: int
) -> None:
    """The largest is 127 messages of a constant channel, so those below 1000 / 254 need another, as they decide whether
    the first class wins: x = 1/2. What all classes share does not count."""
    cnn, shown = threshold(0, *biases)
    made = to_graded(cnn.network, shown[calibration])
    found = made.network.real_outputs(run_graded(made.network, shown).potentials[:, 0])
    assert np.abs(found - cnn_scores(cnn.network, shown).reshape(240, -1)).max() < 0.02
    previous, last = (layer.synapse for layer in made.network.layers[1:])
    assert previous.weight[1:].tolist() == [[0]] * constants
    # Without the weights of the constant channels, of which the largest is 127.
    assert made.layers[-1].weight_bits == np.log2(2 * int(last.weight[0, 0]) + 1)


def test_little_agreement_is_warned_of(tmp_path: Path) -> None:
    """sigma = 1 is at least 1.25 x 4e4 / (127 x 32767) = 0.012, so with a message of 1.25 / 127 = 0.01 the weights 1
    and 0.4 become 1 and 0. On average, x = 1/2, the biases compensate that, so the first class wins where x exceeds
    about 0.54 + 0.4 / 2 = 0.74 instead of 0.54 / 0.6 = 0.9."""
    cnn, shown = threshold(0.4, 0, 0.54, -4e4)
    made = export_graded(cnn, tmp_path / "model.net", shown)
    assert made.agreement.agreement < 0.9
    (note,) = made.notes
    assert f"only agrees with the CNN on {100 * made.agreement.agreement:.2f} % of 240 calibration images" in note


@pytest.mark.parametrize(("biases", "middle"), [((0, 0.5, -1e6), "0"), ((1, 2, 2e6), r"1e\+06")])
def test_a_bias_that_leaves_no_weights_is_refused(tmp_path: Path, biases: tuple[float, ...], middle: str) -> None:
    """sigma = 1 is at least 1.25 x 1e6 / (127 x 32767) = 0.3, and a message at most 1.25 / 127 = 0.01: its weight is
    below 1/2."""
    cnn, shown = threshold(0, *biases)
    with pytest.raises(RangeError, match=rf"3: all weights .* its biases, up to 1e\+06 from {middle}, take") as refused:
        export_graded(cnn, tmp_path / "model.net", shown)
    assert refused.value.hint.startswith("Bring the biases nearer to each other")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "first", "second", "least"),
    [
        # Bright pixels leave the activations at 1/17 or less; the answer to black pixels is 1.
        (50, (-1, 1), (1, 0), 240),
        # Always x / 20, but 1 before the first layer has sent anything.
        (200, (-0.05, 1), (-1, 1), 0),
    ],
)
def test_what_a_network_settles_to_fits_as_well(
    count: int, first: tuple[float, float], second: tuple[float, float], least: int
) -> None:
    """Neurons and their mean, each with a weight and a bias."""
    (weight, bias), (factor, added) = first, second
    layers = (
        ReluLayer("first", Dense(np.full((count, 1), weight), np.full(count, float(bias)))),
        ReluLayer("mean", Dense(np.full((1, count), factor / count), np.array([float(added)]))),
        ReluLayer("fc", Dense(np.array([[1.0], [0.0]]), np.array([0.0, 0.05]))),
    )
    shown = np.arange(least, 256, dtype=np.uint8).reshape(-1, 1, 1, 1)
    made = to_graded(ReluNetwork((1, 1, 1), layers), shown)
    assert made.agreement.agreement > 0.99
    assert run_graded(made.network, shown).wrapped_images == 0


@pytest.mark.parametrize("before", [(), ((-0.1, 1.0), (-0.4, 1.0))])
def test_changes_of_a_current_fit_as_well(
    before: tuple[tuple[float, float], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """+-100 (relu(x) - relu(1 - x)) changes from -+100 for black to +-100 for white pixels, by twice its largest value.
    With y = 1 - x / 10 and z = 1 - 0.4 y before it, it changes while the network settles: z is 0, then 1, then 0.6. A
    weight of 127 and messages of 506 are 127 x 506 x 200 > 2^23."""
    signs = np.repeat([-1.0, 1.0], 100)
    layers = (
        *(ReluLayer("before", Dense(np.array([[weight]]), np.array([bias]))) for weight, bias in before),
        ReluLayer("ends", Dense(signs[:, np.newaxis], np.repeat([1.0, 0.0], 100))),
        ReluLayer("fc", Dense(np.stack([signs, -signs]), np.zeros(2))),
    )
    cnn, shown = ReluNetwork((1, 1, 1), layers), np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
    done: list[int] = []
    with progress_to(lambda count, total: done.append(count) if total == 8 else None):
        made = to_graded(cnn, shown)
    assert (made.agreement.agreement > 0.99, made.notes) == (True, ())
    assert run_graded(made.network, shown).wrapped_images == 0
    # The trials are repeated, and counted again.
    assert done == 2 * list(range(1, 9))
    monkeypatch.setattr(graded_rounding, "HEADROOM", 0.6)
    (note,) = to_graded(cnn, shown).notes
    assert note.startswith(
        "on some of 256 calibration images, or while the network settles, a current or state exceeds"
    )


def test_currents_of_many_pixels_fit_24_bits() -> None:
    """Minus the sum of 300 pixels, which is never active: with weights of 127 it would be -127 x 255 x 300 < -2^23."""
    layers = (
        ReluLayer("fc1", Dense(np.stack([np.full(300, -1.0), np.full(300, 1 / 300)]))),
        ReluLayer("fc2", Dense(np.array([[1.0, -1.0], [0.0, 1.0]]))),
    )
    shown = np.repeat(np.array([0, 100, 255], np.uint8), 300).reshape(3, 1, 15, 20)
    made = to_graded(ReluNetwork((1, 15, 20), layers), shown)
    hidden = made.network.layers[1].synapse
    assert 2**23 / 1.4 / graded_rounding.HEADROOM < 255 * np.abs(hidden.weight).sum(axis=1).max() < 2**23
    assert run_graded(made.network, shown).wrapped_images == 0


def test_outputs_of_a_regression_far_from_0_lose_nothing(tmp_path: Path) -> None:
    """Their bias is an offset outside the integers, also in the file; 4096 is 10,000 times their spread."""
    held_out, networks, errors = images(100, seed=1), [], []
    for bias in (0.0, 4096.0):
        model = chain().double()
        with torch.no_grad():
            model[9].bias[:] = torch.tensor([bias, 0.0, -bias])
        expected = model(torch.from_numpy(held_out).double() / 255).detach().numpy()
        cnn = replace(to_relu_network(model.float(), SHAPE), task="regression")
        networks.append(to_graded(cnn, images()).network)
        found = networks[-1].real_outputs(run_graded(networks[-1], held_out).potentials[:, 0])
        errors.append(np.abs(found - expected).max(axis=0))
    assert (errors[1] < 2 * errors[0] + 1e-3).all()
    far, last = networks[1], networks[1].layers[-1]
    assert last.synapse.weight.shape[1] == 5, "no constant channel"
    netx.write(far, tmp_path / "model.net")
    read = netx.read_stored(tmp_path / "model.net").network
    assert isinstance(read, GradedNetwork)
    assert read.real_outputs(np.zeros(3, np.int32)).tolist() == last.offset.tolist()
    with pytest.raises(RangeError, match="has an offset"):
        replace(far, layers=(far.layers[0], replace(far.layers[1], offset=np.zeros(4)), *far.layers[2:]))
    with pytest.raises(RangeError, match="offset"):
        replace(far, layers=(*far.layers[:-1], replace(last, offset=np.array([1.0]))))


def test_the_unit_of_an_output_of_a_regression_changes_only_its_scale() -> None:
    """With powers of two, so that floating point adds no errors."""
    units, found = torch.tensor([2.0**10, 1, 2.0**-10]), []
    for factors in (torch.ones(3), units):
        model = chain()
        with torch.no_grad():
            model[9].weight *= factors[:, None]
            model[9].bias *= factors
        cnn = replace(to_relu_network(model, SHAPE), task="regression")
        found.append(to_graded(cnn, images()).network.layers)
    for one, other in zip(*found, strict=True):
        if isinstance(one.synapse, PixelBias):
            continue
        assert np.array_equal(one.synapse.weight, other.synapse.weight)
        assert np.array_equal(one.scale * (1 if one.sends else units.numpy()), other.scale)


def test_a_pixel_of_one_layer_by_hand() -> None:
    """One weight of 1 and white pixels: the activation 1.0 is the largest. The outputs are 2 x and -x, x = 1.

    u = 1 / 255 for pixels. The unit of the hidden channel is at least 64 / 255 / 127 = 0.00198, that of a weight of
    127: 506 messages for 1.0. With fewer messages the weight is smaller, and its rounding error larger.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[1].weight[:], model[1].bias[:], model[3].weight[:] = 1.0, 0.0, torch.tensor([[2.0], [-1.0]])
    white = np.full((4, 1, 1, 1), 255, np.uint8)
    network = to_graded(to_relu_network(model, (1, 1, 1)), white).network
    hidden, last = network.layers[1], network.layers[2]
    weight = int(hidden.synapse.weight[0, 0])
    assert abs(weight - 1 / 255 / hidden.scale[0]) <= 0.5
    # 2 : -1 in integers is exact: 2 w and -w.
    assert int(last.synapse.weight[0, 0]) == -2 * int(last.synapse.weight[1, 0])
    (message,) = np.maximum(255 * weight + 64 * hidden.synapse.bias, 0) >> 6  # type: ignore[operator]
    result = run_graded(network, white[:1])
    assert result.potentials[0, 0].tolist() == (last.synapse.weight[:, 0] * message).tolist()
    assert np.allclose(network.real_outputs(result.potentials[0, 0]), [2, -1], rtol=0.01)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_weight_bits_leave_out_the_relays_before_the_output(has_bias: bool) -> None:
    torch.manual_seed(0)
    cnn = to_relu_network(Wide(has_bias), SHAPE)
    relay_of = cnn.layers[1].relay_of
    made = to_graded(cnn, images())
    layer = made.network.layers[2]
    assert layer.synapse.channels == len(relay_of) + has_bias
    own = layer.synapse.weight[: len(relay_of)][relay_of < 0]
    largest = np.abs(own).max(axis=(1, 2, 3))
    assert made.layers[1].weight_bits == np.log2(2 * largest + 1).mean()


def test_relays_repeat_every_message() -> None:
    relu = source(Skip()).network
    made = to_graded(relu, images())
    (index,) = (i for i, layer in enumerate(relu.layers) if layer.relay_of is not None and (layer.relay_of >= 0).any())
    relay_of = relu.layers[index].relay_of
    relays = is_relay(relay_of, relu.layers[index].synapse.channels)
    trace = run_graded(made.network, images(20, seed=2), trace=True).traces
    before, after = trace[index].spikes, trace[index + 1].spikes
    assert before.any()
    assert np.array_equal(after[:, :, relays], before[:, :, relay_of[relays]])
    assert made.agreement.agreement > 0.9


@pytest.mark.parametrize("has_channel", [False, True])
def test_relays_are_counted_as_those_of_binary_spikes(has_channel: bool, tmp_path: Path) -> None:
    """Relays of the stem in the second layer; in one CNN also a constant channel, for the biases of the output."""
    torch.manual_seed(0)
    cnn, index = source(Wide(True) if has_channel else Skip()).network, 1
    made = to_graded(cnn, images()).network
    netx.write(made, tmp_path / "graded.net")
    network = netx.read_stored(tmp_path / "graded.net").network
    assert isinstance(network, GradedNetwork)
    relay_of = cnn.layers[index].relay_of
    stored = network.layers[index + 1].relay_of
    assert stored.tolist() == [*relay_of.tolist(), *([-1] if has_channel else [])]
    sizes = layer_sizes(network)
    relays = [
        relay_count(layer.relay_of) * math.prod(shape[1:]) for layer, shape in zip(cnn.layers, cnn.shapes, strict=True)
    ]
    assert [size.relay_neuron_count for size in sizes] == [0, *relays]
    # A relay has one weight.
    every = multiplications(network.layers[index + 1].synapse, network.shapes[index])
    assert every - sizes[index + 1].multiply_accumulates == relays[index]
    counts = [layer.relay_count for layer in describe(tmp_path / "graded.net").layers]
    assert [count for count in counts if count is not None] == [relay_count(relay_of)]
    chips = check(load_file(tmp_path / "graded.net")).chips
    assert [layer.relay_neurons for layer in chips.layers] == relays
    result = run_graded(network, images(20, seed=2))
    work = relay_work(result, network)
    sent = [
        0 if layer.relay_of is None else spikes[:, layer.relay_of >= 0].sum()
        for layer, spikes in zip(network.layers, result.channel_spikes, strict=False)
    ]
    assert work.spikes[0].tolist() == sent
    assert sum(sent) > 0
    assert np.array_equal(work.synaptic_operations[0] > 0, np.array(sent) > 0)


def test_later_weights_compensate_earlier_ones() -> None:
    """Equal inputs: weights of 0.4 are rounded to 0 one by one, but together they must give their sum, 1.6."""
    messages = np.random.default_rng(0).integers(0, 100, (500, 1)).repeat(4, axis=1)
    rounded = compensated(Dense(np.zeros((1, 4))), np.full((1, 4), 0.4), messages)
    assert int(rounded.sum()) == 2
    assert int(np.rint(np.full(4, 0.4)).sum()) == 0


def test_weights_of_a_group_compensate_errors_of_its_own_inputs() -> None:
    """The inputs of the first group are independent, those of the second equal: only there 4 x 0.4 becomes 2."""
    rng = np.random.default_rng(0)
    messages = np.concatenate([rng.integers(0, 100, (500, 4)), rng.integers(0, 100, (500, 1)).repeat(4, axis=1)], 1)
    rounded = compensated(
        Conv(np.zeros((2, 4, 1, 1)), groups=2), np.full((2, 4, 1, 1), 0.4), messages.reshape(500, 8, 1, 1)
    )
    assert rounded.sum(axis=(1, 2, 3)).tolist() == [0, 2]


def test_max_pooling_before_the_output() -> None:
    cnn, shown = to_relu_network(pooled_last(), SHAPE), images()
    made = to_graded(cnn, shown).network
    scores = cnn_scores(cnn, shown).reshape(len(shown), -1)
    found = made.real_outputs(run_graded(made, shown).potentials[:, 0])
    assert np.abs(found - scores).max() < 0.05 * np.abs(scores).max()


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(72, 3)), "a clipped ReLU"),
        (nn.Sequential(nn.Flatten(), nn.Linear(96, 3)), "a single layer"),
    ],
)
def test_what_has_no_equivalent_is_refused(model: nn.Module, found: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        to_graded(to_relu_network(model, SHAPE), images())
    assert caught.value.found.startswith(found)


def test_activations_that_are_not_finite_are_refused() -> None:
    model = chain()
    with torch.no_grad():
        model[0].weight *= 1e30
        model[3].weight *= 1e30
    with pytest.raises(RangeError):
        to_graded(to_relu_network(model, SHAPE), images())


def test_a_file_holds_the_network(network: GradedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(network, path)
    found = read_graded(path)
    assert (found.input_shape, found.spike_exp, found.shapes) == (network.input_shape, 0, network.shapes)
    for one, other in zip(found.layers, network.layers, strict=True):
        assert (one.name, one.threshold, one.sends) == (other.name, other.threshold, other.sends)
        if isinstance(one.synapse, PixelBias):
            assert one.synapse == other.synapse == PixelBias(255, 0)
            continue
        assert one.synapse.pool == other.synapse.pool
        assert np.array_equal(one.synapse.weight, other.synapse.weight)
        for mine, theirs in ((one.synapse.bias, other.synapse.bias), (one.scale, other.scale)):
            assert (mine is None) == (theirs is None)
            assert mine is None or np.array_equal(mine, theirs)  # type: ignore[arg-type]
    assert isinstance(external.read_any(path)[0], GradedNetwork)
    with pytest.raises(NetxError, match="holds graded spikes"):
        netx.read(path)
    with pytest.raises(InputError):
        netx.write(network, path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer/1/neuron/vThMant", lambda value: np.int32(-1)),
        ("loihi_convert/spikes", lambda value: b"binary"),
        ("loihi_convert/format", lambda value: np.int32(2)),
        ("loihi_convert/spike_exp", lambda value: np.int32(9)),
        ("loihi_convert/layer/0/scale", lambda value: -value),
    ],
)
def test_a_changed_file_is_refused(
    network: GradedNetwork, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    path = tmp_path / "model.net"
    datasets = dict(encode(network))
    datasets[name] = np.asarray(change(datasets[name]))
    path.write_bytes(netx.hdf5.file_content(datasets))
    with pytest.raises(NetxError) as caught:
        netx.read_stored(path)
    is_newer = "written by a newer version" in caught.value.found
    assert is_newer == (caught.value.hint == "Update loihi-convert.") == (name == "loihi_convert/format")


def test_verification_and_provenance(tmp_path: Path) -> None:
    done = export_graded(source(Skip()), tmp_path / "model.net", images())
    assert done.verified_images == 32
    assert done.notes[-1].startswith("only 60 calibration images: ")
    assert done.network.provenance["graded"] == {"headroom": 1.25, "calibration_images": 60}
    assert [layer.name for layer in done.layers] == [layer.name for layer in done.network.layers[1:]]
    with h5py.File(done.path) as file:
        assert file["layer/0/neuron/type"][()] == b"SDNN"
        assert "sigma_output" in file[f"layer/{len(file['layer']) - 1}/neuron"]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    monkeypatch.chdir(tmp_path)
    return invoker(monkeypatch, capsys)


@pytest.fixture
def exported(network: GradedNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "model.net"
    netx.write(network, path)
    np.savez(tmp_path / "own.npz", images=images(30, seed=3), labels=np.arange(30) % 3)
    return path


def test_the_command_line_runs_a_file(exported: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    network, frames = read_graded(exported), images(30, seed=3)
    done = invoke("run", exported, "--data", "own.npz", "-o", "run", "--json")
    assert done.code == 0
    result = run_graded(network, frames)
    (point,) = done.json["model"]["points"]
    assert point["correct_count"] == np.count_nonzero(result.predictions[:, 0] == np.arange(30) % 3)
    assert point["spikes_per_image"] == pytest.approx(result.spike_counts.sum() / 30)
    assert point["synaptic_operations"] == pytest.approx(result.synaptic_operations.sum() / 30)
    assert (point["timesteps"], point["global_steps"], done.json["model"]["energy"]) == (1, 5, None)
    shown = invoke("run", exported, "--data", "own.npz", "-o", "stream", "--stream")
    assert (shown.code, "sequence" in shown.out, "the frame before" in " ".join(shown.out.split())) == (0, True, True)
    shown = invoke("run", exported, "--data", "own.npz", "-o", "again", "--stream", "--json")
    assert "sequence: " in shown.err
    assert invoke("report", "run", "-o", "page.html").code == 0
    page = (exported.parent / "page.html").read_text()
    assert "one step of each layer" in page
    for said in ("Run the files again", "thresholds balanced", "pixels at every step"):
        assert said not in page
    checked = invoke("check", exported)
    assert (checked.code, "sigma-delta neurons" in checked.out) == (0, True)
    for words in (("-T", "4"), ("--images", "9"), ("--data", "own.npz"), ("--compare",)):
        assert invoke("check", exported, *words).code == 2
    assert "graded (sigma-delta neurons)" in invoke("inspect", exported).out

    def full(path: Path, content: bytes) -> None:
        raise InputError("cannot be written", where=path)

    monkeypatch.setattr(run_folder, "write_atomically", full)
    done = invoke("run", exported, "--data", "own.npz", "-o", "full")
    assert (done.code, done.out.startswith("model.net on own.npz: ")) == (3, True)
    for words in (("-T", "4"), ("--backend", "loihi2"), ("--trace",), ("--neuron", "stock")):
        assert invoke("run", exported, "--data", "own.npz", *words).code == 2
    monkeypatch.setattr(devices, "_has_gpu", lambda: True)
    for words in (("--exit-tolerance", "0.5"), ("--device", "cuda")):
        done = invoke("run", exported, "--data", "own.npz", *words)
        assert (done.code, words[0] in done.err) == (2, True)


def test_a_file_is_compared_only_with_its_cnn(invoke: Invoke) -> None:
    arch, weights = ("--arch", "test_graded_export:chain"), chain().state_dict()
    torch.save(weights, "own.pt")
    torch.save({name: tensor + 0.01 for name, tensor in weights.items()}, "other.pt")
    np.savez("train.npz", images=images(30, seed=3), labels=np.arange(30) % 3)
    np.savez("test.npz", images=images(30, seed=4), labels=np.arange(30) % 3)
    assert invoke("export", "own.pt", *arch, "--data", "train.npz", "--spikes", "graded", "-o", "own.net").code == 0
    fits = invoke("run", "own.net", "--model", "own.pt", *arch, "--data", "test.npz", "-o", "a")
    assert (fits.code, "was not made from" in fits.out, "chose the thresholds" in fits.out) == (0, False, False)
    doubted = invoke("run", "own.net", "--model", "other.pt", *arch, "--data", "train.npz", "-o", "b")
    assert "own.net was not made from other.pt as it is now" in doubted.out
    assert "the file was calibrated on these images" in doubted.out
    assert "the file was calibrated on these images" in Path("b/result.json").read_text()
    assert "pass --arch test_graded_export:chain" in invoke("run", "own.net", "--data", "test.npz", "-o", "c").out
    four_classes = nn.Sequential(*list(chain())[:-1], nn.Linear(5, 4))
    with pytest.raises(InputError) as raised:
        require_layers_of(read_graded("own.net"), to_relu_network(four_classes, SHAPE))
    assert (raised.value.where, "as in the file" in raised.value.expected) == ("checkpoint", True)


def test_a_sequence_that_does_not_change_sends_nothing(exported: Path) -> None:
    still = images(1).repeat(5, axis=0)
    result = run_graded(read_graded(exported), still, is_stream=True)
    assert result.spike_counts[0].sum() > 0
    assert not result.spike_counts[1:].any()
    assert (result.potentials == result.potentials[0]).all()


def wide() -> nn.Module:
    """More channels than int8 can count, in which Lava's Conv keeps its geometry."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 130, 3), nn.ReLU(), nn.Flatten(), nn.Linear(130 * 6 * 4, 3, bias=False))


@pytest.mark.lava
@pytest.mark.parametrize("model", [pooled_last, Skip, wide])
def test_lavas_own_models_give_the_same_messages(model: Callable[[], nn.Module]) -> None:
    """Every message and activation of every layer and all outputs, of single images and of a sequence, error 0; layers
    with thresholds among them."""
    made = to_graded(to_relu_network(model(), SHAPE), images()).network
    layers = [replace(layer, threshold=7 * index) if layer.sends else layer for index, layer in enumerate(made.layers)]
    found = {}
    with open_backend("sim") as backend:
        for network, is_stream in ((made, False), (made, True), (replace(made, layers=tuple(layers)), True)):
            result, expected = (
                each.run(network, images(7, seed=4), is_stream=is_stream, trace=True)
                for each in (backend, open_backend("ref"))
            )
            assert first_difference(result, expected) is None
            assert all(trace.spikes is None or trace.spikes.any() for trace in result.traces)
            found[len(found)] = result.spike_counts.sum()
    # A sequence sends other messages than single images, and thresholds hold some back.
    assert len(set(found.values())) == 3
    assert found[2] < found[1]


@pytest.mark.lava
def test_the_command_line_runs_a_file_on_lava(exported: Path, invoke: Invoke) -> None:
    done = invoke("run", exported, "--data", "own.npz", "--backend", "sim", "--images", "5", "-o", "run")
    assert done.code == 0
    assert "Lava equals ref in every message and activation of every layer, all 5 images" in " ".join(done.out.split())
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert (manifest["backend"], manifest["equal_to_ref"]) == ("sim", {exported.stem: 5})
    assert "lava-nc" in manifest["backend_versions"]
    for words in (("--lava-layout", "layers"), ("--neuron", "own")):
        assert invoke("run", exported, "--data", "own.npz", "--backend", "sim", *words).code == 2


@pytest.mark.parametrize("trace", [False, True])
def test_the_size_of_a_result_is_foretold(network: GradedNetwork, trace: bool) -> None:
    found = run_graded(network, images(5), trace=trace)
    assert bytes_of(found) == result.result_size(network, 5, 1, trace=trace)


def test_a_result_that_is_too_large_is_refused_before_lava_starts(
    network: GradedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "MAX_TRACE", 2**16)
    with open_backend("sim") as backend:
        with pytest.raises(UsageError, match="the result of 60 images") as raised:
            backend.run(network, images(), trace=True)
        assert raised.value.where == "trace"
        assert backend.versions == {}


def test_a_wrong_message_is_an_error(
    network: GradedNetwork, exported: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_off(self: LavaBackend, *given: Any, **options: Any) -> RunResult:
        result = ReferenceBackend().run(*given, **options)
        assert result.traces[1].spikes is not None
        result.traces[1].spikes[2, 0, 0, 0, 0] += 1
        return result

    monkeypatch.setattr(LavaBackend, "run", one_off)
    done = invoke("run", exported, "--data", "own.npz", "--backend", "sim", "--images", "5", "-o", "run")
    assert (done.code, "layer 1 spike of image 2" in done.err, Path("run").exists()) == (5, True, False)


@pytest.mark.lava
@pytest.mark.slow
def test_unmodified_lava_dl_sends_the_same_messages(network: GradedNetwork, tmp_path: Path) -> None:
    """Every message of every layer and every output in each of 12 steps, without a reset, error 0."""
    path, frames = tmp_path / "model.net", images(12, seed=4)
    netx.write(network, path)
    np.save(tmp_path / "frames.npy", frames)
    words = (SUPPORT / "run_stock_graded.py", path, tmp_path / "frames.npy", network.spike_exp, tmp_path / "sent.npz")
    stock_lava_dl.run_scripts(words)
    with np.load(tmp_path / "sent.npz") as file:
        stock = dict(file)
    traces = run_graded(network, frames, is_stream=True, trace=True).traces
    for index, (layer, trace) in enumerate(zip(network.layers, traces, strict=True)):
        expected = trace.spikes if layer.sends else trace.potentials
        assert np.count_nonzero(stock[f"layer{index}"] != expected.reshape(12, -1)) == 0, layer.name
        assert expected.any(), layer.name


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"scale": np.array([1.0, np.nan, 1.0])}, "scale float64"),
        ({"weight": 200}, "weights 200..200"),
        ({"weight": -129}, "weights -129..-129"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    network: GradedNetwork, changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    """A weight of 200 would be written as -56."""
    last = network.layers[-1]
    if "weight" in changes:
        changes = {"synapse": replace(last.synapse, weight=np.full_like(last.synapse.weight, changes["weight"]))}
    with pytest.raises((NetxError, RangeError)) as refused:
        netx.write(replace(network, layers=(*network.layers[:-1], replace(last, **changes))), tmp_path / "m.net")
    assert refused.value.where == last.name
    assert refused.value.found.startswith(found)
    assert not list(tmp_path.iterdir())


def test_thresholds_are_kept_in_a_file(network: GradedNetwork, tmp_path: Path) -> None:
    changed = replace(network, layers=(replace(network.layers[0], threshold=3), *network.layers[1:]))
    netx.write(changed, tmp_path / "model.net")
    assert read_graded(tmp_path / "model.net").layers[0].threshold == 3


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("model", [chain, Skip, pooled_last])
def test_check_predicts_the_resources_of_the_file(model: Callable[[], nn.Module], task: Task) -> None:
    """Groups before the last layer, such as those of a maximum, are written out for a constant channel."""
    cnn = replace(to_relu_network(model(), SHAPE), task=task)
    made = to_graded(cnn, images()).network
    found = resources(SHAPE, [Populated(layer.name, layer.synapse) for layer in made.layers[1:]])  # type: ignore[arg-type]
    (predicted,) = (cost for cost in neuron_costs(cnn) if cost.neurons == "graded")
    assert (predicted.cores, predicted.neuron_count) == (found.cores, sum(layer.neurons for layer in found.layers))
    own = sum(layer.neurons for layer in network_resources(cnn).layers)
    assert (predicted.neuron_count > own) == (task == "classification")


def test_the_table_takes_binary_spikes_from_the_cards() -> None:
    """docs/results/graded.csv: a row for graded spikes of each network, and one for each of its files in the table."""
    folder = SUPPORT.parents[1]
    with (folder / "docs" / "results" / "graded.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    assert networks == ["mnist", "fashion-mnist", "cifar10", "cifar10-resnet20"]
    for name in networks:
        card = json.loads((folder / "netx_models" / name / "card.json").read_text())
        known = {
            str(point["timesteps"]): f"{100 * point['accuracy']:.2f}"
            for one in card["networks"]
            for point in one["test"]
            if one["file"].startswith("model-") and point["timesteps"] in (1, 4, 8, 64)
        }
        own = [row for row in rows if row["network"] == name]
        assert own[0]["neurons"] == "graded"
        assert {row["timesteps"]: row["accuracy"] for row in own[1:]} == known
        # After the image every synapse takes a step, whatever the spikes carry.
        assert len({int(row["steps_to_output"]) - int(row["timesteps"]) for row in own}) == 1
