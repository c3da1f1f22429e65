"""The section on confusions between classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from loihi_convert.report.entries import Entry
from loihi_convert.report.page import Details, Matrix, PageBlock, Paragraph
from loihi_convert.runs.stored_run import Confusion

MAX_CLASSES: Final = 40
"""Classes of a confusion matrix that is shown whole."""


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the confusion matrix of each file with known labels; all but the first are collapsed."""
    known = [(entry, found) for entry in entries if (found := entry.run.confusions.get(entry.file)) is not None]
    for index, (entry, found) in enumerate(known):
        block = _matrix(entry, found)
        yield block if index == 0 else Details(entry.full_label, (block,))


def _matrix(entry: Entry, found: Confusion) -> PageBlock:
    """Return the matrix and the worst confusions in words; with too many classes, only the latter."""
    wrong = int(found.counts.sum() - found.counts.trace())
    confused = sorted(
        (
            (int(found.counts[row, column]), found.classes[row], found.classes[column])
            for row, column in zip(*found.counts.nonzero(), strict=True)
            if row != column
        ),
        key=lambda one: -one[0],
    )[:5]
    often = "; ".join(f"{is_} taken for {got} ({n})" for n, is_, got in confused)
    told = f"{entry.full_label} at T = {found.timesteps}: {wrong:,} of {int(found.counts.sum()):,} images wrong"
    told += f". Most often: {often}." if confused else "."
    if len(found.classes) > MAX_CLASSES:
        return Paragraph(f"{told} {len(found.classes)} classes are too many for a matrix here.")
    return Matrix(f"{told} Rows: true class; columns: predicted class; empty: none", found)
