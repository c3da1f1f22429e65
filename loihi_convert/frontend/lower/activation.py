"""ReLU and its variants: the only operations that create neurons.

Requires: any tensor.
Ensures: a population for each ReLU. A population is never negative, so a second ReLU changes nothing, nor does one of
the image, whose pixels are in 0..1. ReLU6 and clamp(0, b) are a ReLU with a ceiling, which becomes the largest
threshold in balancing: a neuron fires at most once per step, so it clips there exactly. LeakyReLU is
relu(x) - slope relu(-x): two populations. Other clamps are these equations, without a bound that no image reaches
(`Populations.bounds`):

=============== =================================
clamp           populations and constants
=============== =================================
clamp(a, b)     a + min(relu(x - a), b - a)
clamp(max=b)    b - relu(b - x)
                min(relu(x), b) if x >= 0 and b > 0
=============== =================================
"""

from __future__ import annotations

import numpy as np

from loihi_convert.frontend.lower.linear import as_vector
from loihi_convert.frontend.lower.populations import Population, Populations
from loihi_convert.frontend.lower.value import IMAGE, Features, Tensor, Value, scaled, shifted, summed
from loihi_convert.frontend.operations import LeakyRelu, Relu


def activated(populations: Populations, tensor: Tensor, activation: Relu | LeakyRelu, name: str) -> Tensor:
    """Return ``tensor`` after ``activation``; neurons are named after the layer before them, or ``name``."""
    if isinstance(tensor, Value):
        return _of_value(populations, tensor, activation, name)
    (first, *others) = tensor
    per_channel = activation.slope.size > 1 if isinstance(activation, LeakyRelu) else activation.threshold is not None
    # Flattening and a ReLU commute.
    if not others and first.is_whole and (not per_channel or first.is_vector):
        return (Features(_of_value(populations, first.value, activation, name)),)
    return (Features(_of_value(populations, as_vector(tensor), activation, name)),)


def _of_value(populations: Populations, value: Value, activation: Relu | LeakyRelu, name: str) -> Value:
    called = value.name or name
    if isinstance(activation, LeakyRelu):
        slope = np.broadcast_to(activation.slope, value.shape[0])
        positive = populations.add(Population(called, value))
        negative = populations.add(Population(f"{called} (negative)", scaled(value, -1.0)))
        return summed((positive, scaled(negative, slope)), (1.0, -1.0))
    if activation.threshold is None:
        most = 1.0 if value.copied_source == IMAGE else np.inf
        if value.copied_source is not None and activation.floor <= 0 and activation.ceiling >= most:
            return value
        if (activation.floor, activation.ceiling) != (0, np.inf):
            return _clipped(populations, value, activation, called)
    return populations.add(Population(called, value, activation.threshold, activation.levels, activation.ceiling))


def _clipped(populations: Populations, value: Value, clamp: Relu, name: str) -> Value:
    (low, high), floor, ceiling = populations.bounds(value), clamp.floor, clamp.ceiling
    if low.min() >= floor:
        if high.max() <= ceiling:
            return value
        # A floor of 0 costs nothing.
        floor = 0.0 if low.min() >= 0 and ceiling > 0 else -np.inf
    if floor == 0:
        return populations.add(Population(name, value, ceiling=ceiling))
    sign, start = (1.0, floor) if floor > -np.inf else (-1.0, ceiling)
    constant = np.full(value.shape[0], start)
    distance = shifted(scaled(value, sign), -sign * constant)
    kept = populations.add(Population(name, distance, ceiling=ceiling - floor if sign > 0 else np.inf))
    return shifted(scaled(kept, sign), constant)
