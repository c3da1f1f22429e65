"""The networks are those of the paper and satisfy the rules for conversion."""

from __future__ import annotations

import pytest
import torch
from support.refusals import refused
from torch import nn

from loihi_convert.cnn.models import ARCHITECTURES, RoundedWeights, build_model
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.cnn.recipe import default_architecture
from loihi_convert.data import DATASETS
from loihi_convert.data.benchmarks import TINY
from loihi_convert.errors import UsageError
from loihi_convert.lowering import to_relu_network
from loihi_convert.simulation.relu import relu_outputs

SHAPES = {
    "mnist-cnn": (1, 28, 28),
    "digits-cnn": (1, 8, 8),
    "fashion-mnist-cnn": (1, 28, 28),
    "conv3-avg": (1, 28, 28),
    "conv3-max": (1, 28, 28),
    "vgg-small": (3, 32, 32),
    "vgg16": (3, 32, 32),
    "resnet20": (3, 32, 32),
}
TWO_CONVOLUTIONS = ("mnist-cnn", "digits-cnn", "fashion-mnist-cnn")
VGG_BLOCK = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.ndim > 1}


# 28x28-12c5-2ap-64c5-2ap-10o, and the same with 128 and 256 channels: the second pooling leaves 4 x 4.
@pytest.mark.parametrize(("architecture", "first", "second"), [("mnist-cnn", 12, 64), ("fashion-mnist-cnn", 128, 256)])
def test_the_two_mnist_networks_are_the_papers(architecture: str, first: int, second: int) -> None:
    model = build_model(architecture, (1, 28, 28), 10)
    assert weight_shapes(model) == {
        "conv1.weight": (first, 1, 5, 5),
        "conv2.weight": (second, first, 5, 5),
        "fc.weight": (10, 16 * second),
    }


def test_vgg16_has_13_convolutions_and_3_dense_layers() -> None:
    shapes = list(weight_shapes(build_model("vgg16", (3, 32, 32), 10)).values())
    channels = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert shapes[:13] == [(out, into, 3, 3) for into, out in zip([3, *channels], channels, strict=False)]
    # Five poolings leave 1 x 1.
    assert shapes[13:] == [(512, 512), (512, 512), (10, 512)]


def test_resnet20_is_he_et_al_s_with_projections() -> None:
    # He et al. 2016, table 6: 0.27 M weights; two of nine skips change the shape.
    model = build_model("resnet20", (3, 32, 32), 10)
    assert sum(weight.numel() for weight in model.parameters()) == 272_474
    assert [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)].count((1, 1)) == 2
    assert len([shape for shape in weight_shapes(model).values() if shape[2:] != (1, 1)]) == 20


def test_every_relu_of_a_residual_block_becomes_qcfs() -> None:
    model = build_model("resnet20", (3, 32, 32), 10, qcfs_levels=4)
    channels = [len(module.threshold) for module in model.modules() if isinstance(module, Qcfs)]
    assert channels == [16] * 7 + [32] * 6 + [64] * 6
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    with refused("weight_bits"):
        RoundedWeights(model, 4)


@pytest.mark.parametrize("architecture", TWO_CONVOLUTIONS)
def test_two_convolutions_without_bias(architecture: str) -> None:
    model = build_model(architecture, SHAPES[architecture], 10)
    order = [type(module) for module in model.children()]
    block = [nn.Conv2d, nn.ReLU, nn.AvgPool2d]
    assert order == [*block, *block, nn.Flatten, nn.Linear]
    assert [name for name, _ in model.named_children()] == [
        "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc",
    ]  # fmt: skip
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_vgg_small_is_three_blocks() -> None:
    order = [type(module) for module in build_model("vgg-small", (3, 32, 32), 10).children()]
    block = [*VGG_BLOCK, *VGG_BLOCK, nn.AvgPool2d]
    assert order == [*block, *block, *block, nn.Flatten, nn.Linear]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_scores_have_one_column_per_class(architecture: str, channels: int, classes: int) -> None:
    shape = (channels, *SHAPES[architecture][1:])
    assert build_model(architecture, shape, classes)(torch.rand(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("architecture", TWO_CONVOLUTIONS)
def test_without_bias_scores_scale_with_the_image(architecture: str) -> None:
    # ReLU networks without bias are positively homogeneous: f(2 x) = 2 f(x), exactly in binary floating point.
    model, images = build_model(architecture, SHAPES[architecture], 10), torch.rand(2, *SHAPES[architecture])
    assert torch.equal(model(2 * images), 2 * model(images))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_converts(architecture: str) -> None:
    shape = SHAPES[architecture]
    torch.manual_seed(0)
    model = build_model(architecture, shape, 10)
    pixels = torch.randint(256, (8, *shape), dtype=torch.uint8)
    with torch.no_grad():
        # In training mode, so that batch norm has statistics to fold.
        model(pixels / 255)
        expected = model.eval()(pixels[:2] / 255)
    relu = to_relu_network(model, shape)
    (outputs,) = relu_outputs(relu, pixels[:2].numpy())
    assert relu.notes == ()
    # float32 against float64: some 1e-7 of the largest score for each of at most 16 layers.
    assert torch.allclose(outputs[-1].float(), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_each_data_set_has_an_architecture_that_takes_it() -> None:
    shapes = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    assert tuple(shapes) == tuple(name for name in DATASETS if name not in TINY)
    for data, shape in shapes.items():
        with torch.device("meta"):
            build_model(default_architecture(data), shape, 10)


def test_an_unknown_architecture_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        build_model("resnet", (1, 28, 28), 10)
    assert (caught.value.where, caught.value.found) == ("architecture", "found 'resnet'")
    assert "mnist-cnn, digits-cnn" in caught.value.expected


@pytest.mark.parametrize(
    ("architecture", "shape", "expected"),
    [
        ("mnist-cnn", (1, 8, 8), "even sizes after each 5 x 5 convolution"),
        ("mnist-cnn", (1, 29, 28), "even sizes"),
        ("digits-cnn", (1, 6, 8), "even sizes"),
        ("vgg-small", (3, 28, 32), "multiples of 8"),
        ("vgg16", (3, 28, 32), "multiples of 32"),
        ("resnet20", (3, 3, 32), "at least 4"),
    ],
)
def test_images_that_do_not_fit_are_a_usage_error(
    architecture: str, shape: tuple[int, int, int], expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build_model(architecture, shape, 10)
    assert (caught.value.where, caught.value.found) == ("architecture", f"found images of {shape[1]} x {shape[2]}")
    assert expected in caught.value.expected
