"""CUBA networks: hand traces, a plain loop, Lava's own lines, lava-dl's golden networks, and unmodified lava-dl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import SUPPORT, oracle, stock_lava_dl
from support.command_line import invoker
from support.evaluations import bytes_of
from support.external_files import NEURON, lava_dl_file, small_layers, write_external
from support.strategies import Case, networks

from loihi_convert import external, netx
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import result_size
from loihi_convert.chip import limits
from loihi_convert.errors import DataError, InputError, NetxError, RangeError, UsageError
from loihi_convert.external.readers import INTEGRATOR, CubaLayer, CubaNetwork, CubaNeuron
from loihi_convert.external.simulation import (
    DEFAULT_NORMALIZATION,
    lif_step,
    pixel_inputs,
    run_cuba,
    simulate,
)
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.synapse import Conv, Dense, PixelBias


def neuron(i_decay: int, v_decay: int, v_th_mant: int) -> CubaNeuron:
    return CubaNeuron(i_decay, v_decay, np.array(v_th_mant, np.int32))


def integers(*values: int) -> Array:
    return np.array(values, np.int32)


def test_a_trace_by_hand() -> None:
    """Half of u and a quarter of v decay, I = 3 and bias 1 at every step, vThMant 7; units of 1/64 weight::

    u(t) = u(t-1) / 2 + 192            192          288          336          360
    v(t) = 3/4 v(t-1) + u(t) + 64      256          544 > 448    400          724 > 448
    spike                              -            1, v = 0     -            1, v = 0
    """
    layer = CubaLayer("layer 0", Dense(integers(3).reshape(1, 1), integers(1)), neuron(2048, 1024, 7))
    network = CubaNetwork((1,), (layer,))
    steps = [step[0] for step in simulate(network, integers(1).reshape(1, 1), 4)]
    assert [int(step.u[0, 0]) for step in steps] == [192, 288, 336, 360]
    assert [int(step.v[0, 0]) for step in steps] == [256, 0, 400, 0]
    assert [bool(step.spikes[0, 0]) for step in steps] == [False, True, False, True]


@pytest.mark.parametrize(
    ("u", "v", "current", "after"),
    [
        # Both decays cut towards 0: -3 / 2 = -1.5 becomes -1, and v = -1 - 1.
        (-3, -3, 0, (-1, -2, False)),
        # Exactly at the threshold of 640 is not above it.
        (0, 0, 10, (640, 640, False)),
        (2, 0, 10, (641, 0, True)),
        # Past 2^23 u wraps to the other sign, 2^23 itself does not; v clips one below.
        (2, -2, 2**17, (-(2**23) + 1, -(2**23) + 1, False)),
        (0, 0, 2**17, (2**23, 0, True)),
        (0, 0, -(2**17), (2**23, 0, True)),
    ],
)
def test_cutting_wrapping_clipping_and_the_strict_threshold(
    u: int, v: int, current: int, after: tuple[int, int, bool]
) -> None:
    step = lif_step(neuron(2048, 2048, 10), integers(u), integers(v), integers(current), integers(0))
    assert (int(step.u[0]), int(step.v[0]), bool(step.spikes[0])) == after


def plain_step(u: int, v: int, current: int, bias: int, i_decay: int, v_decay: int, threshold: int) -> tuple[int, ...]:
    """The equations of `readers` for one neuron, in Python's integers."""

    def decayed(state: int, decay: int) -> int:
        return (1 if state >= 0 else -1) * (abs(state) * (4096 - decay) // 4096)

    u = decayed(u, i_decay) + 64 * current
    u = u - 2**24 if u > 2**23 else u + 2**24 if u <= -(2**23) else u
    v = max(-(2**23) + 1, min(2**23 - 1, decayed(v, v_decay) + u + 64 * bias))
    spikes = v > 64 * threshold
    return u, 0 if spikes else v, int(spikes)


STATES = st.integers(-(2**23) + 1, 2**23 - 1)


@given(
    *(STATES, STATES, st.integers(-(2**17), 2**17), st.integers(-(2**15), 2**15 - 1)),
    *(st.integers(0, 4096), st.integers(0, 4096), st.integers(0, 2**17)),
)
@settings(max_examples=300, deadline=None)
def test_a_step_is_that_of_a_plain_loop(
    u: int, v: int, current: int, bias: int, i_decay: int, v_decay: int, threshold: int
) -> None:
    step = lif_step(neuron(i_decay, v_decay, threshold), integers(u), integers(v), integers(current), integers(bias))
    found = (int(step.u[0]), int(step.v[0]), int(step.spikes[0]))
    assert found == plain_step(u, v, current, bias, i_decay, v_decay, threshold)


OWN_LINES = """
import numpy as np
from loihi_convert import external
from loihi_convert.external.readers import CubaNeuron
from loihi_convert.external.simulation import lif_step
from lava.lib.dl.netx.utils import optimize_weight_bits
from lava.proc.lif.models import PyLifModelBitAcc
from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

rng = np.random.default_rng(0)
tried = set()
np.seterr(all="ignore")
for index in range(3000):
    low, high = sorted(rng.integers(-300, 300, 2))
    low, high = [(low, high), (0, abs(high)), (-abs(low), 0), (-abs(low) - 1, -1), (1, 1 + abs(high))][index % 5]
    weight = rng.integers(low, high + 1, (3, 4)) * 2 ** rng.integers(0, 3) // rng.integers(1, 9)
    if not weight.any():
        continue
    spikes = rng.integers(0, 2, 4).astype(bool)
    mantissa, bits, exponent, _ = optimize_weight_bits(weight.copy())
    mode = determine_sign_mode(mantissa)
    mantissa = truncate_weights(clip_weights(mantissa, mode, num_bits=8), mode, bits)
    sums = mantissa[:, spikes].sum(axis=1)
    expected = np.left_shift(sums, exponent) if exponent > 0 else np.right_shift(sums, -exponent)
    found, shift = external.dense_weights(weight)
    assert ((found[:, spikes].sum(axis=1) >> shift) == expected).all(), weight
    tried.add((mode, exponent))
assert len(tried) > 15

for index in range(300):
    count = 50
    i_decay, v_decay = (int(rng.choice([0, 1, 2048, 4095, 4096, rng.integers(4097)])) for _ in range(2))
    threshold = int(rng.integers(0, 2**17 + 1))
    u, v = (rng.integers(-(2**23) + 1, 2**23, count).astype(np.int32) for _ in range(2))
    current = rng.integers(-(2**23), 2**23, count).astype(np.int32) >> int(rng.integers(0, 20))
    bias = rng.integers(-(2**15), 2**15, count).astype(np.int32)
    model = PyLifModelBitAcc({})
    model.u, model.v, model.du, model.dv = u.copy(), v.copy(), i_decay - 1, v_decay
    model.bias_mant, model.bias_exp, model.vth = bias.astype(np.int16), np.int16(6), threshold
    model.scale_bias(); model.scale_threshold(); model.subthr_dynamics(current)
    spikes = model.spiking_activation()
    model.reset_voltage(spikes)
    step = lif_step(CubaNeuron(i_decay, v_decay, np.array(threshold, np.int32)), u, v, current, bias)
    assert (step.u == model.u).all() and (step.v == model.v).all() and (step.spikes == spikes).all()
"""


@pytest.mark.lava
def test_weights_and_steps_are_those_of_lavas_own_lines() -> None:
    stock_lava_dl.execute(OWN_LINES)


@pytest.mark.lava
@pytest.mark.parametrize("has_input_neurons", [True, False])
def test_unmodified_lava_dl_gives_the_same_states(tmp_path: Path, has_input_neurons: bool) -> None:
    layers = small_layers()
    layers[1]["neuron"] = {**NEURON, "vThMant": np.arange(20, 80, 10)}
    if not has_input_neurons:
        # Currents of graded spikes are large.
        layers[0] = {"type": "input", "shape": [2, 5, 4]}
        layers[1]["neuron"]["vThMant"] = np.arange(20, 80, 10) * 500
    path = write_external(tmp_path / "model.net", layers)
    network = external.read_external(path)
    sample = np.random.default_rng(0).integers(0, 90, network.input_shape).astype(np.int32)
    np.save(tmp_path / "sample.npy", sample)
    program = (SUPPORT / "run_stock_states.py", path, tmp_path / "sample.npy", 8, tmp_path / "states.npz")
    stock_lava_dl.run_scripts(program)
    steps = list(simulate(network, sample[np.newaxis], 8))
    fired = [sum(int(layers[index].spikes.sum()) for layers in steps) for index in range(len(network.layers))]
    assert all(fired[:-1])
    with np.load(tmp_path / "states.npz") as states:
        for index in range(len(network.layers)):
            for name in ("u", "v"):
                found = np.array([getattr(layers[index], name)[0].reshape(-1) for layers in steps])
                assert np.array_equal(found, states[f"{name}{index}"]), (index, name)


@pytest.mark.parametrize(
    ("weight_shape", "geometry", "shape", "outputs"),
    [
        ((16, 32, 2, 3), {"stride": (1, 1), "dilation": (3, 1), "padding": (2, 1)}, (32, 1, 6), (16, 2, 6)),
        ((64, 64, 2, 2), {"stride": (1, 1), "dilation": (8, 8), "padding": (4, 4)}, (64, 4, 4), (64, 4, 4)),
        ((16, 3, 1, 5), {"stride": (2, 3), "dilation": (1, 1), "padding": (0, 0)}, (3, 10, 5), (16, 5, 1)),
    ],
)
def test_convolutions_in_which_onednn_errs(
    tmp_path: Path, weight_shape: Shape, geometry: dict[str, tuple[int, int]], shape: Shape, outputs: Shape
) -> None:
    """A dilation that jumps over a small map, and a stride that leaves one column: after one step u is 64 I."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-120, 121, weight_shape)
    numbers = {"shape": outputs, "weight": weight.astype(np.float32), **geometry, "groups": 1}
    conv = {"type": "conv", **numbers, "neuron": NEURON}
    path = write_external(tmp_path / "model.net", [{"type": "input", "shape": shape}, conv])
    network = external.read_external(path)
    assert isinstance(network, CubaNetwork)
    spikes = rng.integers(0, 2, (2, *shape))
    ((step,),) = simulate(network, spikes, 1)
    synapse = Conv(weight, **geometry)
    assert np.array_equal(step.u, [64 * oracle.current(synapse, image) for image in spikes])


PILOTNET = ("input", *(f"conv-{index}" for index in range(5)), *(f"fc-{index}" for index in range(3)))


def golden(name: str) -> Array:
    values: Array = np.load(lava_dl_file(f"gts/pilotnet_lif/{name}.npy"))
    return values


def test_lava_dls_golden_pilotnet() -> None:
    """Every u and every spike of 9 layers, error 0; every v but where a neuron has just fired.

    There the chip, on which the states were recorded, keeps 128 for the refractory delay, and Lava 0. Each layer's own
    first step is one later than that of the layer before, and all begin anew after 17 steps. The tenth layer's states
    (fc-3) do not follow from the spikes of the ninth that lie beside them, whatever the delay: they are of another run.
    """
    network = external.read_external(lava_dl_file("gts/pilotnet_lif/network.net"))
    period, total = 17, 24
    # Lava's axes are W, H, C.
    steps = list(simulate(network, golden("image").T[np.newaxis], period))
    compared = 0
    for index, name in enumerate(PILOTNET):

        def computed(part: str, index: int = index) -> Array:
            once = np.stack([getattr(layers[index], part)[0].T for layers in steps], axis=-1)
            return np.concatenate([once, once], axis=-1)[..., : total - index]

        spikes = computed("spikes")
        assert np.array_equal(spikes, golden(name)[..., index:]), name
        if name != "input":
            assert np.array_equal(computed("u"), golden(f"{name}-u")[..., index:]), name
            assert np.array_equal(np.where(spikes, 128, computed("v")), golden(f"{name}-v")[..., index:]), name
        compared += spikes.size
    assert compared > 3_000_000


def test_lava_dls_golden_tiny_network() -> None:
    """Spikes of the input neurons, both convolutions, and the currents of the first, recorded from the second step."""
    network = external.read_external(lava_dl_file("tiny.net"))
    expected = {name: np.load(lava_dl_file(f"gts/tinynet/{name}.npy"))[0] for name in ("input", "layer1", "output")}
    bias = np.load(lava_dl_file("gts/tinynet/input_bias.npy")).T.astype(np.int32)
    steps = list(simulate(network, bias[np.newaxis], 15))
    for index, name in enumerate(("input", "layer1", "output")):
        spikes = np.stack([layers[index].spikes[0] for layers in steps], axis=-1)
        assert np.array_equal(spikes, expected[name][..., 1:16].astype(bool)), name


def test_lava_dls_mnist_network_knows_digits() -> None:
    """784 inputs in a row, a readout without neurons; images from -1 to 1, as lava-dl's data set gives them."""
    network = external.read_external(lava_dl_file("mnist.net"))
    assert (network.input_shape, network.timesteps, network.readout) == ((784,), 16, "potential")
    assert network.layers[-1].neuron is INTEGRATOR
    assert network.layers[0].synapse == PixelBias(76, 64)
    images = np.zeros((1, 1, 28, 28), np.uint8)
    # A stroke of a one.
    images[0, 0, 4:24, 13:16] = 255
    assert run_cuba(network, images, 16).predictions[0, -1] == 1


@given(case=networks(takes_pixels=True))
@settings(max_examples=20, deadline=None)
def test_native_files_read_as_external_ones_compute_the_same_as_with_stock_neurons(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    network, images = case
    dense = [layer.weight for layer in network.layers if isinstance(layer.synapse, Dense)]
    assume(all(weight.min() < 0 < weight.max() for weight in dense))
    # External files with such biases are refused.
    assume(all(layer.bias is None or np.abs(layer.bias).max() <= limits.LIF_BIAS_LIMIT for layer in network.layers))
    path = tmp_path_factory.mktemp("cuba") / "model.net"
    netx.write(network, path)
    as_external = external.read_external(path)
    expected = run_network(network, images, 6, trace=True, neuron=NeuronModel.STOCK_LIF)
    # Beyond, a current of three ranges in a step is still out of range once it has wrapped, and Lava cuts its sum.
    assume(all(np.abs(trace.potentials).max() <= limits.WRAPS_ABOVE for trace in expected.traces))
    for step, layers in enumerate(simulate(as_external, network.pixels(images), 6)):
        for found, trace in zip(layers, expected.traces, strict=True):
            assert np.array_equal(found.v >> 6, trace.potentials[:, step])
            if trace.spikes is not None:
                assert np.array_equal(found.spikes, trace.spikes[:, step])


def test_pixels_become_biases_cut_towards_zero() -> None:
    network = CubaNetwork((2, 1, 1), (CubaLayer("layer 0", PixelBias(10, -3), neuron(4096, 0, 5)),))
    images = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
    # (0 - 0.25) / 0.5 = -0.5 and (1 - 0.5) / 0.3 = 1.67: 10 x - 3 = -8 and 13.67.
    found = pixel_inputs(network, images, Normalization((0.25, 0.5), (0.5, 0.3)))
    assert found.tolist() == [[[[-8]], [[13]]]]


def test_pixels_become_biases_that_fit_lavas_sixteen_bits() -> None:
    network = CubaNetwork((1, 1, 1), (CubaLayer("layer 0", PixelBias(32_000, 0), neuron(4096, 0, 5)),))
    white, zero = np.full((1, 1, 1, 1), 255, np.uint8), (0.0,)
    # 32,000 / 0.97655 = 32,768.4 and 32,000 / 0.97659 = 32,767.08.
    assert pixel_inputs(network, white, Normalization(zero, (0.97659,))).item() == 32_767
    with pytest.raises(RangeError, match="32,768") as caught:
        pixel_inputs(network, white, Normalization(zero, (0.97655,)))
    assert (caught.value.where, "32,767" in caught.value.expected) == ("layer 0", True)
    assert "`std`" in caught.value.expected


def changed(change: Callable[[list[Any]], object]) -> list[Any]:
    layers = small_layers()
    change(layers)
    return layers


def put(index: int, **values: object) -> Callable[[list[Any]], object]:
    return lambda layers: layers[index].update(values)


@pytest.mark.parametrize(
    ("change", "layer", "found"),
    [
        (put(3, delay=np.ones(7)), "layer 3", "has delays"),
        (put(3, type="average"), "layer 3", "is of type 'average'"),
        (put(3, type="dense_rec"), "layer 3", "is of type 'dense_rec'"),
        (put(3, type="avgpool"), "layer 3", "is of type 'avgpool'"),
        (put(3, type="a\x1b[2J"), "layer 3", r"is of type 'a\x1b[2J'"),
        (put(1, neuron={**NEURON, "type": "RF_IZ"}), "layer 1", "'RF_IZ'"),
        (put(1, neuron={**NEURON, "iDecay": 4097}), "layer 1", "neuron/iDecay 4,097"),
        (put(1, neuron={**NEURON, "iDecay": 7.5}), "layer 1", "neuron/iDecay has numbers with a fraction"),
        (put(1, neuron={**NEURON, "iDecay": "a text"}), "layer 1", "neuron/iDecay is |S6"),
        (put(1, neuron={**NEURON, "iDecay": [1, 2]}), "layer 1", "2 numbers in neuron/iDecay"),
        (put(1, neuron={**NEURON, "vThMant": -1}), "layer 1", "neuron/vThMant -1"),
        (put(1, neuron={**NEURON, "vThMant": np.ones(4)}), "layer 1", "neuron/vThMant of shape (4,)"),
        (put(1, neuron={**NEURON, "messageBits": 8}), "layer 1", "neuron/messageBits"),
        (put(1, neuron={"iDecay": 5}), "layer 1", "neuron/type missing"),
        (put(1, neuron=None), "layer 1", "neuron/type missing"),
        (put(1, stride=None), "layer 1", "stride missing"),
        (put(1, stride=[0, 1]), "layer 1", "stride 0..1"),
        (put(1, stride=[1, 1, 1]), "layer 1", "stride (1, 1, 1)"),
        (put(1, stride=[1.5, 1]), "layer 1", "stride has numbers with a fraction"),
        (put(1, shape=[6, 3, 4]), "layer 1", "stored shape (6, 3, 4)"),
        (put(1, shape=[6, 3]), "layer 1", "shape (6, 3)"),
        (put(1, groups=4), "layer 1", "4 groups of 6 output channels"),
        (put(1, bias=np.full(6, 40_000)), "layer 1", "bias 40,000"),
        (put(1, weight=np.full((6, 1, 3, 2), np.nan)), "layer 1", "weight has numbers beyond +-2,147,483,647, or NaN"),
        (put(1, weight=np.ones((6, 3, 2))), "layer 1", "weights of shape (6, 3, 2)"),
        (put(3, weight=np.ones((14, 27))), "layer 3", "weights of shape (14, 27) for 7 neurons"),
        (put(4, weight={"real": 1.0, "imag": 1.0}), "layer 4", "has complex weights"),
        (put(4, weight=np.zeros((3, 7))), "layer 4", "all weights are 0"),
        (put(4, weight=np.ones((3, 6))), "layer 4", "found 7 values, from shape (7,)"),
        (put(4, type="input"), "layer 4", "is a second input"),
        (lambda layers: layers.pop(2), "layer 2", "takes maps of shape (6, 3, 3)"),
        (lambda layers: layers.pop(0), "layer 0", "is a convolution of unknown input"),
        (lambda layers: layers.__delitem__(slice(1, None)), "", "no conv or dense layer"),
    ],
)
def test_what_is_refused_names_the_layer(
    tmp_path: Path, change: Callable[[list[Any]], object], layer: str, found: str
) -> None:
    path = write_external(tmp_path / "model.net", changed(change))
    with pytest.raises(NetxError) as caught:
        external.read_external(path)
    # The geometry of a synapse adds its part of the layer.
    assert f"{caught.value.where}: ".startswith(f"{path}: {layer}: " if layer else f"{path}: ")
    assert found in caught.value.found


def test_a_dense_network_needs_no_input_layer(tmp_path: Path) -> None:
    path = write_external(tmp_path / "model.net", small_layers()[3:4])
    network, _ = external.read_any(path)
    assert isinstance(network, CubaNetwork)
    assert (network.input_shape, network.shapes, network.readout, network.timesteps) == ((54,), ((7,),), "spikes", 6)


def test_results_count_spikes_and_the_synapses_they_reach(tmp_path: Path) -> None:
    network = external.read_external(write_external(tmp_path / "model.net", small_layers()))
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 5, 4)).astype(np.uint8)
    result = run_cuba(network, images, 6)
    steps = list(simulate(network, pixel_inputs(network, images, DEFAULT_NORMALIZATION), 6))
    assert bytes_of(result) == result_size(network, 3, 6)
    assert result.potentials[:, 5].tolist() == (steps[5][3].v // 64).tolist()
    for index, layer in enumerate(network.layers[:3]):
        fired = [step[index].spikes for step in steps]
        assert result.spike_counts[:, :, index].tolist() == [[int(s[i].sum()) for s in fired] for i in range(3)]
        after = network.layers[index + 1].synapse
        reached = after.fan_out(network.shapes[index])
        assert int(result.synaptic_operations[:, 4, index].sum()) == int((fired[4] * reached).sum())
        by_channel = [s.reshape(3, s.shape[1], -1).sum(axis=(0, 2)).tolist() for s in fired]
        assert result.channel_spikes[index].tolist() == by_channel, layer.name


def test_a_run_says_how_many_weights_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = small_layers()[3]
    layer["weight"][0, :2] = 3.5
    path = write_external(tmp_path / "model.net", [layer])
    np.savez(tmp_path / "own.npz", images=np.full((6, 1, 6, 9), 9, np.uint8), labels=np.arange(6) % 3)
    done = invoker(monkeypatch, capsys)("run", path, "--data", tmp_path / "own.npz", "-o", tmp_path / "run")
    assert (done.code, "2 weights in the file are not integers" in " ".join(done.err.split())) == (0, True)


def test_images_and_options_that_do_not_fit(tmp_path: Path) -> None:
    network = external.read_external(write_external(tmp_path / "model.net", small_layers()))
    images = np.zeros((1, 2, 5, 4), np.uint8)
    with pytest.raises(DataError, match=r"uint8 of shape \(1, 2, 4, 5\)") as shape:
        run_cuba(network, images.reshape(1, 2, 4, 5), 1)
    assert (shape.value.where, "(N, 2, 5, 4)" in shape.value.expected) == ("images", True)
    for option, run in {
        "timesteps": lambda: run_cuba(network, images, 0),
        "std": lambda: run_cuba(network, images, 1, normalization=Normalization((0.5,), (0.0,))),
        "mean": lambda: run_cuba(network, images, 1, normalization=Normalization((0.1, 0.2, 0.3), (0.5,))),
    }.items():
        with pytest.raises(UsageError) as usage:
            run()
        assert usage.value.where == option
    maps = CubaNetwork(network.input_shape, network.layers[:2])
    with pytest.raises(InputError, match=r"maps of shape \(6, 3, 3\)") as last:
        run_cuba(maps, images, 1)
    assert last.value.where == "layer 1"
    graded = external.read_external(write_external(tmp_path / "graded.net", small_layers()[3:]))
    with pytest.raises(UsageError, match="`mean` and `std`"):
        run_cuba(graded, np.zeros((1, 1, 6, 9), np.uint8), 1, normalization=DEFAULT_NORMALIZATION)


def test_a_run_without_input_neurons_records_that_its_pixels_were_not_normalized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_external(tmp_path / "graded.net", small_layers()[3:])
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 6, 9)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(6) % 3)
    invoke = invoker(monkeypatch, capsys)
    assert invoke("run", path, "--data", tmp_path / "own.npz", "-o", tmp_path / "run").code == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["mean"], manifest["std"]) == (None, None)
