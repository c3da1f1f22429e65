"""ReluNetwork -> SpikingNetwork by one of the methods of `BalanceOptions`, for one or several latencies T.

A method is a function that gives a layer's thresholds, and its line in `METHODS`; its name is one of `choices.Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.conversion.agreement import MOST, calibration_subset, fitted_images, overflow, require_calibration
from loihi_convert.conversion.options import AUTO, BalanceOptions, require_readout, require_timesteps
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import Progress, no_progress
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.relays import is_relay
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.relu import Activations


def balance_each(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: Sequence[int],
    options: BalanceOptions,
    *,
    activations: Activations | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> tuple[SpikingNetwork, ...]:
    """Return ``network`` with integrate-and-fire neurons, one network per latency in ``timesteps``.

    Results that the latencies share are computed once: activations, and the largest currents after each T, as long as
    the layers before have the same thresholds for all T. A network of two convolutions needs one simulation. Batches
    then have another size than for one T alone, so the last bits of a threshold may differ.

    Parameters
    ----------
    network, images, device, progress
        As in `balancing.balance`.
    timesteps
        The latencies T.
    options
        A method other than ``auto``; ``bias_correction`` is ignored, see `balancing.correct_biases`.
    activations
        Those of ``network`` on ``images``, if other methods use them, too.
    """
    _require_method(network, options)
    require_readout(network.task, options.output)
    require_timesteps(timesteps)
    require_calibration(network, images)
    if METHODS[options.method].fits_rates(network) and len(timesteps) > 1:
        # They share no simulation, and T decides how many images are used.
        each = (balance_each(network, images, (t,), options, device=device, progress=progress) for t in timesteps)
        return tuple(one for (one,) in each)
    used = _used_images(network, images, max(timesteps), options)
    if activations is None or len(activations.images) != len(used):
        activations = Activations(network, used)
    layers_of = _Balancing(network, activations, options, device).layers(sorted(timesteps), progress)
    last = network.layers[-1]
    readout = [SpikingLayer(last.name, last.synapse, None)] if options.output == "potential" else []
    provenance = {
        "method": options.method,
        "amplitude": options.amplitude,
        "alpha": options.alpha,
        "initial_potential": options.first_potential,
        "reset": options.neuron_reset,
        "readout": options.output,
        "input": "constant" if options.input_seed is None else "poisson",
        "calibration_images": len(images),
        **({"percentile": options.percent} if options.method == "percentile" else {}),
    }
    return tuple(
        SpikingNetwork(
            network.input_shape,
            (*layers_of[t], *readout),
            t,
            options.neuron_reset,
            Provenance({"balance": {**provenance, "timesteps": t}}),
            options.input_seed,
            network.task,
        )
        for t in timesteps
    )


def _require_method(network: ReluNetwork, options: BalanceOptions) -> None:
    if options.method == AUTO:
        raise UsageError("found 'auto'", where="method", expected=one_of(METHODS), hint="`balance` resolves auto.")
    if options.method == "qcfs" and not has_learned_thresholds(network):
        hint = "Train it with `loihi-convert train --qcfs 4`, or use `method='auto'`."
        raise UsageError("found 'qcfs' for a CNN that was not trained with thresholds", where="method", hint=hint)


def has_learned_thresholds(network: ReluNetwork) -> bool:
    """Return whether any channel of ``network`` was trained with a threshold."""
    return any(layer.threshold is not None and np.isfinite(layer.threshold).any() for layer in network.layers)


def _used_images(network: ReluNetwork, images: ImageArray, timesteps: int, options: BalanceOptions) -> ImageArray:
    """The calibration images that the method uses: all for maxima, and for methods that are compared with papers."""
    if METHODS[options.method].fits_rates(network):
        return calibration_subset(images, timesteps)
    return images[:MOST] if options.method == "percentile" and options.percent < 100 else images


def _not_learned(layer: ReluLayer) -> Array:
    """Channels without a learned threshold: bool ``(C_out,)``; relays do not count, as they need none."""
    channels = layer.synapse.channels
    unknown = np.ones(channels, np.bool_) if layer.threshold is None else np.isnan(layer.threshold)
    return np.asarray(unknown & ~is_relay(layer.relay_of, channels))


class _Balancing:
    """Balancing of a network's layers with neurons, for several T; parameters as in `balance_each`."""

    def __init__(self, network: ReluNetwork, activations: Activations, options: BalanceOptions, device: str) -> None:
        self._network, self._activations, self._options, self._device = network, activations, options, device
        self._method = METHODS[options.method]
        self._fits_rates = self._method.fits_rates(network)
        self._depth = len(network.layers) - (options.output == "potential")
        self._percentiles: list[Array] = []
        self._done, self._passes = 1, 1
        self._progress: Progress = no_progress

    def layers(self, timesteps: Sequence[int], progress: Progress) -> dict[int, list[SpikingLayer]]:
        """Return the balanced layers for each of ``timesteps``, ascending."""
        # A fit to the rates over T steps needs all T steps at once, separately for each T.
        apart = [[t] for t in timesteps] if self._fits_rates else [list(timesteps)]
        self._progress = progress
        self._passes = 1 + len(apart) * self._depth
        found: dict[int, list[SpikingLayer]] = {}
        for steps in apart:
            found |= self._grown([], steps, self._simulation(steps))
        return found

    def _grown(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> dict[int, list[SpikingLayer]]:
        """The layers for each of ``timesteps``, which share ``fixed``; ``simulation`` has already run those."""
        if len(fixed) == self._depth:
            return dict.fromkeys(timesteps, fixed)
        layer = self._network.layers[len(fixed)]
        same: dict[bytes, list[int]] = {}
        layers: dict[int, SpikingLayer] = {}
        for steps, (base, factor) in zip(
            timesteps, self._method.thresholds(self, fixed, timesteps, simulation), strict=True
        ):
            base = np.where(is_relay(layer.relay_of, len(base)), 0.0, base)
            if not np.isfinite(base).all():
                raise overflow("its input exceeds", layer.name)
            if len(fixed) == len(self._network.layers) - 1:
                # Spike counts of classes are compared as they are.
                base, factor = np.full_like(base, base.max()), np.ones_like(factor)
            elif layer.ceiling is not None:
                base = np.minimum(base, layer.ceiling)
            before = fixed[-1].neuron if fixed else None
            neuron = _neuron(base, factor, self._options).with_relays(before, layer.relay_of)
            layers[steps] = SpikingLayer(layer.name, layer.synapse, neuron, relay_of=layer.relay_of)
            same.setdefault(base.tobytes(), []).append(steps)
        found: dict[int, list[SpikingLayer]] = {}
        for together in same.values():
            # The stored spikes, of the largest T, can be reused only if all T still share their layers.
            goes_on = simulation if len(same) == 1 else self._simulation(together)
            found |= self._grown([*fixed, layers[together[0]]], together, goes_on)
        return found

    def by_currents(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> list[Balanced]:
        """The largest currents."""
        found = simulation.largest_currents(fixed, timesteps, progress=self._report)
        self._done += 1
        if self._method.per_layer:
            own = found[:, ~is_relay(self._network.layers[len(fixed)].relay_of, found.shape[1])]
            found = np.broadcast_to(own.max(axis=1, keepdims=True) if own.size else 0.0, found.shape)
        return [_unit_amplitude(thresholds) for thresholds in found]

    def by_activations(self, fixed: list[SpikingLayer], timesteps: list[int], _: GrowingSimulation) -> list[Balanced]:
        """A percentile of the activations."""
        return [_unit_amplitude(self._percentile_of(len(fixed)))] * len(timesteps)

    def by_rates(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> list[Balanced]:
        """Those whose rates are nearest to the activations."""
        if not np.isfinite(self._percentile_of(len(fixed))).all():
            return self.by_activations(fixed, timesteps, simulation)
        return [self._nearest(self._network.layers[len(fixed)], fixed, simulation)] * len(timesteps)

    def by_training(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> list[Balanced]:
        """The learned ones; the largest currents for a last layer without any."""
        layer = self._network.layers[len(fixed)]
        if len(fixed) == len(self._network.layers) - 1 and layer.threshold is None:
            return self.by_currents(fixed, timesteps, simulation)
        return [self._learned(layer, fixed, timesteps)] * len(timesteps)

    def _percentile_of(self, index: int) -> Array:
        """The percentile of the CNN's activations that the method needs, of layer ``index``: float64 ``(C_out,)``."""
        if not self._percentiles:
            self._done = 0
            self._percentiles = self._activations.percentile(
                self._options.percent if self._method.percentile is None else self._method.percentile,
                per_layer=self._method.per_layer,
                progress=self._report,
            )
            self._done = 1
        return self._percentiles[index]

    def _learned(self, layer: ReluLayer, fixed: list[SpikingLayer], timesteps: list[int]) -> Balanced:
        """The learned thresholds; for channels without one, those of least-squares."""
        unknown = _not_learned(layer)
        learned = _unit_amplitude(np.zeros(len(unknown)) if layer.threshold is None else layer.threshold)
        if not unknown.any():
            return learned
        largest = self._percentile_of(len(fixed))
        if not np.isfinite(largest).all():
            return _unit_amplitude(largest)
        # Layers with learned thresholds are not simulated, so spikes stored in a simulation are not those of ``fixed``.
        nearest = self._nearest(layer, fixed, self._simulation(timesteps))
        return Balanced(*(np.where(unknown, *both) for both in zip(nearest, learned, strict=True)))

    def _nearest(self, layer: ReluLayer, fixed: list[SpikingLayer], simulation: GrowingSimulation) -> Balanced:
        found = nearest_rates(
            simulation,
            fixed,
            self._percentile_of(len(fixed)),
            0.5 if self._options.first_potential == "half" else 0.0,
            self._report,
            fits_amplitude=self._options.neuron_reset == "hard",
            ceiling=layer.ceiling,
        )
        self._done += 1
        return found

    def _simulation(self, timesteps: Sequence[int]) -> GrowingSimulation:
        return GrowingSimulation(
            self._network,
            self._activations.images,
            max(timesteps),
            self._options.neuron_reset,
            poisson_seed=self._options.input_seed,
            device=self._device,
            whole=self._fits_rates,
            most_images=fitted_images(self._network),
        )

    def _report(self, done: int, total: int) -> None:
        # The total does not include passes needed for only some T.
        self._progress(min(self._done, self._passes - 1) * total + done, self._passes * total)


@dataclass(frozen=True)
class BalancingMethod:
    """How a method sets thresholds.

    Parameters
    ----------
    thresholds
        Returns those of the layer after ``fixed``, without alpha, for each of ``timesteps``.
    percentile
        That of the CNN's activations which it needs, if any; ``None``: ``BalanceOptions.percentile``.
    per_layer
        Whether all channels of a layer have one threshold.
    fits_rates
        Whether it fits some thresholds of a network to the rates over all T steps.
    """

    thresholds: Callable[[_Balancing, list[SpikingLayer], list[int], GrowingSimulation], list[Balanced]]
    percentile: float | None = None
    per_layer: bool = False
    fits_rates: Callable[[ReluNetwork], bool] = lambda _: False


METHODS: Final[dict[str, BalancingMethod]] = {
    "ngu-lee": BalancingMethod(_Balancing.by_currents),
    "spike-norm": BalancingMethod(_Balancing.by_currents, per_layer=True),
    "rmp": BalancingMethod(_Balancing.by_currents, per_layer=True),
    "act-norm": BalancingMethod(_Balancing.by_activations, 100.0, per_layer=True),
    "robust-norm": BalancingMethod(_Balancing.by_activations, 99.9, per_layer=True),
    "act-norm-channelwise": BalancingMethod(_Balancing.by_activations, 100.0),
    "percentile": BalancingMethod(_Balancing.by_activations),
    "least-squares": BalancingMethod(_Balancing.by_rates, 100.0, fits_rates=lambda _: True),
    "qcfs": BalancingMethod(
        _Balancing.by_training,
        100.0,
        fits_rates=lambda network: any(_not_learned(layer).any() for layer in network.layers[:-1]),
    ),
}


def _unit_amplitude(thresholds: Array) -> Balanced:
    return Balanced(thresholds, np.ones_like(thresholds))


def _neuron(base: Array, factor: Array, options: BalanceOptions) -> IntegrateAndFire:
    """Neurons with thresholds alpha x ``base`` and, if compensated, amplitudes ``factor`` x threshold.

    A channel that never received a positive current is dead: it never fires.
    """
    threshold = options.alpha * base
    alive = threshold > 0
    amplitude = threshold * factor if options.amplitude == "compensated" else np.ones_like(threshold)
    starts_half = options.first_potential == "half"
    return IntegrateAndFire(
        threshold=np.where(alive, threshold, np.inf),
        amplitude=np.where(alive, amplitude, 0.0),
        initial_potential=np.where(alive, threshold / 2, 0.0) if starts_half else 0 * threshold,
    )


# Candidates of least-squares, as fractions of the channel's largest activation.
_CANDIDATES: Final = np.geomspace(0.08, 1.1, 24)


class Balanced(NamedTuple):
    """Thresholds of a layer, and spike amplitudes as factors on the thresholds: float64, each ``(C_out,)``."""

    thresholds: Array
    factors: Array


def nearest_rates(
    simulation: GrowingSimulation,
    fixed: list[SpikingLayer],
    largest: Array,
    initial_share: float,
    progress: Progress,
    *,
    fits_amplitude: bool,
    ceiling: Array | None = None,
) -> Balanced:
    """Return for each channel the best of `_CANDIDATES` x ``largest``; 0 if ``largest`` is not positive.

    Candidates above ``ceiling``, ``(C_out,)``, are replaced by it.
    The factor is 1 or, with ``fits_amplitude``, fitted so that rate x threshold x factor is nearest to the activations.
    """
    alive = largest > 0
    candidates = _CANDIDATES[:, None] * np.where(alive, largest, 1.0)
    if ceiling is not None:
        candidates = np.minimum(candidates, ceiling)
    sums = simulation.rate_errors(fixed, candidates, initial_share * candidates, progress=progress)
    errors, factors = (
        (sums.least_errors, sums.amplitude_factors) if fits_amplitude else (sums.errors, np.ones_like(candidates))
    )
    best = errors.argmin(axis=0)[None]
    thresholds, factor = (np.take_along_axis(values, best, axis=0)[0] for values in (candidates, factors))
    return Balanced(np.where(alive, thresholds, 0.0), factor)
