"""A table of texts that can be shown in a terminal, in a notebook, and by `page` as HTML and Markdown."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
        One per row, or none: a row that a reader hides, hides the `charts.Mark` with its key.
    """

    kind: ClassVar = "table"
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
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

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
