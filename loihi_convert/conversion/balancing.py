"""ReluNetwork -> SpikingNetwork: firing thresholds balanced for a latency T.

========================  =============================================================================================
method                    threshold of channel k in layer l
========================  =============================================================================================
``ngu-lee``               alpha x the largest input current of the channel over all calibration images, positions and
                          steps 1..T, while the layers before it spike with their already fixed thresholds (Ngu & Lee
                          2022, algorithm 2, alpha of section 4.1.3)
``spike-norm``, ``rmp``   the same, one for the whole layer (Sengupta et al., Front. Neurosci. 2019, with hard reset and
                          Poisson input; Han et al., CVPR 2020, "RMP-SNN": with soft reset)
``act-norm``              the largest ReLU activation in the CNN, one for the whole layer (Diehl et al., IJCNN 2015)
``robust-norm``           the 99.9th percentile of the positive activations, one for the whole layer (Rueckauer et al.,
                          Front. Neurosci. 2017)
``act-norm-channelwise``  the channel's largest activation (Kim et al., AAAI 2020, "Spiking-YOLO")
``percentile``            a percentile of the channel's positive activations (per channel; after Rueckauer et al. 2017)
``least-squares``         of 24 thresholds up to a little above the channel's largest activation the one whose firing
                          rates over T steps are nearest to the activations of the CNN, in squares, over images (of
                          `calibration_subset`) and positions, while the layers before it spike with their already fixed
                          thresholds. What a spike rounds and what it cuts off are weighed against each other, for this
                          T: the smaller T, the lower the threshold (after Li et al., ICML 2021, who do so per layer and
                          without simulation). With hard reset the spike's worth is fitted together with it
``qcfs``                  the threshold that the CNN was trained with, if its activations are `qcfs.Qcfs` (Bu et al.,
                          ICLR 2022)
========================  =============================================================================================

Alpha is a factor on the thresholds of every method, layer by layer: those behind are balanced for what the scaled ones
before them send.

=================  ====================================================================================================
amplitude          what the spike of a neuron is worth to the next layer
=================  ====================================================================================================
``compensated``    its threshold: rate x threshold approximates the activation, and the SNN converges to the CNN. A hard
                   reset throws away what is above the threshold, and starts at 0: with ``least-squares`` a spike is
                   then worth its threshold x the factor that brings rates nearest to activations, 2 for T = 1
``literal``        1, as algorithm 2 is printed: channels keep their rates but lose their relative scale
=================  ====================================================================================================

=================  ====================================================================================================
readout            the last layer
=================  ====================================================================================================
``potential``      only integrates; the class is the arg max of its membrane potential (paper, algorithm 3)
``spikes``         has neurons of one threshold for all classes, the largest that the method gives any of them, so that
                   their spike counts can be compared; the class is the one that has fired most often
=================  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.choices import Amplitude as Amplitude
from loihi_convert.choices import InitialPotential as InitialPotential
from loihi_convert.choices import InputCoding as InputCoding
from loihi_convert.choices import Method as Method
from loihi_convert.conversion.calibration import calibration_subset
from loihi_convert.conversion.thresholds import Balanced, activation_percentiles, nearest_rates
from loihi_convert.errors import DataError, RangeError, UsageError
from loihi_convert.ir.network import IntegrateAndFire, Readout, ReluNetwork, Reset, SpikingLayer, SpikingNetwork
from loihi_convert.ir.poisson import MAX_SEED
from loihi_convert.ir.quantized import MAX_TIMESTEPS
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.layerwise import GrowingSimulation

PUBLISHED: Final[dict[str, tuple[Reset, InputCoding]]] = {"spike-norm": ("hard", "poisson"), "rmp": ("soft", "poisson")}
"""Neurons and input of the methods that were published with others than soft reset and a constant current."""

# Methods that look at activations, with their percentile; methods with one threshold for a whole layer.
_OF_ACTIVATIONS: Final = {"act-norm": 100.0, "robust-norm": 99.9, "act-norm-channelwise": 100.0, "least-squares": 100.0}
_PER_LAYER: Final = ("spike-norm", "rmp", "act-norm", "robust-norm")


def balance(network: ReluNetwork, images: Array, timesteps: int, **options: Any) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons whose thresholds suit ``timesteps`` steps.

    All else is as in `balance_each`, which does so for several numbers of steps.
    """
    return balance_each(network, images, (timesteps,), **options)[0]


def balance_each(
    network: ReluNetwork,
    images: Array,
    timesteps: Sequence[int],
    *,
    method: Method = "ngu-lee",
    amplitude: Amplitude = "compensated",
    alpha: float = 1.0,
    percentile: float = 99.0,
    initial_potential: InitialPotential | None = None,
    reset: Reset = "soft",
    readout: Readout = "potential",
    poisson_seed: int | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> tuple[SpikingNetwork, ...]:
    """Return ``network`` with integrate-and-fire neurons, once for each of several latencies.

    What is the same for all of them is computed once: activations, and the largest currents after each T, as long as
    the layers before have the same thresholds for all T. So a network of two convolutions takes one simulation.

    Parameters
    ----------
    network
        From `lowering.convert`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latencies T.
    method, amplitude, readout
        See the tables of this module.
    alpha
        Factor on the thresholds, in (0, 1].
    percentile
        For ``percentile``, in (0, 100].
    initial_potential
        ``half``: V0 = threshold / 2, which rounds the spike count to nearest instead of down, the default with soft
        reset; or ``zero`` (paper), the only choice with hard reset, which leads back to 0.
    reset
        ``soft``, or ``hard``: Lava's own LIF.
    poisson_seed
        Pixels enter as Poisson spikes of this seed, see `ir.poisson`; ``None``: as a constant current.
    device
        Where it is simulated: ``"cpu"``, or another one of torch's.
    progress
        Counts images.

    Raises
    ------
    UsageError
        If an option is out of range.
    RangeError
        If activations grow beyond float32.
    DataError
        If the images do not fit the network, or there are none.
    """
    initial_potential = initial_potential or ("half" if reset == "soft" else "zero")
    _check(
        network,
        images,
        timesteps,
        method,
        amplitude,
        alpha,
        percentile,
        initial_potential,
        reset,
        readout,
        poisson_seed,
    )
    fitted = calibration_subset(images, max(timesteps)) if method == "least-squares" else images
    balancing = _Balancing(
        network, fitted, method, amplitude, alpha, percentile, initial_potential, reset, readout, poisson_seed, device
    )
    layers_of = balancing.layers(sorted(timesteps), progress)
    last = [SpikingLayer(network.layers[-1].name, network.layers[-1].synapse, None)] if readout == "potential" else []
    provenance = {
        "method": method,
        "amplitude": amplitude,
        "alpha": alpha,
        "initial_potential": initial_potential,
        "reset": reset,
        "readout": readout,
        "input": "constant" if poisson_seed is None else "poisson",
        "calibration_images": len(images),
        **({"percentile": percentile} if method == "percentile" else {}),
    }
    return tuple(
        SpikingNetwork(
            network.input_shape,
            (*layers_of[t], *last),
            t,
            reset,
            {"balance": {**provenance, "timesteps": t}},
            poisson_seed,
        )
        for t in timesteps
    )


class _Balancing:
    """The layers with neurons of a network, for several T; parameters as in `balance_each`."""

    def __init__(
        self,
        network: ReluNetwork,
        images: Array,
        method: Method,
        amplitude: Amplitude,
        alpha: float,
        percentile: float,
        initial_potential: InitialPotential,
        reset: Reset,
        readout: Readout,
        poisson_seed: int | None,
        device: str,
    ) -> None:
        self._network, self._images, self._method, self._amplitude = network, images, method, amplitude
        self._alpha, self._percentile, self._initial_potential = alpha, percentile, initial_potential
        self._reset, self._poisson_seed, self._device = reset, poisson_seed, device
        self._depth = len(network.layers) - (readout == "potential")
        self._percentiles: list[Array] = []
        self._done, self._passes = 0, 1
        self._progress: Progress = no_progress

    def layers(self, timesteps: Sequence[int], progress: Progress) -> dict[int, list[SpikingLayer]]:
        """Return them for each of ``timesteps``, ascending."""
        self._progress = progress
        if self._method == "percentile" or self._method in _OF_ACTIVATIONS:
            self._percentiles = activation_percentiles(
                self._network,
                self._images,
                _OF_ACTIVATIONS.get(self._method, self._percentile),
                per_layer=self._method in _PER_LAYER,
                progress=self._report,
            )
        # What is fitted to the rates over T steps must see all of them at once, for each T.
        apart = [[t] for t in timesteps] if self._method == "least-squares" else [list(timesteps)]
        self._done, self._passes = 0, len(apart) * self._depth
        found: dict[int, list[SpikingLayer]] = {}
        for steps in apart:
            found |= self._grown([], steps, self._simulation(steps))
        return found

    def _grown(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> dict[int, list[SpikingLayer]]:
        """The layers for each of ``timesteps``, which have ``fixed`` in common; ``simulation`` has seen those."""
        if len(fixed) == self._depth:
            return dict.fromkeys(timesteps, fixed)
        layer = self._network.layers[len(fixed)]
        same: dict[bytes, list[int]] = {}
        layers: dict[int, SpikingLayer] = {}
        for steps, (base, worth) in zip(timesteps, self._thresholds(fixed, timesteps, simulation), strict=True):
            if not np.isfinite(base).all():
                raise RangeError(
                    f"{layer.name}: its input is beyond 3.4e38, the largest float32; the weights up to here are too "
                    "large. Train it again."
                )
            if len(fixed) == len(self._network.layers) - 1:
                base = np.full_like(base, base.max())
            neuron = _neuron(self._alpha * base, worth, self._amplitude, self._initial_potential)
            layers[steps] = SpikingLayer(layer.name, layer.synapse, neuron)
            same.setdefault(base.tobytes(), []).append(steps)
        found: dict[int, list[SpikingLayer]] = {}
        for together in same.values():
            # Spikes that were kept go on with the largest T only if none has left.
            goes_on = simulation if len(same) == 1 else self._simulation(together)
            found |= self._grown([*fixed, layers[together[0]]], together, goes_on)
        return found

    def _thresholds(
        self, fixed: list[SpikingLayer], timesteps: list[int], simulation: GrowingSimulation
    ) -> list[Balanced]:
        """The thresholds of the layer behind ``fixed``, alpha aside, for each of ``timesteps``."""
        layer = self._network.layers[len(fixed)]
        learned = layer.threshold if self._method == "qcfs" else None
        if learned is not None:
            return [_worth_itself(learned)] * len(timesteps)
        if not self._percentiles:
            found = simulation.largest_currents(fixed, timesteps, progress=self._report)
            self._done += 1
            if self._method in _PER_LAYER:
                found = np.broadcast_to(found.max(axis=1, keepdims=True), found.shape)
            return [_worth_itself(thresholds) for thresholds in found]
        base = self._percentiles[len(fixed)]
        if self._method == "least-squares" and np.isfinite(base).all():
            share = 0.5 if self._initial_potential == "half" else 0.0
            fits = self._reset == "hard"
            nearest = nearest_rates(simulation, fixed, base, share, self._report, fits_worths=fits)
            self._done += 1
            return [nearest] * len(timesteps)
        return [_worth_itself(base)] * len(timesteps)

    def _simulation(self, timesteps: Sequence[int]) -> GrowingSimulation:
        return GrowingSimulation(
            self._network,
            self._images,
            max(timesteps),
            self._reset,
            poisson_seed=self._poisson_seed,
            device=self._device,
            whole=self._method == "least-squares",
        )

    def _report(self, done: int, total: int) -> None:
        # Passes that only some T take are not foreseen.
        self._progress(min(self._done, self._passes - 1) * total + done, self._passes * total)


def _check(
    network: ReluNetwork,
    images: Array,
    timesteps: Sequence[int],
    method: str,
    amplitude: str,
    alpha: float,
    percentile: float,
    initial_potential: str,
    reset: str,
    readout: str,
    poisson_seed: int | None,
) -> None:
    for option, value, allowed in (
        ("--balance", method, get_args(Method)),
        ("--amplitude", amplitude, get_args(Amplitude)),
        ("--initial-potential", initial_potential, get_args(InitialPotential)),
        ("--reset", reset, get_args(Reset)),
        ("--readout", readout, get_args(Readout)),
    ):
        if value not in allowed:
            raise UsageError(f"{option} {value}: unknown; allowed are {', '.join(allowed)}.")
    if method == "qcfs" and any(layer.threshold is None for layer in network.layers[:-1]):
        raise UsageError(
            "--balance qcfs: the CNN was not trained with thresholds; train it with --qcfs, or use --balance auto."
        )
    if method == "least-squares" and amplitude == "literal":
        raise UsageError(
            "--balance least-squares: needs --amplitude compensated; a literal spike does not stand for its threshold."
        )
    if reset == "hard" and initial_potential != "zero":
        raise UsageError(f"--initial-potential {initial_potential}: with --reset hard neurons start at zero.")
    require_timesteps(timesteps)
    if method == "rmp" and reset != "soft":
        raise UsageError(f"--reset {reset}: --balance rmp is spike-norm with soft reset; use --balance spike-norm.")
    if poisson_seed is not None and not 0 <= poisson_seed <= MAX_SEED:
        raise UsageError(f"--seed {poisson_seed}: allowed are 0..{MAX_SEED}.")
    if not 0 < alpha <= 1:
        raise UsageError(f"--alpha {alpha}: allowed is 0 < alpha <= 1.")
    if not 0 < percentile <= 100:
        raise UsageError(f"--percentile {percentile}: allowed is 0 < percentile <= 100.")
    require_images(network, images)


def require_images(network: ReluNetwork, images: Array) -> None:
    """Raise a `DataError` unless ``images`` are calibration images for ``network``."""
    if images.dtype != np.uint8 or images.shape[1:] != network.input_shape or len(images) == 0:
        raise DataError(
            f"calibration images: found {images.dtype} of shape {images.shape}; the network takes uint8 of shape "
            f"(N, {', '.join(map(str, network.input_shape))}), N >= 1."
        )


def _worth_itself(thresholds: Array) -> Balanced:
    return Balanced(thresholds, np.ones_like(thresholds))


def _neuron(
    threshold: Array, share: Array, amplitude: Amplitude, initial_potential: InitialPotential
) -> IntegrateAndFire:
    """Neurons of the given thresholds, a compensated spike being worth ``share`` of them.

    A channel that never received a positive current is dead: it never fires.
    """
    alive = threshold > 0
    worth = threshold * share if amplitude == "compensated" else np.ones_like(threshold)
    return IntegrateAndFire(
        threshold=np.where(alive, threshold, np.inf),
        amplitude=np.where(alive, worth, 0.0),
        initial_potential=np.where(alive, threshold / 2, 0.0) if initial_potential == "half" else 0 * threshold,
    )


def require_timesteps(timesteps: Sequence[int]) -> None:
    """Raise the `UsageError` of `balance_each` unless ``timesteps`` are such latencies; it can be known before work."""
    for steps in timesteps:
        if not 1 <= steps <= MAX_TIMESTEPS:
            raise UsageError(f"--timesteps {steps}: allowed are 1..{MAX_TIMESTEPS:,} time steps.")
    if not timesteps or len(set(timesteps)) < len(timesteps):
        raise UsageError(f"--timesteps {tuple(timesteps)}: allowed are different numbers of time steps, at least one.")
