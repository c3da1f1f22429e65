"""Charts of accuracy over time steps, zoomed to the range near the best."""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.report.axes import frame, timestep_range, timestep_ticks
from loihi_convert.report.charts import Axes, Chart, CnnLevels, Series, curve_chart


def timestep_chart(
    title: str,
    caption: str,
    series: Sequence[Series],
    levels: CnnLevels,
    measure: str,
    x_label: str = "latency T, time steps",
) -> Chart:
    """Return the chart, in per cent. The frame fits the files; marks of the paper may be outside it."""
    framing = [one for one in series if one.style >= 0]
    points = [mark.frame_point for one in framing for mark in one.marks]
    own = {(m.x, m.y) for one in framing for m in one.marks if m.x == one.emphasised}
    shown = frame(points, [value for value, _ in levels], own)
    steps = sorted({mark.x for one in series for mark in one.marks})
    # An average T is rarely an integer.
    whole = {t for t in steps if t == int(t)}
    whole |= {2.0**exponent for exponent in range(64) if steps[0] <= 2**exponent <= steps[-1]}
    axes = Axes(
        x_label,
        measure,
        *timestep_range(shown.left, max(steps[-1], 2 * shown.left)),
        shown.bottom,
        shown.top,
        tuple(timestep_ticks(sorted(whole), shown.left)),
        levels,
    )
    return curve_chart(title, caption, series, axes)
