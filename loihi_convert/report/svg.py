"""Parts of charts as SVG: frame, vertical axis, text, the shapes of marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from markupsafe import Markup, escape

from loihi_convert.report.axes import tick_label

STYLES: Final = 8
"""Colours and shapes of series; a ninth series looks like the first. The page's CSS gives the colours."""

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 44
"""CSS pixels around what is plotted."""

# Corners of each style's mark relative to its centre; a circle does not have any.
_SHAPES: Final[tuple[tuple[tuple[float, float], ...], ...]] = (
    (),
    ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
    ((0, -4.8), (4.6, 3.6), (-4.6, 3.6)),
    ((0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)),
    ((0, 4.8), (4.6, -3.6), (-4.6, -3.6)),
    ((-4.8, -2.4), (4.8, -2.4), (4.8, 2.4), (-4.8, 2.4)),
    ((-2.4, -4.8), (2.4, -4.8), (2.4, 4.8), (-2.4, 4.8)),
    ((-4.4, -4.4), (0, -1.8), (4.4, -4.4), (1.8, 0), (4.4, 4.4), (0, 1.8), (-4.4, 4.4), (-1.8, 0)),
)
PAPER: Final = (-1, -2)
"""Styles of the paper's series: hollow, grey."""

NEUTRAL: Final = -3
"""The style of what belongs to no file, or to several: in the colour of the text, hollow."""

_OTHER_SHAPES: Final = {-1: 3, -2: 1, NEUTRAL: 0}
_OTHER_CLASSES: Final = {-1: "paper1", -2: "paper2", NEUTRAL: "neutral"}


def picture(label: str, parts: Sequence[str], width: int, height: int) -> Markup:
    """Return a complete picture of ``parts``; ``label`` is its text for screen readers."""
    # Every text in it was escaped when it was inserted.
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">{"".join(parts)}</svg>'
    )


def y_axis(label: str, ticks: Sequence[float], y_of: Callable[[float], float], width: int) -> str:
    """Return a vertical axis, its label above it, and a line across a picture of ``width`` at each tick."""
    parts = [text_at(2, 14, label, "label", "start")]
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        parts.append(text_at(LEFT - 7, y + 4, tick_label(tick), "tick", "end"))
    return "".join(parts)


def text_at(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    """Return ``text`` at (x, y) with CSS class ``kind``; ``anchor`` is the part of the text at (x, y)."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def shape_path(style: int, x: float, y: float, scale: float) -> str:
    """Return the path of a style's mark at (x, y)."""
    corners = _SHAPES[style % STYLES if style >= 0 else _OTHER_SHAPES[style]]
    if not corners:
        radius = 3.9 * scale
        arc = f"a{radius:.1f} {radius:.1f} 0 1 0"
        return f"M{x - radius:.1f} {y:.1f}{arc} {2 * radius:.1f} 0{arc} {-2 * radius:.1f} 0z"
    return "M" + "L".join(f"{x + scale * dx:.1f} {y + scale * dy:.1f}" for dx, dy in corners) + "z"


def style_class(style: int) -> str:
    """Return the CSS class that colours a series."""
    return f"s{style % STYLES}" if style >= 0 else _OTHER_CLASSES[style]
