"""Charts of accuracy over time steps, in which what happens near the best can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loihi_convert.report.axes import curve, timestep_ticks, views
from loihi_convert.report.charts import Axes, Chart, Levels, Mark, Series, curve_chart

_SPAN: Final = 4.0
"""Points of accuracy beyond which a chart has a second panel for what is near the best."""


def timestep_chart(
    title: str,
    caption: str,
    series: Sequence[Series],
    levels: Levels,
    measure: str,
    x_label: str = "latency T, time steps",
) -> Chart:
    """Return the chart, in per cent: the whole and, where that hides what happens near the top, that enlarged."""
    curves = [
        found
        for one in series
        if (found := curve(one.label, [(m.x, m.y / 100, _interval(m)) for m in one.marks])) is not None
    ]
    shown = views(curves, [value for value, _ in levels], span=_SPAN)
    steps = sorted({timesteps for one in curves for timesteps in one.timesteps})
    # An average T is rarely a whole number.
    whole = {t for t in steps if t == int(t)}
    whole |= {2.0**exponent for exponent in range(64) if steps[0] <= 2**exponent <= steps[-1]}
    panels = tuple(
        Axes(
            x_label if index == 0 else f"{x_label} (enlarged)",
            measure,
            view.first_timesteps / 1.15,
            max(steps[-1], 2 * view.first_timesteps) * 1.15,
            view.bottom,
            view.top,
            tuple(timestep_ticks(sorted(whole), view.first_timesteps)),
            levels,
        )
        for index, view in enumerate(shown)
    )
    return curve_chart(title, caption, series, panels)


def _interval(mark: Mark) -> tuple[float, float] | None:
    return None if mark.low is None or mark.high is None else (mark.low / 100, mark.high / 100)
