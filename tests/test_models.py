"""The networks are the paper's, and obey the rules under which a CNN converts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loihi_convert.errors import UsageError
from loihi_convert.models import ARCHITECTURES, build_model

SHAPES = {"mnist-cnn": (1, 28, 28), "digits-cnn": (1, 8, 8)}


def test_mnist_cnn_is_the_papers() -> None:
    # 28x28-12c5-2ap-64c5-2ap-10o: 12 x 25 + 64 x 12 x 25 + 10 x 64 x 4 x 4 weights.
    model = build_model("mnist-cnn", (1, 28, 28), 10)
    assert {name: tuple(weight.shape) for name, weight in model.state_dict().items()} == {
        "conv1.weight": (12, 1, 5, 5),
        "conv2.weight": (64, 12, 5, 5),
        "fc.weight": (10, 1024),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_obeys_the_rules_of_conversion(architecture: str) -> None:
    model = build_model(architecture, SHAPES[architecture], 10)
    order = [type(module) for module in model.children()]
    block = [nn.Conv2d, nn.ReLU, nn.AvgPool2d]
    assert order == [*block, *block, nn.Flatten, nn.Linear]
    assert [name for name, _ in model.named_children()] == [
        "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc",
    ]  # fmt: skip
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_scores_have_one_column_per_class(architecture: str, channels: int, classes: int) -> None:
    shape = (channels, *SHAPES[architecture][1:])
    assert build_model(architecture, shape, classes)(torch.rand(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_bias_scores_scale_with_the_image(architecture: str) -> None:
    # ReLU networks without bias are positively homogeneous: f(2 x) = 2 f(x), exactly in binary floating point.
    model, images = build_model(architecture, SHAPES[architecture], 10), torch.rand(2, *SHAPES[architecture])
    assert torch.equal(model(2 * images), 2 * model(images))


def test_an_unknown_architecture_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="architecture: 'resnet' is not known; choose one of mnist-cnn, digits-cnn"):
        build_model("resnet", (1, 28, 28), 10)


@pytest.mark.parametrize(
    ("architecture", "shape", "left"),
    [("mnist-cnn", (1, 8, 8), "0 x 0"), ("mnist-cnn", (1, 29, 28), "25 x 24"), ("digits-cnn", (1, 6, 8), "3 x 4")],
)
def test_images_that_do_not_fit_are_a_usage_error(architecture: str, shape: tuple[int, int, int], left: str) -> None:
    message = f"{architecture} cannot take images of {shape[1]} x {shape[2]}: a convolution leaves {left}, and 2 x 2"
    with pytest.raises(UsageError, match=message):
        build_model(architecture, shape, 10)
