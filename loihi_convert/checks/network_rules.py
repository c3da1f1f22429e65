"""Rules on a native network over T steps: overflow, channels that cannot fire or do not on given images, resources.

The exactness rules of `chip.rules` are not repeated: a `QuantizedNetwork` that breaks one cannot be constructed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from loihi_convert.backends.lava.exchange import reset_interval
from loihi_convert.checks.finding import Rule, Violation
from loihi_convert.chip import limits, rules
from loihi_convert.chip.partition import span
from loihi_convert.chip.resources import Chips, LayerResources
from loihi_convert.conversion.scales import current_bounds, potential_bounds
from loihi_convert.errors import first_few
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Reset
from loihi_convert.ir.network import ReluNetwork, is_relay
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork

_LIF: Final = "lava/proc/lif/models.py"
_MAX_CHANNELS: Final = 8
_FOR_THE_CHIP: Final = "Export with `target='loihi2'`."
_NO_INFORMATION: Final = "a saturated channel carries no information"


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """A network, and the T of a run."""

    network: QuantizedNetwork
    timesteps: int


@dataclass(frozen=True, eq=False)
class LayerRun:
    """One layer in a `NetworkRun`; its bounds hold for all images: int64 ``(C_out,)``.

    Parameters
    ----------
    layer, reset, timesteps
        The layer, its reset, and T.
    is_circuit
        Whether its soft reset is done by `ir.neuron_model`.
    is_constant
        Whether its input is the same in every step, as for pixels.
    is_readout
        Whether it is the last layer, whose channels are the outputs.
    """

    layer: QuantizedLayer
    reset: Reset
    timesteps: int
    is_circuit: bool = False
    is_constant: bool = False
    is_readout: bool = False

    @property
    def own(self) -> Array:
        """Channels that are not relays (`ir.network`): bool ``(C_out,)``."""
        return ~is_relay(self.layer.relay_of, self.layer.synapse.channels)

    @property
    def can_fire(self) -> Array:
        """Channels that can fire, bool ``(C_out,)``; the layer must have neurons."""
        threshold = self.layer.threshold
        assert threshold is not None
        return np.asarray((self.highest_potential >= threshold) & (threshold != limits.NEVER_FIRES))

    @cached_property
    def current_bounds(self) -> tuple[Array, Array]:
        """Smallest and largest current of one step, with the bias."""
        return current_bounds(self.layer)

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest potential over all channels before a reset; for the circuit, `potential_bounds`."""
        if self.is_circuit:
            low, high = potential_bounds(self.layer, self.timesteps, is_constant=self.is_constant)
            # The chip rules require that a channel that never fires receives nothing.
            alive = high if self.layer.threshold is None else high[self.layer.threshold < limits.NEVER_FIRES]
            return int(low.min()), int(alive.max(initial=0))
        return int(self.lowest_potential.min()), int(self.highest_potential.max())

    @property
    def highest_potential(self) -> Array:
        """Highest potential before the reset; the layer must have neurons.

        Let I be the largest current. One bound is V0 + T I. Another follows from the potential after a step: at most
        threshold - 1 if the neuron did not fire, 0 after a hard reset, V - threshold after a soft reset. While
        I <= threshold, that is again at most threshold - 1, so V <= threshold - 1 + I; a larger I adds I - threshold in
        each step. Neither this nor `potential_bounds`, which uses only the second bound, is always the lower one.
        """
        neuron, current = self.layer.neuron, self.current_bounds[1]
        assert neuron is not None
        threshold = neuron.threshold.astype(np.int64)
        growth = np.maximum(0, current - threshold) if self.reset == "soft" else 0
        by_reset = threshold - 1 + current + (self.timesteps - 1) * growth
        return np.asarray(np.minimum(neuron.initial_potential + self.timesteps * np.maximum(current, 0), by_reset))

    @property
    def lowest_potential(self) -> Array:
        """T times the smallest current, at most 0: a reset never leaves a potential below 0."""
        return np.asarray(self.timesteps * np.minimum(self.current_bounds[0], 0))


def layer_runs(run: NetworkRun) -> Iterator[tuple[str, LayerRun]]:
    """Yield the name and run of each layer."""
    network = run.network.stored
    for index, layer in enumerate(network.layers):
        layer_run = LayerRun(
            layer,
            network.reset,
            run.timesteps,
            is_circuit=network.is_circuit,
            is_constant=network.has_constant_current(index),
            is_readout=index == len(network.layers) - 1,
        )
        yield layer.name, layer_run


def output_potentials_fit_for_the_timesteps(run: NetworkRun) -> Iterator[Violation]:
    proven = run.network.max_timesteps
    if run.timesteps > proven:
        yield Violation(
            f"T = {run.timesteps:,}: output potentials can leave +-{limits.POTENTIAL_LIMIT:,}",
            f"must be at most {proven:,}, the limit found on calibration images",
            "24 state bits, " + _LIF,
            f"Export it with `timesteps={run.timesteps}`.",
        )


def thresholds_are_balanced_for_the_timesteps(run: NetworkRun) -> Iterator[Violation]:
    balanced = run.network.timesteps
    if run.timesteps != balanced:
        found = f"T = {run.timesteps:,}, with thresholds balanced for T = {balanced:,}"
        fix = f"Export with `timesteps={run.timesteps}` for the best accuracy."
        yield Violation(found, "thresholds are balanced for one T", "", fix)


def neurons_reset_as_stock_neurons_do(run: NetworkRun) -> Iterator[Violation]:
    if run.network.reset == "soft" and not run.network.is_circuit:
        allowed = "a chip needs microcode for it"
        yield Violation("soft reset, by custom neurons", allowed, _LIF, _FOR_THE_CHIP)


def pixels_enter_as_numbers(run: NetworkRun) -> Iterator[Violation]:
    if run.network.poisson_seed is not None:
        fix = "`loihi-convert run` generates them; for unmodified lava-dl, send a spike with probability pixel / 255."
        yield Violation("pixels enter as Poisson spikes", "netx does not generate them", "", fix)


def pixels_enter_with_eight_bits(run: NetworkRun) -> Iterator[Violation]:
    network = run.network
    # Only files of hard reset are exact on unmodified lava-dl.
    if network.reset == "hard" and network.poisson_seed is None and network.pixel_bits != limits.MAX_PIXEL_BITS:
        most = (1 << network.pixel_bits) - 1
        fix = f"`loihi-convert run` rounds them; for unmodified lava-dl, send round(pixel / 255 x {most})."
        yield Violation(f"pixels of {network.pixel_bits} bits", "netx does not round them", "", fix)


def the_reset_interval_is_a_power_of_two(run: NetworkRun) -> Iterator[Violation]:
    steps, interval = run.timesteps, reset_interval(run.timesteps)
    if steps != interval:
        yield Violation(
            f"T = {steps:,}: the chip resets neurons every {interval:,} steps",
            "reset_interval is a power of two",
            "LIFReset on Loihi 2",
            f"Export for T = {interval:,}, which takes as long, or for T = {interval // 2:,}.",
        )


def potentials_stay_in_range(run: LayerRun) -> Iterator[Violation]:
    if run.layer.neuron is None:
        return
    (low, high), limit = run.range, limits.POTENTIAL_LIMIT
    if low < -limit or high > limit:
        yield Violation(
            f"potentials {low:,}..{high:,} on the worst image in T = {run.timesteps:,} steps",
            f"must be in +-{limit:,}: beyond that, {'u wraps' if run.is_circuit else 'they clip'}",
            "24 state bits, " + _LIF,
            "This is a bound; `loihi-convert export --details` shows on how many calibration images it is exceeded.",
        )


def every_channel_can_fire(run: LayerRun) -> Iterator[Violation]:
    if run.layer.threshold is not None and (dead := ~run.can_fire & run.own).any():
        what = f"can never fire in T = {run.timesteps:,} steps"
        yield idle(dead, run.own, what, "Prune them from the CNN, or keep them.", run.is_readout)


def no_channel_must_fire_at_every_step(run: LayerRun) -> Iterator[Violation]:
    threshold = run.layer.threshold
    if threshold is not None and (saturated := (run.current_bounds[0] >= threshold) & run.own).any():
        found = f"{channels(saturated, run.own)} fire at every step for every image"
        fix = "Their bias is above the threshold: see `loihi-convert diagnose`."
        yield Violation(found, _NO_INFORMATION, "", fix)


def idle(chosen: Array, own: Array, what: str, fix: str, is_readout: bool) -> Violation:
    """Return a violation: ``chosen`` channels among ``own`` are ``what``; ``fix`` is not used for outputs."""
    if is_readout:
        wake = "With a larger T or another `method` they may fire."
        return Violation(f"{channels(chosen, own, 'classes')} {what}", "the class with most spikes is chosen", "", wake)
    return Violation(f"{channels(chosen, own)} {what}", "they cost neurons and synapses", "", fix)


def channels(chosen: Array, own: Array, name: str = "channels") -> str:
    """Return the number and indices of the ``chosen`` channels among ``own``, both bool ``(C,)``, in words."""
    indices = np.flatnonzero(chosen).tolist()
    return f"{len(indices)} of {np.count_nonzero(own)} {name} ({first_few(indices, _MAX_CHANNELS)})"


def _of_the_circuit(rule: rules.LayerRule) -> Rule[LayerRun]:
    """A chip rule of `chip.rules` as a `Rule`."""

    def claim(run: LayerRun) -> Iterator[Violation]:
        if broken := rule(run.layer):
            found, _, allowed = broken.partition("; ")
            source = "Lava's LIF as a soft-reset neuron, loihi_convert/ir/neuron_model.py"
            yield Violation(found, allowed, source, _FOR_THE_CHIP)

    claim.__name__ = rule.__name__
    return Rule(claim, None, "error")


NETWORK_RULES: Final[tuple[Rule[NetworkRun], ...]] = (
    Rule(output_potentials_fit_for_the_timesteps, "error"),
    Rule(thresholds_are_balanced_for_the_timesteps, "warning"),
    Rule(neurons_reset_as_stock_neurons_do, None, "error"),
    Rule(pixels_enter_as_numbers, "note"),
    Rule(pixels_enter_with_eight_bits, "note"),
    Rule(the_reset_interval_is_a_power_of_two, None, "warning"),
)

LAYER_RULES: Final[tuple[Rule[LayerRun], ...]] = (
    Rule(potentials_stay_in_range, "note"),
    Rule(every_channel_can_fire, "warning"),
    Rule(no_channel_must_fire_at_every_step, "warning"),
)

CIRCUIT_RULES: Final[tuple[Rule[LayerRun], ...]] = tuple(_of_the_circuit(rule) for rule in rules.CHIP_RULES)
"""Rules for a chip, where soft reset needs the circuit of stock neurons."""


_BRIEF: Final = 'Intel, "Loihi 2" technology brief, 2021'
_TABLES: Final = "tables of Intel's compiler in lava-dl's notebooks"


def the_network_fits_the_chips(network: Chips) -> Iterator[Violation]:
    low, _ = network.cores
    if low > network.available:
        yield _too_many_cores(network)


def the_network_surely_fits_the_chips(network: Chips) -> Iterator[Violation]:
    low, high = network.cores
    if low <= network.available < high:
        yield _too_many_cores(network)


def _too_many_cores(network: Chips) -> Violation:
    allowed = f"{'a chip has' if network.chips == 1 else f'{network.chips} chips have'} {network.available:,}"
    more = "" if network.needed is None else f", or a board with {network.needed:,} chips (`chips={network.needed}`)"
    fix = f"Use fewer channels, or a stride instead of a pooling{more}."
    return Violation(f"{span(network.cores)} neurocores", allowed, _BRIEF, fix)


def the_synapses_of_a_neuron_fit_one_core(layer: LayerResources) -> Iterator[Violation]:
    if layer.fits:
        return
    found, allowed = f"{layer.weights // layer.neurons:,} inputs", f"{limits.AXONS_PER_CORE:,} axons in"
    if layer.limit != "axons":
        found = f"{layer.core_words:,} words of synaptic memory for one channel"
        allowed = f"{limits.SYNAPSE_WORDS:,}"
    fix = "Reduce the inputs: use more stride or pooling before this layer."
    yield Violation(found, f"a neurocore has {allowed}", _TABLES, fix)


def no_pooling_multiplies_the_weights(layer: LayerResources) -> Iterator[Violation]:
    if layer.pooling > 1:
        yield Violation(
            f"{layer.weights:,} weights in the file, each of the CNN's {layer.pooling} times",
            "netx has no pooling, so each weight is repeated for every input of its window",
            "lava/lib/dl/netx/hdf5.py",
            "A stride instead of the pooling avoids that.",
        )


NEUROCORE_RULES: Final[tuple[Rule[Chips], ...]] = (
    Rule(the_network_fits_the_chips, "note", "error"),
    Rule(the_network_surely_fits_the_chips, None, "warning"),
)


MEMORY_RULES: Final[tuple[Rule[LayerResources], ...]] = (
    Rule(the_synapses_of_a_neuron_fit_one_core, None, "error"),
    Rule(no_pooling_multiplies_the_weights, "note"),
)


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
        bool ``(C,)``: whether any image can make it fire; `every_channel_can_fire` reports the others.
    low_clipped, high_clipped
        Number of images on which a potential reached the lower or upper limit of Loihi's range, where that may change
        a spike (`simulator.HarmlessLimits`).
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
    network: QuantizedNetwork, images: Array, timesteps: int, *, device: str = "cpu"
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
    simulator.run(images, timesteps, take)
    # Stock neurons do not clip, but wrap.
    wraps = network.is_circuit
    clipped = np.zeros_like(beyond) if wraps else beyond
    moments = len(images) * timesteps
    layers = []
    runs = [run for _, run in layer_runs(NetworkRun(network, timesteps))]
    for index, layer in enumerate(network.spiking_layers):
        (low, high), harmless = clipped[index].sum(axis=0), harmless_limits(network, index)
        positions = math.prod(network.shapes[index][1:])
        activity = Activity(
            image_count=len(images),
            firing_rate=spikes[index] / (moments * positions),
            can_fire=runs[index].can_fire,
            low_clipped=0 if harmless.is_low_harmless else int(low),
            high_clipped=0 if harmless.is_high_harmless else int(high),
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


def every_channel_is_active(activity: Activity) -> Iterator[Violation]:
    silent = (activity.firing_rate == 0) & activity.can_fire & activity.own
    if silent.any():
        what = f"silent on all of {activity.image_count:,} images"
        fix = "Check more images; prune the channels that stay silent."
        yield idle(silent, activity.own, what, fix, activity.is_readout)


def no_channel_is_active_at_every_step(activity: Activity) -> Iterator[Violation]:
    saturated = (activity.firing_rate == 1) & activity.own
    if saturated.any():
        where = f"at every step and position of {activity.image_count:,} images"
        fix = "Balance for higher thresholds: export with `method='percentile'` and `percentile=99.9`."
        yield Violation(f"{channels(saturated, activity.own)} fire {where}", _NO_INFORMATION, "", fix)


def no_potential_meets_the_upper_end(activity: Activity) -> Iterator[Violation]:
    yield from _clipped(activity, activity.high_clipped, f"{limits.POTENTIAL_LIMIT:,}; spikes may be lost")


def no_potential_meets_the_lower_end(activity: Activity) -> Iterator[Violation]:
    yield from _clipped(activity, activity.low_clipped, f"{-limits.POTENTIAL_LIMIT:,}; inhibition may be lost")


def _clipped(activity: Activity, images: int, end: str) -> Iterator[Violation]:
    if images:
        found = f"potentials clipped on {images:,} of {activity.image_count:,} images"
        yield Violation(
            found, f"the range ends at {end}", _LIF, "`diagnose` measures what this costs a classification."
        )


def no_current_wraps(activity: NetworkActivity) -> Iterator[Violation]:
    if activity.wrapped_images:
        found = f"u of a stock neuron wraps on {activity.wrapped_images:,} of {activity.image_count:,} images"
        limit = f"must be in +-{limits.POTENTIAL_LIMIT:,}: beyond that u wraps and the potential is wrong"
        yield Violation(found, limit, _LIF, "Export for a smaller T, or with fewer `weight_bits`.")


ACTIVITY_RULES: Final[tuple[Rule[Activity], ...]] = (
    Rule(every_channel_is_active, "warning"),
    Rule(no_channel_is_active_at_every_step, "warning"),
    Rule(no_potential_meets_the_upper_end, "warning"),
    Rule(no_potential_meets_the_lower_end, "note", "warning"),
)

CNN_ACTIVITY_RULES: Final = ACTIVITY_RULES[:1]
"""Rules for the CNN, where a channel that is positive everywhere is not saturated: activations have no upper limit."""

NETWORK_ACTIVITY_RULES: Final[tuple[Rule[NetworkActivity], ...]] = (Rule(no_current_wraps, "warning"),)
