"""Grouped convolutions keep their groups, and relays become groups beside them."""

from __future__ import annotations

import pytest
from support.lowering import (
    CONV,
    LINEAR,
    Case,
    assert_equals_module,
    assert_samples,
    groups_of,
    layers_of,
    of,
    same,
    stack,
)
from torch import Tensor, nn


class Twice(nn.Module):
    """A convolution and a dense layer that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc, self.head = CONV(4, 3), same(4), nn.Linear(144, 144), LINEAR(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.conv(self.conv(x).relu()) + x).relu().flatten(1)
        return self.head(self.fc(self.fc(x).relu()).relu())


CASES = {
    "depthwise": stack(same(4, 4), nn.ReLU(), CONV(5, 1), nn.ReLU()),
    "depthwise beside a skip": of(
        lambda m, x: m.up(m.mid(m.down(x).relu()).relu()) + x, down=CONV(8, 1), mid=same(8, 8), up=CONV(4, 1)
    ),
    "depthwise, strided, beside a skip": of(
        lambda m, x: m.up(m.mid(m.down(x).relu()).relu()) + m.skip(x),
        down=CONV(8, 1),
        mid=CONV(8, 3, 2, padding=1, groups=8),
        up=CONV(4, 1),
        skip=CONV(4, 1, 2),
    ),
    "grouped beside a skip": of(
        lambda m, x: (m.up(m.mid(m.down(x).relu()).relu()) + x).relu(), down=CONV(8, 1), mid=same(8, 2), up=CONV(4, 1)
    ),
    "used twice": Case(Twice),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("used twice", 1, "2x8x8-4c3-4c3+4r-4c3-144-144-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected


@pytest.mark.parametrize(
    ("name", "layer", "groups"),
    [
        ("depthwise", 1, 4),
        ("depthwise beside a skip", 2, 12),
        ("depthwise, strided, beside a skip", 2, 12),
        ("grouped beside a skip", 2, 3),
    ],
)
def test_groups_are_kept_beside_relays(name: str, layer: int, groups: int) -> None:
    assert groups_of(CASES[name], layer) == groups


def test_samples_say_what_each_channel_is() -> None:
    assert_samples(CASES["depthwise beside a skip"])
