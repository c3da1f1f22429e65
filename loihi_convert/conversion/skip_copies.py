"""Number of relay copies for each skip connection, by trials on calibration images, never test images.

A skip enters a convolution with the amplitude it repeats as its weight, often several times the largest weight there.
All weights of a channel share one scale, so at 8 bits the convolution loses 1 to 2 of them
(`quantization_report.identity_ratio`). If r relays repeat the same spikes, each has 1/r of the weight, and log2(r) bits
are regained. Every copy costs neurons, spikes and synaptic operations.

So copies are tried only if a skip costs bits, and more copies are used only if the quantized network then agrees better
with the CNN by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.conversion.agreement import Agreement, measure_of
from loihi_convert.conversion.balancing import balance, balancing_images, choose_method, trial_images
from loihi_convert.conversion.options import AUTO, BalanceOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.quantization_report import identity_ratio
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.ir.network import ReluNetwork, classes_of
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import last_outputs

COPIES: Final = (1, 2, 4)
"""Numbers of copies to try: an identity's weight is 2 to 5 times the largest other weight."""

_NEGLIGIBLE_BITS: Final = 0.25
# One-sided 95 % quantile of the normal distribution, in standard errors.
_ONE_SIDED: Final = 1.645


@dataclass(frozen=True, kw_only=True)
class CopiesTrial(Agreement):
    """A number of copies tried on the second part of the calibration images.

    Parameters
    ----------
    copies
        Relays per skip, r.
    identity_bits
        Weight bits lost by the convolution that loses most to a skip; 0 without skips.
    neurons
        Number of neurons of the network.
    """

    copies: int
    identity_bits: float
    neurons: int


class _Tried(NamedTuple):
    trial: CopiesTrial
    # Per image: 1 if the class is the CNN's, else 0; for a regression, minus the squared error.
    merits: Array


def choose_copies(
    variant: Callable[[int], ReluNetwork],
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions = BalanceOptions(),
    quantize_options: QuantizeOptions = QuantizeOptions(),
    *,
    copies: Sequence[int] = COPIES,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> tuple[CopiesTrial, ...]:
    """Return the trials of several numbers of copies, with the chosen one first.

    Parameters
    ----------
    variant
        Returns the CNN with the given number of relays per skip, like ``to_relu_network(model, skip_copies=r)``.
    images
        Calibration images, uint8 ``(N, C, H, W)``; one part balances and quantizes, another tests, as in `choice`.
    timesteps, options, quantize_options, device, bars
        As in `flow.to_integers`; ``auto`` chooses once, with the first number of copies.
    copies
        The numbers of copies to try, the smallest first.

    Raises
    ------
    DataError
        If the images do not fit the CNN, or there are none.
    """
    first = variant(copies[0])
    if options.method == AUTO:
        with bars(f"T = {timesteps}: choosing the balancing method") as progress:
            best, *_ = choose_method(
                first, images, timesteps, options, quantize_options, device=device, progress=progress
            )
        options = best.chosen(options)
    trying = trial_images(images, timesteps)
    balancing = balancing_images(images, trying)
    scores = cnn_scores(first, trying)
    tried: list[_Tried] = []
    for count in copies:
        network = variant(count) if tried else first
        with bars(f"T = {timesteps}: {count} relays per skip") as progress:
            spiking = balance(network, balancing, timesteps, options, device=device, progress=progress)
            quantized = quantize(spiking, balancing, quantize_options, device=device)
        bits = _identity_bits(network, quantized)
        tried.append(_tried(network, quantized, scores, trying, count, bits, device))
        if bits <= _NEGLIGIBLE_BITS:
            break
    chosen = tried[0]
    for other in tried[1:]:
        if _gains(other.merits - chosen.merits):
            chosen = other
    return chosen.trial, *(other.trial for other in tried if other is not chosen)


def _identity_bits(network: ReluNetwork, quantized: QuantizedNetwork) -> float:
    found = 0.0
    for before, layer, amplitude in zip(network.layers, network.layers[1:], quantized.used_amplitudes, strict=False):
        if before.relay_of is not None and amplitude is not None:
            ratio = identity_ratio(layer.synapse.with_input_factors(amplitude), before.relay_of)
            found = max(found, math.log2(ratio) if ratio else 0.0)
    return found


def _tried(
    network: ReluNetwork,
    quantized: QuantizedNetwork,
    scores: Array,
    trying: ImageArray,
    copies: int,
    identity_bits: float,
    device: str,
) -> _Tried:
    read = last_outputs(quantized, trying, quantized.timesteps, device=device)
    found = quantized.real_outputs(read, quantized.timesteps)
    squares = np.square(found - scores).mean(axis=1)
    is_regression = network.task == "regression"
    trial = CopiesTrial(
        copies=copies,
        identity_bits=identity_bits,
        neurons=sum(math.prod(shape) for shape in quantized.shapes),
        agreement=measure_of(network.task).share(found, scores),
        error=float(squares.mean()),
        image_count=len(trying),
    )
    hits = np.asarray(classes_of(found) == classes_of(scores), np.float64)
    return _Tried(trial, -squares if is_regression else hits)


def _gains(differences: Array) -> bool:
    """Whether the mean of ``differences``, one per image, is significantly above 0 (one-sided, 95 %)."""
    return bool(differences.mean() > _ONE_SIDED * math.sqrt(np.square(differences).mean() / len(differences)))
