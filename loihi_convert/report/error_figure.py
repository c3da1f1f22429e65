"""Evaluations of a regression as a picture of error against latency, as `figure` draws accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import Errors
from loihi_convert.report.axes import error_views, timestep_ticks
from loihi_convert.report.run_tables import per_t_caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette, as in `figure`.
_STYLES: Final = {
    "fixed point": ("#0072B2", "-", "o"),
    "float SNN": ("#D55E00", "--", "D"),
}
_CNN_COLOUR: Final = "#444444"


def error_figure(evaluations: Sequence[tuple[str, Evaluation]], title: str) -> Figure | None:
    """Return the picture of RMSE, the mean over outputs, against latency: a curve for one file, else a marker per file.

    Without targets the error against the CNN's outputs takes its place; without either there is nothing to draw, and
    None is returned.
    """
    from matplotlib.figure import Figure

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
    panes = error_views([fixed], cnn)
    figure = Figure(figsize=(6.6 if len(panes) == 1 else 10.4, 4.6), layout="constrained")
    panels = figure.subplots(1, len(panes), squeeze=False)[0]
    lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for evaluation, _ in known}))
    for index, (axes, view) in enumerate(zip(panels, panes, strict=True)):
        for level in cnn:
            axes.axhline(level, color=_CNN_COLOUR, linewidth=1.2, label=f"CNN, {level:.4g}", zorder=1)
        for label, (timesteps, errors) in curves.items():
            colour, line, marker = _STYLES[label]
            axes.plot(
                timesteps, errors, color=colour, linestyle=line if anytime else "none", marker=marker, label=label
            )
        ticks = timestep_ticks(fixed[0], view.first_timesteps)
        axes.set_xscale("log", base=2)
        axes.set_xlim(view.first_timesteps / 1.2, max(fixed[0]) * 1.2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_ylim(view.bottom, view.top)
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if index:
            axes.set_title("enlarged", loc="left", fontsize=9)
    panels[0].set_ylabel("RMSE, in the CNN's units" if has_targets else "RMSE to the CNN's outputs")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    balanced = f"thresholds balanced for T = {evaluations[0][1].timesteps}, read after each step of one run"
    caption = balanced if anytime else per_t_caption(evaluation for _, evaluation in evaluations)
    panels[0].set_title(caption, loc="left", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _own(evaluation: Evaluation) -> int:
    return evaluation.nominal_point.timesteps


def _curve(points: Sequence[tuple[int, Errors | None]]) -> tuple[list[float], list[float]]:
    """T, and the mean RMSE there, wherever it is known."""
    known = [(float(timesteps), errors.mean.rmse) for timesteps, errors in points if errors is not None]
    return [t for t, _ in known], [rmse for _, rmse in known]
