"""Loops that combine the parts of a kernel. Called only by `split_convolution.py`.

Axes as in `currents.py`; inputs are bytes or float32. Inner loops run over adjacent channels in separate views, because
LLVM would not vectorize them otherwise.
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.compiled import compiled
from loihi_convert.simulation.taps import Runs


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
