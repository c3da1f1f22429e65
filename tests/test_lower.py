"""Every way of lowering: the chain's outputs are the module's own, in float64 up to 1e-9 of the largest.

One group of models for each file of `frontend.lower`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.modules import Of, outputs, prepared, stepped
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from loihi_convert.arrays import Shape
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.frontend.lower import lowered, to_relu_network
from loihi_convert.ir.network import ReluNetwork, summary
from loihi_convert.ir.quantized import MAX_NAME_LENGTH
from loihi_convert.ir.synapse import Conv

TOLERANCE = 1e-9
CONV, LINEAR, NORM = nn.LazyConv2d, nn.LazyLinear, nn.LazyBatchNorm2d


@dataclass(frozen=True)
class Case:
    """A model and the images it takes: ``(C, H, W)``, or ``(C, L)`` of signals."""

    make: Callable[[], nn.Module]
    shape: Shape = (2, 8, 8)

    @property
    def image_shape(self) -> Shape:
        return self.shape if len(self.shape) == 3 else (self.shape[0], 1, self.shape[1])


def stack(*modules: nn.Module, stem: bool = True, shape: Shape = (2, 8, 8)) -> Case:
    """Conv 3 x 3 and ReLU -> ``modules`` -> flatten and a dense layer."""
    before = [nn.LazyConv2d(4, 3, padding=1), nn.ReLU()] if stem else []
    return Case(lambda: nn.Sequential(*before, *modules, nn.Flatten(), LINEAR(3)), shape)


def of(function: Callable[[nn.Module, Tensor], Tensor], shape: Shape = (2, 8, 8), **modules: nn.Module) -> Case:
    """Conv 3 x 3 and ReLU -> ``function`` -> flatten and a dense layer."""
    own = {"stem": CONV(4, 3, padding=1), "head": LINEAR(3), **modules}
    return Case(lambda: Of(lambda m, x: m.head(function(m, m.stem(x).relu()).flatten(1)), **own), shape)


def bare(function: Callable[[nn.Module, Tensor], Tensor], shape: Shape = (2, 8, 8), **modules: nn.Module) -> Case:
    """``function`` alone."""
    return Case(lambda: Of(function, **modules), shape)


def signals(*modules: nn.Module, shape: Shape = (2, 12)) -> Case:
    """The same as `stack` for signals."""
    return Case(
        lambda: nn.Sequential(nn.LazyConv1d(4, 3, padding=1), nn.ReLU(), *modules, nn.Flatten(), LINEAR(3)), shape
    )


def pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2)


def constant(channels: int = 4) -> Tensor:
    return torch.linspace(-0.5, 0.7, channels).reshape(channels, 1, 1)


AFFINE = {
    "norm behind a convolution": stack(CONV(5, 3), NORM(), nn.ReLU()),
    "norm in front of a padded one": stack(NORM(), CONV(5, 3, padding=1), nn.ReLU()),
    "norm in front of a padded strided one": stack(NORM(), CONV(6, 3, 2, padding=2, groups=2), nn.ReLU()),
    "norm of the image": stack(NORM(), CONV(5, 3, padding=1), nn.ReLU(), stem=False),
    "norm between pooling and ReLU": stack(CONV(3, 3), nn.AvgPool2d(2), NORM(), nn.ReLU()),
    "norm of flattened maps": stack(
        NORM(), nn.Flatten(), nn.LazyBatchNorm1d(), LINEAR(5), nn.LazyBatchNorm1d(), nn.ReLU()
    ),
    "ReLU of a norm of a ReLU": stack(NORM(), nn.ReLU(), NORM(), nn.ReLU()),
    "normalization": stack(transforms.Normalize((0.4, 0.5), (0.2, 0.3)), CONV(3, 3, padding=1), nn.ReLU(), stem=False),
    "constants": of(lambda m, x: m.conv(2 - (x * constant() + 0.1) / 3).relu() - 1, conv=CONV(3, 3, padding=1)),
    "a constant behind a sum": of(
        lambda m, x: m.conv(x + 2 * m.other(x)).relu(), conv=CONV(3, 3, padding=1), other=CONV(4, 1)
    ),
    "a map of constants and one of channels": of(
        lambda m, x: (m.conv(m.norm(x)) + m.other(x)).relu(), conv=CONV(3, 3, padding=1), norm=NORM(), other=CONV(3, 1)
    ),
}

LINEAR_MAPS = {
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
    "two heads": of(lambda m, x: torch.cat([m.first(x), m.second(x)], 1), first=CONV(3, 3), second=CONV(2, 3)),
}

POOLING = {
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
    "padded convolution behind a remainder": stack(nn.AvgPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), shape=(2, 7, 7)),
    "two with remainders": stack(nn.AvgPool2d(2), nn.AvgPool2d((1, 2)), CONV(5, 2), nn.ReLU(), shape=(2, 9, 11)),
    "in front of the ReLU": stack(CONV(5, 3), nn.AvgPool2d(2), nn.ReLU()),
    "of the image": stack(nn.AvgPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), stem=False),
    "behind a pointwise convolution": stack(CONV(6, 1, groups=2), nn.AvgPool2d(2), nn.ReLU(), shape=(2, 9, 9)),
    "in front of a branch": of(
        lambda m, x: torch.cat([m.one(functional.avg_pool2d(x, 3, 1, 1)), m.two(x)], 1).relu(),
        one=CONV(3, 1),
        two=CONV(4, 1),
    ),
    "whole maps": of(lambda m, x: m.norm(x).mean((2, 3)), norm=NORM()),
    "whole maps of a padded convolution": of(
        lambda m, x: m.conv(x).mean((2, 3), keepdim=True), conv=CONV(5, 3, padding=1)
    ),
    "pooled beside a skip": of(
        lambda m, x: (m.conv(functional.avg_pool2d(x, 2)) + functional.avg_pool2d(x, 2)).relu(),
        conv=CONV(4, 3, padding=1),
    ),
}

MAX_POOLING = {
    **{
        f"kernel {kernel}, stride {stride}": stack(
            nn.MaxPool2d(kernel, stride), CONV(5, 2), nn.ReLU(), shape=(2, 9, 10)
        )
        for kernel, stride in itertools.product([2, 3, (3, 2)], [1, 2, 3])
    },
    "kernel 4": stack(nn.MaxPool2d(4, 4), CONV(5, 1), nn.ReLU()),
    "padding": stack(nn.MaxPool2d(3, 2, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "dilation": stack(nn.MaxPool2d(2, 1, dilation=2), CONV(5, 2), nn.ReLU()),
    "ceil_mode": stack(nn.MaxPool2d(3, 2, ceil_mode=True), CONV(5, 2), nn.ReLU()),
    "ceil_mode and padding": stack(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), CONV(5, 2, padding=1), nn.ReLU()),
    "two": stack(nn.MaxPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "in front of the ReLU": stack(CONV(5, 3), nn.MaxPool2d(3, 2, padding=1), nn.ReLU()),
    "in front of batch norm and ReLU": Case(
        lambda: nn.Sequential(
            CONV(5, 3), nn.MaxPool2d(2, padding=1), nn.BatchNorm2d(5, affine=False), nn.ReLU(), nn.Flatten(), LINEAR(3)
        )
    ),
    "in front of batch norm of any gain and ReLU": stack(CONV(5, 3), nn.MaxPool2d(2), NORM(), nn.ReLU()),
    "of signed values": stack(CONV(5, 3), nn.MaxPool2d(2), CONV(4, 2), nn.ReLU()),
    "behind batch norm": stack(NORM(), nn.MaxPool2d(2), CONV(4, 2), nn.ReLU()),
    "of a sum": of(lambda m, x: pool(x + m.conv(x).relu()), conv=CONV(4, 3, padding=1)),
    "of a concatenation": of(
        lambda m, x: m.last(pool(torch.cat([x, m.conv(x).relu()], 1))).relu(),
        conv=CONV(4, 3, padding=1),
        last=CONV(3, 3, padding=1),
    ),
    "of the image": stack(nn.MaxPool2d(3, 2, padding=1), CONV(5, 3), nn.ReLU(), stem=False, shape=(2, 12, 12)),
    "adaptive": stack(nn.AdaptiveMaxPool2d((4, 2)), CONV(5, 2), nn.ReLU()),
    "whole maps": of(lambda m, x: x.amax((2, 3))),
    "beside itself": of(
        lambda m, x: torch.cat([m.conv(x).relu(), m.pool(x)], 1),
        conv=CONV(5, 3, 2, padding=1),
        pool=nn.MaxPool2d(3, 2, padding=1),
    ),
    "beside a skip of the same map": of(
        lambda m, x: m.conv(functional.max_pool2d(x, 3, 1, 1) + x).relu(), conv=CONV(4, 3)
    ),
}


ACTIVATION = {
    "relu6": stack(CONV(5, 3), nn.ReLU6()),
    "hardtanh": stack(CONV(5, 3), nn.Hardtanh(0, 0.3)),
    "clamp": of(lambda m, x: m.conv(x).clamp(0, 0.2), conv=CONV(4, 3)),
    "clamp from 0": of(lambda m, x: m.conv(x).clamp(min=0), conv=CONV(4, 3)),
    "clamp_min and relu6": of(
        lambda m, x: functional.relu6(m.two(m.conv(x).clamp_min(0))), conv=CONV(4, 3), two=CONV(4, 3)
    ),
    "a clipped ReLU of a ReLU": stack(nn.Hardtanh(0, 0.2), CONV(5, 3), nn.ReLU()),
    "clipped beside plain": of(lambda m, x: m.conv(x).clamp(0, 0.2) + x, conv=CONV(4, 3, padding=1)),
    "leaky": stack(CONV(5, 3), nn.LeakyReLU(0.2), CONV(5, 3, padding=1), nn.LeakyReLU(0.1)),
    "leaky_relu": of(lambda m, x: functional.leaky_relu(m.conv(x)), conv=CONV(4, 3)),
    "leaky with a skip": of(
        lambda m, x: functional.leaky_relu(m.two(functional.leaky_relu(m.one(x), 0.3)) + x, 0.1),
        one=CONV(4, 3, padding=1),
        two=CONV(4, 3, padding=1),
    ),
    "PReLU": stack(CONV(5, 3), nn.PReLU(init=-0.3), CONV(4, 3), nn.ReLU()),
    "PReLU per channel": Case(
        lambda: nn.Sequential(CONV(5, 3), nn.PReLU(5), nn.Flatten(), LINEAR(6), nn.PReLU(6), LINEAR(3))
    ),
    "PReLU of flattened maps": stack(CONV(5, 3), nn.Flatten(), nn.PReLU(init=0.3)),
    "of flattened maps": stack(CONV(5, 3), nn.Flatten(), nn.ReLU()),
    "twice": stack(nn.ReLU(), CONV(4, 3), nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.ReLU()),
    "two of one value": of(lambda m, x: torch.cat([(y := m.conv(x)).relu(), (-1 * y).relu()], 1), conv=CONV(4, 3)),
}


def block(m: nn.Module, x: Tensor) -> Tensor:
    return (m.two(m.one(x).relu()) + x).relu()


def same(channels: int, groups: int = 1) -> nn.Module:
    return CONV(channels, 3, padding=1, groups=groups)


def halved(x: Tensor) -> Tensor:
    """The shortcut of option A: every second pixel, and channels of zeros."""
    return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3))


RESIDUAL = {
    "identity": of(block, one=same(5), two=same(4)),
    "with batch norm": of(
        lambda m, x: (m.b(m.two(m.a(m.one(x)).relu())) + x).relu(), one=same(5), a=NORM(), two=same(4), b=NORM()
    ),
    "no ReLU behind": of(
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
    "difference": of(lambda m, x: m.one(x).relu() - x, one=same(4)),
    "a sum with a factor": of(lambda m, x: torch.add(m.one(x).relu(), x, alpha=-0.5).relu(), one=same(4)),
    "doubled": of(lambda m, x: (x + x) - m.one(x).relu(), one=same(4)),
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
    "behind max pooling": of(lambda m, x: block(m, pool(x)), one=same(5), two=same(4)),
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

CONCAT = {
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
    "one branch is the pooled input": of(
        lambda m, x: m.last(torch.cat([m.one(x).relu(), functional.avg_pool2d(x, 2)], 1)).relu(),
        one=CONV(3, 2, 2),
        last=same(3),
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
    "the same twice": of(lambda m, x: torch.cat([x, x], 1)),
}


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    count, channels, height, width = x.shape
    return x.view(count, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


MOVES = {
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
    "zero padding in front of the ReLU": stack(CONV(4, 3), nn.ZeroPad2d(1), NORM(), nn.ReLU()),
    "zero padding by a crop": of(lambda m, x: m.a(functional.pad(x, (-1, 1, 0, -2))).relu(), a=CONV(3, 3)),
    "channels in another order": of(lambda m, x: m.a(x[:, [2, 0, 0]]).relu(), a=same(4)),
    "a slice of flattened maps": of(lambda m, x: m.a(x.flatten(1)[:, 5:90]).relu(), a=LINEAR(4)),
    "unflattened": stack(nn.Flatten(), nn.Unflatten(1, (4, 8, 8)), same(4), nn.ReLU()),
    "flattened, normalized, a slice": of(lambda m, x: m.norm(x.flatten(1))[:, ::3], norm=nn.LazyBatchNorm1d()),
    "an unbound map": of(
        lambda m, x: m.a(torch.stack((x[:, 0], x[:, 1]), 1).relu() if False else x[:, :2]).relu(), a=same(3)
    ),
}

HEADS = {
    "a convolution": Case(lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 8), nn.Flatten())),
    "global average": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "global average of a padded convolution": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), same(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "global average behind a ReLU": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten())
    ),
    "global maximum": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    ),
    "global maximum of signed values": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    ),
    "a ReLU": Case(lambda: nn.Sequential(nn.Flatten(), LINEAR(5), nn.ReLU(), LINEAR(3), nn.ReLU())),
    "one dense layer": Case(lambda: nn.Sequential(nn.Flatten(), LINEAR(3))),
    "maps of one pixel": Case(
        lambda: nn.Sequential(CONV(5, 8), nn.ReLU(), CONV(4, 1), nn.ReLU(), CONV(3, 1), nn.Flatten())
    ),
    "two heads": bare(
        lambda m, x: m.a(y := m.stem(x).relu().flatten(1)) + 0.5 * m.b(y), stem=same(3), a=LINEAR(3), b=LINEAR(3)
    ),
    "two poolings": bare(
        lambda m, x: torch.cat([(y := m.stem(x).relu()).mean((2, 3)), y.amax((2, 3))], 1), stem=CONV(4, 3)
    ),
    "means in another order": bare(lambda m, x: m.stem(x).relu().mean((2, 3))[:, [2, 0, 3, 1]], stem=CONV(4, 3)),
    "a grouped convolution": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), nn.ChannelShuffle(2), CONV(4, 8, groups=4), nn.Flatten())
    ),
    "squeezed": bare(lambda m, x: m.conv(m.stem(x).relu()).squeeze(-1).squeeze(-1), stem=same(3), conv=CONV(3, 8)),
}

SIGNALS = {
    "batch norm and max pooling": signals(
        nn.LazyConv1d(5, 3, 2, padding=1), nn.LazyBatchNorm1d(), nn.ReLU(), nn.MaxPool1d(2)
    ),
    "average pooling": signals(nn.AvgPool1d(3, 2, padding=1), nn.LazyConv1d(5, 3), nn.ReLU()),
    "adaptive pooling": signals(nn.AdaptiveAvgPool1d(4), nn.LazyConv1d(5, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1)),
    "dilation": signals(
        nn.LazyConv1d(5, 3, dilation=2, padding="same"), nn.ReLU(), nn.LazyConv1d(5, 3, groups=5), nn.ReLU()
    ),
    "residual": Case(
        lambda: Of(
            lambda m, x: m.head((m.two(m.one(y := m.stem(x).relu()).relu()) + y).relu().mean(-1)),
            stem=nn.LazyConv1d(4, 3),
            one=nn.LazyConv1d(5, 3, padding=1),
            two=nn.LazyConv1d(4, 3, padding=1),
            head=LINEAR(3),
        ),
        (2, 12),
    ),
}


class Twice(nn.Module):
    """A convolution and a dense layer that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc, self.head = CONV(4, 3), same(4), nn.Linear(144, 144), LINEAR(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.conv(self.conv(x).relu()) + x).relu().flatten(1)
        return self.head(self.fc(self.fc(x).relu()).relu())


GROUPS = {
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

CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("affine", AFFINE),
        ("linear", LINEAR_MAPS),
        ("pooling", POOLING),
        ("max_pool", MAX_POOLING),
        ("activation", ACTIVATION),
        ("residual", RESIDUAL),
        ("concat", CONCAT),
        ("moves", MOVES),
        ("heads", HEADS),
        ("signals", SIGNALS),
        ("groups", GROUPS),
    )
    for name, case in cases.items()
}


def images(shape: Shape, count: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((count, *shape)))


def assert_equals(model: nn.Module, network: ReluNetwork, case: Case) -> None:
    """The outputs are the module's own, and differ between images."""
    pixels = images(case.shape)
    with torch.no_grad():
        wanted = model(pixels)
        found = outputs(network, pixels.reshape(-1, *case.image_shape))
    size = float(wanted.abs().max())
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= TOLERANCE * size
    assert float((wanted - wanted[0]).abs().max()) > 1e-3 * size, "equality would say little"


def assert_relays_repeat(network: ReluNetwork) -> None:
    """What the constructor does not ask for: the weight is 1, and the activation is ReLU."""
    for layer in network.layers:
        if layer.relay_of is not None:
            relays = layer.relay_of >= 0
            assert relays.any()
            rows = layer.synapse.weight[relays].reshape(int(relays.sum()), -1)
            assert (rows.sum(axis=1) == 1).all(), layer.name
            assert layer.ceiling is None or np.isinf(layer.ceiling[relays]).all()
            assert layer.threshold is None or np.isnan(layer.threshold[relays]).all()
    assert network.layers[0].relay_of is None
    assert network.layers[-1].relay_of is None


def assert_names(network: ReluNetwork) -> None:
    names = [layer.name for layer in network.layers]
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and 1 <= len(name) <= MAX_NAME_LENGTH for name in names), names


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    case = CASES[name]
    model = prepared(case.make(), case.shape)
    network = to_relu_network(model, case.image_shape)
    has_relays = any(layer.relay_of is not None for layer in network.layers)
    more = [to_relu_network(model, case.image_shape, skip_copies=copies) for copies in (2, 4) if has_relays]
    for each in (network, *more):
        assert_equals(model, each, case)
        assert_relays_repeat(each)
        assert_names(each)


def lowered_case(name: str, copies: int = 1) -> ReluNetwork:
    case = CASES[name]
    return to_relu_network(prepared(case.make(), case.shape), case.image_shape, skip_copies=copies)


def summaries(name: str, copies: int = 1) -> str:
    """The layers: channels, kernel, and relays."""
    network = lowered_case(name, copies)
    return summary(network.input_shape, network.layers)


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        # One kernel for each linear map between two ReLUs.
        ("linear: two convolutions", 1, "2x8x8-4c3-5c5-3"),
        ("linear: separable", 1, "2x8x8-4c3-6c3-3"),
        # relu(s) and relu(-s) where the second one pads.
        ("linear: two padded ones", 1, "2x8x8-4c3-12c3-5c3-3"),
        ("linear: padded behind a pointwise one", 1, "2x8x8-4c3-5c3-3"),
        # Windows that lie side by side stay a pooling.
        ("pooling: rounded up without a remainder", 1, "2x8x8-4c3-2p-5c2-3"),
        ("pooling: adaptive divisor", 1, "2x8x8-4c3-2x4p-5c2-3"),
        ("pooling: overlapping", 1, "2x8x8-4c3-5c5-3"),
        # Of rows b and relu(a - b) for each pair, of columns the same of both; their sum is taken by the kernel behind.
        ("max_pool: kernel 2, stride 2", 1, "2x9x10-4c3-4c1x2+4r-4c2x1+8r-5c2-3"),
        ("activation: leaky", 1, "2x8x8-4c3-10c3-10c3-3"),
        ("residual: identity", 1, "2x8x8-4c3-5c3+4r-4c3-3"),
        ("residual: identity", 2, "2x8x8-4c3-5c3+8r-4c3-3"),
        ("residual: strided", 1, "2x8x8-4c3-5c3+4r-6c3-3"),
        ("residual: over four layers", 1, "2x8x8-4c3-5c3+4r-5c3+4r-5c3+4r-4c3-3"),
        ("moves: chunk", 1, "2x8x8-4c3-3c3+2r-3"),
        ("moves: ChannelShuffle", 1, "2x8x8-4c3-4c3-3"),
        ("heads: a convolution", 1, "2x8x8-4c3-3"),
        ("groups: used twice", 1, "2x8x8-4c3-4c3+4r-4c3-144-144-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert summaries(name, copies) == expected


@pytest.mark.parametrize(
    ("name", "layer", "groups"),
    [
        ("groups: depthwise", 1, 4),
        ("groups: depthwise beside a skip", 2, 12),
        ("groups: depthwise, strided, beside a skip", 2, 12),
        ("groups: grouped beside a skip", 2, 3),
        ("moves: ChannelShuffle", 1, 2),
        ("moves: shuffle unit", 1, 2),
        ("max_pool: in front of batch norm and ReLU", 1, 5),
    ],
)
def test_groups_are_kept_beside_relays(name: str, layer: int, groups: int) -> None:
    synapse = lowered_case(name).layers[layer].synapse
    assert isinstance(synapse, Conv)
    assert synapse.groups == groups


def test_ceilings_and_thresholds_stand_beside_channels_without() -> None:
    """ReLU6 in one branch, QCFS in another, ReLU in the third, and a relay: one layer has them all."""
    model = Of(
        lambda m, x: m.head(
            torch.cat(
                [m.a(y := m.stem(x).relu()).clamp(0, 0.2), m.steps(m.b(y)), m.c(y).relu() + m.d(m.a(y)).relu()], 1
            ).flatten(1)
        ),
        stem=same(4),
        a=same(2),
        b=same(2),
        c=same(3),
        d=CONV(3, 1),
        steps=Qcfs(2, 4),
        head=LINEAR(3),
    )
    case = Case(lambda: model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qcfs, "forward", lambda q, x: stepped(x, q.thresholds.reshape(-1, 1, 1), q.levels))
        prepared(model, case.shape)
        model.steps.threshold.data.copy_(torch.tensor([0.2, 0.4]))
        network = to_relu_network(model, case.shape)
        assert_equals(model, network, case)
    layer = network.layers[1]
    assert layer.levels == 4
    assert layer.threshold is not None
    assert layer.ceiling is not None
    assert sorted(layer.threshold[~np.isnan(layer.threshold)].tolist()) == pytest.approx([0.2, 0.4])
    assert np.sort(layer.ceiling)[:3].tolist() == [0.2, 0.2, np.inf]


@pytest.mark.parametrize(
    "name", ["residual: strided", "concat: inception", "moves: shuffle unit", "groups: depthwise beside a skip"]
)
def test_samples_say_what_each_channel_is(name: str) -> None:
    """A relay repeats the channel that holds the same pixels of the same population in the layer before."""
    case = CASES[name]
    chain = lowered(prepared(case.make(), case.shape), case.image_shape)
    for level, layer in enumerate(chain.network.layers, 1):
        samples, before = chain.channels[level], chain.channels[level - 1]
        assert len(samples) == layer.synapse.channels
        assert len(set(samples)) == len(samples)
        for channel, sample in enumerate(samples):
            is_own = chain.levels.of[sample.source] == level
            relay_of = -1 if layer.relay_of is None else layer.relay_of[channel]
            assert is_own == (relay_of == -1)
            if not is_own:
                assert before[relay_of][:2] == sample[:2]


def test_names_are_printable_and_short() -> None:
    model = Of(lambda m, x: m.head(torch.cat([getattr(m, name)(x).relu() for name in NAMES], 1).flatten(1)))
    for name in NAMES:
        model.add_module(name, same(2))
    model.add_module("head", LINEAR(3))
    assert_names(to_relu_network(prepared(model, (2, 8, 8)), (2, 8, 8)))


NAMES = ["a\n", "b" * 500, "c" * 500]
