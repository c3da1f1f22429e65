"""Cost of rounding a network to Loihi's integers, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.chip_scales import is_proven
from loihi_convert.ground.arrays import Array, signed_bits
from loihi_convert.ground.choices import Target
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.network import SpikingNetwork
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.relays import is_relay
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.simulator import HarmlessLimits, clipped_images, harmless_limits


@dataclass(frozen=True)
class LayerReport:
    """Cost of rounding one layer, without its relays, which are rounded without error.

    Parameters
    ----------
    name
        The layer.
    weight_bits
        Bits used by the widest weight of a channel, sign included: (smallest, median, largest) over the channels that
        can fire, or integrate; ``None`` if there are none.
    weight_error
        Root mean square of the rounding error of the weights, divided by that of the weights themselves, over the
        channels that can fire.
    thresholds
        (smallest, largest) of the channels that can fire; ``None`` if none can, or the layer only integrates.
    threshold_error
        Largest relative rounding error of a threshold; 0 without thresholds.
    dead_channels
        Channels that can never fire.
    low_clipped, high_clipped, either_clipped
        Calibration images on which a potential passed its lower limit, its upper limit, or either. For target loihi2:
        images on which u wrapped.
    identity_ratio
        If skip connections enter: the weight of a skip divided by the largest other weight of the same channel, the
        median over the channels that a skip enters; see `identity_ratio`. ``None`` without skips.
    is_low_harmless, is_high_harmless
        Whether clipping at that limit changes no spike, see `HarmlessLimits`.
    is_proven
        For target loihi2: True if no image can make u wrap; False if it only stays in range on the calibration images.
        ``None`` for target lava, whose potentials clip.
    """

    name: str
    weight_bits: tuple[int, int, int] | None
    weight_error: float
    thresholds: tuple[int, int] | None
    dead_channels: tuple[int, ...]
    low_clipped: int
    high_clipped: int
    either_clipped: int
    threshold_error: float = 0.0
    is_proven: bool | None = None
    identity_ratio: float | None = None
    is_low_harmless: bool = False
    is_high_harmless: bool = False

    @property
    def harmful_clips(self) -> int:
        """Calibration images on which clipping may have changed spikes or outputs."""
        harmless = HarmlessLimits(self.is_low_harmless, self.is_high_harmless)
        return harmless.harmful(self.low_clipped, self.high_clipped, self.either_clipped)

    @property
    def identity_bits(self) -> float | None:
        """Weight bits lost by the channels that skips enter: log2 of `identity_ratio`, at least 0."""
        return None if self.identity_ratio is None else max(0.0, math.log2(self.identity_ratio))


@dataclass(frozen=True)
class QuantizationReport:
    """Cost of rounding, layer by layer.

    Parameters
    ----------
    layers
        One per layer.
    image_count
        Number of calibration images on which clipping was counted.
    timesteps
        Number of steps over which clipping was counted.
    max_timesteps
        Largest T for which the output potentials stay in range.
    target
        Target of the network.
    pixel_bits
        Pixel bits of the network.
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
    images: ImageArray,
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> QuantizationReport:
    """Return the cost of rounding ``real`` to ``network``.

    Clipping is counted on ``images``, uint8 ``(N, C, H, W)``, over ``network.timesteps`` steps.
    """
    clipped = clipped_images(network, images, network.timesteps, device=device, progress=progress)
    layers = []
    for index, (layer, before, counts, amplitude) in enumerate(
        zip(network.layers, real.layers, clipped, network.received_amplitudes, strict=True)
    ):
        synapse = before.synapse if amplitude is None else before.synapse.with_input_factors(amplitude)
        proven = None
        if network.is_circuit:
            proven = is_proven(layer, network.timesteps, is_constant=network.has_constant_current(index))
        skips = identity_ratio(synapse, network.layers[index - 1].relay_of if index else None)
        report = _layer_report(layer, synapse.weight, counts, proven, skips)
        layers.append(replace(report, **harmless_limits(network, index)._asdict()))
    return QuantizationReport(
        tuple(layers), len(images), network.timesteps, network.max_timesteps, network.target, network.pixel_bits
    )


def _layer_report(
    layer: QuantizedLayer, real: Array, clipped: Array, proven: bool | None, skips: float | None
) -> LayerReport:
    """Report of one layer; ``real`` are the weights before rounding, with amplitudes, ``skips`` is `identity_ratio`."""
    own = ~is_relay(layer.relay_of, layer.synapse.channels)
    dead = np.zeros(len(own), np.bool_) if layer.balanced is None else ~np.isfinite(layer.balanced.threshold) & own
    alive = own & ~dead
    rows = layer.weight.reshape(len(own), -1)[alive]
    bits = signed_bits(np.abs(rows).max(axis=1))
    fires = None if layer.threshold is None else layer.threshold[(layer.threshold < limits.NEVER_FIRES) & own]
    scale = layer.scale[alive, None] * layer.largest_input_sum
    wanted = real.reshape(len(own), -1)[alive]
    lost = float(np.square(wanted - rows * scale).sum())
    return LayerReport(
        name=layer.name,
        weight_bits=(int(bits.min()), int(np.median(bits)), int(bits.max())) if bits.size else None,
        weight_error=math.sqrt(lost / (float(np.square(wanted).sum()) or 1.0)),
        thresholds=None if fires is None or fires.size == 0 else (int(fires.min()), int(fires.max())),
        dead_channels=tuple(int(channel) for channel in np.flatnonzero(dead)),
        low_clipped=int(clipped[0]),
        high_clipped=int(clipped[1]),
        either_clipped=int(clipped[2]),
        threshold_error=_threshold_error(layer),
        is_proven=proven,
        identity_ratio=skips,
    )


def identity_ratio(synapse: Synapse, relay_of: Array | None) -> float | None:
    """Return the size of the weights of skips relative to the other weights of the channels they enter.

    A relay enters a layer as an *identity* if it has a single weight there, one tap into one channel that also has
    weights from other inputs. It contains the amplitude that the relay repeats. Since all weights of a channel share
    one scale, the others lose the logarithm of the ratio in bits: the largest weight of an identity divided by the
    largest other weight, the median over the channels that have both; None if there are none. ``synapse`` is in
    floating point, with amplitudes, ``relay_of`` that of the layer before.
    """
    if relay_of is None:
        return None
    groups = synapse.groups if isinstance(synapse, Conv) else 1
    weight = np.abs(synapse.weight)
    # (groups, outputs and inputs of a group, taps)
    taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    inputs = np.repeat(is_relay(relay_of, len(relay_of)), groups * weight.shape[1] // len(relay_of))
    is_identity = (np.count_nonzero(taps, axis=(1, 3)) == 1) & inputs.reshape(groups, -1)
    largest = taps.max(axis=3)
    skips = np.where(is_identity[:, None], largest, 0).max(axis=2)
    others = np.where(is_identity[:, None], 0, largest).max(axis=2)
    joined = (skips > 0) & (others > 0)
    return float(np.median(skips[joined] / others[joined])) if joined.any() else None


def _threshold_error(layer: QuantizedLayer) -> float:
    if layer.threshold is None or layer.balanced is None:
        return 0.0
    alive = np.isfinite(layer.balanced.threshold) & ~is_relay(layer.relay_of, layer.synapse.channels)
    real = layer.balanced.threshold[alive]
    return float((np.abs(layer.threshold[alive] * layer.scale[alive] - real) / real).max(initial=0))
