"""A page of sections and blocks, written as one HTML file and as Markdown with the templates in this folder.

Texts in blocks are plain. The templates escape them, so that a name in a run folder cannot become markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

import jinja2
import numpy as np

from loihi_convert.report.chart import STYLES, Chart
from loihi_convert.report.table import Table
from loihi_convert.runs.run_folder import Confusion

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
"""What Markdown, HTML in it, or mathematics in it would take for more than a character."""


@dataclass(frozen=True)
class Paragraph:
    """A sentence or two."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Heading:
    """The title of a part of a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Card:
    """The main results of one file: one in large type, and (name, value) pairs; ``style`` is the file's colour."""

    title: str
    style: int
    context: str
    value: str
    unit: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cards:
    """One card per file."""

    kind: ClassVar = "cards"
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Picture:
    """A chart."""

    kind: ClassVar = "chart"
    chart: Chart


@dataclass(frozen=True)
class Pictures:
    """Charts, placed side by side if there is room."""

    kind: ClassVar = "charts"
    charts: tuple[Chart, ...]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A confusion matrix."""

    kind: ClassVar = "matrix"
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


@dataclass(frozen=True)
class Facts:
    """(name, value) pairs."""

    kind: ClassVar = "facts"
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as a command or its output."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Details:
    """Collapsible blocks."""

    kind: ClassVar = "details"
    summary: str
    blocks: tuple[PageBlock, ...]


PageBlock = Paragraph | Heading | Cards | Table | Picture | Pictures | Matrix | Facts | Code | Details


@dataclass(frozen=True)
class Section:
    """A section of a page: its anchor, its title, and its blocks."""

    name: str
    title: str
    blocks: tuple[PageBlock, ...]


@dataclass(frozen=True)
class Page:
    """A whole report; ``verdict`` states its main results, one sentence per data set."""

    title: str
    verdict: tuple[str, ...]
    subtitle: str
    sections: tuple[Section, ...]


def html(page: Page) -> str:
    """Return ``page`` as one self-contained HTML file."""
    return _environment(escapes=True).get_template("report.html.jinja").render(page=page)


def markdown(page: Page) -> str:
    """Return ``page`` as Markdown without the charts, whose values are in the tables."""
    text = _environment(escapes=False).get_template("report.md.jinja").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(*, escapes: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loihi_convert.report"),
        autoescape=escapes,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    environment.globals["STYLES"] = STYLES
    return environment


def _plain(text: str) -> str:
    """Return ``text`` escaped for Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
