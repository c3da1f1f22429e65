"""ReluNetwork -> QuantizedNetwork: choose a method, balance, correct, quantize, and measure what came out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

from loihi_convert.arrays import Array
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.choice import Agreement, Trial, choose_method, measured_agreement, trial_images
from loihi_convert.conversion.options import AUTO, BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.quantization_report import QuantizationReport, report_quantization
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.records import wilson_interval
from loihi_convert.simulation.simulator import outputs

COMPARED_IMAGES: Final = 32
"""Calibration images on which the classes of the quantized and of the float network are compared."""


@dataclass(frozen=True, eq=False)
class Conversion:
    """A CNN in Loihi's integers, and how it became so.

    Parameters
    ----------
    spiking
        The network in floating point that was rounded.
    quantized
        Its integers.
    report
        What rounding has cost, layer by layer.
    trials
        What ``auto`` tried, the chosen method first; empty where the method was given.
    agreement
        Of ``quantized`` with the CNN, on the calibration images of the trials.
    notes
        What the user should know, one sentence each.
    """

    spiking: SpikingNetwork
    quantized: QuantizedNetwork
    report: QuantizationReport
    trials: tuple[Trial, ...]
    agreement: Agreement
    notes: tuple[str, ...]


def to_integers(
    cnn: ReluNetwork,
    images: Array,
    timesteps: int,
    balance_options: BalanceOptions = BalanceOptions(),
    quantize_options: QuantizeOptions = QuantizeOptions(),
    *,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> Conversion:
    """Return ``cnn`` in Loihi's integers, balanced for ``timesteps`` steps.

    Parameters
    ----------
    cnn
        From `lowering.to_relu_network`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latency T.
    balance_options, quantize_options
        See `BalanceOptions` and `QuantizeOptions`.
    device
        Where it is simulated: ``"cpu"``, or another one of torch's.
    bars
        Opens a progress bar for each stage.

    Raises
    ------
    UsageError
        If the options do not go together, or do not fit the CNN.
    RangeError
        If activations grow beyond float32, or a number fits Loihi at no scale.
    DataError
        If the images do not fit the CNN, or there are none.
    """
    require_timesteps((timesteps,))
    quantize_options.require_neurons(balance_options.reset, balance_options.poisson_seed)
    converting = _Converting(cnn, images, timesteps, balance_options, quantize_options, device, bars)
    if balance_options.method == AUTO:
        with bars(f"T = {timesteps}: choosing the balancing method") as progress:
            trials = choose_method(
                cnn, images, timesteps, balance_options, quantize_options, device=device, progress=progress
            )
        made, trials, choice = converting.best_of(trials)
    else:
        made, trials, choice = converting(balance_options), (), ()
    choice_record = [asdict(trial) for trial in trials]
    spiking = replace(made.spiking, provenance=made.spiking.provenance.with_parts(choice=choice_record))
    quantized = replace(made.quantized, provenance=made.quantized.provenance.with_parts(choice=choice_record))
    with bars(f"T = {timesteps}: counting clipped potentials") as progress:
        report = report_quantization(quantized, spiking, images, device=device, progress=progress)
    notes = (*choice, *_bias_notes(spiking), *_rounding_notes(spiking, quantized, images[:COMPARED_IMAGES]))
    return Conversion(spiking, quantized, report, trials, made.agreement, notes)


class _Made(NamedTuple):
    spiking: SpikingNetwork
    quantized: QuantizedNetwork
    agreement: Agreement


@dataclass(frozen=True, eq=False)
class _Converting:
    """The conversion of a CNN with all calibration images, by whatever method; fields as in `to_integers`."""

    cnn: ReluNetwork
    images: Array
    timesteps: int
    balance_options: BalanceOptions
    quantize_options: QuantizeOptions
    device: str
    bars: ProgressFactory

    def __call__(self, options: BalanceOptions) -> _Made:
        """Balance, correct, quantize and measure; ``options`` name a method."""
        with self.bars(f"T = {self.timesteps}: balancing thresholds") as progress:
            spiking = balance(self.cnn, self.images, self.timesteps, options, device=self.device, progress=progress)
        with self.bars(f"T = {self.timesteps}: quantizing") as progress:
            quantized = quantize(spiking, self.images, self.quantize_options, device=self.device, progress=progress)
        tried = trial_images(self.images, self.timesteps)
        return _Made(spiking, quantized, measured_agreement(self.cnn, quantized, tried, device=self.device))

    def best_of(self, trials: tuple[Trial, ...]) -> tuple[_Made, tuple[Trial, ...], tuple[str, ...]]:
        """Return the conversion by the best trial, the trials with that one first, and notes.

        More images give other thresholds and scales than the trial had, and integers of few bits then round otherwise.
        Where the agreement falls below what chance explains, the second best trial is converted, too, and the better
        of both conversions is taken.
        """
        best, *others = trials
        made = self(best.chosen(self.balance_options))
        notes: tuple[str, ...] = ()
        if others and falls_short(made.agreement, best):
            second, *rest = others
            other = self(second.chosen(self.balance_options))
            notes = (
                f"With all calibration images the agreement of {best.name} falls to "
                f"{_percent(made.agreement)}, that of {second.name} is {_percent(other.agreement)}; the better is "
                "taken.",
            )
            if (-other.agreement.agreement, other.agreement.error) < (-made.agreement.agreement, made.agreement.error):
                made, trials = other, (second, best, *rest)
        return made, trials, (_choice_note(trials, made.agreement, self.timesteps), *notes)


def falls_short(written: Agreement, trial: Trial) -> bool:
    """Return whether ``written`` lies below the 95 % interval of the agreement that ``trial`` has measured."""
    low, _ = wilson_interval(round(trial.agreement * trial.image_count), trial.image_count)
    return written.agreement < low


def _percent(agreement: Agreement) -> str:
    return f"{100 * agreement.agreement:.2f} %"


def _choice_note(trials: Sequence[Trial], agreement: Agreement, timesteps: int) -> str:
    """The method that was chosen, what its network agrees on, and what the trials gave."""
    tried = ", ".join(f"{trial.name} {_percent(trial)}" for trial in trials)
    return (
        f"`method='auto'`: {trials[0].name} for T = {timesteps}; the quantized network agrees with the CNN on "
        f"{_percent(agreement)} of {agreement.image_count} calibration images (trials: {tried})."
    )


def _bias_notes(network: SpikingNetwork) -> tuple[str, ...]:
    """A warning where amplitudes are literal and a later layer has a bias; the paper's networks have none."""
    biased = [
        layer.name
        for before, layer in itertools.pairwise(network.layers)
        if before.neuron is not None and before.neuron.is_literal and layer.synapse.bias is not None
    ]
    if not biased:
        return ()
    return (
        f"`amplitude='literal'`: amplitudes of 1 change the scale of the currents of {', '.join(biased)}, but not of "
        "their biases (batch norm leaves some when it is folded); all accuracy may be lost. Use "
        "`amplitude='compensated'`.",
    )


def _rounding_notes(network: SpikingNetwork, quantized: QuantizedNetwork, images: Array) -> tuple[str, ...]:
    """A warning where rounding changes classes; a single huge weight can cause it."""
    real, rounded = (outputs(found, images, network.timesteps)[:, -1].argmax(axis=1) for found in (network, quantized))
    equal = int((real == rounded).sum())
    if equal >= 0.9 * len(images):
        return ()
    return (
        f"quantized and float SNN agree on only {equal} of {len(images)} calibration images; look for layers of few "
        "weight bits, and for single weights or biases far larger than the others.",
    )
