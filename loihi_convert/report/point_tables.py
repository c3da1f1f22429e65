"""Tables with a row for one file at one T."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from loihi_convert.metrics.evaluation import Point
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import count, percent, percent_interval, points
from loihi_convert.report.page import Table


class Row(NamedTuple):
    """One file at one T."""

    entry: Entry
    point: Point


class Column(NamedTuple):
    """A table's column: its header, with line breaks, and what stands in a row, None where that is unknown."""

    header: str
    cell: Callable[[Row], str | None]


FILE: Final = Column("file", lambda row: row.entry.label)
DATA: Final = Column("data", lambda row: row.entry.data)
IMAGES: Final = Column("images", lambda row: f"{row.entry.evaluation.image_count:,}")
POINT_COLUMNS: Final = (
    Column("T", lambda row: str(row.point.timesteps)),
    Column("T +\ndepth", lambda row: str(row.point.global_steps)),
    Column("accuracy\n%", lambda row: percent(row.point.accuracy)),
    Column("95 %\ninterval", lambda row: percent_interval(row.point.accuracy_interval)),
    Column("CNN\n%", lambda row: percent(row.entry.evaluation.cnn_accuracy)),
    Column("loss,\npoints", lambda row: points(row.point.conversion_loss_points)),
    Column("real\nnumbers %", lambda row: percent(row.point.float_accuracy)),
    Column("same as\nCNN %", lambda row: percent(row.point.agreement_with_cnn)),
    Column("spikes\n/image", lambda row: count(row.point.spikes_per_image)),
    Column("SynOps\n/image", lambda row: count(row.point.synaptic_operations)),
)


def point_table(caption: str, columns: Sequence[Column], rows: Sequence[Row], *, text_columns: int) -> Table:
    """Return a table of those columns of which anything is known."""
    cells = [(column.header, [column.cell(row) for row in rows]) for column in columns]
    known = [(header, texts) for header, texts in cells if any(text is not None for text in texts)]
    body = zip(*([text or "" for text in texts] for _, texts in known), strict=True)
    return Table(caption, tuple(header for header, _ in known), tuple(body), text_columns)
