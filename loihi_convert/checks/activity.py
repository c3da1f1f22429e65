"""What channels do on images: of a network of ours, those that never or always fire, and what clips; of the CNN, the
silent ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_network
from loihi_convert.checks.finding import Rule, Violation
from loihi_convert.checks.integer_rules import NetworkRun, channels, idle, layer_runs
from loihi_convert.chip import limits
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.relu import relu_outputs
from loihi_convert.simulation.simulator import clipped_images


@dataclass(frozen=True, eq=False)
class Activity:
    """What one layer did on images.

    Parameters
    ----------
    image_count
        N.
    firing_rate
        Per channel, float64 ``(C,)``: spikes over N x T x positions, 0..1; in the CNN the share of activations above 0.
    can_fire
        bool ``(C,)``: that it can at all; where it cannot, `integers.every_channel_can_fire` says so.
    low_clipped, high_clipped
        Images on which a potential of neurons of ours met the lower, the upper end of Loihi's range.
    is_constant
        Whether its current is the same in every step, so that a neuron that meets an end of the range goes on as it
        does: firing at every step, or never.
    is_readout
        Whether its channels are the classes.
    """

    image_count: int
    firing_rate: Array
    can_fire: Array
    low_clipped: int = 0
    high_clipped: int = 0
    is_constant: bool = False
    is_readout: bool = False


@dataclass(frozen=True, eq=False)
class NetworkActivity:
    """What a network of ours did on N images.

    Parameters
    ----------
    layers
        Each layer that fires, behind its name.
    image_count
        N.
    wrapped_images
        Images on which the u of some stock neuron of the circuit wrapped; 0 where neurons are ours, which clip.
    """

    layers: tuple[tuple[str, Activity], ...]
    image_count: int
    wrapped_images: int


def network_activity(
    network: QuantizedNetwork, images: Array, timesteps: int, *, device: str = "cpu", progress: Progress = no_progress
) -> NetworkActivity:
    """Return what ``network`` does on uint8 ``images``, ``(N, C, H, W)``, in T steps."""
    result = run_network(network, images, timesteps, device=device, progress=progress)
    clipped = np.zeros((len(network.layers), 2), np.int64)
    if network.target == "lava":
        clipped = clipped_images(network, images, timesteps, device=device)
    moments = len(images) * timesteps
    layers = []
    runs = [run for _, run in layer_runs(NetworkRun(network, timesteps))]
    for index, layer in enumerate(network.spiking_layers):
        positions = math.prod(network.shapes[index][1:])
        activity = Activity(
            image_count=len(images),
            firing_rate=result.channel_spikes[index].sum(axis=0) / (moments * positions),
            can_fire=runs[index].can_fire,
            low_clipped=int(clipped[index, 0]),
            high_clipped=int(clipped[index, 1]),
            is_constant=runs[index].is_constant,
            is_readout=runs[index].is_readout,
        )
        layers.append((layer.name, activity))
    return NetworkActivity(tuple(layers), len(images), result.wrapped_images or 0)


def cnn_activity(network: ReluNetwork, images: Array) -> Iterator[tuple[str, Activity]]:
    """Yield the same of each layer of the CNN that has a ReLU."""
    positive = [np.zeros(layer.synapse.channels) for layer in network.layers[:-1]]
    for outputs in relu_outputs(network, images):
        for count, maps in zip(positive, outputs[:-1], strict=True):
            above = maps.numpy() > 0
            count += above.reshape(*above.shape[:2], -1).sum(axis=(0, 2))
    for layer, shape, count in zip(network.layers[:-1], network.shapes[:-1], positive, strict=True):
        rate = count / (len(images) * math.prod(shape[1:]))
        yield layer.name, Activity(len(images), rate, np.ones(len(rate), np.bool_))


def every_channel_is_active(activity: Activity) -> Violation | None:
    silent = (activity.firing_rate == 0) & activity.can_fire
    if not silent.any():
        return None
    what = f"silent on all of {activity.image_count:,} images"
    return idle(silent, what, "Look at more --images; prune what stays silent.", activity.is_readout)


def no_channel_is_active_at_every_step(activity: Activity) -> Violation | None:
    saturated = activity.firing_rate == 1
    if not saturated.any():
        return None
    found = f"{channels(saturated)} fire at every step and position of {activity.image_count:,} images"
    fix = "Balance for higher thresholds: `export --balance percentile --percentile 99.9`."
    return Violation(found, "a saturated channel says nothing", "", fix)


def no_potential_meets_the_upper_end(activity: Activity) -> Violation | None:
    return _clipped(activity, activity.high_clipped, f"{limits.POTENTIAL_LIMIT:,}, beyond which spikes are lost")


def no_potential_meets_the_lower_end(activity: Activity) -> Violation | None:
    return _clipped(activity, activity.low_clipped, f"{-limits.POTENTIAL_LIMIT:,}, where inhibition is forgotten")


def _clipped(activity: Activity, images: int, end: str) -> Violation | None:
    if not images or activity.is_constant:
        return None
    found = f"potentials clipped on {images:,} of {activity.image_count:,} images"
    fix = "Export with fewer --weight-bits, or for a smaller T, if accuracy is lost."
    return Violation(found, f"Loihi's range ends at {end}", "lava/proc/lif/models.py", fix)


def no_current_wraps(activity: NetworkActivity) -> Violation | None:
    if not activity.wrapped_images:
        return None
    found = f"the u of a stock neuron wraps on {activity.wrapped_images:,} of {activity.image_count:,} images"
    limit = f"its range is +-{limits.POTENTIAL_LIMIT:,}; beyond, it is none of the potentials that are meant"
    return Violation(found, limit, "lava/proc/lif/models.py", "Export for a smaller T, or with fewer --weight-bits.")


ACTIVITY_RULES: Final[tuple[Rule[Activity], ...]] = (
    Rule(every_channel_is_active, {"lava": "warning", "loihi2": "warning"}),
    Rule(no_channel_is_active_at_every_step, {"lava": "warning", "loihi2": "warning"}),
    Rule(no_potential_meets_the_upper_end, {"lava": "warning", "loihi2": "warning"}),
    Rule(no_potential_meets_the_lower_end, {"lava": "note", "loihi2": "warning"}),
)

CNN_ACTIVITY_RULES: Final = ACTIVITY_RULES[:1]
"""Of the CNN: to be positive everywhere is no saturation there, its activations are numbers."""

NETWORK_ACTIVITY_RULES: Final[tuple[Rule[NetworkActivity], ...]] = (
    Rule(no_current_wraps, {"lava": "warning", "loihi2": "warning"}),
)
