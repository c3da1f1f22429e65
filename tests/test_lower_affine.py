"""Batch norm, normalization and constants fold into the linear maps around them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, Case, assert_equals_module, bare, of, stack
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from loihi_convert.lowering import to_relu_network


def constant(channels: int = 4) -> Tensor:
    return torch.linspace(-0.5, 0.7, channels).reshape(channels, 1, 1)


def pixels(*shape: int) -> Tensor:
    return torch.linspace(-0.6, 0.9, math.prod(shape)).reshape(shape)


def of_image(function: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module) -> Case:
    """``function`` of the image -> flatten and a dense layer."""
    return bare(lambda m, x: m.head(function(m, x).flatten(1)), head=LINEAR(3), **modules)


def without_bias(norm: nn.BatchNorm2d) -> nn.Module:
    """As of ``bias=False``, which older versions of torch do not have."""
    norm.bias = None
    return norm


def factors() -> Tensor:
    """One for each channel of the stem, along the last axis."""
    return torch.tensor([0.5, 2.0, 1.5, -1.0])


CASES = {
    "norm after a convolution": stack(CONV(5, 3), NORM(), nn.ReLU()),
    "norm without a bias": stack(CONV(5, 3), without_bias(nn.BatchNorm2d(5)), nn.ReLU()),
    "norm in front of a padded one": stack(NORM(), CONV(5, 3, padding=1), nn.ReLU()),
    "norm in front of a padded strided one": stack(NORM(), CONV(6, 3, 2, padding=2, groups=2), nn.ReLU()),
    "norm in front of zeros at one end": stack(NORM(), nn.ZeroPad2d((0, 1, 0, 1)), CONV(3, 3, 2), nn.ReLU()),
    "norm of the image": stack(NORM(), CONV(5, 3, padding=1), nn.ReLU(), stem=False),
    "norm between pooling and ReLU": stack(CONV(3, 3), nn.AvgPool2d(2), NORM(), nn.ReLU()),
    "norm of flattened maps": stack(
        NORM(), nn.Flatten(), nn.LazyBatchNorm1d(), LINEAR(5), nn.LazyBatchNorm1d(), nn.ReLU()
    ),
    "ReLU of a norm of a ReLU": stack(NORM(), nn.ReLU(), NORM(), nn.ReLU()),
    "normalization": stack(transforms.Normalize((0.4, 0.5), (0.2, 0.3)), CONV(3, 3, padding=1), nn.ReLU(), stem=False),
    "a factor for each channel, channels last": of(
        lambda m, x: m.conv(((x.permute(0, 2, 3, 1) - factors().to(x)) / factors().to(x)).permute(0, 3, 1, 2)).relu(),
        conv=CONV(3, 3, padding=1),
    ),
    "norm of maps with flattened pixels": of(lambda m, x: m.norm(x.flatten(2)).flatten(1), norm=nn.LazyBatchNorm1d()),
    "two norms of flattened maps": of(
        lambda m, x: m.two(m.one(x.flatten(1))), one=nn.LazyBatchNorm1d(), two=nn.LazyBatchNorm1d()
    ),
    "operands by keyword": of(
        lambda m, x: torch.mul(torch.add(input=m.conv(x), other=0.3), other=0.5), conv=CONV(3, 3)
    ),
    "torch.batch_norm": of(
        lambda m, x: torch.batch_norm(
            m.conv(x), m.n.weight, m.n.bias, m.n.running_mean, m.n.running_var, False, 0.1, 1e-5, False
        ).relu(),
        conv=CONV(3, 3),
        n=nn.BatchNorm2d(3),
    ),
    "a negative": of(lambda m, x: m.conv(torch.cat([x, -x], 1)).relu(), conv=CONV(3, 3, padding=1)),
    "constants": of(lambda m, x: m.conv(2 - (x * constant() + 0.1) / 3).relu() - 1, conv=CONV(3, 3, padding=1)),
    "a learned number": of(
        lambda m, x: m.conv(x + m.other(x) * m.slope.weight.item()).relu(),
        conv=CONV(3, 3, padding=1),
        other=CONV(4, 1),
        slope=nn.PReLU(),
    ),
    "a constant after a sum": of(
        lambda m, x: m.conv(x + 2 * m.other(x)).relu(), conv=CONV(3, 3, padding=1), other=CONV(4, 1)
    ),
    "a constant per pixel of the image": of_image(
        lambda m, x: m.conv(x - pixels(2, 8, 8)).relu(), conv=CONV(5, 3, padding=1)
    ),
    "a constant per pixel, shared by the channels, then pooling": of_image(
        lambda m, x: m.conv(functional.avg_pool2d(x - pixels(8, 8), 3)).relu(), conv=CONV(5, 2, padding=1)
    ),
    "a map minus a layer, times one number per channel": of(
        lambda m, x: m.conv((pixels(4, 8, 8) - x) * constant()).relu(), conv=CONV(3, 3, 2, padding=1)
    ),
    "a constant per pixel after a convolution with a bias": of(
        lambda m, x: (m.conv(x) + pixels(1, 3, 8, 8)).relu() + pixels(3, 8, 8), conv=CONV(3, 3, padding=1)
    ),
    "a constant per pixel between max pooling and ReLU": of(
        lambda m, x: (functional.max_pool2d(m.conv(x), 2) - pixels(3, 3, 3)).relu(), conv=CONV(3, 3)
    ),
    "a constant per value of a signal": bare(
        lambda m, x: m.fc(m.conv(x - pixels(2, 9)).relu().flatten(1)),
        (2, 9),
        conv=nn.LazyConv1d(4, 3, padding=1),
        fc=LINEAR(3),
    ),
    "a map of constants and one of channels": of(
        lambda m, x: (m.conv(m.norm(x)) + m.other(x)).relu(), conv=CONV(3, 3, padding=1), norm=NORM(), other=CONV(3, 1)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


def test_the_border_of_an_image_minus_its_mean_is_zero() -> None:
    """Kernel 1 x 3 of ones on (x - 1, x - 2, x - 4), padded with zeros: the biases are -(1 + 2), -(1 + 2 + 4), -6."""
    mean = torch.tensor([[[1.0, 2.0, 4.0]]])
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    conv.weight.data.fill_(1)
    model = Of(lambda m, x: m.fc(m.conv(x - mean).relu().flatten(1)), conv=conv, fc=nn.Linear(3, 2))
    bias = to_relu_network(model, (1, 1, 3)).layers[0].synapse.bias
    assert bias is not None
    assert bias.tolist() == [[[-3, -7, -6]]]
