"""Arranges the rows of our CSV tables, and the values of channels, into the curves of the paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import InputError
from loihi_convert.report import paper
from loihi_convert.reproduction.exhibits import Exhibit
from loihi_convert.reproduction.variants import Variant
from loihi_convert.runs.csv_files import as_csv

BEST: Final = "our best"
"""The label of the best of our methods at each T."""

_BEST_VARIANT: Final = "best"

TableRow = Mapping[str, str]
"""One line of `tables.csv_table`, by column."""


# What is read of a table that `reproduce` has written: text, and numbers, empty where there is none.
_TEXTS: Final = ("data", "method", "reset", "variant", "training_seed")
_NUMBERS: Final[Mapping[str, Callable[[str], float]]] = {
    **dict.fromkeys(("timesteps", "test_images", "calibration_images"), int),
    **dict.fromkeys(("accuracy", "interval_low", "interval_high", "cnn_accuracy", "paper_accuracy"), float),
    **dict.fromkeys(("alpha", "paper_cnn_accuracy"), float),
}
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
    wanted = {(c.data, c.method, c.reset, c.alpha, c.timesteps) for c in figure.cells()}
    rows: list[TableRow] = []
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot be read ({error})", where=path) from error
        if not found or not {*_TEXTS, *_NUMBERS} <= found[0].keys():
            raise InputError("not a table that `loihi-convert reproduce` has written", where=path)
        for line, row in enumerate(found, 2):
            _require_numbers(row, path, line)
        rows += [row for row in found if row["variant"] == _BEST_VARIANT or _key(row) in wanted]
    return rows


def _require_numbers(row: TableRow, path: Path, line: int) -> None:
    """Raise an `InputError` unless the numbers of ``row`` can be read, and those of an accuracy are all there."""
    for column, kind in _NUMBERS.items():
        text = row[column]
        try:
            if text or (row["accuracy"] and column in _OF_AN_ACCURACY):
                kind(text)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"damaged: line {line}, {column}: found {text!r}", where=path, expected="must be a number"
            ) from error


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


def _key(row: TableRow) -> tuple[str, str, str | None, float | None, int | None]:
    alpha, timesteps = row["alpha"], row["timesteps"]
    return (
        row["data"],
        row["method"],
        row["reset"] or None,
        float(alpha) if alpha else None,
        int(timesteps) if timesteps else None,
    )


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
    known = next((row["paper_cnn_accuracy"] for row in rows if row["paper_cnn_accuracy"]), "")
    return Panel(title, _note(rows), tuple(curves), float(known) if known else None)


def _label(row: TableRow, figure: Exhibit) -> tuple[str, str]:
    """Return the label and the colour group of a row's curve."""
    if figure.curve == "alpha":
        alpha = f"alpha {float(row['alpha']):g}"
        return alpha, alpha
    method = row["method"]
    return (f"{method}, {row['reset']}" if figure.curve == "method and reset" else method), method


def _points(rows: Sequence[TableRow]) -> tuple[CurvePoint, ...]:
    # A cell that appears in two tables is drawn as one point.
    found = {
        int(row["timesteps"]): CurvePoint(
            int(row["timesteps"]),
            float(row["accuracy"]),
            float(row["interval_low"]),
            float(row["interval_high"]),
            int(row["test_images"]),
            float(row["cnn_accuracy"]),
        )
        for row in rows
        if row["accuracy"] and row["timesteps"] and row["cnn_accuracy"]
    }
    return tuple(found[timesteps] for timesteps in sorted(found))


def _papers(rows: Sequence[TableRow]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted({(int(r["timesteps"]), float(r["paper_accuracy"])) for r in rows if r["paper_accuracy"]}))


def _note(rows: Sequence[TableRow]) -> str:
    """Return the number of images and the CNN's training seed of a panel."""
    measured = [row for row in rows if row["test_images"]]
    if not measured:
        return "the paper's values only"
    counts: dict[int, list[int]] = {}
    for row in measured:
        counts.setdefault(int(row["test_images"]), []).append(int(row["timesteps"]))
    most = max(counts)
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
