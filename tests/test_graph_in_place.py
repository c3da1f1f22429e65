"""Tensors changed in place, under all their names."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from support.lowering import Case, assert_equals_module
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional


class InPlace(nn.Module):
    """Changes a tensor in place and goes on with the tensor, not with what the function returned."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.fc, self.change = nn.Conv2d(1, 4, 3), nn.Linear(144, 3), change

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        skipped = y
        self.change(y)
        y = functional.relu(y + skipped)
        scores: Tensor = self.fc(y.flatten(1))
        return scores


@pytest.mark.parametrize(
    "change",
    [
        lambda y: functional.relu(y, inplace=True),
        lambda y: functional.relu(input=y, inplace=True),
        lambda y: y.relu_(),
        lambda y: y.clamp_(min=0),
        lambda y: y.add_(0.5),
        lambda y: operator.imul(y, 2.0),
        lambda y: functional.relu(y, inplace=True).add_(0.5),
        lambda y: y.contiguous().relu_(),
        nn.ReLU(inplace=True),
    ],
)
def test_a_tensor_changed_in_place_is_read_as_changed(change: Callable[[Tensor], object]) -> None:
    assert_equals_module(Case(lambda: InPlace(change), (1, 8, 8)))


@pytest.mark.parametrize(
    "named",
    [
        nn.Identity(),
        nn.Dropout(),
        lambda y: functional.dropout(y, training=False),
        lambda y: y.type_as(y),
        lambda y: y.detach(),
        lambda y: y.clone(),
    ],
)
def test_a_tensor_changed_in_place_is_changed_under_its_other_names(named: Callable[[Tensor], Tensor]) -> None:
    """Only a clone stays as it was."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.conv(x)
        other = named(y)
        m.relu(y)
        return m.fc(other.flatten(1))

    model = Of(forward, conv=nn.Conv2d(1, 4, 3), relu=nn.ReLU(inplace=True), fc=nn.Linear(144, 3))
    if isinstance(named, nn.Module):
        model.add_module("named", named)
    assert_equals_module(Case(lambda: model, (1, 8, 8)))
