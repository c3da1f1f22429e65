"""Linear maps without a ReLU between them become one kernel, or a pair of ReLUs where the second one pads."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, Case, assert_equals_module, bare, layers_of, of, same, stack
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional


class StandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, std = (each(self.weight, (1, 2, 3), keepdim=True) for each in (torch.mean, torch.std))
        weight = (self.weight - mean) / (std + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CenteredConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class PositiveLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.abs(), bias=self.bias)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


BLUR = torch.tensor([1.0, 2.0, 1.0])

OF_WEIGHTS = {
    "conv2d": of(lambda m, x: functional.conv2d(input=x, weight=numbers(5, 4, 2, 3).to(x), padding="same").relu()),
    "conv1d": Case(
        lambda: Of(
            lambda m, x: m.head(
                functional.conv1d(x, numbers(4, 1, 3).to(x), numbers(4).to(x), 2, 1, 1, 2).relu().flatten(1)
            ),
            head=LINEAR(3),
        ),
        (2, 9),
    ),
    "a blur": of(
        lambda m, x: m.conv(
            functional.conv2d(x, (BLUR.outer(BLUR) / 16).type_as(x).expand(4, 1, 3, 3), stride=2, padding=1, groups=4)
        ).relu(),
        conv=CONV(3, 3),
    ),
    "standardized weights": stack(StandardizedConv(4, 5, 3, padding=1), nn.ReLU(), CenteredConv(5, 4, 3, groups=1)),
    "linear": stack(nn.Flatten(), PositiveLinear(256, 5), nn.ReLU()),
    "products with a matrix": of(
        lambda m, x: (x.flatten(1) @ numbers(256, 6).to(x)).relu().mm(mat2=numbers(6, 5).to(x)).relu()
    ),
    "addmm": of(
        lambda m, x: torch.addmm(
            (y := torch.addmm(numbers(6).to(x), x.flatten(1), numbers(256, 6).to(x), beta=0.5, alpha=2)),
            y.relu(),
            numbers(6, 6).to(x),
        )
    ),
    "einsum": of(lambda m, x: torch.einsum("bi,oi->bo", x.flatten(1), numbers(6, 256).to(x)).relu()),
    "einsum of maps": of(lambda m, x: torch.einsum("bchw, ochw -> bo", x, numbers(6, 4, 8, 8).to(x)).relu()),
    "einsum of channels": of(
        lambda m, x: torch.einsum("bchw,oc,o->bohw", [m.conv(x), numbers(3, 5).to(x), numbers(3).to(x)]).relu(),
        conv=CONV(5, 3),
    ),
    "products with a vector": of(
        lambda m, x: torch.stack(
            [x.flatten(1).matmul(numbers(256).to(x)), functional.linear(x.mean((2, 3)), numbers(4).to(x))], 1
        )
    ),
    "batch_norm": of(
        lambda m, x: functional.batch_norm(x, numbers(4).to(x), numbers(4).abs().to(x), bias=numbers(4).to(x), eps=0.1)
    ),
}

CASES = {
    **OF_WEIGHTS,
    "two convolutions": stack(CONV(6, 3), CONV(5, 3), nn.ReLU()),
    "two padded ones": stack(CONV(6, 3, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "strides and dilation": stack(CONV(6, 3, 2), CONV(5, 2, dilation=2), nn.ReLU(), shape=(2, 11, 11)),
    "groups": stack(CONV(8, 3, groups=2), CONV(6, 2, groups=2), nn.ReLU()),
    "pointwise after a padded one": stack(CONV(6, 3, padding=1), CONV(5, 1), nn.ReLU()),
    "padded after a pointwise one": stack(CONV(6, 1, bias=False), CONV(5, 3, padding=1), nn.ReLU()),
    "padded after a pointwise one of a bias": stack(CONV(6, 1), CONV(5, 3, padding=1), nn.ReLU()),
    "separable": stack(CONV(4, 3, padding=1, groups=4), NORM(), CONV(6, 1), NORM(), nn.ReLU()),
    "three dense": stack(nn.Flatten(), LINEAR(7), LINEAR(6), nn.LazyBatchNorm1d(), LINEAR(5), nn.ReLU()),
    "dense after a convolution": stack(CONV(6, 3, padding=1)),
    "of the image": stack(CONV(4, 3, padding=1), CONV(5, 3, padding=1), nn.ReLU(), stem=False),
    "bottleneck": stack(CONV(2, 1), NORM(), CONV(6, 3), nn.ReLU()),
    "bottleneck with a skip": of(
        lambda m, x: m.up2(m.mid2(m.down2(y := m.up(m.mid(m.down(x).relu()).relu())).relu()).relu()) + y,
        down=CONV(6, 1),
        mid=CONV(6, 3, padding=1, groups=6),
        up=CONV(3, 1),
        down2=CONV(6, 1),
        mid2=CONV(6, 3, padding=1, groups=6),
        up2=CONV(3, 1),
    ),
    "an even kernel that keeps the size": stack(
        NORM(), CONV(6, (2, 4), padding="same"), nn.ReLU(), CONV(4, (1, 4), padding="same", groups=2), stem=False
    ),
    "a dilated even kernel that keeps the size": stack(
        CONV(6, 3, padding=1), nn.ReLU(), CONV(4, (2, 3), padding="same", dilation=(3, 2)), shape=(2, 9, 7)
    ),
    "an even kernel of signals that keeps the size": Case(
        lambda: nn.Sequential(
            nn.LazyConv1d(4, 6, padding="same"),
            nn.ReLU(),
            nn.LazyConv1d(4, 4, padding="same", dilation=3),
            nn.ReLU(),
            nn.Flatten(),
            LINEAR(3),
        ),
        (2, 12),
    ),
    "a last padded convolution, flattened": bare(
        lambda m, x: m.last(m.conv(x).relu()).flatten(1), conv=same(3), last=same(2)
    ),
    "last padded convolutions and a max pooling, some of their numbers": bare(
        lambda m, x: torch.cat(
            [m.more(m.last(y := m.conv(x).relu())).flatten(1)[:, 3:90:5], functional.max_pool2d(y, 4).flatten(1)], 1
        ),
        conv=same(3),
        last=same(2),
        more=same(2),
    ),
    "the last step of a dense layer along a signal": bare(
        lambda m, x: m.dense(m.conv(x).relu().permute(0, 2, 1))[:, -1, :],
        (2, 12),
        conv=nn.LazyConv1d(4, 3),
        dense=LINEAR(3),
    ),
    "two heads": of(lambda m, x: torch.cat([m.first(x), m.second(x)], 1), first=CONV(3, 3), second=CONV(2, 3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        # One kernel for each linear map between two ReLUs.
        ("two convolutions", 1, "2x8x8-4c3-5c5-3"),
        ("separable", 1, "2x8x8-4c3-6c3-3"),
        # relu(s) and relu(-s) where the second one pads.
        ("two padded ones", 1, "2x8x8-4c3-12c3-5c3-3"),
        ("padded after a pointwise one", 1, "2x8x8-4c3-5c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected
