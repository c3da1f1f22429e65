"""Random graphs, every layer and step: an int64 oracle that knows no relays = `ref` on the file = Lava, error 0.

``GRAPHS=60 pytest tests/test_graph_oracle.py`` takes 60 of them, on `ref` and on Lava; without it 15, and 5 on Lava.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from support.graph_oracle import GraphOracle
from support.modules import outputs
from support.networks import Choices
from support.strategies import Drawn
from torch import Tensor, nn

from loihi_convert import netx
from loihi_convert.backends.lava.lava_backend import LavaBackend
from loihi_convert.backends.reference import ReferenceBackend
from loihi_convert.backends.result import first_difference
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.errors import RangeError, UnsupportedModelError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Method, Reset, Target
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.lowering import lowered
from loihi_convert.lowering.chain import Chain

TIMESTEPS = 4
GRAPHS = int(os.environ.get("GRAPHS", "15"))
ON_LAVA = GRAPHS if "GRAPHS" in os.environ else 5

METHODS: tuple[Method, ...] = (
    "percentile",
    "act-norm-channelwise",
    "ngu-lee",
    "least-squares",
    "act-norm",
    "spike-norm",
)
KERNELS: tuple[int | tuple[int, int], ...] = (2, 3, (3, 2), (1, 2))
WAYS: tuple[tuple[Reset, Target], ...] = (("soft", "lava"), ("hard", "lava"), ("soft", "loihi2"))


class Step(NamedTuple):
    """One part of a model: what it makes of the map before it."""

    function: Callable[[nn.ModuleList, Tensor], Tensor]
    modules: nn.ModuleList


class Graph(nn.Module):
    """Parts in sequence, and a dense layer."""

    def __init__(self, steps: list[Step], shape: Shape, averages: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(step.modules for step in steps)
        self._functions = [step.function for step in steps]
        self._averages = averages
        with torch.no_grad():
            self.head = nn.Linear(self._features(torch.zeros(1, *shape)).shape[1], 3)

    def _features(self, x: Tensor) -> Tensor:
        for function, modules in zip(self._functions, self.parts, strict=True):
            x = function(modules, x)
        return x.mean((2, 3)) if self._averages else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._features(x))


def conv(rng: Choices, before: int, after: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    has_bias = rng.random() < 0.5
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=has_bias)


def activation(rng: Choices) -> nn.Module:
    return nn.ReLU6() if rng.random() < 0.15 else nn.Hardtanh(0, 0.3) if rng.random() < 0.15 else nn.ReLU()


def plain(rng: Choices, channels: int) -> tuple[Step, int]:
    after = int(rng.integers(1, 4))
    kernel, stride = int(rng.choice([3, 1, 2])), int(rng.choice([1, 2]))
    modules = nn.ModuleList([conv(rng, channels, after, kernel, stride), activation(rng)])
    return Step(lambda m, x: m[1](m[0](x)), modules), after


def depthwise(rng: Choices, channels: int) -> tuple[Step, int]:
    """A skip over a depthwise convolution between two pointwise ones, without a ReLU after the last."""
    inner, stride = channels * int(rng.choice([1, 2])), int(rng.choice([1, 2]))
    first, second = conv(rng, channels, inner, 1), conv(rng, inner, inner, 3, stride, groups=inner)
    modules = nn.ModuleList([first, second, conv(rng, inner, channels, 1), nn.ReLU()])
    if stride > 1:
        return Step(lambda m, x: m[2](m[1](m[0](x).relu()).relu()).relu(), modules), channels
    return Step(lambda m, x: m[3](m[2](m[1](m[0](x).relu()).relu()) + x), modules), channels


def residual(rng: Choices, channels: int) -> tuple[Step, int]:
    """A skip over 1 to 4 convolutions, one of which may be strided."""
    depth, stride = int(rng.integers(1, 5)), int(rng.choice([1, 2]))
    strided = int(rng.integers(0, depth))
    after = channels if stride == 1 and rng.random() < 0.6 else int(rng.integers(1, 4))
    layers = [
        conv(rng, channels if index == 0 else after, after, 3, stride if index == strided else 1)
        for index in range(depth)
    ]
    is_identity = stride == 1 and after == channels
    shortcut = nn.Identity() if is_identity else conv(rng, channels, after, 1, stride)
    modules = nn.ModuleList([shortcut, activation(rng), *layers])

    def forward(m: nn.ModuleList, x: Tensor) -> Tensor:
        y = m[2](x)
        for layer in list(m)[3:]:
            y = layer(y.relu())
        return m[1](y + m[0](x))

    return Step(forward, modules), after


def concatenation(rng: Choices, channels: int) -> tuple[Step, int]:
    """Two branches of unequal depth, or one and the input itself."""
    after = int(rng.integers(1, 4))
    modules = nn.ModuleList(
        [conv(rng, channels, after), activation(rng), conv(rng, after, after), conv(rng, channels, 2, 1)]
    )
    if rng.random() < 0.5:
        return Step(lambda m, x: torch.cat([x, m[1](m[0](x))], 1), modules), channels + after
    return Step(lambda m, x: torch.cat([m[2](m[1](m[0](x))).relu(), m[3](x).relu()], 1), modules), after + 2


def max_pooling(rng: Choices, channels: int) -> tuple[Step, int]:
    kernel, stride = KERNELS[int(rng.integers(0, len(KERNELS)))], int(rng.choice([2, 1]))
    padding = 1 if kernel == 3 and rng.random() < 0.5 else 0
    modules = nn.ModuleList([nn.MaxPool2d(kernel, stride, padding)])
    return Step(lambda m, x: m[0](x), modules), channels


def channels_last(rng: Choices, channels: int) -> tuple[Step, int]:
    """Dense layers of the channels in the last axis, as in an MLP of each pixel, and now and then a skip over them."""
    inner, constant = int(rng.integers(1, 5)), float(rng.random())
    is_skip = bool(rng.random() < 0.5)
    after = channels if is_skip else int(rng.integers(1, 4))
    first, second = nn.Linear(channels, inner, bias=False), nn.Linear(inner, after, bias=bool(rng.random() < 0.5))
    modules = nn.ModuleList([first, activation(rng), second])

    def forward(m: nn.ModuleList, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        y = m[2](m[1](m[0](x) + torch.linspace(-constant, constant, inner).to(x)))
        return (y + x if is_skip else y).relu().movedim(-1, 1)

    return Step(forward, modules), after


PARTS = (plain, residual, concatenation, max_pooling, depthwise, channels_last)


class Case(NamedTuple):
    """A converted graph, and images."""

    chain: Chain
    network: QuantizedNetwork
    images: Array


def random_model(rng: Choices, seed: int) -> tuple[nn.Module, Shape]:
    """A random graph with random weights, and the shape of its images."""
    torch.manual_seed(seed)
    shape = (int(rng.integers(1, 3)), int(rng.integers(6, 9)), int(rng.integers(6, 9)))
    steps: list[Step] = []
    channels, maps = shape[0], torch.zeros(1, *shape)
    # Pixels are no spikes: a first convolution is there as in every CNN, now and then a skip from the image instead.
    parts = [plain if rng.random() < 0.8 else residual]
    parts += [PARTS[int(rng.integers(0, len(PARTS)))] for _ in range(int(rng.integers(1, 4)))]
    for part in parts:
        step, after = part(rng, channels)
        try:
            with torch.no_grad():
                maps = step.function(step.modules, maps)
        except RuntimeError:
            # The maps are smaller than its window.
            continue
        channels = after
        steps.append(step)
    return Graph(steps, shape, averages=rng.random() < 0.3).eval(), shape


def build(rng: Choices, seed: int, way: tuple[Reset, Target] | None = None) -> Case:
    """A random graph in integers."""
    model, shape = random_model(rng, seed)
    chain = lowered(model, shape)
    pixels = np.random.default_rng(seed).integers(0, 256, (22, *shape)).astype(np.uint8)
    reset, target = way or WAYS[int(rng.integers(0, len(WAYS)))]
    method = METHODS[int(rng.integers(0, len(METHODS)))]
    options = BalanceOptions(method=method, reset=reset, input_coding="constant")
    spiking = balance(chain.network, pixels[:20], TIMESTEPS, options)
    return Case(chain, quantize(spiking, pixels[:20], QuantizeOptions(target=target)), pixels[20:])


def of_seed(seed: int) -> Case:
    return build(np.random.default_rng(seed), seed, WAYS[seed % len(WAYS)])


@st.composite
def graphs(draw: st.DrawFn) -> Case:
    try:
        return build(Drawn(draw), draw(st.integers(0, 1000)))
    except (UnsupportedModelError, RangeError):
        # A readout whose sums leave no bit for its weights; branches with maps of one pixel beside larger ones, and
        # skips over maps that grow again. The graphs of `test_the_chain_equals_the_module`, which have neither of the
        # latter, must convert.
        reject()


@pytest.mark.parametrize("seed", range(2 * GRAPHS))
def test_the_chain_equals_the_module(seed: int) -> None:
    model, shape = random_model(np.random.default_rng(seed), seed)
    model, images = model.double(), torch.rand(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
    for copies in (1, 2):
        found = outputs(lowered(model, shape, skip_copies=copies).network, images)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@given(graphs())
# An example is converted while it is drawn.
@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ref_equals_the_graph(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    path = tmp_path_factory.mktemp("graph") / "model.net"
    netx.write(case.network, path)
    with ReferenceBackend() as ref:
        result = ref.run(netx.read(path), case.images, TIMESTEPS, trace=True)
    GraphOracle(case.chain, case.network).assert_equal(case.images, result, TIMESTEPS)


def test_random_graphs_are_worth_comparing() -> None:
    """They have relays and fire, else equality would say little."""
    cases = [of_seed(seed) for seed in range(8)]
    layers = [layer for case in cases for layer in case.network.layers]
    assert sum(layer.relay_of is not None for layer in layers) > 8
    assert {(case.network.reset, case.network.target) for case in cases} == set(WAYS)


@pytest.fixture(scope="module")
def lava() -> Iterator[LavaBackend]:
    with LavaBackend() as backend:
        yield backend


@pytest.mark.lava
@pytest.mark.parametrize("seed", range(ON_LAVA))
def test_lava_equals_the_graph(lava: LavaBackend, tmp_path: Path, seed: int) -> None:
    case, path = of_seed(seed), tmp_path / "model.net"
    netx.write(case.network, path)
    by_lava = lava.run(netx.read(path), case.images, TIMESTEPS, trace=True)
    with ReferenceBackend() as ref:
        by_ref = ref.run(netx.read(path), case.images, TIMESTEPS, trace=True)
    assert first_difference(by_lava, by_ref) is None
    assert GraphOracle(case.chain, case.network).assert_equal(case.images, by_lava, TIMESTEPS) > 0
