"""The figure of error against latency for a regression, in the style of `figure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import Errors
from loihi_convert.report.axes import error_frame, timestep_ticks
from loihi_convert.report.figure_style import (
    CNN_COLOUR,
    COLOURS,
    SIZES,
    Width,
    add_legend,
    add_titles,
    drawing,
    new_figure,
    plain,
    timestep_axis,
)
from loihi_convert.report.run_tables import per_t_caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES: Final = {
    "fixed point": (COLOURS[0], "-", "o"),
    "float SNN": (COLOURS[1], "--", "D"),
}


def error_figure(
    evaluations: Sequence[tuple[str, Evaluation]], title: str, *, note: str = "", width: Width = "screen"
) -> Figure | None:
    """Return the figure of RMSE (mean over outputs) against latency: a curve for one file, else one point per file.

    Without targets it shows the error against the CNN's outputs; without either it is None. ``note`` is additional
    information, such as a seed.
    """
    anytime = len(evaluations) == 1
    known = [(e, e.regression) for _, e in evaluations if e.regression is not None]
    at = sorted(
        (point for e, regression in known for point in regression.points if anytime or point is regression.at(_own(e))),
        key=lambda point: point.timesteps,
    )
    has_targets = bool(at) and all(point.to_targets is not None for point in at)
    fixed = _curve([(p.timesteps, p.to_targets if has_targets else p.to_cnn) for p in at])
    if not fixed[0]:
        return None
    curves = {"fixed point": fixed}
    if has_targets and (real := _curve([(p.timesteps, p.float_to_targets) for p in at]))[0]:
        curves["float SNN"] = real
    cnn = sorted({r.cnn.mean.rmse for _, r in known if r.cnn is not None}) if has_targets else []
    shown = error_frame([fixed], cnn)
    size = SIZES[width]
    with drawing(size):
        figure = new_figure(size, size.inches * 0.7)
        axes = figure.subplots()
        for level in cnn:
            axes.axhline(level, color=CNN_COLOUR, linewidth=1.1, label=f"CNN, {level:.4g}", zorder=1)
        for label, (timesteps, errors) in curves.items():
            colour, line, marker = _STYLES[label]
            axes.plot(
                timesteps, errors, color=colour, linestyle=line if anytime else "none", marker=marker, label=label
            )
        timestep_axis(axes, timestep_ticks(fixed[0], shown.left), shown.left / 1.2, max(fixed[0]) * 1.2)
        axes.set_ylim(shown.bottom, shown.top)
        lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for evaluation, _ in known}))
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        axes.set_ylabel("RMSE, in the CNN's units" if has_targets else "RMSE to the CNN's outputs")
        plain(axes)
        notes = [*_notes([evaluation for evaluation, _ in known], anytime=anytime), note]
        hidden = [error for error in fixed[1] if error > shown.top]
        if hidden:
            notes.append(f"Not shown: {len(hidden)} points, RMSE {min(hidden):.4g} to {max(hidden):.4g}")
        add_titles(figure, axes, title, ". ".join(text for text in notes if text), size)
        add_legend(figure, axes, size)
    return figure


def _notes(evaluations: Sequence[Evaluation], *, anytime: bool) -> tuple[str, ...]:
    """Return a description of the points, and the number of images."""
    caption = per_t_caption(evaluations)
    balanced = f"Thresholds balanced for T = {evaluations[0].timesteps}, read after each step of one run"
    counts = " or ".join(f"{count:,}" for count in sorted({evaluation.image_count for evaluation in evaluations}))
    return (balanced if anytime else caption[0].upper() + caption[1:], f"n = {counts} images")


def _own(evaluation: Evaluation) -> int:
    return evaluation.nominal_point.timesteps


def _curve(points: Sequence[tuple[int, Errors | None]]) -> tuple[list[float], list[float]]:
    """Return T and the mean RMSE at T wherever it is known."""
    known = [(float(timesteps), errors.mean.rmse) for timesteps, errors in points if errors is not None]
    return [t for t, _ in known], [rmse for _, rmse in known]
