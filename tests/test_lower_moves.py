"""Chunks, shuffles, slices and padding with zeros become the order of channels and taps of kernels."""

from __future__ import annotations

import pytest
import torch
from support.lowering import (
    CONV,
    LINEAR,
    NORM,
    assert_equals_module,
    assert_samples,
    groups_of,
    layers_of,
    of,
    same,
    stack,
)
from torch import Tensor, nn
from torch.nn import functional


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    count, channels, height, width = x.shape
    return x.view(count, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


CASES = {
    "chunk": of(lambda m, x: torch.cat([(p := x.chunk(2, 1))[1], m.a(p[0]).relu()], 1), a=same(3)),
    "split": of(lambda m, x: (p := torch.split(x, [1, 3], 1))[1] - m.a(p[0]).relu(), a=same(3)),
    "shuffle": of(lambda m, x: m.a(shuffled(x)).relu(), a=same(4, 2)),
    "ChannelShuffle": stack(nn.ChannelShuffle(2), same(4, 2), nn.ReLU()),
    "shuffle unit": of(
        lambda m, x: m.last(
            shuffled(torch.cat([(p := x.chunk(2, 1))[0], m.c(m.b(m.a(p[1]).relu())).relu()], 1))
        ).relu(),
        a=CONV(2, 1),
        b=same(2, 2),
        c=CONV(2, 1),
        last=CONV(3, 1),
    ),
    "PixelUnshuffle": stack(nn.PixelUnshuffle(2), same(4), nn.ReLU()),
    "PixelUnshuffle of the image": stack(nn.PixelUnshuffle(2), same(4), nn.ReLU(), stem=False),
    "permute and flatten": of(lambda m, x: x.permute(0, 2, 3, 1).flatten(1)),
    "slices of pixels": of(lambda m, x: m.a(x[:, :, 1:-1, 2:]).relu() + x[:, 1:2, 1:-1, 2:], a=same(1)),
    "every third pixel": of(lambda m, x: m.a(x[:, :, 1::3, ::3]).relu(), a=same(3)),
    "zero padding": of(lambda m, x: m.a(functional.pad(x, (1, 0, 2, 1))).relu(), a=CONV(3, 3, 2)),
    "ZeroPad2d": stack(nn.ZeroPad2d((0, 1, 0, 1)), CONV(3, 3, 2), nn.ReLU()),
    "padding with numbers": of(
        lambda m, x: m.a(
            functional.pad(m.b(functional.pad(x, (1, 1, 2, 0), value=0.5)).relu(), (0, 1), "constant", -2.0)
        ),
        a=same(3),
        b=CONV(4, 3),
    ),
    "ConstantPad2d": stack(nn.ConstantPad2d((1, 0, 0, 2), 0.7), same(3), nn.ReLU()),
    "Linear of channels in the last axis": of(
        lambda m, x: (x.permute(0, 2, 3, 1) + m.b(m.a(x.permute(0, 2, 3, 1)).relu())).permute(0, 3, 1, 2).relu(),
        a=nn.Linear(4, 6),
        b=nn.Linear(6, 4, bias=False),
    ),
    "a matrix and a constant, channels last": of(
        lambda m, x: (
            (x.movedim(1, 3) @ torch.linspace(-1, 1, 12).reshape(4, 3).to(x) + torch.tensor([0.3, -0.2, 0.1]).to(x))
            .relu()
            .flatten(1)
        )
    ),
    "a constant for each pixel, channels last": of(
        lambda m, x: (x.permute(0, 2, 3, 1) - torch.linspace(-1, 1, 256).reshape(8, 8, 4).to(x)).relu().flatten(1)
    ),
    "Linear of flattened pixels, channels last": of(
        lambda m, x: m.a(x.flatten(2).transpose(1, 2)).relu().mean(1), a=nn.Linear(4, 5)
    ),
    "a view of what a Linear stores, channels last": of(
        lambda m, x: m.a(x.permute(0, 2, 3, 1)).view(len(x), -1), a=nn.Linear(4, 5)
    ),
    "a vector of weights, channels last": of(
        lambda m, x: (x.permute(0, 2, 3, 1) @ torch.linspace(-1, 1.3, 4).to(x)).transpose(-1, -2).relu()
    ),
    "a vector of weights, a mean": of(
        lambda m, x: functional.linear(x.permute(0, 2, 3, 1), torch.linspace(-1, 1.3, 4).to(x)).mean(-1).relu()
    ),
    "a number of each image": of(lambda m, x: (m.a(x).view(-1) + 1.0).relu().unsqueeze(1), a=CONV(1, 8)),
    "zero padding in front of the ReLU": stack(CONV(4, 3), nn.ZeroPad2d(1), NORM(), nn.ReLU()),
    "zero padding by a crop": of(lambda m, x: m.a(functional.pad(x, (-1, 1, 0, -2))).relu(), a=CONV(3, 3)),
    "zero padding at one end of a map smaller than the kernel": stack(
        CONV(3, 7), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), CONV(3, 3, 2), nn.ReLU()
    ),
    "zero padding at one end, then an average": stack(
        CONV(3, 2), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2)
    ),
    "zero padding at one end, then a mean": of(lambda m, x: functional.pad(x, (0, 1, 0, 1)).mean((2, 3))),
    "zero padding at one end beside a convolution": of(
        lambda m, x: (functional.pad(m.a(x), (0, 1, 0, 1)) + m.b(x)).relu(),
        a=CONV(3, 3, padding=1, bias=False),
        b=CONV(3, 2, padding=1),
    ),
    "a crop at one end": of(lambda m, x: m.a(x)[:, :, :-1, :-1].relu(), a=CONV(4, 2, padding=1)),
    "a crop at one end, then padding": of(lambda m, x: (y := x[:, :, :5, :5]) + m.a(y).relu(), a=same(4)),
    "channels in another order": of(lambda m, x: m.a(x[:, [2, 0, 0]]).relu(), a=same(4)),
    "a slice of flattened maps": of(lambda m, x: m.a(x.flatten(1)[:, 5:90]).relu(), a=LINEAR(4)),
    "unflattened": stack(nn.Flatten(), nn.Unflatten(1, (4, 8, 8)), same(4), nn.ReLU()),
    "flattened, normalized, a slice": of(lambda m, x: m.norm(x.flatten(1))[:, ::3], norm=nn.LazyBatchNorm1d()),
    "channels repeated": of(lambda m, x: m.a(x.repeat(1, 2, 1, 1)).relu(), a=same(3)),
    "one channel expanded as all": of(lambda m, x: (m.a(x[:, 1:2].expand_as(x)) + x).view_as(x).relu(), a=same(4)),
    "one channel expanded": of(lambda m, x: m.a(x[:, 1:2].expand(-1, 3, -1, -1)).relu(), a=same(3)),
    "channels in reverse": of(lambda m, x: m.a(x.flip(1).roll(1, 1)).relu(), a=same(3)),
    "pixels repeated": stack(nn.AdaptiveAvgPool2d((16, 8)), nn.Flatten(), LINEAR(4), nn.ReLU()),
    "the first channels": of(lambda m, x: m.a(x[:, :2]).relu(), a=same(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.skipif(torch.__version__ < "2.4", reason="torch 2.3 cannot trace cat of what another function returned")
def test_what_chunk_returns_is_joined_again() -> None:
    assert_equals_module(of(lambda m, x: m.a(torch.cat(x.chunk(2, 1)[::-1], 1)).relu(), a=same(3)))


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("chunk", 1, "2x8x8-4c3-3c3+2r-3"),
        ("ChannelShuffle", 1, "2x8x8-4c3-4c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected


@pytest.mark.parametrize(
    ("name", "layer", "groups"),
    [
        ("ChannelShuffle", 1, 2),
        ("shuffle unit", 1, 2),
    ],
)
def test_groups_are_kept_beside_relays(name: str, layer: int, groups: int) -> None:
    assert groups_of(CASES[name], layer) == groups


def test_samples_say_what_each_channel_is() -> None:
    assert_samples(CASES["shuffle unit"])
