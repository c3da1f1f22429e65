"""Graded spikes: hand traces, lava-dl's golden networks, files that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.command_line import Invoke, invoker
from support.external_files import LayerData, lava_dl_file, write_external

from loihi_convert import external
from loihi_convert.backends.reference import run_graded
from loihi_convert.errors import LoihiConvertError, NetxError, RangeError
from loihi_convert.external.simulation import DEFAULT_NORMALIZATION, pixel_inputs
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import Conv, Dense, PixelBias
from loihi_convert.metrics.evaluation import evaluate
from loihi_convert.runs.run_folder import read_run
from loihi_convert.simulation.graded import GradedState, frame_steps, global_steps, settled_state


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    return invoker(monkeypatch, capsys)


PIXELS = GradedLayer("layer 0", PixelBias(1, 0))


def integers(*values: int) -> Array:
    return np.array(values, np.int32)


def dense(*rows: list[int], bias: Array | None = None, threshold: int = 0, sends: bool = True) -> GradedLayer:
    return GradedLayer("dense", Dense(np.array(rows, np.int32), bias), threshold, sends)


def column(steps: list[GradedState], layer: int, part: str) -> list[int]:
    return [int(getattr(state[layer], part)[0, 0]) for state in steps]


def test_a_trace_by_hand() -> None:
    """x = 5, 5, 2 into W = 10, b = 1, then W = -3; spike_exp 0, so that a message of 1 is 64 in the state::

        global step       1            2                  3              4                  5
        a of the input    320          320                128
        its message       5            -                  192 less: -3
        sigma             0            10 x 5 = 50        50             50 - 30 = 20       20
        a = sigma + 64    64           114                114            84                 84
        its message       64 / 64 = 1  50 >> 6 = 0        -              -30 >> 6 = -1      -
        output            0            -3 x 1 = -3        -3             -3                 -3 + 3 = 0

    The message of 50 / 64 is lost, that of -30 / 64 is rounded down to -1: the changes add up to 0, a is 84 >> 6 = 1.
    """
    network = GradedNetwork((1,), (PIXELS, dense([10], bias=integers(1)), dense([-3], sends=False)), spike_exp=0)
    frames = [integers(x)[np.newaxis] for x in (5, 5, 2, 2, 2)]
    steps = list(global_steps(network, frames))
    assert column(steps, 0, "activation") == [320, 320, 128, 128, 128]
    assert column(steps, 0, "messages") == [5, 0, -3, 0, 0]
    assert column(steps, 1, "sigma") == [0, 50, 50, 20, 20]
    assert column(steps, 1, "activation") == [64, 114, 114, 84, 84]
    assert column(steps, 1, "messages") == [1, 0, 0, -1, 0]
    assert column(steps, 2, "sigma") == [0, -3, -3, -3, 0]


def test_a_threshold_holds_a_change_back_until_it_is_large_enough() -> None:
    """vThMant 3, spike_exp 0, x = 2, 3, 3, 1: a change below 3 x 64 stays in the residue, 3 x 64 itself is sent."""
    network = GradedNetwork((1,), (replace(PIXELS, threshold=3), dense([1], sends=False)), spike_exp=0)
    steps = list(global_steps(network, [integers(x)[np.newaxis] for x in (2, 3, 3, 1)]))
    assert column(steps, 0, "messages") == [0, 3, 0, 0]
    assert column(steps, 0, "residue") == [128, 0, 0, -128]


def test_spike_exp_scales_messages_biases_and_thresholds() -> None:
    layers = (PIXELS, dense([1], bias=integers(1), threshold=1), dense([1], sends=False))
    (state,) = global_steps(GradedNetwork((1,), layers, spike_exp=2), [integers(3)[np.newaxis]])
    assert int(state[0].messages[0, 0]) == 3 << 2
    assert int(state[1].messages[0, 0]) == 1 << 2


def test_after_settling_one_image_needs_one_step_of_each_layer() -> None:
    """The layers' own steps equal Lava's global steps, one later for each synapse, also without a reset in between."""
    rng = np.random.default_rng(0)
    conv = Conv(rng.integers(-40, 41, (3, 2, 2, 2)), rng.integers(-5, 20, 3), padding=(1, 1), pool=(2, 1))
    maps = GradedLayer("conv", conv)
    inner = dense(*rng.integers(-40, 41, (5, 3 * 3 * 4)).tolist(), bias=rng.integers(-5, 20, 5), threshold=2)
    last = dense(*rng.integers(-40, 41, (4, 5)).tolist(), sends=False)
    network = GradedNetwork((2, 4, 3), (PIXELS, maps, inner, last), spike_exp=1)
    frames = [rng.integers(0, 60, (2, 2, 4, 3)) for _ in range(4)]
    start = settled_state(network)
    assert not any(layer.messages.any() for layer in next(global_steps(network, [0 * frames[0]], start)))
    on_lava = list(global_steps(network, [*frames, *[frames[-1]] * 3], start))
    for time, state in enumerate(frame_steps(network, frames, start)):
        for index, layer in enumerate(state):
            for found, expected in zip(layer, on_lava[time + index][index], strict=True):
                assert np.array_equal(found, expected)


def test_a_settled_network_is_a_quantized_cnn() -> None:
    """The messages add up to max(0, W x + 64 b) >> 6, and the output is their weighted sum."""
    rng = np.random.default_rng(1)
    weight, bias, outer = rng.integers(-90, 91, (6, 4)), rng.integers(-9, 10, 6), rng.integers(-90, 91, (3, 6))
    layers = (PIXELS, dense(*weight.tolist(), bias=bias), dense(*outer.tolist(), sends=False))
    network = GradedNetwork((4,), layers, spike_exp=0)
    images = rng.integers(0, 256, (50, 4))
    start = settled_state(network)
    (state,) = frame_steps(network, [images], start)
    # The biases' own messages are exact: b << 6 loses nothing to the shift.
    total = np.maximum(bias, 0) + state[1].messages
    assert np.array_equal(total, np.maximum(images @ weight.T + 64 * bias, 0) >> 6)
    assert np.array_equal(state[2].sigma, total @ outer.T)


def test_values_beyond_24_bits_or_16_message_bits_are_found() -> None:
    network = GradedNetwork((1,), (PIXELS, dense([127], sends=False)), spike_exp=0)
    images = integers(32_767, 32_768, -32_768, 70_000)[:, np.newaxis]
    input_step, output = next(frame_steps(network, [images], settled_state(network)))
    assert input_step.leaves_range.tolist() == [False, True, True, True]
    # 127 x 70,000 is above 2^23.
    assert output.leaves_range.tolist() == [False, False, False, True]


@pytest.mark.parametrize(("bias", "wrapped"), [(32_767, 0), (32_768, 3)])
def test_a_message_beyond_16_bits_while_the_network_settles_concerns_every_image(bias: int, wrapped: int) -> None:
    """The bias is sent once, before the first image, and images of 0 send nothing."""
    network = GradedNetwork((1,), (PIXELS, dense([1], bias=integers(bias)), dense([1], sends=False)), spike_exp=0)
    result = run_graded(network, np.zeros((3, 1), np.int32))
    assert result.wrapped_images == wrapped
    notes = evaluate(result, network).notes
    said = "On 3 of 3 images, a current or state exceeds 24 bits, or a message 16 bits; all images count"
    assert any(note.startswith(said) for note in notes) == bool(wrapped)


@pytest.mark.parametrize(
    ("synapse", "sigma"),
    [
        # 17 x 127 x 30,000 = 64,770,000 = 8 x 2^23 - 2,338,864: the current of a convolution wraps at 24 bits.
        (Conv(np.full((1, 17, 1, 1), 127, np.int32)), -2_338_864),
        # 1,128 x 127 x 30,000 = 2^32 + 2,712,704: a dense layer's, at 32 bits.
        (Dense(np.full((1, 1128), 127, np.int32)), 2_712_704),
    ],
)
def test_a_current_that_wraps_into_the_range_is_found(synapse: Conv | Dense, sigma: int) -> None:
    inputs = synapse.weight.shape[1]
    shape = (inputs, 1, 1) if isinstance(synapse, Conv) else (inputs,)
    network = GradedNetwork(shape, (PIXELS, GradedLayer("layer", synapse, sends=False)), spike_exp=0)
    state = next(frame_steps(network, [np.full((1, *shape), 30_000)], settled_state(network)))
    assert (state[1].sigma.item(), state[1].leaves_range.tolist()) == (sigma, [True])


GOLDEN = "gts/pilotnet_sdnn"


@pytest.mark.parametrize(
    ("file", "recorded"),
    [("network", ("1", "2")), ("square_network", ("1_square", "2_square", "3_square", "4_square"))],
)
def test_lava_dls_golden_pilotnet_sdnn(file: str, recorded: tuple[str, ...]) -> None:
    """sigma of each recorded layer after each of 20 steps on Loihi 2, error 0. The chip receives the messages of the
    input layer, ``act0``, so its first layer is one step later than the file's."""
    network = external.read_external(lava_dl_file(f"{GOLDEN}/{file}.net"))
    assert isinstance(network, GradedNetwork)
    _, rows, columns = network.input_shape
    # Lava's axes are W, H, C.
    messages = np.load(lava_dl_file(f"{GOLDEN}/act0.npy"))[:columns, :rows].astype(np.int32)
    # Without thresholds, the input whose changes are these messages.
    inputs = messages.cumsum(axis=-1) >> network.spike_exp
    states = list(global_steps(network, [frame.T[np.newaxis] for frame in np.moveaxis(inputs, -1, 0)]))
    for name in recorded:
        expected = np.load(lava_dl_file(f"{GOLDEN}/sigma{name}.npy"))
        found = np.stack([state[int(name[0])].sigma[0].T for state in states], axis=-1)
        assert found.shape == expected.shape
        assert np.count_nonzero(found != expected) == 0, name


def test_lava_dls_golden_output_of_pilotnet_sdnn() -> None:
    """The steering angle in nine steps of lava-dl's test, in which the biases arrive first and then the image."""
    network = external.read_external(lava_dl_file(f"{GOLDEN}/network.net"))
    assert isinstance(network, GradedNetwork)
    assert [layer.threshold for layer in network.layers] == [0, 13, 0, 0, 0, 23, 1, 6, 0]
    image = np.load(lava_dl_file(f"{GOLDEN}/input.npy"))[..., 0].T[np.newaxis]
    # RingBuffer repeats its single frame.
    states = list(global_steps(network, [image] * 9))
    expected = np.load(lava_dl_file(f"{GOLDEN}/output.npy"))[0]
    assert column(states, -1, "sigma") == expected.tolist()


def small_layers() -> list[LayerData]:
    rng = np.random.default_rng(5)
    neuron = {"type": "SDNN", "vThMant": 2, "activation": "relu"}

    def even(*shape: int) -> np.ndarray:
        return 2 * rng.integers(-20, 21, shape).astype(np.float32)

    conv = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 1], "groups": 2, "neuron": neuron}
    return [
        {"type": "input", "shape": [2, 5, 4], "neuron": {**neuron, "vThMant": 0}},
        {"type": "conv", "shape": [6, 3, 3], "weight": even(6, 1, 3, 2), "bias": np.arange(6.0), **conv},
        {"type": "flatten", "shape": [1, 1, 54]},
        {"type": "dense", "shape": [3], "weight": even(3, 54), "neuron": {**neuron, "sigma_output": True}},
    ]


def test_a_file_of_another_tool_is_read(tmp_path: Path) -> None:
    layers = small_layers()
    network = external.read_external(write_external(tmp_path / "model.net", layers))
    assert isinstance(network, GradedNetwork)
    assert (network.spike_exp, network.shapes) == (6, ((2, 5, 4), (6, 3, 3), (3,)))
    assert [layer.threshold for layer in network.layers] == [0, 2, 0]
    assert [layer.sends for layer in network.layers] == [True, True, False]
    assert network.layers[0].synapse == PixelBias(64, 0)
    assert isinstance(network.layers[2].synapse, Dense)
    # Lava's synapse shifts small weights left, and their sum right again.
    assert np.array_equal(network.layers[2].synapse.weight, layers[3]["weight"])


def test_a_file_of_another_tool_is_run_from_the_settled_state(tmp_path: Path, invoke: Invoke) -> None:
    """x = 64 (pixel / 255 - 0.5) / 0.5, cut towards 0; input neurons that get 0 send nothing."""
    path = write_external(tmp_path / "model.net", small_layers())
    network = external.read_external(path)
    assert isinstance(network, GradedNetwork)
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 5, 4)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(6) % 3)
    inputs = np.trunc(64 * (images / 255 - 0.5) / 0.5).astype(np.int32)
    outputs, sent = [], []
    for x in inputs:
        # Global steps: settle, then hold the image until it has passed all layers.
        states = list(global_steps(network, [0 * x[np.newaxis]] * 4 + [x[np.newaxis]] * 4))
        outputs.append(states[-1][-1].sigma[0])
        sent.append([np.count_nonzero(states[4 + layer][layer].messages) for layer in range(2)])
    result = run_graded(network, pixel_inputs(network, images, DEFAULT_NORMALIZATION))
    assert np.array_equal(result.potentials[:, 0], outputs)
    assert np.array_equal(result.spike_counts[:, 0], sent)
    done = invoke("run", path, "--data", tmp_path / "own.npz", "-o", tmp_path / "run", "--json")
    assert (done.code, "sigma-delta neurons" in done.err) == (0, True)
    found = done.json["model"]
    right = np.count_nonzero(np.argmax(outputs, axis=1) == np.arange(6) % 3)
    assert (found["points"][0]["correct_count"], found["depth"], found["energy"]) == (right, 2, None)
    assert found["points"][0]["spikes_per_image"] == np.sum(sent) / 6
    assert not (tmp_path / "run" / "energy.csv").exists()
    # Images as a sequence are another experiment, so a report shows both.
    assert invoke("run", path, "--data", tmp_path / "own.npz", "-o", tmp_path / "stream", "--stream").code == 0
    assert read_run(tmp_path / "run").manifest.options != read_run(tmp_path / "stream").manifest.options
    assert invoke("run", path, "--data", tmp_path / "own.npz", "-T", "2").code == 2
    checked = invoke("check", path)
    assert (checked.code, "sigma-delta neurons, whose spikes are graded" in checked.out) == (0, True)
    assert "graded (sigma-delta neurons)" in invoke("inspect", path).out


@pytest.mark.parametrize(
    ("index", "changes", "found"),
    [
        (0, {"neuron": None}, "no input neurons"),
        (0, {"neuron": {"type": "CUBA", "iDecay": 1, "vDecay": 1, "vThMant": 1}}, "neurons of type 'CUBA'"),
        (1, {"neuron": {"type": "SDNN"}}, "neuron/vThMant missing"),
        (1, {"neuron": {"type": "SDNN", "vThMant": -1}}, "neuron/vThMant -1"),
        (1, {"neuron": {"type": "SDNN", "vThMant": [1, 2]}}, "2 numbers in neuron/vThMant"),
        (1, {"neuron": {"type": "SDNN", "vThMant": 1, "messageBits": 16}}, "has a dataset neuron/messageBits"),
        (1, {"neuron": {"type": "SDNN", "vThMant": 1, "sigma_output": True}}, "has a bias"),
        (3, {"neuron": None}, "has no neurons"),
        (3, {"delay": np.ones(3)}, "has delays, which `ref` does not simulate"),
    ],
)
def test_refusals(tmp_path: Path, index: int, changes: LayerData, found: str) -> None:
    layers = small_layers()
    layers[index] |= changes
    with pytest.raises(NetxError) as caught:
        external.read_external(write_external(tmp_path / "model.net", layers))
    assert caught.value.found == found
    assert f"layer {index}" in str(caught.value.where)


@pytest.mark.parametrize(
    "layers",
    [
        (PIXELS,),
        (dense([1]), dense([1])),
        (PIXELS, PIXELS),
        (PIXELS, dense([1], sends=False), dense([1])),
        (PIXELS, dense([1], threshold=-1)),
        (PIXELS, dense([1], bias=integers(1), sends=False)),
    ],
)
def test_a_chain_that_netx_cannot_build_cannot_be_made(layers: tuple[GradedLayer, ...]) -> None:
    with pytest.raises(RangeError):
        GradedNetwork((1,), layers)
    assert issubclass(RangeError, LoihiConvertError)
