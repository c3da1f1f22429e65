"""Charts as inline SVG for a report: coloured by the page's CSS variables, so that they follow light and dark.

Each chart is drawn in several sizes (`SIZES`), because text in a scaled picture would be too small or too large; the
page shows one of them. Series differ in colour and in the shape of their marks, or in their dashes.
A mark says its values in a ``<title>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

from loihi_convert.report.svg import BOTTOM, LEFT, RIGHT, TOP, picture, shape_path, style_class, text_at, y_axis
from loihi_convert.report.ticks import nice_ticks, tick_label

SIZES: Final = {"wide": (1060, 380), "half": (520, 340), "narrow": (328, 290)}
"""Width and height, in CSS pixels, of a chart that has a wide page to itself, of one of two, and of one on a phone."""

# With more marks than this, each series is drawn as one path: single marks could not be pointed at.
_MAX_TITLED: Final = 192


class Mark(NamedTuple):
    """One value: where it is, the words for it, and the ends of its interval, if it has one."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """Marks of one kind.

    Parameters
    ----------
    label
        For the legend.
    style
        0..`svg.STYLES` - 1 for these runs; -1 and -2 for the paper's, which are hollow.
    marks
        In the order in which they are joined.
    line
        How marks are joined: ``"solid"``, ``"dashed"``, ``"dotted"``, or ``""``: not at all.
    has_band
        Whether intervals are drawn as a band, else as bars.
    emphasised
        The x at which a mark is larger: the T that a file is balanced for.
    """

    label: str
    style: int
    marks: tuple[Mark, ...]
    line: str = "solid"
    has_band: bool = False
    emphasised: float | None = None


Levels = tuple[tuple[float, str], ...]
"""(value of y, label) of horizontal lines: accuracies, or errors, of CNNs."""


class Axes(NamedTuple):
    """What a chart's axes show; x is logarithmic.

    Parameters
    ----------
    x_label, y_label
        With unit.
    left, right, bottom, top
        Ranges.
    ticks
        Labelled values of x.
    levels
        The CNN's accuracy, or error.
    last_tick
        The largest labelled y: there are no accuracies above 100 %.
    """

    x_label: str
    y_label: str
    left: float
    right: float
    bottom: float
    top: float
    ticks: tuple[float, ...]
    levels: Levels = ()
    last_tick: float = 100.0


class Chart(NamedTuple):
    """A figure of a report: its pictures by name of `SIZES`, and what stands around them."""

    title: str
    caption: str
    legend: tuple[tuple[str, Markup], ...]
    panels: tuple[tuple[tuple[str, Markup], ...], ...]


def curve_chart(title: str, caption: str, series: Sequence[Series], panels: Sequence[Axes]) -> Chart:
    """Return a chart of curves over a logarithmic axis; several panels show several parts of it."""
    sizes = ("wide", "half", "narrow") if len(panels) == 1 else ("half", "narrow")
    levels = panels[0].levels
    legend = [(one.label, _swatch(one)) for one in series]
    if levels:
        line = '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true"><path class="level" d="M1 6H27"/></svg>'
        legend.append(("CNN", Markup(line)))
    return Chart(
        title,
        caption,
        tuple(legend),
        tuple(
            tuple((size, _curves(f"{title}. {caption}", series, axes, *SIZES[size])) for size in sizes)
            for axes in panels
        ),
    )


def channel_chart(
    title: str,
    caption: str,
    y_label: str,
    values: Sequence[tuple[str, int, Sequence[float | None]]],
    *,
    number: Callable[[float], str] = "{:.3g}".format,
) -> Chart:
    """Return a chart of one value per channel: bars for one (label, style, values), marks for several.

    ``number`` says a value in words. What is None is not drawn.
    """
    sizes = ("half", "narrow")
    legend = [(label, _swatch(Series(label, style, (), ""))) for label, style, _ in values] if len(values) > 1 else []
    pictures = tuple((size, _channels(f"{title}. {caption}", y_label, values, number, *SIZES[size])) for size in sizes)
    return Chart(title, caption, tuple(legend), (pictures,))


def _curves(label: str, series: Sequence[Series], axes: Axes, width: int, height: int) -> Markup:
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM
    span = math.log(axes.right / axes.left)

    def x_of(x: float) -> float:
        return LEFT + plot_width * math.log(x / axes.left) / span

    def y_of(y: float) -> float:
        return TOP + plot_height * (axes.top - y) / (axes.top - axes.bottom)

    parts = [y_axis(axes.y_label, nice_ticks(axes.bottom, min(axes.top, axes.last_tick)), y_of, width)]
    last = -math.inf
    for tick in axes.ticks:
        text = tick_label(tick)
        # Neighbours must not touch; the first of two is kept.
        if x_of(tick) - last < 8 + 7 * len(text):
            continue
        last = x_of(tick)
        parts.append(text_at(last, height - BOTTOM + 18, text, "tick", "middle"))
        parts.append(f'<path class="grid" d="M{last:.1f} {height - BOTTOM}v5"/>')
    parts.append(text_at(LEFT + plot_width / 2, height - 6, axes.x_label, "label", "middle"))
    inside = [
        f'<path class="level" d="M{LEFT} {y_of(y):.1f}H{width - RIGHT}"><title>{escape(text)}</title></path>'
        for y, text in axes.levels
    ]
    titled = sum(len(one.marks) for one in series) <= _MAX_TITLED
    for one in series:
        inside.append(_one_curve(one, axes, x_of, y_of, titled))
    clip = f"{LEFT - 7} {TOP - 7} {plot_width + 14} {plot_height + 14}"
    # A nested svg clips what a panel does not show.
    parts.append(
        '<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">'.format(*clip.split())
        + "".join(inside)
        + "</svg>"
    )
    return picture(label, parts, width, height)


def _one_curve(
    series: Series, axes: Axes, x_of: Callable[[float], float], y_of: Callable[[float], float], titled: bool
) -> str:
    marks = series.marks
    parts = []
    with_interval = [mark for mark in marks if mark.low is not None and mark.high is not None]
    if series.has_band and len(with_interval) > 1:
        above = [f"{x_of(m.x):.1f} {y_of(m.high or 0):.1f}" for m in with_interval]
        below = [f"{x_of(m.x):.1f} {y_of(m.low or 0):.1f}" for m in reversed(with_interval)]
        parts.append(f'<path class="band" d="M{"L".join(above + below)}z"/>')
    elif with_interval:
        ends = "".join(f"M{x_of(m.x):.1f} {y_of(m.low or 0):.1f}V{y_of(m.high or 0):.1f}" for m in with_interval)
        parts.append(f'<path class="interval" d="{ends}"/>')
    if series.line and len(marks) > 1:
        line = "L".join(f"{x_of(m.x):.1f} {y_of(m.y):.1f}" for m in marks)
        parts.append(f'<path class="line {series.line}" d="M{line}"/>')
    for mark in marks:
        if not (axes.left <= mark.x <= axes.right and axes.bottom <= mark.y <= axes.top):
            continue
        shape = shape_path(series.style, x_of(mark.x), y_of(mark.y), 1.5 if mark.x == series.emphasised else 1.0)
        title = f"<title>{escape(mark.text)}</title>" if titled else ""
        parts.append(f'<path class="mark" d="{shape}">{title}</path>')
    return f'<g class="{style_class(series.style)}">{"".join(parts)}</g>'


def _channels(
    label: str,
    y_label: str,
    values: Sequence[tuple[str, int, Sequence[float | None]]],
    number: Callable[[float], str],
    width: int,
    height: int,
) -> Markup:
    height -= 60
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM
    count = max(len(numbers) for _, _, numbers in values)
    known = [number for _, _, numbers in values for number in numbers if number is not None]
    top = 1.06 * max(known, default=0) or 1.0
    step = plot_width / count

    def y_of(y: float) -> float:
        return TOP + plot_height * (1 - y / top)

    parts = [y_axis(y_label, nice_ticks(0, top, 5), y_of, width)]
    every = _channel_step(count, plot_width)
    for channel in range(0, count, every):
        parts.append(text_at(LEFT + (channel + 0.5) * step, height - BOTTOM + 17, str(channel), "tick", "middle"))
    parts.append(text_at(LEFT + plot_width / 2, height - 6, "channel", "label", "middle"))
    titled = len(known) <= _MAX_TITLED
    for name, style, numbers in values:
        drawn = [
            (LEFT + (channel + 0.5) * step, y_of(value), f"{name}, channel {channel}: {number(value)}")
            for channel, value in enumerate(numbers)
            if value is not None
        ]
        if len(values) == 1:
            stroke = f'stroke-width="{max(1.0, min(0.7 * step, 26)):.1f}"'
            base = height - BOTTOM
            bars = [(f"M{x:.1f} {base}V{min(y, base - 0.75):.1f}", text) for x, y, text in drawn]
            body = _paths(bars, f'class="bar" {stroke}', titled)
        else:
            scale = 0.85 if step >= 7 else 0.55
            bars = [(shape_path(style, x, y, scale), text) for x, y, text in drawn]
            body = _paths(bars, 'class="mark"', titled)
        parts.append(f'<g class="{style_class(style)}">{body}</g>')
    return picture(label, parts, width, height)


def _channel_step(count: int, width: float) -> int:
    """Every how many channels one has its number below it."""
    fits = max(1, int(width / 34))
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**20) if count / step <= fits)


def _paths(shapes: Sequence[tuple[str, str]], attributes: str, titled: bool) -> str:
    if not titled:
        return f'<path {attributes} d="{"".join(d for d, _ in shapes)}"/>'
    return "".join(f'<path {attributes} d="{d}"><title>{escape(text)}</title></path>' for d, text in shapes)


def _swatch(series: Series) -> Markup:
    """The mark and the line of a series, for its legend."""
    line = f'<path class="line {series.line}" d="M1 6H27"/>' if series.line else ""
    mark = f'<path class="mark" d="{shape_path(series.style, 14, 6, 1.0)}"/>' if series.marks or not series.line else ""
    group = f'<g class="{style_class(series.style)}">{line}{mark}</g>'
    # Nothing in it comes from outside.
    return Markup(f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{group}</svg>')
