"""Levels -> relays: the channels that carry values past the levels between a population and its use.

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

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.lowering.levels import Levels
from loihi_convert.lowering.value import Term
from loihi_convert.lowering.window import Window

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
                    hint="Give the branches of the network the same padding and strides.",
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
        """Return the sample in the layer before that a relay of a level repeats, and the shift in cells.

        Copies are made only in the last layer before the sum.
        """
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
                hint="Give the branches of the network the same padding and strides.",
            )
        return Tap(0, offset)


def _offsets(window: Window, axis: int) -> list[int]:
    """The offset of each kernel tap from the output position, in pixels of the input."""
    return [place * window.dilation[axis] - window.padding[axis] for place in range(window.weight.shape[2 + axis])]
