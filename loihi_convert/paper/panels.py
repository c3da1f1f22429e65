"""Arranges the rows of our CSV tables, and the values of channels, into the curves of the paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import field_validator, model_validator

from loihi_convert.errors import InputError
from loihi_convert.paper.exhibits import Exhibit
from loihi_convert.paper.variants import Variant
from loihi_convert.report import paper
from loihi_convert.runs.columns import CsvRow, as_csv, read_csv

BEST: Final = "our best"
"""The label of the best of our methods at each T."""

_BEST_VARIANT: Final = "best"


class TableRow(CsvRow):
    """What figures take from one line of `tables.csv_table`; None where it is empty."""

    data: str
    method: str
    reset: str | None
    alpha: float | None
    timesteps: int | None
    variant: str
    calibration_images: int | None
    test_images: int | None
    training_seed: str | None
    accuracy: float | None
    interval_low: float | None
    interval_high: float | None
    paper_accuracy: float | None
    cnn_accuracy: float | None
    paper_cnn_accuracy: float | None

    @field_validator("*", mode="before")
    @classmethod
    def _empty(cls, text: str) -> str | None:
        return text or None

    @model_validator(mode="after")
    def _whole(self) -> TableRow:
        if self.accuracy is not None and None in (self.interval_low, self.interval_high, self.test_images):
            raise ValueError("an accuracy without its interval or number of images")
        return self


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
    wanted = {(cell.data, cell.method, cell.reset, cell.alpha, cell.timesteps) for cell in figure.cells()}
    rows = []
    for path in paths:
        try:
            rows += [row for row, _ in read_csv(path, TableRow)]
        except InputError as error:
            hint = "Give a table that `loihi-convert reproduce` has written."
            raise InputError(error.found, where=path, hint=hint) from error
    return [
        row
        for row in rows
        if row.variant == _BEST_VARIANT or (row.data, row.method, row.reset, row.alpha, row.timesteps) in wanted
    ]


def table_rows(csv_text: str) -> list[TableRow]:
    """Return the rows of a table of `tables.csv_table`."""
    return [TableRow.model_validate_strings(row) for row in csv.DictReader(csv_text.splitlines())]


def panels(rows: Sequence[TableRow], figure: Exhibit, variants: Sequence[str]) -> list[Panel]:
    """Return the panels of ``figure``, one per variant and data set, without those that have no points."""

    def chosen(variant: str, data: str) -> list[TableRow]:
        return [row for row in rows if (row.variant, row.data) == (variant, data)]

    every = dict.fromkeys(row.data for row in rows if row.variant != _BEST_VARIANT)
    found = [
        _panel(f"{data}, {variant}", of, chosen(_BEST_VARIANT, data) if figure.has_best else [], figure)
        for variant in variants
        for data in every
        if (of := chosen(variant, data))
    ]
    return [panel for panel in found if any(curve.ours or curve.papers for curve in panel.curves)]


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
    by_label: dict[tuple[str, str], list[TableRow]] = {}
    resets: dict[str, set[str | None]] = {}
    for row in rows:
        label, group = _label(row, figure)
        by_label.setdefault((label, group), []).append(row)
        resets.setdefault(group, set()).add(row.reset)
    curves = [
        Curve(label, group, _points(of), _papers(of), len(resets[group]) > 1 and of[0].reset == "hard")
        for (label, group), of in by_label.items()
    ]
    if bests:
        curves.append(Curve(BEST, BEST, _points(bests)))
    paper_cnn = next((row.paper_cnn_accuracy for row in rows if row.paper_cnn_accuracy is not None), None)
    return Panel(title, _note(rows), tuple(curves), paper_cnn)


def _label(row: TableRow, figure: Exhibit) -> tuple[str, str]:
    """Return the label and the colour group of a row's curve."""
    if figure.curve == "alpha":
        alpha = f"alpha {row.alpha:g}"
        return alpha, alpha
    method = row.method
    return (f"{method}, {row.reset}" if figure.curve == "method and reset" else method), method


def _points(rows: Sequence[TableRow]) -> tuple[CurvePoint, ...]:
    # A cell that appears in two tables is drawn as one point.
    found = {}
    for row in rows:
        point = (row.timesteps, row.accuracy, row.interval_low, row.interval_high, row.test_images, row.cnn_accuracy)
        if None not in point:
            found[row.timesteps] = CurvePoint._make(point)
    return tuple(sorted(found.values()))


def _papers(rows: Sequence[TableRow]) -> tuple[tuple[int, float], ...]:
    return tuple(
        sorted({(r.timesteps, r.paper_accuracy) for r in rows if r.timesteps and r.paper_accuracy is not None})
    )


def _note(rows: Sequence[TableRow]) -> str:
    """Return the number of images and the CNN's training seed of a panel."""
    measured = [(row.timesteps, row.test_images, row) for row in rows if row.timesteps and row.test_images]
    if not measured:
        return "the paper's values only"
    # The smallest T with each number of images.
    since: dict[int, int] = {}
    for steps, count, _ in sorted(measured, key=lambda each: each[0]):
        since.setdefault(count, steps)
    first, *others = since
    some = f" ({', '.join(f'{count:,} from T = {since[count]} on' for count in others)})" if others else ""
    calibration = sorted({row.calibration_images for *_, row in measured if row.calibration_images})
    seeds = sorted({row.training_seed for *_, row in measured if row.training_seed})
    return (
        f"n = {first:,} test images{some}; {' or '.join(f'{n:,}' for n in calibration)} calibration images; "
        f"training seed {' or '.join(seeds)}"
    )
