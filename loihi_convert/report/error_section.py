"""The section on error against latency for regressions on the same images: charts, tables, and a file's card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from loihi_convert.metrics.regression import Regression, RegressionPoint, means
from loihi_convert.report.axes import error_frame, timestep_range, timestep_ticks
from loihi_convert.report.beside_the_paper import families
from loihi_convert.report.charts import Axes, Chart, CnnLevels, Mark, Series, curve_chart
from loihi_convert.report.entries import Entry, stoppable
from loihi_convert.report.formats import count, number, r_squared
from loihi_convert.report.page import Card, Details, PageBlock, Picture
from loihi_convert.report.run_tables import accuracy_table, anytime_caption, error_caption, output_table, per_t_caption
from loihi_convert.report.svg import NEUTRAL
from loihi_convert.report.table import Table


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the error curves of regressions on the same images, and the tables and output errors of each file."""
    has_targets = all(_at_own(entry).to_targets is not None for entry in entries)
    measure = "RMSE, in the CNN's units" if has_targets else "RMSE to the CNN's outputs"
    cnn = {rmse for e in entries if has_targets and (rmse := e.evaluation.cnn_rmse) is not None}
    levels = tuple((value, f"the CNN, {number(value)}") for value in sorted(cnn))
    series = []
    for one in families(entries):
        files = [(entry, _marks(entry, [_at_own(entry)], has_targets=has_targets)) for entry in one.entries]
        joined = tuple(mark for _, marks in files for mark in marks)
        series += [Series(f"{one.label}, by T", NEUTRAL, joined, is_line_only=True)] * (len(joined) > 1)
        series += [Series(entry.label, entry.style, marks, "") for entry, marks in files if marks]
    if len({mark.x for one in series for mark in one.marks}) > 1:
        caption = per_t_caption([entry.evaluation for entry in entries])
        caption = f"{caption[0].upper()}{caption[1:]}."
        yield Picture(_chart("Error at each file's own T", caption, series, levels, measure))
    if (chart := _anytime_chart(stoppable(entries), levels, measure, has_targets)) is not None:
        yield Picture(chart)
    curves = tuple(replace(accuracy_table(entry.evaluation), title=entry.label) for entry in entries)
    yield from curves if len(curves) == 1 else [Details("The curves as tables", curves)]
    outputs = tuple(found for entry in entries if (found := _output_table(entry)) is not None)
    yield from outputs if len(outputs) == 1 else [Details("The errors of each output", outputs)] if outputs else []


def card(entry: Entry, *, is_short: bool) -> Card:
    """Return the main results of one regression."""
    regression, at = _regression(entry), _at_own(entry)
    judged = at.to_targets or at.to_cnn
    measured = "RMSE" if at.to_targets else "RMSE to the CNN's outputs; no targets"
    unit = f"{measured} at T = {at.timesteps}" if judged else f"no targets, no CNN; T = {at.timesteps}"
    facts = [
        ("R\N{SUPERSCRIPT TWO}", r_squared(means(at.to_targets)[1])),
        ("CNN", number(means(regression.cnn)[0])),
        ("CNN's R\N{SUPERSCRIPT TWO}", r_squared(means(regression.cnn)[1])),
        ("to the CNN", number(means(at.to_cnn)[0])),
    ]
    if not is_short:
        if judged and len(judged.outputs) > 1:
            worst = judged.outputs[judged.worst]
            text = f"{regression.output_names[judged.worst]}, RMSE {number(worst.rmse)}"
            facts.append(("worst output", text))
        facts += [
            ("float SNN", number(means(at.float_to_targets)[0])),
            ("synaptic operations per image", count(entry.point.synaptic_operations)),
            (f"{entry.sent} per image", count(entry.point.spikes_per_image)),
        ]
        if entry.evaluation.timesteps != at.timesteps:
            facts.append(("balanced for", f"T = {entry.evaluation.timesteps}"))
    known = tuple((name, text) for name, text in facts if text is not None)
    return Card(entry.label, entry.style, entry.context, number(means(judged)[0]) or "\N{EN DASH}", unit, known)


def words(entries: Sequence[Entry]) -> str:
    """Return explanations of the terms in cards and tables."""
    outputs = max(len(_regression(entry).output_names) for entry in entries)
    return (
        f"{error_caption(outputs)}. Float SNN: the same spiking network before rounding to Loihi's integers. SynOps, "
        "synaptic operations: synapses of nonzero weight that spikes reach. On Lava every layer adds a step to T."
    )


def _regression(entry: Entry) -> Regression:
    found = entry.evaluation.regression
    assert found is not None
    return found


def _at_own(entry: Entry) -> RegressionPoint:
    return _regression(entry).at(entry.point.timesteps)


def _output_table(entry: Entry) -> Table | None:
    table = output_table(entry.evaluation)
    is_one = len(_regression(entry).output_names) == 1
    return None if table is None or is_one else replace(table, title=entry.label)


def _anytime_chart(entries: Sequence[Entry], levels: CnnLevels, measure: str, has_targets: bool) -> Chart | None:
    series = []
    for entry in entries:
        marks = _marks(entry, _regression(entry).points, has_targets=has_targets)
        series.append(Series(entry.label, entry.style, marks, entry.line, emphasised=float(entry.point.timesteps)))
    if len(entries) == 1 and has_targets:
        real = tuple(
            Mark(p.timesteps, rmse, f"float SNN, T = {p.timesteps}: RMSE {number(rmse)}")
            for p in _regression(entries[0]).points
            if (rmse := means(p.float_to_targets)[0]) is not None
        )
        series += [Series("float SNN", NEUTRAL, real, "dashed")] * bool(real)
    if not any(one.marks for one in series):
        return None
    caption = anytime_caption([entry.evaluation for entry in entries])
    return _chart("If you stop the run early", caption, series, levels, measure)


def _marks(entry: Entry, points: Sequence[RegressionPoint], *, has_targets: bool) -> tuple[Mark, ...]:
    marks = []
    for point in points:
        rmse, r2 = means(point.to_targets if has_targets else point.to_cnn)
        if rmse is not None:
            text = f"{entry.label}, T = {point.timesteps}: RMSE {number(rmse)}, R^2 {r_squared(r2) or 'unknown'}"
            marks.append(Mark(point.timesteps, rmse, text))
    return tuple(marks)


def _chart(title: str, caption: str, series: Sequence[Series], levels: CnnLevels, measure: str) -> Chart:
    drawn = [one for one in series if one.marks]
    curves = [([mark.x for mark in one.marks], [mark.y for mark in one.marks]) for one in drawn]
    steps = sorted({mark.x for one in drawn for mark in one.marks})
    frame = error_frame(curves, [value for value, _ in levels])
    axes = Axes(
        "latency T, time steps",
        measure,
        *timestep_range(frame.left, max(steps[-1], 2 * frame.left)),
        frame.bottom,
        frame.top,
        tuple(timestep_ticks(steps, frame.left)),
        levels,
        last_tick=math.inf,
    )
    return curve_chart(title, caption, drawn, axes)
