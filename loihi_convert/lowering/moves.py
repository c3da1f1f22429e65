"""Rearrangements: flattening, slices and chunks of channels, shuffles, zero padding.

Requires: a `Move` of whole channels, each from one channel with rows and columns at a constant step, or from several
channels, which become its rows or columns; one that repeats the mean of each channel in all pixels; or one that gives a
vector, in any order.
Ensures: the same numbers, as channels of the same populations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, NoReturn

import numpy as np

from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.lowering.linear import through
from loihi_convert.lowering.value import Features, MustBeCarriedError, Tensor, Value, summed
from loihi_convert.lowering.window import Window
from loihi_convert.reading.operations import Move, refuse

_MOST_CHANNELS: Final = 256
"""Most channels of which one channel is made: the kernel of the next layer is about as high or wide."""


def moved(tensor: Tensor, move: Move) -> Tensor:
    """Return ``tensor`` after ``move``."""
    index = move.index
    if isinstance(tensor, Value):
        return _of_value(tensor, index)
    if index.ndim == 1:
        return _of_features(tensor, index)
    (first, *others) = tensor
    if others or not first.is_whole:
        refuse("reshapes flattened numbers into maps", supported="whole flattened maps")
    return _of_value(first.value, index)


def _of_value(value: Value, index: Array) -> Tensor:
    if index.ndim == 3:
        return _of_maps(value, index)
    if value.size == (1, 1):
        return (Features(value.of_channels(index)),)
    return (Features(value, None if np.array_equal(index, np.arange(np.prod(value.shape))) else index),)


def _of_maps(value: Value, index: Array) -> Value:
    size = (index.shape[1], index.shape[2])
    if value.size == (1, 1) != size and (index == index[:, :1, :1]).all():
        return _spread(value.of_channels(index[:, 0, 0]), size)
    pixels = value.shape[1] * value.shape[2]
    source = np.where(index >= 0, index // pixels, -1)
    parts: list[Value] = []
    # A channel that holds pixels of several channels is the sum of what each of them gives.
    while not parts or (index >= 0).any():
        first = source.max(axis=(1, 2))
        is_first = source == first[:, None, None]
        channels = _by_pixels(np.where(is_first, index, -1), first, value.size)
        index, source = np.where(is_first, -1, index), np.where(is_first, -1, source)
        if len(channels) > 1 and (parts or (index >= 0).any()):
            _refuse(size, value.size)
        if len(parts) == _MOST_CHANNELS:
            refuse(f"makes one channel of more than {len(parts)} channels", supported="fewer channels")
        for taken, numbers in channels.items():
            chosen = np.full(len(index), -1)
            chosen[numbers] = first[numbers]
            part = value.of_channels(chosen)
            if taken != _ALL or size != value.size:
                padding = (-taken.start[0], -taken.start[1])
                part = through(part, Window.identity(len(index), size, taken.step, padding))
            parts.append(part)
    return replace(summed(parts, [1.0] * len(parts)), name=value.name) if len(parts) > 1 else parts[0]


def _by_pixels(index: Array, source: Array, size: Pair) -> dict[_Pixels, list[int]]:
    """The channels of ``index`` by the pixels that they take, each of one channel ``source`` of a value of ``size``."""
    channels: dict[_Pixels, list[int]] = {}
    for number in range(len(index)):
        channels.setdefault(_pixels(index[number], int(source[number]), size), []).append(number)
    return channels


def _spread(value: Value, size: Pair) -> Value:
    """One value in all pixels of maps of ``size``, as the mean of a window around each pixel that holds the whole map.

    If it is not a mean of whole maps, it must be carried first.
    """
    terms = []
    for term in value.terms:
        window = term.window.unpooled()
        weight = window.weight[:, :, :1, :1]
        if window.weight.shape[2:] != term.size or window.padding != (0, 0) or (window.weight != weight).any():
            raise MustBeCarriedError
        kernel = (*weight.shape[:2], term.size[0] + size[0] - 1, term.size[1] + size[1] - 1)
        around = Window(np.broadcast_to(weight, kernel), size, padding=(size[0] - 1, size[1] - 1), groups=window.groups)
        terms.append(replace(term, window=around))
    constant = None if value.constant is None else value.map_of_constant()[:, 0, 0]
    return Value((value.shape[0], *size), tuple(terms), constant, value.name)


class _Pixels(NamedTuple):
    """The pixels that are taken of a channel: the vertical and horizontal step, and the first row and column."""

    step: Pair
    start: Pair


_ALL: Final = _Pixels((1, 1), (0, 0))


def _pixels(index: Array, channel: int, size: Pair) -> _Pixels:
    """The pixels of a channel, of ``size``, that ``index`` takes: int64 ``(H, W)``, positions in the value."""
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
        _refuse(index.shape, size)
    return _Pixels((step_h, step_w), (top, left))


def _refuse(after: tuple[int, ...], before: Pair) -> NoReturn:
    """Raise for maps of size ``before`` that are moved to maps of size ``after`` in no regular way."""
    if before == (1, 1):
        refuse(
            "repeats one number of each channel over a map",
            supported="maps of more than one number, or flattened before the next layer",
            hint="If the numbers are one signal, give signals as (C, L): (1, L) for one channel.",
        )
    if before[1] == after[0] == 1:
        refuse(
            "makes a signal of the one column of each map",
            supported="of its one row, since a signal (C, L) is a map (C, 1, L)",
            hint="Keep the axis (`keepdim=True`) and use layers for maps, or swap height and width of the images.",
        )
    if before[0] == 1 < after[0]:
        refuse(
            "folds signals into maps",
            supported="maps whose rows are the channels of signals",
            hint="If it folds the images, give them as (C, H, W).",
        )
    refuse(
        "moves the pixels of a map in a way that is not a convolution",
        supported="whole channels, their rows and columns at a constant step",
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


def _of_features(features: tuple[Features, ...], index: Array) -> tuple[Features, ...]:
    """Consecutive numbers that come from the same one of ``features``."""
    starts = np.cumsum([0, *(part.count for part in features)])
    source = np.searchsorted(starts, index, side="right") - 1
    found: list[Features] = []
    for run in np.split(np.arange(len(index)), np.flatnonzero(np.diff(source)) + 1):
        part, places = max(int(source[run[0]]), 0), index[run]
        found.append(_chosen(features[part], np.where(places >= 0, places - starts[part], -1)))
    return tuple(found)


def _chosen(features: Features, places: Array) -> Features:
    if np.array_equal(places, np.arange(features.count)):
        return features
    if features.is_vector:
        return Features(features.value.of_channels(places))
    own = np.arange(features.count) if features.index is None else features.index
    index = np.where(places >= 0, own[places], -1)
    gain, shift = (
        None if values is None else np.where(places >= 0, values[places], 0.0)
        for values in (features.gain, features.shift)
    )
    return Features(features.value, index, gain, shift)
