"""ReluNetwork -> SpikingNetwork: firing thresholds per channel, balanced for a latency T.

=================  ====================================================================================================
method             threshold of channel k in layer l
=================  ====================================================================================================
``ngu-lee``        alpha x the largest input current of the channel over all calibration images, positions and steps
                   1..T, while the layers before it spike with their already fixed thresholds (Ngu & Lee 2022,
                   algorithm 2, alpha of section 4.1.3)
``percentile``     a percentile of the channel's positive ReLU activations in the CNN (per channel; after
                   Rueckauer et al. 2017, who take one per layer)
``least-squares``  of 24 thresholds up to a little above the channel's largest activation the one whose firing rates
                   over T steps are nearest to the activations of the CNN, in squares, over images (of
                   `sample.sample`) and positions, while the layers before it spike with their already fixed
                   thresholds. What a spike rounds and what it cuts off are weighed against each other, for this T: the
                   smaller T, the lower the threshold (after Li et al., ICML 2021, who do so per layer and without
                   simulation)
``qcfs``           the threshold that the CNN was trained with, if its activations are `qcfs.Qcfs` (Bu et al., ICLR
                   2022)
=================  ====================================================================================================

=================  ====================================================================================================
amplitude          what the spike of a neuron is worth to the next layer
=================  ====================================================================================================
``compensated``    its threshold: rate x threshold approximates the activation, and the SNN converges to the CNN
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

from typing import Final, Literal, get_args

import numpy as np
import torch

from loihi_convert.conversion.sample import sample
from loihi_convert.errors import DataError, RangeError, UsageError
from loihi_convert.network import (
    MOST_TIMESTEPS,
    IntegrateAndFire,
    Readout,
    ReluNetwork,
    Reset,
    SpikingLayer,
    SpikingNetwork,
)
from loihi_convert.progress import Progress, silent
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.simulate import channel_maxima, relu_outputs
from loihi_convert.synapse import Array

Method = Literal["ngu-lee", "percentile", "least-squares", "qcfs"]
Amplitude = Literal["compensated", "literal"]
InitialPotential = Literal["zero", "half"]

# Candidates of least-squares, in parts of the channel's largest activation.
_CANDIDATES: Final = np.geomspace(0.08, 1.1, 24)

# A percentile is read off a histogram of this many bins between 0 and the channel's maximum.
_BINS: Final = 4096


def balance(
    network: ReluNetwork,
    images: Array,
    timesteps: int,
    *,
    method: Method = "ngu-lee",
    amplitude: Amplitude = "compensated",
    alpha: float = 1.0,
    percentile: float = 99.0,
    initial_potential: InitialPotential | None = None,
    reset: Reset = "soft",
    readout: Readout = "potential",
    device: str = "cpu",
    progress: Progress = silent,
) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons whose thresholds suit ``timesteps`` steps.

    Parameters
    ----------
    network
        From `convert.convert`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latency T.
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
    _check(network, images, timesteps, method, amplitude, alpha, percentile, initial_potential, reset, readout)
    spiking_count = len(network.layers) - (readout == "potential")
    percentiles: list[Array] = []
    fitted = sample(images, timesteps) if method == "least-squares" else images
    if method in ("percentile", "least-squares"):
        percentiles = _activation_percentiles(network, fitted, percentile if method == "percentile" else 100, progress)
    simulation = GrowingSimulation(network, fitted, timesteps, reset, device=device, whole=method == "least-squares")
    layers: list[SpikingLayer] = []

    def report(done: int, total: int) -> None:
        progress(len(layers) * total + done, spiking_count * total)

    for index, layer in enumerate(network.layers[:spiking_count]):
        if method == "ngu-lee" or (method == "qcfs" and index == len(network.layers) - 1):
            base = simulation.largest_currents(layers, progress=report)
        else:
            base = percentiles[index] if layer.threshold is None or method != "qcfs" else layer.threshold
        if method == "least-squares" and np.isfinite(base).all():
            base = _nearest_rates(simulation, layers, base, 0.5 if initial_potential == "half" else 0.0, report)
        if not np.isfinite(base).all():
            raise RangeError(
                f"{layer.name}: its input is beyond 3.4e38, the largest float32; the weights up to here are too large. "
                "Train it again."
            )
        if index == len(network.layers) - 1:
            base = np.full_like(base, base.max())
        layers.append(SpikingLayer(layer.name, layer.synapse, _neuron(alpha * base, amplitude, initial_potential)))
    if readout == "potential":
        layers.append(SpikingLayer(network.layers[-1].name, network.layers[-1].synapse, None))
    provenance = {
        "method": method,
        "amplitude": amplitude,
        "alpha": alpha,
        "initial_potential": initial_potential,
        "reset": reset,
        "readout": readout,
        "timesteps": timesteps,
        "calibration_images": len(images),
        **({"percentile": percentile} if method == "percentile" else {}),
    }
    return SpikingNetwork(network.input_shape, tuple(layers), timesteps, reset, {"balance": provenance})


def _check(
    network: ReluNetwork,
    images: Array,
    timesteps: int,
    method: str,
    amplitude: str,
    alpha: float,
    percentile: float,
    initial_potential: str,
    reset: str,
    readout: str,
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
    if not 1 <= timesteps <= MOST_TIMESTEPS:
        raise UsageError(f"--timesteps {timesteps}: allowed are 1..{MOST_TIMESTEPS:,} time steps.")
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


def _neuron(threshold: Array, amplitude: Amplitude, initial_potential: InitialPotential) -> IntegrateAndFire:
    """Neurons of the given thresholds; a channel that never received a positive current is dead: it never fires."""
    alive = threshold > 0
    worth = threshold if amplitude == "compensated" else np.ones_like(threshold)
    return IntegrateAndFire(
        threshold=np.where(alive, threshold, np.inf),
        amplitude=np.where(alive, worth, 0.0),
        initial_potential=np.where(alive, threshold / 2, 0.0) if initial_potential == "half" else 0 * threshold,
    )


def _nearest_rates(
    simulation: GrowingSimulation, fixed: list[SpikingLayer], largest: Array, initial_share: float, progress: Progress
) -> Array:
    """float64 ``(C_out,)``: for each channel the best of `_CANDIDATES` x ``largest``; 0 where that is not positive."""
    alive = largest > 0
    candidates = _CANDIDATES[:, None] * np.where(alive, largest, 1.0)
    errors = simulation.rate_errors(fixed, candidates, initial_share * candidates, progress=progress)
    best = np.take_along_axis(candidates, errors.argmin(axis=0)[None], axis=0)[0]
    return np.where(alive, best, 0.0)


def _activation_percentiles(network: ReluNetwork, images: Array, percentile: float, progress: Progress) -> list[Array]:
    """float64 ``(C_out,)`` per layer: the percentile of each channel's positive activations."""
    largest = [torch.zeros(layer.synapse.channels) for layer in network.layers]
    done = 0
    for outputs in relu_outputs(network, images):
        for index in range(len(outputs)):
            largest[index] = torch.maximum(largest[index], channel_maxima(outputs[index]))
        done += len(outputs[0])
        progress(done, 2 * len(images))
    counts = [torch.zeros(len(peak) * _BINS, dtype=torch.int64) for peak in largest]
    for outputs in relu_outputs(network, images):
        for index in range(len(outputs)):
            values, peak = (
                outputs[index].transpose(0, 1).flatten(1),
                largest[index].clamp_min(torch.finfo(torch.float32).tiny),
            )
            bins = (values / peak[:, None] * _BINS).to(torch.int64).clamp_(max=_BINS - 1)
            bins += torch.arange(len(peak))[:, None] * _BINS
            counts[index] += torch.bincount(bins[values > 0], minlength=len(counts[index]))
        done += len(outputs[0])
        progress(done, 2 * len(images))
    thresholds = []
    for count, peak in zip(counts, largest, strict=True):
        cumulative = count.reshape(len(peak), _BINS).cumsum(1)
        rank = torch.ceil(cumulative[:, -1:] * (percentile / 100)).clamp_min(1)
        # The upper edge of the bin in which the rank lies: at 100 exactly the maximum.
        edge = (cumulative < rank).sum(1) + 1
        thresholds.append((peak * edge.clamp(max=_BINS) / _BINS).to(torch.float64).numpy())
    return thresholds
