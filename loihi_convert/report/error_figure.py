"""The figure of error against latency for regressions, in the style of `figure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import Errors, RegressionPoint
from loihi_convert.report.axes import error_frame, timestep_range, timestep_ticks
from loihi_convert.report.figure_series import (
    Level,
    cnn_levels,
    draw_float,
    draw_integers,
    draw_levels,
    groups,
    notes,
)
from loihi_convert.report.figure_style import SIZES, Width, drawing, finish, new_figure, timestep_axis
from loihi_convert.report.run_tables import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Errors(NamedTuple):
    """T, ascending, and the mean RMSE at T."""

    timesteps: list[float]
    rmse: list[float]


class _Drawn(NamedTuple):
    """One file, or the files of one network: errors of the integer network, and of the float SNN."""

    label: str
    fixed: _Errors
    floating: _Errors


def error_figure(evaluations: Figures, title: str, *, note: str = "", width: Width = "screen") -> Figure | None:
    """Return the figure of RMSE (mean over outputs) against latency: a curve for one file, else one point per file.

    Without targets it shows the error against the CNN's outputs; without either it is None. ``note`` is additional
    information, such as a seed.
    """
    is_anytime = len(evaluations) == 1
    every = [_points(evaluation, is_anytime=is_anytime) for _, evaluation in evaluations]
    has_targets = all(point.to_targets is not None for points in every for point in points)
    if is_anytime:
        found = [_drawn("fixed point", every[0], has_targets=has_targets)]
    else:
        found = [
            _drawn(
                group.label,
                [point for _, evaluation in group.files for point in _points(evaluation, is_anytime=False)],
                has_targets=has_targets,
            )
            for group in groups(evaluations)
        ]
    drawn = [one for one in found if one.fixed.rmse]
    if not drawn:
        return None
    levels = cnn_levels(evaluations, lambda evaluation: evaluation.cnn_rmse, "{:.4g}".format) if has_targets else []
    shown = error_frame([one.fixed for one in drawn], [level.value for level in levels])
    steps = sorted({t for one in drawn for t in one.fixed.timesteps})
    size = SIZES[width]
    with drawing(size):
        figure = new_figure(size, size.inches * 0.7)
        axes = figure.subplots()
        draw_levels(axes, levels)
        for index, one in enumerate(drawn):
            if one.floating.rmse:
                draw_float(axes, *one.floating, index, size, is_anytime=is_anytime)
            draw_integers(axes, *one.fixed, one.label, index, is_anytime=is_anytime)
        timestep_axis(axes, timestep_ticks(steps, shown.left), *timestep_range(shown.left, steps[-1]))
        axes.set_ylim(shown.bottom, shown.top)
        measure = "RMSE, in the CNN's units" if has_targets else "RMSE to the CNN's outputs"
        texts = (*notes(evaluations), note, _outside(axes, drawn, levels))
        depths = (evaluation.depth for _, evaluation in evaluations)
        finish(figure, axes, depths, measure, title, texts, size)
    return figure


def _points(evaluation: Evaluation, *, is_anytime: bool) -> Sequence[RegressionPoint]:
    """Return the errors at every T, or only those at the nominal T."""
    regression = evaluation.regression
    if regression is None:
        return ()
    return regression.points if is_anytime else (regression.at(evaluation.nominal_point.timesteps),)


def _drawn(label: str, points: Sequence[RegressionPoint], *, has_targets: bool) -> _Drawn:
    return _Drawn(
        label,
        _errors([(p.timesteps, p.to_targets if has_targets else p.to_cnn) for p in points]),
        _errors([(p.timesteps, p.float_to_targets if has_targets else None) for p in points]),
    )


def _errors(points: Sequence[tuple[int, Errors | None]]) -> _Errors:
    """Return T and the mean RMSE at T wherever it is known."""
    known = [(float(timesteps), errors.mean.rmse) for timesteps, errors in points if errors is not None]
    return _Errors([t for t, _ in known], [rmse for _, rmse in known])


def _outside(axes: Axes, drawn: Sequence[_Drawn], levels: Sequence[Level]) -> str:
    """Return how many errors are outside the limits of ``axes``; empty if none are."""
    (left, _), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    points = [point for one in drawn for line in (one.fixed, one.floating) for point in zip(*line, strict=True)]
    hidden = [rmse for t, rmse in points if t < left or not bottom <= rmse <= top]
    hidden += [level.value for level in levels if not bottom <= level.value <= top]
    return f"Not shown: {len(hidden)} values, RMSE {min(hidden):.4g} to {max(hidden):.4g}" if hidden else ""
