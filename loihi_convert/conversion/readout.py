"""The range of output potentials: the largest T of a file, and a readout in two digits.

**Two digits** (`with_split_readout`, `quantized.split`) are used if one potential's range would cost weight bits.

After a global average the potential must hold T x window x rate, and the scale of `scales.lava_scales` leaves 2 or 3
weight bits at T = 64. In two digits the weights have the scale at which rounding changes them least, or twice that,
four times and so on, if the potentials of the digits would otherwise leave their range, up to the scale in one digit.
The low digit has the number of bits b for which the larger of both potentials, on calibration images, is smallest. One
simulation gives the potentials of all candidates.

**Largest T** (`max_timesteps`). The output potential grows by the last layer's current in each step. Its size at the T
of balancing means little if T is small, because hardly any spikes have arrived by then. In the long run a soft-reset
neuron with mean current a fires at the rate ``min(a / theta, 1)``, so that the current tends to that of the network
with activations clipped at the thresholds. A neuron with hard reset loses charge at each spike: with constant current
it fires every ceil(theta / a) steps. As this may lower negative contributions more than positive ones, both rates
count. The largest of these growth rates counts, of each output on calibration images, with headroom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.scales import HEADROOM, FloatLayer, nearest
from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import MAX_TIMESTEPS
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.quantized import MAX_LOW_BITS, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import without_input_factors
from loihi_convert.simulation.image_shards import ImageArray, Shard, on_shards
from loihi_convert.simulation.relu import Activation, ReluChain, clipped, on_blocks, unchanged
from loihi_convert.simulation.simulator import extremes


def with_split_readout(
    network: QuantizedNetwork, real: FloatLayer, spiking: SpikingNetwork, images: ImageArray, *, device: str = "cpu"
) -> QuantizedNetwork:
    """Return ``network`` with a two-digit readout if that gains at least one weight bit, otherwise unchanged.

    Parameters
    ----------
    network
        The network with a one-digit readout.
    real
        Its readout before rounding.
    spiking
        The float SNN that ``network`` was rounded from.
    images, device
        As in `quantization.quantize`.
    """
    scale, used = nearest(real), network.layers[-1].scale / real.unit
    scale = np.where(scale > 0, scale, used)
    candidates: list[QuantizedLayer] = []
    while (2 * scale <= used).any():
        candidates += _candidates(network, real.quantize(scale))
        scale = np.minimum(2 * scale, used)
    peaks = _peaks(network, candidates, images, device)
    fits = [
        (float(layer.scale.sum()), float(peak.max()), index)
        for index, (layer, peak) in enumerate(zip(candidates, peaks, strict=True))
        if HEADROOM * peak.max() <= limits.POTENTIAL_LIMIT
    ]
    if not fits:
        return network
    # The finest scales, and at these scales the smallest potentials.
    *_, index = min(fits)
    return _replaced(network, candidates[index], spiking, peaks[index], images)


def _candidates(network: QuantizedNetwork, whole: QuantizedLayer) -> list[QuantizedLayer]:
    """``whole`` in two digits, for every b that satisfies the exactness rules."""
    found = []
    for low_bits in range(1, MAX_LOW_BITS + 1):
        layer = replace(whole, low_bits=low_bits)
        try:
            replace(network, layers=(*network.layers[:-1], layer))
        except RangeError:
            continue
        found.append(layer)
    return found


def _peaks(network: QuantizedNetwork, candidates: list[QuantizedLayer], images: ImageArray, device: str) -> Array:
    """The largest potentials of both digits in any step, for each of ``candidates``: float64 ``(N, digits)``."""
    if not candidates:
        return np.zeros((0, 0))
    layers = [layer.stored for layer in candidates]
    synapse, biases = layers[0].synapse, [layer.bias for layer in layers if layer.bias is not None]
    all_of_them = replace(
        layers[0],
        synapse=replace(
            synapse,
            weight=np.concatenate([layer.weight for layer in layers]),
            bias=np.concatenate(biases) if biases else None,
        ),
        scale=np.concatenate([layer.scale for layer in layers]),
    )
    probe = replace(network, layers=(*network.layers[:-1], all_of_them))
    return extremes(probe, images, network.timesteps, device=device).outputs.reshape(len(candidates), -1)


def _replaced(
    network: QuantizedNetwork, chosen: QuantizedLayer, spiking: SpikingNetwork, peaks: Array, images: ImageArray
) -> QuantizedNetwork:
    """``network`` with the readout ``chosen``, and the largest T for which both potentials stay in range."""
    stored = chosen.stored
    amplitude = network.received_amplitudes[-1]
    # Growth of the potentials per step due to the CNN's activations, in weight units.
    synapse = replace(stored.synapse, weight=stored.weight.astype(np.float64) * stored.largest_input_sum)
    if amplitude is not None:
        synapse = without_input_factors(synapse, amplitude)
    digits = replace(spiking, layers=(*spiking.layers[:-1], SpikingLayer(stored.name, synapse, None)))
    longest = max_timesteps(digits, replace(stored, scale=np.ones(len(stored.scale))), peaks, images)
    part = {**network.provenance["quantize"], "low_bits": chosen.low_bits}
    return replace(
        network,
        layers=(*network.layers[:-1], chosen),
        max_timesteps=longest,
        provenance=network.provenance.with_parts(quantize=part),
    )


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
