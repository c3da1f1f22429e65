"""Populations of neurons, in order of computation: for each ReLU, and for each tensor that must be carried by neurons.

A tensor is carried as relu(x) - relu(-x): two populations, of which it is then a linear map (`Populations.carried`).
A population is not yet a layer: several may become one, see `levels.py`.

Pixels lie in 0..1, and neurons give nothing negative. So each value has bounds, by interval arithmetic, that hold for
all images (`Populations.bounds`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.lowering.value import IMAGE, Term, Value, scaled, summed
from loihi_convert.lowering.window import Window

# Relative error of a bound, more than that of any sum of float32 or float64.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons with one sum of synapses as input: a ReLU of the CNN, or one added by lowering.

    Parameters
    ----------
    name
        The layer of the CNN.
    value
        The input of the ReLU; for the output, which has no ReLU, the value itself.
    threshold, levels, ceiling
        As in `network.ReluLayer`.
    """

    name: str
    value: Value
    threshold: Array | None = None
    levels: int | None = None
    ceiling: float = np.inf

    @property
    def shape(self) -> Shape:
        return self.value.shape


@dataclass(eq=False)
class Populations:
    """The populations created so far.

    Parameters
    ----------
    image_shape
        ``(C, H, W)``.
    made
        In order of computation.
    """

    image_shape: Shape
    made: list[Population] = field(default_factory=list)
    # Of the first populations: the largest number of each channel.
    _largest: list[Array] = field(default_factory=list, init=False)

    def image(self) -> Value:
        """Return the pixels / 255."""
        return _whole(IMAGE, self.image_shape)

    def add(self, population: Population) -> Value:
        """Add ``population``; return its values."""
        terms = tuple(_fitting(term, population.value) for term in population.value.terms)
        self.made.append(replace(population, value=replace(population.value, terms=terms)))
        return _whole(len(self.made) - 1, population.shape)

    def carried(self, value: Value, name: str) -> Value:
        """Return ``value`` as separate populations: relu(x) - relu(-x), or only relu(x) if x is never negative."""
        positive = self.add(Population(name, value))
        if self.bounds(value)[0].min() >= 0:
            return positive
        return summed((positive, self.add(Population(f"{name} (negative)", scaled(value, -1.0)))), (1.0, -1.0))

    def bounds(self, value: Value) -> tuple[Array, Array]:
        """Return numbers between which each channel of ``value`` lies for all images: float64 ``(C,)`` each.

        They also hold with rounding errors.
        """
        constant = value.map_of_constant().reshape(value.shape[0], -1)
        # Outside a map a window reads 0.
        bounds = []
        for extreme, own in ((np.minimum, constant.min(axis=1)), (np.maximum, constant.max(axis=1))):
            found, size = own.copy(), np.zeros_like(own)
            for term in value.terms:
                window = term.window
                weight = extreme(window.weight, 0).sum(axis=(2, 3)).reshape(window.groups, -1, window.weight.shape[1])
                largest = self._largest_of(term.source)[term.source_channels].reshape(window.groups, -1, 1)
                reached = (weight @ largest).ravel()
                found[term.channels] += reached
                size[term.channels] += np.abs(reached)
            # A constant alone has no rounding error.
            bounds.append(found + extreme(-1, 1) * _ROUNDING * np.where(size > 0, size + np.abs(own), 0))
        return bounds[0], bounds[1]

    def _largest_of(self, source: int) -> Array:
        if source == IMAGE:
            return np.ones(self.image_shape[0])
        for population in self.made[len(self._largest) : source + 1]:
            found = np.clip(self.bounds(population.value)[1], 0, population.ceiling)
            if population.threshold is not None:
                found = np.maximum(found, population.threshold)
            self._largest.append(found)
        return self._largest[source]


def _fitting(term: Term, value: Value) -> Term:
    """``term`` of ``value`` without a stride along a single row or column of its source.

    If other channels of the source are at other rows, it also loses the taps that read none: otherwise the common
    kernel would have those of all channels.
    """
    window = term.window
    for axis in (axis for axis in (0, 1) if term.size[axis] == 1):
        has_others = any(
            other.source == term.source
            and other.window.padding[axis] != window.padding[axis]
            and not np.isin(other.source_channels, term.source_channels).any()
            for other in value.terms
        )
        if has_others or window.stride[axis] > 1 < value.size[axis]:
            window = window.of_single(axis)
    return replace(term, window=window)


def _whole(source: int, shape: Shape) -> Value:
    channels, size = np.arange(shape[0]), (shape[1], shape[2])
    return Value(shape, (Term(source, channels, channels, Window.identity(shape[0], size), size),))
