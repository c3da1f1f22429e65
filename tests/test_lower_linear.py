"""Linear maps without a ReLU between them become one kernel, or a pair of ReLUs where the second one pads."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, Case, assert_equals_module, layers_of, of, stack
from torch import nn

CASES = {
    "two convolutions": stack(CONV(6, 3), CONV(5, 3), nn.ReLU()),
    "two padded ones": stack(CONV(6, 3, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "strides and dilation": stack(CONV(6, 3, 2), CONV(5, 2, dilation=2), nn.ReLU(), shape=(2, 11, 11)),
    "groups": stack(CONV(8, 3, groups=2), CONV(6, 2, groups=2), nn.ReLU()),
    "pointwise behind a padded one": stack(CONV(6, 3, padding=1), CONV(5, 1), nn.ReLU()),
    "padded behind a pointwise one": stack(CONV(6, 1, bias=False), CONV(5, 3, padding=1), nn.ReLU()),
    "padded behind a pointwise one of a bias": stack(CONV(6, 1), CONV(5, 3, padding=1), nn.ReLU()),
    "separable": stack(CONV(4, 3, padding=1, groups=4), NORM(), CONV(6, 1), NORM(), nn.ReLU()),
    "three dense": stack(nn.Flatten(), LINEAR(7), LINEAR(6), nn.LazyBatchNorm1d(), LINEAR(5), nn.ReLU()),
    "dense behind a convolution": stack(CONV(6, 3, padding=1)),
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
        ("padded behind a pointwise one", 1, "2x8x8-4c3-5c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected
