"""Concatenated branches become channels of one layer."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, NORM, assert_equals_module, assert_samples, bare, of, same
from support.modules import Of, outputs
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.lowering import to_relu_network


def columns(x: Tensor) -> Tensor:
    """The place of each column, -1..1, for each image."""
    return torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:]).type_as(x)


CASES = {
    "fire": of(
        lambda m, x: torch.cat([m.a(y := m.squeeze(x).relu()).relu(), m.b(y).relu()], 1),
        squeeze=CONV(3, 1),
        a=CONV(5, 1),
        b=same(5),
    ),
    "dense block": of(
        lambda m, x: m.last(torch.cat([z := torch.cat([x, m.a(x).relu()], 1), m.b(z).relu()], 1)).relu(),
        a=same(3),
        b=same(3),
        last=CONV(4, 1),
    ),
    "dense block with batch norm": of(
        lambda m, x: m.c(torch.cat([z := torch.cat([x, m.a(x)], 1), m.b(m.norm(z).relu())], 1)).relu(),
        a=same(3),
        b=same(3),
        norm=NORM(),
        c=NORM(),
    ),
    "inception": of(
        lambda m, x: torch.cat(
            [m.one(x).relu(), m.three(m.reduce(x).relu()).relu(), m.proj(functional.max_pool2d(x, 3, 1, 1)).relu()], 1
        ),
        one=CONV(3, 1),
        reduce=CONV(2, 1),
        three=same(4),
        proj=CONV(2, 1),
    ),
    "inception that reduces": of(
        lambda m, x: torch.cat(
            [m.one(x).relu(), m.three(m.reduce(x).relu()).relu(), functional.max_pool2d(x, 3, 2)], 1
        ),
        shape=(2, 9, 9),
        one=CONV(3, 3, 2),
        reduce=same(2),
        three=CONV(4, 3, 2),
    ),
    "along the height": of(
        lambda m, x: m.last(torch.cat([m.a(x).relu(), x, m.b(x)], 2)).relu(),
        a=same(4),
        b=CONV(4, 3, padding=(2, 1)),
        last=CONV(3, 3),
    ),
    "along the width": of(lambda m, x: torch.cat([m.a(x)[..., 1:], x[..., :1]], dim=-1).relu(), a=same(4)),
    "signals, along their length": of(
        lambda m, x: m.last(torch.cat((m.a(x).relu(), x), 2)).relu(),
        shape=(2, 9),
        stem=nn.LazyConv1d(4, 3),
        a=nn.LazyConv1d(4, 3, padding=1),
        last=nn.LazyConv1d(3, 3),
    ),
    "one branch is the pooled input": of(
        lambda m, x: m.last(torch.cat([m.one(x).relu(), functional.avg_pool2d(x, 2)], 1)).relu(),
        one=CONV(3, 2, 2),
        last=same(3),
    ),
    "one channel three times (grey to RGB)": bare(
        lambda m, x: m.head(m.conv(torch.stack([x[:, 0]] * 3, 1)).relu().flatten(1)),
        (1, 6, 6),
        conv=CONV(4, 3),
        head=LINEAR(3),
    ),
    "single channels": of(
        lambda m, x: m.conv(torch.stack([x[:, 2], m.one(x)[:, 0]], dim=-3)), one=same(1), conv=same(3)
    ),
    "unequal kernels": of(
        lambda m, x: torch.cat([m.a(x), m.b(x), m.c(x)], 1).relu(),
        a=CONV(3, (1, 5), padding=(0, 2)),
        b=CONV(3, (5, 1), padding=(2, 0)),
        c=CONV(2, 1),
    ),
    "no padding beside padding": of(
        lambda m, x: torch.cat([m.a(x).relu(), m.c(m.b(x).relu()).relu()], 1),
        a=CONV(3, 3),
        b=CONV(3, 3, padding=2),
        c=CONV(3, 5),
    ),
    "flattened parts": of(lambda m, x: torch.cat([x.flatten(1), m.a(x).relu().flatten(1)], 1), a=CONV(2, 3, 2)),
    "vectors": of(
        lambda m, x: torch.cat([m.a(y := x.flatten(1)).relu(), m.c(m.b(y).relu()).relu()], 1),
        a=LINEAR(4),
        b=LINEAR(3),
        c=LINEAR(5),
    ),
    "vectors and means": of(
        lambda m, x: m.one(torch.cat([m.a(x.flatten(1)).relu(), x.mean((2, 3))], 1)).relu(), a=LINEAR(4), one=LINEAR(5)
    ),
    "with the image": bare(
        lambda m, x: m.head(m.b(torch.cat([m.a(x).relu(), x], 1)).relu().flatten(1)),
        a=same(3),
        b=same(4),
        head=LINEAR(3),
    ),
    "a smaller map of pixels beside a larger one": bare(
        lambda m, x: m.head(torch.cat([m.a(x).relu().flatten(1), m.b(x).relu().flatten(1)], 1)),
        a=CONV(4, 1),
        b=CONV(3, 2, padding=1),
        head=LINEAR(3),
    ),
    # CoordConv.
    "columns and rows": of(
        lambda m, x: m.a(torch.cat([x, columns(x), columns(x).transpose(2, 3)], 1)).relu(), a=same(5)
    ),
    "columns before the image and a branch": bare(
        lambda m, x: m.head(m.b(torch.cat([columns(x), x, m.a(x).relu()], 1)).relu().flatten(1)),
        a=same(3),
        b=CONV(4, 3),
        head=LINEAR(3),
    ),
    "ones and a vector": of(lambda m, x: m.a(torch.cat([x.mean((2, 3)), torch.ones(len(x), 1)], 1)), a=LINEAR(5)),
    # As the shortcuts of ResNets that learn no weights for them.
    "zeros": of(
        lambda m, x: (
            m.a(x) + torch.cat([y := functional.avg_pool2d(x, 2), torch.zeros(len(x), 3, *y.shape[2:])], 1)
        ).relu(),
        a=CONV(7, 3, 2, padding=1),
    ),
    "zeros and branches": of(lambda m, x: torch.cat([x, m.a(x).relu(), x.new_zeros(len(x), 2, 8, 8)], 1), a=same(3)),
    "ones, stacked": of(lambda m, x: m.a(torch.stack([x[:, 0], torch.ones(len(x), 8, 8)], 1)).relu(), a=same(3)),
    "zeros on both sides": of(lambda m, x: torch.cat([z := torch.zeros_like(x[:, :2]), x, z], 1)),
    "zeros before the rows": of(lambda m, x: m.a(torch.cat([x.new_zeros(len(x), 4, 2, 8), x], 2)).relu(), a=CONV(3, 3)),
    "zeros and a vector": of(lambda m, x: m.a(torch.cat([y := x.mean((2, 3)), y.new_zeros(y.shape)], 1)), a=LINEAR(5)),
    "an empty part": of(
        lambda m, x: torch.cat([m.a(x).relu(), m.b(x)[:, 3:].relu() + 1, x[:, :0]], 1), a=same(3), b=same(3)
    ),
    "the same twice": of(lambda m, x: torch.cat([x, x], 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


def test_a_branch_that_no_kernel_reads() -> None:
    """Groups of two channels: the first group reads one branch, which is pruned, and a part of the other."""

    def pruned(module: nn.Module, x: Tensor) -> Tensor:
        joined = torch.cat([module.a(x).relu(), module.b(x).relu()], 1)
        return functional.conv2d(joined, module.g.weight * module.kept, module.g.bias, groups=2).mean((2, 3))

    kept = torch.ones(4, 2, 1, 1)
    kept[:2, 0] = 0
    model = Of(pruned, a=nn.Conv2d(2, 1, 3), b=nn.Conv2d(2, 3, 3), g=nn.Conv2d(4, 4, 3, groups=2))
    model.register_buffer("kept", kept)
    images = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    network = to_relu_network(model.double().eval(), (2, 8, 8))
    torch.testing.assert_close(outputs(network, images), model(images))


def test_samples_say_what_each_channel_is() -> None:
    assert_samples(CASES["inception"])
