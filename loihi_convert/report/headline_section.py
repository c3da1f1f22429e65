"""The figures that are read first: a card for each of a few files and, of several, a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from loihi_convert.report import error_section
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import count, percent, percent_interval, points
from loihi_convert.report.page import Block, Card, Cards, Paragraph
from loihi_convert.report.run_tables import point_cells
from loihi_convert.report.table import table_of

MAX_CARDS: Final = 8
"""Of more files the table alone is quicker to read."""


def blocks(entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield the cards of a few files, the table of several, and what its words mean."""
    if len(entries) <= MAX_CARDS:
        yield Cards(tuple(_card(entry, is_short=len(entries) > 1) for entry in entries))
    if len(entries) > 1:
        rows = [
            {
                "file": entry.label,
                "data": None if entry.is_alone else entry.data,
                "images": f"{entry.evaluation.image_count:,}",
                **point_cells(entry.evaluation, entry.point),
            }
            for entry in entries
        ]
        yield table_of(rows, caption="Each file at the T it is balanced for, or the last T of its run")
    if numbers := [entry for entry in entries if entry.evaluation.regression is not None]:
        yield Paragraph(error_section.words(numbers))
    if len(numbers) == len(entries):
        return
    yield Paragraph(
        "Conversion loss: accuracy of the CNN minus that of the exported file, in percentage points; a negative loss "
        "is a gain. Float SNN: the same spiking network before rounding to Loihi's integers. SynOps, synaptic "
        "operations: synapses of nonzero weight that spikes reach. On Lava every layer adds a step to T."
    )


def _card(entry: Entry, *, is_short: bool) -> Card:
    evaluation, point = entry.evaluation, entry.point
    if evaluation.regression is not None:
        return error_section.card(entry, is_short=is_short)
    value, unit = percent(point.accuracy), f"accuracy at T = {point.timesteps}"
    if value is None:
        value, unit = percent(point.agreement_with_cnn), f"same class as the CNN at T = {point.timesteps}; no labels"
    if value is None:
        unit = f"no labels, no CNN; T = {point.timesteps}"
    facts = [
        ("95 % interval", percent_interval(point.accuracy_interval)),
        ("CNN", _with_unit(percent(evaluation.cnn_accuracy), "%")),
        ("conversion loss", _with_unit(points(point.conversion_loss_points), "points")),
        ("float SNN", _with_unit(percent(point.float_accuracy), "%")),
        ("synaptic operations an image", count(point.synaptic_operations)),
        ("spikes an image", count(point.spikes_per_image)),
    ]
    if evaluation.has_relays and point.relay_spikes_per_image is not None:
        facts.append(("of these, of relays", count(point.relay_spikes_per_image)))
    if (early_exit := evaluation.early_exit) is not None:
        stopped = early_exit.chosen_point
        right = f", accuracy {percent(stopped.accuracy)} %" if stopped.accuracy is not None else ""
        facts.append(("early exit", f"average T {stopped.average_timesteps:.2f}{right}"))
    if evaluation.timesteps != point.timesteps:
        facts.append(("balanced for", f"T = {evaluation.timesteps}"))
    if is_short:
        facts = [
            ("95 %", percent_interval(point.accuracy_interval)),
            ("CNN", _with_unit(percent(evaluation.cnn_accuracy), "%")),
            ("loss", _with_unit(points(point.conversion_loss_points), "points")),
        ]
    context = f"{entry.data}, {evaluation.image_count:,} images"
    known = tuple((name, text) for name, text in facts if text is not None)
    return Card(entry.label, context, _with_unit(value, "%") or "\N{EN DASH}", unit, known)


def _with_unit(text: str | None, unit: str) -> str | None:
    return None if text is None else f"{text} {unit}"
