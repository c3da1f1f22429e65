"""Models that are read because they are recorded while they run, and how long that takes."""

from __future__ import annotations

import time

import pytest
import torch
from support.lowering import LINEAR, Case, assert_equals_module, bare, of, same
from support.modules import Of
from torch import Tensor, nn

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.lowering import to_relu_network


def halved_in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.stem(x)
    y.view(len(y), 2, 2, 8, 8)[:, 1].mul_(0.5)
    y[:, 1:3].add_(1.0)
    return m.head(y.relu().flatten(1))


CASES = {
    "changes in place through views": bare(halved_in_place, stem=same(4), head=LINEAR(3)),
    "PReLU by where": of(lambda m, x: torch.where((y := m.a(x)) > 0, y, 0.25 * y), a=same(3)),
    "stacked": of(lambda m, x: m.b(torch.stack([x, m.a(x).relu()], 2).flatten(1, 2)).relu(), a=same(4), b=same(3)),
    "mapped": of(lambda m, x: torch.vmap(torch.relu)(m.a(x)), a=same(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    case: Case = CASES[name]
    assert_equals_module(case)


def seconds(model: nn.Module, shape: tuple[int, int, int]) -> float:
    model(torch.zeros(2, *shape))
    start = time.process_time()
    to_relu_network(model.eval(), shape)
    return time.process_time() - start


def test_sums_of_a_tensor_with_itself_do_not_grow_exponentially() -> None:
    def doubled(m: nn.Module, x: Tensor) -> Tensor:
        for _ in range(12):
            x = x + x
        return m.head(x.flatten(1))

    assert seconds(Of(doubled, head=LINEAR(3)), (2, 8, 8)) < 5


def test_the_time_is_linear_in_the_layers() -> None:
    def chain(length: int) -> float:
        layers = [layer for _ in range(length // 2) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())]
        return min(seconds(nn.Sequential(*layers, nn.Flatten(), LINEAR(2)), (1, 2, 2)) for _ in range(2))

    assert chain(1000) < 8 * chain(250)


def test_too_many_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loihi_convert.reading.reader.MOST_NODES", 20)
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())]
    with pytest.raises(UnsupportedModelError, match="smaller networks"):
        to_relu_network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
