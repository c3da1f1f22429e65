"""Max pooling becomes pairs of ReLUs and relays, by columns and by rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from support.lowering import (
    CONV,
    LINEAR,
    NORM,
    Case,
    assert_equals_module,
    bare,
    groups_of,
    layers_of,
    lowered_case,
    of,
    same,
    stack,
)
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import UnsupportedModelError


def pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2)


def _largest_of_rows_and_columns(m: nn.Module, x: Tensor) -> Tensor:
    of_rows, _indices = x.max(dim=3)
    of_maps, _indices = of_rows.max(dim=2)
    return of_maps


def pyramid(*sizes: int, shape: tuple[int, ...] = (2, 8, 8)) -> Case:
    """The maxima of a map, pooled to each of ``sizes``, as one vector."""
    return of(
        lambda m, x: torch.cat([functional.adaptive_max_pool2d(m.conv(x), size).flatten(1) for size in sizes], 1),
        shape,
        conv=CONV(3, 3, padding=1),
    )


def beside(*branches: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module) -> Case:
    """``branches`` of one map, as one vector."""
    return of(lambda m, x: torch.cat([branch(m, x).flatten(1) for branch in branches], 1), **modules)


def _pooled_by_4(m: nn.Module, x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 4)


def _pooled_with_indices(m: nn.Module, x: Tensor) -> Tensor:
    of_maps, _indices = m.pool(m.conv(x))
    return functional.adaptive_max_pool2d(of_maps, 1, return_indices=True)[0]


CASES = {
    "over groups of channels": of(
        lambda m, x: m.b(m.a(x).view(len(x), 3, 2, 8, 8).max(2)[0]), a=CONV(6, 1), b=CONV(3, 3)
    ),
    "over groups of channels, then a mean": of(
        lambda m, x: m.a(x).view(len(x), 2, 6, 8, 8).amax(1).unflatten(1, (-1, 3)).mean(dim=-3).relu(), a=CONV(12, 1)
    ),
    "indices that are not used": of(
        _pooled_with_indices, (2, 9, 9), conv=CONV(3, 2), pool=nn.MaxPool2d(2, 1, return_indices=True)
    ),
    "a function with indices that are not used": of(
        lambda m, x: functional.max_pool2d(m.conv(x), 3, 2, 0, 1, False, True)[0], (2, 9, 9), conv=CONV(3, 2)
    ),
    **{
        f"kernel {kernel}, stride {stride}": stack(
            nn.MaxPool2d(kernel, stride), CONV(5, 2), nn.ReLU(), shape=(2, 9, 10)
        )
        for kernel, stride in itertools.product([2, 3, (3, 2)], [1, 2, 3])
    },
    "kernel 4": stack(nn.MaxPool2d(4, 4), CONV(5, 1), nn.ReLU()),
    "kernel 4, ceil_mode": stack(nn.MaxPool2d(4, ceil_mode=True), CONV(5, 2), nn.ReLU(), shape=(2, 9, 11)),
    "kernel 12 x 6 of signed values": stack(CONV(5, 3), nn.MaxPool2d((12, 6)), shape=(2, 14, 15)),
    "maximum and mean": of(lambda m, x: torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)),
    "padding": stack(nn.MaxPool2d(3, 2, padding=1), CONV(5, 3, padding=1), nn.ReLU()),
    "dilation": stack(nn.MaxPool2d(2, 1, dilation=2), CONV(5, 2), nn.ReLU()),
    "ceil_mode": stack(nn.MaxPool2d(3, 2, ceil_mode=True), CONV(5, 2), nn.ReLU()),
    "ceil_mode and padding": stack(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), CONV(5, 2, padding=1), nn.ReLU()),
    "two": stack(nn.MaxPool2d(2), CONV(5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "a last row dropped, then a larger map": stack(nn.MaxPool2d(2), CONV(5, 3, padding=2), nn.ReLU(), shape=(2, 9, 9)),
    "in front of the ReLU": stack(CONV(5, 3), nn.MaxPool2d(3, 2, padding=1), nn.ReLU()),
    "two in front of the ReLU": stack(CONV(5, 3), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
    "in front of batch norm and ReLU": Case(
        lambda: nn.Sequential(
            CONV(5, 3), nn.MaxPool2d(2, padding=1), nn.BatchNorm2d(5, affine=False), nn.ReLU(), nn.Flatten(), LINEAR(3)
        )
    ),
    "in front of batch norm of any gain and ReLU": stack(CONV(5, 3), nn.MaxPool2d(2), NORM(), nn.ReLU()),
    "ceil_mode within the map": stack(NORM(), nn.MaxPool2d(2, ceil_mode=True), CONV(4, 2), nn.ReLU()),
    "of signed values": stack(CONV(5, 3), nn.MaxPool2d(2), CONV(4, 2), nn.ReLU()),
    "after batch norm": stack(NORM(), nn.MaxPool2d(2), CONV(4, 2), nn.ReLU()),
    "of a sum": of(lambda m, x: pool(x + m.conv(x).relu()), conv=CONV(4, 3, padding=1)),
    "of a concatenation": of(
        lambda m, x: m.last(pool(torch.cat([x, m.conv(x).relu()], 1))).relu(),
        conv=CONV(4, 3, padding=1),
        last=CONV(3, 3, padding=1),
    ),
    "of the image": stack(nn.MaxPool2d(3, 2, padding=1), CONV(5, 3), nn.ReLU(), stem=False, shape=(2, 12, 12)),
    **{
        f"{pool} of signed values": stack(CONV(5, 3), pool, CONV(4, 2), nn.ReLU(), shape=shape)
        for pool in (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(5, 1, 2))
        for shape in ((2, 9, 10), (2, 8, 11))
    },
    "padding after LeakyReLU": stack(CONV(5, 3), nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1), CONV(4, 2), nn.ReLU()),
    "padding after a clamp": stack(CONV(5, 3), nn.MaxPool2d(2, 2, 1), nn.Hardtanh(-0.1, 0.2), CONV(4, 2), nn.ReLU()),
    "padding of signed values and a skip": of(
        lambda m, x: m.last((y := functional.max_pool2d(m.one(x), 3, 2, 1)) + m.two(y.relu())).relu(),
        one=same(3),
        two=same(3),
        last=CONV(4, 2),
    ),
    "padding of signed pixels": bare(
        lambda m, x: m.head(functional.max_pool2d((x - 1.3) / torch.tensor([[[0.2]], [[-0.1]]]), 5, 1, 2).flatten(1)),
        (2, 5, 6),
        head=LINEAR(3),
    ),
    **{
        f"ceil_mode, {relu}, {kernel} x {kernel} of a map of {size} x {size}": stack(
            CONV(5, 3, padding=1), relu, nn.MaxPool2d(kernel, kernel, ceil_mode=True), shape=(2, size, size)
        )
        for relu, (kernel, size) in itertools.product((nn.ReLU(), nn.Identity()), ((4, 2), (5, 1), (5, 3), (7, 3)))
    },
    "windows of which all but one pixel lie beyond the border": stack(
        CONV(5, 3, padding=1), nn.MaxPool2d((2, 1), (2, 4), (1, 0), (2, 1), ceil_mode=True), shape=(2, 2, 3)
    ),
    "adaptive": stack(nn.AdaptiveMaxPool2d((4, 2)), CONV(5, 2), nn.ReLU()),
    "adaptive, overlapping": stack(nn.AdaptiveMaxPool2d((4, 2)), CONV(5, 2), nn.ReLU(), shape=(2, 9, 9)),
    "whole maps": of(lambda m, x: x.amax((2, 3))),
    "whole maps by max, a method": of(lambda m, x: x.flatten(2).max(-1).values),
    "whole maps by max, a function": of(lambda m, x: torch.max(x.flatten(2), 2, keepdim=True)[0].flatten(1)),
    "whole maps by max, its indices unused": of(_largest_of_rows_and_columns),
    "of two tensors": of(lambda m, x: m.two(torch.maximum(m.one(x), x)), one=CONV(4, 3, padding=1), two=CONV(3, 3)),
    "of two halves (maxout)": of(
        lambda m, x: m.two(torch.max(*m.one(x).chunk(2, 1))).relu(), one=CONV(6, 3, padding=1), two=CONV(4, 3)
    ),
    "the smaller of two": of(lambda m, x: torch.min(m.one(x), x).minimum(m.two(x)), one=same(4), two=same(4)),
    "the larger of two vectors": of(
        lambda m, x: m.one(y := x.flatten(1)).max(m.two(y)).relu(), one=LINEAR(5), two=LINEAR(5)
    ),
    "beside windows of one row": beside(_pooled_by_4, lambda m, x: functional.max_pool2d(x, (1, 4))),
    "beside a convolution of one row": beside(
        _pooled_by_4, lambda m, x: m.conv(x).relu(), conv=CONV(2, (1, 4), (1, 4))
    ),
    "whole maps beside whole rows": beside(lambda m, x: x.amax((2, 3)), lambda m, x: x.amax(3)),
    "beside itself": of(
        lambda m, x: torch.cat([m.conv(x).relu(), m.pool(x)], 1),
        conv=CONV(5, 3, 2, padding=1),
        pool=nn.MaxPool2d(3, 2, padding=1),
    ),
    "beside a skip of the same map": of(
        lambda m, x: m.conv(functional.max_pool2d(x, 3, 1, 1) + x).relu(), conv=CONV(4, 3)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        # Of rows b and relu(a - b) for each pair, of columns the same of both; their sum is taken by the next kernel.
        ("kernel 2, stride 2", 1, "2x9x10-4c3-4c1x2+4r-4c2x1+8r-5c2-3"),
        # All rounds along rows, then all along columns: there are 2 pairs in the first round, 1 in the second.
        ("kernel 4", 1, "2x8x8-4c3-8c1x4+8r-4c1+8r-8c4x1+24r-4c1+16r-5c1-3"),
        # The last kernel reads every second pixel, which relays carry past both layers of the maximum.
        ("a last row dropped, then a larger map", 1, "2x9x9-4c3-4c1x2+4r-4c2x1+8r-5c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected


def test_neurons_that_compare_with_a_pixel_beyond_the_border_are_silent() -> None:
    """The least number of -x is -1, by which x is lifted: only where one pixel is missing a bias remains, of -1."""
    network = lowered_case(
        bare(lambda m, x: m.head(functional.max_pool2d(-x, 5, 1, 2).flatten(1)), (1, 6, 6), head=LINEAR(3))
    )
    biases = [layer.synapse.bias for layer in network.layers[:-1] if layer.synapse.bias is not None]
    assert len(network.layers) == 7
    found = sorted({number for bias in biases for number in bias.ravel().tolist()})
    # A bound has a margin for rounding errors.
    assert found == [pytest.approx(-1, rel=2e-6), 0]


@pytest.mark.parametrize(
    ("function", "modules", "depth"),
    [
        (lambda m, x: functional.max_pool2d(x, 2) + m.a(functional.avg_pool2d(x, 2)).relu(), {"a": same(4)}, 4),
        (lambda m, x: torch.cat([x.amax((2, 3)), x.mean(2).flatten(1)], 1), {}, 8),
        (lambda m, x: torch.cat([functional.max_pool2d(x, 3, 1).flatten(1), x.mean((2, 3))], 1), {}, 6),
    ],
)
def test_a_mean_of_other_windows_or_for_other_layers_takes_no_layer(
    function: Callable[[nn.Module, Tensor], Tensor], modules: dict[str, nn.Module], depth: int
) -> None:
    assert len(lowered_case(of(function, **modules)).layers) == depth


def test_relays_carry_the_mean_beside_a_maximum() -> None:
    """From one pixel on, each layer has 4 more channels for the means of 4 maps, not 256 for their pixels."""
    with_mean, alone = (
        lowered_case(CASES["maximum and mean"]),
        lowered_case(stack(nn.AdaptiveMaxPool2d(1))),
    )
    sizes = [math.prod(shape) for network in (with_mean, alone) for shape in network.shapes if shape[1:] == (1, 1)]
    assert sizes == [84, 52, 32, 80, 48, 28]


@pytest.mark.parametrize(
    ("name", "layer", "groups"),
    [
        ("in front of batch norm and ReLU", 1, 5),
        # Of each map, differences beside relays: as many in each group.
        ("kernel 3, stride 2", 2, 4),
        ("adaptive, overlapping", 5, 4),
    ],
)
def test_groups_are_kept_beside_relays(name: str, layer: int, groups: int) -> None:
    assert groups_of(CASES[name], layer) == groups


def test_branches_of_other_strides_are_refused_by_the_names_of_both() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        lowered_case(pyramid(2, 3, shape=(2, 6, 6)))
    assert raised.value.where == "adaptive_max_pool2d (after conv) (rows)"
    assert "by 1 x 3, another branch (adaptive_max_pool2d_1 (after conv) (rows)) by 1 x 2" in raised.value.found
