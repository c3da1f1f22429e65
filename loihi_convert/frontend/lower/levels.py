"""The layer of the chain for each population, and the values to relay from one layer to the next.

Requires: populations in order of computation, the output last.
Ensures: a level for each, above those of its sources; all populations of a level have one map size. A value used later
than in the next level is needed in all levels between: as relays of single pixels (`Sample`), on each level's grid.

If several populations could come next, those with the largest maps do. So a branch that reduces the map waits for one
that does not, and its input is relayed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Pair
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower.populations import Population, Populations
from loihi_convert.frontend.lower.value import IMAGE, Term
from loihi_convert.frontend.lower.window import Window

_MAX_CHANNELS: Final = 2**14

Strides = tuple[int | None, int | None]
"""Image pixels per step on a map, vertical and horizontal; ``None`` if the map has a single position."""


class Sample(NamedTuple):
    """A channel of a layer: pixels of one channel of a population, one per cell of the layer's grid.

    ``value[i, j] = x[channel, r_h i + top, r_w j + left]``, where a cell is r_h x r_w pixels of x; 0 outside x.
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


@dataclass(eq=False)
class Levels:
    """Populations on levels.

    Parameters
    ----------
    populations
        Only those that the output needs; the output is the last.
    of
        The level of each population, from 1; that of `IMAGE` is 0.
    skip_copies
        Number of relays for each pixel of a skip that is added to other synapses.
    """

    populations: tuple[Population, ...]
    image_size: Pair
    of: dict[int, int]
    strides: dict[int, Strides]
    skip_copies: int = 1
    _dense: dict[int, bool] = field(default_factory=dict)
    _taps: dict[tuple[int, int, int, int], Tap] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return max(self.of.values())

    def on(self, level: int) -> list[int]:
        """Return the populations of a level."""
        return [number for number in range(len(self.populations)) if self.of[number] == level]

    def is_dense(self, level: int) -> bool:
        """Return whether a level becomes a dense layer: the last level, vectors, and levels after a dense layer."""
        if level not in self._dense:
            self._dense[level] = level == self.depth or any(
                term.window.is_dense or (term.source != IMAGE and self.is_dense(self.of[term.source]))
                for number in self.on(level)
                for term in self.populations[number].value.terms
            )
        return self._dense[level]

    def size(self, level: int) -> Pair:
        """Return (H, W) of a level's maps."""
        return self.image_size if level == 0 else self.populations[self.on(level)[0]].value.size

    def stride(self, level: int) -> Pair:
        """Return the vertical and horizontal stride of the layer of a level, in cells of the level before."""
        here, before = (self.grid(each) for each in (level, level - 1))
        return tuple(  # type: ignore[return-value]
            1 if size == 1 or mine is None or theirs is None else mine // theirs
            for size, mine, theirs in zip(self.size(level), here, before, strict=True)
        )

    def cell(self, level: int, source: int) -> Pair:
        """Return (rows, columns) of a source's pixels per cell of a level."""
        here, own = self.grid(level), self.strides[source]
        return tuple(1 if a is None or b is None else a // b for a, b in zip(here, own, strict=True))  # type: ignore[return-value]

    def taps(self, level: int, source: int, offsets: Sequence[int], axis: int) -> list[Tap]:
        """Return, for each of ``offsets``, the tap that reads the pixel ``offset`` after the position of the output.

        Taps refer to the layer before ``level``, along one axis; ``offsets`` are in pixels of ``source``.
        """
        return [self._tap(level, source, offset, axis) for offset in offsets]

    def _tap(self, level: int, source: int, offset: int, axis: int) -> Tap:
        key = (level, source, offset, axis)
        if key not in self._taps:
            self._taps[key] = self._found_tap(*key)
        return self._taps[key]

    def _found_tap(self, level: int, source: int, offset: int, axis: int) -> Tap:
        if self.of[source] == level - 1:
            return Tap(offset, 0)
        cells, count = self.size(level - 1)[axis], self.size(level)[axis]
        step, cell = self.stride(level)[axis], self.cell(level - 1, source)[axis]
        # A pixel of a cell or, if the grid of the layer before ends too early, a pixel with its own relay.
        shift, pixel = divmod(offset, cell)
        places = np.arange(count) * step + shift
        outside = places[(places < 0) | (places >= cells)] * cell + pixel
        extent = self._extent(source)[axis]
        if not bool(((outside >= 0) & (outside < extent)).any()):
            return Tap(shift, pixel)
        own = np.arange(count) * step
        lost = own[own >= cells] * cell + offset
        if bool(((lost >= 0) & (lost < extent)).any()):
            raise UnsupportedModelError(
                "its map is too small for a skip over it: the map after it is larger",
                where=self.populations[self.on(level - 1)[0]].name,
                expected="supported: skips over maps that do not grow again",
                hint="Give the branches of the network the same padding and strides.",
            )
        return Tap(0, offset)

    def grid(self, level: int) -> Strides:
        """Return the image pixels per step on the level's grid."""
        return (1, 1) if level == 0 else self.strides[self.on(level)[0]]

    def _extent(self, source: int) -> Pair:
        return self.image_size if source == IMAGE else self.populations[source].value.size

    def needed(self) -> list[list[Sample]]:
        """Return the relays of each level, from level 0, in order.

        Raises
        ------
        UnsupportedModelError
            If a level would need more channels than fit any chip.
        """
        needs: list[set[Sample]] = [set() for _ in range(self.depth + 1)]
        for level in range(self.depth, 1, -1):
            for number in self.on(level):
                for term in self.populations[number].value.terms:
                    if self.of[term.source] < level - 1:
                        needs[level - 1].update(self._of_term(level, term, self.copies(number, term)))
            for sample in needs[level]:
                if self.of[sample.source] < level - 1:
                    needs[level - 1].add(self.relayed(level, sample)[0])
            if len(needs[level - 1]) > _MAX_CHANNELS:
                raise UnsupportedModelError(
                    f"{len(needs[level - 1])} channels would have to skip it",
                    where=self.populations[self.on(level - 1)[0]].name,
                    expected=f"supported: at most {_MAX_CHANNELS}",
                    hint="Give the branches of the network the same padding and strides.",
                )
        return [sorted(samples) for samples in needs]

    def relayed(self, level: int, sample: Sample) -> tuple[Sample, Pair]:
        """Return the sample in the layer before that a relay of a level repeats, and the shift in cells.

        Copies are made only in the last layer before the sum.
        """
        row, column = (self._tap(level, sample.source, (sample.top, sample.left)[axis], axis) for axis in (0, 1))
        return sample._replace(top=row.pixels, left=column.pixels, copy=0), (row.cells, column.cells)

    def _of_term(self, level: int, term: Term, copies: int) -> Iterator[Sample]:
        window = term.window.unpooled()
        rows, columns = (self.taps(level, term.source, offsets_of(window, axis), axis) for axis in (0, 1))
        for a, row in enumerate(rows):
            for b, column in enumerate(columns):
                for channel in term.columns[window.inputs_at(a, b)]:
                    yield from (
                        Sample(term.source, int(channel), row.pixels, column.pixels, copy) for copy in range(copies)
                    )

    def copies(self, number: int, term: Term) -> int:
        """Return the number of relays per pixel of a term: more than one only for a skip added to other synapses."""
        others = [other for other in self.populations[number].value.terms if other is not term]
        joins = term.window.is_channelwise and any(not other.window.is_channelwise for other in others)
        return self.skip_copies if joins and self.of[term.source] < self.of[number] - 1 else 1


def offsets_of(window: Window, axis: int) -> list[int]:
    """Return the offset of each kernel tap from the output position, in pixels of the input."""
    return [place * window.dilation[axis] - window.padding[axis] for place in range(window.weight.shape[2 + axis])]


def placed(populations: Populations, skip_copies: int = 1) -> Levels:
    """Return ``populations`` on levels.

    Pixels are not spikes and cannot be relayed: if they are used later, or together with spikes, a separate population
    encodes them.
    """
    made, late = _needed(populations.made), set[int]()
    while True:
        found = _placed(_with_encoder(made, late, populations), populations, skip_copies)
        new = {number - bool(late) for number in _reading_pixels(found.populations) if found.of[number] > 1}
        if not new:
            return found
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
    if not late:
        return list(made)
    shift = {IMAGE: IMAGE, **{number: number + 1 for number in range(len(made))}}
    encoded = {**shift, IMAGE: 0}
    found = [Population("the image", populations.image())]
    return [*found, *(_renumbered(each, encoded if number in late else shift) for number, each in enumerate(made))]


def _placed(made: Sequence[Population], populations: Populations, skip_copies: int) -> Levels:
    size = (populations.image_shape[1], populations.image_shape[2])
    levels: dict[int, int] = {IMAGE: 0}
    strides: dict[int, Strides] = {IMAGE: (1, 1)}
    found = Levels(tuple(made), size, levels, strides, skip_copies)
    pending = list(range(len(made)))
    level = 0
    while pending:
        level += 1
        ready = [
            number for number in pending if all(levels.get(t.source, level) < level for t in made[number].value.terms)
        ]
        for number in ready:
            strides[number] = _stride(made[number], strides)
        first = max(ready, key=lambda number: np.prod(made[number].value.size))
        alike = (made[first].value.size, strides[first])
        levels.update(dict.fromkeys((n for n in ready if (made[n].value.size, strides[n]) == alike), level))
        pending = [number for number in pending if number not in levels]
    for each in range(1, level + 1):
        _require_multiple(found, each)
    return found


def _require_multiple(levels: Levels, level: int) -> None:
    """Raise unless the step of a level's grid is a multiple of that of the level before: a stride is an integer."""
    here, before = levels.grid(level), levels.grid(level - 1)
    if any(
        mine is not None and theirs is not None and mine % theirs for mine, theirs in zip(here, before, strict=True)
    ):
        this, other = (levels.populations[levels.on(each)[0]].name for each in (level, level - 1))
        raise UnsupportedModelError(
            f"reduces the image by {_sizes(here)}, another branch ({other}) by {_sizes(before)}",
            where=this,
            expected="supported: branches of which one reduces the image by a multiple of the other",
            hint="Give the branches the same strides; pool one map only to 1 x 1, 2 x 2, 4 x 4, ... pixels.",
        )


def _sizes(strides: Strides) -> str:
    return " x ".join(map(_step, strides))


def _step(step: int | None) -> str:
    return "its size" if step is None else str(step)


def _stride(population: Population, strides: dict[int, Strides]) -> Strides:
    """Image pixels per step on a population's map; ``None`` if it has a single position."""
    found: list[int | None] = []
    for axis, size in enumerate(population.value.size):
        steps = set()
        for term in population.value.terms:
            own = strides[term.source][axis]
            if own is None and size > 1 and term.window.stride[axis] > 1:
                raise UnsupportedModelError(
                    "has a stride on a map of one row or column", where=population.name, expected="must be 1 there"
                )
            steps.add(None if own is None else own * term.window.stride[axis] * term.window.pool[axis])
        if size > 1 and len(steps) > 1:
            raise UnsupportedModelError(
                f"its inputs are reduced differently: by {' and '.join(sorted(map(_step, steps)))}",
                where=population.name,
                expected="supported: branches that reduce the map equally",
            )
        found.append(None if size == 1 else steps.pop() if steps else 1)
    return found[0], found[1]
