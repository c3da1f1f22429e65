"""Random integer networks, with images, that satisfy the exactness rules or also the chip rules; all layer kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork, largest_pixel
from loihi_convert.ir.synapse import Conv, Dense, Synapse


class Choices(Protocol):
    """The source of random choices: NumPy's generator, or hypothesis (`support.strategies`)."""

    def integers(self, low: int, high: int, size: Any = None) -> Any: ...

    def random(self) -> float: ...

    def uniform(self, low: float, high: float, size: Any = None) -> Any: ...

    def choice(self, options: Sequence[Any]) -> Any: ...


def random_network(seed: int, *, image_count: int = 3) -> tuple[QuantizedNetwork, Array]:
    """Return a network of 1 to 4 layers and uint8 images for it, determined by the seed."""
    is_poisson = np.random.default_rng([seed, 1]).random() < 0.4
    return build_network(np.random.default_rng(seed), seed if is_poisson else None, seed, image_count)


def build_network(
    rng: Choices, poisson_seed: int | None, seed: int, image_count: int = 3, *, reset: Reset | None = None
) -> tuple[QuantizedNetwork, Array]:
    """Return a network of 1 to 4 layers and uint8 images for it; Poisson input only if pixels have 8 bits."""
    input_shape: Shape = (int(rng.integers(1, 4)), int(rng.integers(5, 11)), int(rng.integers(5, 11)))
    pixel_bits = int(rng.choice([8, 8, 5, 1]))
    poisson_seed = poisson_seed if pixel_bits == 8 else None
    white = largest_pixel(poisson_seed, pixel_bits)
    is_soft = rng.random() < 0.7
    reset = reset or ("soft" if is_soft else "hard")
    shape = input_shape
    layers: list[QuantizedLayer] = []
    for index in range(int(rng.integers(0, 4))):
        synapse: Synapse = (
            random_conv(rng, shape) if len(shape) == 3 and rng.random() < 0.8 else random_dense(rng, shape)
        )
        layers.append(_layer(rng, f"layer{index}", synapse, 1 if layers else white, reset))
        shape = synapse.output_shape(shape)
    classes = random_dense(rng, shape)
    integrates = bool(rng.random() < 0.6)
    largest = 1 if layers else white
    layers.append(_layer(rng, "output", classes, largest, reset, last=True, integrates=integrates))
    network = QuantizedNetwork(
        input_shape=input_shape,
        layers=tuple(layers),
        timesteps=4,
        max_timesteps=64,
        pixel_bits=pixel_bits,
        reset=reset,
        provenance=Provenance({"seed": seed}),
        poisson_seed=poisson_seed,
    )
    return network, rng.integers(0, 256, (image_count, *input_shape)).astype(np.uint8)


def random_loihi2_network(seed: int, *, image_count: int = 3) -> tuple[QuantizedNetwork, Array]:
    """Return the same for target loihi2: `random_network`'s layers, rounded to the chip's grids; some of them wrap."""
    network, images = random_network(seed, image_count=image_count)
    return on_the_grids(np.random.default_rng([seed, 2]), network), images


def on_the_grids(rng: Choices, network: QuantizedNetwork) -> QuantizedNetwork:
    """Return the network with weights, biases and thresholds that the chip can represent."""
    layers = tuple(_on_the_grids(rng, layer) for layer in network.layers)
    return replace(network, layers=layers, reset="soft", target="loihi2")


def _on_the_grids(rng: Choices, layer: QuantizedLayer) -> QuantizedLayer:
    synapse, neuron = layer.synapse, layer.neuron
    inputs = synapse.weight[0].size * math.prod(synapse.pool) * layer.largest_input
    largest_weight = max(1, min(127, int(0.9 * limits.POTENTIAL_LIMIT) // inputs))
    synapse = replace(synapse, weight=np.clip(synapse.weight, -largest_weight, largest_weight))
    if rng.random() < 0.3:
        # Potentials that only fall, and finally wrap.
        synapse = replace(synapse, weight=-np.abs(synapse.weight))
    if synapse.bias is not None:
        exponent = int(rng.integers(0, 7))
        synapse = replace(synapse, bias=np.clip(synapse.bias >> exponent, -127, 127) << exponent)
    if neuron is None:
        return replace(layer, synapse=synapse)
    exponent = int(rng.integers(0, 8))
    bound = replace(layer, synapse=synapse, neuron=None).largest_current
    widest = min(max(1, (bound // 3) >> exponent), 255)
    threshold = (rng.integers(1, widest + 1, synapse.channels) << exponent).astype(np.int32)
    dead = neuron.threshold == limits.NEVER_FIRES
    threshold[dead] = limits.NEVER_FIRES
    synapse = replace(synapse, weight=synapse.weight * ~dead.reshape(-1, *(1,) * (synapse.weight.ndim - 1)))
    if synapse.bias is not None:
        synapse = replace(synapse, bias=synapse.bias * ~dead.reshape(-1, *(1,) * (synapse.bias.ndim - 1)))
    # Levels may lie 8,191 apart where they count one by one (thresholds up to 255 x 2^5), 16,382 where in pairs.
    pairs = 2 if exponent > 5 else 1
    initial = threshold * bool(neuron.initial_potential.any() or exponent == 7) // 2 // pairs * pairs
    if rng.random() < 0.3 and exponent < 7:
        initial = rng.integers(0, threshold) // pairs * pairs
    initial = initial.astype(np.int32)
    balanced = IntegrateAndFire(threshold * layer.scale, threshold * layer.scale, initial * layer.scale)
    return replace(layer, synapse=synapse, neuron=IntegerNeuron(threshold, initial), balanced=balanced)


def random_conv(rng: Choices, shape: Shape) -> Conv:
    pool = (2, 1 + int(rng.integers(0, 2))) if min(shape[1:]) >= 6 and rng.random() < 0.4 else (1, 1)
    divides = shape[1] % pool[0] == 0 and shape[2] % pool[1] == 0
    groups = shape[0] if rng.random() < 0.3 else 1
    padding = (int(rng.integers(0, 3)), int(rng.integers(0, 2))) if divides else (0, 0)
    pooled = [shape[1] // pool[0] + 2 * padding[0], shape[2] // pool[1] + 2 * padding[1]]
    kernel = [int(rng.integers(1, min(4, extent) + 1)) for extent in pooled]
    dilation = [
        2 if extent >= 2 * (k - 1) + 1 and rng.random() < 0.3 else 1 for extent, k in zip(pooled, kernel, strict=True)
    ]
    channels = groups * int(rng.integers(1, 4))
    conv = Conv(
        weight=rng.integers(-127, 128, (channels, shape[0] // groups, *kernel)).astype(np.int32),
        stride=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        padding=padding,
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        pool=pool,
    )
    bias_shape = {0: None, 1: (channels,), 2: conv.output_shape(shape)}[int(rng.integers(0, 3))]
    bias = None if bias_shape is None else rng.integers(-300, 300, bias_shape).astype(np.int32)
    return Conv(conv.weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups, conv.pool)


def random_dense(rng: Choices, shape: Shape) -> Dense:
    pool = (2, 2) if len(shape) == 3 and min(shape[1:]) >= 2 and rng.random() < 0.5 else (1, 1)
    inputs = shape[0] * (shape[1] // pool[0]) * (shape[2] // pool[1]) if len(shape) == 3 else shape[0]
    outputs = int(rng.integers(2, 11))
    bias = rng.integers(-200, 200, outputs).astype(np.int32) if rng.random() < 0.5 else None
    return Dense(rng.integers(-127, 128, (outputs, inputs)).astype(np.int32), bias, pool)


def _layer(
    rng: Choices,
    name: str,
    synapse: Synapse,
    largest_input: int,
    reset: Reset,
    *,
    last: bool = False,
    integrates: bool = False,
) -> QuantizedLayer:
    if reset == "hard":
        # Lava's LIF wraps a synaptic current beyond 2^17 - 1.
        inputs = synapse.weight[0].size * math.prod(synapse.pool) * largest_input
        largest_weight = max(1, min(127, limits.POTENTIAL_LIMIT // inputs))
        synapse = replace(synapse, weight=np.clip(synapse.weight, -largest_weight, largest_weight))
    scale = rng.uniform(0.001, 1, synapse.channels)
    if last:
        scale = np.full_like(scale, scale[0])
    if integrates:
        return QuantizedLayer(name, synapse, None, scale, largest_input)
    # A tenth of the largest possible current: neurons fire often, sometimes, or hardly ever.
    bound = QuantizedLayer(name, synapse, None, scale, largest_input).largest_current
    threshold = rng.integers(1, min(max(2, bound // 10), limits.THRESHOLD_LIMIT) + 1, synapse.channels).astype(np.int32)
    if rng.random() < 0.2:
        threshold[0] = limits.NEVER_FIRES
    starts_half_full = rng.random() < 0.5 and reset == "soft"
    initial = (threshold // 2 if starts_half_full else 0 * threshold).astype(np.int32)
    balanced = IntegrateAndFire(threshold * scale, threshold * scale, initial * scale)
    return QuantizedLayer(name, synapse, IntegerNeuron(threshold, initial), scale, largest_input, balanced)
