"""A tensor after one operation: ReLU and its variants, sums, concatenation, average pooling, batch norm, constants.

Only ReLUs create neurons; the others are linear maps.

Each ReLU becomes a population. A population is never negative, so a second ReLU changes nothing, nor does one of
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

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.normalization import Normalization
from loihi_convert.lowering.linear import as_vector, through
from loihi_convert.lowering.populations import Population, Populations
from loihi_convert.lowering.value import IMAGE, Features, Tensor, Value, scaled, shifted, summed
from loihi_convert.lowering.window import Window, pooled_size
from loihi_convert.reading.operations import Affine, AveragePool, LeakyRelu, Relu


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


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the channels of ``tensors``, concatenated."""
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    if len(values) < len(tensors):
        features = tuple(part for tensor in tensors if not isinstance(tensor, Value) for part in tensor)
        if not all(part.is_vector for part in features):
            return features
        return (Features(_joined([part.value for part in features])),)
    return _joined(values)


def _joined(values: Sequence[Value]) -> Value:
    terms, first = [], 0
    for value in values:
        terms += [replace(term, channels=term.channels + first) for term in value.terms]
        first += value.shape[0]
    constant = None
    if any(value.constant is not None for value in values):
        are_maps = any(value.constant is not None and value.constant.ndim == 3 for value in values)
        constant = np.concatenate(
            [value.map_of_constant() if are_maps else value.map_of_constant()[:, 0, 0] for value in values]
        )
    return Value((first, *values[0].size), tuple(terms), constant)


def added(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Return the sum of ``tensors``, each times its factor."""
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    if len(values) == len(tensors):
        return summed(values, factors, _name(values))
    flat = [tensor for tensor in tensors if not isinstance(tensor, Value)]
    if all(len(each) == 1 and each[0].is_whole for each in flat):
        maps = [each[0].value for each in flat]
        if len({each.shape for each in maps}) == 1:
            return (Features(summed(maps, factors, _name(maps))),)
    vectors = [as_vector(each) for each in flat]
    return (Features(summed(vectors, factors, _name(vectors))),)


def _name(values: Sequence[Value]) -> str:
    """The name of the first value that comes from a layer, not from a skip."""
    return next((value.name for value in values if value.name), "")


def averaged(value: Value, pool: AveragePool, shape: Shape) -> Value:
    """Return ``value`` after ``pool``, of ``shape``."""
    channels, size = value.shape[0], (shape[1], shape[2])
    if pool.kernel == (1, 1) and pool.tiles:
        return value
    # With ceil_mode the last window may reach beyond the map.
    covers = size == pooled_size(value.size, pool.kernel)
    if pool.tiles and covers and all(term.window.is_pointwise and not term.window.is_dense for term in value.terms):
        window = replace(Window.identity(channels, size), pool=pool.kernel)
    else:
        kernel = np.full((channels, 1, *pool.kernel), pool.factor)
        window = Window(kernel, size, pool.stride, pool.padding, groups=channels)
    found = through(value, window)
    if size != (1, 1):
        return found
    return replace(found, terms=tuple(replace(term, window=_dense(term.window)) for term in found.terms))


def _dense(window: Window) -> Window:
    is_dense = window.is_pointwise and not window.is_channelwise and window.groups == 1
    return replace(window, is_dense=is_dense or window.is_dense)


def normalized(tensor: Tensor, affine: Affine) -> Tensor:
    """Return ``tensor`` after ``affine``."""
    if isinstance(tensor, Value):
        return shifted(scaled(tensor, affine.gain), affine.shift)
    parts, first = [], 0
    for part in tensor:
        mine = slice(first, first + part.count)
        parts.append(_of_features(part, Affine(affine.gain[mine], affine.shift[mine])))
        first += part.count
    return tuple(parts)


def _of_features(features: Features, affine: Affine) -> Features:
    if features.is_vector:
        return replace(features, value=shifted(scaled(features.value, affine.gain), affine.shift))
    gain = affine.gain if features.gain is None else affine.gain * features.gain
    shift = affine.shift if features.shift is None else affine.gain * features.shift + affine.shift
    return replace(features, gain=gain, shift=shift)


def affine_of(normalization: Normalization) -> Affine:
    """Return ``(x - mean) / std``, given one number per channel each."""
    mean, std = (np.array(values, np.float64) for values in normalization)
    gain = 1 / std
    return Affine(gain, -mean * gain)
