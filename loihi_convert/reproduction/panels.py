"""The rows of a table of ours, as its CSV file has them, arranged into the curves of the paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import InputError, UsageError
from loihi_convert.reproduction.cells import figure_cells

BEST: Final = "best of ours"
"""The label of the best of our methods at each T."""

OF_ACCURACIES: Final = ("6", "8", "9", "11", "12")
"""Figures that show accuracies, which a table's CSV file holds."""

_WITH_BEST: Final = ("6", "8", "11")
_BEST_VARIANT: Final = "best"

Row = Mapping[str, str]
"""One line of `tables.csv_table`, by column."""


class Point(NamedTuple):
    """An accuracy of ours at one T, in %: its 95 % interval, and the CNN's accuracy on the same test images."""

    timesteps: int
    accuracy: float
    low: float
    high: float
    images: int
    cnn: float


@dataclass(frozen=True)
class Curve:
    """One method, or one factor alpha.

    Parameters
    ----------
    label
        At its end, or in the legend.
    group
        Curves of one group have one colour and one marker, in all panels.
    ours
        By ascending T.
    papers
        (T, accuracy in %) of the paper, by ascending T.
    is_dashed
        Whether the line is.
    """

    label: str
    group: str
    ours: tuple[Point, ...]
    papers: tuple[tuple[int, float], ...] = ()
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves on one data set, in one variant.

    Parameters
    ----------
    title, note
        Above it: what it shows, and with how many images it was measured.
    curves
        In the order of the legend.
    paper_cnn
        Accuracy of the paper's CNN, in %.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    paper_cnn: float | None = None


@dataclass(frozen=True)
class ChannelPanel:
    """A value of each channel of one layer, in several curves.

    Parameters
    ----------
    title
        Above it.
    values
        By label: one number for each channel.
    """

    title: str
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)


def read_rows(paths: Iterable[Path], name: str) -> list[Row]:
    """Return the rows of figure ``name`` in tables that `reproduce` has written as CSV.

    Raises
    ------
    InputError
        If a file cannot be read, or is something else.
    """
    wanted = {(c.data, c.method, c.reset, c.alpha, c.timesteps) for c in figure_cells(name)}
    rows: list[Row] = []
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot be read ({error})", where=path) from error
        if not found or not {"variant", "accuracy", "interval_low", "cnn_accuracy"} <= found[0].keys():
            raise InputError("not a table that `loihi-convert reproduce` has written", where=path)
        rows += [row for row in found if row["variant"] == _BEST_VARIANT or _key(row) in wanted]
    return rows


def panels(rows: Sequence[Row], name: str, variants: Sequence[str]) -> list[Panel]:
    """Return the panels of figure ``name``: one for each variant and data set.

    Raises
    ------
    UsageError
        If ``rows`` hold none of its cells.
    """
    measured = [row for row in rows if row["variant"] != _BEST_VARIANT]
    found = []
    for variant in variants:
        for data in dict.fromkeys(row["data"] for row in measured):
            chosen = [row for row in measured if (row["variant"], row["data"]) == (variant, data)]
            bests = [row for row in rows if (row["variant"], row["data"]) == (_BEST_VARIANT, data)]
            if chosen:
                found.append(_panel(f"{data}, {variant}", chosen, bests if name in _WITH_BEST else [], name))
    if not found:
        raise UsageError(
            f"no cell of figure {name} in variant {' or '.join(variants)}", where="tables", hint="Choose `variants`."
        )
    return found


def _key(row: Row) -> tuple[str, str, str | None, float | None, int | None]:
    alpha, timesteps = row["alpha"], row["timesteps"]
    return (
        row["data"],
        row["method"],
        row["reset"] or None,
        float(alpha) if alpha else None,
        int(timesteps) if timesteps else None,
    )


def _panel(title: str, rows: Sequence[Row], bests: Sequence[Row], name: str) -> Panel:
    labels = [_label(row, name) for row in rows]
    resets: dict[str, set[str]] = {}
    for row, (_, group) in zip(rows, labels, strict=True):
        resets.setdefault(group, set()).add(row["reset"])
    curves = []
    for label, group in dict.fromkeys(labels):
        of_it = [row for row, found in zip(rows, labels, strict=True) if found == (label, group)]
        is_dashed = len(resets[group]) > 1 and of_it[0]["reset"] == "hard"
        curves.append(Curve(label, group, _points(of_it), _papers(of_it), is_dashed))
    if bests:
        curves.append(Curve(BEST, BEST, _points(bests)))
    known = next((row["paper_cnn_accuracy"] for row in rows if row["paper_cnn_accuracy"]), "")
    return Panel(title, _note(rows), tuple(curves), float(known) if known else None)


def _label(row: Row, name: str) -> tuple[str, str]:
    """The label of a row's curve, and the group that shares its colour."""
    if name == "9":
        alpha = f"alpha {float(row['alpha']):g}"
        return alpha, alpha
    method = row["method"]
    return (f"{method}, {row['reset']}" if name == "12" else method), method


def _points(rows: Sequence[Row]) -> tuple[Point, ...]:
    # A cell that stands in two tables is one point.
    found = {
        int(row["timesteps"]): Point(
            int(row["timesteps"]),
            float(row["accuracy"]),
            float(row["interval_low"]),
            float(row["interval_high"]),
            int(row["test_images"]),
            float(row["cnn_accuracy"]),
        )
        for row in rows
        if row["accuracy"] and row["timesteps"]
    }
    return tuple(found[timesteps] for timesteps in sorted(found))


def _papers(rows: Sequence[Row]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted({(int(r["timesteps"]), float(r["paper_accuracy"])) for r in rows if r["paper_accuracy"]}))


def _note(rows: Sequence[Row]) -> str:
    """With how many images, and on a CNN of which seed, a panel was measured."""
    measured = [row for row in rows if row["test_images"]]
    counts: dict[int, list[int]] = {}
    for row in measured:
        counts.setdefault(int(row["test_images"]), []).append(int(row["timesteps"]))
    most = max(counts, default=0)
    fewer = [f"{n:,} from T = {min(steps)} on" for n, steps in sorted(counts.items()) if n != most]
    calibration = sorted({int(row["calibration_images"]) for row in measured if row["calibration_images"]})
    seeds = sorted({row["training_seed"] for row in measured if row["training_seed"]})
    some = f" ({', '.join(fewer)})" if fewer else ""
    return "; ".join(
        [
            f"n = {most:,} test images{some}",
            f"{' or '.join(f'{n:,}' for n in calibration)} calibration images",
            f"training seed {' or '.join(seeds)}",
        ]
    )
