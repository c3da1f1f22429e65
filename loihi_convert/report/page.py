"""A page of sections and blocks, written as one HTML file and as Markdown with the templates in this folder.

Texts in blocks are plain. The templates escape them, so that a name in a run folder cannot become markup,
and control characters are escaped in the whole page.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import jinja2
import numpy as np

from loihi_convert.errors import CONTROL
from loihi_convert.report.chart import STYLES, Chart
from loihi_convert.report.table import Table
from loihi_convert.runs.run_folder import Confusion

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
"""What Markdown, HTML in it, or mathematics in it would take for more than a character."""


class Paragraph(NamedTuple):
    """A sentence or two."""

    text: str


class Heading(NamedTuple):
    """The title of a part of a section."""

    text: str


class Card(NamedTuple):
    """The main results of one file: one in large type, and (name, value) pairs; ``style`` is the file's colour."""

    title: str
    style: int
    context: str
    value: str
    unit: str
    facts: tuple[tuple[str, str], ...]


class Cards(NamedTuple):
    """One card per file."""

    cards: tuple[Card, ...]


class Pictures(NamedTuple):
    """Charts, placed side by side if there is room."""

    charts: tuple[Chart, ...]


class Matrix(NamedTuple):
    """A confusion matrix."""

    caption: str
    confusion: Confusion

    def shade(self, row: int, column: int) -> float:
        """The shade of a cell, 0..1: correct ones relative to the class, wrong ones relative to the largest error."""
        counts = self.confusion.counts
        if row == column:
            return float(counts[row, row] / max(1, counts[row].sum()))
        most = counts.copy()
        np.fill_diagonal(most, 0)
        return float(counts[row, column] / max(1, most.max()))


class Facts(NamedTuple):
    """(name, value) pairs."""

    facts: tuple[tuple[str, str], ...]


class Code(NamedTuple):
    """Preformatted text, such as a command or its output."""

    text: str


class Details(NamedTuple):
    """Collapsible blocks."""

    summary: str
    blocks: tuple[PageBlock, ...]


PageBlock = Paragraph | Heading | Cards | Table | Chart | Pictures | Matrix | Facts | Code | Details


class Section(NamedTuple):
    """A section of a page: its anchor, its title, and its blocks."""

    name: str
    title: str
    blocks: tuple[PageBlock, ...]


class Page(NamedTuple):
    """A whole report; ``verdict`` states its main results, one sentence per data set."""

    title: str
    verdict: tuple[str, ...]
    subtitle: str
    sections: tuple[Section, ...]


def html(page: Page) -> str:
    """Return ``page`` as one self-contained HTML file."""
    return _rendered(page, "report.html.jinja", escapes=True)


def markdown(page: Page) -> str:
    """Return ``page`` as Markdown without the charts, whose values are in the tables."""
    text = _rendered(page, "report.md.jinja", escapes=False)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _rendered(page: Page, template: str, *, escapes: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loihi_convert.report"),
        autoescape=escapes,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "kind": lambda block: type(block).__name__.lower()}
    environment.globals["STYLES"] = STYLES
    return environment.get_template(template).render(page=page).translate(CONTROL)


def _plain(text: str) -> str:
    """Return ``text`` escaped for Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
