"""Populations -> levels, the layers of the chain on which they stand, and the relays that carry values past levels.

Requires: populations in order of computation, the output last.
Ensures: a level for each, above those of its sources; all populations of a level have one map size and one grid.

The *grid* of a map is the number of image pixels per step on it, so that positions on maps of different sizes can be
compared. In a strided residual block, ``y = relu(conv2(a) + conv3(x))`` with ``a = relu(conv1(x))``, where ``x`` is the
ReLU of a first layer and conv1 and conv3 have stride 2:

=====  ===========  =======  ================================
level  populations  grid     relays
=====  ===========  =======  ================================
0      the image    (1, 1)
1      x            (1, 1)
2      a            (2, 2)   of x, which level 3 needs
3      y            (2, 2)
=====  ===========  =======  ================================

If several populations could come next, those with the largest maps do. So a branch that reduces the map waits for one
that does not, and its input is relayed meanwhile.

A relay is a neuron that repeats one neuron of the layer before (`network.ReluLayer.relay_of`). A value used later than
in the next level needs relays on all levels between, each on that level's grid. Where that grid is coarser than the
map, one position stands for a *cell* of several pixels, and each pixel that is read needs a relay of its own.

Example, along one axis: x stands on level 1 with grid 1, level 2 has stride 2, so grid 2. A kernel on level 3 reads x
at the offsets -1, 0 and 1 from pixel 2 i for its output position i. On level 2 there are two samples of x,
its even pixels (``top`` 0) and its odd ones (``top`` 1), and the kernel reads them as these taps:

======  ===============  ======================================
offset  tap              reads
======  ===============  ======================================
-1      ``Tap(-1, 1)``   the odd pixel of the position before
0       ``Tap(0, 0)``    the even pixel of this position
1       ``Tap(0, 1)``    the odd pixel of this position
======  ===============  ======================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.lowering.value import IMAGE, Population, Populations, Term
from loihi_convert.lowering.window import Window

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
    """Return ``populations`` on levels, or raise an `UnsupportedModelError` if branches reduce the image differently.

    Pixels are not spikes and cannot be relayed: if they are used later, or together with spikes, a separate population
    encodes them, the encoder.
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
        )


def _steps(grid: Iterable[int | None]) -> str:
    return " x ".join("its size" if step is None else str(step) for step in grid)


def _grid(population: Population, grids: dict[int, Grid]) -> Grid:
    """The grid of a population's map, from those of its sources."""
    found: list[int | None] = []
    for axis, size in enumerate(population.value.size):
        steps = set()
        for term in population.value.terms:
            own, step = grids[term.source][axis], term.window.stride[axis] * term.window.pool[axis]
            if own is None and size > 1 < step:
                raise UnsupportedModelError(
                    f"has a stride of {step} where a map of one row or column grows",
                    where=population.name,
                    expected="supported: a stride of 1",
                )
            steps.add(None if own is None else own * step)
        if size > 1 and steps == {None}:
            # A map that grows from one row or column: later maps may be coarser, and earlier ones are not.
            steps = {max(grid[axis] or 1 for grid in grids.values())}
        if size > 1 and len(steps) > 1:
            raise UnsupportedModelError(
                f"its inputs are reduced differently: by {' and '.join(sorted(_steps([step]) for step in steps))}",
                where=population.name,
                expected="supported: branches that reduce the map equally",
            )
        found.append(None if size == 1 else steps.pop() if steps else 1)
    return found[0], found[1]


_MAX_CHANNELS: Final = 2**14


class Sample(NamedTuple):
    """A channel of a layer: pixels of one channel of a population or of the image, one for each cell of the grid.

    ``value[i, j] = x[channel, r_h i + top, r_w j + left]``, where a cell is r_h x r_w pixels of x; 0 outside x. A
    sample of a population on its own level is that channel itself, with ``top`` and ``left`` 0. ``copy`` is which of
    `Relays.skip_copies` relays of the same pixels it is.
    """

    source: int
    channel: int
    top: int = 0
    left: int = 0
    copy: int = 0


class Tap(NamedTuple):
    """The pixels in the layer before for one row (or column) of a kernel: a shift in cells, and within the cell."""

    cells: int
    pixels: int


@dataclass(frozen=True, eq=False)
class Relays:
    """The relays that ``levels`` need.

    Parameters
    ----------
    levels
        The populations on their levels.
    skip_copies
        Number of relays for each pixel of a skip that is added to other synapses.
    """

    levels: Levels
    skip_copies: int
    _taps: dict[tuple[int, int, int, int], Tap] = field(default_factory=dict)

    def by_level(self) -> list[list[Sample]]:
        """Return the relays of each level, from level 0, in order.

        Raises
        ------
        UnsupportedModelError
            If a level would need more channels than fit any chip, or its map does not contain the pixels to relay.
        """
        levels = self.levels
        needs: list[set[Sample]] = [set() for _ in range(levels.depth + 1)]
        for level in range(levels.depth, 1, -1):
            for number in levels.on(level):
                for term in levels.populations[number].value.terms:
                    if levels.of[term.source] < level - 1:
                        needs[level - 1].update(self._read_by(level, number, term))
            for sample in needs[level]:
                if levels.of[sample.source] < level - 1:
                    needs[level - 1].add(self.repeated(level, sample)[0])
            if len(needs[level - 1]) > _MAX_CHANNELS:
                raise UnsupportedModelError(
                    f"{len(needs[level - 1])} channels would have to skip it",
                    where=levels.populations[levels.on(level - 1)[0]].name,
                    expected=f"supported: at most {_MAX_CHANNELS}",
                )
        return [sorted(samples) for samples in needs]

    def _read_by(self, level: int, number: int, term: Term) -> Iterator[Sample]:
        """The samples on the level before that a term of a population reads."""
        copies = range(self.copies(number, term))
        for row, column, _weight, used in self.taps(level, term.source, term.window.unpooled()):
            for channel in term.source_channels[used]:
                for copy in copies:
                    yield Sample(term.source, int(channel), row.pixels, column.pixels, copy)

    def repeated(self, level: int, sample: Sample) -> tuple[Sample, Pair]:
        """Return the sample in the layer before that a relay of a level repeats, and the shift in cells."""
        # Copies are made only in the last layer before the sum.
        row, column = (self._tap(level, sample.source, (sample.top, sample.left)[axis], axis) for axis in (0, 1))
        return sample._replace(top=row.pixels, left=column.pixels, copy=0), (row.cells, column.cells)

    def copies(self, number: int, term: Term) -> int:
        """Return the number of relays per pixel of a term: more than one only for a skip added to other synapses."""
        levels = self.levels
        others = [other for other in levels.populations[number].value.terms if other is not term]
        joins = term.window.is_channelwise and any(not other.window.is_channelwise for other in others)
        return self.skip_copies if joins and levels.of[term.source] < levels.of[number] - 1 else 1

    def taps(self, level: int, source: int, window: Window) -> Iterator[tuple[Tap, Tap, Array, Array]]:
        """Yield the taps in the layer before ``level`` for each pixel of a window of ``source`` with a nonzero weight.

        Each is the tap of its row, that of its column, its weights ``(C_out, C_in / groups)``, and the input channels
        that it reads: int64. A pixel without weight may lie where no relay could carry it.
        """
        for a, row in enumerate(_offsets(window, 0)):
            for b, column in enumerate(_offsets(window, 1)):
                if (used := window.inputs_at(a, b)).size:
                    taps = self._tap(level, source, row, 0), self._tap(level, source, column, 1)
                    yield *taps, window.weight[:, :, a, b], used

    def _tap(self, level: int, source: int, offset: int, axis: int) -> Tap:
        """The tap that reads the pixel ``offset`` after the position of the output, in pixels of ``source``."""
        key = (level, source, offset, axis)
        if key not in self._taps:
            self._taps[key] = self._found_tap(*key)
        return self._taps[key]

    def _found_tap(self, level: int, source: int, offset: int, axis: int) -> Tap:
        levels = self.levels
        if levels.of[source] == level - 1:
            return Tap(offset, 0)
        cells, count = levels.size(level - 1)[axis], levels.size(level)[axis]
        step, cell = levels.stride(level)[axis], levels.cell(level - 1, source)[axis]
        # A pixel of a cell or, if the grid of the layer before ends too early, a pixel with its own relay.
        shift, pixel = divmod(offset, cell)
        places = np.arange(count) * step + shift
        outside = places[(places < 0) | (places >= cells)] * cell + pixel
        extent = levels.size_of(source)[axis]
        if not bool(((outside >= 0) & (outside < extent)).any()):
            return Tap(shift, pixel)
        own = np.arange(count) * step
        lost = own[own >= cells] * cell + offset
        if bool(((lost >= 0) & (lost < extent)).any()):
            raise UnsupportedModelError(
                "its map is too small for a skip over it: the map after it is larger",
                where=levels.populations[levels.on(level - 1)[0]].name,
                expected="supported: skips over maps that do not grow again",
            )
        return Tap(0, offset)


def _offsets(window: Window, axis: int) -> list[int]:
    """The offset of each kernel tap from the output position, in pixels of the input."""
    return [place * window.dilation[axis] - window.padding[axis] for place in range(window.weight.shape[2 + axis])]
