"""The section on estimated energy and time per inference at each T, with the source of every constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loihi_convert.chip.energy import Constant
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import quantity
from loihi_convert.report.page import Details, PageBlock, Paragraph
from loihi_convert.report.run_tables import energy_cells
from loihi_convert.report.table import Table, table_of


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield the estimates of each file and what they include; nothing if no run has estimates."""
    known = [(entry, energy) for entry in entries if (energy := entry.evaluation.energy) is not None]
    if not known:
        return
    yield Paragraph("Estimated from counted spikes and published constants of Loihi 1. Not measured on a chip.")
    if len(known) > 1:
        rows = [
            {"file": entry.full_label, **energy_cells(energy, one)}
            for entry, energy in known
            for one in energy.estimates
            if one.timesteps == entry.point.timesteps
        ]
        yield table_of(rows, caption="Estimated for one inference, each file at its own T")
    tables = tuple(
        table_of(
            [energy_cells(energy, one) for one in energy.estimates],
            title=entry.full_label,
            caption="estimated for one inference, by T",
        )
        for entry, energy in known
    )
    yield from tables if len(tables) == 1 else [Details("The same at every T", tables)]
    boundaries = dict.fromkeys(energy.boundary for _, energy in known)
    constants = dict.fromkeys(constant for _, energy in known for constant in energy.constants)
    yield Details(
        "Included and omitted costs, and the source of every constant",
        (*(Paragraph(boundary) for boundary in boundaries), _table(list(constants))),
    )


def _table(constants: Sequence[Constant]) -> Table:
    rows = tuple((c.event, c.end, quantity(c.value, c.unit), c.chip, c.source, c.leaves_out) for c in constants)
    return Table("Constants", ("event", "end", "value", "chip", "source", "leaves out"), rows, 6)
