"""Rules on channel activity on given images: silent and saturated channels, clipped potentials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.checks.finding import Rule, Violation
from loihi_convert.checks.network_rules import NetworkRun, channels, idle, layer_runs
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.network import ReluNetwork, is_relay
from loihi_convert.ir.quantized import QuantizedNetwork


@dataclass(frozen=True, eq=False)
class Activity:
    """Activity of one layer on some images.

    Parameters
    ----------
    image_count
        N.
    firing_rate
        Per channel, float64 ``(C,)``: spikes / (N x T x positions), 0..1; in the CNN, the share of activations above 0.
    can_fire
        bool ``(C,)``: whether any image can make it fire; `network_rules.every_channel_can_fire` reports the others.
    low_clipped, high_clipped
        Number of images on which a potential reached the lower or upper limit of Loihi's range.
    is_low_harmless, is_high_harmless
        Whether clipping at that limit changes no spike, see `clipping.HarmlessLimits`.
    is_readout
        Whether its channels are the outputs.
    is_relay
        bool ``(C,)``: relays (`ir.network`), which are silent or saturated whenever their source is, and not reported;
        ``None`` without relays.
    """

    image_count: int
    firing_rate: Array
    can_fire: Array
    low_clipped: int = 0
    high_clipped: int = 0
    is_low_harmless: bool = False
    is_high_harmless: bool = False
    is_readout: bool = False
    is_relay: Array | None = None

    @property
    def own(self) -> Array:
        """Channels that are not relays: bool ``(C,)``."""
        return np.ones(len(self.firing_rate), np.bool_) if self.is_relay is None else ~self.is_relay


@dataclass(frozen=True, eq=False)
class NetworkActivity:
    """Activity of a native network on N images.

    Parameters
    ----------
    layers
        Each layer with neurons, with its name.
    image_count
        N.
    wrapped_images
        Number of images on which u of a stock neuron wrapped; 0 for custom neurons, which clip.
    """

    layers: tuple[tuple[str, Activity], ...]
    image_count: int
    wrapped_images: int


def network_activity(
    network: QuantizedNetwork, images: Array, timesteps: int, *, device: str = "cpu", progress: Progress = no_progress
) -> NetworkActivity:
    """Return the activity of ``network`` on uint8 ``images``, ``(N, C, H, W)``, over T steps."""
    # The simulator loads torch, which a check without images does not need.
    from loihi_convert.backends.result import check_run
    from loihi_convert.simulation.layers import Recording
    from loihi_convert.simulation.simulator import Block, Simulator, harmless_limits

    check_run(network, images, timesteps)
    spikes = [np.zeros(layer.synapse.channels, np.int64) for layer in network.spiking_layers]
    beyond = np.zeros((len(network.layers), len(images), 2), np.bool_)

    def take(block: Block) -> None:
        for index, layer in enumerate(block.layers):
            beyond[index, block.images] |= layer.clipped
        for count, layer in zip(spikes, block.layers, strict=False):
            count += layer.channel_spikes.sum(axis=0)

    simulator = Simulator(network, Recording(counts=True, clipping=True), device=device)
    simulator.run(images, timesteps, take, progress=progress)
    # Stock neurons do not clip, but wrap.
    wraps = network.is_circuit
    clipped = np.zeros_like(beyond) if wraps else beyond
    moments = len(images) * timesteps
    layers = []
    runs = [run for _, run in layer_runs(NetworkRun(network, timesteps))]
    for index, layer in enumerate(network.spiking_layers):
        low, high = clipped[index].sum(axis=0)
        positions = math.prod(network.shapes[index][1:])
        activity = Activity(
            image_count=len(images),
            firing_rate=spikes[index] / (moments * positions),
            can_fire=runs[index].can_fire,
            low_clipped=int(low),
            high_clipped=int(high),
            **harmless_limits(network, index)._asdict(),
            is_readout=runs[index].is_readout,
            is_relay=~runs[index].own,
        )
        layers.append((layer.name, activity))
    return NetworkActivity(tuple(layers), len(images), int(np.count_nonzero(beyond.any(axis=(0, 2)))) if wraps else 0)


def cnn_activity(network: ReluNetwork, images: Array) -> Iterator[tuple[str, Activity]]:
    """Yield the activity on ``images`` of each layer of the CNN with a ReLU."""
    from loihi_convert.simulation.relu import relu_outputs

    positive = [np.zeros(layer.synapse.channels) for layer in network.layers[:-1]]
    for outputs in relu_outputs(network, images):
        for count, maps in zip(positive, outputs[:-1], strict=True):
            above = maps.numpy() > 0
            count += above.reshape(*above.shape[:2], -1).sum(axis=(0, 2))
    for layer, shape, count in zip(network.layers[:-1], network.shapes[:-1], positive, strict=True):
        rate = count / (len(images) * math.prod(shape[1:]))
        alive, relays = np.ones(len(rate), np.bool_), is_relay(layer.relay_of, len(rate))
        yield layer.name, Activity(len(images), rate, alive, is_relay=relays)


def every_channel_is_active(activity: Activity) -> Violation | None:
    silent = (activity.firing_rate == 0) & activity.can_fire & activity.own
    if not silent.any():
        return None
    what = f"silent on all of {activity.image_count:,} images"
    fix = "Check more images; prune the channels that stay silent."
    return idle(silent, activity.own, what, fix, activity.is_readout)


def no_channel_is_active_at_every_step(activity: Activity) -> Violation | None:
    saturated = (activity.firing_rate == 1) & activity.own
    if not saturated.any():
        return None
    found = f"{channels(saturated, activity.own)} fire at every step and position of {activity.image_count:,} images"
    fix = "Balance for higher thresholds: export with `method='percentile'` and `percentile=99.9`."
    return Violation(found, "a saturated channel carries no information", "", fix)


def no_potential_meets_the_upper_end(activity: Activity) -> Violation | None:
    images = 0 if activity.is_high_harmless else activity.high_clipped
    return _clipped(activity, images, f"{limits.POTENTIAL_LIMIT:,}; spikes may be lost")


def no_potential_meets_the_lower_end(activity: Activity) -> Violation | None:
    images = 0 if activity.is_low_harmless else activity.low_clipped
    return _clipped(activity, images, f"{-limits.POTENTIAL_LIMIT:,}; inhibition may be lost")


def _clipped(activity: Activity, images: int, end: str) -> Violation | None:
    if not images:
        return None
    found = f"potentials clipped on {images:,} of {activity.image_count:,} images"
    fix = "`diagnose` measures what this costs a classification."
    return Violation(found, f"the range ends at {end}", "lava/proc/lif/models.py", fix)


def no_current_wraps(activity: NetworkActivity) -> Violation | None:
    if not activity.wrapped_images:
        return None
    found = f"u of a stock neuron wraps on {activity.wrapped_images:,} of {activity.image_count:,} images"
    limit = f"must be in +-{limits.POTENTIAL_LIMIT:,}: beyond that u wraps and the potential is wrong"
    return Violation(found, limit, "lava/proc/lif/models.py", "Export for a smaller T, or with fewer `weight_bits`.")


ACTIVITY_RULES: Final[tuple[Rule[Activity], ...]] = (
    Rule(every_channel_is_active, "warning"),
    Rule(no_channel_is_active_at_every_step, "warning"),
    Rule(no_potential_meets_the_upper_end, "warning"),
    Rule(no_potential_meets_the_lower_end, "note", "warning"),
)

CNN_ACTIVITY_RULES: Final = ACTIVITY_RULES[:1]
"""Rules for the CNN, where a channel that is positive everywhere is not saturated: activations have no upper limit."""

NETWORK_ACTIVITY_RULES: Final[tuple[Rule[NetworkActivity], ...]] = (Rule(no_current_wraps, "warning"),)
