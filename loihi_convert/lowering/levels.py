"""Populations -> levels: the layer of the chain on which each population stands.

Requires: populations in order of computation, the output last.
Ensures: a level for each, above those of its sources; all populations of a level have one map size and one grid.

The *grid* of a map is the number of image pixels per step on it, so that positions on maps of different sizes can be
compared. In a strided residual block, ``y = relu(conv2(a) + conv3(x))`` with ``a = relu(conv1(x))``, where ``x`` is the
ReLU of a first layer and conv1 and conv3 have stride 2:

=====  ===========  =======  ================================
level  populations  grid     relays (`relays.py`)
=====  ===========  =======  ================================
0      the image    (1, 1)
1      x            (1, 1)
2      a            (2, 2)   of x, which level 3 needs
3      y            (2, 2)
=====  ===========  =======  ================================

If several populations could come next, those with the largest maps do. So a branch that reduces the map waits for one
that does not, and its input is relayed meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Pair, Shape
from loihi_convert.lowering.populations import Population, Populations
from loihi_convert.lowering.value import IMAGE

Grid = tuple[int | None, int | None]
"""Image pixels per step on a map, vertical and horizontal; ``None`` if the map has a single position."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Populations on levels; level 0 is the image.

    Parameters
    ----------
    populations
        Only those that the output needs; the output is the last.
    image_size
        (H, W).
    of
        The level of each population, from 1; that of `IMAGE` is 0.
    grids
        The grid of each population, and of `IMAGE`.
    """

    populations: tuple[Population, ...]
    image_size: Pair
    of: dict[int, int]
    grids: dict[int, Grid]

    @property
    def depth(self) -> int:
        return max(self.of.values())

    def on(self, level: int) -> list[int]:
        """Return the populations of a level."""
        return [number for number in range(len(self.populations)) if self.of[number] == level]

    @cached_property
    def is_dense(self) -> list[bool]:
        """Whether each level becomes a dense layer: the last level, vectors, and levels after a dense layer."""
        found = [False]
        for level in range(1, self.depth + 1):
            terms = [term for number in self.on(level) for term in self.populations[number].value.terms]
            follows = any(term.window.is_dense or found[self.of[term.source]] for term in terms)
            found.append(follows or level == self.depth)
        return found

    def size(self, level: int) -> Pair:
        """Return (H, W) of a level's maps."""
        return self.size_of(IMAGE if level == 0 else self.on(level)[0])

    def size_of(self, source: int) -> Pair:
        """Return (H, W) of a population, or of `IMAGE`."""
        return self.image_size if source == IMAGE else self.populations[source].value.size

    def grid(self, level: int) -> Grid:
        """Return the grid of a level."""
        return self.grids[IMAGE if level == 0 else self.on(level)[0]]

    def stride(self, level: int) -> Pair:
        """Return the vertical and horizontal stride of the layer of a level, in positions of the level before."""
        steps = _quotient(self.grid(level), self.grid(level - 1))
        return tuple(1 if size == 1 else step for size, step in zip(self.size(level), steps, strict=True))  # type: ignore[return-value]

    def cell(self, level: int, source: int) -> Pair:
        """Return how many pixels of a source, vertical and horizontal, there are for each position of a level."""
        return _quotient(self.grid(level), self.grids[source])


def _quotient(grid: Grid, finer: Grid) -> Pair:
    return tuple(1 if a is None or b is None else a // b for a, b in zip(grid, finer, strict=True))  # type: ignore[return-value]


def placed(populations: Populations) -> Levels:
    """Return ``populations`` on levels.

    Pixels are not spikes and cannot be relayed: if they are used later, or together with spikes, a separate population
    encodes them, the encoder.

    Raises
    ------
    UnsupportedModelError
        If branches reduce the image differently.
    """
    made, late = _needed(populations.made), set[int]()
    while True:
        levels = _on_levels(_with_encoder(made, late, populations), populations.image_shape)
        # The encoder is before all others.
        new = {number - bool(late) for number in _reading_pixels(levels.populations) if levels.of[number] > 1}
        if not new:
            return levels
        # A larger map of pixels came before the encoder, which is -1: it must read them from the encoder, too.
        late |= _reading_pixels(made) if -1 in new else new


def _reading_pixels(made: Sequence[Population]) -> set[int]:
    return {number for number, each in enumerate(made) if any(term.source == IMAGE for term in each.value.terms)}


def _needed(made: Sequence[Population]) -> list[Population]:
    """The populations that the last one needs, renumbered."""
    needed = {len(made) - 1}
    for number in range(len(made) - 1, -1, -1):
        if number in needed:
            needed |= {term.source for term in made[number].value.terms if term.source != IMAGE}
    order = {IMAGE: IMAGE, **{number: place for place, number in enumerate(sorted(needed))}}
    return [_renumbered(made[number], order) for number in sorted(needed)]


def _renumbered(population: Population, order: dict[int, int]) -> Population:
    terms = tuple(replace(term, source=order[term.source]) for term in population.value.terms)
    return replace(population, value=replace(population.value, terms=terms))


def _with_encoder(made: Sequence[Population], late: set[int], populations: Populations) -> list[Population]:
    """The encoder, if any population needs it, and all of ``made``: those in ``late`` read it instead of the pixels."""
    if not late:
        return list(made)
    shift = {IMAGE: IMAGE, **{number: number + 1 for number in range(len(made))}}
    encoded = {**shift, IMAGE: 0}
    found = [Population("the image", populations.image())]
    return [*found, *(_renumbered(each, encoded if number in late else shift) for number, each in enumerate(made))]


def _on_levels(made: Sequence[Population], image_shape: Shape) -> Levels:
    of: dict[int, int] = {IMAGE: 0}
    grids: dict[int, Grid] = {IMAGE: (1, 1)}
    pending, level = list(range(len(made))), 0
    while pending:
        level += 1
        ready = [number for number in pending if all(of.get(t.source, level) < level for t in made[number].value.terms)]
        grids.update({number: _grid(made[number], grids) for number in ready})
        first = max(ready, key=lambda number: np.prod(made[number].value.size))
        alike = (made[first].value.size, grids[first])
        of.update(dict.fromkeys((n for n in ready if (made[n].value.size, grids[n]) == alike), level))
        pending = [number for number in pending if number not in of]
    levels = Levels(tuple(made), (image_shape[1], image_shape[2]), of, grids)
    for each in range(1, levels.depth + 1):
        _require_multiple(levels, each)
    return levels


def _require_multiple(levels: Levels, level: int) -> None:
    """Raise unless the step of a level's grid is a multiple of that of the level before: a stride is an integer."""
    here, before = levels.grid(level), levels.grid(level - 1)
    if any(
        mine is not None and theirs is not None and mine % theirs for mine, theirs in zip(here, before, strict=True)
    ):
        this, other = (levels.populations[levels.on(each)[0]].name for each in (level, level - 1))
        raise UnsupportedModelError(
            f"reduces the image by {_steps(here)}, another branch ({other}) by {_steps(before)}",
            where=this,
            expected="supported: branches of which one reduces the image by a multiple of the other",
            hint="Give the branches the same strides; pool one map only to 1 x 1, 2 x 2, 4 x 4, ... pixels.",
        )


def _steps(grid: Grid) -> str:
    return " x ".join(map(_step, grid))


def _step(step: int | None) -> str:
    return "its size" if step is None else str(step)


def _grid(population: Population, grids: dict[int, Grid]) -> Grid:
    """The grid of a population's map, from those of its sources."""
    found: list[int | None] = []
    for axis, size in enumerate(population.value.size):
        steps = set()
        for term in population.value.terms:
            own = grids[term.source][axis]
            steps.add(None if own is None else own * term.window.stride[axis] * term.window.pool[axis])
        if size > 1 and steps == {None}:
            # A map that grows from one row or column: later maps may be coarser, and earlier ones are not.
            steps = {max(grid[axis] or 1 for grid in grids.values())}
        if size > 1 and len(steps) > 1:
            raise UnsupportedModelError(
                f"its inputs are reduced differently: by {' and '.join(sorted(map(_step, steps)))}",
                where=population.name,
                expected="supported: branches that reduce the map equally",
            )
        found.append(None if size == 1 else steps.pop() if steps else 1)
    return found[0], found[1]
