"""A tensor after one operation. Only ReLUs create neurons; all others are linear maps of what is there.

Requires: values that are sums of linear maps of populations.
Ensures: the value after the operation, as a sum of linear maps of the same populations, or of that of the ReLU. Two
linear maps without a ReLU between them become one. No such map exists if the second pads its input with zeros where
the first would continue: then all functions raise `MustBeCarriedError`.

A population is never negative, so a second ReLU changes nothing, nor does one of the image, whose pixels are in 0..1.
ReLU6 and clamp(0, b) are a ReLU with a ceiling, which becomes the largest threshold in balancing: a neuron fires at
most once per step, so it clips there exactly. LeakyReLU is relu(x) - slope relu(-x): two populations. Other clamps are
these equations, without a bound that no image reaches (`Populations.bounds`):

=============== =================================
clamp           populations and constants
=============== =================================
clamp(a, b)     a + min(relu(x - a), b - a)
clamp(max=b)    b - relu(b - x)
                min(relu(x), b) if x >= 0 and b > 0
=============== =================================

Max pooling is a tournament of ``max(a, b) = b + relu(a - b)``: in each round the pixels of a window are compared in
pairs, first along rows, then along columns. A round is one layer; a window of k pixels along one axis takes
ceil(log2 k) rounds. Windows that reach beyond the border of a map that may be negative are those of the map minus its
lower bound (`Populations.bounds`), which is never negative: there zeros are correct. The bound ends in biases at the
border, where the pixel beyond it loses against one within, and its neuron stays silent. The maximum of floats is exact.
For spike trains it is the maximum of the spikes so far, so some windows may end with a different count.

A `Move` takes whole channels, each from one channel with rows and columns at a constant step, or gives a vector, in any
order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple, NoReturn

import numpy as np

from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.lowering.value import (
    IMAGE,
    Features,
    MustBeCarriedError,
    Population,
    Populations,
    Tensor,
    Value,
    scaled,
    shifted,
    summed,
)
from loihi_convert.lowering.window import Window, composed, pooled_size
from loihi_convert.reading.graph import LARGEST_PADDING, Affine, AveragePool, LeakyRelu, MaxPool, Move, Relu, refuse

# Most weights of two layers composed into one; beyond this the value between them is carried.
_MAX_COMPOSED: Final = 10_000_000
# Most weights of a dense layer that selects numbers; more would not fit into memory.
_MAX_WEIGHTS: Final = 2**27


def convolved(value: Value, conv: Conv, shape: Shape, name: str) -> Value:
    """Return ``value`` after ``conv``, of ``shape``."""
    window = Window(conv.weight, (shape[1], shape[2]), conv.stride, conv.padding, conv.dilation, conv.groups)
    return replace(shifted(through(value, window), conv.bias), name=name)


def connected(tensor: Tensor, dense: Dense, name: str) -> Value:
    """Return ``tensor`` after ``dense``: a value ``(N, 1, 1)``."""
    features = tensor if isinstance(tensor, Features) else Features((tensor,))
    weight, bias, starts = dense.weight, dense.bias, features.starts
    if features.shift is not None:
        shift = weight @ features.shift
        bias = shift if bias is None else bias + shift
    if features.gain is not None:
        weight = weight * features.gain
    if features.index is not None:
        full = np.zeros((len(weight), starts[-1] + 1))
        # A number may occur several times; zeros go to the last position.
        np.add.at(full.T, features.index, weight.T)
        weight = full
    parts = []
    taken = np.searchsorted(starts, features.places[features.places >= 0], side="right") - 1
    for number in np.unique(taken).tolist() or [0]:
        value = features.values[number]
        kernel = weight[:, starts[number] : starts[number + 1]].reshape(-1, *value.shape)
        parts.append(through(value, Window(kernel, (1, 1), is_dense=True)))
    value = parts[0] if len(parts) == 1 else summed(parts, [1.0] * len(parts))
    return replace(shifted(value, bias), name=name)


def as_vector(tensor: Tensor) -> Value:
    """Return features as a value ``(N, 1, 1)``, by a dense layer of ones."""
    if isinstance(tensor, Value):
        return tensor
    count = len(tensor.places)
    if count * tensor.starts[-1] > _MAX_WEIGHTS:
        refuse(f"treats {count} numbers of flattened maps individually", supported="at most a few thousand")
    return connected(tensor, Dense(np.eye(count)), "")


def through(value: Value, window: Window) -> Value:
    """Return ``value`` after ``window``."""
    terms = []
    parts = [(term, *_of_inputs(window, term.channels)) for term in value.terms]
    # Where weights are pruned, no output may read a term.
    for term, part, outputs in [each for each in parts if each[2].size] or parts:
        found = composed(term.window, part, term.size)
        # One map of two large ones would be larger than both.
        if found is None or (found.weight.size > _MAX_COMPOSED and not value.is_direct):
            raise MustBeCarriedError
        terms.append(replace(term, channels=outputs, window=found))
    constant = None if value.constant is None else _constant_after(value, value.constant, window)
    return Value((window.outputs, *window.size), tuple(terms), constant, value.name)


def _constant_after(value: Value, constant: Array, window: Window) -> Array:
    """The ``constant`` of ``value`` after ``window``."""
    is_uniform = constant.ndim == 1
    if window.is_diagonal and window.pool != (1, 1) and is_uniform:
        return constant * window.weight.ravel()
    window = window.unpooled()
    found = window.applied_to(value.map_of_constant().astype(np.float64))
    inside = window.is_dense or (is_uniform and window.padding == (0, 0) and max(window.after(value.shape)) <= 0)
    # Every neuron uses the whole kernel: one value per channel.
    return found[:, 0, 0] if inside else found


def _of_inputs(window: Window, chosen: Array) -> tuple[Window, Array]:
    """The part of ``window`` that reads the input channels ``chosen``, and the output channels that it gives."""
    everything = np.arange(window.outputs)
    if np.array_equal(chosen, np.arange(window.inputs)):
        return window, everything
    if window.groups == 1:
        return replace(window, weight=window.weight[:, chosen]), everything
    inputs, outputs = window.weight.shape[1], window.outputs // window.groups
    groups = chosen[::inputs] // inputs
    if np.array_equal(_members(groups, inputs), chosen):
        kept = _members(groups, outputs)
        return replace(window, weight=window.weight[kept], groups=len(groups)), kept
    weight = window.ungrouped().weight[:, chosen]
    kept = np.flatnonzero(np.abs(weight).sum(axis=(1, 2, 3)))
    return replace(window, weight=weight[kept], groups=1), kept


def _members(groups: Array, size: int) -> Array:
    """The channels of ``groups`` of ``size`` channels each."""
    return np.asarray(groups[:, None] * size + np.arange(size)).ravel()


def activated(populations: Populations, tensor: Tensor, activation: Relu | LeakyRelu, name: str) -> Tensor:
    """Return ``tensor`` after ``activation``; neurons are named after the layer before them, or ``name``."""
    per_channel = activation.slope.size > 1 if isinstance(activation, LeakyRelu) else activation.threshold is not None
    # Flattening and a ReLU commute.
    if isinstance(tensor, Features) and tensor.whole is not None and not per_channel:
        return Features((_of_value(populations, tensor.whole, activation, name),))
    return _of_value(populations, as_vector(tensor), activation, name)


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
    if len(values) == len(tensors):
        return _joined(values)
    parts = [Features((tensor,)) if isinstance(tensor, Value) else tensor for tensor in tensors]
    index, first = list[Array](), 0
    for part in parts:
        index.append(np.where(part.places >= 0, part.places + first, -1))
        first += part.starts[-1]
    gains = [np.ones(len(part.places)) if part.gain is None else part.gain for part in parts]
    shifts = [np.zeros(len(part.places)) if part.shift is None else part.shift for part in parts]
    return Features(
        tuple(value for part in parts for value in part.values),
        None if all(part.index is None for part in parts) else np.concatenate(index),
        None if all(part.gain is None for part in parts) else np.concatenate(gains),
        None if all(part.shift is None for part in parts) else np.concatenate(shifts),
    )


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
    maps = [tensor.whole for tensor in tensors if isinstance(tensor, Features) and tensor.whole is not None]
    if len(maps) == len(tensors) and len({each.shape for each in maps}) == 1:
        return Features((summed(maps, factors, _name(maps)),))
    values = [as_vector(tensor) for tensor in tensors]
    return summed(values, factors, _name(values))


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
    terms = [
        replace(term, window=replace(term.window, is_dense=True))
        if size == (1, 1) and term.window.is_pointwise and not term.window.is_channelwise and term.window.groups == 1
        else term
        for term in found.terms
    ]
    return replace(found, terms=tuple(terms))


def largest(populations: Populations, value: Value, pool: MaxPool, shape: Shape, name: str) -> Value:
    """Return ``value`` after ``pool``, of ``shape``, by ReLUs that are added to ``populations``.

    Raises
    ------
    UnsupportedModelError
        If windows reach beyond the border of values that may be very negative.
    MustBeCarriedError
        If a pixel of ``value`` depends on several pixels of populations.
    """
    if not value.is_direct:
        raise MustBeCarriedError
    size = (shape[1], shape[2])
    is_signed = not value.is_nonnegative and _reads_beyond(pool, value.size, size)
    if is_signed:
        low = populations.bounds(value)[0]
        if not low.min() >= -LARGEST_PADDING:
            refuse(
                f"reads beyond the border of values that may be as low as {low.min():.3g}",
                supported=f"at least -{LARGEST_PADDING:,}; any after a ReLU, before one, or without padding and "
                "ceil_mode",
            )
        value = shifted(value, -low)

    def along(x: Value, axis: int, size: Pair, called: str) -> Value:
        """The maximum along columns (0) or rows (1), of ``size``."""
        kernel, pad = pool.kernel[axis], pool.padding[axis]
        if kernel == 1 and pool.stride[axis] == 1 and pad == 0:
            return x
        stride = (1, pool.stride[1]) if axis else (pool.stride[0], 1)
        players = []
        for place in range(kernel):
            offset = pad - place * pool.dilation[axis]
            padding = (0, offset) if axis else (offset, 0)
            players.append(through(x, Window.identity(x.shape[0], size, stride, padding)))
        while len(players) > 1:
            winners = []
            for a, b in zip(players[::2], players[1::2], strict=False):
                one, other = _outer_first((a, b)) if is_signed else (a, b)
                gap = populations.add(Population(called, summed((one, other), (1.0, -1.0))))
                winners.append(summed((gap, other), (1.0, 1.0)))
            players = [*winners, *players[len(winners) * 2 :]]
        return players[0]

    rows = along(value, 1, (value.shape[1], size[1]), f"{name} (rows)")
    found = along(rows, 0, size, f"{name} (columns)")
    return _plain(shifted(found, low)) if is_signed else found


def _outer_first(pair: tuple[Value, Value]) -> tuple[Value, Value]:
    """The values, first the one that reads more pixels beyond the border, which are 0 and not shifted."""
    a, b = (each.map_of_constant().sum() for each in pair)
    return pair if a <= b else pair[::-1]


def _plain(value: Value) -> Value:
    """The same, with one constant for each channel instead of a constant map, or none, if it is the same."""
    constant = value.map_of_constant()
    if (constant != constant[:, :1, :1]).any():
        return value
    return replace(value, constant=constant[:, 0, 0] if constant.any() else None)


def _reads_beyond(pool: MaxPool, before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a window reaches beyond the map: by padding or, with ceil_mode, at its end."""
    sides = zip(after, pool.stride, pool.padding, pool.dilation, pool.kernel, before, strict=True)
    return any(pad > 0 or (n - 1) * step + gap * (k - 1) >= extent for n, step, pad, gap, k, extent in sides)


def normalized(tensor: Tensor, affine: Affine) -> Tensor:
    """Return ``tensor`` after ``affine``."""
    if isinstance(tensor, Value):
        return shifted(scaled(tensor, affine.gain), affine.shift)
    gain = affine.gain if tensor.gain is None else affine.gain * tensor.gain
    shift = affine.shift if tensor.shift is None else affine.gain * tensor.shift + affine.shift
    return replace(tensor, gain=gain, shift=shift)


def affine_of(normalization: Normalization) -> Affine:
    """Return ``(x - mean) / std``, given one number per channel each."""
    mean, std = (np.array(values, np.float64) for values in normalization)
    gain = 1 / std
    return Affine(gain, -mean * gain)


def moved(tensor: Tensor, move: Move) -> Tensor:
    """Return ``tensor`` after ``move``."""
    index = move.index
    if index.ndim == 3:
        value = tensor if isinstance(tensor, Value) else tensor.whole
        if value is None:
            refuse("reshapes flattened numbers into maps", supported="whole flattened maps")
        return _moved_maps(value, index)
    if isinstance(tensor, Features):
        gain, shift = (
            None if values is None else np.where(index >= 0, values[index], 0.0)
            for values in (tensor.gain, tensor.shift)
        )
        return Features(tensor.values, np.where(index >= 0, tensor.places[index], -1), gain, shift)
    if tensor.size == (1, 1):
        return tensor.of_channels(index)
    return Features((tensor,), None if np.array_equal(index, np.arange(np.prod(tensor.shape))) else index)


def _moved_maps(value: Value, index: Array) -> Value:
    size = (index.shape[1], index.shape[2])
    pixels = value.shape[1] * value.shape[2]
    source = np.where(index >= 0, index // pixels, -1)
    first = source.max(axis=(1, 2))
    if (source != np.where(index >= 0, first[:, None, None], -1)).any():
        _refuse_pixels()
    channels: dict[_Pixels, list[int]] = {}
    for number, taken in enumerate(map(_pixels, index, first, itertools.repeat(value.size))):
        channels.setdefault(taken, []).append(number)
    parts: list[Value] = []
    for taken, numbers in channels.items():
        chosen = np.full(len(index), -1)
        chosen[numbers] = first[numbers]
        part = value.of_channels(chosen)
        if taken != _ALL or size != value.size:
            padding = (-taken.start[0], -taken.start[1])
            part = through(part, Window.identity(len(index), size, taken.step, padding))
        parts.append(part)
    return replace(summed(parts, [1.0] * len(parts)), name=value.name) if len(parts) > 1 else parts[0]


class _Pixels(NamedTuple):
    """The pixels that are taken of a channel: the vertical and horizontal step, and the first row and column."""

    step: Pair
    start: Pair


_ALL: Final = _Pixels((1, 1), (0, 0))


def _pixels(index: Array, channel: int, size: Pair) -> _Pixels:
    """The pixels of a ``channel`` of a value of ``size`` that ``index`` takes: int64 ``(H, W)``, positions in it."""
    if channel < 0:
        return _ALL
    first = channel * size[0] * size[1]
    rows = np.where(index >= 0, (index - first) // size[1], -1)
    columns = np.where(index >= 0, (index - first) % size[1], -1)
    (step_h, top), (step_w, left) = _progression(rows.max(axis=1), size[0]), _progression(columns.max(axis=0), size[1])
    row = np.arange(index.shape[0]) * step_h + top
    column = np.arange(index.shape[1]) * step_w + left
    inside = ((row >= 0) & (row < size[0]))[:, None] & ((column >= 0) & (column < size[1]))
    if not np.array_equal(np.where(inside, first + row[:, None] * size[1] + column, -1), index):
        _refuse_pixels()
    return _Pixels((step_h, step_w), (top, left))


def _refuse_pixels() -> NoReturn:
    refuse(
        "moves the pixels of a map in a way that is not a convolution",
        supported="whole channels, their rows and columns at a constant step; signals (C, L) are maps (C, 1, L)",
        hint="If it swaps axes of the images, leave it out, and give images as (C, H, W), signals as (C, L).",
    )


def _progression(places: Array, extent: int) -> tuple[int, int]:
    """The step and the start of positions with a constant step; -1 marks positions outside 0..extent - 1, not all."""
    known = np.flatnonzero(places >= 0)
    position, place = int(known[0]), int(places[known[0]])
    if known.size > 1:
        step = max(1, int(places[known[1]]) - place)
    else:
        # Any step that keeps the other positions outside.
        is_first, is_last = position == 0 or place == 0, position == len(places) - 1 or place == extent - 1
        step = 1 if is_first and is_last else extent
    return step, place - step * position
