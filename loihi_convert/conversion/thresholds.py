"""Thresholds whose firing rates are nearest to the CNN's activations."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.ir.network import SpikingLayer
from loihi_convert.progress import Progress
from loihi_convert.simulation.layerwise import GrowingSimulation

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
