"""ReluNetwork -> SpikingNetwork by one of the methods of `BalanceOptions`.

A method is a function that gives a layer's thresholds, and its line in `METHODS`; its name is one of `choices.Method`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.conversion.agreement import MOST, calibration_subset, fitted_images, overflow
from loihi_convert.conversion.options import AUTO, BalanceOptions, require_readout
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import progress_part
from loihi_convert.ir.network import IntegrateAndFire, ReluLayer, ReluNetwork, SpikingLayer, SpikingNetwork, is_relay
from loihi_convert.ir.provenance import Provenance
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.relu import Activations


def balance_by_method(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions,
    *,
    activations: Activations | None = None,
    device: str = "cpu",
) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons.

    Parameters
    ----------
    network, images, timesteps, device
        As in `balancing.balance`.
    options
        A method other than ``auto``; ``bias_correction`` is ignored, see `balancing.correct_biases`.
    activations
        Those of ``network`` on ``images``, if other methods use them, too.
    """
    if options.method == AUTO:
        raise UsageError("found 'auto'", where="method", expected=one_of(METHODS), hint="`balance` resolves auto.")
    if options.method == "qcfs" and not has_learned_thresholds(network):
        hint = "Train it with `loihi-convert train --qcfs 4`, or use `method='auto'`."
        raise UsageError("found 'qcfs' for a CNN that was not trained with thresholds", where="method", hint=hint)
    require_readout(network.task, options.output)
    used = _used_images(network, images, timesteps, options)
    if activations is None or len(activations.images) != len(used):
        activations = Activations(network, used)
    layers = _Balancing(network, activations, timesteps, options, device).layers()
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
        "timesteps": timesteps,
    }
    return SpikingNetwork(
        network.input_shape,
        (*layers, *readout),
        timesteps,
        options.neuron_reset,
        Provenance({"balance": provenance}),
        options.input_seed,
        network.task,
    )


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


class Balanced(NamedTuple):
    """Thresholds of a layer, and spike amplitudes as factors on the thresholds: float64, each ``(C_out,)``."""

    thresholds: Array
    factors: Array


def _unit_amplitude(thresholds: Array) -> Balanced:
    return Balanced(thresholds, np.ones_like(thresholds))


# Candidates of least-squares, as fractions of the channel's largest activation.
_CANDIDATES: Final = np.geomspace(0.08, 1.1, 24)


class _Balancing:
    """Balancing of a network's layers with neurons; parameters as in `balance_by_method`."""

    def __init__(
        self, network: ReluNetwork, activations: Activations, timesteps: int, options: BalanceOptions, device: str
    ) -> None:
        self.network, self.timesteps, self.options = network, timesteps, options
        self.fixed: list[SpikingLayer] = []
        self._activations = activations
        self._method = METHODS[options.method]
        self._percentiles: list[Array] = []
        self._depth = len(network.layers) - (options.output == "potential")
        self._done = 1
        self._simulation = GrowingSimulation(
            network,
            activations.images,
            timesteps,
            options.neuron_reset,
            poisson_seed=options.input_seed,
            device=device,
            whole=self._method.fits_rates(network),
            most_images=fitted_images(network),
        )

    @property
    def layer(self) -> ReluLayer:
        """The layer after ``fixed``, those that have their thresholds."""
        return self.network.layers[len(self.fixed)]

    def layers(self) -> list[SpikingLayer]:
        """Return the balanced layers."""
        while len(self.fixed) < self._depth:
            layer = self.layer
            base, factor = self._method.thresholds(self)
            base = np.where(is_relay(layer.relay_of, len(base)), 0.0, base)
            if not np.isfinite(base).all():
                raise overflow("its input exceeds", layer.name)
            if layer is self.network.layers[-1]:
                # Spike counts of classes are compared as they are.
                base, factor = np.full_like(base, base.max()), np.ones_like(factor)
            elif layer.ceiling is not None:
                base = np.minimum(base, layer.ceiling)
            before = self.fixed[-1].neuron if self.fixed else None
            neuron = _neuron(base, factor, self.options).with_relays(before, layer.relay_of)
            self.fixed.append(SpikingLayer(layer.name, layer.synapse, neuron, relay_of=layer.relay_of))
        return self.fixed

    def by_currents(self) -> Balanced:
        """The largest currents."""
        with self._pass():
            found = self._simulation.largest_currents(self.fixed)
        self._done += 1
        if self._method.per_layer:
            own = found[~is_relay(self.layer.relay_of, len(found))]
            found = np.full_like(found, own.max() if own.size else 0.0)
        return _unit_amplitude(found)

    def by_activations(self) -> Balanced:
        """A percentile of the activations."""
        return _unit_amplitude(self._percentile())

    def by_rates(self) -> Balanced:
        """Those whose rates are nearest to the activations: the best of `_CANDIDATES` x the largest activation.

        Candidates above the ceiling are replaced by it. With hard reset the amplitude is fitted, too, so that rate x
        amplitude is nearest.
        """
        largest, ceiling = self._percentile(), self.layer.ceiling
        if not np.isfinite(largest).all():
            return _unit_amplitude(largest)
        alive = largest > 0
        candidates = _CANDIDATES[:, None] * np.where(alive, largest, 1.0)
        if ceiling is not None:
            candidates = np.minimum(candidates, ceiling)
        initial = candidates * (0.5 if self.options.first_potential == "half" else 0.0)
        with self._pass():
            sums = self._simulation.rate_errors(self.fixed, candidates, initial)
        self._done += 1
        errors, factors = sums.errors, np.ones_like(candidates)
        if self.options.neuron_reset == "hard":
            errors, factors = sums.least_errors, sums.amplitude_factors
        best = errors.argmin(axis=0)[None]
        thresholds, factor = (np.take_along_axis(values, best, axis=0)[0] for values in (candidates, factors))
        return Balanced(np.where(alive, thresholds, 0.0), factor)

    def by_training(self) -> Balanced:
        """The learned ones; for channels without one those of least-squares, or the largest currents in a last layer
        without any."""
        layer = self.layer
        if layer is self.network.layers[-1] and layer.threshold is None:
            return self.by_currents()
        unknown = _not_learned(layer)
        learned = _unit_amplitude(np.zeros(len(unknown)) if layer.threshold is None else layer.threshold)
        if not unknown.any():
            return learned
        return Balanced(*(np.where(unknown, *both) for both in zip(self.by_rates(), learned, strict=True)))

    def _percentile(self) -> Array:
        """The percentile of the CNN's activations of this layer that the method needs: float64 ``(C_out,)``."""
        if not self._percentiles:
            self._done = 0
            percent = self.options.percent if self._method.percentile is None else self._method.percentile
            with self._pass():
                self._percentiles = self._activations.percentile(percent, per_layer=self._method.per_layer)
            self._done = 1
        return self._percentiles[len(self.fixed)]

    def _pass(self) -> AbstractContextManager[None]:
        """The next pass over the images, of which the first is that of the CNN, if its activations are needed."""
        return progress_part(self._done, 1 + self._depth)


@dataclass(frozen=True)
class BalancingMethod:
    """How a method sets thresholds.

    Parameters
    ----------
    thresholds
        Returns those of the next layer, without alpha.
    percentile
        That of the CNN's activations which it needs, if any; ``None``: ``BalanceOptions.percentile``.
    per_layer
        Whether all channels of a layer have one threshold.
    fits_rates
        Whether it fits some thresholds of a network to the rates over all T steps.
    """

    thresholds: Callable[[_Balancing], Balanced]
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
