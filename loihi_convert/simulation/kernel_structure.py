"""Splits a sparse kernel into dense parts (convolutions of some of its channels) and single taps.

A layer of a lowered network holds several populations, including relays (`ir.relays`), so most of its kernel is zero:

- a relay's row has one weight, and the input channel of an identity, as in a skip, has one weight in its column;
- a population that sees only some of the input channels has zeros for the others;
- a smaller kernel, as of a 1 x 1 shortcut, is embedded in the window of the largest.

Single taps are found by peeling: rows and columns with one weight are removed until none is left. The rest is split
into components (which share no channels), and those into windows. Only the kernel is used, so files from any source
benefit.

Whether that is worthwhile is estimated: multiply-adds against passes over memory, in nanoseconds on one core. The
values were measured on a Xeon (Sapphire Rapids) with oneDNN limited to each instruction set. An accuracy of a factor
1.5 is enough, since a kernel is divided only if that saves a fifth. They are constants, so that a layer is computed in
the same way in every run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ground.compiled import cpu_features
from loihi_convert.simulation.convolution import Geometry, has_fast_int8
from loihi_convert.simulation.taps import Taps

MOST_PARTS: Final = 8
"""Largest number of convolutions a kernel is divided into: each costs a call and a pass over memory."""

_FULL: Final = 0.8
"""Share of nonzero weights above which a kernel is treated as dense without further analysis."""

_ROUNDS: Final = 8
"""Most rounds of peeling: longer chains of populations do not occur in practice."""

_TAPS_PER_ROW: Final = 4
"""Up to this mean number of weights per output, all of them may be single taps."""

KernelCrop = tuple[Pair, Pair]
"""Rows and columns cut off a kernel's window: (top, bottom), (left, right)."""


@dataclass(frozen=True, eq=False)
class PartialConvolution:
    """A convolution of some channels.

    Parameters
    ----------
    outputs, inputs
        int64 ``(R,)`` and ``(S,)``: the channels, group after group.
    weight
        ``(R, S / groups, K_h, K_w)``.
    geometry
        Stride, padding, dilation and groups of this part.
    crop
        Rows and columns of the maps that it does not use, see `KernelCrop`.
    """

    outputs: Array
    inputs: Array
    weight: Array
    geometry: Geometry
    crop: KernelCrop


@dataclass(frozen=True, eq=False)
class Structure:
    """A kernel as the sum of convolutions and single taps.

    Parameters
    ----------
    channels
        Outputs of the kernel.
    parts
        Convolutions; those with common outputs are added.
    taps
        Single taps, added to the convolutions.
    """

    channels: int
    parts: tuple[PartialConvolution, ...]
    taps: Taps

    @property
    def has_base(self) -> bool:
        """Whether the first part computes all outputs, in their order."""
        return bool(self.parts) and np.array_equal(self.parts[0].outputs, np.arange(self.channels))

    @property
    def spans(self) -> list[Array]:
        """Position of the outputs of each part in the whole: int64 ``(spans, 4)`` for each part.

        First channel in the part and in the whole, number of channels, and 1 if earlier parts have outputs there.
        """
        taken, found = np.zeros(self.channels, np.bool_), []
        for part in self.parts:
            adds = taken[part.outputs]
            edges = _edges((np.diff(part.outputs) != 1) | (np.diff(adds) != 0), len(adds))
            spans = [[first, part.outputs[first], last - first, adds[first]] for first, last in edges]
            found.append(np.array(spans, np.int64).reshape(-1, 4))
            taken[part.outputs] = True
        return found

    @property
    def empty(self) -> Array:
        """Spans of outputs that no part computes: int64 ``(spans, 2)``, start and end."""
        left = np.setdiff1d(np.arange(self.channels), np.concatenate([[-1], *(part.outputs for part in self.parts)]))
        spans = [[left[first], left[last - 1] + 1] for first, last in _edges(np.diff(left) != 1, len(left))]
        return np.array(spans, np.int64).reshape(-1, 2)


def structures_of(weight: Array, geometry: Geometry) -> Iterator[Structure]:
    """Yield possible divisions of a kernel ``(C_out, C_in / groups, K_h, K_w)``; none if it is dense."""
    if np.count_nonzero(weight) >= _FULL * weight.size:
        return
    nonzero = np.asarray(weight != 0)
    dense = _without_single_taps(nonzero, geometry.groups)
    taps = _taps(weight, nonzero & ~dense, geometry)
    for divided in (_by_group,) if geometry.groups > 1 else (_by_component, _by_window):
        parts = itertools.islice(divided(weight, dense, geometry), MOST_PARTS + 1)
        ordered = sorted(parts, key=lambda part: -len(part.outputs))
        if len(ordered) <= MOST_PARTS:
            yield Structure(len(weight), tuple(ordered), taps)
    if np.count_nonzero(nonzero) <= _TAPS_PER_ROW * len(weight):
        yield Structure(len(weight), (), _taps(weight, nonzero, geometry))


def without_dead_channels(weight: Array) -> Array:
    """Return the kernel without its all-zero rows and columns."""
    alive = weight[weight.any(axis=(1, 2, 3))]
    return alive[:, alive.any(axis=(0, 2, 3))]


def _without_single_taps(nonzero: Array, groups: int) -> Array:
    """The part of ``nonzero``, bool ``(C_out, C_in / groups, K_h, K_w)``, that remains after peeling."""
    outputs, inputs = nonzero.shape[:2]
    # Taps per output and input: they are peeled together, so the window is not needed again.
    taps = np.count_nonzero(nonzero.reshape(outputs, inputs, -1), axis=2).reshape(groups, -1, inputs)
    for _ in range(_ROUNDS):
        rows = taps.sum(axis=2) == 1
        taps[rows] = 0
        columns = taps.sum(axis=1) == 1
        taps *= ~columns[:, None, :]
        if not rows.any() and not columns.any():
            break
    return np.asarray(nonzero & (taps > 0).reshape(outputs, inputs, 1, 1))


def _taps(weight: Array, which: Array, geometry: Geometry) -> Taps:
    outputs, inputs, *window = np.nonzero(which)
    group = outputs // (len(weight) // geometry.groups)
    offsets = np.stack(window, axis=1) * np.array(geometry.dilation) - np.array(geometry.padding)
    return Taps(outputs, inputs + group * weight.shape[1], offsets, weight[which])


def _by_group(weight: Array, dense: Array, geometry: Geometry) -> Iterator[PartialConvolution]:
    """The nonzero groups, each reduced to the number of rows and columns that the largest needs."""
    grouped = dense.reshape(geometry.groups, -1, *dense.shape[1:])
    rows, columns = np.asarray(grouped.any(axis=(2, 3, 4))), np.asarray(grouped.any(axis=(1, 3, 4)))
    alive = np.flatnonzero(rows.any(axis=1))
    if not alive.size:
        return
    # The nonzero ones, in order, and as many others as needed to fill the group.
    row_order, column_order = (
        np.sort(np.argsort(~used[alive], axis=1, kind="stable")[:, : used[alive].sum(axis=1).max()], axis=1)
        for used in (rows, columns)
    )
    outputs = alive[:, None] * grouped.shape[1] + row_order
    kept = weight[outputs[:, :, None], column_order[:, None, :]] * dense[outputs[:, :, None], column_order[:, None, :]]
    inputs = alive[:, None] * grouped.shape[2] + column_order
    own = geometry._replace(groups=len(alive))
    yield _cut(kept.reshape(-1, *kept.shape[2:]), outputs.ravel(), inputs.ravel(), own, _window(dense, geometry))


def _by_component(weight: Array, dense: Array, geometry: Geometry) -> Iterator[PartialConvolution]:
    """Components; those of equal size and window become the groups of one convolution."""
    alike: dict[tuple[int, int, KernelCrop], list[tuple[Array, Array]]] = {}
    for rows, columns in _components(np.asarray(dense.any(axis=(2, 3)))):
        window = _window(dense[np.ix_(rows, columns)], geometry)
        alike.setdefault((len(rows), len(columns), window), []).append((rows, columns))
    for (*_, window), blocks in alike.items():
        yield _part(weight, dense, geometry, window, blocks)


def _by_window(weight: Array, dense: Array, geometry: Geometry) -> Iterator[PartialConvolution]:
    """Components, each divided by the windows of its outputs, then of its inputs."""
    for rows, columns in _components(np.asarray(dense.any(axis=(2, 3)))):
        block = dense[np.ix_(rows, columns)]
        for own_rows, _ in _windows(block.any(axis=1), geometry):
            for own_columns, window in _windows(block[own_rows].any(axis=0), geometry):
                yield _part(weight, dense, geometry, window, [(rows[own_rows], columns[own_columns])])


def _part(
    weight: Array, dense: Array, geometry: Geometry, window: KernelCrop, blocks: list[tuple[Array, Array]]
) -> PartialConvolution:
    """Blocks of equal size without common outputs, as the groups of one convolution."""
    kept = np.concatenate([weight[np.ix_(*block)] * dense[np.ix_(*block)] for block in blocks])
    outputs, inputs = (np.concatenate(channels) for channels in zip(*blocks, strict=True))
    return _cut(kept, outputs, inputs, geometry._replace(groups=len(blocks)), window)


def _components(connected: Array) -> Iterator[tuple[Array, Array]]:
    """Rows and columns of each connected component of ``connected``, bool ``(C_out, C_in)``."""
    left = np.asarray(connected.any(axis=1))
    while left.any():
        rows, count = np.flatnonzero(left)[:1], 0
        while count < len(rows):
            count, columns = len(rows), np.flatnonzero(connected[rows].any(axis=0))
            rows = np.flatnonzero(connected[:, columns].any(axis=1))
        left[rows] = False
        yield rows, columns


def _windows(used: Array, geometry: Geometry) -> Iterator[tuple[Array, KernelCrop]]:
    """The channels with the same window, and the window; ``used`` are their taps, bool ``(channels, K_h, K_w)``."""
    found: dict[KernelCrop, list[int]] = {}
    for channel in np.flatnonzero(used.any(axis=(1, 2))):
        found.setdefault(_window(used[channel], geometry), []).append(channel)
    for window, channels in found.items():
        yield np.array(channels), window


def _window(used: Array, geometry: Geometry) -> KernelCrop:
    """The margins that can be cut off the window of taps ``(..., K_h, K_w)``, some of which are not zero.

    With padding, the same on either side, since torch pads both sides alike, and no more than leaves every output at
    least one input besides padding, without which oneDNN fails.
    """
    used = np.asarray(used.reshape(-1, *used.shape[-2:]).any(axis=0))
    margins = []
    for axis, (padding, dilation) in enumerate(zip(geometry.padding, geometry.dilation, strict=True)):
        taken = np.flatnonzero(used.any(axis=1 - axis))
        size = used.shape[axis]
        before, after = int(taken[0]), int(size - 1 - taken[-1])
        if padding:
            both = min(before, after)
            if padding > both * dilation:
                both = min(both, max(0, dilation * (size - 1) - padding) // dilation)
            before = after = both
        margins.append((before, after))
    return margins[0], margins[1]


def _cut(weight: Array, outputs: Array, inputs: Array, geometry: Geometry, window: KernelCrop) -> PartialConvolution:
    """The part with its window cut; where the cut exceeds the padding, the maps are cropped."""
    height, width = weight.shape[2:]
    (top, bottom), (left, right) = window
    padding, crop = [], []
    for margins, pad, dilation in zip(window, geometry.padding, geometry.dilation, strict=True):
        padding.append(max(0, pad - margins[0] * dilation))
        crop.append((max(0, margins[0] * dilation - pad), max(0, margins[1] * dilation - pad)))
    own = geometry._replace(padding=(padding[0], padding[1]))
    return PartialConvolution(
        outputs, inputs, weight[:, :, top : height - bottom, left : width - right], own, (crop[0], crop[1])
    )


def _edges(breaks: Array, count: int) -> list[tuple[int, int]]:
    """Start and end of each run of ``count`` items; ``breaks``, bool ``(count - 1,)``, marks where runs end."""
    ends = [*(np.flatnonzero(breaks) + 1).tolist(), count] if count else []
    return list(zip([0, *ends], ends, strict=False))


_WORTH_IT: Final = 0.8
"""A kernel is divided if that takes at most this share of the undivided time."""

_WRITE: Final = 0.3
"""Time to write an output."""

_MOVE: Final = 0.4
"""Time to copy an output or add to it."""

_SPAN: Final = 2.0
"""Time to switch to other channels, per output position."""

_SIDE_BY_SIDE: Final = 0.35
_SCATTERED: Final = 1.0
"""Time to add a tap, with adjacent and with scattered channels."""

_TAKE: Final = 0.1
_GATHER: Final = 1.0
"""Time to copy an input, with adjacent and with scattered channels."""

_CALL: Final = 800.0
"""Time of a convolution call, per image: 50 microseconds for 64 images."""

_SMALL_GROUP: Final = 2.0
"""Extra time of an output if groups have fewer than 4 channels; none for depthwise convolutions."""

_FLOAT32: Final = 45.0
_PLAIN_INT8: Final = 90.0
_INT8: Final = (("amx-int8", 1300.0), ("avx512vnni", 250.0), ("avx512bw", 130.0), ("avxvnni", 180.0))
"""Multiply-adds per nanosecond, of int8 with the first of these instruction sets that the processor has."""


def rate(*, is_int8: bool) -> float:
    """Return the multiply-adds per nanosecond of convolutions on this processor."""
    if not is_int8:
        return _FLOAT32
    features = cpu_features()
    return next((found for feature, found in _INT8 if feature in features), _PLAIN_INT8)


def worthwhile_structure(
    weight: Array, geometry: Geometry, input_size: Pair, output_size: Pair, *, rate: float, is_integer: bool
) -> Structure | None:
    """Return the fastest division of a kernel, or ``None`` if none is clearly faster than the undivided kernel.

    A float kernel, whose sums are rounded, is not divided only because of dead channels.
    """
    pixels = math.prod(output_size)
    inputs_per_output = math.prod(input_size) / pixels
    found = [
        (_divided(structure, rate, inputs_per_output, pixels), index, structure)
        for index, structure in enumerate(structures_of(weight, geometry))
    ]
    if not found:
        return None
    whole = weight if is_integer or geometry.groups > 1 else without_dead_channels(weight)
    time, _, structure = min(found, key=lambda entry: entry[:2])
    return structure if time <= _WORTH_IT * _convolution(whole, geometry.groups, rate) else None


def _convolution(weight: Array, groups: int, rate: float) -> float:
    """Time per output position."""
    outputs, inputs = weight.shape[:2]
    if not has_fast_int8(weight, groups):
        rate = _FLOAT32
    is_depthwise = inputs == 1 and outputs == groups
    is_small = groups > 1 and not is_depthwise and min(outputs // groups, inputs) < 4
    return weight.size / rate + int(outputs) * (_WRITE + _SMALL_GROUP * is_small)


def _divided(structure: Structure, rate: float, inputs_per_output: float, pixels: int) -> float:
    """Time per output position."""
    runs = structure.taps.runs()
    taps = len(runs.weights)
    time: float = (taps - runs.scattered) * _SIDE_BY_SIDE + runs.scattered * _SCATTERED + len(runs.runs) * _SPAN
    time += float(np.diff(structure.empty).sum()) * _MOVE / 2 + len(structure.empty) * _SPAN / 2
    for index, (part, spans) in enumerate(zip(structure.parts, structure.spans, strict=True)):
        time += _convolution(part.weight, part.geometry.groups, rate) + _CALL / pixels
        is_side_by_side = (np.diff(part.inputs) == 1).all()
        time += len(part.inputs) * inputs_per_output * (_TAKE if is_side_by_side else _GATHER)
        if index or not structure.has_base:
            time += len(part.outputs) * _MOVE + len(spans) * _SPAN
    return float(time)
