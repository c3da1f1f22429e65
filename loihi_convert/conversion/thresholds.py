"""Sources of thresholds: activations of the CNN, and currents simulated with the layers before."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loihi_convert.arrays import Array
from loihi_convert.ir.network import ReluNetwork, SpikingLayer
from loihi_convert.ir.relays import is_relay
from loihi_convert.progress import Progress
from loihi_convert.simulation.layerwise import GrowingSimulation
from loihi_convert.simulation.relu import relu_outputs

# Candidates of least-squares, as fractions of the channel's largest activation.
_CANDIDATES: Final = np.geomspace(0.08, 1.1, 24)

# A percentile is read off a histogram of this many bins between 0 and the maximum.
_BINS: Final = 4096


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


def activation_percentiles(
    network: ReluNetwork, images: Array, percentile: float, *, per_layer: bool, progress: Progress
) -> list[Array]:
    """float64 ``(C_out,)`` per layer: the percentile of positive activations, per channel or over the layer.

    Per layer, activations are pooled without relays, which repeat activations of other layers.
    A percentile of 100 is the largest activation; 0 if none is positive, not finite if one overflows float32.
    """

    pooled = [torch.from_numpy(~is_relay(layer.relay_of, layer.synapse.channels)) for layer in network.layers]

    def grouped(outputs: Tensor, own: Tensor) -> Tensor:
        if not per_layer:
            return outputs.transpose(0, 1).flatten(1)
        return (outputs if own.all() else outputs[:, own] if own.any() else outputs.new_zeros(1)).reshape(1, -1)

    largest = [torch.zeros(1 if per_layer else layer.synapse.channels) for layer in network.layers]
    done, passes = 0, 1 if percentile == 100 else 2
    for outputs in relu_outputs(network, images):
        largest = [
            torch.maximum(peak, grouped(found, own).amax(1))
            for peak, found, own in zip(largest, outputs, pooled, strict=True)
        ]
        done += len(outputs[0])
        progress(done, passes * len(images))
    edges = largest
    if percentile < 100:
        counts = [torch.zeros(len(peak) * _BINS, dtype=torch.int64) for peak in largest]
        for outputs in relu_outputs(network, images):
            for count, peak, found, own in zip(counts, largest, outputs, pooled, strict=True):
                values, positive = grouped(found, own), peak.clamp_min(torch.finfo(torch.float32).tiny)
                # Bins of infinity and NaN are meaningless, but `_rank` multiplies by the maximum, which is then not
                # finite.
                bins = (values / positive[:, None] * _BINS).to(torch.int64).clamp_(0, _BINS - 1)
                bins += torch.arange(len(peak))[:, None] * _BINS
                count += torch.bincount(bins[values > 0], minlength=len(count))
            done += len(outputs[0])
            progress(done, passes * len(images))
        edges = [_rank(count, peak, percentile) for count, peak in zip(counts, largest, strict=True)]
    return [
        np.broadcast_to(edge.to(torch.float64).numpy(), layer.synapse.channels)
        for edge, layer in zip(edges, network.layers, strict=True)
    ]


def _rank(counts: Tensor, largest: Tensor, percentile: float) -> Tensor:
    """``(groups,)``: the upper edge of the bin with the percentile; ``counts`` is ``(groups x bins,)``."""
    cumulative = counts.reshape(len(largest), _BINS).cumsum(1)
    rank = torch.ceil(cumulative[:, -1:] * (percentile / 100)).clamp_min(1)
    edge = (cumulative < rank).sum(1) + 1
    return largest * edge.clamp(max=_BINS) / _BINS
