"""Single weights of a kernel, and the order in which they are added."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array

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
