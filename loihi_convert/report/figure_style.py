"""Style of figures: colours, widths for a screen and for a paper's column and page, and output as files."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Width = Literal["screen", "column", "page"]
"""Widths of figures: on a screen, in a column of a paper (85 mm), and across its page (178 mm)."""

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


def plain(axes: Axes) -> None:
    """Remove everything that is not needed to read values; two axes and grid lines at the labelled y remain."""
    axes.grid(axis="y", color=GRID_COLOUR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def timestep_axis(axes: Axes, ticks: Sequence[float], left: float, right: float) -> None:
    """Make x a logarithmic axis of T with these labels."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])


def add_legend(figure: Figure, axes: Axes, size: Size) -> int:
    """Put the legend of ``axes`` below the figure, in as many columns as fit, and return its lines of text."""
    handles, labels = axes.get_legend_handles_labels()
    # A file name need not be UTF-8.
    printable = (label.encode(errors="backslashreplace").decode() for label in labels)
    folded = [textwrap.fill(label, int(0.8 * size.characters)) for label in printable]
    widest = max((len(line) for label in folded for line in label.split("\n")), default=1)
    columns = max(1, min(3, size.characters // (widest + 9)))
    legend = figure.legend(handles, folded, loc="outside lower center", ncols=columns, frameon=False)
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
