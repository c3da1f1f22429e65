"""Charts of a page and figures of a run: series of marks over T, work or channels, drawn by matplotlib.

Series differ in colour and marker, or in their dashes. On a page, CSS variables
replace the colours, each mark has its values in a ``<title>``, and the numbers of a chart are included as CSV.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from markupsafe import Markup, escape

from loihi_convert.ground.choices import Width
from loihi_convert.report.axes import Axes, Mark, Series, tick_label
from loihi_convert.runs.columns import csv_bytes

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.figure import Figure


FigureFormat = Literal["png", "svg", "pdf"]
"""File formats of figures."""

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#6A3D9A")
"""Okabe and Ito's palette and two more colours, distinguishable with every kind of colour vision."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", ">")
"""One marker per series, for those who do not see its colour. One more than `COLOURS`, so that pairs do not repeat."""

CNN_COLOUR: Final = "#444444"
GRID_COLOUR: Final = "#DDDDDD"


class Size(NamedTuple):
    """A width in inches, its text size (points), line width and marker size, and the dots per inch of a PNG."""

    inches: float
    text: float
    line: float
    marker: float
    dpi: int

    @property
    def characters(self) -> int:
        """The approximate number of characters of small text per line."""
        return int(self.inches * 72 / (0.5 * (self.text - 1)))


SIZES: Final[dict[Width, Size]] = {
    "screen": Size(6.6, 10.0, 1.9, 5.0, 160),
    "column": Size(3.35, 7.5, 1.1, 3.2, 600),
    "page": Size(7.0, 8.5, 1.4, 4.0, 300),
}


@contextlib.contextmanager
def drawing(size: Size) -> Iterator[None]:
    """Apply the style of this size to everything drawn in the context."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "font.size": size.text,
            "axes.titlesize": size.text - 1,
            "legend.fontsize": size.text - 1,
            "xtick.labelsize": size.text - 0.5,
            "ytick.labelsize": size.text - 0.5,
            "lines.linewidth": size.line,
            "lines.markersize": size.marker,
            "axes.linewidth": 0.8 if size.inches > 5 else 0.6,
        }
    ):
        yield


def new_figure(size: Size, height: float) -> Figure:
    """Return a figure of this width; ``height`` in inches."""
    # The object API is used because pyplot would choose a window system and keep every figure in memory.
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """Shown by a notebook that did not import pyplot."""

        def _repr_png_(self) -> bytes:
            return image_bytes(self, "png")

    return NotebookFigure(figsize=(size.inches, height), layout="constrained")


def add_legend(figure: Figure, size: Size) -> int:
    """Put one legend of all axes below the figure, in as many columns as fit, and return its lines of text."""
    every = [axes.get_legend_handles_labels() for axes in figure.axes]
    by_label = {label: handle for handles, labels in every for handle, label in zip(handles, labels, strict=True)}
    # A file name need not be UTF-8.
    printable = (label.encode(errors="backslashreplace").decode() for label in by_label)
    folded = [textwrap.fill(label, int(0.8 * size.characters)) for label in printable]
    widest = max((len(line) for label in folded for line in label.split("\n")), default=1)
    columns = max(1, min(3, size.characters // (widest + 9)))
    legend = figure.legend(list(by_label.values()), folded, loc="outside lower center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    rows = math.ceil(len(folded) / columns)
    return sum(max(label.count("\n") + 1 for label in folded[row::rows]) for row in range(rows))


def image_bytes(figure: Figure, kind: FigureFormat, *, dpi: int = 160, is_for_page: bool = False) -> bytes:
    """Return ``figure`` as file contents, without a date or random identifiers, so that bytes are reproducible.

    Drawing starts from the layout of the previous drawing: to get the same bytes, draw the formats in the same order.
    ``is_for_page``: without a background, and with texts in the browser's font.
    """
    import matplotlib

    image = io.BytesIO()
    metadata = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    # Type 42 keeps text in a PDF as text, which many journals require.
    fonts: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none" if is_for_page else "path"}
    with (
        matplotlib.rc_context({"svg.hashsalt": "loihi-convert", **fonts}),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.filterwarnings("always", "Glyph .* missing")
        figure.savefig(image, format=kind, dpi=dpi, metadata=metadata, transparent=is_for_page)
    if not is_for_page and any("missing from font" in str(one.message) for one in caught):
        logging.getLogger(__name__).warning("the figure's font lacks some characters of the names: they are boxes")
    return image.getvalue()


STYLES: Final = len(COLOURS)
"""Colours of series; a ninth series has the colour of the first and another marker."""

PAPER: Final = (-1, -2)
"""Styles of the paper's series: hollow, grey."""

NEUTRAL: Final = -3
"""The style of what belongs to no file, or to several: hollow, in the colour of the text."""

_PAPER_COLOUR: Final = "#777777"
_OTHERS: Final = {-1: (_PAPER_COLOUR, "D"), -2: (_PAPER_COLOUR, "s"), NEUTRAL: (CNN_COLOUR, "o")}
DASHES: Final = {"solid": "-", "dashed": "--", "dotted": ":", "early": "-.", "": "none"}

_VARIABLES: Final = {
    **{colour.lower(): f"c{index}" for index, colour in enumerate(COLOURS)},
    "#000000": "muted",
    CNN_COLOUR: "text",
    _PAPER_COLOUR: "paper",
    GRID_COLOUR.lower(): "rule",
}
"""The page's CSS variable for each colour of a picture."""

# A caption lists at most this many marks outside the frame; above that, it gives their number.
_NAMED: Final = 3

# A page shows a chart in 320 to 620 CSS pixels, with legible letters.
_PAGE: Final = Size(5.6, 10.0, 1.6, 5.0, 72)

# Marks on a line; it goes through all of them.
_MARKED: Final = 24


class Chart(NamedTuple):
    """A chart of a page, with the texts around it."""

    title: str
    text: str
    series: Sequence[Series]
    axes: Axes

    @property
    def caption(self) -> str:
        """The text, and what is outside the frame."""
        return " ".join(text for text in (self.text, outside(self.series, self.axes)) if text)

    @property
    def csv(self) -> str:
        """The numbers of all series, with six digits."""
        rows: list[tuple[object, ...]] = [
            (one.label, *(None if value is None else f"{value:.6g}" for value in (mark.x, mark.y, mark.low, mark.high)))
            for one in self.series
            if not one.is_line_only
            for mark in one.marks
        ]
        rows += [("CNN", None, f"{value:.6g}", None, None) for value, _ in self.axes.levels]
        header = ("series", self.axes.x_label, self.axes.y_label, "interval low", "interval high")
        return csv_bytes(header, rows).decode()

    @property
    def svg(self) -> Markup:
        """The picture; its marks and the lines of CNNs are groups with a title."""
        from matplotlib.figure import Figure

        with drawing(_PAGE):
            figure = Figure(figsize=(_PAGE.inches, 1.0))
            plot = figure.subplots()
            groups = draw(plot, self.series, self.axes)
            # Matplotlib's constrained layout would take twice as long.
            below = 38 + 14 * add_legend(figure, _PAGE)
            figure.set_figheight((below + 210) / 72)
            figure.subplots_adjust(0.11, below / (below + 210), 0.98, 1 - 8 / (below + 210))
            text = image_bytes(figure, "svg", is_for_page=True).decode()
        text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r">\s+<", "><", re.sub(r' (id="[a-zA-Z.]+\d*_\d+|xmlns[:\w]*="[^"]*)"', "", text))
        text = re.sub(r"(?<=(?:fill|roke): )#\w{6}", lambda found: f"var(--{_VARIABLES.get(found[0], 'muted')})", text)
        text = re.sub(r'<g id="front-(\w+)"><path d', r'<g data-front="\1"><path class="line solid" d', text)
        text = re.sub(r'<g id="group-(\d+)">', lambda found: groups[int(found[1])], text)
        label = escape(f"{self.title}. {self.caption}")
        # Matplotlib has escaped every text in it.
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def figure_of(title: str, charts: Sequence[Chart], width: Width = "screen") -> Figure:
    """Return the charts below each other or, where there is room, two in a row."""
    size = SIZES[width]
    columns = 1 if width == "column" else min(2, len(charts))
    # For a paper the total width is fixed.
    whole = size._replace(inches=size.inches * columns * 0.85) if width == "screen" and columns > 1 else size
    rows = -(-len(charts) // columns)
    characters = int(0.8 * size.characters * whole.inches / size.inches)
    with drawing(size):
        figure = new_figure(whole, 0.66 * whole.inches / columns * rows + 0.9)
        plots = figure.subplots(rows, columns, squeeze=False).ravel()
        for plot, chart in zip(plots, charts, strict=False):
            draw(plot, chart.series, chart.axes)
            text = ": ".join(text for text in (chart.title, chart.text) if text)
            plot.set_title(textwrap.fill(text, characters // columns), loc="left", parse_math=False)
        for spare in plots[len(charts) :]:
            spare.remove()
        folded = textwrap.fill(title, characters)
        figure.suptitle(folded, x=0.01, ha="left", fontsize=size.text + 1, fontweight="bold", parse_math=False)
        add_legend(figure, size)
    return figure


def draw(plot: matplotlib.axes.Axes, series: Sequence[Series], axes: Axes) -> list[str]:
    """Draw ``series`` on ``plot``, and return the tag of each mark or level n of a page, in the picture ``group-n``."""
    from matplotlib.ticker import MaxNLocator

    groups: list[str] = []

    def group(kind: str, title: str, key: str = "") -> str:
        of_row = Markup(' data-key="{}"').format(key) if key else ""
        groups.append(Markup('<g class="{}"{}><title>{}</title>').format(kind, of_row, title))
        return f"group-{len(groups) - 1}"

    for index, (value, label) in enumerate(axes.levels):
        dashes = ((0, (2, 3)), (0, (5, 2)), (0, (1, 1.5)), "-.")[index % 4]
        plot.axhline(value, color=CNN_COLOUR, linewidth=1.1, linestyle=dashes, label=label, zorder=1).set_gid(
            group("level", label)
        )
    labels: set[str] = set()
    for order, one in enumerate(series, 3):
        colour, marker = _OTHERS.get(one.style) or (COLOURS[one.style % STYLES], MARKERS[one.style % len(MARKERS)])
        look: dict[str, Any] = {
            "color": colour,
            "marker": "none" if one.is_line_only else one.marker or marker,
            "zorder": order,
        }
        look |= {"markerfacecolor": "none"} if one.style < 0 or one.marker else {}
        plot.plot(
            [mark.x for mark in one.marks],
            [mark.y for mark in one.marks],
            **look,
            linestyle=DASHES[one.line],
            markevery=[],
            label=None if one.label in labels else one.label,
            gid=f"front-{one.front}" if one.front else None,
        )
        labels.add(one.label)
        ends = [(mark.x, *mark.ends) for mark in one.marks if mark.low is not None]
        if one.has_band and len(ends) > 1:
            x, low, high = zip(*ends, strict=True)
            plot.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        elif ends:
            x, low, high = zip(*ends, strict=True)
            plot.vlines(x, low, high, color=colour, linewidth=1.2, zorder=order)
        for index, mark in enumerate(() if one.is_line_only else one.marks):
            is_main = mark.x == one.emphasised
            is_shown = is_main or not one.line or index % math.ceil(len(one.marks) / _MARKED) == 0
            if is_shown:
                (drawn,) = plot.plot(mark.x, mark.y, **look, gid=group("mark", mark.text, mark.key))
                drawn.set_markersize(drawn.get_markersize() * (1.5 if is_main else 1))
    if not axes.is_linear:
        plot.set_xscale("log", base=2)
    plot.set_xticks(axes.ticks, [tick_label(tick) for tick in axes.ticks])
    plot.set_xticks([], minor=True)
    plot.set(xlim=(axes.left, axes.right), ylim=(axes.bottom, axes.top), xlabel=axes.x_label, ylabel=axes.y_label)
    y_ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(axes.bottom, min(axes.top, axes.last_tick))
    plot.set_yticks([tick for tick in y_ticks if axes.bottom <= tick <= min(axes.top, axes.last_tick)])
    # What is not needed to read values is left out.
    plot.grid(axis="y", color=GRID_COLOUR, linewidth=0.6)
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
    return groups


def outside(series: Sequence[Series], axes: Axes) -> str:
    """Return a sentence that lists the marks and levels outside the frame; empty if there are none."""
    hidden = [
        (mark.y, mark.text)
        for one in series
        for mark in one.marks
        if not one.is_line_only and not axes.has(mark.x, mark.y)
    ]
    hidden += [level for level in axes.levels if not axes.bottom <= level[0] <= axes.top]
    if len(hidden) <= _NAMED:
        return f"Outside the frame: {'; '.join(text for _, text in hidden)}." if hidden else ""
    values = [value for value, _ in hidden]
    return f"Outside the frame: {len(hidden)} points ({min(values):.4g} to {max(values):.4g}); its CSV has them."


def channel_chart(
    title: str,
    text: str,
    y_label: str,
    files: Sequence[tuple[str, int, Sequence[float | None]]],
    number: Callable[[float], str] = "{:.3g}".format,
) -> Chart:
    """Return the chart of one value per channel of a layer: (label, style, values) of each file.

    Channels without a value, such as relays, are left out. Those of several files, or of a large layer, are sorted.
    """
    is_sorted = len(files) > 1 or len(files[0][2]) > MAX_UNSORTED
    series = []
    for label, style, values in files:
        known = [(value, channel) for channel, value in enumerate(values) if value is not None]
        if is_sorted:
            known.sort(key=lambda pair: (-pair[0], pair[1]))
        marks = tuple(
            Mark(rank if is_sorted else channel, value, f"{label}, channel {channel}: {number(value)}")
            for rank, (value, channel) in enumerate(known, 1)
        )
        series.append(Series(label, style, marks, "solid" if is_sorted else ""))
    count = max(len(values) for _, _, values in files)
    first, last = (1, count) if is_sorted else (0, count - 1)
    most = max((mark.y for one in series for mark in one.marks), default=0)
    ticks = sorted({*range(first, last + 1, max(1, count // 6)), last})
    margin = 0.03 * count
    axes = Axes(
        "channels, largest first" if is_sorted else "channel",
        y_label,
        *(first - margin, last + margin, 0.0, 1.06 * most or 1.0),
        tuple(ticks),
        last_tick=math.inf,
        is_linear=True,
    )
    return Chart(title, text, series, axes)


MAX_UNSORTED: Final = 64
"""Channels of a file that are shown in their order."""
