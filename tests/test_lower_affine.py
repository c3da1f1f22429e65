"""Batch norm, normalization and constants fold into the linear maps around them."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, assert_equals_module, of, stack
from torch import Tensor, nn
from torchvision import transforms


def constant(channels: int = 4) -> Tensor:
    return torch.linspace(-0.5, 0.7, channels).reshape(channels, 1, 1)


def without_bias(norm: nn.BatchNorm2d) -> nn.Module:
    """As of ``bias=False``, which older versions of torch do not have."""
    norm.bias = None
    return norm


CASES = {
    "norm behind a convolution": stack(CONV(5, 3), NORM(), nn.ReLU()),
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
    "a negative": of(lambda m, x: m.conv(torch.cat([x, -x], 1)).relu(), conv=CONV(3, 3, padding=1)),
    "constants": of(lambda m, x: m.conv(2 - (x * constant() + 0.1) / 3).relu() - 1, conv=CONV(3, 3, padding=1)),
    "a learned number": of(
        lambda m, x: m.conv(x + m.other(x) * m.slope.weight.item()).relu(),
        conv=CONV(3, 3, padding=1),
        other=CONV(4, 1),
        slope=nn.PReLU(),
    ),
    "a constant behind a sum": of(
        lambda m, x: m.conv(x + 2 * m.other(x)).relu(), conv=CONV(3, 3, padding=1), other=CONV(4, 1)
    ),
    "a map of constants and one of channels": of(
        lambda m, x: (m.conv(m.norm(x)) + m.other(x)).relu(), conv=CONV(3, 3, padding=1), norm=NORM(), other=CONV(3, 1)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])
