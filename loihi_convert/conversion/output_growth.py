"""Limit on the steps of a run: the largest T for which output potentials stay in Loihi's range.

The output potential grows by the last layer's current in each step. Its size at the T of balancing means little if T is
small, because hardly any spikes have arrived by then. In the long run a soft-reset neuron with mean current a fires at
the rate ``min(a / theta, 1)``, so that the current tends to that of the network with activations clipped at the
thresholds. A neuron with hard reset loses charge at each spike: with constant current it fires every ceil(theta / a)
steps. As this may lower negative contributions more than positive ones, both rates count. The largest of these growth
rates counts, of each output on calibration images, with headroom.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.choices import MAX_TIMESTEPS
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.image_shards import ImageArray, Shard, on_shards
from loihi_convert.simulation.relu import Activation, ReluChain, clipped, on_blocks, unchanged


def max_timesteps(
    network: SpikingNetwork, output: QuantizedLayer, largest_potentials: Array, images: ImageArray
) -> int:
    """Return the largest T for which the output potentials of calibration images stay in range.

    Parameters
    ----------
    network
        The float SNN.
    output
        Its last layer in integers.
    largest_potentials
        The largest magnitude of each output's potential in the steps that ``network`` is balanced for, in floating
        point: float64 ``(outputs,)``.
    images
        The calibration images of ``largest_potentials``, uint8 ``(N, C, H, W)``.
    """
    if output.neuron is not None:
        return MAX_TIMESTEPS
    found = [largest_potentials / network.timesteps, *on_shards(_largest_of_shard, network, images)]
    growth: Array = np.maximum.reduce(found)
    grows = growth > 0
    steps = limits.POTENTIAL_LIMIT * output.scale[grows] / (HEADROOM * growth[grows])
    return max(network.timesteps, math.floor(float(steps.min(initial=MAX_TIMESTEPS))))


def _largest_of_shard(network: SpikingNetwork, shard: Shard, *, progress: Progress = no_progress) -> Array:
    """The largest magnitude of each output at the neurons' rates in the long run: float64 ``(outputs,)``."""

    def activation(neuron: IntegrateAndFire | None, rate: Callable[[Array, IntegrateAndFire], Array]) -> Activation:
        return unchanged if neuron is None else lambda maps: rate(maps, neuron)

    synapses = ReluNetwork(network.input_shape, tuple(ReluLayer(layer.name, layer.synapse) for layer in network.layers))
    largest: list[Array] = []
    images = np.asarray(shard.images)
    for rate in (clipped,) if network.reset == "soft" else (clipped, _of_hard_reset):
        chain = ReluChain(synapses, activations=[activation(layer.neuron, rate) for layer in network.layers])
        on_blocks(chain, images, lambda _, outputs: largest.append(_per_output(outputs[-1])), progress=progress)
    return np.asarray(np.maximum.reduce(largest), np.float64)


def _per_output(maps: Array) -> Array:
    """The largest magnitude of each output over all images."""
    return np.asarray(np.abs(maps).reshape(-1, maps.shape[-1]).max(axis=0))


def _of_hard_reset(maps: Array, neuron: IntegrateAndFire) -> Array:
    """Return the mean output per step of a neuron with hard reset whose current is the same in each step."""
    # In float64, as a threshold divided by a tiny current is beyond float32.
    steps = np.ceil(neuron.threshold / np.maximum(maps, np.finfo(np.float32).tiny))
    return np.where(maps > 0, neuron.amplitude / steps, 0).astype(np.float32)
