"""Arranges the rows of our CSV tables, and the values of channels, into the curves of the paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from loihi_convert.errors import InputError
from loihi_convert.report import paper
from loihi_convert.reproduction.exhibits import Exhibit
from loihi_convert.reproduction.variants import Variant
from loihi_convert.runs.columns import as_csv

BEST: Final = "our best"
"""The label of the best of our methods at each T."""

_BEST_VARIANT: Final = "best"

TableRow = Mapping[str, Any]
"""One line of `tables.csv_table`, by column: texts and numbers; None where a number is missing."""

# What is read of a table.
_COLUMNS: Final[Mapping[str, Callable[[str], object]]] = {
    **dict.fromkeys(("data", "method", "reset", "variant", "training_seed"), str),
    **dict.fromkeys(("timesteps", "test_images", "calibration_images"), int),
    **dict.fromkeys(("accuracy", "interval_low", "interval_high", "cnn_accuracy", "paper_accuracy"), float),
    **dict.fromkeys(("alpha", "paper_cnn_accuracy"), float),
}
_OF_A_POINT: Final = ("timesteps", "accuracy", "interval_low", "interval_high", "test_images", "cnn_accuracy")
_OF_AN_ACCURACY: Final = ("interval_low", "interval_high", "test_images")


class CurvePoint(NamedTuple):
    """Our accuracy at one T, in %, with its 95 % interval and the CNN's accuracy on the same test images."""

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
        Text at the end of the curve, or in the legend.
    group
        Curves of the same group share a colour and a marker in all panels.
    ours
        Our points, by ascending T.
    papers
        The paper's (T, accuracy in %), by ascending T.
    is_dashed
        Whether the line is dashed.
    """

    label: str
    group: str
    ours: tuple[CurvePoint, ...]
    papers: tuple[tuple[int, float], ...] = ()
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves on one data set, in one variant.

    Parameters
    ----------
    title, note
        Text above the panel: its content, and the number of images of the measurement.
    curves
        The curves, in the order of the legend.
    paper_cnn
        Accuracy of the paper's CNN, in %.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    paper_cnn: float | None = None


class ChannelPanel(NamedTuple):
    """The values of all channels of one layer, as several curves: one number per channel, by curve label."""

    title: str
    values: Mapping[str, Sequence[float]]


class MeasuredChannels(NamedTuple):
    """The channels of a cell of the paper in a variant: one value each, by layer name; empty if not measured."""

    cell: paper.Cell
    variant: Variant
    values: Mapping[str, Sequence[float]]


class ChannelCurves(NamedTuple):
    """The data of a figure of channels: one of ``panels`` per layer, the ``quantity`` shown, and the same as CSV."""

    panels: tuple[ChannelPanel, ...]
    quantity: str
    csv_text: str


def read_rows(paths: Iterable[Path], figure: Exhibit) -> list[TableRow]:
    """Return the rows of ``figure`` from CSV tables written by `reproduce`.

    Raises
    ------
    InputError
        If a file cannot be read, or is not such a table.
    """
    wanted = {(c.data, c.method, c.reset or "", c.alpha, c.timesteps) for c in figure.cells()}
    rows: list[TableRow] = []
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot be read ({error})", where=path) from error
        if not found or not _COLUMNS.keys() <= found[0].keys():
            raise InputError("not a table that `loihi-convert reproduce` has written", where=path)
        for row in table_rows(found, path):
            key = tuple(row[name] for name in ("data", "method", "reset", "alpha", "timesteps"))
            if row["variant"] == _BEST_VARIANT or key in wanted:
                rows.append(row)
    return rows


def table_rows(rows: Iterable[Mapping[str, str]], path: Path) -> list[TableRow]:
    """Return the rows of a CSV table with their numbers.

    Raises
    ------
    InputError
        If a number cannot be read, or an accuracy has none of its interval or images.
    """
    found: list[TableRow] = []
    for line, row in enumerate(rows, 2):
        parsed: dict[str, object] = {}
        for column, kind in _COLUMNS.items():
            text = row[column]
            is_needed = row["accuracy"] and column in _OF_AN_ACCURACY
            try:
                parsed[column] = kind(text) if text or is_needed else "" if kind is str else None
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"damaged: line {line}, {column}: found {text!r}", where=path, expected="must be a number"
                ) from error
        found.append(parsed)
    return found


def panels(rows: Sequence[TableRow], figure: Exhibit, variants: Sequence[str]) -> list[Panel]:
    """Return the panels of ``figure``, one per variant and data set, without those that have no points."""
    measured = [row for row in rows if row["variant"] != _BEST_VARIANT]
    found = []
    for variant in variants:
        for data in dict.fromkeys(row["data"] for row in measured):
            chosen = [row for row in measured if (row["variant"], row["data"]) == (variant, data)]
            bests = [row for row in rows if (row["variant"], row["data"]) == (_BEST_VARIANT, data)]
            if not chosen:
                continue
            panel = _panel(f"{data}, {variant}", chosen, bests if figure.has_best else [], figure)
            if any(curve.ours or curve.papers for curve in panel.curves):
                found.append(panel)
    return found


def channel_values(figure: Exhibit, measured: Sequence[MeasuredChannels]) -> ChannelCurves:
    """Return the firing rate or threshold of every channel, in the order of ``measured``."""
    of_rates = figure.shows == "rates"
    has_several_t = len({one.cell.timesteps for one in measured}) > 1
    has_variants = len({one.variant for one in measured}) > 1
    quantity, column = ("spikes / T", "spikes_per_T") if of_rates else ("threshold", "threshold")
    rows: list[dict[str, object]] = []
    curves: dict[tuple[str, str], dict[str, Sequence[float]]] = {}
    for cell, variant, values in measured:
        names = [cell.method if of_rates else f"T = {cell.timesteps}"]
        names += [variant.name] if has_variants else []
        names += [f"T = {cell.timesteps}"] if of_rates and has_several_t else []
        for layer, numbers in values.items():
            curves.setdefault((layer, cell.data), {})[", ".join(names)] = numbers
            row = {
                "figure": figure.name,
                "data": cell.data,
                "method": cell.method,
                "reset": cell.reset,
                "variant": variant.name,
                "timesteps": cell.timesteps,
                "layer": layer,
            }
            rows += [{**row, "channel": channel, column: number} for channel, number in enumerate(numbers)]
    drawn = tuple(ChannelPanel(f"{layer}, {data}", values) for (layer, data), values in curves.items())
    return ChannelCurves(drawn, quantity, as_csv(rows).decode())


def _panel(title: str, rows: Sequence[TableRow], bests: Sequence[TableRow], figure: Exhibit) -> Panel:
    labels = [_label(row, figure) for row in rows]
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
    paper_cnn = next((row["paper_cnn_accuracy"] for row in rows if row["paper_cnn_accuracy"] is not None), None)
    return Panel(title, _note(rows), tuple(curves), paper_cnn)


def _label(row: TableRow, figure: Exhibit) -> tuple[str, str]:
    """Return the label and the colour group of a row's curve."""
    if figure.curve == "alpha":
        alpha = f"alpha {row['alpha']:g}"
        return alpha, alpha
    method = row["method"]
    return (f"{method}, {row['reset']}" if figure.curve == "method and reset" else method), method


def _points(rows: Sequence[TableRow]) -> tuple[CurvePoint, ...]:
    # A cell that appears in two tables is drawn as one point.
    found = {
        row["timesteps"]: CurvePoint(*(row[name] for name in _OF_A_POINT))
        for row in rows
        if None not in (row["accuracy"], row["timesteps"], row["cnn_accuracy"])
    }
    return tuple(found[timesteps] for timesteps in sorted(found))


def _papers(rows: Sequence[TableRow]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted({(r["timesteps"], r["paper_accuracy"]) for r in rows if r["paper_accuracy"] is not None}))


def _note(rows: Sequence[TableRow]) -> str:
    """Return the number of images and the CNN's training seed of a panel."""
    measured = [row for row in rows if None not in (row["test_images"], row["timesteps"])]
    if not measured:
        return "the paper's values only"
    since: dict[int, int] = {}
    for row in sorted(measured, key=lambda row: row["timesteps"]):
        since.setdefault(row["test_images"], row["timesteps"])
    first, *others = since
    some = f" ({', '.join(f'{count:,} from T = {since[count]} on' for count in others)})" if others else ""
    calibration = sorted({row["calibration_images"] for row in measured} - {None})
    seeds = sorted({row["training_seed"] for row in measured} - {""})
    return (
        f"n = {first:,} test images{some}; {' or '.join(f'{n:,}' for n in calibration)} calibration images; "
        f"training seed {' or '.join(seeds)}"
    )
