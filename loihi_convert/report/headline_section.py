"""The section on the main results: a card per file if there are few, and a table for several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from loihi_convert.report import error_section
from loihi_convert.report.entries import Entry, LeftOut
from loihi_convert.report.formats import GRADED_WORK, count, percent, percent_interval, points
from loihi_convert.report.page import Card, Cards, PageBlock, Paragraph
from loihi_convert.report.run_tables import page_cells
from loihi_convert.report.table import Table, table_of

MAX_CARDS: Final = 8
"""With more files, the table alone is quicker to read."""


def blocks(entries: Sequence[Entry], left_out: Sequence[LeftOut]) -> Iterator[PageBlock]:
    """Yield the cards of a few files, the table of several, the omitted runs, and explanations of the terms."""
    if len(entries) <= MAX_CARDS:
        yield Cards(tuple(_card(entry, is_short=len(entries) > 1) for entry in entries))
    if len(entries) > 1:
        yield _table(entries)
    if left_out:
        yield Paragraph(_left_out(left_out))
    if numbers := [entry for entry in entries if entry.evaluation.regression is not None]:
        yield Paragraph(error_section.words(numbers))
    if len(numbers) == len(entries):
        return
    yield Paragraph(
        "Loss: accuracy of the CNN minus accuracy of the exported file, in percentage points; a negative loss is a "
        "gain. Float SNN: the same spiking network in floating point. SynOps (synaptic operations): nonzero synapses "
        "that spikes reach, the measure of work here. On Lava every layer adds a step to T."
        + (f" {GRADED_WORK}" if any(entry.evaluation.is_graded for entry in entries) else "")
    )


def _table(entries: Sequence[Entry]) -> Table:
    """Return one row per file; data and number of images are columns only if they differ."""
    sources = {entry.source for entry in entries}
    counts = {entry.evaluation.image_count for entry in entries}
    is_complete = all(entry.point.timesteps == entry.evaluation.timesteps for entry in entries)
    rows = []
    for entry in entries:
        # Accuracy, or error, comes first.
        first, *others = page_cells(entry.evaluation, entry.point).items()
        rows.append(
            {
                "file": entry.label,
                **dict([first]),
                "data": entry.source if len(sources) > 1 else None,
                "images": f"{entry.evaluation.image_count:,}" if len(counts) > 1 else None,
                **dict(others),
            }
        )
    caption = "Each file at its own T" + ("" if is_complete else ", or at the last T of its run")
    return table_of(rows, words=("file",), caption=caption)


def _left_out(left_out: Sequence[LeftOut]) -> str:
    """Return the runs that are omitted because another run of the same file is more complete or newer."""
    texts = [
        f"{one.file} in {one.run.name} ({one.run.manifest.utc_time[:16].replace('T', ' ')} UTC, {one.reason})"
        for one in left_out
    ]
    return f"Left out, because the most complete run of a file is shown: {'; '.join(texts)}."


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
        ("95 %" if is_short else "95 % interval", percent_interval(point.accuracy_interval)),
        ("CNN", _with_unit(percent(evaluation.cnn_accuracy), "%")),
        ("loss", _with_unit(points(point.conversion_loss_points), "points")),
    ]
    if not is_short:
        facts += _further_facts(entry)
    known = tuple((name, text) for name, text in facts if text is not None)
    return Card(entry.label, entry.style, entry.context, _with_unit(value, "%") or "\N{EN DASH}", unit, known)


def _further_facts(entry: Entry) -> Iterator[tuple[str, str | None]]:
    evaluation, point = entry.evaluation, entry.point
    yield "float SNN", _with_unit(percent(point.float_accuracy), "%")
    yield "synaptic operations per image", count(point.synaptic_operations)
    yield f"{entry.sent} per image", count(point.spikes_per_image)
    if evaluation.has_relays and point.relay_spikes_per_image is not None:
        yield "of these, from relays", count(point.relay_spikes_per_image)
    if (early_exit := evaluation.early_exit) is not None:
        stopped = early_exit.chosen_point
        right = f", accuracy {percent(stopped.accuracy)} %" if stopped.accuracy is not None else ""
        yield "early exit", f"average T {stopped.average_timesteps:.2f}{right}"
    if evaluation.timesteps != point.timesteps:
        yield f"{'balanced' if entry.is_balanced else 'made'} for", f"T = {evaluation.timesteps}"


def _with_unit(text: str | None, unit: str) -> str | None:
    return None if text is None else f"{text} {unit}"
