"""`check` on a CNN lists every part that cannot be converted, in one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.modules import Of, outputs, prepared
from torch import Tensor, nn

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.lowering import obstacles, operations, to_relu_network
from loihi_convert.pipeline.checking import CAN_SPIKE, LoadedFile, check
from loihi_convert.report.conversion_tables import obstacle_table


class Gated(nn.Module):
    """Two gates, a GELU, and a padded max pooling of negative values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.gelu, self.pool, self.fc = nn.GELU(), nn.MaxPool2d(3, 1, 1), nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.conv1(x))
        x = x * self.conv2(x).sigmoid()
        x = x * self.conv3(x).sigmoid()
        return self.fc(self.pool(self.conv2(x)).flatten(1))


def test_every_place_is_found() -> None:
    found = obstacles(Gated(), (1, 6, 6))
    assert [error.where.split(" ")[0] for error in found] == ["gelu", "mul", "mul_1"]
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(Gated(), (1, 6, 6))
    assert raised.value.where == "gelu"
    assert [error.where for error in raised.value.others] == [error.where for error in found[1:]]
    assert "2 more parts" in raised.value.more


@pytest.mark.parametrize(
    ("join", "others"),
    [
        (lambda y: 100 * y.sigmoid(), ()),
        (lambda y: torch.cat([y[:, :1], y[:, 1:].softmax(1)], 1), ()),
        (lambda y: torch.cat([y[:, :1], y[:, 1:].softmax(1)], 1), (nn.GELU(),)),
        (lambda y: torch.stack([y[:, 0], y[:, 1].sigmoid()], 1), ()),
        (lambda y: torch.stack([y.sigmoid()[:, 0], y[:, 1]], 1)[:, [1, 0]], ()),
    ],
)
def test_an_activation_of_some_outputs_is_left_out(
    join: Callable[[Tensor], Tensor], others: tuple[nn.Module, ...]
) -> None:
    model = Of(lambda m, x: join(m.fc(x.flatten(1))), fc=nn.Sequential(nn.Linear(36, 3), *others))
    *_, error = found = obstacles(model.eval(), (1, 6, 6))
    assert len(found) == 1 + len(others)
    assert error.found.endswith("is before other layers")
    assert "at the end, of all outputs" in error.expected
    assert "apply it yourself" in error.hint


def logs_a_norm(m: nn.Module, x: Tensor) -> Tensor:
    y = m.fc(x.flatten(1))
    m.norm = y.norm()
    m.share = y / m.norm
    return y


def prints_a_mean(m: nn.Module, x: Tensor) -> Tensor:
    print(x.mean())
    return m.fc(x.flatten(1))


def checks_a_range(m: nn.Module, x: Tensor) -> Tensor:
    torch._assert(x.min() >= 0, "pixels are negative")
    return m.fc(x.flatten(1))


@pytest.mark.parametrize("forward", [logs_a_norm, prints_a_mean, checks_a_range])
def test_what_the_output_does_not_need_is_no_obstacle(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = prepared(Of(forward, fc=nn.Linear(36, 2)), (1, 6, 6))
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    assert obstacles(model, (1, 6, 6)) == ()
    torch.testing.assert_close(outputs(to_relu_network(model, (1, 6, 6)), images), model(images))


def divides_in_place(m: nn.Module, y: Tensor) -> Tensor:
    y.div_(y.norm())
    return y


def blackens_one_image(m: nn.Module, y: Tensor) -> Tensor:
    y[0].zero_()
    return y


def writes_to_an_argument(m: nn.Module, y: Tensor) -> Tensor:
    found = y * 2
    torch.mul(y, y, out=found)
    return found


@pytest.mark.parametrize("change", [divides_in_place, blackens_one_image, writes_to_an_argument])
def test_what_the_output_needs_through_a_change_in_place_is_an_obstacle(
    change: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    model = Of(lambda m, x: change(m, m.fc(x.flatten(1))), fc=nn.Linear(36, 2))
    with pytest.raises(UnsupportedModelError):
        to_relu_network(model, (1, 6, 6))


def test_check_has_a_finding_for_each_and_one_row_for_each_reason() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(Gated(), (1, 6, 6))
    report = check(LoadedFile(Path("gated.pt"), refusal=raised.value))
    assert not report.is_usable
    assert [finding.layer for finding in report.findings] == [
        raised.value.where, *(error.where for error in raised.value.others)
    ]  # fmt: skip
    assert {finding.rule for finding in report.findings} == {CAN_SPIKE}
    table = obstacle_table(report.findings, "gated.pt")
    assert [row[0] for row in table.rows] == ["GELU", "mul"]
    assert "3 parts" in table.caption


def test_lowering_finds_what_reading_did_not() -> None:
    signed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(32, 2))
    # Nine pixels in 0..1.
    nn.init.constant_(signed[0].weight, -500)
    (error,) = obstacles(signed, (1, 6, 6))
    assert (error.where, "as low as -4.5e+03" in error.found) == ("1", True)
    assert obstacles(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), *list(signed)[1:]), (1, 6, 6)) == ()


def test_a_large_layer_after_a_max_pooling_is_not_composed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG's first dense layer: its weights would stand at each pixel that the pooling compares."""
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    composed = to_relu_network(pooled, (1, 6, 6))
    monkeypatch.setattr(operations, "_MAX_COMPOSED", 10)
    carried = to_relu_network(pooled, (1, 6, 6))
    assert len(carried.layers) == len(composed.layers) + 1
    assert carried.layers[-1].synapse.weight.size == 24 < composed.layers[-1].synapse.weight.size
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(outputs(carried, images), pooled(images), rtol=1e-9, atol=1e-9)


def test_a_batch_norm_of_large_flattened_maps_is_not_composed_with_the_layer_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = (nn.Conv2d(1, 2, 3), nn.Flatten(), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    model = prepared(nn.Sequential(*layers), (1, 6, 6))
    composed = to_relu_network(model, (1, 6, 6))
    monkeypatch.setattr(operations, "_MAX_COMPOSED", 10)
    carried = to_relu_network(model, (1, 6, 6))
    assert len(carried.layers) == len(composed.layers) + 1
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(outputs(carried, images), model(images), rtol=1e-9, atol=1e-9)


class Branches(nn.Module):
    """Two branches of their own strides, averaged and joined."""

    def __init__(self, *strides: int | tuple[int, int]) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(3 * len(strides), 2)
        self.branches = nn.ModuleList(nn.Conv2d(2, 3, 3, stride, 1) for stride in strides)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.fc(torch.cat([branch(x).relu().mean((2, 3)) for branch in self.branches], 1))


@pytest.mark.parametrize("strides", [(2, 3), ((2, 1), (1, 2))])
def test_branches_whose_strides_do_not_divide_are_refused(strides: tuple[int | tuple[int, int], ...]) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(Branches(*strides), (1, 12, 12))
    assert raised.value.where.startswith("branches.")
    assert "another branch" in raised.value.found


@pytest.mark.parametrize("strides", [(2, 4), (1, 2, 4), (3, 1)])
def test_branches_whose_strides_divide_equal_the_module(strides: tuple[int, ...]) -> None:
    model, images = Branches(*strides).double(), torch.rand(2, 1, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(
        outputs(to_relu_network(model, (1, 12, 12)), images), model(images), rtol=1e-9, atol=1e-9
    )


class Regrown(nn.Module):
    """A skip over a layer that shrinks the map; the next one grows it again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(72, 2)
        self.smaller, self.larger = nn.Conv2d(2, 2, 2), nn.Conv2d(2, 2, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.fc((self.larger(self.smaller(x).relu()) + x).relu().flatten(1))


def test_a_skip_over_a_map_that_grows_again_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(Regrown(), (1, 6, 6))
    assert raised.value.where == "smaller"
    assert "too small for a skip over it" in raised.value.found


@pytest.mark.parametrize(
    "forward",
    [
        lambda y: y.view(2, 1, 6, 6)[:, :, 6:].sum((2, 3)) + y,
        lambda y: torch.cat([y[:, :0], y[:, 36:]], 1).sum(1, keepdim=True) + y,
    ],
)
def test_an_empty_tensor_is_an_obstacle(forward: Callable[[Tensor], Tensor]) -> None:
    found = obstacles(Of(lambda m, x: m.fc(forward(x.flatten(1))), fc=nn.Linear(36, 2)), (1, 6, 6))
    assert "empty tensor" in found[0].found
