"""Builds the report of run folders: results, accuracy or error, early exit, energy, layers, confusions, provenance.

The page has two kinds of curves. *Per T* curves show each file at the T it was balanced for, as in the paper's figures.
*Anytime* curves show one file, read after each step of its run. A chart never contains both kinds, and accuracy charts
never combine results on different images. The page depends only on the run folders: the same folders give the same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import UsageError
from loihi_convert.ground.files import require_output, write_atomically
from loihi_convert.metrics.regression import means
from loihi_convert.report import sections
from loihi_convert.report.entries import Entry, ImageSet, LeftOut, entries_of, family_of, most_complete_of
from loihi_convert.report.page import Card, Cards, Page, PageBlock, Paragraph, Section, html, markdown
from loihi_convert.report.run_tables import R2, error_caption, page_cells, point_cells, worst_output
from loihi_convert.report.table import (
    GRADED_WORK,
    Table,
    count,
    number,
    percent,
    points,
    r_squared,
    table_of,
)
from loihi_convert.runs.run_folder import StoredRun, read_runs

_MARK: Final = b'<meta name="generator" content="loihi-convert">'
"""A line in the head of each page."""


SECTIONS: Final[Mapping[str, tuple[str, Callable[[Sequence[Entry]], Iterable[PageBlock]]]]] = {
    "early-exit": ("Early exit", sections.early_exit),
    "energy": ("Energy and time, estimated", sections.energy),
    "layers": ("Layers", sections.layers),
    "confusion": ("Confused classes", sections.confused_classes),
}
"""The sections on all files together, a line each: its anchor, title and blocks; one without blocks is left out."""


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
        write_atomically(path, content.encode(), overwrite=overwrite)
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
    made = [Section("results", "Results", tuple(result_blocks(entries, left_out)))]
    for index, found in enumerate(groups.values()):
        number, of_data = ("", "") if len(groups) == 1 else (f"-{index + 1}", f": {found[0].images_name}")
        for name, title, chosen in (
            ("accuracy", "Accuracy and latency", [e for e in found if not e.evaluation.regression]),
            ("error", "Error and latency", [e for e in found if e.evaluation.regression]),
        ):
            if chosen:
                made.append(Section(f"{name}{number}", f"{title}{of_data}", tuple(sections.curves(chosen))))
    for name, (title, blocks_of) in SECTIONS.items():
        if contents := tuple(blocks_of(entries)):
            made.append(Section(name, title, contents))
    made.append(Section("provenance", "How it was made", tuple(sections.provenance(shown))))
    title = entries[0].label if len(entries) == 1 else _common_title(entries)
    said = tuple(
        f"{'' if len(groups) == 1 else f'{found[0].images_name}: '}{verdict(found)}" for found in groups.values()
    )
    sets = dict.fromkeys(images.data for images in groups)
    return Page(f"{title} on {' and '.join(sets)}", said, _subtitle(entries), tuple(made))


def _common_title(entries: Sequence[Entry]) -> str:
    families = list(dict.fromkeys(family_of(entry.file) for entry in entries))
    return families[0] if len(families) == 1 else f"{len(entries)} spiking networks"


def _subtitle(entries: Sequence[Entry]) -> str:
    files = "One file" if len(entries) == 1 else f"{len(entries)} files"
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
    return (
        f"{files} run on {images} images with {backends}. "
        f"T is the latency in time steps.{intervals}{'' if entries[0].is_alone else apart}"
    )


MAX_CARDS: Final = 8
"""With more files, the table alone is quicker to read."""


def result_blocks(entries: Sequence[Entry], left_out: Sequence[LeftOut]) -> Iterator[PageBlock]:
    """Yield the cards of a few files, the table of several, the omitted runs, and explanations of the terms."""
    if len(entries) <= MAX_CARDS:
        yield Cards(tuple(_card(entry, is_short=len(entries) > 1) for entry in entries))
    if len(entries) > 1:
        yield _table(entries)
    if left_out:
        runs = (f"{file} in {run.name} ({run.manifest.utc_time[:16].replace('T', ' ')} UTC)" for file, run in left_out)
        yield Paragraph(f"Left out, because the most complete run of a file is shown: {'; '.join(runs)}.")
    regressions = [entry.evaluation.regression for entry in entries if entry.evaluation.regression is not None]
    loss = (
        "Loss: accuracy of the CNN minus accuracy of the exported file, in percentage points; a negative loss is a gain"
    )
    said = [error_caption(max(len(one.output_names) for one in regressions))] if regressions else []
    said += [loss] if len(regressions) < len(entries) else []
    yield Paragraph(
        f"{'. '.join(said)}. Float SNN: the same spiking network in floating point. SynOps (synaptic operations): "
        "nonzero synapses that spikes reach, the measure of work here. On Lava every layer adds a step to T."
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


_FACTS: Final = (
    ("95 % interval", "95 %\ninterval", ""),
    ("CNN", "CNN\n%", " %"),
    ("loss", "loss,\npoints", " points"),
    (R2, f"fixed\n{R2}", ""),
    ("CNN", "CNN\nRMSE", ""),
    ("to the CNN", "RMSE\nto CNN", ""),
)
"""The facts of a card that are known: each with its header in `point_cells`, and its unit."""

_FURTHER_FACTS: Final = (("float SNN", "float\nSNN %", " %"), ("float SNN", "float\nRMSE", ""))
"""Those that only the card of a single file has."""


def _card(entry: Entry, *, is_short: bool) -> Card:
    evaluation, point = entry.evaluation, entry.point
    cells, at, regression = point_cells(evaluation, point), f"at T = {point.timesteps}", evaluation.regression
    sign, missing, headlines = " %", "no labels", ("fixed\npoint %", "same as\nCNN %")
    units = (f"accuracy {at}", f"same class as the CNN {at}; no labels")
    if regression is not None:
        sign, missing, headlines = "", "no targets", ("fixed\nRMSE", "RMSE\nto CNN")
        units = (f"RMSE {at}", f"RMSE to the CNN's outputs; no targets {at}")
    known = ((f"{cells[name]}{sign}", unit) for name, unit in zip(headlines, units, strict=True) if cells[name])
    value, unit = next(known, ("\N{EN DASH}", f"{missing}, no CNN; T = {point.timesteps}"))
    facts = [(name, f"{cells[header]}{sign}") for name, header, sign in _FACTS if cells[header]]
    facts = [(name.removesuffix(" interval") if is_short else name, text) for name, text in facts]
    if regression is not None and (r2 := r_squared(means(regression.cnn)[1])):
        facts.append((f"CNN's {R2}", r2))
    if not is_short:
        facts += [(name, f"{cells[header]}{sign}") for name, header, sign in _FURTHER_FACTS if cells[header]]
        facts += _work_facts(entry)
    return Card(entry.label, entry.style, entry.context, value, unit, tuple(facts))


def _work_facts(entry: Entry) -> Iterator[tuple[str, str]]:
    evaluation, point = entry.evaluation, entry.point
    regression = evaluation.regression
    if regression is not None and (worst := worst_output(regression, regression.at(point.timesteps))):
        yield "worst output", worst.removeprefix("worst output: ")
    yield "synaptic operations per image", count(point.synaptic_operations)
    yield f"{entry.sent} per image", count(point.spikes_per_image)
    if evaluation.has_relays and point.relay_spikes_per_image is not None:
        yield "of these, from relays", count(point.relay_spikes_per_image)
    if (early_exit := evaluation.early_exit) is not None:
        stopped = early_exit.chosen_point
        right = f", accuracy {percent(stopped.accuracy)} %" if stopped.accuracy is not None else ""
        yield "early exit", f"average T {stopped.average_timesteps:.2f}{right}"
    if evaluation.timesteps != point.timesteps:
        yield "made for", f"T = {evaluation.timesteps}"


TOLERANCE: Final = 0.2
"""Points of accuracy below the best file that a file with less work may have and still be preferred."""


def verdict(entries: Sequence[Entry]) -> str:
    """Return the main result: the file with little loss and the least work, or for regressions the smallest error."""
    if any(entry.evaluation.regression is not None for entry in entries):
        return _of_regressions(entries)
    measured = [entry for entry in entries if entry.point.accuracy is not None]
    if not measured:
        return _without_labels(entries)
    # An operation of a graded spike is a multiplication, and pixels are counted.
    has_one_work = len({entry.evaluation.is_graded for entry in measured}) == 1
    best = max(_percent(entry) for entry in measured)
    chosen = min(
        (entry for entry in measured if _percent(entry) >= best - (TOLERANCE if has_one_work else 0)),
        key=lambda entry: (_work(entry) if has_one_work else 0, entry.point.timesteps, -_percent(entry)),
    )
    most = max(measured, key=lambda entry: (_work(entry), entry.point.timesteps))
    images, name = f"{chosen.evaluation.image_count:,} images", _name(chosen, entries)
    if has_one_work and _work(most) > _work(chosen):
        return (
            f"{name} {_loss(chosen)} at {_share(chosen, most)} of the work of {_name(most, entries)}, which "
            f"{_loss(most)} ({images})."
        )
    first = "is the most accurate:" if len(measured) > 1 else "reaches"
    return f"{name} {first} {percent(chosen.point.accuracy)} %{_beside_cnn(chosen)} ({images})."


def _of_regressions(entries: Sequence[Entry]) -> str:
    regressions = [(entry, found) for entry in entries if (found := entry.evaluation.regression) is not None]
    points = [(entry, found, found.at(entry.point.timesteps)) for entry, found in regressions]
    # An error to the targets is not compared with one to the CNN.
    has_targets = all(at.to_targets for _, _, at in points)
    judged = [
        (errors.mean.rmse, entry, found.cnn if has_targets else None)
        for entry, found, at in points
        if (errors := at.to_targets if has_targets else at.to_cnn) is not None
    ]
    if not judged:
        return "Neither targets nor the CNN's outputs are known, so no error is measured."
    rmse, entry, cnn = min(judged, key=lambda one: (one[0], one[1].point.timesteps))
    measure = "RMSE" if has_targets else "RMSE to the CNN's outputs"
    beside = f"; the CNN's RMSE is {number(cnn.mean.rmse)}" if cnn else ""
    least = "" if len(judged) == 1 else ", the smallest of these files"
    reached = f"{_name(entry, entries)} reaches an {measure} of {number(rmse)}"
    return f"{reached}{least}{beside} ({entry.evaluation.image_count:,} images)."


def _without_labels(entries: Sequence[Entry]) -> str:
    known = [entry for entry in entries if entry.point.agreement_with_cnn is not None]
    if not known:
        return "Neither labels nor the CNN's classes are known, so no accuracy is measured."
    best = max(known, key=lambda entry: (entry.point.agreement_with_cnn or 0, -_work(entry)))
    return (
        f"{_name(best, entries)} gives the CNN's class for {percent(best.point.agreement_with_cnn)} % of "
        f"{best.evaluation.image_count:,} images without labels."
    )


def _name(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return the file's T if that identifies it, else also its label."""
    families = {(family_of(one.file), one.neuron, one.evaluation.cnn_accuracy) for one in entries}
    steps = [one.point.timesteps for one in entries]
    own = f"T = {entry.point.timesteps}"
    if len(families) == 1 and len(set(steps)) == len(steps):
        return own
    return entry.label if entry.file.endswith(f"-T{entry.point.timesteps}") else f"{entry.label} ({own})"


def _percent(entry: Entry) -> float:
    return 100 * (entry.point.accuracy or 0)


def _work(entry: Entry) -> float:
    return entry.point.synaptic_operations


def _share(less: Entry, more: Entry) -> str:
    """Return the work of one file as a share of the other's, rounded by less than 7 %: 1/11, or 40 %."""
    ratio = _work(more) / _work(less) if _work(less) else math.inf
    return "none" if ratio == math.inf else f"1/{ratio:.0f}" if ratio >= 7.5 else f"{100 / ratio:.0f} %"


def _loss(entry: Entry) -> str:
    loss = entry.point.conversion_loss_points
    if loss is None:
        return f"reaches {percent(entry.point.accuracy)} %"
    return "loses nothing" if loss == 0 else f"{'gains' if loss < 0 else 'loses'} {points(abs(loss))} points"


def _beside_cnn(entry: Entry) -> str:
    loss = entry.point.conversion_loss_points
    if not loss:
        return "" if loss is None else ", equal to the CNN"
    return f", {points(abs(loss))} points {'above' if loss < 0 else 'below'} the CNN"
