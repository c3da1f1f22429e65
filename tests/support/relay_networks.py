"""Handmade ReLU networks with relays, and their expected spikes."""

from __future__ import annotations

import numpy as np

from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense


def images(count: int = 12, channels: int = 1, seed: int = 0) -> Array:
    """uint8 ``(count, channels, 8, 8)``."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 8, 8)).astype(np.uint8)


def residual(copies: int = 1, seed: int = 0) -> ReluNetwork:
    """relu(conv2(relu(conv1(x))) + x) of a stem x, whose last channel is dead; each skip by ``copies`` relays."""
    rng = np.random.default_rng(seed)
    stem = rng.normal(size=(4, 1, 3, 3)) / 2 + 0.2
    stem[3] = -np.abs(stem[3])
    repeated = np.tile(np.arange(4), copies)
    inner = np.concatenate([rng.normal(size=(5, 4, 3, 3)) / 4, centre_taps(repeated, 4, 3)])
    outer = np.concatenate([rng.normal(size=(4, 5, 3, 3)) / 5, identity(repeated, 4, 3, 1 / copies)], axis=1)
    inner_bias = np.concatenate([rng.normal(size=5) / 10, np.zeros(len(repeated))])
    layers = (
        ReluLayer("stem", Conv(stem, rng.normal(size=4) / 10 * [1, 1, 1, 0], padding=(1, 1))),
        ReluLayer("conv1", Conv(inner, inner_bias, padding=(1, 1)), relay_of=relays_after(5, repeated)),
        ReluLayer("conv2", Conv(outer, rng.normal(size=4) / 10, padding=(1, 1))),
        ReluLayer("fc", Dense(rng.normal(size=(3, 4 * 16)) / 6, rng.normal(size=3) / 10, pool=(2, 2))),
    )
    return ReluNetwork((1, 8, 8), layers)


def strided(seed: int = 0) -> ReluNetwork:
    """A strided block: the relay samples every second pixel, its 1 x 1 shortcut is the centre tap of conv2."""
    rng = np.random.default_rng(seed)
    inner = np.concatenate([rng.normal(size=(6, 4, 3, 3)) / 4, centre_taps(np.arange(4), 4, 3)])
    shortcut = np.zeros((6, 4, 3, 3))
    shortcut[:, :, 1, 1] = rng.normal(size=(6, 4)) / 2
    outer = np.concatenate([rng.normal(size=(6, 6, 3, 3)) / 5, shortcut], axis=1)
    layers = (
        ReluLayer("stem", Conv(rng.normal(size=(4, 1, 3, 3)) / 2, padding=(1, 1))),
        ReluLayer("conv1", Conv(inner, stride=(2, 2), padding=(1, 1)), relay_of=relays_after(6, np.arange(4))),
        ReluLayer("conv2", Conv(outer, rng.normal(size=6) / 10, padding=(1, 1))),
        ReluLayer("fc", Dense(rng.normal(size=(3, 6 * 16)) / 6)),
    )
    return ReluNetwork((1, 8, 8), layers)


def dense(seed: int = 0) -> ReluNetwork:
    """Dense layers: the first one's neurons 0 and 2, and one of the convolution's, are added two layers later."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([rng.normal(size=(6, 2 * 9)) / 4, np.eye(18)[[13]]])
    second = np.concatenate([rng.normal(size=(5, 7)) / 3, np.eye(7)[[0, 2, 6]]])
    third = np.concatenate([rng.normal(size=(3, 5)) / 3, np.eye(3)], axis=1)
    layers = (
        ReluLayer("conv", Conv(rng.normal(size=(2, 1, 3, 3)) / 2, stride=(2, 2))),
        ReluLayer("fc1", Dense(first), relay_of=relays_after(6, np.array([1]))),
        ReluLayer("fc2", Dense(second), relay_of=relays_after(5, np.array([0, 2, 6]))),
        ReluLayer("fc3", Dense(third, rng.normal(size=3) / 10)),
        ReluLayer("fc4", Dense(rng.normal(size=(3, 3)))),
    )
    return ReluNetwork((1, 8, 8), layers)


def two_levels(seed: int = 0) -> ReluNetwork:
    """A skip over two convolutions by relays of relays; a layer that holds nothing but relays; a group for each."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([rng.normal(size=(3, 3, 3, 3)) / 3, centre_taps(np.arange(3), 3, 3)])
    second = centre_taps(np.array([5, 0, 3, 4, 1]), 6, 3)
    # Grouped: each group holds two outputs of its one input, the second one a relay.
    third = np.zeros((10, 1, 3, 3))
    third[::2] = rng.normal(size=(5, 1, 3, 3)) / 2
    third[1::2, 0, 1, 1] = 1
    relay_of = np.full(10, -1)
    relay_of[1::2] = np.arange(5)
    layers = (
        ReluLayer("stem", Conv(rng.normal(size=(3, 1, 3, 3)) / 2, stride=(2, 2), padding=(1, 1))),
        ReluLayer("conv1", Conv(first, padding=(1, 1)), relay_of=relays_after(3, np.arange(3))),
        ReluLayer("relays", Conv(second, padding=(1, 1)), relay_of=np.array([5, 0, 3, 4, 1])),
        ReluLayer("groups", Conv(third, padding=(1, 1), groups=5), relay_of=relay_of),
        ReluLayer("conv2", Conv(rng.normal(size=(4, 10, 2, 2)) / 4)),
        ReluLayer("fc", Dense(rng.normal(size=(3, 36)) / 4)),
    )
    return ReluNetwork((1, 8, 8), layers)


def centre_taps(sources: Array, channels: int, kernel: int) -> Array:
    """``(len(sources), channels, kernel, kernel)``: the weights of relays of ``sources``."""
    return identity(sources, channels, kernel, 1.0).transpose(1, 0, 2, 3)


def identity(sources: Array, channels: int, kernel: int, weight: float) -> Array:
    """``(channels, len(sources), kernel, kernel)``: output k takes the relays of k."""
    weights = np.zeros((channels, len(sources), kernel, kernel))
    weights[sources, np.arange(len(sources)), kernel // 2, kernel // 2] = weight
    return weights


def relays_after(channels: int, sources: Array) -> Array:
    return np.concatenate([np.full(channels, -1), sources])


def wrong_spikes(relu: ReluNetwork, spikes: list[Array]) -> int:
    """Return how many relay spikes differ from their sources; ``spikes`` are bool ``(N, T, *shape)`` per layer."""
    wrong = 0
    for index, layer in enumerate(relu.layers):
        for channel in np.flatnonzero([] if layer.relay_of is None else layer.relay_of >= 0):
            wrong += int((spikes[index][:, :, channel] != _expected(layer, int(channel), spikes[index - 1])).sum())
    return wrong


def _expected(layer: ReluLayer, channel: int, before: Array) -> Array:
    """Return the expected spikes of a relay, ``(N, T, H, W)`` or ``(N, T)``: the inputs at its tap."""
    assert layer.relay_of is not None
    if isinstance(layer.synapse, Dense):
        return before.reshape(*before.shape[:2], -1)[:, :, layer.synapse.weight[channel].argmax()]
    (height, width), (pad_h, pad_w) = layer.synapse.stride, layer.synapse.padding
    _, top, left = np.unravel_index(layer.synapse.weight[channel].argmax(), layer.synapse.weight.shape[1:])
    source = np.pad(before[:, :, layer.relay_of[channel]], ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    rows, columns = (source.shape[axis] - layer.synapse.weight.shape[axis] + 1 for axis in (2, 3))
    return source[:, :, top : top + rows : height, left : left + columns : width]


NETWORKS = {
    "residual": residual(),
    "two copies": residual(copies=2),
    "strided": strided(),
    "dense": dense(),
    "two levels": two_levels(),
}
