"""The recorded reader beside the traced one: the same network, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.compare_readers import difference
from support.lowering import CONV, LINEAR, NORM, Case, bare, of, same, stack
from support.modules import prepared
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.graph import Graph
from loihi_convert.frontend.lower import lowering
from loihi_convert.read.reader import read_graph

CASES = {
    "plain": stack(NORM(), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout()),
    "in place": stack(nn.ReLU(inplace=True), same(4), nn.ReLU6(inplace=True)),
    "residual": of(lambda m, x: (m.one(x) + x).relu(), one=same(4)),
    "strided": of(lambda m, x: (m.one(x) + m.two(x)).relu(), one=CONV(6, 3, 2, 1), two=CONV(6, 1, 2)),
    "dense block": of(lambda m, x: torch.cat([x, m.one(x).relu()], 1), one=same(4)),
    "grouped and shuffled": stack(same(4, groups=2), nn.ChannelShuffle(2), nn.LeakyReLU(0.1)),
    "max pooling": stack(nn.ReLU(), nn.MaxPool2d(2)),
    "signals": Case(lambda: nn.Sequential(nn.LazyConv1d(4, 3), nn.ReLU(), nn.Flatten(), LINEAR(3)), (2, 12)),
    "channels last": of(lambda m, x: m.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu(), last=LINEAR(5)),
    "vectors": bare(lambda m, x: m.two(m.one(x.flatten(1)).relu()).softmax(1), one=LINEAR(5), two=LINEAR(3)),
}


def network_by(
    model: nn.Module, case: Case, reader: Callable[[nn.Module, tuple[int, ...]], Graph]
) -> lowering.ReluNetwork:
    graph = lowering.pooled_after_relu(reader(model, case.image_shape))
    return lowering._chain(graph, case.image_shape, None, 1).network


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_readers_give_the_same_network(case: Case) -> None:
    model = prepared(case.make(), case.shape)
    traced, recorded = (network_by(model, case, reader) for reader in (lowering.read_graph, read_graph))
    assert difference(traced, recorded) == ""


def test_what_only_a_probe_recognizes() -> None:
    """A leaky ReLU by its values, of a view that was changed in place."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.conv(x)
        y[:, 0] = torch.where(y[:, 0] > 0, y[:, 0], 0.25 * y[:, 0])
        return m.fc(y.flatten(1))

    case = bare(forward, conv=CONV(1, 3), fc=LINEAR(2))
    assert len(network_by(prepared(case.make(), case.shape), case, read_graph).layers) == 2


def test_every_obstacle_is_found_with_its_line() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2), nn.ReLU())
    graph = read_graph(model.eval(), (1, 6, 6))
    assert [each.where for each in graph.obstacles] == ["1", "3"]
    case = of(lambda m, x: functional.gelu(x))
    (obstacle,) = read_graph(prepared(case.make(), case.shape), case.shape).obstacles
    assert obstacle.where == "gelu (after stem)"
    assert "test_read.py, line" in obstacle.found


def test_a_branch_on_the_values_is_refused() -> None:
    case = of(lambda m, x: x if x.mean() > 0 else -x)
    with pytest.raises(UnsupportedModelError) as raised:
        read_graph(prepared(case.make(), case.shape), case.shape)
    assert "branches" in raised.value.found


def test_a_long_chain_is_read_in_linear_time() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x
        for _ in range(300):
            y = y * 1.01
        for _ in range(12):
            y = y + y
        return y

    case = of(forward)
    assert len(read_graph(prepared(case.make(), case.shape), case.shape).nodes) > 312
