"""Single weights of a kernel, and the order in which they are added."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.ground.arrays import Array
from loihi_convert.ground.compiled import compiled

_SHORTEST: Final = 8
"""Fewest adjacent taps for which a vectorized loop is faster than adding one by one (measured)."""


class Runs(NamedTuple):
    """Taps in the order of addition.

    Parameters
    ----------
    runs
        int64 ``(runs, 5)``: row and column of the input pixel for output pixel (0, 0); index of the first tap and of
        the one after the last; 1 if their channels are not adjacent.
    channels
        int64 ``(2, K)``: input and output channels.
    weights
        float32 ``(K,)``.
    """

    runs: Array
    channels: Array
    weights: Array

    @property
    def scattered(self) -> int:
        """Number of taps added one by one."""
        return int(((self.runs[:, 3] - self.runs[:, 2]) * self.runs[:, 4]).sum())


@dataclass(frozen=True, eq=False)
class Taps:
    """Single weights, K of them.

    Parameters
    ----------
    outputs, inputs
        int64 ``(K,)``: channels.
    offsets
        int64 ``(K, 2)``: row and column of the input pixel for output pixel (0, 0); negative in the padding.
    weights
        ``(K,)``.
    """

    outputs: Array
    inputs: Array
    offsets: Array
    weights: Array

    def runs(self) -> Runs:
        """Return the taps grouped by pixel: adjacent ones, which lie on a diagonal, before the others."""
        row, column = self.offsets.T
        order = np.lexsort((self.outputs, self.inputs - self.outputs, column, row))
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (np.diff(self.inputs[order]) != 1) | (np.diff(self.outputs[order]) != 1)
        begins[1:] |= np.diff(self.offsets[order], axis=0).any(axis=1)
        length = np.bincount(np.cumsum(begins) - 1)
        is_scattered = np.repeat(length < _SHORTEST, length)
        rank = np.lexsort((np.arange(len(order)), is_scattered, column[order], row[order]))
        order, begins, is_scattered = order[rank], begins[rank], is_scattered[rank]
        # All scattered taps of a pixel are one run.
        begins[1:] &= ~(is_scattered[1:] & is_scattered[:-1]) | np.diff(self.offsets[order], axis=0).any(axis=1)
        edges = [*np.flatnonzero(begins), len(order)]
        runs = [[*self.offsets[order[a]], a, b, is_scattered[a]] for a, b in itertools.pairwise(edges)]
        with np.errstate(over="ignore"):
            weights = self.weights[order].astype(np.float32)
        channels = np.stack([self.inputs[order], self.outputs[order]])
        return Runs(np.array(runs, np.int64).reshape(-1, 5), channels, weights)


@compiled()
def put(part: Array, spans: Array, found: Array) -> None:
    """Copy or add ``part``, ``(pixels, R)``, to channels of ``found``, ``(pixels, C_out)``; see `Structure.spans`."""
    for pixel in range(len(found)):
        for span in range(len(spans)):
            source, target, size, adds = spans[span]
            taken, placed = part[pixel, source : source + size], found[pixel, target : target + size]
            if adds:
                for channel in range(size):
                    placed[channel] += taken[channel]
            else:
                for channel in range(size):
                    placed[channel] = taken[channel]


@compiled()
def _add_side_by_side(seen: Array, shift: int, stride: int, weights: Array, first: Array, row: Array) -> None:
    """Add taps on adjacent channels, starting at those in ``first``: an input channel and an output channel."""
    size = weights.size
    for column in range(max(0, (stride - 1 - shift) // stride), min(len(row), (len(seen) - 1 - shift) // stride + 1)):
        taken = seen[column * stride + shift, first[0] : first[0] + size]
        summed = row[column, first[1] : first[1] + size]
        for channel in range(size):
            summed[channel] += weights[channel] * np.float32(taken[channel])


@compiled()
def _add_scattered(
    seen: Array, shift: int, stride: int, weights: Array, inputs: Array, outputs: Array, row: Array
) -> None:
    for column in range(max(0, (stride - 1 - shift) // stride), min(len(row), (len(seen) - 1 - shift) // stride + 1)):
        taken, summed = seen[column * stride + shift], row[column]
        for tap in range(weights.size):
            summed[outputs[tap]] += weights[tap] * np.float32(taken[inputs[tap]])


@compiled()
def add_taps(maps: Array, taps: Runs, empty: Array, stride: tuple[int, int], found: Array) -> None:
    """Add single taps of ``maps``, ``(N, H, W, C)``, to ``found``, ``(N, H_out, W_out, C_out)``.

    The spans of channels in ``empty``, rows of (start, end), are set to 0 first.
    """
    runs, channels, weights = taps
    for image in range(len(found)):
        for line in range(found.shape[1]):
            row = found[image, line]
            for span in range(len(empty)):
                for column in range(len(row)):
                    zeros = row[column, empty[span, 0] : empty[span, 1]]
                    for channel in range(zeros.size):
                        zeros[channel] = 0
            for run in range(len(runs)):
                above, shift, begin, end, is_scattered = runs[run]
                above += line * stride[0]
                if not 0 <= above < maps.shape[1]:
                    continue
                seen, factors = maps[image, above], weights[begin:end]
                if is_scattered:
                    inputs, outputs = channels[0, begin:end], channels[1, begin:end]
                    _add_scattered(seen, shift, stride[1], factors, inputs, outputs, row)
                else:
                    _add_side_by_side(seen, shift, stride[1], factors, channels[:, begin], row)
