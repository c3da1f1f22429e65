"""How ONNX files arrange images: channels first or last, without a channel axis, or flat; equal to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.modules import outputs
from support.onnx_files import node, onnx_graph, random

from loihi_convert.errors import InputError, UsageError
from loihi_convert.reading.from_onnx import read_onnx
from loihi_convert.reading.source import open_source


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keras_cnn(shape: Any, pixels: int = 15) -> Path:
    """As Keras exports a normalization, a convolution, ReLU, Flatten in the order (H, W, C) and a dense layer.

    ``pixels``: of a map after the convolution, 3 x 5 for images of 5 x 7.
    """
    return onnx_graph(
        [
            node("Shape", "x", outputs=("s",)),
            node("Mul", "x", "half", outputs=("n",)),
            node("Transpose", "n", outputs=("t",), perm=[0, 3, 1, 2]),
            node("Conv", "t", "w", outputs=("c",)),
            node("Relu", "c", outputs=("r",)),
            node("Transpose", "r", outputs=("l",), perm=[0, 2, 3, 1]),
            node("Flatten", "l", outputs=("f",)),
            node("MatMul", "f", "d"),
        ],
        {"half": np.float32(0.5), "w": random(4, 3, 3, 3), "d": random(4 * pixels, 6)},
        shape,
    )


def assert_network_equals(path: Path, given: tuple[int, ...], to_file: Any) -> tuple[str, ...]:
    """Compare the network's outputs for images of the shape ``given`` with the file's; return the notes."""
    images = np.random.default_rng(1).random((3, *given)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx.load(str(path))).run(None, {"x": to_file(images)})
    source = open_source(path, input_shape=given)
    assert source.network.input_shape == given
    found = outputs(source.network, torch.from_numpy(images).double())
    torch.testing.assert_close(found.flatten(1).numpy(), wanted.reshape(3, -1).astype(float), rtol=1e-4, atol=1e-4)
    return source.notes


@pytest.mark.parametrize("shape", [("N", 5, 7, 3), ("N", "H", "W", 3), ("N", 5, "W", 3)])
def test_channels_last(shape: Any) -> None:
    notes = assert_network_equals(keras_cnn(shape), (3, 5, 7), lambda images: images.transpose(0, 2, 3, 1))
    assert any("channels last, (5, 7, 3): the conversion takes (3, 5, 7)" in note for note in notes)


@pytest.mark.parametrize("shape", [("N", 3, 3, 3), ("N", "H", "W", "C")])
def test_channels_are_last_if_the_file_moves_them_first(shape: Any) -> None:
    cnn = keras_cnn(shape, pixels=1)
    assert assert_network_equals(cnn, (3, 3, 3), lambda images: images.transpose(0, 2, 3, 1))


def test_the_file_alone_gives_the_layout() -> None:
    assert read_onnx(keras_cnn(("N", 5, 7, 3)), None)[1] == (3, 5, 7)
    conv = [node("Conv", "x", "w", outputs=("c",)), node("Relu", "c", outputs=("r",)), node("Flatten", "r")]
    assert read_onnx(onnx_graph(conv, {"w": random(4, 9, 5, 1)}, ("N", 9, 12, 1)), None)[1] == (9, 12, 1)


def test_signals_with_channels_last() -> None:
    nodes = [
        node("Transpose", "x", outputs=("t",), perm=[0, 2, 1]),
        node("Conv", "t", "w", outputs=("c",)),
        node("Relu", "c", outputs=("r",)),
        node("ReduceMean", "r", axes=[2], keepdims=0),
    ]
    path = onnx_graph(nodes, {"w": random(4, 2, 3)}, ("N", 12, 2))
    assert_network_equals(path, (2, 1, 12), lambda images: images[:, :, 0].transpose(0, 2, 1))


def test_channels_are_first_if_both_fit() -> None:
    cnn = [node("Conv", "x", "w", outputs=("c",)), node("Relu", "c", outputs=("r",)), node("Flatten", "r")]
    for shape in (("N", 3, 3, 3), ("N", "C", "H", "W")):
        path = onnx_graph(cnn, {"w": random(4, 3, 3, 3)}, shape)
        assert not assert_network_equals(path, (3, 3, 3), lambda images: images)


def test_images_without_a_channel_axis() -> None:
    conv = [
        node("Reshape", "x", "to", outputs=("m",)),
        node("Conv", "m", "w", outputs=("c",)),
        node("Relu", "c", outputs=("r",)),
        node("ReduceMean", "r", axes=[2, 3], keepdims=0),
    ]
    path = onnx_graph(conv, {"to": np.array([-1, 1, 5, 7]), "w": random(4, 1, 3, 3)}, ("N", 5, 7))
    assert_network_equals(path, (1, 5, 7), lambda images: images[:, 0])


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 1, 35), (5, 1, 7)])
@pytest.mark.parametrize("size", [35, "K"])
def test_flat_images(shape: tuple[int, ...], size: Any) -> None:
    path = onnx_graph([node("MatMul", "x", "w")], {"w": random(35, 4)}, ("N", size))
    notes = assert_network_equals(path, shape, lambda images: images.reshape(3, -1))
    assert any("in the order (C, H, W)" in note for note in notes) == (shape[0] > 1)


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        (("N", 5, 7, 3), (3, 7, 5), "must be (5, 7, 3), as in graph.onnx"),
        (("N", 5, "W", 3), (4, 5, 7), "must be (5, H, 3), as in graph.onnx"),
        (("N", 5, 7), (2, 5, 7), "must be (5, 7), as in graph.onnx"),
        (("N", 35), (1, 6, 6), "must be (C, H, W) with 35 values, as in graph.onnx"),
        (("N", 35), None, "must be (C, H, W) with 35 values"),
    ],
)
def test_images_that_do_not_fit(shape: Any, given: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_onnx(onnx_graph([node("Relu", "x")], {}, shape), given)
    assert (caught.value.where, caught.value.expected) == ("input_shape", expected)


def test_an_input_with_too_many_axes() -> None:
    with pytest.raises(InputError, match="its input has 5 axes"):
        read_onnx(onnx_graph([node("Relu", "x")], {}, ("N", 1, 3, 8, 8)), (3, 8, 8))
