"""ONNX files whose operators drop, join or move the batch axis: equal to the file for each image, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.onnx_files import exported, node, onnx_graph, random
from torch import Tensor, nn

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.lowering import to_relu_network
from loihi_convert.pipeline.converting import require_same_outputs
from loihi_convert.reading.from_onnx import read_onnx
from loihi_convert.reading.source import open_source


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class OfOneImage(nn.Module):
    """As many channels as rows and columns: no size tells the axes apart."""

    def __init__(self, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 5), head

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.head(torch.relu(self.conv(x)).squeeze()))


def assert_equals_file(path: Path, count: int = 3, rtol: float = 1e-5) -> None:
    """Compare the module's outputs with those of the file for each image alone."""
    module, shape, _ = read_onnx(path, None)
    images = np.random.default_rng(1).random((count, *shape)).astype(np.float32)
    file = ReferenceEvaluator(onnx.load(str(path)))
    name = file.input_names[0]
    wanted = np.stack([file.run(None, {name: image[None]})[0].ravel() for image in images])
    found = module(torch.from_numpy(images)).flatten(1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        lambda h: h.mean(2).mean(1),
        lambda h: h.mean((1, 2)),
        lambda h: h.amax(2).sum(1),
        lambda h: h.flatten(1).mean(1),
        lambda h: (h + h.mean(2, keepdim=True)).mean((1, 2)),
        lambda h: h.reshape(1, 8, 64).mean(2),
        lambda h: h.unsqueeze(0).mean((2, 3)),
    ],
)
def test_axes_after_a_dropped_batch_axis(head: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    path = exported(OfOneImage(head).eval(), shape=(1, 8, 8))
    assert any(each.op_type == "Squeeze" for each in onnx.load(path).graph.node)
    assert_equals_file(path)


DROP = node("Squeeze", "x", outputs=("d",))


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Squeeze", "x", "axes")], {"axes": np.array([0])}),
        ([DROP, node("Shape", "d", outputs=("s",)), node("Reshape", "d", "s")], {}),
        ([DROP, node("Flatten", "d", axis=0)], {}),
        ([node("Flatten", "x", axis=2, outputs=("f",)), node("ReduceSum", "f", "axes")], {"axes": np.array([1])}),
        ([node("Reshape", "x", "to")], {"to": np.array([-1])}),
        ([node("Reshape", "x", "to", outputs=("d",)), node("Softmax", "d", axis=0)], {"to": np.array([8, 64])}),
        ([DROP, node("Mul", "d", "c")], {"c": random(8, 1, 1)}),
        ([DROP, node("Unsqueeze", "d", "axes")], {"axes": np.array([0, -1])}),
        ([DROP, node("Conv", "d", "w")], {"w": random(8, 8, 3)}),
        ([DROP, node("Concat", "d", "d", axis=0)], {}),
        ([DROP, node("Add", "d", "c")], {"c": random(1, 8, 8, 8)}),
        ([DROP, node("Add", "x", "d")], {}),
        ([node("Add", "x", "c")], {"c": random(2, 8, 8, 8)}),
        ([node("Concat", "x", "x", axis=0)], {}),
        ([node("ReduceMean", "x", axes=[0])], {}),
        ([node("ReduceSum", "x", "axes")], {"axes": np.zeros(0, np.int64)}),
        ([node("Transpose", "x", perm=[1, 0, 2, 3])], {}),
        ([node("Gather", "x", "i", axis=0)], {"i": np.array(0)}),
        ([node("Expand", "x", "to")], {"to": np.array([2, 8, 8, 8])}),
        (
            # The batch size 1 of the file, not that of the example.
            [
                node("Shape", "x", outputs=("s",), end=1),
                node("Cast", "s", to=1, outputs=("n",)),
                node("Div", "x", "n"),
            ],
            {},
        ),
    ],
)
def test_operators_around_a_dropped_batch_axis(nodes: list[Any], weights: dict[str, Any]) -> None:
    assert_equals_file(onnx_graph(nodes, weights, (1, 8, 8, 8)))


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Concat", "x", "x", axis=0, outputs=("d",))], {}),
        ([node("ReduceMean", "x", axes=[0], outputs=("d",))], {}),
        ([node("Transpose", "x", perm=[1, 0, 2, 3], outputs=("d",))], {}),
        ([node("Softmax", "x", axis=0, outputs=("d",))], {}),
        ([node("Slice", "x", "i", "j", outputs=("d",))], {"i": np.array([0]), "j": np.array([1])}),
        ([node("Reshape", "x", "to", outputs=("d",))], {"to": np.array([8, -1, 8, 8])}),
    ],
)
def test_images_of_a_batch_are_not_mixed(nodes: list[Any], weights: dict[str, Any]) -> None:
    last = [node("ReduceMean", "d", axes=[2, 3], keepdims=0)]
    with pytest.raises(UnsupportedModelError):
        to_relu_network(*read_onnx(onnx_graph([*nodes, *last], weights, ("N", 8, 8, 8)), None)[:2])


def test_a_softmax_over_several_axes() -> None:
    """Before opset 13 it normalizes over all axes from its own on."""
    path = onnx_graph([node("Softmax", "x", axis=1)], {}, (1, 2, 3, 3), opset=11)
    images = torch.rand(3, 2, 3, 3)
    torch.testing.assert_close(read_onnx(path, None)[0](images), images.flatten(1).softmax(1).reshape(images.shape))


@pytest.mark.parametrize("last", [node("Div", "p", "f"), node("Gemm", "p", "w", "f", transB=1)])
def test_a_number_of_images_that_is_not_a_size_is_refused(last: Any) -> None:
    nodes = [
        node("Shape", "x", outputs=("s",), end=1),
        node("Cast", "s", to=1, outputs=("f",)),
        node("ReduceMean", "x", axes=[2, 3], keepdims=0, outputs=("p",)),
    ]
    source = open_source(onnx_graph([*nodes, last], {"w": random(5, 8)}, ("N", 8, 8, 8)))
    with pytest.raises(UnsupportedModelError):
        require_same_outputs(source)


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_a_reshape_that_counts_the_images(batch: int | str) -> None:
    nodes = [node("Relu", "x", outputs=("r",)), node("Reshape", "r", "to", outputs=("f",)), node("MatMul", "f", "w")]
    path = onnx_graph(nodes, {"to": np.array([0 if batch == "N" else batch, -1]), "w": random(32, 5)}, (batch, 2, 4, 4))
    images = torch.rand(3, 2, 4, 4) - 0.5
    expected = images.relu().flatten(1) @ torch.from_numpy(random(32, 5))
    torch.testing.assert_close(read_onnx(path, None)[0](images), expected)


def test_a_file_with_a_dynamic_batch_keeps_it() -> None:
    path = onnx_graph([DROP, node("ReduceMean", "d", axes=[3])], {}, ("N", 8, 8, 8))
    module, *_ = read_onnx(path, None)
    for count in (1, 3):
        images = torch.rand(count, 8, 8, 8)
        torch.testing.assert_close(module(images), images.mean(3, keepdim=True))
