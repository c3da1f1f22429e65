"""Which balancing method suits a network and a latency T: tried out on calibration images, never on test images.

Each candidate is balanced and quantized on one part of the calibration images and simulated on another, in the integers
that would be exported: few weight bits suit some thresholds better than others. The one whose classes agree most often
with the CNN's is taken; among equals one without corrections (`bias_correction.py`), then the one whose output is
nearest to the CNN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.conversion.balancing import Amplitude, InitialPotential, Method, balance, require_images
from loihi_convert.conversion.bias_correction import correct_biases
from loihi_convert.conversion.calibration import calibration_subset
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ir.network import Readout, ReluNetwork, Reset, SpikingNetwork
from loihi_convert.ir.quantized import Granularity, Target
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import outputs

BALANCING_SHARE: Final = 4
"""A method is balanced, for a trial, on so many times fewer images than it is tried on."""

# How many of the best are tried with corrections, too.
_CORRECTED: Final = 2

# Method, percentile, and the least T: thresholds near the largest activation are far from the best for few steps. That
# of ngu-lee is not much above it, and takes a simulation of all calibration images.
_CANDIDATES: Final[tuple[tuple[Method, float, int], ...]] = (
    ("qcfs", 99.0, 1),
    ("least-squares", 99.0, 1),
    ("percentile", 99.0, 1),
    ("percentile", 99.9, 8),
    ("percentile", 100.0, 32),
)


@dataclass(frozen=True)
class Trial:
    """What a balancing method gave on the second part of the calibration images.

    Parameters
    ----------
    method, percentile
        As in `balancing.balance`.
    corrected
        Whether `bias_correction.correct_biases` followed.
    agreement
        Share of images whose class is the CNN's.
    error
        Mean squared difference between the output / T, in the CNN's units, and the CNN's scores. The output is the
        potential, or, where the last layer has neurons, how often they have fired, in thresholds.
    image_count
        Images simulated.
    """

    method: Method
    percentile: float
    corrected: bool
    agreement: float
    error: float
    image_count: int

    @property
    def name(self) -> str:
        method = f"{self.method} {self.percentile:g}" if self.method == "percentile" else self.method
        return f"{method} corrected" if self.corrected else method


def choose_method(
    network: ReluNetwork,
    images: Array,
    timesteps: int,
    *,
    amplitude: Amplitude = "compensated",
    alpha: float = 1.0,
    initial_potential: InitialPotential | None = None,
    reset: Reset = "soft",
    readout: Readout = "potential",
    poisson_seed: int | None = None,
    correct: bool | None = None,
    weight_bits: int = 8,
    pixel_bits: int | None = None,
    target: Target = "lava",
    thresholds: Granularity = "channel",
    device: str = "cpu",
    progress: Progress = no_progress,
) -> tuple[Trial, ...]:
    """Return the trials of all methods that ``amplitude`` allows, the best first.

    Arguments as in `balancing.balance` and `quantization.quantize`.

    ``correct`` says whether all of them are corrected, or none; by default the two best are tried with corrections too.
    """
    require_images(network, images)
    half = max(1, len(images) // 2)
    trying = calibration_subset(images[-half:], timesteps)
    balancing = images[: max(1, len(trying) // BALANCING_SHARE)]
    has_thresholds = network.layers[0].threshold is not None and len(network.layers) > 1
    candidates = [
        (method, percentile)
        for method, percentile, least in _CANDIDATES
        if timesteps >= least and (method != "qcfs" or has_thresholds)
    ]
    if amplitude == "literal":
        # The others take a spike for its threshold.
        candidates = [("ngu-lee", 99.0)]
    scores = cnn_scores(network, trying)
    more = _CORRECTED if correct is None and amplitude == "compensated" and initial_potential is None else 0
    balanced: list[SpikingNetwork] = []
    trials: list[Trial] = []

    def report(done: int, total: int) -> None:
        progress(len(trials) * total + done, (len(candidates) + more) * total)

    def tried(spiking: SpikingNetwork, method: Method, percentile: float, corrected: bool) -> Trial:
        if corrected:
            spiking = correct_biases(network, spiking, balancing, device=device)
        network_tried = quantize(
            spiking,
            balancing,
            weight_bits=weight_bits,
            pixel_bits=pixel_bits,
            target=target,
            thresholds=thresholds,
            device=device,
        )
        last = network_tried.layers[-1]
        read = outputs(network_tried, trying, timesteps, device=device)[:, -1]
        found = read * last.scale * (1 if last.threshold is None else last.threshold)
        agreement = float((read.argmax(axis=1) == scores.argmax(axis=1)).mean())
        error = float(np.square(found / timesteps - scores).mean())
        return Trial(method, percentile, corrected, agreement, error, len(trying))

    for method, percentile in candidates:
        balanced.append(
            balance(
                network,
                balancing,
                timesteps,
                method=method,
                amplitude=amplitude,
                alpha=alpha,
                percentile=percentile,
                initial_potential=initial_potential,
                reset=reset,
                readout=readout,
                poisson_seed=poisson_seed,
                device=device,
                progress=report,
            )
        )
        trials.append(tried(balanced[-1], method, percentile, bool(correct)))
    for trial in sorted(trials, key=_rank)[:more]:
        spiking = balanced[trials.index(trial)]
        trials.append(tried(spiking, trial.method, trial.percentile, True))
        report(0, len(balancing))
    return tuple(sorted(trials, key=_rank))


def _rank(trial: Trial) -> tuple[float, bool, float]:
    return -trial.agreement, trial.corrected, trial.error


def reason(trials: Sequence[Trial], timesteps: int) -> str:
    """Return what was chosen and why, in a sentence."""
    best, *others = trials
    share = f"agrees with the CNN on {100 * best.agreement:.2f} % of {best.image_count} calibration images"
    rest = ", ".join(f"{trial.name} {100 * trial.agreement:.2f} %" for trial in others)
    return f"--balance auto: {best.name} for T = {timesteps}, which {share}" + (f" ({rest})." if rest else ".")
