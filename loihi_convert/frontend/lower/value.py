"""A tensor during lowering: a sum of linear maps of spiking populations, and a constant.

Lowering traverses the graph (`graph.py`) and keeps a `Value` for each tensor. Only a ReLU creates a `Population`;
everything between two ReLUs is a linear map of populations. So every rule is linear algebra, and equals the CNN up to
float64 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loihi_convert.arrays import Array, Pair, Shape, by_channel
from loihi_convert.frontend.lower.window import Window

IMAGE: int = -1
"""The index of the pixels as a source; all other sources are populations."""


class MustBeCarriedError(Exception):
    """A step is not a linear map of its tensors' sources; it is one once populations carry these tensors.

    Never reaches the user: `lowering` catches it, has the tensors carried (`populations.Populations.carried`), and
    tries again.
    """


@dataclass(frozen=True, eq=False)
class Term:
    """A linear map from some channels of one source to some channels of a value.

    Parameters
    ----------
    source
        The index of a population, or `IMAGE`.
    columns, rows
        int64: channels of the source, channels of the value, in the window's order.
    window
        The map.
    size
        (H, W) of the source's map.
    """

    source: int
    columns: Array
    rows: Array
    window: Window
    size: Pair


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor ``(C, H, W)``; a vector is ``(N, 1, 1)``.

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
    def is_population(self) -> bool:
        """Whether it is exactly one population."""
        return self._copies is not None and self._copies != IMAGE

    @property
    def is_image(self) -> bool:
        """Whether it is exactly the image, whose pixels are in 0..1."""
        return self._copies == IMAGE

    @property
    def _copies(self) -> int | None:
        """The source of which it is a copy."""
        if len(self.terms) != 1 or self.constant is not None:
            return None
        (term,) = self.terms
        all_rows = np.array_equal(term.rows, np.arange(self.shape[0]))
        plain = term.window.is_diagonal and term.window.pool == (1, 1) and bool((term.window.weight == 1).all())
        return term.source if all_rows and plain else None

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
            # For each chosen channel of the term: its position in the term, and in the new value.
            place = np.full(self.shape[0] + 1, -1)
            place[term.rows] = np.arange(len(term.rows))
            found = place[chosen]
            rows = np.flatnonzero(found >= 0)
            if rows.size:
                window, used = term.window.of_outputs(found[rows])
                terms.append(replace(term, columns=term.columns[used], rows=rows, window=window))
        constant = self.constant
        if constant is not None:
            constant = np.concatenate([constant, np.zeros((1, *constant.shape[1:]))])[chosen]
        return replace(self, shape=(len(chosen), *self.shape[1:]), terms=tuple(terms), constant=constant)


@dataclass(frozen=True, eq=False)
class Features:
    """Flattened numbers of a value, the input of a dense layer.

    Parameters
    ----------
    value
        The value.
    index
        int64: position of each number in the value, in C, H, W order; -1 for a zero. ``None``: all, in order.
    gain, shift
        float64: factor of each number, and constant added after it; ``None``: 1 and 0.
    """

    value: Value
    index: Array | None = None
    gain: Array | None = None
    shift: Array | None = None

    @property
    def count(self) -> int:
        return int(np.prod(self.value.shape)) if self.index is None else len(self.index)

    @property
    def is_vector(self) -> bool:
        """Whether it is a plain value ``(N, 1, 1)``."""
        return self.value.size == (1, 1) and self.index is None and self.gain is None and self.shift is None


Tensor = Value | tuple[Features, ...]
"""A map, or flattened features."""


def summed(values: Sequence[Value], factors: Sequence[float], name: str = "") -> Value:
    """Return the sum of ``values``, each times its factor; all have the same shape."""
    terms: list[Term] = []
    constants: list[Array] = []
    for value, factor in zip(values, factors, strict=True):
        of_one = scaled(value, factor)
        terms += of_one.terms
        if of_one.constant is not None:
            constants.append(of_one.constant)
    if len({constant.ndim for constant in constants}) > 1:
        constants = [scaled(value, factor).map_of_constant() for value, factor in zip(values, factors, strict=True)]
    return Value(values[0].shape, tuple(terms), sum(constants) if constants else None, name)  # type: ignore[arg-type]


def scaled(value: Value, gains: float | Array) -> Value:
    """Return ``value`` times ``gains``, a number or float64 ``(C,)``."""
    if isinstance(gains, float) and gains == 1.0:
        return value
    each = np.broadcast_to(np.asarray(gains, np.float64), value.shape[0])
    terms = tuple(replace(term, window=term.window.scaled(each[term.rows])) for term in value.terms)
    constant = value.constant
    if constant is not None:
        constant = constant * by_channel(each, constant.ndim)
    return replace(value, terms=terms, constant=constant)


def shifted(value: Value, shift: Array) -> Value:
    """Return ``value`` plus ``shift``, float64 ``(C,)`` or ``(C, H, W)``."""
    constant = value.constant
    if constant is None:
        return replace(value, constant=shift)
    axes = max(constant.ndim, shift.ndim)
    one, other = (each.reshape(each.shape + (1,) * (axes - each.ndim)) for each in (constant, shift))
    return replace(value, constant=one + other)
