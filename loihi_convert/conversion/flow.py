"""ReluNetwork -> QuantizedNetwork: choose a method, balance, correct, quantize, and measure what came out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from loihi_convert.arrays import Array
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.choice import Agreement, Trial, choose_method, measured_agreement, trial_images
from loihi_convert.conversion.options import AUTO, BalanceOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.quantization_report import QuantizationReport, report_quantization
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import ProgressFactory, no_progress_bar
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
    trials: tuple[Trial, ...] = ()
    if balance_options.method == AUTO:
        with bars(f"T = {timesteps}: choosing the balancing method") as progress:
            trials = choose_method(
                cnn, images, timesteps, balance_options, quantize_options, device=device, progress=progress
            )
        balance_options = trials[0].chosen(balance_options)
    with bars(f"T = {timesteps}: balancing thresholds") as progress:
        spiking = balance(cnn, images, timesteps, balance_options, device=device, progress=progress)
    spiking = replace(spiking, provenance={**spiking.provenance, "choice": [asdict(trial) for trial in trials]})
    with bars(f"T = {timesteps}: quantizing") as progress:
        quantized = quantize(spiking, images, quantize_options, device=device, progress=progress)
    with bars(f"T = {timesteps}: counting clipped potentials") as progress:
        report = report_quantization(quantized, spiking, images, device=device, progress=progress)
    agreement = measured_agreement(cnn, quantized, trial_images(images, timesteps), device=device)
    notes = (
        *((_choice_note(trials, agreement, timesteps),) if trials else ()),
        *_bias_notes(spiking),
        *_rounding_notes(spiking, quantized, images[:COMPARED_IMAGES]),
    )
    return Conversion(spiking, quantized, report, trials, agreement, notes)


def _choice_note(trials: Sequence[Trial], agreement: Agreement, timesteps: int) -> str:
    """The method that was chosen, what its network agrees on, and what the trials gave."""
    tried = ", ".join(f"{trial.name} {100 * trial.agreement:.2f} %" for trial in trials)
    return (
        f"`method='auto'`: {trials[0].name} for T = {timesteps}; the quantized network agrees with the CNN on "
        f"{100 * agreement.agreement:.2f} % of {agreement.image_count} calibration images (trials: {tried})."
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
