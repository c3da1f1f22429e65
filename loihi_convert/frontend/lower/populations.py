"""Populations of neurons, in order of computation: for each ReLU, and for each tensor that must be carried by neurons.

A tensor is carried as relu(x) - relu(-x): two populations, of which it is then a linear map (`Populations.carried`).
A population is not yet a layer: several may become one, see `levels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loihi_convert.arrays import Array, Shape
from loihi_convert.frontend.lower.value import IMAGE, Term, Value, scaled, summed
from loihi_convert.frontend.lower.window import Window


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

    def image(self) -> Value:
        """Return the pixels / 255."""
        return _whole(IMAGE, self.image_shape)

    def add(self, population: Population) -> Value:
        """Add ``population``; return its values."""
        self.made.append(population)
        return _whole(len(self.made) - 1, population.shape)

    def carried(self, value: Value, name: str) -> Value:
        """Return ``value`` as separate populations: relu(x) - relu(-x), or only relu(x) if x is never negative."""
        positive = self.add(Population(name, value))
        if value.is_nonnegative:
            return positive
        return summed((positive, self.add(Population(f"{name} (negative)", scaled(value, -1.0)))), (1.0, -1.0))


def _whole(source: int, shape: Shape) -> Value:
    channels, size = np.arange(shape[0]), (shape[1], shape[2])
    return Value(shape, (Term(source, channels, channels, Window.identity(shape[0], size), size),))
