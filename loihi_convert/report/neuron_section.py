"""The section that compares the kinds of neurons at each T: the hardware's neurons against soft-reset neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loihi_convert.report.entries import NEURON_KINDS, Entry
from loihi_convert.report.formats import percent
from loihi_convert.report.page import PageBlock, Paragraph
from loihi_convert.report.table import Table


def blocks(entries: Sequence[Entry]) -> Iterator[PageBlock]:
    """Yield one row per T and one column per kind of neuron; nothing if all files of the data set have one kind."""
    measured = [entry for entry in entries if entry.is_per_t and entry.neuron is not None]
    kinds = [kind for kind in NEURON_KINDS if any(entry.neuron == kind for entry in measured)]
    if len(kinds) < 2:
        return
    steps = sorted({entry.point.timesteps for entry in measured})
    rows = tuple((str(t), *(_cell(measured, kind, t) for kind in kinds)) for t in steps)
    caption = "Accuracy in %, by kind of neuron: each file at the T it is balanced for"
    yield Table(caption, ("T", *(kind.replace(" ", "\n") for kind in kinds)), rows, 0)
    cells = {(entry.neuron, entry.point.timesteps) for entry in measured}
    words = "; ".join(f"{kind}: {NEURON_KINDS[kind]}" for kind in kinds)
    counts = sorted({entry.evaluation.image_count for entry in measured})
    of_images = "" if len(counts) == 1 else f" Numbers of images differ: {', '.join(f'{n:,}' for n in counts)}."
    of_files = " Two numbers in a cell: two files of that kind and T." if len(measured) > len(cells) else ""
    yield Paragraph(f"{words[0].upper()}{words[1:]}.{of_files}{of_images}")


def _cell(entries: Sequence[Entry], kind: str, timesteps: int) -> str:
    found = [entry for entry in entries if (entry.neuron, entry.point.timesteps) == (kind, timesteps)]
    return " / ".join(percent(entry.point.accuracy) or "" for entry in found)
