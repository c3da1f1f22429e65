"""Heads of networks, signals, and names of layers; ``test_lower_<pass>.py`` has the passes of `lowering`."""

from __future__ import annotations

import pytest
import torch
from support.lowering import CONV, LINEAR, Case, assert_equals_module, assert_names, bare, layers_of, same
from support.modules import Of, outputs, prepared
from torch import nn

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Shape
from loihi_convert.lowering import to_relu_network


def signals(*modules: nn.Module, shape: Shape = (2, 12)) -> Case:
    """The same as `stack` for signals."""
    return Case(
        lambda: nn.Sequential(nn.LazyConv1d(4, 3, padding=1), nn.ReLU(), *modules, nn.Flatten(), LINEAR(3)), shape
    )


HEADS = {
    "a convolution": Case(lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 8), nn.Flatten())),
    "global average": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), CONV(3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "global average of a padded convolution": Case(
        lambda: nn.Sequential(same(4), nn.ReLU(), same(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "global average after a ReLU": Case(
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
    "advantages and a value (dueling)": bare(
        lambda m, x: m.v(y := m.stem(x).relu().flatten(1)) + (a := m.a(y)) - a.mean(1, keepdim=True),
        stem=same(3),
        v=LINEAR(1),
        a=LINEAR(4),
    ),
    "sum and mean of a vector": bare(
        lambda m, x: torch.cat([m.a(y := m.stem(x).relu().flatten(1)), y.mean(-1, keepdim=True), y.sum(1)[:, None]], 1),
        stem=same(3),
        a=LINEAR(4),
    ),
    **{
        f"ensemble, stacked along axis {axis}": bare(
            lambda m, x, axis=axis: torch.stack(
                [m.a2(m.a(x).relu().flatten(1)), m.b2(m.b(x).relu().flatten(1))], axis
            ).mean(axis),
            a=same(3),
            b=same(2),
            a2=LINEAR(3),
            b2=LINEAR(3),
        )
        for axis in (0, 1, -1)
    },
    **{
        f"maximum or minimum of a stack along axis {axis}": bare(
            lambda m, x, axis=axis, largest=largest: m.c(largest(torch.stack([m.a(x), m.b(x)], axis), axis).flatten(1)),
            a=same(3),
            b=CONV(3, 1),
            c=LINEAR(4),
        )
        for axis, largest in ((0, torch.amax), (1, torch.amin), (2, lambda stacked, axis: stacked.max(axis).values))
    },
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

CASES = {
    f"{group}: {name}": case
    for group, cases in (("heads", HEADS), ("signals", SIGNALS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


def test_layers() -> None:
    assert layers_of(HEADS["a convolution"]) == "2x8x8-4c3-3"
    # One linear map of the same vector.
    assert layers_of(HEADS["advantages and a value (dueling)"]) == "2x8x8-3c3-4"


def test_a_stack_that_is_not_averaged_at_once() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack([y := m.a(x).flatten(1), m.b(x).flatten(1)])
        y += 1
        return stacked.mean(0)

    assert_equals_module(bare(forward, a=CONV(3, 8), b=CONV(3, 8)))


def test_a_layer_of_zeros() -> None:
    model = prepared(
        Of(
            lambda m, x: m.head(torch.cat([m.a(y := m.stem(x).relu()).relu(), m.b(y).relu()], 1).flatten(1)),
            stem=CONV(3, 3),
            a=CONV(2, 3),
            b=CONV(2, 3),
            head=LINEAR(3),
        ),
        (2, 8, 8),
    )
    for name in ("a", "b"):
        model.get_parameter(f"{name}.weight").data.zero_()
    images = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(outputs(to_relu_network(model, (2, 8, 8)), images), model(images))


@pytest.mark.parametrize(
    "between",
    [nn.Sequential(), nn.MaxPool2d(2, 1, 1), nn.LeakyReLU(0.1), nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.PReLU())],
)
def test_multiplications_are_those_of_the_cnn(between: nn.Module) -> None:
    # Max pooling and LeakyReLU become further neurons; the CNN multiplies in its own layers alone.
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, groups=2)
    with torch.no_grad():
        second.weight[0] = 0
    model = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), between, second, nn.ReLU(), nn.Flatten(), LINEAR(3))
    found = to_relu_network(prepared(model, (2, 8, 8)), (2, 8, 8))
    side = 4 if isinstance(between, nn.MaxPool2d) else 3
    # 22 of 3 x 8 taps along an axis lie inside the map; five channels of 2 x 9 weights are left.
    assert found.multiply_accumulates == 2 * 4 * 22**2 + 5 * 2 * 9 * side**2 + 3 * 6 * side**2


def test_names_are_printable_and_short() -> None:
    model = Of(lambda m, x: m.head(torch.cat([getattr(m, name)(x).relu() for name in NAMES], 1).flatten(1)))
    for name in NAMES:
        model.add_module(name, same(2))
    model.add_module("head", LINEAR(3))
    assert_names(to_relu_network(prepared(model, (2, 8, 8)), (2, 8, 8)))


NAMES = ["a\n", "b" * 500, "c" * 500]


@pytest.mark.parametrize(("count", "name"), [(1, "a"), (3, "a + b + c"), (4, "a + b + 2 more"), (5, "a + b + 3 more")])
def test_a_layer_is_named_after_its_first_populations(count: int, name: str) -> None:
    names = "abcde"[:count]
    model = Of(lambda m, x: m.head(torch.cat([getattr(m, one)(x).relu() for one in names], 1).flatten(1)))
    for one in names:
        model.add_module(one, same(2))
    model.add_module("head", LINEAR(3))
    assert to_relu_network(prepared(model, (2, 8, 8)), (2, 8, 8)).layers[0].name == name


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_module_without_weights_is_refused_and_stays_lazy() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(UnsupportedModelError, match="lazy modules"):
        to_relu_network(model, (1, 6, 6))
    assert model[0].has_uninitialized_params()
