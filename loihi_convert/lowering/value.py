"""A tensor during lowering: a sum of linear maps of sources, which are populations or the image, and a constant.

So every rule is linear algebra, and equals the CNN up to float64 rounding. In ``relu(conv2(a) + x)``, where x and a are
the populations 0 and 1 of 4 channels each, the sum is::

    Value(
        shape=(4, 8, 8),
        terms=(
            Term(source=1, source_channels=[0, 1, 2, 3], channels=[0, 1, 2, 3], window=<3 x 3, weights of conv2>),
            Term(source=0, source_channels=[0, 1, 2, 3], channels=[0, 1, 2, 3], window=<identity>),
        ),
        constant=<bias of conv2>,
    )

In ``cat([a, x], 1)``, of shape ``(8, 8, 8)``, both windows are identities, and the channels of the second term are
``[4, 5, 6, 7]``. In ``x[:, 2:]`` the only term has the source channels ``[2, 3]`` and the channels ``[0, 1]``.

A population has the neurons of a ReLU, or of a tensor that must be carried by neurons.
A tensor is carried as relu(x) - relu(-x): two populations, of which it is then a linear map (`Populations.carried`).
A population is not yet a layer: several may become one, see `levels.py`.

Pixels lie in 0..1, and neurons give nothing negative. So each value has bounds, by interval arithmetic, that hold for
all images (`Populations.bounds`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from loihi_convert.ground.arrays import Array, Pair, Shape, by_channel
from loihi_convert.lowering.window import Window

IMAGE: int = -1
"""The index of the pixels as a source; all other sources are populations."""


class MustBeCarriedError(Exception):
    """A step is not a linear map of its tensors' sources, or one too large, until populations carry the tensors.

    Never reaches the user: `traversal` catches it, has the tensors carried (`Populations.carried`), and
    tries again.
    """


@dataclass(frozen=True, eq=False)
class Term:
    """A linear map from some channels of one source to some channels of a value.

    Parameters
    ----------
    source
        The index of a population, or `IMAGE`.
    source_channels, channels
        int64: the channels of the source that the window takes, and those of the value that it gives, in its order.
    window
        The map.
    size
        (H, W) of the source's map.
    """

    source: int
    source_channels: Array
    channels: Array
    window: Window
    size: Pair


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor ``(C, H, W)``; a vector is ``(N, 1, 1)``. A channel that is in no term is constant.

    Parameters
    ----------
    shape
        ``(C, H, W)``.
    terms
        The linear maps to sum.
    constant
        Constant added to the sum: float64 ``(C,)`` or ``(C, H, W)``; ``None`` for 0.
    name
        Name of the layer, for a population made from this value.
    """

    shape: Shape
    terms: tuple[Term, ...]
    constant: Array | None = None
    name: str = ""

    @property
    def size(self) -> Pair:
        """(H, W)."""
        return self.shape[1], self.shape[2]

    @property
    def is_direct(self) -> bool:
        """Whether each pixel is a scaled and shifted pixel of a population, so that maps of it are maps of that."""
        return all(term.window.is_diagonal for term in self.terms)

    @property
    def copied_source(self) -> int | None:
        """The source that it is, if it is exactly one."""
        if len(self.terms) != 1 or self.constant is not None:
            return None
        (term,) = self.terms
        is_whole = np.array_equal(term.channels, np.arange(self.shape[0]))
        plain = term.window.is_diagonal and term.window.pool == (1, 1) and bool((term.window.weight == 1).all())
        return term.source if is_whole and plain else None

    @property
    def is_nonnegative(self) -> bool:
        """Whether it is nonnegative for all images."""
        constant = 0.0 if self.constant is None else float(self.constant.min())
        return constant >= 0 and all(bool((term.window.weight >= 0).all()) for term in self.terms)

    def map_of_constant(self) -> Array:
        """Return the constant of each pixel: float64 ``(C, H, W)``."""
        constant = np.zeros(self.shape[0]) if self.constant is None else self.constant
        return np.broadcast_to(constant.reshape(constant.shape[0], *(constant.shape[1:] or (1, 1))), self.shape)

    def of_channels(self, chosen: Array) -> Value:
        """Return the channels ``chosen``, in that order; -1 gives a channel of zeros."""
        terms = []
        for term in self.terms:
            # The output of the term's window that is each chosen channel; -1 for none.
            output = np.full(self.shape[0] + 1, -1)
            output[term.channels] = np.arange(len(term.channels))
            channels = np.flatnonzero(output[chosen] >= 0)
            if channels.size:
                window, used = term.window.of_outputs(output[chosen[channels]])
                source_channels = term.source_channels[used]
                terms.append(replace(term, source_channels=source_channels, channels=channels, window=window))
        constant = self.constant
        if constant is not None:
            constant = np.concatenate([constant, np.zeros((1, *constant.shape[1:]))])[chosen]
        return replace(self, shape=(len(chosen), *self.shape[1:]), terms=tuple(terms), constant=constant)


@dataclass(frozen=True, eq=False)
class Features:
    """Flattened numbers of maps, the input of a dense layer. They stay numbers of the maps they come from.

    Parameters
    ----------
    values
        The maps, one after another.
    index
        int64: position of each number in these, in C, H, W order; -1 for a zero. ``None``: all, in order.
    gain, shift
        float64: factor of each number, and constant added after it; ``None``: 1 and 0.
    """

    values: tuple[Value, ...]
    index: Array | None = None
    gain: Array | None = None
    shift: Array | None = None

    @property
    def starts(self) -> list[int]:
        """The position of the first number of each value, and that after the last."""
        return [0, *itertools.accumulate(math.prod(value.shape) for value in self.values)]

    @property
    def places(self) -> Array:
        """``index``, also of all."""
        return np.arange(self.starts[-1]) if self.index is None else self.index

    @property
    def whole(self) -> Value | None:
        """The value that it is, flattened, if it is just one."""
        is_plain = self.index is None and self.gain is None and self.shift is None
        return self.values[0] if is_plain and len(self.values) == 1 else None


Tensor = Value | Features
"""A map or a vector, ``(N, 1, 1)``; or flattened maps."""


def summed(values: Sequence[Value], factors: Sequence[float], name: str = "") -> Value:
    """Return the sum of ``values``, each times its factor; all have the same shape."""
    parts = [scaled(value, factor) for value, factor in zip(values, factors, strict=True)]
    terms = _joined(term for part in parts for term in part.terms)
    constants = [part.constant for part in parts if part.constant is not None]
    if len({constant.ndim for constant in constants}) > 1:
        constants = [part.map_of_constant() for part in parts]
    return Value(values[0].shape, terms, sum(constants) if constants else None, name)  # type: ignore[arg-type]


def _joined(terms: Iterable[Term]) -> tuple[Term, ...]:
    """The same sum, with one term for those that differ only by their weights: else doublings would double them."""
    found = dict[Any, Term]()
    for term in terms:
        window = term.window
        key = (
            *(term.source, term.source_channels.tobytes(), term.channels.tobytes(), term.size, window.weight.shape),
            *(getattr(window, each.name) for each in fields(window) if each.name != "weight"),
        )
        if key in found:
            window = replace(window, weight=found[key].window.weight + window.weight)
        found[key] = replace(term, window=window)
    return tuple(found.values())


def scaled(value: Value, gains: float | Array) -> Value:
    """Return ``value`` times ``gains``, a number or float64 ``(C,)``."""
    if isinstance(gains, float) and gains == 1.0:
        return value
    each = np.broadcast_to(np.asarray(gains, np.float64), value.shape[0])
    terms = tuple(replace(term, window=term.window.scaled(each[term.channels])) for term in value.terms)
    constant = value.constant
    if constant is not None:
        constant = constant * by_channel(each, constant.ndim)
    return replace(value, terms=terms, constant=constant)


def shifted(value: Value, shift: Array | None) -> Value:
    """Return ``value`` plus ``shift``, float64 ``(C,)`` or ``(C, H, W)``; None: 0."""
    constant = value.constant
    if constant is None or shift is None:
        return replace(value, constant=constant if shift is None else shift)
    axes = max(constant.ndim, shift.ndim)
    one, other = (each.reshape(each.shape + (1,) * (axes - each.ndim)) for each in (constant, shift))
    return replace(value, constant=one + other)


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
        self.made.append(population)
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


def _whole(source: int, shape: Shape) -> Value:
    channels, size = np.arange(shape[0]), (shape[1], shape[2])
    return Value(shape, (Term(source, channels, channels, Window.identity(shape[0], size), size),))
