"""Tensors changed in place, under all their names."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.lowering import Case, assert_equals_module
from support.modules import Of
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower import to_relu_network


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
        lambda y: y.data,
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


def halves(m: nn.Module, x: Tensor) -> Tensor:
    first, second = m.conv(x).chunk(2, 1)
    return m.fc(torch.cat([functional.relu(first, inplace=True), second], 1).flatten(1))


def both_slices(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    first, second = y[:, :2], y[:, 2:]
    first.relu_()
    second.relu_()
    return m.fc(torch.cat([first, second], 1).flatten(1))


def flat(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(m.conv(x).flatten(1).relu_())


def beside_a_copy(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    copy = y[:, :2].clone()
    y.relu_()
    return m.fc(torch.cat([copy, y[:, :2]], 1).flatten(1))


def beside_a_contiguous_half(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    half = y.chunk(2, 1)[1]
    y = torch.cat([functional.relu(half.contiguous(), inplace=True), half], 1)
    return m.fc(y.flatten(1))


@pytest.mark.parametrize("forward", [halves, both_slices, flat, beside_a_copy, beside_a_contiguous_half])
def test_a_view_changed_in_place_is_read_as_changed(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert_equals_module(Case(lambda: Of(forward, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(144, 3)), (1, 8, 8)))


def test_a_sum_that_begins_with_zeros_is_read() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scores = torch.zeros(len(x), 3, dtype=x.dtype)
        for each in (m.first, m.second):
            scores += each(x.flatten(1))
        return scores

    assert_equals_module(Case(lambda: Of(forward, first=nn.Linear(64, 3), second=nn.Linear(64, 3)), (1, 8, 8)))


def test_a_constant_that_takes_numbers_of_the_image_changes_under_all_its_names() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scores = torch.zeros(len(x), 3, dtype=x.dtype)
        same = scores
        scores += m.fc(x.flatten(1))
        return same + scores

    assert_equals_module(Case(lambda: Of(forward, fc=nn.Linear(64, 3)), (1, 8, 8)))


@pytest.mark.parametrize(
    "named",
    [
        lambda total: total,
        lambda total: total.contiguous(),
        lambda total: total.type_as(total),
        nn.Identity(),
        lambda total: total.clone(),
    ],
)
def test_a_constant_may_take_numbers_of_the_image_again(named: Callable[[Tensor], Tensor]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        total = torch.ones_like(y := m.conv(x))
        before = y * total
        total.add_(y)
        m.relu(total)
        other = named(total)
        other.mul_(2)
        total.add_(y)
        return m.fc((total + 3 * other + before).flatten(1))

    relu = nn.ReLU(inplace=True)
    assert_equals_module(Case(lambda: Of(forward, conv=nn.Conv2d(1, 4, 3), relu=relu, fc=nn.Linear(144, 3)), (1, 8, 8)))


@pytest.mark.parametrize("changed", [lambda y: y.relu_(), lambda y: operator.iadd(torch.zeros_like(y), y)])
def test_a_sparse_constant_stays_what_it_is_beside_a_change(changed: Callable[[Tensor], Tensor]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight = m.conv.weight.flatten(1).relu().to_sparse()
        y = changed(m.conv(x))
        return m.fc((y + functional.conv2d(x, weight.to_dense().reshape(4, 1, 3, 3))).flatten(1))

    assert_equals_module(Case(lambda: Of(forward, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(144, 3)), (1, 8, 8)))


def test_a_constant_cast_to_the_type_of_the_image_stays_a_constant() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc((x - m.mean.type_as(x) + m.mean.to(x)).flatten(1))

    model = Of(forward, fc=nn.Linear(64, 3))
    model.register_buffer("mean", torch.tensor(0.25))
    assert_equals_module(Case(lambda: model, (1, 8, 8)))


def scaled(change: Callable[[Tensor], object], *, is_parameter: bool) -> nn.Module:
    """A convolution, times a constant that ``change`` changes in place."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        constant = m.constant.clone()
        change(constant)
        return m.fc((m.conv(x) * constant).relu().flatten(1))

    model = Of(forward, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(144, 3))
    constant = torch.linspace(0.5, 2, 4).reshape(4, 1, 1)
    if is_parameter:
        model.constant = nn.Parameter(constant)
    else:
        model.register_buffer("constant", constant)
    return model


@pytest.mark.parametrize("is_parameter", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.mul_(2),
        lambda c: c.view(-1).mul_(2),
        lambda c: torch.flatten(c).mul_(2),
        lambda c: c[:2].mul_(2),
        lambda c: operator.imul(c, 2),
        lambda c: torch.mul(c, 2, out=c),
        lambda c: functional.relu(c[1:] - 1, inplace=True),
    ],
)
def test_a_constant_changed_through_a_view_is_read_as_changed(
    change: Callable[[Tensor], object], is_parameter: bool
) -> None:
    assert_equals_module(Case(lambda: scaled(change, is_parameter=is_parameter), (1, 8, 8)))


def used_before(m: nn.Module, x: Tensor) -> Tensor:
    scale = m.conv.bias * 2
    y = m.conv(x) * scale.reshape(4, 1, 1)
    scale.add_(1)
    return m.fc((y * scale.reshape(4, 1, 1)).flatten(1))


def constant_of_the_forward(m: nn.Module, x: Tensor) -> Tensor:
    ones = torch.ones(4, 1, 1)
    y = m.conv(x) * ones
    ones.add_(1)
    return m.fc((y * ones).flatten(1))


def changed_by_numpy(m: nn.Module, x: Tensor) -> Tensor:
    scale = m.conv.bias.detach().clone()
    y = m.conv(x) * scale.reshape(4, 1, 1)
    scale.numpy()[:] = 7
    return m.fc(y.flatten(1))


def index_of_numpy(m: nn.Module, x: Tensor) -> Tensor:
    index = np.array([1, 0, 2, 3])
    y = m.conv(x)[:, torch.from_numpy(index)]
    index[:] = 0
    return m.fc(y.flatten(1))


def view_that_takes_numbers_of_the_image(m: nn.Module, x: Tensor) -> Tensor:
    scores = torch.zeros(len(x), 3, dtype=x.dtype)
    first = scores[:, :1]
    first.add_(m.fc(m.conv(x).flatten(1))[:, :1])
    return m.fc(m.conv(x).flatten(1)) + scores


@pytest.mark.parametrize(
    ("forward", "where"),
    [
        (used_before, "mul_1 (after conv)"),
        (constant_of_the_forward, "mul (after conv)"),
        (changed_by_numpy, "mul (after conv)"),
        (index_of_numpy, "getitem (after conv)"),
        (view_that_takes_numbers_of_the_image, "add (after fc)"),
    ],
)
def test_a_constant_that_changes_while_it_is_used_is_refused(
    forward: Callable[[nn.Module, Tensor], Tensor], where: str
) -> None:
    model = Of(forward, conv=nn.Conv2d(1, 4, 3), fc=nn.Linear(144, 3)).eval()
    with pytest.raises(UnsupportedModelError) as caught:
        to_relu_network(model, (1, 8, 8))
    assert caught.value.where == where
    assert "changed in place" in caught.value.found


def doubled_at_each_call(m: nn.Module, x: Tensor) -> Tensor:
    m.state.view(-1).mul_(2)
    return m.fc(x.flatten(1)) * m.state


def running_mean(m: nn.Module, x: Tensor) -> Tensor:
    m.state = (m.state + x.mean()) / 2
    return m.fc(x.flatten(1)) - m.state


@pytest.mark.parametrize("forward", [doubled_at_each_call, running_mean])
def test_a_model_that_changes_its_next_call_is_refused(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Of(forward, fc=nn.Linear(64, 3))
    model.register_buffer("state", torch.ones(1))
    with pytest.raises(UnsupportedModelError) as caught:
        to_relu_network(model.eval(), (1, 8, 8))
    assert caught.value.where == "Of"
    assert "changes state" in caught.value.found
    assert "self.state.clone()" in caught.value.hint


def test_a_model_may_record_what_it_computes() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scores = m.fc(x.flatten(1))
        m.calls.add_(1)
        m.largest.copy_(scores.amax())
        return scores

    model = Of(forward, fc=nn.Linear(64, 3))
    model.register_buffer("calls", torch.zeros(1))
    model.register_buffer("largest", torch.zeros(()))
    assert_equals_module(Case(lambda: model, (1, 8, 8)))


def test_tensors_without_a_count_of_their_changes_are_read() -> None:
    """Those made in inference mode."""
    with torch.inference_mode():
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network = to_relu_network(nn.Sequential(layers, nn.Linear(144, 3)).eval(), (1, 8, 8))
    assert network.shapes == ((4, 6, 6), (3,))


def base_of_a_slice(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    y[:, :2].relu_()
    return m.fc(y.flatten(1))


def base_of_a_flat_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.flatten(1).relu_()
    return m.fc(torch.flatten(y, 1))


def view_of_a_base(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    view = y.flatten(1)
    y.relu_()
    return m.fc(view)


def overlapping_slice(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    upper = y[:, 1:]
    y[:, :2].relu_()
    return m.fc(torch.cat([y[:, :1].clone(), upper], 1).flatten(1))


def same_part_again(m: nn.Module, x: Tensor) -> Tensor:
    parts = m.conv(x).chunk(2, 1)
    parts[0].relu_()
    return m.fc(torch.cat([parts[0], parts[1]], 1).flatten(1))


def another_shape(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.view_as(y).relu_()
    return m.fc(y.flatten(1))


def constant_filled_through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    filled = torch.zeros_like(y)
    filled[:, :2].copy_(y[:, 2:])
    return m.fc((filled * 2 + y).flatten(1))


def view_that_was_used_before(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    half = y[:, :2]
    before = m.other(half)
    y.relu_()
    return m.fc(torch.cat([before, half], 1).flatten(1))


def view_changed_before_its_base(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    view = y.flatten(1)
    view.relu_()
    y.add_(0.5)
    return m.fc(view)


@pytest.mark.parametrize(
    "forward",
    [
        base_of_a_slice,
        base_of_a_flat_view,
        view_of_a_base,
        overlapping_slice,
        same_part_again,
        another_shape,
        constant_filled_through_a_view,
        view_that_was_used_before,
        view_changed_before_its_base,
    ],
)
def test_what_was_changed_through_another_view_is_refused(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Of(forward, conv=nn.Conv2d(1, 4, 3), other=nn.Conv2d(2, 2, 1), fc=nn.Linear(144, 3))
    with pytest.raises(UnsupportedModelError, match="changed in place through a view"):
        to_relu_network(model.eval(), (1, 8, 8))
