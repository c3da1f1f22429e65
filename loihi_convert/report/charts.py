"""Charts of curves as inline SVG for a report, coloured by the page's CSS variables for light and dark themes.

Each chart is drawn in several sizes (`CHART_SIZES`), because scaling would make its text too small or too large; the
page shows one of them. Series differ in colour and in the shape of their marks, or in their dashes.
The values of a mark are in its ``<title>``. The numbers of a chart are included as CSV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from markupsafe import Markup, escape

from loihi_convert.report.axes import FramePoint, nice_ticks, tick_label
from loihi_convert.report.svg import BOTTOM, LEFT, RIGHT, TOP, picture, shape_path, style_class, text_at, y_axis
from loihi_convert.runs.csv_files import csv_bytes

CHART_SIZES: Final = {"wide": (1060, 380), "half": (520, 340), "narrow": (328, 290)}
"""Width and height, in CSS pixels, of a chart that has a wide page to itself, of one of two, and of one on a phone."""

# A caption lists at most this many marks outside the frame; above that, it gives their number.
_NAMED: Final = 3

LEVEL: Final = "level"
"""The key of the horizontal lines, the CNNs, among the series of a picture."""


class Mark(NamedTuple):
    """One value: its position, its text, the ends of its interval, if it has one, and the key of its row in a table."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None
    key: str = ""

    @property
    def frame_point(self) -> FramePoint:
        """The same for `axes.frame`."""
        low, high = (self.y, self.y) if self.low is None or self.high is None else (self.low, self.high)
        return FramePoint(self.x, self.y, low, high)


class Series(NamedTuple):
    """A series of marks.

    Parameters
    ----------
    label
        The text in the legend.
    style
        The number of a file, from 0; `svg.PAPER` or `svg.NEUTRAL` for series that do not belong to a file.
    marks
        The marks, in the order in which they are joined.
    line
        The line between marks: ``"solid"``, ``"dashed"``, ``"dotted"``, or ``""`` for none.
    has_band
        Whether intervals are drawn as a band instead of bars.
    emphasised
        The x of the enlarged mark: the T that a file is balanced for.
    is_line_only
        Whether only the line is drawn, because other series mark the same points.
    front
        ``"highest"`` or ``"lowest"``: the line joins the marks of the picture that are better than all marks to their
        left; when a reader hides marks, the page draws it again. ``""`` for other series.
    """

    label: str
    style: int
    marks: tuple[Mark, ...]
    line: str = "solid"
    has_band: bool = False
    emphasised: float | None = None
    is_line_only: bool = False
    front: Literal["", "highest", "lowest"] = ""


CnnLevels = tuple[tuple[float, str], ...]
"""(value of y, label) of horizontal lines: accuracies, or errors, of CNNs."""


class Axes(NamedTuple):
    """The axes of a chart; x is logarithmic.

    Parameters
    ----------
    x_label, y_label
        Labels with units.
    left, right, bottom, top
        Ranges.
    ticks
        Labelled values of x.
    levels
        The CNN's accuracy, or error.
    last_tick
        The largest labelled y; accuracies cannot exceed 100 %.
    """

    x_label: str
    y_label: str
    left: float
    right: float
    bottom: float
    top: float
    ticks: tuple[float, ...]
    levels: CnnLevels = ()
    last_tick: float = 100.0


class LegendItem(NamedTuple):
    """One line of a legend: its label, its mark and line, and the key of its series in the pictures."""

    label: str
    swatch: Markup
    key: str


class Chart(NamedTuple):
    """A figure of a report: its pictures by name of `CHART_SIZES`, the texts around them, and its numbers as CSV."""

    title: str
    caption: str
    legend: tuple[LegendItem, ...]
    pictures: tuple[tuple[str, Markup], ...]
    csv: str


def curve_chart(
    title: str, caption: str, series: Sequence[Series], axes: Axes, *, sizes: Sequence[str] = tuple(CHART_SIZES)
) -> Chart:
    """Return a chart of curves over a logarithmic axis; marks outside the frame are listed below the caption.

    ``sizes`` are names of `CHART_SIZES`; a chart beside another one needs no "wide" picture.
    """
    said = " ".join(text for text in (caption, outside(series, axes)) if text)
    legend = legend_of(series)
    if axes.levels:
        line = '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true"><path class="level" d="M1 6H27"/></svg>'
        legend.append(LegendItem("CNN", Markup(line), LEVEL))
    pictures = tuple((name, _curves(f"{title}. {said}", series, axes, *CHART_SIZES[name])) for name in sizes)
    rows: list[tuple[str, float | None, float, float | None, float | None]] = [
        (one.label, mark.x, mark.y, mark.low, mark.high) for one in series if not one.is_line_only for mark in one.marks
    ]
    rows += [("CNN", None, value, None, None) for value, _ in axes.levels]
    header = ("series", axes.x_label, axes.y_label, "interval low", "interval high")
    return Chart(title, said, tuple(legend), pictures, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return ``rows`` as CSV, with six digits per number and None as an empty cell."""
    return csv_bytes(
        header, ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    ).decode()


def outside(series: Sequence[Series], axes: Axes) -> str:
    """Return a sentence that lists the marks outside the frame; empty if there are none."""
    left_out = [mark for one in series if not one.is_line_only for mark in one.marks if not _is_inside(mark, axes)]
    if not left_out:
        return ""
    if len(left_out) <= _NAMED:
        return f"Outside the frame: {'; '.join(mark.text for mark in left_out)}."
    values = [mark.y for mark in left_out]
    return f"Outside the frame: {len(left_out)} points ({min(values):.4g} to {max(values):.4g}); its CSV has them."


def _is_inside(mark: Mark, axes: Axes) -> bool:
    return axes.left <= mark.x <= axes.right and axes.bottom <= mark.y <= axes.top


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
        # Neighbouring labels must not overlap; the first of the two is kept.
        if x_of(tick) - last < 8 + 7 * len(text):
            continue
        last = x_of(tick)
        parts.append(text_at(last, height - BOTTOM + 18, text, "tick", "middle"))
        parts.append(f'<path class="grid" d="M{last:.1f} {height - BOTTOM}v5"/>')
    parts.append(text_at(LEFT + plot_width / 2, height - 6, axes.x_label, "label", "middle"))
    levels = [
        f'<path class="level" d="M{LEFT} {y_of(y):.1f}H{width - RIGHT}"><title>{escape(text)}</title></path>'
        for y, text in axes.levels
        if axes.bottom <= y <= axes.top
    ]
    inside = [f'<g data-series="{LEVEL}">{"".join(levels)}</g>'] if levels else []
    inside += [_one_curve(one, str(index), axes, x_of, y_of) for index, one in enumerate(series)]
    # A nested svg clips everything outside the frame.
    parts.append(
        '<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">'.format(
            LEFT - 7, TOP - 7, plot_width + 14, plot_height + 14
        )
        + "".join(inside)
        + "</svg>"
    )
    return picture(label, parts, width, height)


def _one_curve(
    series: Series, key: str, axes: Axes, x_of: Callable[[float], float], y_of: Callable[[float], float]
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
    for mark in () if series.is_line_only else marks:
        title = f"<title>{escape(mark.text)}</title>"
        at = f"{x_of(mark.x):.1f} {y_of(mark.y):.1f}"
        key_of = f' data-key="{escape(mark.key)}" data-at="{at}"' if mark.key else ""
        if _is_inside(mark, axes):
            shape = shape_path(series.style, x_of(mark.x), y_of(mark.y), 1.5 if mark.x == series.emphasised else 1.0)
            parts.append(f'<path class="mark"{key_of} d="{shape}">{title}</path>')
        elif axes.left <= mark.x <= axes.right:
            # An arrow at the edge, pointing to the mark outside the frame.
            is_below = mark.y < axes.bottom
            y, step = (y_of(axes.bottom) + 1, -7) if is_below else (y_of(axes.top) - 1, 7)
            arrow = f"M{x_of(mark.x):.1f} {y:.1f}l-4 {step}h8z"
            parts.append(f'<path class="mark beyond"{key_of} d="{arrow}">{title}</path>')
    front = f' data-front="{series.front}"' if series.front else ""
    return f'<g class="{style_class(series.style)}" data-series="{key}"{front}>{"".join(parts)}</g>'


def legend_of(series: Iterable[Series]) -> list[LegendItem]:
    """Return the legend of ``series``, whose keys in the pictures are their numbers."""
    return [LegendItem(one.label, _swatch(one), str(index)) for index, one in enumerate(series)]


def _swatch(series: Series) -> Markup:
    """Return the mark and line of a series, for its legend."""
    line = f'<path class="line {series.line}" d="M1 6H27"/>' if series.line else ""
    mark = "" if series.is_line_only else f'<path class="mark" d="{shape_path(series.style, 14, 6, 1.0)}"/>'
    group = f'<g class="{style_class(series.style)}">{line}{mark}</g>'
    # It contains no text from a user's files.
    return Markup(f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{group}</svg>')
