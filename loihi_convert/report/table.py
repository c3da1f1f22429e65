"""Tables of texts for a terminal, a notebook, and by `page` for HTML and Markdown; numbers as text for all of them.

A number that is unknown, None, stays None.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loihi_convert.errors import CONTROL
from loihi_convert.ground.statistics import Interval

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of plain texts, which are never interpreted as markup.

    Attributes
    ----------
    caption
        Information needed to read the table. May be empty.
    headers
        One per column, with line breaks.
    rows
        One cell per header in each row.
    text_columns
        Columns that hold words, from the left; the others hold numbers.
    title
        The subject of the table. May be empty.
    has_total
        Whether the last row sums up the others.
    filtered_columns
        Columns, from the left, by whose values a reader of an HTML page can choose rows.
    keys
        One per row, or none: a row that a reader hides, hides the `axes.Mark` with its key.
    """

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    title: str = ""
    has_total: bool = False
    filtered_columns: int = 0
    keys: tuple[str, ...] = ()

    @property
    def full_caption(self) -> str:
        """Title and caption in one."""
        return ": ".join(text for text in (self.title, self.caption) if text)

    def __rich__(self) -> RichTable:
        """Return the table as a rich object; in a narrow terminal, words wrap in all columns except the first."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", caption_justify="left")
        # Passed as Text because rich interprets markup in a str, and a name may contain any character.
        table.title = Text(self.title, style="table.title") if self.title else None
        table.caption = Text(self.caption, style="table.caption") if self.caption else None
        for index, header in enumerate(self.headers):
            is_text = index < self.text_columns
            table.add_column(
                Text(header),
                justify="left" if is_text else "right",
                overflow="fold" if is_text else "ellipsis",
                no_wrap=index == 0 or not is_text,
            )
        for index, row in enumerate(self.rows):
            if self.has_total and index == len(self.rows) - 1:
                table.add_section()
            table.add_row(*map(Text, row))
        return table

    def __str__(self) -> str:
        """The table as in a terminal of 110 columns."""
        from rich.console import Console

        console = Console(width=110, highlight=False, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().translate(CONTROL).splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table as HTML for a notebook."""

        def line(tag: str, texts: Sequence[str]) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"

        caption = f"<caption>{html.escape(self.full_caption)}</caption>"
        return f"<table>{caption}{line('th', self.headers)}{''.join(line('td', row) for row in self.rows)}</table>"


def notebook_html(text: str, *tables: Table) -> str:
    """Return lines of text and tables as HTML for a notebook."""
    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    return f"<p>{lines}</p>{''.join(table._repr_html_() for table in tables)}"


def table_of(
    rows: Sequence[Mapping[str, str | None]],
    *,
    words: Collection[str] = ("file", "data", "layer"),
    title: str = "",
    caption: str = "",
    has_total: bool = False,
) -> Table:
    """Return a table without the columns in which every value is unknown.

    ``rows`` map column headers to cells; None means unknown. ``words`` are the headers of columns that hold words;
    these come first.
    """
    headers = tuple(header for header in (rows[0] if rows else ()) if any(row[header] is not None for row in rows))
    return Table(
        caption=caption,
        headers=headers,
        rows=tuple(tuple(row[header] or "" for header in headers) for row in rows),
        text_columns=sum(header in words for header in headers),
        title=title,
        has_total=has_total,
    )


RELAYS: Final = "relays, neurons that repeat the spikes of another layer for a connection that skips layers"
"""What relays are, in a caption."""

GRADED_WORK: Final = (
    "SynOps of graded spikes are multiplications, those of pixels included: do not compare them with SynOps of binary "
    "spikes, which are additions."
)
"""Why the work of graded and of binary spikes is not compared, in a caption."""


def percent(fraction: float | None) -> str | None:
    """Return a fraction 0..1 in per cent: 99.57; only 1 is 100.00."""
    if fraction is None:
        return None
    text = f"{100 * fraction:.2f}"
    return ">99.99" if fraction < 1 and text == "100.00" else text


def percent_interval(interval: Interval | None) -> str | None:
    """Return an interval of fractions in per cent: 99.42-99.68."""
    return None if interval is None else f"{100 * interval[0]:.2f}-{100 * interval[1]:.2f}"


def percent_ends(interval: Interval | None) -> tuple[float, float] | tuple[None, None]:
    """Return both ends of an interval of fractions in per cent, for a chart."""
    return (None, None) if interval is None else (100 * interval[0], 100 * interval[1])


def neurons(count: int, relays: int) -> str:
    """Return the number of neurons of a layer, with relays listed separately: 6,272 + 3,136."""
    return f"{count - relays:,} + {relays:,}" if relays else f"{count:,}"


def neurons_header(*, has_relays: bool) -> str:
    """Return the header of a column of `neurons`."""
    return "neurons\n+ relays" if has_relays else "neurons"


def points(loss: float | None) -> str | None:
    """Return percentage points: 0.15."""
    # The sum avoids "-0.00".
    return None if loss is None else f"{round(loss, 2) + 0.0:.2f}"


def signed_points(difference: float | None) -> str | None:
    """Return percentage points with their sign: +0.15."""
    return None if difference is None else f"{round(difference, 2) + 0.0:+.2f}"


def number(value: float | None) -> str | None:
    """Return a number in the user's units with four digits: 0.1234, 12.34."""
    return None if value is None else f"{value:.4g}"


def r_squared(value: float | None) -> str | None:
    """Return R^2: 0.9876."""
    return None if value is None else f"{value:.4f}"


def count(number: float) -> str:
    """Return a mean count in at most 6 characters: 12.3, 9,876, 98.8 k, 7.67 M."""
    if number < 100:
        return f"{number:.1f}"
    return f"{number:,.0f}" if number < 10_000 else _scaled(number, {3: "k", 6: "M", 9: "G", 12: "T"})


def quantity(value: float, unit: str) -> str:
    """Return a number of joules or seconds with two or three digits and a prefix: 1.24 mJ, 85.0 µJ, 230 ns."""
    return _scaled(value, {-12: "p", -9: "n", -6: "µ", -3: "m", 0: ""}) + unit


def _scaled(value: float, prefixes: Mapping[int, str]) -> str:
    exponent = next((exponent for exponent in prefixes if value < 999.5 * 10.0**exponent), max(prefixes))
    scaled = value / 10.0**exponent
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f} {prefixes[exponent]}"


def quantity_range(interval: Interval, unit: str) -> str:
    """Return (low, high): 85.0 µJ..1.24 mJ."""
    return f"{quantity(interval[0], unit)}..{quantity(interval[1], unit)}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with its columns aligned."""
    cells = [header, *rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" for line in lines)
