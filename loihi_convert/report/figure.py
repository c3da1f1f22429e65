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
from loihi_convert.report.axes import MARGIN, Curve, curve, frame, timestep_ticks
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
    add_legend,
    add_titles,
    drawing,
    new_figure,
    plain,
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

    fixed: Curve
    floating: Curve | None
    early: tuple[Curve, ...]


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
    drawn = [one for one in found if one is not None]
    if not drawn:
        return None
    points = [point for one in drawn for line in (one.fixed, *one.early) for point in line.points]
    levels = cnn_levels(evaluations, _cnn_percent, "{:.2f} %".format) if has_accuracy else []
    own = (
        set()
        if is_anytime
        else {(t, y) for one in drawn for t, y in zip(one.fixed.timesteps, one.fixed.percent, strict=True)}
    )
    shown = frame(points, [level.value for level in levels], own)
    with drawing(size):
        figure = new_figure(size, size.inches * (0.7 if width == "screen" else 0.62 if width == "page" else 0.95))
        axes = figure.subplots()
        draw_levels(axes, levels)
        for index, one in enumerate(drawn):
            _draw(axes, one, index, size, is_anytime=is_anytime)
        axes.set_ylim(shown.bottom, shown.top)
        steps = sorted({t for one in drawn for t in one.fixed.timesteps})
        powers = [2.0**exponent for exponent in range(32) if steps[0] <= 2**exponent <= steps[-1]]
        ticks = timestep_ticks(sorted({*steps, *powers}), shown.left)
        timestep_axis(axes, ticks, shown.left / MARGIN, steps[-1] * MARGIN)
        lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for _, evaluation in evaluations}))
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        axes.set_ylabel("accuracy, %" if has_accuracy else "agreement with the CNN's class, %")
        plain(axes)
        described, images = notes(evaluations, is_balanced=is_balanced)
        if has_accuracy:
            images += ", 95 % intervals"
        texts = (described, images, note, _outside(axes, drawn, levels))
        add_titles(figure, axes, title, ". ".join(text for text in texts if text), size)
        add_legend(figure, axes, size)
    return figure


def _anytime(evaluation: Evaluation, *, has_accuracy: bool) -> _Drawn | None:
    fixed = _fixed("fixed point", evaluation.points, has_accuracy=has_accuracy)
    if fixed is None:
        return None
    stopped = () if evaluation.early_exit is None else evaluation.early_exit.points
    early = curve(_EARLY, [_exit_point(point, has_accuracy=has_accuracy) for point in stopped])
    floating = curve(FLOAT, [(p.timesteps, p.float_accuracy, None) for p in evaluation.points])
    return _Drawn(fixed, floating, (early,) if early else ())


def _per_t(group: Group, *, has_accuracy: bool) -> _Drawn | None:
    points = [evaluation.nominal_point for _, evaluation in group.files]
    fixed = _fixed(group.label, points, has_accuracy=has_accuracy)
    if fixed is None:
        return None
    early = []
    for (_, evaluation), point in zip(group.files, points, strict=True):
        if evaluation.early_exit is not None:
            joined = [_exit_point(evaluation.early_exit.chosen_point, has_accuracy=has_accuracy)]
            if evaluation.early_exit.choice.timesteps == point.timesteps:
                joined.append((point.timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None))
            early += [found for found in [curve(_EARLY, joined)] if found is not None]
    floating = curve(FLOAT, [(p.timesteps, p.float_accuracy, None) for p in points])
    return _Drawn(fixed, floating, tuple(early))


def _fixed(label: str, points: Sequence[Point], *, has_accuracy: bool) -> Curve | None:
    if has_accuracy:
        return curve(label, [(p.timesteps, p.accuracy, p.accuracy_interval) for p in points])
    return curve(label, [(p.timesteps, p.agreement_with_cnn, None) for p in points])


def _exit_point(point: ExitPoint, *, has_accuracy: bool) -> tuple[float, float | None, None]:
    return point.average_timesteps, point.accuracy if has_accuracy else point.agreement_with_cnn, None


def _outside(axes: Axes, drawn: Sequence[_Drawn], levels: Sequence[Level]) -> str:
    """Return what is outside the limits of ``axes``; empty if nothing is."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    points = {
        (name, point.x, point.percent)
        for one in drawn
        for name, line in (("", one.fixed), *(("", early) for early in one.early), (f"{FLOAT} ", one.floating))
        if line is not None
        for point in line.points
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
    if one.floating is not None:
        draw_float(axes, one.floating.timesteps, one.floating.percent, index, size, is_anytime=is_anytime)
    for early in one.early:
        axes.plot(
            early.timesteps,
            early.percent,
            color=_EARLY_COLOUR if is_anytime else colour,
            linestyle="-." if is_anytime else ":",
            marker=EARLY_MARKER,
            markerfacecolor="none",
            # A second point is the file's nominal point, which already has a marker.
            markevery=None if is_anytime else [0],
            label=label_once(axes, _EARLY),
            zorder=4,
        )
    fixed = one.fixed
    if is_anytime and len(fixed.timesteps) > 1:
        axes.fill_between(fixed.timesteps, fixed.low, fixed.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    else:
        below = [value - low for value, low in zip(fixed.percent, fixed.low, strict=True)]
        above = [high - value for value, high in zip(fixed.percent, fixed.high, strict=True)]
        axes.errorbar(
            fixed.timesteps,
            fixed.percent,
            [below, above],
            fmt="none",
            ecolor=colour,
            elinewidth=0.7 * size.line,
            capsize=0.6 * size.marker,
            zorder=4,
        )
    draw_integers(axes, fixed.timesteps, fixed.percent, fixed.label, index, is_anytime=is_anytime)


def _cnn_percent(evaluation: Evaluation) -> float | None:
    return None if evaluation.cnn_accuracy is None else 100 * evaluation.cnn_accuracy
