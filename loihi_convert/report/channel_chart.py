"""Charts of one value per channel, sorted by value: bars for one file, curves for several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

from loihi_convert.report.axes import nice_ticks
from loihi_convert.report.charts import CHART_SIZES, Chart, Series, csv_text, legend_of
from loihi_convert.report.svg import BOTTOM, LEFT, RIGHT, TOP, picture, shape_path, style_class, text_at, y_axis

MAX_BARS: Final = 64
"""Channels that have a bar each; more are sorted."""

_MARKS: Final = 17
"""Marks on a sorted curve; the line goes through all channels."""


class ChannelSeries(NamedTuple):
    """The values of a layer's channels in one file; None for a channel without a value, such as a relay."""

    label: str
    style: int
    values: tuple[float | None, ...]


def channel_chart(
    title: str,
    caption: str,
    y_label: str,
    files: Sequence[ChannelSeries],
    *,
    number: Callable[[float], str] = "{:.3g}".format,
) -> Chart:
    """Return the chart of one layer; ``number`` formats a value as text."""
    is_sorted = len(files) > 1 or len(files[0].values) > MAX_BARS
    if is_sorted:
        caption += " Each file's channels, largest first." if len(files) > 1 else " Channels, largest first."
    draw = _sorted_curves if is_sorted else _bars
    legend = legend_of(Series(one.label, one.style, ()) for one in files) if len(files) > 1 else []
    pictures = tuple(
        (size, draw(f"{title}. {caption}", y_label, files, number, *CHART_SIZES[size])) for size in ("half", "narrow")
    )
    rows = [(one.label, channel, value) for one in files for channel, value in enumerate(one.values)]
    return Chart(title, caption, tuple(legend), pictures, csv_text(("series", "channel", y_label), rows))


class _Plot(NamedTuple):
    """The plot area of a channel chart, in CSS pixels, and its largest value."""

    width: int
    height: int
    top: float

    @property
    def plot_width(self) -> int:
        return self.width - LEFT - RIGHT

    def y_of(self, y: float) -> float:
        return TOP + (self.height - TOP - BOTTOM) * (1 - y / self.top)


def _plot(files: Sequence[ChannelSeries], width: int, height: int) -> _Plot:
    known = [value for one in files for value in one.values if value is not None]
    return _Plot(width, height - 60, 1.06 * max(known, default=0) or 1.0)


def _bars(
    label: str, y_label: str, files: Sequence[ChannelSeries], number: Callable[[float], str], width: int, height: int
) -> Markup:
    (one,), plot = files, _plot(files, width, height)
    step = plot.plot_width / len(one.values)
    parts = _axes(plot, y_label, "channel")
    for channel in range(0, len(one.values), _channel_step(len(one.values), plot.plot_width)):
        x = LEFT + (channel + 0.5) * step
        parts.append(text_at(x, plot.height - BOTTOM + 17, str(channel), "tick", "middle"))
    stroke = f'stroke-width="{max(1.0, min(0.7 * step, 26)):.1f}"'
    base = plot.height - BOTTOM
    bars = (
        (
            f"M{LEFT + (channel + 0.5) * step:.1f} {base}V{min(plot.y_of(value), base - 0.75):.1f}",
            f"{one.label}, channel {channel}: {number(value)}",
        )
        for channel, value in enumerate(one.values)
        if value is not None
    )
    parts.append(_group(one.style, 0, _titled(bars, f'class="bar" {stroke}')))
    return picture(label, parts, plot.width, plot.height)


def _sorted_curves(
    label: str, y_label: str, files: Sequence[ChannelSeries], number: Callable[[float], str], width: int, height: int
) -> Markup:
    plot = _plot(files, width, height)
    count = max(len(one.values) for one in files)
    parts = _axes(plot, y_label, "channels, largest first")

    def x_of(rank: int) -> float:
        return LEFT + plot.plot_width * (0.5 if count == 1 else 0.02 + 0.96 * (rank - 1) / (count - 1))

    for rank in sorted({1, *(round(tick) for tick in nice_ticks(0, count, 4) if tick >= 1), count}):
        # The last label must not overlap the one before it.
        if rank in (1, count) or (count - rank) / count > 0.08:
            parts.append(text_at(x_of(rank), plot.height - BOTTOM + 17, str(rank), "tick", "middle"))
    for index, one in enumerate(files):
        ranked = sorted(
            ((value, channel) for channel, value in enumerate(one.values) if value is not None),
            key=lambda pair: (-pair[0], pair[1]),
        )
        line = "L".join(f"{x_of(rank):.1f} {plot.y_of(value):.1f}" for rank, (value, _) in enumerate(ranked, 1))
        marks = (
            (
                shape_path(one.style, x_of(rank), plot.y_of(value), 0.8),
                f"{one.label}, channel {channel}, {rank} of {len(ranked)}: {number(value)}",
            )
            for rank, (value, channel) in enumerate(ranked, 1)
            if rank in _marked(len(ranked))
        )
        path = f'<path class="line solid" d="M{line}"/>' if len(ranked) > 1 else ""
        parts.append(_group(one.style, index, path + _titled(marks, 'class="mark"')))
    return picture(label, parts, plot.width, plot.height)


def _marked(count: int) -> set[int]:
    """Return the ranks that have a mark: all for few channels, else an evenly spaced selection."""
    if count <= _MARKS:
        return set(range(1, count + 1))
    return {1 + round(index * (count - 1) / (_MARKS - 1)) for index in range(_MARKS)}


def _axes(plot: _Plot, y_label: str, x_label: str) -> list[str]:
    axis = y_axis(y_label, nice_ticks(0, plot.top, 5), plot.y_of, plot.width)
    return [axis, text_at(LEFT + plot.plot_width / 2, plot.height - 6, x_label, "label", "middle")]


def _channel_step(count: int, width: float) -> int:
    """Return the spacing of the channel labels, in channels."""
    fits, step = max(1, int(width / 34)), 1
    while count / step > fits:
        step *= 2
    return step


def _titled(shapes: Iterable[tuple[str, str]], attributes: str) -> str:
    return "".join(f'<path {attributes} d="{d}"><title>{escape(text)}</title></path>' for d, text in shapes)


def _group(style: int, key: int, content: str) -> str:
    return f'<g class="{style_class(style)}" data-series="{key}">{content}</g>'
