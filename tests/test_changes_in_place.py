"""Tensors that are changed in place, under all their names, and hooks: PyTorch tells what the model computes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import Case, assert_equals_module
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.lowering import to_relu_network

SHAPE = (1, 8, 8)


def cnn(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    model = Of(forward, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(144, 3), relu=nn.ReLU(inplace=True))
    model.register_buffer("constant", torch.linspace(0.5, 2, 4).reshape(4, 1, 1))
    model.register_buffer("largest", torch.zeros(()))
    return model


def on_maps(change: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Between the convolution and the dense layer; the maps are also used as they are afterwards."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        return m.fc((change(y) + 0.5 * functional.relu(y)).flatten(1))

    return forward


def both_slices(y: Tensor) -> Tensor:
    first, second = y[:, :2], y[:, 2:]
    first.relu_()
    second.mul_(2)
    return torch.cat([second, first], 1)


def beside_a_copy(y: Tensor) -> Tensor:
    copy = y.clone()
    y.relu_()
    return copy


def overlapping_slices(y: Tensor) -> Tensor:
    upper = y[:, 1:]
    y[:, :2].relu_()
    return torch.cat([y[:, :1], upper], 1)


def view_changed_before_its_base(y: Tensor) -> Tensor:
    view = y.flatten(1)
    view.relu_()
    y.add_(0.5)
    return view.view_as(y)


def sum_that_begins_with_zeros(y: Tensor) -> Tensor:
    total = same = torch.zeros_like(y)
    total += y
    total.add_(y.relu())
    return same


def constant_filled_through_a_view(y: Tensor) -> Tensor:
    filled = torch.zeros_like(y)
    filled[:, :2].copy_(y[:, 2:])
    return filled * 2


def constant_that_is_used_before_and_after(y: Tensor) -> Tensor:
    ones = torch.ones(4, 1, 1)
    before = y * ones
    ones.add_(1)
    return before + y * ones


def index_of_numpy(y: Tensor) -> Tensor:
    return y[:, torch.from_numpy(np.array([1, 0, 2, 3]))]


@pytest.mark.parametrize(
    "change",
    [
        lambda y: functional.relu(y, inplace=True),
        lambda y: y.clamp_(min=0).add_(0.5),
        lambda y: operator.imul(y, 2.0),
        lambda y: y.detach().relu_(),
        lambda y: y.data.relu_(),
        lambda y: y.contiguous().relu_(),
        lambda y: y.type_as(y).relu_(),
        lambda y: y.flatten(1).relu_().view_as(y),
        both_slices,
        beside_a_copy,
        overlapping_slices,
        view_changed_before_its_base,
        sum_that_begins_with_zeros,
        constant_filled_through_a_view,
        constant_that_is_used_before_and_after,
        index_of_numpy,
    ],
)
def test_maps_changed_in_place_are_read_as_changed(change: Callable[[Tensor], Tensor]) -> None:
    assert_equals_module(Case(lambda: cnn(on_maps(change)), SHAPE))


@pytest.mark.parametrize("is_parameter", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.view(-1).mul_(2),
        lambda c: torch.flatten(c).mul_(2),
        lambda c: c[:2].mul_(2),
        lambda c: torch.mul(c, 2, out=c),
        lambda c: functional.relu(c[1:] - 1, inplace=True),
    ],
)
def test_a_constant_is_read_as_changed(change: Callable[[Tensor], object], is_parameter: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        constant = (m.conv.bias.reshape(4, 1, 1) if is_parameter else m.constant).clone()
        change(constant)
        return m.fc((m.conv(x) * constant.abs()).relu().flatten(1))

    assert_equals_module(Case(lambda: cnn(forward), SHAPE))


def recording(m: Any, x: Tensor) -> Tensor:
    scores = m.fc(m.conv(x).flatten(1))
    m.largest.copy_(scores.amax())
    return scores


def test_a_model_may_record_what_it_computes() -> None:
    assert_equals_module(Case(lambda: cnn(recording), SHAPE))


def doubled_at_each_call(m: Any, x: Tensor) -> Tensor:
    m.constant.view(-1).mul_(2)
    return m.fc((m.conv(x) * m.constant).flatten(1))


def test_a_model_that_changes_its_next_call_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(cnn(doubled_at_each_call).eval(), SHAPE)
    assert raised.value.where == "Of"
    assert "from call to call" in raised.value.found


def test_tensors_of_inference_mode_are_read() -> None:
    with torch.inference_mode():
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network = to_relu_network(nn.Sequential(layers, nn.Linear(144, 3)).eval(), SHAPE)
    assert network.shapes == ((4, 6, 6), (3,))


@pytest.mark.parametrize("layer", [None, -1, 0, 2, "forward"])
def test_hooks_count(layer: int | str | None) -> None:
    """Those that return nothing, one that doubles the input of a layer or of the whole, and a forward of its own."""

    def hooked() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
        if layer == "forward":
            model[1].forward = lambda x: x + 1  # type: ignore[method-assign]
        elif isinstance(layer, int):
            (model[layer] if layer >= 0 else model).register_forward_pre_hook(lambda _, given: (2 * given[0],))
        return model

    assert_equals_module(Case(hooked, SHAPE))
