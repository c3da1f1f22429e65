"""Sums of branches: relays carry the shorter branch over the levels of the longer one."""

from __future__ import annotations

import pytest
import torch
from support.lowering import (
    CONV,
    LINEAR,
    NORM,
    assert_equals_module,
    assert_samples,
    bare,
    layers_of,
    of,
    same,
)
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth


def pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2)


def block(m: nn.Module, x: Tensor) -> Tensor:
    return (m.two(m.one(x).relu()) + x).relu()


def halved(x: Tensor) -> Tensor:
    """The shortcut of option A: every second pixel, and channels of zeros."""
    return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))


CASES = {
    "identity": of(block, one=same(5), two=same(4)),
    "with batch norm": of(
        lambda m, x: (m.b(m.two(m.a(m.one(x)).relu())) + x).relu(), one=same(5), a=NORM(), two=same(4), b=NORM()
    ),
    "no ReLU after it": of(
        lambda m, x: m.last(m.two(m.one(x).relu()) + x).relu(), one=same(5), two=same(4), last=same(3)
    ),
    "projection": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(), one=same(5), two=same(6), skip=CONV(6, 1)
    ),
    "strided": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(),
        one=CONV(5, 3, 2, padding=1),
        two=same(6),
        skip=CONV(6, 1, 2),
    ),
    "strided in the second layer": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(),
        one=same(5),
        two=CONV(6, 3, 2, padding=1),
        skip=CONV(6, 1, 2),
    ),
    "strided with an average": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(functional.avg_pool2d(x, 2))).relu(),
        one=CONV(5, 3, 2, padding=1),
        two=same(6),
        skip=CONV(6, 1),
    ),
    "strided, odd size": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(),
        shape=(2, 9, 7),
        one=CONV(5, 3, 2, padding=1),
        two=same(6),
        skip=CONV(6, 1, 2),
    ),
    "strided, a shortcut of 3 x 3": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(),
        one=CONV(5, 3, 2, padding=1),
        two=same(6),
        skip=CONV(6, 3, 2, padding=1),
    ),
    "strided twice": of(
        lambda m, x: (m.two(m.one(x).relu()) + m.skip(x)).relu(),
        shape=(2, 12, 12),
        one=CONV(5, 3, 2, padding=1),
        two=CONV(6, 3, 3, padding=1),
        skip=CONV(6, 1, 6),
    ),
    "pre-activation": of(
        lambda m, x: m.two(m.b(m.one(m.a(x).relu())).relu()) + x, a=NORM(), one=same(5), b=NORM(), two=same(4)
    ),
    "sum of three": of(
        lambda m, x: (m.two(m.one(x).relu()) + x + m.three(x)).relu(), one=same(5), two=same(4), three=same(4)
    ),
    "of a random depth in training": of(
        lambda m, x: (m.drop(m.one(x).relu()) + x).relu(), one=same(4), drop=StochasticDepth(0.5, "row")
    ),
    "difference": of(lambda m, x: m.one(x).relu() - x, one=same(4)),
    "a sum with a factor": of(lambda m, x: torch.add(m.one(x).relu(), x, alpha=-0.5).relu(), one=same(4)),
    "doubled": of(lambda m, x: (x + x) - m.one(x).relu(), one=same(4)),
    "one channel beside several": of(
        lambda m, x: (m.one(x).relu() + m.two(x) - x.mean(1, keepdim=True)).relu(), one=same(1), two=same(4)
    ),
    "over four layers": of(
        lambda m, x: (m.four(m.three(m.two(m.one(x).relu()).relu()).relu()) + x).relu(),
        one=same(5),
        two=same(5),
        three=same(5),
        four=same(4),
    ),
    "from the image": bare(
        lambda m, x: m.head((m.two(m.one(x).relu()) + m.skip(x)).relu().flatten(1)),
        one=same(5),
        two=same(6),
        skip=CONV(6, 1),
        head=LINEAR(3),
    ),
    "the image itself": bare(lambda m, x: m.head((m.one(x).relu() + x).flatten(1)), one=same(2), head=LINEAR(3)),
    "option A": of(lambda m, x: (m.two(m.one(x).relu()) + halved(x)).relu(), one=CONV(5, 3, 2, padding=1), two=same(8)),
    "after max pooling": of(lambda m, x: block(m, pool(x)), one=same(5), two=same(4)),
    "two blocks": of(
        lambda m, x: (m.four(m.three(y := block(m, x)).relu()) + y).relu(),
        one=same(5),
        two=same(4),
        three=same(5),
        four=same(4),
    ),
    "of vectors": of(
        lambda m, x: (m.two(m.one(y := m.zero(x.flatten(1)).relu()).relu()) + y).relu(),
        zero=LINEAR(5),
        one=LINEAR(6),
        two=LINEAR(5),
    ),
    "of vectors over maps": of(lambda m, x: m.one(x).relu().flatten(1) + x.flatten(1), one=same(4)),
    "two heads": bare(
        lambda m, x: m.a(m.stem(x).relu().flatten(1)) + m.b(x.flatten(1)), stem=same(3), a=LINEAR(3), b=LINEAR(3)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("identity", 1, "2x8x8-4c3-5c3+4r-4c3-3"),
        ("identity", 2, "2x8x8-4c3-5c3+8r-4c3-3"),
        ("strided", 1, "2x8x8-4c3-5c3+4r-6c3-3"),
        ("over four layers", 1, "2x8x8-4c3-5c3+4r-5c3+4r-5c3+4r-4c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected


def test_samples_say_what_each_channel_is() -> None:
    assert_samples(CASES["strided"])
