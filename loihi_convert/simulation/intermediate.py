"""The networks between a CNN and its exported file: each differs from the one before in one respect.

With a the input of a neuron (from the layers before, as they are in that network), theta its threshold, V0 its initial
potential and T time steps, a layer passes to the next

====================  ================================================================================================
change                activation
====================  ================================================================================================
(the CNN)             relu(a), or that of `qcfs.Qcfs`
`clipping`            min(the CNN's, theta); 0 in channels that can never fire
`amplitude`           the same, times amplitude / theta; only if the amplitude is not the threshold
`levels`              amplitude / T x clip(floor(a T / theta + 1/2), 0, T)
`initial_potential`   amplitude / T x clip(floor(a T / theta + V0 / theta), 0, T); only if V0 is not theta / 2
`timing`              amplitude x spikes / T of simulated soft-reset neurons, which also depend on the order of spikes
                      (the first layer's current is constant: there it equals the line above)
`input`               the same with pixels as Poisson spikes, if the file uses them
`correction`          the same with biases corrected by `balancing.correct_biases`, if the file has them
`reset`               the same with hard reset and the amplitudes fitted to it, if the file has it
`weights`             the same with the weights of the file: integer x scale / amplitude of its input
`thresholds`          spikes of the file's integers: thresholds, V0, biases and pixels are rounded too
`saturation`          the same with potentials limited to +-131071: the file, as `ref` runs it
====================  ================================================================================================

Relays (`ir.network`) pass on their input in all these networks: their threshold, amplitude and weight are set so that
they repeat their source there. So each change acts on a value once, in its source.

A last layer that only integrates gives its potential / T instead; where nothing is simulated, its input a.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from loihi_convert.ground.arrays import Array, by_channel
from loihi_convert.ir.network import (
    IntegrateAndFire,
    ReluNetwork,
    SpikingLayer,
    SpikingNetwork,
    only_relays,
    own_channels,
)
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import without_input_factors
from loihi_convert.simulation.layers import Recording
from loihi_convert.simulation.relu import Activation, ReluChain, clipped, cnn_activation, unchanged
from loihi_convert.simulation.simulator import Block, Simulator

Cause = Literal[
    "clipping",
    "amplitude",
    "levels",
    "initial_potential",
    "timing",
    "input",
    "correction",
    "reset",
    "weights",
    "thresholds",
    "saturation",
]


class Intermediate(NamedTuple):
    """A network between the CNN and the file.

    Parameters
    ----------
    cause
        The change from the network before it.
    activations
        float32 ``(N, H, W, C)`` per layer for uint8 images ``(N, C, H, W)``, and the index of the first of them in the
        whole run, which chooses the Poisson spikes; see the table of this module.
    """

    cause: Cause
    activations: Callable[[Array, int], list[Array]]


def intermediate_networks(
    cnn: ReluNetwork, spiking: SpikingNetwork, network: QuantizedNetwork, timesteps: int, *, device: str = "cpu"
) -> tuple[Intermediate, ...]:
    """Return the networks between ``cnn`` and ``network``, that of the file; it was rounded from ``spiking``."""
    own = [layer.neuron for layer in spiking.layers]
    compensated = [neuron and replace(neuron, amplitude=_threshold_amplitude(neuron)) for neuron in own]
    # A fitted amplitude belongs to the hard reset; before that change it is the threshold.
    is_fitted = spiking.reset == "hard" and not any(neuron is not None and neuron.is_literal for neuron in own)
    neurons = _repeating(cnn, compensated if is_fitted else own)
    layers = tuple(replace(layer, neuron=neuron) for layer, neuron in zip(spiking.layers, neurons, strict=True))
    corrected = replace(spiking, reset="soft", layers=layers)
    uncorrected = replace(
        corrected,
        layers=tuple(replace(layer, synapse=source.synapse) for layer, source in zip(layers, cnn.layers, strict=True)),
    )

    def chain(
        activation: Callable[[int, IntegrateAndFire, Array], Array], used: Sequence[IntegrateAndFire | None] = neurons
    ) -> Callable[[Array, int], list[Array]]:
        activations = [
            unchanged if neuron is None else _but_relays(functools.partial(activation, index, neuron), layer.relay_of)
            for index, (neuron, layer) in enumerate(zip(used, cnn.layers, strict=True))
        ]
        own = ReluChain(cnn, activations=activations)
        return lambda images, _: own(images)

    def clipping(index: int, neuron: IntegrateAndFire, maps: Array) -> Array:
        return clipped(cnn_activation(cnn, index)(maps), neuron)

    def nearest(_: int, neuron: IntegrateAndFire, maps: Array) -> Array:
        return _counted(maps, neuron, np.full_like(neuron.threshold, 0.5), timesteps)

    def from_initial(_: int, neuron: IntegrateAndFire, maps: Array) -> Array:
        finite = np.where(np.isfinite(neuron.threshold), neuron.threshold, 1.0)
        return _counted(maps, neuron, neuron.initial_potential / finite, timesteps)

    rates = functools.partial(_Rates, timesteps=timesteps, device=device)
    alive = [
        (own_channels(layer.relay_of), neuron)
        for neuron, layer in zip(neurons, cnn.layers, strict=True)
        if neuron is not None and not only_relays(layer.relay_of)
    ]
    is_literal = any((neuron.amplitude != _threshold_amplitude(neuron))[own].any() for own, neuron in alive)
    is_half = all((neuron.initial_potential == _threshold_amplitude(neuron) / 2)[own].all() for own, neuron in alive)
    found: list[tuple[Cause, bool, Callable[[], Callable[[Array, int], list[Array]]]]] = [
        ("clipping", True, lambda: chain(clipping, compensated)),
        ("amplitude", is_literal, lambda: chain(clipping)),
        ("levels", True, lambda: chain(nearest)),
        ("initial_potential", not is_half, lambda: chain(from_initial)),
        ("timing", True, lambda: rates(replace(uncorrected, poisson_seed=None))),
        ("input", spiking.poisson_seed is not None, lambda: rates(uncorrected)),
        ("correction", any(layer.correction is not None for layer in spiking.layers), lambda: rates(corrected)),
        ("reset", spiking.reset == "hard", lambda: rates(spiking)),
        ("weights", True, lambda: rates(_with_rounded_weights(spiking, network))),
        ("thresholds", True, lambda: rates(network, saturates=False)),
        ("saturation", True, lambda: rates(network, saturates=True)),
    ]
    return tuple(Intermediate(cause, made()) for cause, differs, made in found if differs)


class _Rates:
    """The simulated activations of a network as a function of images."""

    def __init__(
        self, network: SpikingNetwork | QuantizedNetwork, timesteps: int, device: str, *, saturates: bool = True
    ) -> None:
        self._simulator = Simulator(network, Recording(spikes=True), device=device, saturates=saturates)
        self._timesteps = timesteps
        self._shapes = [shape if len(shape) == 3 else (*shape, 1, 1) for shape in network.shapes]
        if isinstance(network, QuantizedNetwork):
            amplitudes, units = network.used_amplitudes, [layer.scale for layer in network.layers]
        else:
            amplitudes = tuple(None if layer.neuron is None else layer.neuron.amplitude for layer in network.layers)
            units = [np.ones(layer.synapse.channels) for layer in network.layers]
        self._spikes = [amplitude is not None for amplitude in amplitudes]
        # Value of a spike, or of a unit of the last layer's potential.
        self._factors = [
            ((unit if amplitude is None else amplitude) / timesteps).astype(np.float32)
            for amplitude, unit in zip(amplitudes, units, strict=True)
        ]

    def __call__(self, images: Array, first_image: int) -> list[Array]:
        found = [
            np.zeros((len(images), height, width, channels), np.float32) for channels, height, width in self._shapes
        ]

        def take(block: Block) -> None:
            for maps, layer, spikes in zip(found, block.layers, self._spikes, strict=True):
                if spikes:
                    maps[block.images] += layer.spikes.sum(axis=1, dtype=np.float32)
                else:
                    maps[block.images] = layer.potentials[:, -1]

        self._simulator.run(images, self._timesteps, take, first_image=first_image)
        return [maps * factor for maps, factor in zip(found, self._factors, strict=True)]


def _but_relays(activation: Activation, relay_of: Array | None) -> Activation:
    """``activation`` in all channels but relays, which pass on their input."""
    if relay_of is None:
        return activation
    relays = np.flatnonzero(relay_of >= 0)

    def activated(maps: Array) -> Array:
        passed_on = maps[..., relays]
        found = activation(maps)
        found[..., relays] = passed_on
        return found

    return activated


def _repeating(cnn: ReluNetwork, neurons: Sequence[IntegrateAndFire | None]) -> list[IntegrateAndFire | None]:
    """``neurons`` with the threshold and amplitude of each relay set to its source's amplitude, and its V0 to 0."""
    found: list[IntegrateAndFire | None] = []
    for layer, neuron in zip(cnn.layers, neurons, strict=True):
        before = found[-1] if found else None
        found.append(None if neuron is None else neuron.with_relays(before, layer.relay_of))
    return found


def _counted(maps: Array, neuron: IntegrateAndFire, share: Array, timesteps: int) -> Array:
    """amplitude / T x clip(floor(maps T / threshold + share), 0, T)."""
    spent = maps * np.float32(timesteps) / neuron.threshold.astype(np.float32)
    counts = np.floor(spent + share.astype(np.float32))
    return np.asarray(np.clip(counts, 0, timesteps) * (neuron.amplitude / timesteps).astype(np.float32))


def _threshold_amplitude(neuron: IntegrateAndFire) -> Array:
    """Amplitudes equal to the thresholds; 0 for channels that can never fire."""
    return np.where(np.isfinite(neuron.threshold), neuron.threshold, 0.0)


def _with_rounded_weights(spiking: SpikingNetwork, network: QuantizedNetwork) -> SpikingNetwork:
    """``spiking`` with the weights of ``network`` in the CNN's units."""
    layers: list[SpikingLayer] = []
    for layer, rounded, amplitude in zip(spiking.layers, network.layers, network.received_amplitudes, strict=True):
        unit = rounded.scale * rounded.largest_input_sum
        weight = rounded.weight * by_channel(unit, rounded.weight.ndim)
        synapse = replace(layer.synapse, weight=weight)
        if amplitude is not None:
            synapse = without_input_factors(synapse, amplitude)
        layers.append(replace(layer, synapse=synapse))
    return replace(spiking, layers=tuple(layers))
