"""The number of relay copies for each skip connection, chosen by trials on calibration images.

A skip enters a convolution with the amplitude it repeats as its weight, often several times the largest weight there.
All weights of a channel share one scale, so at 8 bits the convolution loses 1 to 2 of them (`flow.identity_ratio`). If
r relays repeat the same spikes, each has 1/r of the weight, and log2(r) bits are regained. Every copy costs neurons,
spikes and synaptic operations. So copies are tried only if a skip costs bits, and more copies are used only if the
quantized network then agrees better with the CNN by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from loihi_convert.conversion.agreement import Agreement, agreement_of, measure_of, real_outputs
from loihi_convert.conversion.balancing import balance, balancing_images, choose_method, trial_images
from loihi_convert.conversion.flow import identity_ratio
from loihi_convert.conversion.options import AUTO, ConversionOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.network import ReluNetwork, classes_of
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import cnn_scores

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


def choose_copies(
    variant: Callable[[int], ReluNetwork],
    images: ImageArray,
    timesteps: int,
    options: ConversionOptions = ConversionOptions(),
    copies: Sequence[int] = COPIES,
) -> tuple[CopiesTrial, ...]:
    """Return the trials of several numbers of copies, with the chosen one first.

    Parameters
    ----------
    variant
        Returns the CNN with the given number of relays per skip, like ``to_relu_network(model, skip_copies=r)``.
    images
        Calibration images; one part balances and quantizes, another tests, as in `choose_method`.
    timesteps, options
        As in `to_integers`; ``auto`` chooses once, with the first number of copies.
    copies
        The numbers of copies to try, the smallest first.
    """
    first, chosen, device = variant(copies[0]), options.balance, options.device
    if chosen.method == AUTO:
        with progress_bar(f"T = {timesteps}: choosing the balancing method"):
            best, *_ = choose_method(first, images, timesteps, chosen, options.quantize, device=device)
        chosen = best.chosen(chosen)
    trying = trial_images(images, timesteps)
    balancing = balancing_images(images, trying)
    scores, measure = cnn_scores(first, trying), measure_of(first.task)
    tried: list[tuple[CopiesTrial, Array]] = []
    for count in copies:
        network = variant(count) if tried else first
        with progress_bar(f"T = {timesteps}: {count} relays per skip"):
            spiking = balance(network, balancing, timesteps, chosen, device=device)
            quantized = quantize(spiking, balancing, options.quantize, device=device)
        found = real_outputs(quantized, trying, device=device)
        trial = CopiesTrial(
            **asdict(agreement_of(found, scores, measure)),
            copies=count,
            identity_bits=_identity_bits(network, quantized),
            neurons=sum(math.prod(shape) for shape in quantized.shapes),
        )
        # Per image: 1 if the class is the CNN's, else 0; for a regression, minus the squared error.
        hits = np.asarray(classes_of(found) == classes_of(scores), np.float64)
        merits = -np.square(found - scores).mean(axis=1) if network.task == "regression" else hits
        tried.append((trial, merits))
        if trial.identity_bits <= _NEGLIGIBLE_BITS:
            break
    kept, reached = tried[0]
    for trial, merits in tried[1:]:
        if _gains(merits - reached):
            kept, reached = trial, merits
    return kept, *(trial for trial, _ in tried if trial is not kept)


def _identity_bits(network: ReluNetwork, quantized: QuantizedNetwork) -> float:
    found = 0.0
    for before, layer, amplitude in zip(network.layers, network.layers[1:], quantized.used_amplitudes, strict=False):
        if before.relay_of is not None and amplitude is not None:
            ratio = identity_ratio(layer.synapse.with_input_factors(amplitude), before.relay_of)
            found = max(found, math.log2(ratio) if ratio else 0.0)
    return found


def _gains(differences: Array) -> bool:
    """Whether the mean of ``differences``, one per image, is significantly above 0 (one-sided, 95 %)."""
    return bool(differences.mean() > _ONE_SIDED * math.sqrt(np.square(differences).mean() / len(differences)))
