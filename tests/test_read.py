"""The reader of recorded runs makes the networks of the traced reader, and reads models which that one refuses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
import test_lower
import test_lower_activation
import test_lower_affine
import test_lower_concat
import test_lower_groups
import test_lower_linear
import test_lower_max_pool
import test_lower_moves
import test_lower_pooling
import test_lower_residual
import torch
from support.compare_readers import difference
from support.lowering import LINEAR, Case, assert_equals, bare, of, same
from support.modules import Of, prepared
from torch import Tensor, nn

from loihi_convert.arrays import Shape
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.from_torch.reader import read_graph as traced
from loihi_convert.frontend.graph import Graph
from loihi_convert.frontend.lower import lowering, to_relu_network
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.reading.reader import read_graph as recorded

TABLES = (
    test_lower,
    test_lower_activation,
    test_lower_affine,
    test_lower_concat,
    test_lower_groups,
    test_lower_linear,
    test_lower_max_pool,
    test_lower_moves,
    test_lower_pooling,
    test_lower_residual,
)
CASES = {f"{table.__name__}: {name}": case for table in TABLES for name, case in table.CASES.items()}

EVEN_KERNEL = "macs"
"""The networks are equal, but PyTorch pads the map for the convolution, whose accumulates of zeros then count."""

DIFFERENT = {
    "test_lower_linear: conv2d": EVEN_KERNEL,
    "test_lower_linear: an even kernel that keeps the size": EVEN_KERNEL,
    "test_lower_linear: a dilated even kernel that keeps the size": EVEN_KERNEL,
    "test_lower_linear: an even kernel of signals that keeps the size": EVEN_KERNEL,
    # A bias that depends on the image.
    "test_lower_linear: addmm": "refused:",
    # PyTorch carries out this einsum as a sum over axes 1 to 3, whose weights only the traced reader finds.
    "test_lower_linear: einsum to one number": "refused:",
}
"""The first word of what differs."""

# `F.conv2d` with an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

Reader = Callable[[nn.Module, Shape], Graph]


def network_by(reader: Reader, model: nn.Module, case: Case, monkeypatch: pytest.MonkeyPatch) -> ReluNetwork | str:
    """The network of ``model``, or why there is none."""
    monkeypatch.setattr(lowering, "read_graph", reader)
    try:
        return to_relu_network(model, case.image_shape)
    except UnsupportedModelError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", CASES)
def test_both_readers_make_the_same_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    model = prepared(case.make(), case.shape)
    old, new = (network_by(reader, model, case, monkeypatch) for reader in (traced, recorded))
    assert isinstance(old, ReluNetwork)
    found = new if isinstance(new, str) else difference(old, new)
    is_of_names = bool(re.match(r"\d+ name ", found))
    found = "" if is_of_names or found.startswith("rounding") else found
    assert found.partition(" ")[0] == DIFFERENT.get(name, ""), found


def test_each_known_difference_is_of_a_case() -> None:
    assert set(DIFFERENT) <= set(CASES)


def halved_in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.stem(x)
    y.view(len(y), 2, 2, 8, 8)[:, 1].mul_(0.5)
    y[:, 1:3].add_(1.0)
    return m.head(y.relu().flatten(1))


ONLY_RECORDED = {
    "changes in place through views": bare(halved_in_place, stem=same(4), head=LINEAR(3)),
    "PReLU by where": of(lambda m, x: torch.where((y := m.a(x)) > 0, y, 0.25 * y), a=same(3)),
    "stacked": of(lambda m, x: m.b(torch.stack([x, m.a(x).relu()], 2).flatten(1, 2)).relu(), a=same(4), b=same(3)),
}


@pytest.mark.parametrize("name", ONLY_RECORDED)
def test_a_model_that_only_the_recorded_reader_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = ONLY_RECORDED[name]
    model = prepared(case.make(), case.shape)
    assert isinstance(network_by(traced, model, case, monkeypatch), str)
    network = network_by(recorded, model, case, monkeypatch)
    assert isinstance(network, ReluNetwork), network
    assert_equals(model, network, case)


def seconds(model: nn.Module, shape: tuple[int, int, int]) -> float:
    model(torch.zeros(2, *shape))
    start = time.process_time()
    recorded(model.eval(), shape)
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
