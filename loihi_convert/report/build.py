"""Builds the report of run folders: results, accuracy or error, early exit, energy, layers, confusions, provenance.

The page has two kinds of curves. *Per T* curves show each file at the T it was balanced for, as in the paper's figures.
*Anytime* curves show one file, read after each step of its run. A chart never contains both kinds, and accuracy charts
never combine results on different images. The page depends only on the run folders: the same folders give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import UsageError
from loihi_convert.ground.files import require_output, write_atomically
from loihi_convert.report import curves_section, further_sections, results_section
from loihi_convert.report.entries import Entry, ImageSet, entries_of, family_of, most_complete_of
from loihi_convert.report.page import Page, Section, html, markdown
from loihi_convert.runs.stored_run import StoredRun, read_runs

_MARK: Final = b'<meta name="generator" content="loihi-convert">'
"""A line in the head of each page."""


class Written(NamedTuple):
    """The two files of a report."""

    html: Path
    markdown: Path


def write_report(folders: Sequence[Path], output: Path, *, overwrite: bool = False) -> Written:
    """Write the report of the run folders ``folders`` to ``output``, an HTML file, and a Markdown file next to it.

    Raises
    ------
    UsageError
        If ``output`` does not end in .html.
    InputError
        If a folder cannot be used, or a file cannot be written, or exists and ``overwrite`` is off.
    """
    if output.suffix not in (".html", ".htm"):
        raise UsageError(
            f"found {output}", where="output", expected="must end in .html; the Markdown is written beside it"
        )
    runs = read_runs(folders)
    written = Written(output, output.with_suffix(".md"))
    for path in written:
        require_output(path, overwrite)
    page = report(runs)
    contents = (html(page), markdown(page))
    for path, content in zip(written, contents, strict=True):
        write_atomically(path, content.encode())
    return written


def is_report(path: Path) -> bool:
    """Return whether there is a page at ``path`` that this package wrote."""
    try:
        with path.open("rb") as stream:
            return _MARK in stream.read(1000)
    except OSError:
        return False


def report(runs: Sequence[StoredRun]) -> Page:
    """Return the page of one or more runs; if a file has several runs, only the most complete is shown."""
    shown, left_out = most_complete_of(runs)
    entries = entries_of(shown)
    groups: dict[ImageSet, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.images, []).append(entry)
    sections = [Section("results", "Results", tuple(results_section.blocks(entries, left_out)))]
    for index, found in enumerate(groups.values()):
        number, of_data = ("", "") if len(groups) == 1 else (f"-{index + 1}", f": {found[0].images_name}")
        for name, title, chosen in (
            ("accuracy", "Accuracy and latency", [e for e in found if not e.evaluation.regression]),
            ("error", "Error and latency", [e for e in found if e.evaluation.regression]),
        ):
            if chosen:
                sections.append(Section(f"{name}{number}", f"{title}{of_data}", tuple(curves_section.blocks(chosen))))
    for name, title, blocks in (
        ("early-exit", "Early exit", further_sections.early_exit(entries)),
        ("energy", "Energy and time, estimated", further_sections.energy(entries)),
        ("layers", "Layers", further_sections.layers(entries)),
        ("confusion", "Confused classes", further_sections.confused_classes(entries)),
        ("provenance", "How it was made", further_sections.provenance(shown)),
    ):
        if contents := tuple(blocks):
            sections.append(Section(name, title, contents))
    title = entries[0].label if len(entries) == 1 else _common_title(entries)
    said = tuple(
        f"{'' if len(groups) == 1 else f'{found[0].images_name}: '}{results_section.verdict(found)}"
        for found in groups.values()
    )
    sets = dict.fromkeys(images.data for images in groups)
    return Page(f"{title} on {' and '.join(sets)}", said, _subtitle(entries), tuple(sections))


def _common_title(entries: Sequence[Entry]) -> str:
    families = list(dict.fromkeys(family_of(entry.file) for entry in entries))
    return families[0] if len(families) == 1 else f"{len(entries)} spiking networks"


def _subtitle(entries: Sequence[Entry]) -> str:
    files = "One exported file" if len(entries) == 1 else f"{len(entries)} exported files"
    names = {"ref": "exact integers (ref)", "sim": "Lava's CPU simulator (sim)", "loihi2": "a Loihi 2 board (loihi2)"}
    found = dict.fromkeys(entry.run.manifest.backend for entry in entries)
    backends = " and ".join(names.get(backend, backend) for backend in found)
    counts = [entry.evaluation.image_count for entry in entries]
    fewest, most = min(counts), max(counts)
    images = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    has_classes = any(entry.evaluation.regression is None for entry in entries)
    intervals = " Intervals are Wilson's, 95 %." if has_classes else ""
    measures = "accuracies" if has_classes else "errors"
    apart = f" Results on different images are shown separately: do not compare their {measures}."
    are_ours = [entry.is_balanced for entry in entries]
    what = "a CNN converted to a spiking network in Loihi's integers" if all(are_ours) else "spiking networks"
    what = what if any(are_ours) else "made by another tool"
    return (
        f"{files}: {what}, run on {images} images with {backends}. "
        f"T is the latency in time steps.{intervals}{'' if entries[0].is_alone else apart}"
    )
