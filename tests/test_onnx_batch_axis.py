"""ONNX files made for one image whose operators drop, join or move the batch axis: equal to the file, or refused."""

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
from loihi_convert.frontend.from_onnx.file import read_onnx


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
    ("nodes", "weights", "message"),
    [
        ([DROP, node("Conv", "d", "w")], {"w": random(8, 8, 3)}, "Conv follows an operator that drops the batch axis"),
        ([DROP, node("Concat", "d", "d", axis=0)], {}, "Concat follows an operator that drops the batch axis"),
        ([DROP, node("Add", "d", "c")], {"c": random(1, 8, 8, 8)}, "moves the batch axis"),
        ([DROP, node("Add", "x", "d")], {}, "with different numbers of axes"),
        ([DROP, node("ReduceMean", "d", axes=[3])], {}, "names axis 3 of 3"),
        ([node("Add", "x", "c")], {"c": random(2, 8, 8, 8)}, "moves the batch axis"),
        ([node("Add", "x", "c")], {"c": np.ones((2, 8, 8, 8), np.float32)}, "moves the batch axis"),
        ([node("Concat", "x", "x", axis=0)], {}, "joins images of the batch"),
        ([node("ReduceMean", "x", axes=[0])], {}, "reduces the batch axis"),
        ([node("ReduceSum", "x", "axes")], {"axes": np.zeros(0, np.int64)}, "reduces all axes, the batch too"),
        ([node("Transpose", "x", perm=[1, 0, 2, 3])], {}, "moves the batch axis"),
        ([node("Softmax", "x", axis=0)], {}, "normalizes over the batch"),
        ([node("Gather", "x", "i", axis=0)], {"i": np.array(0)}, "gathers other than along one axis of each image"),
        ([node("Expand", "x", "to")], {"to": np.array([2, 8, 8, 8])}, "repeats images"),
    ],
)
def test_other_uses_of_the_batch_axis_are_refused(nodes: list[Any], weights: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_onnx(onnx_graph(nodes, weights, (1, 8, 8, 8)), None)


def test_a_softmax_over_several_axes_is_refused() -> None:
    """Before opset 13 it normalizes over all axes from its own on."""
    path = onnx_graph([node("Softmax", "x", axis=1)], {}, (1, 8, 8, 8), opset=11)
    with pytest.raises(UnsupportedModelError, match="normalizes over all axes"):
        read_onnx(path, None)


@pytest.mark.parametrize(
    "last", [node("Div", "x", "f"), node("Gemm", "p", "w", "f", transB=1), node("Clip", "x", "", "f0")]
)
def test_a_number_of_images_that_is_not_a_size_is_refused(last: Any) -> None:
    nodes = [
        node("Shape", "x", outputs=("s",), end=1),
        node("Cast", "s", to=1, outputs=("f",)),
        node("Squeeze", "f", outputs=("f0",)),
        node("ReduceMean", "x", axes=[2, 3], keepdims=0, outputs=("p",)),
    ]
    path = onnx_graph([*nodes, last], {"w": random(5, 8)}, ("N", 8, 8, 8))
    with pytest.raises(UnsupportedModelError, match="computes with the number of images"):
        read_onnx(path, None)


def test_a_file_with_a_dynamic_batch_keeps_it() -> None:
    path = onnx_graph([DROP, node("ReduceMean", "d", axes=[3])], {}, ("N", 8, 8, 8))
    module, *_ = read_onnx(path, None)
    images = torch.rand(3, 8, 8, 8)
    torch.testing.assert_close(module(images), images.mean(3, keepdim=True))
