"""The answer of a run, short enough for a screen: verdict, accuracy at each T with bars, early exit, energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from loihi_convert.cli.console import Fact, aligned, told_once
from loihi_convert.ground.statistics import POOR_CNN, Z_SCORE
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import means
from loihi_convert.report.run_tables import Figures, worst_output
from loihi_convert.report.table import count, number, percent, points, quantity_range, r_squared, signed_points

BAR_CELLS: Final = 20
"""Characters of the longest bar."""

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_INTERVALS: Final = 4
"""Widths of the widest 95 % interval that a scale of bars covers at least."""


class Scale(NamedTuple):
    """The values at which a bar is empty and full."""

    low: float
    high: float

    def bar(self, value: float, *, line: bool = False) -> str:
        """Return the bar of ``value``, at most `BAR_CELLS` characters; a reference is drawn as a thin line."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else float(value > 0)
        eighths = round(8 * BAR_CELLS * min(max(share, 0.0), 1.0))
        full, rest = divmod(eighths, 8)
        return "─" * (full + (rest >= 4)) if line else "█" * full + _EIGHTHS[rest].strip()


def accuracy_scale(values: Sequence[float], widest_interval: float) -> Scale:
    """Return the scale of bars of fractions 0..1.

    With a scale from 0, bars of 99.2 and 99.5 % would look the same. So the scale ends at the largest value and begins
    one interval's width below the smallest. It covers at least `_INTERVALS` widths, so that a difference within chance
    is at most a quarter of a bar. The table shows the value at which bars begin.

    Parameters
    ----------
    values
        All drawn values, including those of the CNN.
    widest_interval
        Width of the widest 95 % interval of these values, 0..1.
    """
    high = max(values)
    low = min(min(values) - widest_interval, high - _INTERVALS * widest_interval)
    # Rounded down to a tenth of a percent, as shown in the table.
    return Scale(max(0.0, math.floor(1000 * low) / 1000), high)


_NOTABLE_POINTS: Final = 0.5
"""Points of accuracy by which early exit may miss its tolerance without a remark."""


def loss_margin(point: Point, image_count: int) -> float | None:
    """Return half the width of the 95 % interval of ``point.conversion_loss_points``, in points; None if unknown.

    CNN and file run on the same images. Let b be the number of images that only the CNN classifies correctly, and c the
    number that only the file does. The loss is (b - c) / N. Agresti and Min (Stat. Med. 24, 2005, 729) add 1/2 to each
    count, so that the margin does not vanish if few images show no difference::

        margin = z sqrt((b + c + 1) - (b - c)^2 / (N + 2)) / (N + 2)

    b + c is at most the number of images whose class differs from the CNN's; that number is used in its place.
    """
    if point.conversion_loss_points is None or point.agreement_with_cnn is None:
        return None
    other = (1 - point.agreement_with_cnn) * image_count
    lost = point.conversion_loss_points / 100 * image_count
    total = image_count + 2
    return 100 * Z_SCORE * math.sqrt(max(other + 1 - lost**2 / total, 0.0)) / total


def _last(evaluation: Evaluation) -> Point:
    """The point that answers for a file: at the largest T asked for, by default the file's own."""
    return evaluation.points[-1]


def verdict(figures: Figures, data: str) -> str:
    """Return the answer as one sentence."""
    if len(figures) > 1:
        return _verdict_of_several(figures, data)
    ((name, evaluation),) = figures
    return f"{name} on {data}: {_answer(evaluation)}"


def _answer(evaluation: Evaluation) -> str:
    point = _last(evaluation)
    at = f"at T = {point.timesteps}"
    if point.timesteps != evaluation.timesteps:
        # Balanced for it, or trained for it by another tool.
        at += f" (made for T = {evaluation.timesteps})"
    return _regression_verdict(evaluation, at) if evaluation.regression else _class_verdict(evaluation, at)


def _class_verdict(evaluation: Evaluation, at: str) -> str:
    point, cnn = _last(evaluation), evaluation.cnn_accuracy
    if point.accuracy is None:
        if point.agreement_with_cnn is None:
            return f"ran {at}; {_unknown(evaluation)}"
        return f"same class as the CNN on {percent(point.agreement_with_cnn)} % of images {at} (no labels)"
    answer = f"{percent(point.accuracy)} % {at}"
    if cnn is None or point.conversion_loss_points is None:
        return answer
    margin = loss_margin(point, evaluation.image_count)
    interval = "" if margin is None else f" ±{margin:.2f}"
    return f"{answer} (CNN {percent(cnn)} %, loss {points(point.conversion_loss_points)}{interval} points)"


def _regression_verdict(evaluation: Evaluation, at: str) -> str:
    regression = evaluation.regression
    assert regression is not None
    here = regression.at(_last(evaluation).timesteps)
    if here.to_targets is None:
        if here.to_cnn is None:
            return f"ran {at}; {_unknown(evaluation)}"
        return f"RMSE to the CNN {number(here.to_cnn.mean.rmse)} {at} (no targets)"
    r2 = r_squared(here.to_targets.mean.r2)
    beside = ([f"CNN {number(regression.cnn.mean.rmse)}"] if regression.cnn else []) + ([f"R² {r2}"] if r2 else [])
    answer = f"RMSE {number(here.to_targets.mean.rmse)} {at}"
    return f"{answer} ({', '.join(beside)})" if beside else answer


def _unknown(evaluation: Evaluation) -> str:
    what, missing = ("error", "targets") if evaluation.regression else ("accuracy", "labels")
    return f"{what} unknown (no {missing}, no CNN)"


def _verdict_of_several(figures: Figures, data: str) -> str:
    begin = f"{len(figures)} files on {data}"
    known = [(level, name, evaluation) for name, evaluation in figures if (level := _level(evaluation)) is not None]
    if not known:
        return f"{begin}: {_unknown(figures[0][1])}"
    _, name, best = max(known, key=lambda one: one[0])
    return f"{begin}, best: {name}, {_answer(best)}"


def _level(evaluation: Evaluation) -> float | None:
    """What makes a file the best: accuracy, else agreement with the CNN, or minus the RMSE; None if unknown."""
    point = _last(evaluation)
    if evaluation.regression is None:
        return point.agreement_with_cnn if point.accuracy is None else point.accuracy
    here = evaluation.regression.at(point.timesteps)
    rmse, _ = means(here.to_targets or here.to_cnn)
    return None if rmse is None else -rmse


class _Row(NamedTuple):
    """One line of the table: words on the left, the value with its bar, numbers on the right, a mark."""

    words: tuple[str, ...]
    value: float | None
    numbers: tuple[str, ...]
    mark: str = ""
    is_cnn: bool = False


class _Drawn(NamedTuple):
    """The quantity shown as bars: its header, the start of the bars, their scale, and the text of a value."""

    header: str
    start: str
    scale: Scale
    text: Callable[[float], str]

    def cells(self, row: _Row) -> list[str]:
        return ["", ""] if row.value is None else [self.text(row.value), self.scale.bar(row.value, line=row.is_cnn)]


def table(figures: Figures) -> list[str]:
    """Return the lines of the table: one file at each T, or each at its own T and the largest asked for; the CNN."""
    several = len(figures) > 1
    if several:
        points = [(name, e, point) for name, e in figures for point in e.points if point in (e.nominal_point, _last(e))]
    else:
        ((name, evaluation),) = figures
        points = [(name, evaluation, point) for point in evaluation.points]
    if any(e.regression for _, e in figures):
        return _regression_lines(points, several=several)
    return _class_lines(points, several=several)


_Points = Sequence[tuple[str, Evaluation, Point]]


def _class_lines(points: _Points, *, several: bool) -> list[str]:
    by_labels = any(point.accuracy is not None for _, _, point in points)
    cnns = {e.cnn_accuracy for _, e, _ in points if e.cnn_accuracy is not None}
    own_cnns = several and len(cnns) > 1
    rows = [
        _Row(
            _words(name, point, several=several),
            point.accuracy if by_labels else point.agreement_with_cnn,
            (
                *([f"{percent(evaluation.cnn_accuracy)} %" if evaluation.cnn_accuracy is not None else ""] * own_cnns),
                *([signed_points(point.conversion_loss_points) or ""] * bool(cnns)),
                count(point.synaptic_operations),
            ),
            _mark(evaluation, point, several=several),
        )
        for name, evaluation, point in points
    ]
    columns = (*(["CNN"] * own_cnns), *(["loss"] * bool(cnns)), "SynOps")
    if len(cnns) == 1:
        rows.append(_Row(("CNN", *([""] * several)), next(iter(cnns)), ("",) * len(columns), is_cnn=True))
    values = [row.value for row in rows if row.value is not None]
    names = ("file", "T") if several else ("T",)
    if not values:
        return _lines(rows, names, None, columns)
    intervals = [point.accuracy_interval for _, _, point in points if point.accuracy_interval]
    widest = max((high - low for low, high in intervals), default=0.0)
    scale = accuracy_scale(values, widest or (max(values) - min(values)) / _INTERVALS)
    header = "accuracy" if by_labels else "same as CNN"
    drawn = _Drawn(header, f"bars from {100 * scale.low:.1f} %", scale, lambda value: f"{percent(value)} %")
    return _lines(rows, names, drawn, columns)


def _regression_lines(points: _Points, *, several: bool) -> list[str]:
    """Return the RMSE at each T; bars begin at 0."""
    known = [e.regression.cnn for _, e, _ in points if e.regression and e.regression.cnn]
    own_cnns = several and len({cnn.mean.rmse for cnn in known}) > 1
    rows = []
    for name, evaluation, point in points:
        regression = evaluation.regression
        at = regression.at(point.timesteps) if regression else None
        rmse, r2 = means((at.to_targets or at.to_cnn) if at else None)
        numbers = (
            *([number(evaluation.cnn_rmse) or ""] * own_cnns),
            r_squared(r2) or "",
            count(point.synaptic_operations),
        )
        words, mark = _words(name, point, several=several), _mark(evaluation, point, several=several)
        rows.append(_Row(words, rmse, numbers, mark))
    if known and not own_cnns:
        numbers = (r_squared(known[0].mean.r2) or "", "")
        rows.append(_Row(("CNN", *([""] * several)), known[0].mean.rmse, numbers, is_cnn=True))
    scale = Scale(0.0, max((row.value for row in rows if row.value is not None), default=0.0))
    is_judged = any(evaluation.is_judged for _, evaluation, _ in points)
    drawn = _Drawn("RMSE" if is_judged else "to CNN", "bars from 0", scale, lambda value: number(value) or "")
    columns = (*(["CNN"] * own_cnns), "R²", "SynOps")
    return _lines(rows, ("file", "T") if several else ("T",), drawn, columns)


def _words(name: str, point: Point, *, several: bool) -> tuple[str, ...]:
    return (name, str(point.timesteps)) if several else (str(point.timesteps),)


def _mark(evaluation: Evaluation, point: Point, *, several: bool) -> str:
    is_own = point.timesteps == evaluation.timesteps and len(evaluation.points) > 1
    return "<- this file's T" if is_own and not several else ""


def _lines(rows: Sequence[_Row], words: tuple[str, ...], drawn: _Drawn | None, numbers: tuple[str, ...]) -> list[str]:
    """Return ``rows`` aligned under their headers; bars are drawn only with ``drawn``."""
    head = [] if drawn is None else [drawn.header, drawn.start.ljust(BAR_CELLS)]
    cells = [(*words, *head, *numbers, "")]
    cells += [(*row.words, *([] if drawn is None else drawn.cells(row)), *row.numbers, row.mark) for row in rows]
    # File names, bars and marks are left-aligned, numbers right-aligned.
    left = {len(cells[0]) - 1, *([0] if len(words) > 1 else []), *([] if drawn is None else [len(words) + 1])}
    return aligned(cells, left)


def facts(evaluation: Evaluation) -> Iterator[Fact]:
    """Yield early exit and energy of one file, and the notes needed to read its results."""
    regression = evaluation.regression
    if regression is not None and len(regression.output_names) > 1:
        here = regression.at(_last(evaluation).timesteps)
        worst = worst_output(regression, here)
        counted = f"means over {len(regression.output_names)} outputs"
        yield Fact("errors", f"{counted}; {worst}" if worst else counted)
    if evaluation.early_exit is not None:
        yield Fact("early exit", _exit_sentence(evaluation.early_exit, _last(evaluation).accuracy))
    timesteps = _last(evaluation).timesteps
    if evaluation.energy is not None:
        one = next((one for one in evaluation.energy.estimates if one.timesteps == timesteps), None)
        if one is not None:
            joules = quantity_range(one.loihi1_joules, "J")
            yield Fact("energy", f"{joules} per image (estimate for Loihi 1, not measured)")
    yield from warnings(evaluation)


def doubts(figures: Figures) -> list[str]:
    """Return the notes that a CNN is not better than a constant answer, without which the verdict would mislead."""
    notes = ((name, Fact("", note)) for name, evaluation in figures for note in evaluation.notes)
    poor = ((name, fact) for name, fact in notes if fact.text.startswith(POOR_CNN))
    return [fact.text for fact in told_once(poor, len(figures))]


def warnings(evaluation: Evaluation) -> Iterator[Fact]:
    """Yield the reasons to doubt the results."""
    if evaluation.wrapped_images:
        yield Fact(
            "warning",
            f"u wrapped on {evaluation.wrapped_images:,} of {evaluation.image_count:,} images: their classes are not "
            "reliable. Calibrate on images like these (export --data), or export for a smaller -T, or with fewer "
            "--weight-bits.",
        )
    if evaluation.saturated_images:
        yield Fact(
            "warning",
            f"{evaluation.saturated_images:,} images reached the largest potential that Loihi holds; their outputs "
            "may be clipped.",
        )
    for note in evaluation.notes:
        yield Fact("note", note)


def _exit_sentence(early_exit: EarlyExit, last: float | None) -> str:
    """Return the results of early exit; ``last`` is the accuracy after all steps."""
    point = early_exit.chosen_point
    found = f"{point.average_timesteps:.2f} of {early_exit.choice.timesteps} steps on average: "
    if point.accuracy is None:
        found += f"same class as after all steps on {percent(point.agreement_with_last)} %"
    else:
        found += f"{percent(point.accuracy)} %"
    saved = early_exit.synaptic_operations_saved
    if saved is not None:
        found += f", {100 * saved:.0f} % fewer SynOps"
    lost = 0.0 if last is None or point.accuracy is None else 100 * (last - point.accuracy)
    # More than was tolerated on the images that chose the margin.
    if lost > early_exit.choice.tolerance_points + _NOTABLE_POINTS:
        found += f"; loses {lost:.2f} points here"
    return found
