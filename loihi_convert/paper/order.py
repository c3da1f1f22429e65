"""Whether the rows of a table rank as in the paper: pairs with a significant difference there, compared with ours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from loihi_convert.paper.tables import PaperEntry, row_name, short_name
from loihi_convert.paper.variants import Variant
from loihi_convert.statistics import Z_SCORE

PAPER_IMAGES: Final = 10_000
"""Test images of each data set, all of which the paper takes."""

Order = Literal["same order", "within chance", "opposite"]
"""How two rows rank here compared with the paper; equal rows are within chance."""


@dataclass(frozen=True)
class RowPair:
    """Two rows at the same T that differ significantly in the paper, the better one first.

    Parameters
    ----------
    better, worse
        The rows, as ranked in the paper.
    order
        How ours rank; within chance if our difference is within its 95 % interval.
    """

    better: PaperEntry
    worse: PaperEntry
    order: Order


def pairs(entries: Sequence[PaperEntry], variant: Variant) -> list[RowPair]:
    """Return all pairs of one data set and T that differ significantly in the paper and were also measured here."""
    found = []
    for better, worse in _told_apart(entries, variant):
        one, two = better.outcome, worse.outcome
        if one and two and one.accuracy is not None and two.accuracy is not None:
            ours = _difference(one.accuracy, one.images, two.accuracy, two.images)
            order: Order = "within chance" if abs(ours) <= 1 else "same order" if ours > 0 else "opposite"
            found.append(RowPair(better, worse, order))
    return found


def _told_apart(entries: Sequence[PaperEntry], variant: Variant) -> list[tuple[PaperEntry, PaperEntry]]:
    """Return all pairs of one data set and T, measured here or not, that differ significantly in the paper."""
    rows = [
        (entry.cell.accuracy, entry)
        for entry in entries
        if entry.variant == variant and entry.cell.accuracy is not None and entry.cell.timesteps is not None
    ]
    found = []
    for (first, one), (second, two) in itertools.combinations(rows, 2):
        difference = _difference(first, PAPER_IMAGES, second, PAPER_IMAGES)
        if abs(difference) > 1 and (one.cell.data, one.cell.timesteps) == (two.cell.data, two.cell.timesteps):
            found.append((one, two) if difference > 0 else (two, one))
    return found


def order_counts(entries: Sequence[PaperEntry], variant: Variant) -> str:
    """Return the number of `pairs` of each `Order`, in words; empty without pairs."""
    found = [pair.order for pair in pairs(entries, variant)]
    left_out = len(_told_apart(entries, variant)) - len(found)
    counts = ", ".join(f"{found.count(order)} {order}" for order in get_args(Order))
    beside = f"; {left_out} more are not measured here" if left_out else ""
    return f"{len(found)} pairs of rows: {counts}{beside}" if found else ""


def order_lines(entries: Sequence[PaperEntry], variant: Variant) -> list[str]:
    """Return `order_counts` of a variant, and each pair in the opposite order."""
    counts = order_counts(entries, variant)
    lines = [f"- **{variant.name}**: {counts}."] if counts else []
    for pair in pairs(entries, variant):
        if pair.order == "opposite":
            better, worse = pair.better, pair.worse
            lines.append(
                f"  - {row_name(better.cell)} before {short_name(worse.cell)}: paper {better.cell.accuracy:.2f} and "
                f"{worse.cell.accuracy:.2f}, ours {better.accuracy:.2f} and {worse.accuracy:.2f}"
            )
    return lines


def _difference(first: float, first_images: int, second: float, second_images: int) -> float:
    """Return the difference of two accuracies (%) divided by half its 95 % interval; infinite if that is zero."""
    if first == second:
        return 0.0
    variance = first * (100 - first) / first_images + second * (100 - second) / second_images
    return (first - second) / (Z_SCORE * math.sqrt(variance)) if variance else math.copysign(math.inf, first - second)
