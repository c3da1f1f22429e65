"""What an inference is estimated to take, at each T, and every constant of the estimate with its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loihi_convert.chip.energy import Constant, Energy, Estimate
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import count, quantity, quantity_range
from loihi_convert.report.page import Block, Details, Paragraph, Table

_HEADERS = (
    *("T", "SynOps\n/image", "membrane\nupdates", "spikes\n/image"),
    *("Loihi 1,\nenergy", "Loihi 1,\ntime", "arithmetic,\n45 nm", "the CNN's\narithmetic"),
)


def blocks(entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield what is estimated of each file; nothing where no run has estimates."""
    known = [(entry, energy) for entry in entries if (energy := entry.evaluation.energy) is not None]
    if not known:
        return
    for boundary in dict.fromkeys(energy.boundary for _, energy in known):
        yield Paragraph(boundary)
    if len(known) > 1:
        rows = tuple(
            (entry.full_label, *_cells(energy, one))
            for entry, energy in known
            for one in energy.estimates
            if one.timesteps == entry.point.timesteps
        )
        yield Table("Estimated for one inference, each file at its own T", ("file", *_HEADERS), rows)
    tables = tuple(
        Table(
            f"{entry.full_label}: estimated for one inference, by T",
            _HEADERS,
            tuple(_cells(energy, one) for one in energy.estimates),
            0,
        )
        for entry, energy in known
    )
    yield from tables if len(tables) == 1 else [Details("The same at every T", tables)]
    constants = dict.fromkeys(constant for _, energy in known for constant in energy.constants)
    yield Details("Every constant of these estimates, its source, and what it leaves out", (_table(list(constants)),))


def _cells(energy: Energy, one: Estimate) -> tuple[str, ...]:
    return (
        str(one.timesteps),
        count(one.synaptic_operations),
        count(one.membrane_updates),
        count(one.spikes),
        quantity_range(one.loihi1_joules, "J"),
        quantity_range(one.loihi1_seconds, "s"),
        quantity_range(one.arithmetic_joules, "J"),
        quantity_range(energy.cnn_arithmetic_joules, "J"),
    )


def _table(constants: Sequence[Constant]) -> Table:
    rows = tuple((c.event, c.end, quantity(c.value, c.unit), c.chip, c.source, c.leaves_out) for c in constants)
    return Table("Constants", ("event", "end", "value", "chip", "source", "leaves out"), rows, 6)
