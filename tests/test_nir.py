"""NIR files written by `export --format nir`: run as NIR defines its nodes, they give the spikes of `ref`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir as nir_package
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from support.command_line import invoker
from support.modules import Of
from support.networks import random_network
from support.nir_graphs import executed
from support.oracle import first_signal
from support.relay_networks import images as relay_images
from support.relay_networks import residual
from support.strategies import Case, networks
from torch import nn

from loihi_convert import netx
from loihi_convert.backends.reference import run_network
from loihi_convert.chip.limits import NEVER_FIRES, POTENTIAL_LIMIT
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.flow import LayerReport, QuantizationReport
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import InputError, PlatformError, UnsupportedModelError, UsageError, VerificationError
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.nir import writer as nir
from loihi_convert.nir.writer import nir_notes, to_graph
from loihi_convert.pipeline import exporting
from loihi_convert.pipeline.exporting import rewritten
from loihi_convert.pipeline.options import WriteOptions
from loihi_convert.reading.source import Source

GOLDEN = Path(netx.__file__).parents[1] / "golden" / "model.net"
STEPS = 6


def inputs_of(network: QuantizedNetwork, images: Array, index: int) -> Array:
    """The inputs of image ``index``, float64 ``(STEPS, C, H, W)``."""
    steps = [first_signal(network, images[index], index, step) for step in range(STEPS)]
    return np.stack(steps).astype(np.float64)


def equals_ref(network: QuantizedNetwork, images: Array, graph: Any) -> bool:
    """Assert the spikes of every layer at every step, and the outputs, error 0; return True.

    Return False, and compare nothing, if a potential passes the limit at which Loihi clips, which NIR does not have.
    """
    expected = run_network(network, images, STEPS, trace=True)
    for index in range(len(images)):
        done = executed(graph, inputs_of(network, images, index))
        potentials = [values for name, values in done.items() if name.endswith("_potential")]
        initial = [layer.initial_potential.max() for layer in network.layers if layer.initial_potential is not None]
        outputs = done["output"].cumsum(axis=0)
        if network.readout == "potential":
            potentials, initial = [*potentials, outputs], [*initial, 0]
        if network.poisson_seed is None and len(network.spiking_layers):
            # A constant negative current never fires, clipped or not.
            potentials[0] = np.maximum(potentials[0], 0)
        if any(np.abs(u).max() + v0 > POTENTIAL_LIMIT for u, v0 in zip(potentials, initial, strict=True)):
            return False
        spikes = [values for name, values in done.items() if name.endswith(("_spikes", "_neurons"))]
        traces = [trace.spikes[index] for trace in expected.traces if trace.spikes is not None]
        for found, wanted in zip(spikes, traces, strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(outputs, expected.outputs[index])
    return True


def graph_of(network: QuantizedNetwork, **options: Any) -> Any:
    """The graph, unless a kernel's shape cannot be written."""
    try:
        return to_graph(network, **options)
    except UnsupportedModelError as error:
        assume("a kernel of" not in error.found)
        raise


@settings(max_examples=60, deadline=None)
@given(case=networks())
def test_the_graph_gives_the_spikes_of_ref(case: Case) -> None:
    network, images = case
    assume(equals_ref(network, images[:1], graph_of(network)))


def test_the_golden_file_gives_the_spikes_of_ref(tmp_path: Path) -> None:
    network = netx.read(GOLDEN)
    images = np.random.default_rng(0).integers(0, 256, (3, *network.input_shape)).astype(np.uint8)
    path = tmp_path / "model.nir"
    nir.write(network, path)
    graph = nir_package.read(path)
    assert equals_ref(network, images, graph)
    # The loop of each layer of neurons, and nothing after the readout.
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds.count("I") == kinds.count("Threshold") == kinds.count("Scale") == len(network.layers) - 1
    assert "IF" not in kinds


def one_neuron(threshold: int, initial: int, weight: int = 1, reset: str = "soft") -> QuantizedNetwork:
    """A neuron that receives ``weight`` x pixel in each step, and a readout that counts its spikes."""
    shape = np.ones(1)
    hidden = QuantizedLayer(
        "hidden",
        Dense(np.array([[weight]], np.int32)),
        IntegerNeuron(np.array([threshold], np.int32), np.array([initial], np.int32)),
        shape,
        255,
        IntegrateAndFire(shape * threshold, shape * threshold, shape * initial),
    )
    output = QuantizedLayer("output", Dense(np.array([[1]], np.int32)), None, shape)
    return QuantizedNetwork((1, 1, 1), (hidden, output), 8, 64, 8, reset)


def counted(network: QuantizedNetwork, pixel: int, **options: Any) -> list[int]:
    """The spikes of `one_neuron` in each of `STEPS` steps, by the graph."""
    done = executed(to_graph(network, **options), np.full((STEPS, 1, 1, 1), float(pixel)))
    return [int(step.item()) for step in done["output"]]


def test_hand_trace_of_a_soft_reset() -> None:
    # theta = 5, V0 = 2, I = 3: V = 5 (fires, 0), 3, 6 (fires, 1), 4, 7 (fires, 2), 5 (fires, 0).
    assert counted(one_neuron(5, 2), 3) == [1, 0, 1, 0, 1, 1]


def test_hand_trace_of_a_hard_reset() -> None:
    # theta = 5, I = 3, from 0: V = 3, 6 (fires, 0), 3, 6, 3, 6.
    assert counted(one_neuron(5, 0, reset="hard"), 3) == [0, 1, 0, 1, 0, 1]


def test_if_nodes_drop_the_soft_reset_and_the_initial_potential() -> None:
    # The network of the soft trace as IF nodes: from 0, to 0.
    assert counted(one_neuron(5, 2), 3, hard_reset=True) == [0, 1, 0, 1, 0, 1]
    # A neuron fires where V equals its threshold: > of nir is >= for integers.
    assert counted(one_neuron(3, 0), 3, hard_reset=True) == [1, 1, 1, 1, 1, 1]
    assert counted(one_neuron(3, 0), 3) == [1, 1, 1, 1, 1, 1]
    # A reader that subtracts the threshold of an IF is off by less than 2^-7, even for the largest.
    (node,) = (
        node
        for node in to_graph(one_neuron(NEVER_FIRES - 1, 0), hard_reset=True).nodes.values()
        if hasattr(node, "v_threshold")
    )
    assert 0 < NEVER_FIRES - 1 - float(node.v_threshold[0]) <= 2**-7


def test_a_file_read_back_holds_the_same_graph(tmp_path: Path) -> None:
    written = [seed for seed in range(16) if is_written_alike(seed, tmp_path)]
    assert len(written) > 5


def is_written_alike(seed: int, tmp_path: Path) -> bool:
    network, _ = random_network(seed)
    try:
        nir.write(network, tmp_path / "a.nir", overwrite=True)
    except UnsupportedModelError:
        return False
    read, made = nir_package.read(tmp_path / "a.nir"), to_graph(network)
    assert nir.difference_between(read.to_dict(), made.to_dict()) == ""
    assert read.metadata["timesteps"] == network.timesteps
    assert json.loads(read.metadata["provenance"]) == dict(network.provenance)
    # The same bytes for the same network.
    nir.write(network, tmp_path / "b.nir", overwrite=True)
    assert (tmp_path / "a.nir").read_bytes() == (tmp_path / "b.nir").read_bytes()
    for node in made.nodes.values():
        for values in vars(node).values():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                assert values.dtype == np.float32
    return True


@pytest.mark.parametrize(
    ("reset", "hard_reset", "expected"), [("soft", False, "soft"), ("soft", True, "hard"), ("hard", False, "hard")]
)
def test_the_metadata_name_the_reset_of_the_written_neurons(reset: str, hard_reset: bool, expected: str) -> None:
    graph = to_graph(one_neuron(5, 0, reset=reset), hard_reset=hard_reset)
    assert graph.metadata["reset"] == expected
    assert any(isinstance(node, nir_package.IF) for node in graph.nodes.values()) == (expected == "hard")


def test_every_number_of_a_file_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = netx.read(GOLDEN)
    read = nir_package.read

    def damaged(path: str) -> Any:
        graph = read(path)
        graph.nodes["conv1_reset"].scale[0, 0, 0] += 1
        return graph

    monkeypatch.setattr(nir_package, "read", damaged)
    (tmp_path / "a.nir").write_bytes(b"old")
    with pytest.raises(VerificationError) as caught:
        nir.write(network, tmp_path / "a.nir", overwrite=True)
    assert (tmp_path / "a.nir").read_bytes() == b"old"
    assert caught.value.found.endswith("nodes/conv1_reset/scale")
    nir.write(network, tmp_path / "b.nir", verify=False)


def test_kernels_become_square_where_the_output_keeps_its_size() -> None:
    def network(kernel: Pair, stride: Pair = (1, 1), dilation: Pair = (1, 2)) -> QuantizedNetwork:
        ones = np.ones(1)
        taps = np.arange(1, 1 + kernel[0] * kernel[1], dtype=np.int32).reshape(1, 1, *kernel)
        conv = Conv(taps, padding=(0, 1), stride=stride, dilation=dilation)
        neuron = IntegerNeuron(np.array([4], np.int32), np.array([2], np.int32))
        layers = (
            QuantizedLayer("conv.1/x", conv, neuron, ones, 255, IntegrateAndFire(4 * ones, 4 * ones, 2 * ones)),
            QuantizedLayer("output", Dense(np.ones((1, np.prod(conv.output_shape((1, 8, 9)))), np.int32)), None, ones),
        )
        return QuantizedNetwork((1, 8, 9), layers, 8, 64, 8, "soft")

    images = np.random.default_rng(0).integers(0, 4, (1, 1, 8, 9)).astype(np.uint8)

    def side(written: QuantizedNetwork) -> int:
        graph = to_graph(written)
        node = graph.nodes["conv_1_x"]
        assert node.output_type["output"].tolist() == list(written.shapes[0])
        assert equals_ref(written, images, graph)
        height, width = node.weight.shape[2:]
        assert height == width
        return int(height)

    # With an even difference zeros make it square; padding grows with the kernel and its dilation.
    assert [side(network(kernel)) for kernel in ((1, 3), (3, 1), (5, 3))] == [3, 3, 5]
    # A longer stride has room for an odd number, before or after the kernel, whichever fits the input's size.
    assert side(network((1, 2), stride=(2, 1))) == 2
    assert [side(network(kernel, stride, (1, 1))) for kernel, stride in (((1, 2), (1, 2)), ((2, 1), (2, 1)))] == [3, 3]
    assert side(network((2, 5), (3, 1), (1, 1))) == 5
    for impossible in (network((1, 2)), network((1, 2), stride=(1, 2))):
        with pytest.raises(UnsupportedModelError) as caught:
            to_graph(impossible)
        assert caught.value.where == "conv.1/x"
        assert caught.value.found == "has a kernel of 1 x 2"


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (9, 9)])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)])
def test_max_pooling_gives_the_spikes_of_ref(pool: nn.MaxPool2d, size: Pair) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(3))
    cnn(torch.zeros(1, 1, *size))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, *size)).astype(np.uint8)
    relu = Source.from_module(cnn, (1, *size)).network
    network = quantize(balance(relu, pixels, STEPS, BalanceOptions(method="percentile")), pixels)
    assert equals_ref(network, pixels[:2], to_graph(network))


def test_a_head_of_maximum_and_mean_gives_the_spikes_of_ref() -> None:
    """Its layers have kernels of 1 x 4 and 4 x 1 with a single output along the longer side."""
    torch.manual_seed(0)
    cnn = Of(
        lambda m, x: m.fc(torch.cat([(y := m.conv(x).relu()).amax((2, 3)), y.mean((2, 3))], 1)),
        conv=nn.Conv2d(1, 2, 3),
        fc=nn.Linear(4, 3),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 6, 6)).astype(np.uint8)
    relu = Source.from_module(cnn, (1, 6, 6)).network
    assert any(layer.synapse.weight.shape[2:] == (1, 4) for layer in relu.layers)
    network = quantize(balance(relu, pixels, STEPS, BalanceOptions(method="percentile")), pixels)
    assert equals_ref(network, pixels[:2], to_graph(network))


def test_groups_are_written_as_zeros(tmp_path: Path) -> None:
    # nir 1.0.8 cannot read a file with groups: it takes the weight's channels for the input's.
    ones = np.ones(4)
    weight = np.arange(1, 4 * 2 * 9 + 1).reshape(4, 2, 3, 3).astype(np.int32)
    neuron = IntegerNeuron(np.array([40, 60, 80, 99], np.int32), np.array([20, 0, 40, 9], np.int32))
    balanced = IntegrateAndFire(neuron.threshold, neuron.threshold, neuron.initial_potential)
    conv = QuantizedLayer("conv", Conv(weight, padding=(1, 1), groups=2), neuron, ones, 1, balanced)
    output = QuantizedLayer("fc", Dense(np.ones((1, 4 * 25), np.int32)), None, np.ones(1))
    network = QuantizedNetwork((4, 5, 5), (conv, output), 8, 64, 1, "soft")
    nir.write(network, tmp_path / "a.nir")
    graph = nir_package.read(tmp_path / "a.nir")
    found = graph.nodes["conv"].weight
    assert found.shape == (4, 4, 3, 3)
    assert not found[:2, 2:].any()
    assert not found[2:, :2].any()
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 5)).astype(np.uint8)
    assert equals_ref(network, images, graph)


def test_names_are_identifiers_and_unique() -> None:
    network = netx.read(GOLDEN)
    names = ("0 1", "0_1") if len(network.layers) == 2 else ("a 1", "a_1_pool", "a_1")
    renamed = replace(
        network, layers=tuple(replace(layer, name=name) for layer, name in zip(network.layers, names, strict=True))
    )
    graph = to_graph(renamed)
    assert all(name.isidentifier() for name in graph.nodes)
    assert len(graph.nodes) == len(to_graph(network).nodes)


def test_notes_name_what_is_lost() -> None:
    network = netx.read(GOLDEN)
    (loop,) = nir_notes(network, allow_hard_reset=False)
    assert "I -> Threshold -> Scale" in loop
    (dropped,) = nir_notes(network, allow_hard_reset=True)
    assert "another network" in dropped
    assert nir_notes(one_neuron(5, 0, reset="hard"), allow_hard_reset=False) == ()


def test_the_note_names_layers_that_clip() -> None:
    network = one_neuron(NEVER_FIRES - 1, 0, weight=127)
    layers = (
        LayerReport("a", None, 0.0, None, (), 9, 0, 9, is_low_harmless=True),
        LayerReport("b", None, 0.0, None, (), 2, 3, 5),
    )
    report = QuantizationReport(layers, 50, 16, 64, "lava", 8)
    *_, clips = nir_notes(network, False, report)
    assert clips.startswith("potentials of b clip at +-131071")
    unclipped = replace(
        report, layers=tuple(replace(layer, low_clipped=0, high_clipped=0, either_clipped=0) for layer in layers)
    )
    assert len(nir_notes(network, False, unclipped)) == 1


def test_relays_repeat_every_spike() -> None:
    pixels = relay_images(8)
    spiking = balance(residual(), pixels, STEPS, BalanceOptions(method="act-norm-channelwise"))
    network = quantize(spiking, pixels)
    assert any(layer.relay_of is not None for layer in network.layers)
    assert equals_ref(network, pixels[:2], to_graph(network))


def test_a_cnn_is_exported_as_nir(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 4))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    source = Source.from_module(cnn, (1, 8, 8))
    balancing = BalanceOptions(method="percentile")
    netx_file, nir_files = (
        exporting.export(
            source, tmp_path / name, steps, pixels, ConversionOptions(balancing), writing=WriteOptions(file_format)
        )
        for name, steps, file_format in (("a.net", (STEPS,), "netx"), ("a.nir", (STEPS, 2), "nir"))
    )
    assert [item.path.name for item in nir_files] == [f"a-T{STEPS}.nir", "a-T2.nir"]
    assert [(item.file_format, item.is_read_back, item.verified_images) for item in nir_files] == [("nir", True, 0)] * 2
    assert any("I -> Threshold -> Scale" in note for note in nir_files[0].notes)
    assert not any("LIF" in note for note in nir_files[0].notes)
    assert equals_ref(netx_file[0].network, pixels[:2], nir_package.read(nir_files[0].path))


# The command line.


@pytest.fixture
def file_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN, tmp_path / "model.net")
    return tmp_path / "model.net"


def test_a_netx_file_is_written_again_as_nir(
    file_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = invoker(monkeypatch, capsys)
    done = run("export", "model.net", "--format", "nir")
    assert done.code == 0, done.err
    assert "wrote model.nir" in done.out
    assert "--reset hard" in done.out
    assert {type(node).__name__ for node in nir_package.read("model.nir").nodes.values()} >= {"I", "Threshold", "Scale"}
    assert run("export", "model.net", "--format", "nir").code == InputError.exit_code
    done = run("export", "model.net", "--format", "nir", "--allow-hard-reset", "-o", "if.nir", "--json")
    assert [Path(each["file"]).name for each in done.json["files"]] == ["if.nir"]
    assert "IF" in {type(node).__name__ for node in nir_package.read("if.nir").nodes.values()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "nir", "-o", "model-2.net"), "--output: found model-2.net; must end in .nir with --format nir"),
        (("--format", "nir", "-T", "4"), "--timesteps: given for a netx file, which contains a converted network"),
        (("--allow-hard-reset",), "is exported already"),
        (("--format", "nir", "--bundle", "b"), "--bundle: given for a netx file"),
        (("--format", "onnx"), "--format: found 'onnx'; must be one of netx, nir"),
    ],
)
def test_the_command_line_refuses(
    words: tuple[str, ...],
    expected: str,
    file_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = invoker(monkeypatch, capsys)("export", "model.net", *words)
    assert done.code != 0
    assert expected in done.err
    assert [path.name for path in file_in.parent.iterdir()] == ["model.net"]


def test_export_refuses_before_it_starts(tmp_path: Path) -> None:
    def refused(**options: Any) -> UsageError:
        with pytest.raises(UsageError) as caught:
            exporting.export(
                tmp_path / "missing.pt",
                options.pop("output"),
                (4,),
                np.zeros((1, 1, 8, 8), np.uint8),
                writing=WriteOptions(**options),
            )
        return caught.value

    assert refused(output=tmp_path / "a.nir").where == "output"
    assert refused(output=tmp_path / "a.net", file_format="nir").where == "output"
    assert refused(output=tmp_path / "a.net", allow_hard_reset=True).where == "allow_hard_reset"


def test_without_the_package_the_error_names_the_extra(file_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(PlatformError) as caught:
        rewritten(file_in, None, WriteOptions("nir"))
    assert caught.value.where == "nir"
    assert caught.value.hint == "pip install 'loihi-convert[nir]'"
