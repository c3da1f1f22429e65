"""A table of texts, defined once and shown in a terminal, in a notebook, and by `page` in HTML and Markdown."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Row = TypeVar("Row")


@dataclass(frozen=True)
class Table:
    """Rows of texts. Texts are plain: nothing in them is read as markup.

    Attributes
    ----------
    caption
        What must be known to read it. May be empty.
    headers
        One per column, with line breaks.
    rows
        As many cells each as there are headers.
    text_columns
        Columns that hold words, from the left; the others hold numbers.
    title
        What it is about. May be empty.
    has_total
        Whether the last row sums up the others.
    """

    kind: ClassVar = "table"
    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    title: str = ""
    has_total: bool = False

    @property
    def full_caption(self) -> str:
        """Title and caption in one."""
        return ": ".join(text for text in (self.title, self.caption) if text)

    def __rich__(self) -> RichTable:
        """Return the table as rich prints it; words are folded where the terminal is narrow, but in column 1."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", caption_justify="left")
        # Given as Text: rich reads markup in a str, and a name may hold any character.
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

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it."""

        def line(tag: str, texts: Sequence[str]) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"

        caption = f"<caption>{html.escape(self.full_caption)}</caption>"
        return f"<table>{caption}{line('th', self.headers)}{''.join(line('td', row) for row in self.rows)}</table>"


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column: its header, with line breaks, and the text for a row, None where it is unknown."""

    header: str
    cell: Callable[[Row], str | None]
    is_text: bool = False


def table_of(
    columns: Sequence[Column[Row]], rows: Sequence[Row], *, caption: str = "", title: str = "", has_total: bool = False
) -> Table:
    """Return a table of the columns in which anything is known; those of words must come first."""
    cells = [(column, [column.cell(row) for row in rows]) for column in columns]
    known = [(column, texts) for column, texts in cells if any(text is not None for text in texts)]
    return Table(
        caption=caption,
        headers=tuple(column.header for column, _ in known),
        rows=tuple(zip(*([text or "" for text in texts] for _, texts in known), strict=True)),
        text_columns=sum(column.is_text for column, _ in known),
        title=title,
        has_total=has_total,
    )
