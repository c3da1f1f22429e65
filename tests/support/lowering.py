"""Models for the tests of lowering, and what must hold of the chain that each one becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.quantized import MAX_NAME_LENGTH
from loihi_convert.ir.synapse import Conv
from loihi_convert.lowering import lowered, to_relu_network
from support.modules import Of, outputs, prepared

TOLERANCE = 1e-9
CONV, LINEAR, NORM = nn.LazyConv2d, nn.LazyLinear, nn.LazyBatchNorm2d


@dataclass(frozen=True)
class Case:
    """A model and the images it takes: ``(C, H, W)``, or ``(C, L)`` of signals."""

    make: Callable[[], nn.Module]
    shape: Shape = (2, 8, 8)

    @property
    def image_shape(self) -> Shape:
        return self.shape if len(self.shape) == 3 else (self.shape[0], 1, self.shape[1])


def stack(*modules: nn.Module, stem: bool = True, shape: Shape = (2, 8, 8)) -> Case:
    """Conv 3 x 3 and ReLU -> ``modules`` -> flatten and a dense layer."""
    before = [nn.LazyConv2d(4, 3, padding=1), nn.ReLU()] if stem else []
    return Case(lambda: nn.Sequential(*before, *modules, nn.Flatten(), LINEAR(3)), shape)


def of(function: Callable[[nn.Module, Tensor], Tensor], shape: Shape = (2, 8, 8), **modules: nn.Module) -> Case:
    """Conv 3 x 3 and ReLU -> ``function`` -> flatten and a dense layer."""
    own: dict[str, nn.Module] = {"stem": CONV(4, 3, padding=1), "head": LINEAR(3), **modules}
    return Case(lambda: Of(lambda m, x: m.head(function(m, m.stem(x).relu()).flatten(1)), **own), shape)


def bare(function: Callable[[nn.Module, Tensor], Tensor], shape: Shape = (2, 8, 8), **modules: nn.Module) -> Case:
    """``function`` alone."""
    return Case(lambda: Of(function, **modules), shape)


def same(channels: int, groups: int = 1) -> nn.Module:
    return CONV(channels, 3, padding=1, groups=groups)


def images(shape: Shape, count: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((count, *shape)))


def assert_equals(model: nn.Module, network: ReluNetwork, case: Case) -> None:
    """The outputs are the module's own, and differ between images."""
    pixels = images(case.shape)
    with torch.no_grad():
        wanted = model(pixels)
        found = outputs(network, pixels.reshape(-1, *case.image_shape))
    size = float(wanted.abs().max())
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= TOLERANCE * size
    assert float((wanted - wanted[0]).abs().max()) > 1e-3 * size, "equality would say little"


def assert_relays_repeat(network: ReluNetwork) -> None:
    """What the constructor does not ask for: the weight is 1, and the activation is ReLU."""
    for layer in network.layers:
        if layer.relay_of is not None:
            relays = layer.relay_of >= 0
            assert relays.any()
            rows = layer.synapse.weight[relays].reshape(int(relays.sum()), -1)
            assert (rows.sum(axis=1) == 1).all(), layer.name
            assert layer.ceiling is None or np.isinf(layer.ceiling[relays]).all()
            assert layer.threshold is None or np.isnan(layer.threshold[relays]).all()
    assert network.layers[0].relay_of is None
    assert network.layers[-1].relay_of is None


def assert_names(network: ReluNetwork) -> None:
    names = [layer.name for layer in network.layers]
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and 1 <= len(name) <= MAX_NAME_LENGTH for name in names), names


def assert_equals_module(case: Case) -> None:
    """The chain has the module's outputs with one relay for each value of a skip, and with several."""
    model = prepared(case.make(), case.shape)
    network = to_relu_network(model, case.image_shape)
    has_relays = any(layer.relay_of is not None for layer in network.layers)
    more = [to_relu_network(model, case.image_shape, skip_copies=copies) for copies in (2, 4) if has_relays]
    for each in (network, *more):
        assert_equals(model, each, case)
        assert_relays_repeat(each)
        assert_names(each)
        assert each.shapes[-1] == (each.layers[-1].synapse.channels,)


def lowered_case(case: Case, copies: int = 1) -> ReluNetwork:
    return to_relu_network(prepared(case.make(), case.shape), case.image_shape, skip_copies=copies)


def layers_of(case: Case, copies: int = 1) -> str:
    """The layers: channels, kernel, and relays."""
    network = lowered_case(case, copies)
    return network.architecture


def groups_of(case: Case, layer: int) -> int:
    synapse = lowered_case(case).layers[layer].synapse
    assert isinstance(synapse, Conv)
    return synapse.groups


def assert_samples(case: Case) -> None:
    """A relay repeats the channel that holds the same pixels of the same population in the layer before."""
    chain = lowered(prepared(case.make(), case.shape), case.image_shape)
    for level, layer in enumerate(chain.network.layers, 1):
        samples, before = chain.channels[level], chain.channels[level - 1]
        assert len(samples) == layer.synapse.channels
        assert len(set(samples)) == len(samples)
        for channel, sample in enumerate(samples):
            is_own = chain.levels.of[sample.source] == level
            relay_of = -1 if layer.relay_of is None else layer.relay_of[channel]
            assert is_own == (relay_of == -1)
            if not is_own:
                assert before[relay_of][:2] == sample[:2]
