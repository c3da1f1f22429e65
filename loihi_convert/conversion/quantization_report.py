"""What rounding a network to Loihi's integers has cost, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.chip import limits
from loihi_convert.conversion.chip_scales import is_proven
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork, Target
from loihi_convert.ir.relays import is_relay
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.simulator import clipped_images


@dataclass(frozen=True)
class LayerReport:
    """What quantizing one layer cost; its relays, which are rounded without error, are left out.

    Parameters
    ----------
    name
        The layer.
    weight_bits
        Bits used by the widest weight of a channel, sign included: (smallest, median, largest) over the channels;
        ``None`` where all are relays.
    weight_error
        What rounding changed: root mean square difference between rounded and real weights over the root mean square
        of these, of the channels that can fire.
    thresholds
        (smallest, largest) of the channels that can fire; ``None`` where none can, or the layer only integrates.
    threshold_error
        What rounding changed at most of a threshold, in parts of it; 0 where there are none.
    dead_channels
        Channels that can never fire.
    low_clipped, high_clipped
        Calibration images on which some neuron ran into the lower / upper limit of the potential. The lower one is
        harmless in the first layer: a constant negative current never fires. Of target loihi2, on which u wrapped.
    is_proven
        Of target loihi2, whether no image whatever can wrap u; else it was only held in range on calibration images.
        ``None`` for target lava, whose potentials clip.
    """

    name: str
    weight_bits: tuple[int, int, int] | None
    weight_error: float
    thresholds: tuple[int, int] | None
    dead_channels: tuple[int, ...]
    low_clipped: int
    high_clipped: int
    threshold_error: float = 0.0
    is_proven: bool | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """What quantizing cost, layer by layer.

    Parameters
    ----------
    layers
        One per layer.
    image_count
        Calibration images the clipping was counted on.
    timesteps
        Steps the clipping was counted over.
    max_timesteps
        Largest T for which the output potentials stay in range.
    target
        Of the network.
    pixel_bits
        Of the network.
    """

    layers: tuple[LayerReport, ...]
    image_count: int
    timesteps: int
    max_timesteps: int
    target: Target = "lava"
    pixel_bits: int = limits.MAX_PIXEL_BITS


def report_quantization(
    network: QuantizedNetwork,
    real: SpikingNetwork,
    images: Array,
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> QuantizationReport:
    """Return what rounding ``real`` to ``network`` cost.

    What clips is counted on ``images``, uint8 ``(N, C, H, W)``, in ``network.timesteps`` steps.
    """
    clipped = clipped_images(network, images, network.timesteps, device=device, progress=progress)
    layers = []
    amplitudes = (None, *network.used_amplitudes[:-1])
    for index, (layer, before, (low, high), amplitude) in enumerate(
        zip(network.layers, real.layers, clipped, amplitudes, strict=True)
    ):
        synapse = before.synapse if amplitude is None else before.synapse.with_input_factors(amplitude)
        proven = None
        if network.target == "loihi2":
            is_constant = index == 0 and network.poisson_seed is None
            proven = is_proven(layer, network.timesteps, is_constant=is_constant)
        layers.append(_account_layer(layer, synapse.weight, int(low), int(high), proven))
    return QuantizationReport(
        tuple(layers), len(images), network.timesteps, network.max_timesteps, network.target, network.pixel_bits
    )


def _account_layer(layer: QuantizedLayer, real: Array, low: int, high: int, proven: bool | None) -> LayerReport:
    """``real`` are the weights that were rounded, with amplitudes."""
    own = ~is_relay(layer.relay_of, layer.synapse.channels)
    rows = layer.weight.reshape(layer.synapse.channels, -1)
    bits = np.ceil(np.log2(np.abs(rows[own]).max(axis=1).astype(np.float64) + 1)).astype(np.int64) + 1
    fires = None if layer.threshold is None else layer.threshold[(layer.threshold < limits.NEVER_FIRES) & own]
    dead = np.zeros(len(rows), np.bool_) if layer.balanced is None else ~np.isfinite(layer.balanced.threshold) & own
    scale = layer.scale * math.prod(layer.synapse.pool) * layer.largest_input
    wanted = real.reshape(len(rows), -1)[~dead & own]
    lost = float(np.square(wanted - rows[~dead & own] * scale[~dead & own, None]).sum())
    return LayerReport(
        name=layer.name,
        weight_bits=(int(bits.min()), int(np.median(bits)), int(bits.max())) if bits.size else None,
        weight_error=math.sqrt(lost / (float(np.square(wanted).sum()) or 1.0)),
        thresholds=None if fires is None or fires.size == 0 else (int(fires.min()), int(fires.max())),
        dead_channels=tuple(int(channel) for channel in np.flatnonzero(dead)),
        low_clipped=low,
        high_clipped=high,
        threshold_error=_threshold_error(layer),
        is_proven=proven,
    )


def _threshold_error(layer: QuantizedLayer) -> float:
    if layer.threshold is None or layer.balanced is None:
        return 0.0
    alive = np.isfinite(layer.balanced.threshold) & ~is_relay(layer.relay_of, layer.synapse.channels)
    real = layer.balanced.threshold[alive]
    return float((np.abs(layer.threshold[alive] * layer.scale[alive] - real) / real).max(initial=0))
