"""A table of the paper with our numbers, as a Markdown page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from loihi_convert.report import paper
from loihi_convert.report.formats import markdown_table
from loihi_convert.report.table import Table
from loihi_convert.reproduction import images
from loihi_convert.reproduction.order import order_lines, pairs
from loihi_convert.reproduction.paper_cells import Variant
from loihi_convert.reproduction.tables import BLANK, BestEntry, Entry, interval, less, row_name, signed, text

_ACCURACY: Final = "[95 % interval] (ours - the paper's, in points)"
# Columns of the table of our best methods.
_ONLY_ON_THE_PAGE: Final = ("paper's loss", "our loss", "test images")
_NOT_MEASURED: Final = f"{BLANK}: the paper has no number, or it is not measured here."
_ORDER_EXPLAINED: Final = (
    "Pairs of rows at the same T that the paper tells apart: they differ by more than the 95 % interval of a "
    "difference on its 10,000 images. Pairs that come in the other order here are listed. *Within chance*: our "
    "difference is inside its own interval."
)


@dataclass(frozen=True)
class Grid:
    """A table of text cells: a ``header`` and ``rows``."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def markdown(self) -> str:
        """Return the grid as a Markdown table."""
        return markdown_table(self.header, self.rows)

    def table(self, title: str, caption: str, *, without: Collection[str] = ()) -> Table:
        """Return the grid as a table for the terminal, which wraps its cells if the window is narrow."""
        kept = [index for index, name in enumerate(self.header) if name not in without]
        header, *rows = (tuple(cells[index] for index in kept) for cells in (self.header, *self.rows))
        return Table(caption, header, tuple(rows), text_columns=len(kept), title=title)


def markdown_page(
    title: str,
    entries: Sequence[Entry],
    bests: Sequence[BestEntry] = (),
    *,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Return the page: accuracies, conversion losses, the best of our methods, and the order of the rows.

    Parameters
    ----------
    title
        Heading of the page.
    entries
        The cells in the paper's order, each in all variants.
    bests
        The best of our methods for each T, if measured.
    notes
        How the table was measured, one sentence each.
    warnings
        Possible causes of misreading, one sentence each.
    """
    variants = _variants(entries)
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), *(f"- **Warning**: {one}" for one in warnings), ""]
    lines += ["## Accuracy, %", "", f"Ours {_ACCURACY}. {_NOT_MEASURED}", "", accuracy_grid(entries).markdown]
    lines += ["## Conversion loss, points", "", "Accuracy of the CNN - accuracy of the SNN; in brackets: ours - the "]
    lines[-1] += "paper's. Ours is that of our CNN, the paper's that of its own."
    lines += ["", _grid(entries, _paper_loss, _loss_text).markdown]
    if bests:
        lines += ["## The best of our methods", "", best_sentence(bests), "", best_grid(bests).markdown]
    if order := [line for variant in variants for line in order_lines(entries, variant)]:
        lines += ["## The order of the rows", "", _ORDER_EXPLAINED, "", *order, ""]
    lines += ["## Variants", "", *(f"- **{variant.name}**: {variant.description}." for variant in variants)]
    if refusals := refused(entries):
        lines += ["", "No number:", "", *(f"- {one}" for one in refusals)]
    return "\n".join(lines) + "\n"


def terminal_tables(title: str, entries: Sequence[Entry], bests: Sequence[BestEntry]) -> list[Table]:
    """Return the accuracies and the best of our methods as tables for a terminal."""
    shown = [accuracy_grid(entries).table(f"{title}: accuracy, %", f"Ours {_ACCURACY}. {_NOT_MEASURED}")]
    if bests:
        shown.append(best_grid(bests).table("The best of our methods", best_sentence(bests), without=_ONLY_ON_THE_PAGE))
    return shown


def order_sentences(entries: Sequence[Entry]) -> list[str]:
    """Return one sentence per variant: how many pairs of rows rank as in the paper."""
    found = [(variant, pairs(entries, variant)) for variant in _variants(entries)]
    return [
        f"{variant.name}: {sum(pair.is_same for pair in of_it)} of {len(of_it)} pairs of rows in the paper's order"
        for variant, of_it in found
        if of_it
    ]


def accuracy_grid(entries: Sequence[Entry]) -> Grid:
    """Return accuracy, interval and difference, with one row per cell and one column per variant."""
    return _grid(entries, lambda cell: cell.accuracy, _accuracy_text)


def best_grid(bests: Sequence[BestEntry]) -> Grid:
    """Return the paper's best and ours, with one row per T."""
    header = (
        *("T", "paper's best", "ours [95 % interval]", "ours - paper's", "paper's loss", "our loss"),
        *("method", "network", "test images"),
    )
    rows = []
    for one in bests:
        accuracy, theirs = one.outcome.accuracy, one.cell.accuracy
        low, high = interval(one.outcome)
        rows.append(
            (
                *(str(one.cell.timesteps), f"{text(theirs)} ({one.cell.method})", f"{text(accuracy)} [{low}, {high}]"),
                signed(less(accuracy, theirs)),
                text(less(paper.cnn_accuracy(one.cell.data), theirs)),
                text(less(one.cnn.accuracy, accuracy)),
                *(one.method, one.network, f"{one.outcome.images:,}"),
            )
        )
    return Grid(header, tuple(rows))


def best_sentence(bests: Sequence[BestEntry]) -> str:
    """Return the number of T at which ours reaches the paper's best, and how ours was chosen."""
    compared = [less(one.outcome.accuracy, one.cell.accuracy) for one in bests]
    differences = [one for one in compared if one is not None]
    reached = sum(one >= 0 for one in differences)
    is_long = any((one.cell.timesteps or 0) > images.LONG for one in bests)
    beyond = f"; beyond T = {images.LONG} the method is that of T = {images.LONG}" if is_long else ""
    return (
        f"At or above the paper's at {reached} of {len(differences)} T. Methods are chosen on calibration images, "
        f"networks on validation images{beyond}. What runs is the exported file."
    )


def refused(entries: Sequence[Entry]) -> list[str]:
    """Return each cell without a result, with the reason."""
    return list(
        dict.fromkeys(
            f"{row_name(entry.cell)}, {entry.variant.name}: {entry.outcome.refusal}"
            for entry in entries
            if entry.outcome is not None and entry.outcome.refusal is not None
        )
    )


def _grid(entries: Sequence[Entry], theirs: Callable[[paper.Cell], float | None], ours: Callable[[Entry], str]) -> Grid:
    """Return one row per cell and one column per variant; columns that are equal in all rows are omitted."""
    variants, cells = _variants(entries), list(dict.fromkeys(entry.cell for entry in entries))
    by_place = {(entry.cell, entry.variant): entry for entry in entries}
    columns: list[tuple[str, Callable[[paper.Cell], str]]] = [
        ("data", lambda cell: cell.data),
        ("T", lambda cell: BLANK if cell.timesteps is None else str(cell.timesteps)),
        ("method", lambda cell: "CNN" if cell.method == paper.CNN else cell.method),
        ("reset", lambda cell: cell.reset or BLANK),
        ("alpha", lambda cell: BLANK if cell.alpha is None else f"{cell.alpha:g}"),
    ]
    kept = [(name, shown) for name, shown in columns if name == "T" or len({shown(cell) for cell in cells}) > 1]
    rows = [
        (
            *(shown(cell) for _, shown in kept),
            text(theirs(cell)),
            *(ours(by_place[cell, variant]) for variant in variants),
        )
        for cell in cells
    ]
    return Grid((*(name for name, _ in kept), "paper", *(variant.name for variant in variants)), tuple(rows))


def _variants(entries: Sequence[Entry]) -> list[Variant]:
    return list(dict.fromkeys(entry.variant for entry in entries))


def _paper_loss(cell: paper.Cell) -> float | None:
    return less(paper.cnn_accuracy(cell.data), cell.accuracy)


def _accuracy_text(entry: Entry) -> str:
    low, high = interval(entry.outcome)
    return f"{text(entry.accuracy)}{f' [{low}, {high}]' if low else ''}{_in_brackets(entry.difference)}"


def _loss_text(entry: Entry) -> str:
    return f"{text(entry.loss)}{_in_brackets(entry.loss_difference)}"


def _in_brackets(difference: float | None) -> str:
    return "" if difference is None else f" ({signed(difference)})"
