"""The figure of accuracy against latency.

A figure contains one of two kinds of curves. *Anytime*: one file, thresholds balanced for its T, potentials read after
each step of one run. *Per T*: several files, each with one point, at the T it was balanced for. Early exit is drawn at
its average T: a curve of many margins for one file, or the chosen margin of each file, joined to that file's point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from loihi_convert.metrics.early_exit import ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.report.axes import FramePoint, frame, frame_points, timestep_range, timestep_ticks
from loihi_convert.report.figure_series import (
    FLOAT,
    Group,
    Level,
    cnn_levels,
    draw_float,
    draw_integers,
    draw_levels,
    groups,
    label_once,
    notes,
)
from loihi_convert.report.figure_style import (
    COLOURS,
    EARLY_MARKER,
    SIZES,
    Size,
    Width,
    drawing,
    finish,
    new_figure,
    timestep_axis,
)
from loihi_convert.report.run_tables import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EARLY_COLOUR: Final = "#009E73"
_EARLY: Final = "early exit, at its average T"
_BEYOND: Final = 4
"""Values outside the axes that the figure names; of more it says how many there are."""


class _Drawn(NamedTuple):
    """One file, or the files of one network: points of the integer network, of the float SNN, and of early exit."""

    label: str
    fixed: list[FramePoint]
    floating: list[FramePoint]
    early: list[list[FramePoint]]


def accuracy_figure(
    evaluations: Figures, title: str, *, note: str = "", width: Width = "screen", is_balanced: bool = True
) -> Figure | None:
    """Return the figure of accuracy against latency: a curve for one file, one point per file for several.

    Unless all files ran with labels, it shows the agreement with the CNN's classes; without either it is None. ``note``
    is additional information, such as a seed; ``is_balanced``: whether the files record how their thresholds were
    balanced.
    """
    size = SIZES[width]
    has_accuracy = all(point.accuracy is not None for _, evaluation in evaluations for point in evaluation.points)
    is_anytime = len(evaluations) == 1
    if is_anytime:
        found = [_anytime(evaluations[0][1], has_accuracy=has_accuracy)]
    else:
        found = [_per_t(group, has_accuracy=has_accuracy) for group in groups(evaluations)]
    drawn = [one for one in found if one.fixed]
    if not drawn:
        return None
    points = [point for one in drawn for line in (one.fixed, *one.early) for point in line]
    levels = cnn_levels(evaluations, _cnn_percent, "{:.2f} %".format) if has_accuracy else []
    own = set() if is_anytime else {(point.x, point.percent) for one in drawn for point in one.fixed}
    shown = frame(points, [level.value for level in levels], own)
    with drawing(size):
        figure = new_figure(size, size.inches * (0.7 if width == "screen" else 0.62 if width == "page" else 0.95))
        axes = figure.subplots()
        draw_levels(axes, levels)
        for index, one in enumerate(drawn):
            _draw(axes, one, index, size, is_anytime=is_anytime)
        axes.set_ylim(shown.bottom, shown.top)
        steps = sorted({point.x for one in drawn for point in one.fixed})
        powers = [2.0**exponent for exponent in range(32) if steps[0] <= 2**exponent <= steps[-1]]
        ticks = timestep_ticks(sorted({*steps, *powers}), shown.left)
        timestep_axis(axes, ticks, *timestep_range(shown.left, steps[-1]))
        described, images = notes(evaluations, is_balanced=is_balanced)
        if has_accuracy:
            images += ", 95 % intervals"
        texts = (described, images, note, _outside(axes, drawn, levels))
        measure = "accuracy, %" if has_accuracy else "agreement with the CNN's class, %"
        depths = (evaluation.depth for _, evaluation in evaluations)
        finish(figure, axes, depths, measure, title, texts, size)
    return figure


def _anytime(evaluation: Evaluation, *, has_accuracy: bool) -> _Drawn:
    stopped = () if evaluation.early_exit is None else evaluation.early_exit.points
    early = frame_points(_exit_point(point, has_accuracy=has_accuracy) for point in stopped)
    return _Drawn("fixed point", *_fixed_and_floating(evaluation.points, has_accuracy), [early] if early else [])


def _per_t(group: Group, *, has_accuracy: bool) -> _Drawn:
    points = [evaluation.nominal_point for _, evaluation in group.files]
    early = []
    for (_, evaluation), point in zip(group.files, points, strict=True):
        if evaluation.early_exit is not None:
            joined = [_exit_point(evaluation.early_exit.chosen_point, has_accuracy=has_accuracy)]
            if evaluation.early_exit.choice.timesteps == point.timesteps:
                joined.append((point.timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None))
            if known := frame_points(joined):
                early.append(known)
    return _Drawn(group.label, *_fixed_and_floating(points, has_accuracy), early)


def _fixed_and_floating(points: Sequence[Point], has_accuracy: bool) -> tuple[list[FramePoint], list[FramePoint]]:
    """The points of the integer network and of the float SNN, which has none on an axis of agreement with the CNN."""
    if not has_accuracy:
        return frame_points((p.timesteps, p.agreement_with_cnn, None) for p in points), []
    fixed = frame_points((p.timesteps, p.accuracy, p.accuracy_interval) for p in points)
    return fixed, frame_points((p.timesteps, p.float_accuracy, None) for p in points)


def _exit_point(point: ExitPoint, *, has_accuracy: bool) -> tuple[float, float | None, None]:
    return point.average_timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None


def _outside(axes: Axes, drawn: Sequence[_Drawn], levels: Sequence[Level]) -> str:
    """Return what is outside the limits of ``axes``; empty if nothing is."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    points = {
        (name, point.x, point.percent)
        for one in drawn
        for name, line in (("", one.fixed), *(("", early) for early in one.early), (f"{FLOAT} ", one.floating))
        for point in line
        if not (left <= point.x <= right and bottom <= point.percent <= top)
    }
    hidden = [(percent, f"{name}{percent:.4g} % at T = {x:.4g}") for name, x, percent in sorted(points)]
    hidden += [(level.value, level.label) for level in levels if not bottom <= level.value <= top]
    if not hidden:
        return ""
    if len(hidden) > _BEYOND:
        values = [percent for percent, _ in hidden]
        return f"Not shown: {len(hidden)} values ({min(values):.4g} to {max(values):.4g} %)"
    return f"Not shown: {', '.join(text for _, text in hidden)}"


def _draw(axes: Axes, one: _Drawn, index: int, size: Size, *, is_anytime: bool) -> None:
    colour = COLOURS[index % len(COLOURS)]
    if one.floating:
        draw_float(axes, *_line(one.floating), index, size, is_anytime=is_anytime)
    for early in one.early:
        axes.plot(
            *_line(early),
            color=_EARLY_COLOUR if is_anytime else colour,
            linestyle="-." if is_anytime else ":",
            marker=EARLY_MARKER,
            markerfacecolor="none",
            # A second point is the file's nominal point, which already has a marker.
            markevery=None if is_anytime else [0],
            label=label_once(axes, _EARLY),
            zorder=4,
        )
    steps, percent = _line(one.fixed)
    if is_anytime and len(steps) > 1:
        low, high = [point.low for point in one.fixed], [point.high for point in one.fixed]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    else:
        axes.errorbar(
            steps,
            percent,
            [[p.percent - p.low for p in one.fixed], [p.high - p.percent for p in one.fixed]],
            fmt="none",
            ecolor=colour,
            elinewidth=0.7 * size.line,
            capsize=0.6 * size.marker,
            zorder=4,
        )
    draw_integers(axes, steps, percent, one.label, index, is_anytime=is_anytime)


def _line(points: Sequence[FramePoint]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.percent for point in points]


def _cnn_percent(evaluation: Evaluation) -> float | None:
    return None if evaluation.cnn_accuracy is None else 100 * evaluation.cnn_accuracy
