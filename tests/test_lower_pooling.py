"""Average pooling of every kind stays a pooling, or becomes part of a kernel."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, assert_equals_module, bare, layers_of, of, same, stack
from torch import nn
from torch.nn import functional

CASES = {
    "interpolate, {'size': 4, 'mode': 'area'}": of(
        lambda m, x: m.a(functional.interpolate(x, size=4, mode="area")).relu(), a=same(3)
    ),
    "a stride alone": stack(nn.AvgPool2d(1, 2), CONV(5, 3), nn.ReLU()),
    "overlapping": stack(nn.AvgPool2d(3, 1), CONV(5, 3), nn.ReLU()),
    "overlapping and strided": stack(nn.AvgPool2d(3, 2), CONV(5, 2), nn.ReLU(), shape=(2, 9, 9)),
    "padded": stack(nn.AvgPool2d(3, 2, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "padded side by side": stack(nn.AvgPool2d(2, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "padded, divided by what is there": stack(
        nn.AvgPool2d(2, 2, padding=0, count_include_pad=False), CONV(5, 2), nn.ReLU()
    ),
    "rounded up without a remainder": stack(nn.AvgPool2d(2, ceil_mode=True), CONV(5, 2), nn.ReLU()),
    "a divisor": stack(nn.AvgPool2d(2, divisor_override=3), CONV(5, 2), nn.ReLU()),
    "adaptive identity": stack(nn.AdaptiveAvgPool2d(8), CONV(5, 2), nn.ReLU()),
    "adaptive divisor": stack(nn.AdaptiveAvgPool2d((4, 2)), CONV(5, 2), nn.ReLU()),
    # 9 = 2 x 4 + 1 rows in windows of 3, 9 = 4 x 2 + 1 columns in windows of 5.
    "adaptive, overlapping": stack(nn.AdaptiveAvgPool2d((4, 2)), CONV(5, 2), nn.ReLU(), shape=(2, 9, 9)),
    "adaptive by one less": of(lambda m, x: functional.adaptive_avg_pool2d(m.conv(x), 7).relu(), conv=CONV(4, 1)),
    "padded convolution after a remainder": stack(nn.AvgPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), shape=(2, 7, 7)),
    "strided, padded convolution after a remainder that it does not read": stack(
        nn.AvgPool2d(2), CONV(5, 3, stride=2, padding=1), nn.ReLU(), shape=(2, 9, 9)
    ),
    "dilated over the end of a remainder": stack(
        nn.AvgPool2d(2), CONV(5, 3, stride=2, padding=2, dilation=2), nn.ReLU(), shape=(2, 11, 11)
    ),
    "two with remainders": stack(nn.AvgPool2d(2), nn.AvgPool2d((1, 2)), CONV(5, 2), nn.ReLU(), shape=(2, 9, 11)),
    "a last window beyond the map": stack(
        nn.AvgPool2d(2, ceil_mode=True, divisor_override=4), CONV(5, 2), shape=(2, 9, 9)
    ),
    "in front of the ReLU": stack(CONV(5, 3), nn.AvgPool2d(2), nn.ReLU()),
    "of the image": stack(nn.AvgPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), stem=False),
    "after a pointwise convolution": stack(CONV(6, 1, groups=2), nn.AvgPool2d(2), nn.ReLU(), shape=(2, 9, 9)),
    "in front of a branch": of(
        lambda m, x: torch.cat([m.one(functional.avg_pool2d(x, 3, 1, 1)), m.two(x)], 1).relu(),
        one=CONV(3, 1),
        two=CONV(4, 1),
    ),
    "whole maps": of(lambda m, x: m.norm(x).mean((2, 3)), norm=NORM()),
    "whole maps, by keywords": of(lambda m, x: torch.mean(input=x, dim=(2, 3))),
    "whole maps, axes as numpy calls them": of(lambda m, x: torch.mean(x, axis=(2, 3))),
    "whole maps, flattened": of(lambda m, x: x.flatten(2).mean(-1)),
    "whole maps, channels last, flattened": of(lambda m, x: x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)),
    "whole maps, axis by axis": of(lambda m, x: x.mean(3).mean(2)),
    "whole maps, axis by axis, with their axes": of(lambda m, x: x.mean(2, keepdim=True).mean(-1, keepdim=True)),
    "sums of whole maps": of(lambda m, x: x.sum((2, 3))),
    "means of rows": of(lambda m, x: m.conv(x.mean(3, keepdim=True)).relu(), conv=CONV(5, (3, 1))),
    "means of rows, then flattened": of(lambda m, x: x.mean(3)),
    "means of columns as a signal": of(lambda m, x: m.conv(x.mean(2)).relu(), conv=nn.LazyConv1d(5, 3)),
    "sums of columns": of(lambda m, x: m.conv(x.sum(2, keepdim=True)).relu(), conv=CONV(5, (1, 3))),
    "mean of the channels": of(lambda m, x: m.conv(x.mean(1, keepdim=True)).relu(), conv=CONV(5, 3, padding=1)),
    "sum of the channels, with their axis added later": of(lambda m, x: x.sum(1).unsqueeze(1)),
    "mean of the channels, flattened": of(lambda m, x: x.mean(-3)),
    "weighted sum of the channels": of(lambda m, x: (x * torch.arange(4.0).reshape(4, 1, 1)).sum(1, keepdim=True)),
    "mean of the channels of a signal": bare(
        lambda m, x: m.fc(m.conv(x).relu().mean(1)), (2, 9), conv=nn.LazyConv1d(4, 3), fc=LINEAR(3)
    ),
    "mean of the channels of a signal, with their axis": bare(
        lambda m, x: m.fc(m.conv(x.mean(1, True)).relu().flatten(1)), (2, 9), conv=nn.LazyConv1d(4, 3), fc=LINEAR(3)
    ),
    "the largest of the means of rows": of(lambda m, x: x.mean(3).amax(2)),
    "means of a part of the maps": of(lambda m, x: x[:, :, 1:, 1:].mean((2, 3))),
    "whole maps of a padded convolution": of(
        lambda m, x: m.conv(x).mean((2, 3), keepdim=True), conv=CONV(5, 3, padding=1)
    ),
    "pooled beside a skip": of(
        lambda m, x: (m.conv(functional.avg_pool2d(x, 2)) + functional.avg_pool2d(x, 2)).relu(),
        conv=CONV(4, 3, padding=1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        # Windows that lie side by side stay a pooling.
        ("rounded up without a remainder", 1, "2x8x8-4c3-2p-5c2-3"),
        ("adaptive divisor", 1, "2x8x8-4c3-2x4p-5c2-3"),
        ("overlapping", 1, "2x8x8-4c3-5c5-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected
