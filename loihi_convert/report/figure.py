"""Evaluations as a picture of accuracy against latency, and the picture as a file.

Two curves, never mixed. *Anytime*: one file, thresholds balanced for its T, potentials read after each step of one
run. *Per T*: several files, each with one point, at the T it was balanced for. Early exit stands in both at its average
T: a curve of many margins, or the chosen margin of each file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.report.axes import Curve, curve, timestep_ticks, views
from loihi_convert.report.run_tables import per_t_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart by every kind of colour vision.
_FIXED_COLOUR: Final = "#0072B2"
_FLOAT_COLOUR: Final = "#D55E00"
_EARLY_COLOUR: Final = "#009E73"
_CNN_COLOUR: Final = "#444444"


def accuracy_figure(evaluations: Sequence[tuple[str, Evaluation]], title: str) -> Figure | None:
    """Return the picture of accuracy against latency: a curve for one file, a marker per file for several.

    Without labels the agreement with the CNN's classes takes the place of the accuracy; without either there is
    nothing to draw, and None is returned.
    """
    # The object API: pyplot would choose a window system, and keeps every figure alive.
    from matplotlib.figure import Figure

    anytime = len(evaluations) == 1
    if anytime:
        points = list(evaluations[0][1].points)
    else:
        points = sorted((evaluation.nominal_point for _, evaluation in evaluations), key=lambda point: point.timesteps)
    fixed = curve("fixed point, 95 % interval", [(p.timesteps, p.accuracy, p.accuracy_interval) for p in points])
    real = curve("float SNN", [(p.timesteps, p.float_accuracy, None) for p in points])
    cnn = sorted({100 * e.cnn_accuracy for _, e in evaluations if e.cnn_accuracy is not None})
    has_accuracy = fixed is not None
    fixed = fixed or curve("fixed point", [(p.timesteps, p.agreement_with_cnn, None) for p in points])
    if fixed is None:
        return None
    exits = [evaluation.early_exit for _, evaluation in evaluations if evaluation.early_exit is not None]
    stopped = [point for e in exits for point in (e.points if anytime else [e.chosen_point])]
    early = curve(
        "early exit, at its average T",
        [(p.average_timesteps, p.accuracy if has_accuracy else p.agreement_with_cnn, None) for p in stopped],
    )
    panes = views([fixed, *([early] if early else [])], [*(real.percent if real else ()), *cnn])
    figure = Figure(figsize=(6.6 if len(panes) == 1 else 10.4, 4.6), layout="constrained")
    panels = figure.subplots(1, len(panes), squeeze=False)[0]
    lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for _, evaluation in evaluations}))
    for axes, view in zip(panels, panes, strict=True):
        _draw(axes, fixed, real, early, cnn, anytime=anytime)
        axes.set_ylim(view.bottom, view.top)
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        _style(axes, fixed.timesteps, view.first_timesteps)
    panels[0].set_ylabel("accuracy, %" if has_accuracy else "agreement with the CNN's class, %")
    # File names may hold a $, which would start mathematics.
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    balanced = f"thresholds balanced for T = {evaluations[0][1].timesteps}, read after each step of one run"
    per_t = per_t_caption(evaluation for _, evaluation in evaluations)
    panels[0].set_title(balanced if anytime else per_t, loc="left", fontsize=9)
    for axes in panels[1:]:
        axes.set_title("enlarged", loc="left", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def image_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Return ``figure`` as PNG or SVG, the same bytes for the same figure: no date, no random identifiers.

    Drawing starts from the layout of the drawing before: for the same bytes, draw the kinds in the same order.
    """
    import matplotlib

    image = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "loihi-convert"}):
        figure.savefig(image, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return image.getvalue()


def _draw(
    axes: Axes, fixed: Curve, real: Curve | None, early: Curve | None, cnn: Sequence[float], *, anytime: bool
) -> None:
    for index, percent in enumerate(cnn):
        label = f"CNN, {percent:.2f} %" if len(cnn) == 1 else "CNN" if index == 0 else None
        axes.axhline(percent, color=_CNN_COLOUR, linewidth=1.2, label=label, zorder=1)
    if real is not None:
        axes.plot(
            real.timesteps,
            real.percent,
            color=_FLOAT_COLOUR,
            linestyle="--" if anytime else "none",
            linewidth=1.6,
            marker="D",
            markersize=8,
            markerfacecolor="none",
            label=real.label,
            zorder=3,
        )
    if early is not None:
        axes.plot(
            early.timesteps,
            early.percent,
            color=_EARLY_COLOUR,
            linestyle="-." if anytime else "none",
            linewidth=1.6,
            marker="^",
            markersize=5,
            label=early.label,
            zorder=4,
        )
    below = [value - low for value, low in zip(fixed.percent, fixed.low, strict=True)]
    above = [high - value for value, high in zip(fixed.percent, fixed.high, strict=True)]
    if anytime:
        axes.fill_between(
            fixed.timesteps, fixed.low, fixed.high, color=_FIXED_COLOUR, alpha=0.18, linewidth=0, zorder=2
        )
    else:
        axes.errorbar(
            fixed.timesteps, fixed.percent, [below, above], fmt="none", ecolor=_FIXED_COLOUR, capsize=3, zorder=4
        )
    axes.plot(
        fixed.timesteps,
        fixed.percent,
        color=_FIXED_COLOUR,
        linestyle="-" if anytime else "none",
        linewidth=2,
        marker="o",
        markersize=5,
        label=fixed.label,
        zorder=5,
    )


def _style(axes: Axes, timesteps: Sequence[float], first: float) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(first / 1.2, max(timesteps) * 1.2)
    ticks = timestep_ticks(timesteps, first)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
