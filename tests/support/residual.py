"""An integer residual network whose skip passes through a layer as relays, and the equivalent float networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense

INPUT_SHAPE: Shape = (2, 6, 6)
OWN_CHANNELS = 3
RELAYS = 4
RELAY_OF = np.array([-1, -1, -1, 0, 1, 2, 3])
"""Of the layer `inner`: 3 channels of its own, and the 4 of `stem`, repeated."""

_PIXEL = 255


def residual_network(
    seed: int = 0, *, timesteps: int = 4, reset: Reset = "soft", amplitude_factor: float = 1.0
) -> QuantizedNetwork:
    """y = relu(outer(relu(inner(x))) + x), x = relu(stem(image)), and a readout of 3 classes.

    ``stem``: 4 channels of 3 x 3. ``inner``: 3 channels and 4 relays. ``outer``: 4 channels, with an identity for the
    relays. Maps are padded, 6 x 6 everywhere. With soft reset, every relay starts at another potential.

    ``amplitude_factor``: amplitude of a spike over the threshold, as it is fitted to hard reset; of relays it is 1.
    """
    rng = np.random.default_rng(seed)

    def thresholds(largest_current: int, count: int) -> Array:
        return rng.integers(largest_current // 4, largest_current, count)

    stem = rng.integers(-20, 28, (4, 2, 3, 3))
    inner = np.zeros((OWN_CHANNELS + RELAYS, 4, 3, 3), np.int64)
    inner[:OWN_CHANNELS] = rng.integers(-60, 80, (OWN_CHANNELS, 4, 3, 3))
    relays = np.arange(RELAYS)
    relay_threshold = rng.integers(40, 128, RELAYS)
    inner[OWN_CHANNELS + relays, relays, 1, 1] = relay_threshold
    outer = np.zeros((4, OWN_CHANNELS + RELAYS, 3, 3), np.int64)
    outer[:, :OWN_CHANNELS] = rng.integers(-60, 60, (4, OWN_CHANNELS, 3, 3))
    outer[relays, OWN_CHANNELS + relays, 1, 1] = rng.integers(60, 128, RELAYS)
    classes = rng.integers(-100, 101, (3, 4 * 36))

    factors = np.full(4, amplitude_factor)
    stem_threshold, stem_scale = thresholds(12 * 18 * _PIXEL, 4), rng.uniform(1e-5, 2e-5, 4)
    stem_layer = _layer("stem", stem, stem_threshold, stem_scale, reset, factors, _PIXEL)
    received = stem_threshold * stem_scale * factors
    inner_scale = np.concatenate([rng.uniform(0.005, 0.01, OWN_CHANNELS), received / relay_threshold])
    inner_threshold = np.concatenate([thresholds(20 * 36, OWN_CHANNELS), relay_threshold])
    inner_factors = np.where(RELAY_OF < 0, amplitude_factor, 1.0)
    inner_layer = _layer("inner", inner, inner_threshold, inner_scale, reset, inner_factors)
    outer_layer = _layer("outer", outer, thresholds(20 * 20, 4), rng.uniform(0.005, 0.01, 4), reset, factors)
    readout = QuantizedLayer("classes", Dense(classes.astype(np.int32)), None, np.full(3, 0.01))
    return QuantizedNetwork(
        input_shape=INPUT_SHAPE,
        layers=(stem_layer, replace(inner_layer, relay_of=RELAY_OF), outer_layer, readout),
        timesteps=timesteps,
        max_timesteps=64,
        pixel_bits=8,
        reset=reset,
    )


def residual_images(count: int, seed: int = 0) -> Array:
    """uint8 ``(count, 2, 6, 6)``."""
    return np.random.default_rng([seed, 1]).integers(0, 256, (count, *INPUT_SHAPE)).astype(np.uint8)


def float_networks(network: QuantizedNetwork) -> tuple[ReluNetwork, SpikingNetwork]:
    """Return the CNN and the float SNN that round to ``network`` without error."""
    relu, spiking = [], []
    received = np.ones(network.input_shape[0])
    for index, layer in enumerate(network.layers):
        unit = layer.scale * (_PIXEL if index == 0 else 1)
        real = layer.weight * unit.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        synapse = replace(layer.synapse, weight=real).with_input_factors(1 / received)
        relu.append(ReluLayer(layer.name, synapse, relay_of=layer.relay_of))
        spiking.append(SpikingLayer(layer.name, synapse, layer.balanced, relay_of=layer.relay_of))
        received = np.ones(layer.synapse.channels) if layer.balanced is None else layer.balanced.amplitude
    return (
        ReluNetwork(network.input_shape, tuple(relu)),
        SpikingNetwork(network.input_shape, tuple(spiking), network.timesteps, network.reset),
    )


def _layer(
    name: str,
    weight: Array,
    threshold: Array,
    scale: Array,
    reset: Reset,
    amplitude_factors: Array,
    largest_input: int = 1,
) -> QuantizedLayer:
    initial = threshold // 2 if reset == "soft" else np.zeros_like(threshold)
    if name == "inner" and reset == "soft":
        initial[OWN_CHANNELS:] = threshold[OWN_CHANNELS:] * np.arange(RELAYS) // RELAYS
    neuron = IntegerNeuron(threshold.astype(np.int32), initial.astype(np.int32))
    balanced = IntegrateAndFire(threshold * scale, threshold * scale * amplitude_factors, initial * scale)
    synapse = Conv(weight.astype(np.int32), padding=(1, 1))
    return QuantizedLayer(name, synapse, neuron, scale, largest_input, balanced)
