"""ONNX files as written by torch's and other exporters: the module equals the file, and each error is reported."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.modules import Of, outputs
from support.onnx_files import exported as exported_by_torch
from support.onnx_files import node, onnx_graph, random
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as users write it)
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.__main__ import main
from loihi_convert.errors import CheckpointError, InputError, PlatformError, UnsupportedModelError, UsageError
from loihi_convert.ground.files import kind_of
from loihi_convert.lowering import to_relu_network
from loihi_convert.pipeline.converting import require_same_outputs
from loihi_convert.reading.from_onnx import read_onnx
from loihi_convert.reading.source import checkpoint_sha256, open_source
from loihi_convert.simulation.relu import cnn_scores

SHAPE = (2, 8, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Net(nn.Module):
    """Batch norm, a skip, a concatenation, two poolings, both ways to average, a reshape by the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 6, 3, padding=1, stride=2)
        self.fc = nn.Linear(6 * 2 * 2, 5)
        self.head = nn.Linear(5, 3)
        assert self.norm1.running_mean is not None
        assert self.norm1.running_var is not None
        self.norm1.running_mean.uniform_(-0.5, 0.5)
        self.norm1.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.25) / 0.5
        x = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.conv2(x) + x)
        x = F.relu(self.conv3(torch.cat([x, y], 1)))
        x = F.max_pool2d(x, 2)
        x = F.relu(self.fc(x.view(x.size(0), -1)))
        return F.log_softmax(self.head(x), 1)


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def exported(model: nn.Module, name: str = "net.onnx", shape: tuple[int, ...] = SHAPE, **options: Any) -> Path:
    return exported_by_torch(model, name, shape=shape, **options)


def assert_equal(path: Path, model: nn.Module, shape: tuple[int, ...] = SHAPE) -> None:
    module, found, _ = read_onnx(path, None)
    assert found == shape
    images = torch.rand(5, *shape)
    torch.testing.assert_close(module(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize("axes", [None, {"input": {0: "N"}}])
def test_files_of_torchs_older_exporter(opset: int, axes: Any) -> None:
    path = exported(net(), opset_version=opset, dynamic_axes=axes)
    assert kind_of(path) == "onnx"
    assert_equal(path, net())


@pytest.mark.slow
@pytest.mark.parametrize("is_open", [False, True])
def test_files_of_torchs_newer_exporter(is_open: bool, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if is_open else {}
    path = exported(net(), dynamo=True, **options)
    assert_equal(path, net())
    before = checkpoint_sha256(path)
    # Its weights lie beside it.
    weights = Path("net.onnx.data")
    weights.write_bytes(bytes(reversed(weights.read_bytes())))
    assert checkpoint_sha256(path) != before
    Path("net.onnx.data").unlink()
    with pytest.raises(CheckpointError, match="damaged, or not an ONNX file") as caught:
        read_onnx(path, None)
    assert "with its weight files" in caught.value.hint


def test_the_network_equals_the_file() -> None:
    path = exported(net())
    source = open_source(path, classes=("a", "b", "c"), data="mine")
    assert source.provenance["file"] == "net.onnx"
    assert source.provenance["classes"] == ["a", "b", "c"]
    names = [layer.name for layer in source.network.layers]
    # After the node of a weight that the exporter has folded, then after their weights.
    assert names[:3] + names[-2:] == ["conv1_Conv", "conv2", "conv3", "fc", "head"]
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    scores = net()(torch.from_numpy(images).float() / 255).detach().numpy()
    difference = cnn_scores(source.network, images) - scores
    # The softmax at the end is dropped: scores differ by one number for each image.
    np.testing.assert_allclose(difference, difference.mean(axis=1, keepdims=True) + 0 * difference, atol=1e-4)


@pytest.mark.parametrize(
    "relu",
    [
        lambda x: torch.where(x < 0, 0, x),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: x.masked_fill(~(x > 0), 0),
        lambda x: x * (x > 0),
        lambda x: (x >= 0).float() * x,
    ],
)
@pytest.mark.parametrize("axes", [None, {"input": {0: "N"}}])
@pytest.mark.parametrize("opset", [9, 17])
def test_a_relu_by_another_name(relu: Callable[[Tensor], Tensor], axes: Any, opset: int) -> None:
    # Zeros like 9 maps of 8 x 8 of two images are more than 1,000 numbers.
    model = Of(lambda m, x: m.dense(relu(m.conv(x)).flatten(1)), conv=nn.Conv2d(2, 9, 3, padding=1))
    model.add_module("dense", nn.Linear(576, 3))
    path = exported(model.eval(), dynamic_axes=axes, opset_version=opset)
    network = to_relu_network(read_onnx(path, None)[0], SHAPE)
    assert network.architecture == "2x8x8-9c3-3"
    images = torch.rand(3, *SHAPE)
    torch.testing.assert_close(outputs(network, images.double()).float(), model(images), rtol=1e-4, atol=1e-4)


def test_zeros_expanded_to_the_shape_of_a_tensor() -> None:
    """As torch's newer exporter writes zeros_like with a dynamic batch size."""
    nodes = [node("Shape", "x", outputs=("s",)), node("Expand", "zero", "s", outputs=("z",)), node("Max", "x", "z")]
    module, *_ = read_onnx(graph(nodes, {"zero": np.float32(0)}, shape=("N", *SHAPE)), None)
    images = torch.randn(3, *SHAPE)
    assert torch.equal(module(images), images.relu())


@pytest.mark.parametrize("axes", [None, {"input": {0: "N"}}])
def test_coordinates_beside_the_image(axes: Any) -> None:
    """CoordConv: 28 numbers are expanded to a map of 784, for each of two images if their number is open."""
    model = Of(
        lambda m, x: m.conv(torch.cat([x, torch.linspace(-1, 1, 28).expand(x.shape[0], 1, 28, 28)], 1)),
        conv=nn.Conv2d(2, 3, 3),
    )
    assert_equal(exported(model.eval(), shape=(1, 28, 28), dynamic_axes=axes), model, (1, 28, 28))


def graph(nodes: list[Any], weights: dict[str, Any], shape: Any = (1, *SHAPE)) -> Path:
    return onnx_graph(nodes, weights, shape)


@pytest.mark.parametrize("opset", [6, 9999])
def test_opsets_whose_additions_align_shapes_otherwise_and_unknown_ones_are_refused(opset: int) -> None:
    path = graph([node("Relu", "x")], {})
    content = onnx.load(path)
    content.opset_import[0].version = opset
    onnx.save(content, path)
    with pytest.raises(InputError) as raised:
        read_onnx(path, None)
    assert raised.value.found == f"opset {opset}"


def test_the_standard_operators_have_two_names() -> None:
    path = exported(net())
    content = onnx.load(path)
    content.opset_import[0].domain = "ai.onnx"
    onnx.save(content, path)
    assert_equal(path, net())


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "SAME_UPPER": ([node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": random(3, 2, 3, 3)}),
    "SAME_LOWER": ([node("Conv", "x", "w", auto_pad="SAME_LOWER")], {"w": random(3, 2, 2, 4)}),
    "uneven padding": ([node("Conv", "x", "w", "b", pads=[0, 2, 1, 0])], {"w": random(3, 2, 3, 3), "b": random(3)}),
    "uneven padding, dilated": (
        [node("Conv", "x", "w", pads=[0, 2, 1, 1], dilations=[2, 3])],
        {"w": random(3, 2, 3, 2)},
    ),
    "groups": ([node("Conv", "x", "w", group=2, dilations=[2, 1])], {"w": random(4, 1, 3, 3)}),
    "BatchNormalization": (
        [node("BatchNormalization", "x", "g", "b", "m", "v", epsilon=0.1)],
        {"g": random(2), "b": random(2), "m": random(2), "v": random(2) ** 2},
    ),
    "MatMul and Add": (
        [node("Flatten", "x", outputs=("f",)), node("MatMul", "f", "w", outputs=("p",)), node("Add", "p", "b")],
        {"w": random(128, 3), "b": random(3)},
    ),
    "Gemm": (
        [node("Flatten", "x", outputs=("f",)), node("Gemm", "f", "w", "b", alpha=0.5, beta=2.0, transB=1)],
        {"w": random(3, 128), "b": random(3)},
    ),
    "AveragePool": ([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])], {}),
    "AveragePool with its border": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "MaxPool": ([node("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=1)], {}),
    "MaxPool with unequal padding": (
        [
            node("Relu", "x", outputs=("r",)),
            node("MaxPool", "r", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0]),
        ],
        {},
    ),
    "MaxPool with unequal padding of other values": (
        [
            node("Clip", "x", "z", outputs=("r",)),
            node("Sub", "x", "h", outputs=("s",)),
            node("Max", "s", "r", outputs=("m",)),
            node("Concat", "m", "r", outputs=("c",), axis=1),
            node("Add", "c", "c", outputs=("a",)),
            node("Split", "a", "sizes", outputs=("p", "q"), axis=1),
            node("MaxPool", "p", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        ],
        {"z": np.float32(0), "h": np.float32(0.5), "sizes": np.array([2, 2])},
    ),
    "AveragePool with unequal padding": (
        [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 1, 0], count_include_pad=1)],
        {},
    ),
    "GlobalMaxPool": ([node("GlobalMaxPool", "x")], {}),
    "GlobalAveragePool and Squeeze": (
        [node("GlobalAveragePool", "x", outputs=("p",)), node("Squeeze", "p", "axes")],
        {"axes": np.array([2, 3])},
    ),
    "ReduceMean": ([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {}),
    "ReduceSum": ([node("ReduceSum", "x", "axes")], {"axes": np.array([-1, 2])}),
    "ReduceMax": ([node("ReduceMax", "x", axes=[3])], {}),
    "Clip": ([node("Clip", "x", "low", "high")], {"low": np.float32(0), "high": np.float32(0.5)}),
    "Clip to 6": ([node("Clip", "x", "low", "high")], {"low": np.float32(0), "high": np.float32(6)}),
    "Clip below": ([node("Clip", "x", "low")], {"low": np.float32(0)}),
    "LeakyRelu": ([node("Sub", "x", "h", outputs=("s",)), node("LeakyRelu", "s", alpha=0.3)], {"h": np.float32(0.5)}),
    "PRelu": (
        [node("Sub", "x", "h", outputs=("s",)), node("PRelu", "s", "a")],
        {"h": np.float32(0.5), "a": random(2, 1, 1)},
    ),
    "Sum": ([node("Sum", "x", "x", "x")], {}),
    "Sum with a constant": ([node("Sum", "x", "c")], {"c": random(1, 2, 1, 1)}),
    "Max": (
        [node("Neg", "x", outputs=("n",)), node("Add", "n", "c", outputs=("s",)), node("Max", "s", "x", "n")],
        {"c": random(2, 1, 1)},
    ),
    "Min": (
        [node("Neg", "x", outputs=("n",)), node("Add", "n", "c", outputs=("s",)), node("Min", "s", "x")],
        {"c": random(2, 1, 1)},
    ),
    "Abs": (
        [node("Neg", "x", outputs=("n",)), node("Add", "n", "c", outputs=("s",)), node("Abs", "s")],
        {"c": random(2, 1, 1)},
    ),
    "Mean": ([node("Neg", "x", outputs=("n",)), node("Mean", "x", "n", "x")], {}),
    "Max with a number": ([node("Max", "c", "x")], {"c": np.float32([0.5])}),
    "Min with a number": ([node("Min", "x", "c")], {"c": np.float32(0.5)}),
    "Min after Max": (
        [
            node("Sub", "x", "h", outputs=("s",)),
            node("Max", "s", "z", outputs=("m",)),
            node("Min", "m", "h"),
        ],
        {"h": np.float32(0.4), "z": np.float32(0)},
    ),
    "Where": (
        [
            node("Sub", "x", "h", outputs=("s",)),
            node("Greater", "s", "z", outputs=("g",)),
            node("Where", "g", "s", "z"),
        ],
        {"h": np.float32(0.5), "z": np.float32(0)},
    ),
    "Where with GreaterOrEqual": (
        [
            node("Sub", "x", "h", outputs=("s",)),
            node("GreaterOrEqual", "s", "z", outputs=("g",)),
            node("Where", "g", "s", "z"),
        ],
        {"h": np.float32(0.5), "z": np.zeros((1, 1, 1), np.float32)},
    ),
    "SpaceToDepth": ([node("SpaceToDepth", "x", blocksize=2)], {}),
    "8-bit weights": (
        [node("DequantizeLinear", "k", "s", "z", axis=0, outputs=("w",)), node("Conv", "x", "w")],
        {"k": np.linspace(-128, 127, 54, dtype="i1").reshape(3, 2, 3, 3), "s": random(3), "z": np.int8([0, 5, -7])},
    ),
    "Div by channels": ([node("Div", "x", "s")], {"s": random(1, 2, 1, 1) ** 2 + 1}),
    "Split and Concat": (
        [node("Split", "x", "sizes", outputs=("a", "b"), axis=1), node("Concat", "b", "a", axis=-3)],
        {"sizes": np.array([1, 1])},
    ),
    "Transpose of one pixel": (
        [node("GlobalAveragePool", "x", outputs=("p",)), node("Transpose", "p", perm=[0, 2, 3, 1])],
        {},
    ),
    "Transpose": ([node("Transpose", "x", perm=[0, 2, 3, 1])], {}),
    "Reshape of one image": ([node("Reshape", "x", "to")], {"to": np.array([1, -1])}),
    "Reshape with 0": ([node("Reshape", "x", "to")], {"to": np.array([0, 4, -1])}),
    "Unsqueeze": ([node("Unsqueeze", "x", "axes")], {"axes": np.array([-1])}),
    "Pad": ([node("Pad", "x", "pads")], {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 3])}),
    "Pad with a number": (
        [node("Pad", "x", "p", "v")],
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, 3]), "v": np.float32(0.5)},
    ),
    "Pad of channels": ([node("Pad", "x", "pads")], {"pads": np.array([0, 1, 0, 0, 0, 2, 0, 0])}),
    "Slice": (
        [node("Slice", "x", "from", "to", "axes", "steps")],
        {
            "from": np.array([0, 1, -6]),
            "to": np.array([2**63 - 1, 2, 100]),
            "axes": np.array([0, 1, -1]),
            "steps": np.array([1, 1, 2]),
        },
    ),
    "Slice without axes": ([node("Slice", "x", "from", "to")], {"from": np.array([0, 1]), "to": np.array([9, 2])}),
    "Slice backwards": (
        [node("Slice", "x", "from", "to", "axes", "steps")],
        {"from": np.array([-1]), "to": np.array([-(2**63)]), "axes": np.array([2]), "steps": np.array([-1])},
    ),
    "Gather": ([node("Gather", "x", "places", axis=-1)], {"places": np.array([3, 0, -1])}),
    "Gather of one": ([node("Gather", "x", "place", axis=1)], {"place": np.array(-1)}),
    "Expand": (
        [node("GlobalAveragePool", "x", outputs=("p",)), node("Expand", "p", "to")],
        {"to": np.array([2, 3, 4])},
    ),
    "Tile": ([node("Tile", "x", "times")], {"times": np.array([1, 2, 1, 3])}),
    "Concat of constants": (
        [node("Tile", "c", "times", outputs=("t",)), node("Concat", "t", "x", "x", "c2", axis=1)],
        {"c": random(1, 1, 8, 1), "times": np.array([1, 1, 1, 8]), "c2": random(1, 2, 8, 8)},
    ),
    **{
        f"{kind} of a stack along axis {axis}": (
            [
                node("Relu", "x", outputs=("r",)),
                node("Constant", outputs=("at",), value_ints=[axis]),
                node("Unsqueeze", "r", "at", outputs=("a",)),
                node("Unsqueeze", "x", "at", outputs=("b",)),
                node("Concat", "a", "b", outputs=("c",), axis=axis),
                node(kind, "c", *names, **attributes, keepdims=0),
            ],
            {},
        )
        for kind, axis, names, attributes in (
            ("ReduceSum", 0, ("at",), {}),
            ("ReduceMean", -1, (), {"axes": [-1]}),
            ("ReduceMax", 1, (), {"axes": [1]}),
            ("ReduceMin", 2, (), {"axes": [2]}),
        )
    },
    "Einsum": ([node("Einsum", "x", "w", equation="bchw,oc->bohw")], {"w": random(2, 2)}),
    "LogSoftmax": ([node("LogSoftmax", "x", axis=1)], {}),
    "Tanh": ([node("Tanh", "x")], {}),
    "Dropout": ([node("Dropout", "x", outputs=("d",)), node("Cast", "d", to=TensorProto.FLOAT)], {}),
    "a shape that is computed": (
        [
            node("Shape", "x", outputs=("s",)),
            node("Gather", "s", "zero", outputs=("n",)),
            node("Constant", outputs=("m",), value_ints=[-1]),
            node("Unsqueeze", "n", "axes", outputs=("n1",)),
            node("Concat", "n1", "m", outputs=("to",), axis=0),
            node("Reshape", "x", "to"),
        ],
        {"zero": np.array(0), "axes": np.array([0])},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_equal_onnxs_reference(case: str) -> None:
    path = graph(*CASES[case])
    module, shape, _ = read_onnx(path, None)
    image = np.random.default_rng(1).random((1, *shape)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": image})
    found = module(torch.from_numpy(image)).numpy()
    torch.testing.assert_close(found, np.ascontiguousarray(wanted), rtol=1e-5, atol=1e-5)
    assert len(module(torch.zeros(3, *shape))) == 3, "batches of any size"


def test_nodes_in_another_order() -> None:
    """As converters to float16 leave them, which append casts at the end."""
    nodes, weights = CASES["a shape that is computed"]
    path = graph([node("Identity", "z"), *nodes[:-1], node("Reshape", "a", "to", outputs=("z",))], weights)
    content = onnx.load(path)
    content.graph.node.append(node("Relu", "x", outputs=("a",)))
    onnx.save(content, path)
    images = torch.rand(3, *SHAPE)
    assert torch.equal(read_onnx(path, None)[0](images), images.flatten(1))


def test_a_graph_without_an_order_is_refused() -> None:
    nodes = [node("Add", "x", "b", outputs=("a",)), node("Relu", "a", outputs=("b",)), node("Relu", "b")]
    with pytest.raises(CheckpointError, match="cycle"):
        read_onnx(graph(nodes, {}), None)


def test_unused_operators_are_left_out() -> None:
    unused = [node("Sqrt", "x", outputs=("a",)), node("LSTM", "a", "absent", outputs=("b",))]
    module, *_ = read_onnx(graph([*unused, node("Relu", "x")], {}), None)
    images = torch.rand(3, *SHAPE) - 0.5
    assert torch.equal(module(images), images.relu())


def test_padding_of_some_axes() -> None:
    """From opset 18 on; onnx's reference of earlier ones does not know it."""
    path = graph([node("Pad", "x", "p", "", "axes")], {"p": np.array([1, 2, 3, 0]), "axes": np.array([3, -2])})
    images = torch.rand(3, *SHAPE)
    assert torch.equal(read_onnx(path, None)[0](images), F.pad(images, (1, 3, 2, 0)))


class Moves(nn.Module):
    """Rearrangements that torch's older exporter spells with many operators."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.move = nn.Conv2d(SHAPE[0], 8, 3), move

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.conv(x)).flatten(1)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda x: x[:, :4],
        lambda x: x[:, 1:7:2, ::2, 1:],
        lambda x: x.flip(3),
        lambda x: x.roll(1, 2),
        lambda x: x.repeat(1, 2, 1, 1),
        lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 2, 3),
        lambda x: F.pad(x[:, :, 1:], (1, 0, 0, 1, 0, 3)),
    ],
)
def test_rearrangements_of_torchs_older_exporter(move: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Moves(move).eval()
    assert_equal(exported(model), model)


@pytest.mark.parametrize(
    "repeat",
    [
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x.repeat(1, 3, 1, 1),
        lambda x: x.repeat_interleave(2, 1),
    ],
)
def test_repeated_numbers_are_converted(repeat: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Moves(lambda x: repeat(x.relu()).mean((2, 3))).eval()
    module, shape, _ = read_onnx(exported(model), None)
    images = torch.rand(5, *shape)
    found = outputs(to_relu_network(module, shape), images.double()).flatten(1)
    torch.testing.assert_close(found.float(), model(images))


RELU = node("Relu", "x", outputs=("r",))


@pytest.mark.parametrize(
    ("nodes", "weights", "where", "message"),
    [
        ([node("LSTM", "x", "w", "r")], {}, "graph.onnx", r"holds LSTM \(y\)"),
        ([node("Resize", "x", "", "s", name="up/Resize")], {"s": random(4)}, "graph.onnx", r"Resize \(up/Resize\)"),
        ([node("QuantizeLinear", "x", "s")], {"s": np.float32(1)}, "graph.onnx", "before its quantization"),
        (
            [node("FusedConv", "x", "w", domain="com.microsoft")],
            {"w": random(1)},
            "graph.onnx",
            r"holds com.microsoft.FusedConv \(y\)",
        ),
        ([node("Gelu", "x")], {}, "y", "Train with ReLU"),
        ([node("Conv", "x", "x")], {}, "y", "weights that do not depend on the image"),
        ([node("MatMul", "x", "x")], {}, "y", "weights that do not depend on the image"),
        ([node("ReduceMean", "x", name="mean")], {}, "mean", "ReduceMean takes the mean over"),
        ([node("Cast", "x", to=TensorProto.INT32)], {}, "y", "casts to torch.int64"),
        ([node("Shrink", "x")], {}, "y", r"has bias 0 and lambd 0\.5; supported: the same number, as of Softshrink"),
        ([node("PRelu", "x", "a")], {"a": random(8)}, "y", "a factor that differs between pixels"),
        ([node("Dropout", "x", "r", "t")], {"r": np.float32(0.5), "t": np.array(True)}, "y", "is in training mode"),
        ([node("Tile", "x", "r")], {"r": np.array([2, 1, 1, 1])}, "the image", "is applied to a tensor of shape"),
        *(
            ([*before, node("MaxPool", name, kernel_shape=[2, 2], pads=pads)], {"h": np.float32(0.5)}, "y", message)
            for before, name, pads, message in (
                ([], "x", [0, 0, 1, 1], "pads with -inf; supported: .*; -inf after a ReLU"),
                ([RELU, node("Sub", "r", "h", outputs=("s",))], "s", [0, 0, 1, 1], "pads with -inf"),
                ([RELU], "r", [0, 0, 2, 2], "less than the kernel"),
            )
        ),
        ([node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], {}, "y", "has different padding"),
        (
            [node("Pad", "x", "p", "v")],
            {"p": np.array([0, 0, 1, 1] * 2), "v": np.float32("-inf")},
            "y",
            r"pads with -inf; supported: numbers in -1,000\.\.1,000",
        ),
        ([node("Pad", "x", "p", mode="reflect")], {"p": np.array([0, 0, 1, 1] * 2)}, "y", "pads with mode reflect"),
        *(
            (
                [node(kind, *inputs, outputs=("t",)), node("Add", "x", "t")],
                weights,
                "t",
                f"{kind} needs, with the values kept for later,",
            )
            for kind, inputs, weights in (
                ("Tile", "rr", {"r": np.array([2**40])}),
                ("ConstantOfShape", "n", {"n": np.array([2**40])}),
                ("Expand", "cn", {"c": random(30, 1), "n": np.array([30, 2**30])}),
                ("Pad", "cn", {"c": random(30), "n": np.array([0, 2**30])}),
            )
        ),
        (
            [node("Conv", "x", "w", pads=[20_000] * 4)],
            {"w": random(1, SHAPE[0], 3, 3)},
            "y",
            "Conv needs, with the values kept for later, 17.9 GiB",
        ),
        ([node("MatMul", *"vw")], {"v": random(9_000, 1), "w": random(1, 9_000)}, "y", "MatMul needs"),
        ([node("Einsum", *"vvv", equation="ai,bi,di->abd")], {"v": random(500, 2)}, "y", "Einsum needs"),
        (
            [node("Concat", *"xx", axis=1, outputs=("c0",))]
            + [node("Concat", f"c{k}", f"c{k}", axis=1, outputs=(f"c{k + 1}",)) for k in range(40)]
            + [node("Identity", "c40")],
            {},
            "c16",
            "Concat needs",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Any], weights: dict[str, Any], where: str, message: str
) -> None:
    monkeypatch.setenv("LOIHI_CONVERT_GIB", "0.25")
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        to_relu_network(*read_onnx(graph(nodes, weights), None)[:2])
    assert str(caught.value.where) == where


# An int64 has 8 bytes.
SHORT = TensorProto(data_type=TensorProto.INT64, dims=[1], raw_data=b"123")


@pytest.mark.parametrize(
    ("nodes", "where"),
    [
        ([node("Expand", "absent", "sizes", outputs=("at",)), node("Unsqueeze", "x", "at")], "at"),
        ([node("Tile", outputs=("at",)), node("Unsqueeze", "x", "at")], "at"),
        ([node("Constant", outputs=("at",)), node("Unsqueeze", "x", "at")], "at"),
        ([node("Constant", outputs=("at",), value=SHORT), node("Unsqueeze", "x", "at")], "at"),
        ([node("Where", "x", "x", "x")], "y"),
        ([node("Reshape", "x", "sizes")], "y"),
        ([node("Split", "x", "sizes", outputs=("a", "b"), axis=1), node("Relu", "b")], "y"),
        ([node("Relu", "x", outputs=("z",))], "y"),
    ],
)
def test_a_damaged_file_is_refused(nodes: list[Any], where: str) -> None:
    with pytest.raises(InputError, match=r"cannot be (applied|read)|nothing makes ") as caught:
        read_onnx(graph(nodes, {"sizes": np.array([2])}), None)
    assert caught.value.where == where


SPELLINGS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Where": CASES["Where"],
    "Min after Max": CASES["Min after Max"],
    "SpaceToDepth": CASES["SpaceToDepth"],
    "Einsum": CASES["Einsum"],
    "Mean": ([node("Relu", "x", outputs=("r",)), node("Mean", "x", "r")], {}),
    "HardSigmoid": ([node("Mul", "x", "c", outputs=("s",)), node("HardSigmoid", "s")], {"c": np.float32(4)}),
    "HardSigmoid of torch": ([node("HardSigmoid", "x", alpha=1 / 6, beta=0.4)], {}),
    "Shrink": (
        [node("Sub", "x", "h", outputs=("s",)), node("Shrink", "s", lambd=0.2, bias=0.2)],
        {"h": np.float32(0.5)},
    ),
    "ReduceMax of groups of channels": (
        [
            node("Neg", "x", outputs=("m",)),
            node("Concat", "x", "m", outputs=("c",), axis=1),
            node("Reshape", "c", "to", outputs=("g",)),
            node("ReduceMax", "g", axes=[1], keepdims=0),
        ],
        {"to": np.array([0, 2, 2, 8, 8])},
    ),
    "Concat along the height": (
        [
            node("MaxPool", "x", kernel_shape=[2, 1], strides=[2, 1], outputs=("m",)),
            node("AveragePool", "x", kernel_shape=[2, 1], strides=[2, 1], outputs=("a",)),
            node("Concat", "a", "m", axis=-2),
        ],
        {},
    ),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_spellings_of_other_exporters_are_converted(case: str) -> None:
    nodes, weights = SPELLINGS[case]
    *before, last = nodes
    end = helper.make_node(last.op_type, last.input, ["e"])
    end.attribute.extend(last.attribute)
    dense = [node("Flatten", "e", outputs=("f",)), node("MatMul", "f", "dense")]
    path = graph([*before, end, *dense], {**weights, "dense": random(128, 4)})
    images = np.random.default_rng(1).random((3, *SHAPE)).astype(np.float32)
    file = ReferenceEvaluator(onnx.load(str(path)))
    wanted = np.stack([file.run(None, {"x": image[None]})[0][0] for image in images])
    found = outputs(open_source(path).network, torch.from_numpy(images).double()).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_one_of_several_outputs() -> None:
    path = graph([node("Relu", "x"), node("Neg", "x", outputs=("z",))], {})
    content = onnx.load(path)
    content.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    onnx.save(content, path)
    with pytest.raises(InputError) as caught:
        read_onnx(path, None)
    assert caught.value.found == "the graph has 1 inputs and 2 outputs"


def test_what_cannot_be_read_is_named() -> None:
    path = graph([node("Conv", "x", "w")], {"w": random(3, 5, 3, 3)})
    with pytest.raises(InputError, match="Conv cannot be applied to"):
        read_onnx(path, None)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged, or not an ONNX file"):
        read_onnx(path, None)
    content = onnx.load_from_string(content)
    content.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(content, path)
    with pytest.raises(InputError, match="takes UINT8"):
        read_onnx(path, None)
    path = graph([node("Identity", "w")], {"w": random(3)})
    with pytest.raises(UnsupportedModelError, match="does not depend on the image"):
        open_source(path)
    Path("text.onnx").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"text\.onnx: damaged, or not an ONNX file"):
        open_source(Path("text.onnx"))
    content = onnx.load(graph([node("MatMul", "x", "w")], {}))
    values, places = numpy_helper.from_array(random(1), "w"), numpy_helper.from_array(np.array([0]))
    content.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8, 4]))
    onnx.save(content, path)
    with pytest.raises(InputError, match="nothing makes its input w"):
        read_onnx(path, None)


def test_the_size_of_images() -> None:
    path = graph([node("Relu", "x")], {}, ("N", 2, "H", "W"))
    with pytest.raises(UsageError) as caught:
        read_onnx(path, None)
    assert caught.value.where == "input_shape"
    assert read_onnx(path, (2, 4, 4))[1] == (2, 4, 4)
    path = graph([node("Relu", "x")], {}, ("N", 2, 8, 8))
    with pytest.raises(UsageError, match=r"must be \(2, 8, 8\), as in graph\.onnx"):
        read_onnx(path, (2, 4, 4))
    with pytest.raises(UsageError, match="given for an ONNX file") as caught:
        open_source(path, arch="nets:Net", input_shape=SHAPE)
    assert caught.value.where == "arch"


def test_check_takes_an_open_size_from_the_data() -> None:
    cnn = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    path = str(exported(cnn, dynamic_axes={"input": {0: "N", 2: "H", 3: "W"}}))
    np.savez("own.npz", images=np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8))
    assert CliRunner().invoke(cli.app, ["check", path, "--data", "own.npz"]).exit_code == 0
    missing = CliRunner().invoke(cli.app, ["check", path]).exception
    assert isinstance(missing, UsageError)
    assert missing.where == "input_shape"


def test_signals() -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 1, 12)).astype(np.uint8)
    for axes in (None, {"input": {0: "N", 2: "L"}}):
        path = exported(cnn, shape=(2, 12), dynamic_axes=axes)
        source = open_source(path, input_shape=(2, 1, 12))
        assert source.network.input_shape == (2, 1, 12)
        require_same_outputs(source, pixels)
    assert read_onnx(exported(cnn, shape=(2, 12)), None)[1] == (2, 1, 12)
    with pytest.raises(UsageError, match=r"must be \(2, 12\)"):
        open_source(exported(cnn, shape=(2, 12)), input_shape=(2, 1, 13))


@pytest.mark.parametrize(("owner", "name"), [(onnx, "load"), (numpy_helper, "to_array")])
def test_a_full_memory_is_no_fault_of_the_file(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    path = exported(net())
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(MemoryError):
        open_source(path)
    if owner is onnx:
        with pytest.raises(MemoryError):
            checkpoint_sha256(path)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph([node("Relu", "x")], {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(PlatformError) as caught:
        read_onnx(path, None)
    assert (caught.value.where, caught.value.hint) == ("onnx", "pip install 'loihi-convert[onnx]'")


@pytest.mark.slow
def test_from_a_file_to_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    ).eval()
    exported(model, "digits.onnx", (1, 8, 8))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loihi-convert", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    code, _, err = call("export", "digits.onnx", "-T", 4)
    assert code == 2
    assert "digits.onnx does not record its training data" in err
    code, out, err = call("export", "digits.onnx", "--data", "digits", "-T", 4, "--calibration", 50, "--json")
    assert code == 0
    assert "the CNN classifies" in err
    (file,) = json.loads(out)["files"]
    assert file["file"] == "digits.net"
    assert file["provenance"]["model"]["file"] == "digits.onnx"
    code, out, _ = call("run", "digits.net", "--images", 5, "--json", "-o", "runs")
    assert code == 0
    assert json.loads(out)["digits"]["cnn_accuracy"] is not None
    assert call("check", "digits.onnx", "--data", "digits", "--images", 5)[0] in (0, 3)
    assert call("diagnose", "digits.onnx", "digits.net", "--images", 20)[0] == 0


def test_functions_that_call_each_other_are_counted_before_they_are_written_out(tmp_path: Path) -> None:
    standard, own = helper.make_opsetid("", 17), helper.make_opsetid("own", 1)
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [node("Relu", "a", outputs=("b",))], [standard])]
    for level in range(30):
        calls = [helper.make_node(f"F{level}", [a], [b], domain="own") for a, b in ("am", "mb")]
        functions.append(helper.make_function("own", f"F{level + 1}", ["a"], ["b"], calls, [standard, own]))
    image, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *SHAPE)) for name in "xy")
    used = helper.make_graph([helper.make_node("F30", ["x"], ["y"], domain="own")], "g", [image], [output])
    content = helper.make_model(used, opset_imports=[standard, own], functions=functions, ir_version=9)
    (tmp_path / "net.onnx").write_bytes(content.SerializeToString())
    with pytest.raises(CheckpointError, match="1,073,741,824 operators"):
        read_onnx(tmp_path / "net.onnx", None)
