"""Run folders -> one page: figures first, then curves, early exit, layers, confusions, and how it was made.

Two kinds of curves, never mixed. *Per T*: each file at the T it was balanced for, as the paper's figures are.
*Anytime*: one file, read after each step of its run. Runs of different data sets share a page, but no chart of
accuracy. The page depends on the run folders alone: the same folders give the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from loihi_convert.errors import UsageError
from loihi_convert.files import refuse_to_overwrite, write_atomically
from loihi_convert.loihi import NEVER_FIRES
from loihi_convert.results import paper
from loihi_convert.results.axes import curve, timestep_ticks, views
from loihi_convert.results.charts import STYLES, Axes, Chart, Mark, Series, channel_chart, curve_chart, nice_ticks
from loihi_convert.results.early_exit import EarlyExit
from loihi_convert.results.evaluate import Evaluation, Point
from loihi_convert.results.formats import count, percent, percent_interval, points
from loihi_convert.results.page import (
    Block,
    Card,
    Cards,
    Code,
    Details,
    Facts,
    Heading,
    Matrix,
    Page,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    html,
    markdown,
)
from loihi_convert.results.stored_run import ChannelThresholds, StoredRun, read_run

MOST_CLASSES: Final = 40
"""Classes of a confusion matrix that is shown whole."""

_SPAN: Final = 4.0
"""Points of accuracy beyond which a chart has a second panel for what is near the best."""

MOST_CHANNELS: Final = 128
"""Channels of a layer whose values are listed one by one."""

_ALPHA: Final = "\N{GREEK SMALL LETTER ALPHA}"
_PAPER_METHODS: Final = {"act-norm-channelwise": "act-norm by channel", "spike-norm": "spike-norm", "rmp": "RMP-SNN"}


class Written(NamedTuple):
    """The two files of a report."""

    html: Path
    markdown: Path


def write_report(folders: Sequence[Path], output: Path, *, overwrite: bool = False) -> Written:
    """Write the report of the run folders ``folders`` to ``output``, an HTML file, and as Markdown beside it.

    Raises
    ------
    UsageError
        If ``output`` is not called .html.
    InputError
        If a folder cannot be used, or a file exists and ``overwrite`` is off.
    """
    if output.suffix not in (".html", ".htm"):
        raise UsageError(f"-o {output}: the report is an HTML file, with Markdown beside it; give a name in .html.")
    written = Written(output, output.with_suffix(".md"))
    for path in written:
        refuse_to_overwrite(path, overwrite)
    page = report([read_run(folder) for folder in folders])
    contents = (html(page), markdown(page))
    for path, content in zip(written, contents, strict=True):
        write_atomically(path, content.encode())
    return written


def report(runs: Sequence[StoredRun]) -> Page:
    """Return the page of some runs, at least one."""
    entries = _entries(runs)
    sets = list(dict.fromkeys(entry.data for entry in entries))
    sections = [Section("figures", "Figures", tuple(_headline(entries)))]
    for index, data in enumerate(sets):
        name = "accuracy" if len(sets) == 1 else f"accuracy-{index + 1}"
        title = "Accuracy and latency" if len(sets) == 1 else f"Accuracy and latency: {data}"
        sections.append(Section(name, title, tuple(_accuracy([entry for entry in entries if entry.data == data]))))
    for name, title, blocks in (
        ("early-exit", "Early exit", _early_exit(entries)),
        ("layers", "Layers", _layers(entries)),
        ("confusion", "Confusion", _confusion(entries)),
        ("provenance", "How it was made", _provenance(runs)),
    ):
        if found := tuple(blocks):
            sections.append(Section(name, title, found))
    title = entries[0].label if len(entries) == 1 else _common_title(entries)
    return Page(f"{title} on {' and '.join(sets)}", _subtitle(entries, sets), tuple(sections))


@dataclass(frozen=True, eq=False)
class _Entry:
    """One file of one run.

    Parameters
    ----------
    label
        Its name on the page, of which there is one in each data set.
    style
        Colour and shape of its marks.
    is_alone
        Whether the page is about one data set.
    """

    label: str
    style: int
    is_alone: bool
    file: str
    run: StoredRun
    evaluation: Evaluation

    @property
    def data(self) -> str:
        return self.run.manifest.data

    @property
    def full_label(self) -> str:
        """The label where data sets stand together."""
        return self.label if self.is_alone else f"{self.label} on {self.data}"

    @property
    def point(self) -> Point:
        return self.evaluation.own_point

    @property
    def is_per_t(self) -> bool:
        """Whether the run went on to the T that the thresholds are balanced for, and there are labels."""
        return self.point.timesteps == self.evaluation.timesteps and self.point.accuracy is not None


def _entries(runs: Sequence[StoredRun]) -> list[_Entry]:
    """Every file, by data set in the order of the runs, then by T."""
    sets = list(dict.fromkeys(run.manifest.data for run in runs))
    found = [(run.manifest.data, file, run) for run in runs for file in run.evaluations]
    found.sort(key=lambda one: (sets.index(one[0]), one[2].evaluations[one[1]].timesteps))
    names = [(data, file) for data, file, _ in found]
    entries: list[_Entry] = []
    for data, file, run in found:
        # Run folders are called after their first file.
        longer = run.name if run.name.startswith(file) else f"{file}, {run.name}"
        label = file if names.count((data, file)) == 1 else longer
        style = sum(entry.data == data for entry in entries) % STYLES
        entries.append(_Entry(label, style, len(sets) == 1, file, run, run.evaluations[file]))
    return entries


def _common_title(entries: Sequence[_Entry]) -> str:
    families = list(dict.fromkeys(_family(entry.file) for entry in entries))
    return families[0] if len(families) == 1 else f"{len(entries)} spiking networks"


def _family(file: str) -> str:
    """``model`` of ``model-T4``: what `export` calls the files of one network for several T."""
    return re.sub(r"-T\d+$", "", file)


def _subtitle(entries: Sequence[_Entry], sets: Sequence[str]) -> str:
    files = "One exported file" if len(entries) == 1 else f"{len(entries)} exported files"
    names = {"ref": "exact integers (ref)", "sim": "Lava's CPU simulator (sim)"}
    found = dict.fromkeys(entry.run.manifest.backend for entry in entries)
    backends = " and ".join(names.get(backend, backend) for backend in found)
    counts = [entry.evaluation.image_count for entry in entries]
    images = _range([f"{min(counts):,}", f"{max(counts):,}"], " to ")
    apart = " Different data sets stand apart: their accuracies do not compare." if len(sets) > 1 else ""
    return (
        f"{files}, a CNN converted to a spiking network in Loihi's integers, run on {images} images with {backends}. "
        f"T is the latency in time steps; intervals are Wilson's, 95 %.{apart}"
    )


class _Row(NamedTuple):
    """One file at one T."""

    entry: _Entry
    point: Point


class _Column(NamedTuple):
    """A table's column: its header, with line breaks, and what stands in a row, None where that is unknown."""

    header: str
    cell: Callable[[_Row], str | None]


_FILE: Final = _Column("file", lambda row: row.entry.label)
_DATA: Final = _Column("data", lambda row: row.entry.data)
_IMAGES: Final = _Column("images", lambda row: f"{row.entry.evaluation.image_count:,}")
_POINT_COLUMNS: Final = (
    _Column("T", lambda row: str(row.point.timesteps)),
    _Column("T +\ndepth", lambda row: str(row.point.global_steps)),
    _Column("accuracy\n%", lambda row: percent(row.point.accuracy)),
    _Column("95 %\ninterval", lambda row: percent_interval(row.point.accuracy_interval)),
    _Column("CNN\n%", lambda row: percent(row.entry.evaluation.cnn_accuracy)),
    _Column("loss,\npoints", lambda row: points(row.point.conversion_loss_points)),
    _Column("real\nnumbers %", lambda row: percent(row.point.float_accuracy)),
    _Column("same as\nCNN %", lambda row: percent(row.point.agreement_with_cnn)),
    _Column("spikes\n/image", lambda row: count(row.point.spikes_per_image)),
    _Column("SynOps\n/image", lambda row: count(row.point.synaptic_operations)),
)


def _table(caption: str, columns: Sequence[_Column], rows: Sequence[_Row], *, text_columns: int) -> Table:
    """A table of the columns of which anything is known."""
    cells = [(column.header, [column.cell(row) for row in rows]) for column in columns]
    known = [(header, texts) for header, texts in cells if any(text is not None for text in texts)]
    body = zip(*([text or "" for text in texts] for _, texts in known), strict=True)
    return Table(caption, tuple(header for header, _ in known), tuple(body), text_columns)


def _headline(entries: Sequence[_Entry]) -> Iterator[Block]:
    yield Cards(tuple(_card(entry, is_short=len(entries) > 1) for entry in entries))
    if len(entries) > 1:
        rows = [_Row(entry, entry.point) for entry in entries]
        words = (_FILE,) if entries[0].is_alone else (_FILE, _DATA)
        columns = (*words, _IMAGES, *_POINT_COLUMNS)
        caption = "Each file at the T it is balanced for, or the last T of its run"
        yield _table(caption, columns, rows, text_columns=len(words))
    yield Paragraph(
        "Conversion loss: accuracy of the CNN minus that of the exported file, in percentage points; a negative loss "
        "is a gain. Real numbers: the same spiking network before rounding to Loihi's integers. SynOps, synaptic "
        "operations: synapses of nonzero weight that spikes reach. On Lava every layer adds a step to T."
    )


def _card(entry: _Entry, *, is_short: bool) -> Card:
    evaluation, point = entry.evaluation, entry.point
    value, unit = percent(point.accuracy), f"right at T = {point.timesteps}"
    if value is None:
        value, unit = percent(point.agreement_with_cnn), f"the CNN's class at T = {point.timesteps}; no labels"
    if value is None:
        unit = f"no labels, no CNN; T = {point.timesteps}"
    facts = [
        ("95 % interval", percent_interval(point.accuracy_interval)),
        ("CNN", _with_unit(percent(evaluation.cnn_accuracy), "%")),
        ("conversion loss", _with_unit(points(point.conversion_loss_points), "points")),
        ("in real numbers", _with_unit(percent(point.float_accuracy), "%")),
        ("synaptic operations an image", count(point.synaptic_operations)),
        ("spikes an image", count(point.spikes_per_image)),
    ]
    if (early_exit := evaluation.early_exit) is not None:
        stopped = early_exit.chosen_point
        right = f", {percent(stopped.accuracy)} % right" if stopped.accuracy is not None else ""
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


def _accuracy(entries: Sequence[_Entry]) -> Iterator[Block]:
    """Curves of the runs of one data set."""
    cnn = {100 * a for e in entries if (a := e.evaluation.cnn_accuracy) is not None}
    levels = tuple((value, f"the CNN, {value:.2f} %") for value in sorted(cnn))
    has_accuracy = all(entry.point.accuracy is not None for entry in entries)
    measure = "accuracy, %" if has_accuracy else "agreement with the CNN's class, %"
    if (chart := _per_t_chart(entries, levels)) is not None:
        yield Picture(chart)
    if (table := _paper_table(entries)) is not None:
        yield table
        yield Paragraph(" ".join(_paper_remarks(entries)))
    if (chart := _anytime_chart(entries, levels, measure, has_accuracy)) is not None:
        yield Picture(chart)
    if (chart := _work_chart(entries, levels, measure, has_accuracy)) is not None:
        yield Picture(chart)
    tables = tuple(
        _table(
            f"{entry.label}, balanced for T = {entry.evaluation.timesteps}: anytime, read after each step of one run",
            _POINT_COLUMNS,
            [_Row(entry, point) for point in entry.evaluation.points],
            text_columns=0,
        )
        for entry in entries
    )
    yield from tables if len(tables) == 1 else [Details("The curves as tables", tables)]


def _per_t_chart(entries: Sequence[_Entry], levels: tuple[tuple[float, str], ...]) -> Chart | None:
    """Ours beside the paper's at the T of each file; None where one point would stand alone."""
    drawn = [entry for entry in entries if entry.is_per_t]
    rows = [row for row in _paper_rows(entries[0].data) if row.kind == "own"]
    if not drawn or (len(drawn) == 1 and not rows):
        return None
    series = []
    for style, family in enumerate(_families(drawn)):
        marks = tuple(
            Mark(
                entry.point.timesteps,
                100 * (entry.point.accuracy or 0),
                f"{entry.label}, T = {entry.point.timesteps}: {percent(entry.point.accuracy)} %",
                *(100 * end for end in entry.point.accuracy_interval or ()),
            )
            for entry in family.entries
        )
        series.append(Series(family.label, style % STYLES, marks))
    for style, row in zip((-1, -2), rows, strict=False):
        marks = tuple(Mark(t, value, f"{row.label}, T = {t}: {value:.2f} %") for t, value in row.cells.items())
        series.append(Series(row.label, style, marks, ("dotted", "dashed")[-style - 1]))
    caption = "One file per T, each read at the T its thresholds are balanced for; bars are 95 % intervals."
    if rows:
        caption += " Hollow: the paper's figures, of its own CNN."
    return _accuracy_chart("Accuracy at each file's own T", caption, series, levels, "accuracy, %")


def _anytime_chart(
    entries: Sequence[_Entry], levels: tuple[tuple[float, str], ...], measure: str, has_accuracy: bool
) -> Chart | None:
    series = []
    for entry in entries:
        marks = _marks(entry, lambda point: float(point.timesteps), has_accuracy)
        if marks:
            own = float(entry.point.timesteps)
            line = "solid" if entry.style < 4 else "dashed"
            label = f"{entry.label}, for T = {entry.evaluation.timesteps}"
            if len(entries) > 1:
                marks = tuple(mark._replace(low=None, high=None) for mark in marks)
            series.append(Series(label, entry.style, marks, line, True, own))
    if len(entries) == 1 and has_accuracy:
        real = tuple(
            Mark(p.timesteps, 100 * p.float_accuracy, f"real numbers, T = {p.timesteps}: {percent(p.float_accuracy)} %")
            for p in entries[0].evaluation.points
            if p.float_accuracy is not None
        )
        if real:
            series.append(Series("the same in real numbers", 1, real, "dashed"))
    if not series:
        return None
    of_bands = " The band is the 95 % interval." if len(entries) == 1 else ""
    caption = (
        "Anytime: one run of each file, read after each step; the large mark is the T that its thresholds are balanced "
        f"for.{of_bands}"
    )
    return _accuracy_chart("If you stop the run early", caption, series, levels, measure)


def _accuracy_chart(
    title: str,
    caption: str,
    series: Sequence[Series],
    levels: tuple[tuple[float, str], ...],
    measure: str,
    x_label: str = "latency T, time steps",
) -> Chart:
    """A chart over T: the whole of it and, where that hides what happens near the top, that enlarged."""
    curves = [
        found
        for one in series
        if (found := curve(one.label, [(m.x, m.y / 100, _interval(m)) for m in one.marks])) is not None
    ]
    shown = views(curves, [value for value, _ in levels], span=_SPAN)
    steps = sorted({timesteps for one in curves for timesteps in one.timesteps})
    # An average T is no whole number.
    whole = {t for t in steps if t == int(t)}
    whole |= {2.0**exponent for exponent in range(64) if steps[0] <= 2**exponent <= steps[-1]}
    panels = tuple(
        Axes(
            x_label if index == 0 else f"{x_label} (enlarged)",
            measure,
            view.first_timesteps / 1.15,
            max(steps[-1], 2 * view.first_timesteps) * 1.15,
            view.bottom,
            view.top,
            tuple(timestep_ticks(sorted(whole), view.first_timesteps)),
            levels,
        )
        for index, view in enumerate(shown)
    )
    return curve_chart(title, caption, series, panels)


def _interval(mark: Mark) -> tuple[float, float] | None:
    return None if mark.low is None or mark.high is None else (mark.low / 100, mark.high / 100)


def _marks(entry: _Entry, x: Callable[[Point], float], has_accuracy: bool) -> tuple[Mark, ...]:
    marks = []
    for point in entry.evaluation.points:
        fraction = point.accuracy if has_accuracy else point.agreement_with_cnn
        if fraction is not None and x(point) > 0:
            text = (
                f"{entry.label}, T = {point.timesteps}: {percent(fraction)} %, "
                f"{count(point.synaptic_operations)} SynOps an image"
            )
            interval = point.accuracy_interval if has_accuracy else None
            marks.append(Mark(x(point), 100 * fraction, text, *(100 * end for end in interval or ())))
    return tuple(marks)


def _work_chart(
    entries: Sequence[_Entry], levels: tuple[tuple[float, str], ...], measure: str, has_accuracy: bool
) -> Chart | None:
    """Accuracy against synaptic operations, near the top; None where no spikes reach a synapse."""
    series = []
    for entry in entries:
        marks = tuple(
            mark._replace(low=None, high=None)
            for mark in _marks(entry, lambda point: point.synaptic_operations, has_accuracy)
        )
        if marks:
            own = entry.point.synaptic_operations
            line = "solid" if entry.style < 4 else "dashed"
            series.append(Series(entry.label, entry.style, marks, line, False, own))
    every = [mark for one in series for mark in one.marks]
    if len(every) < 2 or min(mark.x for mark in every) == max(mark.x for mark in every):
        return None
    bottom, best = min(mark.y for mark in every), max(mark.y for mark in every)
    low = max(bottom, best - 10) - 0.08 * max(best - max(bottom, best - 10), 0.5)
    # A CNN far above would press the curves together.
    best = max([best, *(value for value, _ in levels if value <= best + 10)])
    left, right = min(m.x for m in every if m.y >= low) / 1.2, max(mark.x for mark in every) * 1.2
    cut = " Points more than ten below the best are not shown." if bottom < best - 10 else ""
    caption = f"The same points by the work they take: every T of each run, the large mark at its own T.{cut}"
    axes = Axes(
        "synaptic operations an image",
        measure,
        left,
        right,
        low,
        best + 0.06 * (best - low),
        tuple(_decade_ticks(left, right)),
        levels,
    )
    return curve_chart("What accuracy costs", caption, series, [axes])


def _decade_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within a range, or round values where it is too short for these."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return ticks if len(ticks) >= 2 else [tick for tick in nice_ticks(low, high, 4) if tick > 0]


class _Family(NamedTuple):
    """Files of one network for several T: one row of the table beside the paper's, one curve."""

    label: str
    entries: tuple[_Entry, ...]


def _families(entries: Sequence[_Entry]) -> list[_Family]:
    """The files that are called alike but for their T and run on as many images; two of one T stand apart."""
    rows: list[tuple[tuple[str, int], dict[int, _Entry]]] = []
    for entry in entries:
        key = (_family(entry.file), entry.evaluation.image_count)
        place = next((row for known, row in rows if known == key and entry.point.timesteps not in row), None)
        if place is None:
            place = {}
            rows.append((key, place))
        place[entry.point.timesteps] = entry
    names = [key[0] for key, _ in rows]
    return [
        _Family(
            key[0] if len(row) > 1 and names.count(key[0]) == 1 else next(iter(row.values())).label,
            tuple(entry for _, entry in sorted(row.items())),
        )
        for key, row in rows
    ]


class _PaperRow(NamedTuple):
    """One row of the paper: a number at each T. It is of its own method, of another, or the best factor alpha."""

    label: str
    kind: Literal["own", "other", "alpha"]
    cells: dict[int, float]


def _paper_rows(data: str) -> list[_PaperRow]:
    """The paper's rows of a data set: its method with alpha 1 and with the best alpha, and the methods beside it."""
    own: dict[int, dict[float, float]] = {}
    others: dict[str, dict[int, float]] = {}
    for cell in paper.cells():
        if cell.data != data or cell.accuracy is None or cell.timesteps is None or cell.alpha is None:
            continue
        if cell.method == "ngu-lee" and cell.reset == "soft":
            own.setdefault(cell.timesteps, {})[cell.alpha] = cell.accuracy
        elif cell.table in ("2", "3"):
            others.setdefault(cell.method, {})[cell.timesteps] = cell.accuracy
    own = dict(sorted(own.items()))
    rows = [_PaperRow(f"paper: {_ALPHA} = 1", "own", {t: by[1.0] for t, by in own.items() if 1.0 in by})]
    if any(len(by) > 1 for by in own.values()):
        # Of equal accuracies, the larger alpha.
        best = {t: max((accuracy, alpha) for alpha, accuracy in by.items()) for t, by in own.items()}
        rows.append(_PaperRow(f"paper: best {_ALPHA}", "own", {t: accuracy for t, (accuracy, _) in best.items()}))
        rows.append(_PaperRow(f"paper: that {_ALPHA}", "alpha", {t: alpha for t, (_, alpha) in best.items()}))
    for method, cells in others.items():
        rows.append(_PaperRow(f"paper: {_PAPER_METHODS.get(method, method)}", "other", cells))
    return [row for row in rows if row.cells]


def _paper_cnn(data: str) -> float | None:
    return next((cell.accuracy for cell in paper.cells() if cell.data == data and cell.method == paper.CNN), None)


def _paper_table(entries: Sequence[_Entry]) -> Table | None:
    rows = _paper_rows(entries[0].data)
    families = _families([entry for entry in entries if entry.is_per_t])
    if not rows or not families:
        return None
    steps = sorted(
        {entry.point.timesteps for family in families for entry in family.entries}
        | {t for row in rows for t in row.cells}
    )
    body = []
    for family in families:
        cells = {entry.point.timesteps: percent(entry.point.accuracy) for entry in family.entries}
        cnn = sorted({percent(entry.evaluation.cnn_accuracy) or "" for entry in family.entries} - {""})
        body.append((f"ours: {family.label}", ", ".join(cnn), *(cells.get(t) or "" for t in steps)))
    paper_cnn = _paper_cnn(entries[0].data)
    for row in rows:
        form = "g" if row.kind == "alpha" else ".2f"
        texts = (format(row.cells[t], form) if t in row.cells else "" for t in steps)
        body.append((row.label, f"{paper_cnn:.2f}" if row.kind == "own" and paper_cnn is not None else "", *texts))
    headers = ("accuracy, %", "CNN", *(f"T = {t}" for t in steps))
    return Table("Beside the paper (Ngu & Lee 2022), each at the T it is balanced for", headers, tuple(body), 1)


def _paper_remarks(entries: Sequence[_Entry]) -> Iterator[str]:
    yield "An empty cell: not measured here, or not in the paper."
    if counts := sorted({entry.evaluation.image_count for entry in entries if entry.is_per_t} - {10_000}):
        yield (
            "The paper's figures are of all 10,000 test images; of ours some are of "
            f"{' or '.join(f'{n:,}' for n in counts)}."
        )
    if early := [entry.label for entry in entries if entry.evaluation.timesteps > entry.point.timesteps]:
        yield f"Left out, because its run ended before the T it is balanced for: {', '.join(early)}."
    if entries[0].data == "cifar10":
        yield "The paper's CIFAR-10 network is a VGG-16; another CNN is not comparable with it."


def _early_exit(entries: Sequence[_Entry]) -> Iterator[Block]:
    known = [(entry, early) for entry in entries if (early := entry.evaluation.early_exit) is not None]
    if not known:
        return
    choice = known[0][1].choice
    measure = "points of accuracy" if choice.by_labels else "% of the classes after T"
    yield Paragraph(
        "Each image stops as soon as the first class leads the second by a margin. The margin chosen is the smallest "
        f"that costs at most {choice.tolerance_points:g} {measure} on {choice.image_count:,} {choice.split} images, "
        "which are not among those of this report."
    )
    for data in dict.fromkeys(entry.data for entry, _ in known):
        if (chart := _early_exit_chart([pair for pair in known if pair[0].data == data], data)) is not None:
            yield Picture(chart)
    rows = []
    for entry, early in known:
        point, last = early.chosen_point, early.points[-1]
        rows.append(
            (
                entry.full_label,
                str(early.choice.timesteps),
                f"{early.choice.margin:,}",
                f"{point.average_timesteps:.2f}",
                f"{point.median_timesteps}, {point.percentile_95_timesteps}",
                percent(last.accuracy) or "",
                percent(point.accuracy) or "",
                percent_interval(point.accuracy_interval) or "",
                percent(point.agreement_with_last) or "",
                percent(early.synaptic_operations_saved) or "",
            )
        )
    headers = (
        *("file", "T", "margin", "average\nT", "half, 95 %\nstop by T", "at T\n%", "early\n%", "95 %\ninterval"),
        *("same as\nat T %", "SynOps\nsaved %"),
    )
    yield Table("Early exit with the chosen margin; on Lava the depth is added to each T", headers, tuple(rows))


def _early_exit_chart(known: Sequence[tuple[_Entry, EarlyExit]], data: str) -> Chart | None:
    series = []
    for entry, early in known:
        marks = []
        for point in early.points:
            fraction = point.agreement_with_last if point.accuracy is None else point.accuracy
            margin = "no margin" if point.margin is None else f"margin {point.margin:,}"
            text = f"{entry.label}, {margin}: average T {point.average_timesteps:.2f}, {percent(fraction)} %"
            marks.append(Mark(point.average_timesteps, 100 * fraction, text))
        line = "solid" if entry.style < 4 else "dashed"
        own = early.chosen_point.average_timesteps
        series.append(Series(entry.label, entry.style, tuple(marks), line, False, own))
    every = [mark for one in series for mark in one.marks]
    if len({mark.x for mark in every}) < 2:
        return None
    measure = "accuracy, %" if known[0][1].points[0].accuracy is not None else "same class as after T, %"
    caption = f"{data}: one point for each margin; the large mark is the chosen one."
    return _accuracy_chart("Accuracy against average T", caption, series, (), measure, "average T, time steps")


def _layers(entries: Sequence[_Entry]) -> Iterator[Block]:
    missing = sorted({e.run.name for e in entries if e.run.firing_rates is None or e.run.thresholds is None})
    if missing:
        yield Paragraph(
            f"Firing rates and thresholds of channels are left out for {', '.join(missing)}: the run is of a version "
            "that did not record them. Run the files again."
        )
    groups: dict[tuple[str, tuple[tuple[str, int], ...]], list[_Entry]] = {}
    for entry in entries:
        shape = tuple((layer.name, layer.neuron_count) for layer in entry.evaluation.layers)
        groups.setdefault((entry.data, shape), []).append(entry)
    for (data, shape), group in groups.items():
        if len(groups) > 1:
            yield Heading(f"{data}: {', '.join(entry.label for entry in group)}")
        for name, _ in shape:
            charts = tuple(
                chart for chart in (_rate_chart(group, name), _threshold_chart(group, name)) if chart is not None
            )
            if charts:
                yield Pictures(charts)
        tables = tuple(_layer_table(entry) for entry in group)
        yield from tables if len(tables) == 1 else [Details("Each layer's rates, thresholds and work", tables)]
        lists = tuple(
            table for entry in group for name, _ in shape if (table := _channel_table(entry, name)) is not None
        )
        if lists:
            yield Details("Every channel's firing rate and threshold", lists)


def _rates(entry: _Entry, layer: str) -> tuple[float, ...] | None:
    rates = entry.run.firing_rates
    return None if rates is None else rates.get((entry.file, layer, entry.point.timesteps))


def _neurons(entry: _Entry, layer: str) -> ChannelThresholds | None:
    return None if entry.run.thresholds is None else entry.run.thresholds.get((entry.file, layer))


def _rate_chart(group: Sequence[_Entry], layer: str) -> Chart | None:
    values = [
        (f"{e.label}, T = {e.point.timesteps}", e.style, [100 * rate for rate in rates])
        for e in group
        if (rates := _rates(e, layer)) is not None
    ]
    if not values:
        return None
    at = f"at T = {group[0].point.timesteps}" if len(values) == 1 else "each file at its own T"
    caption = f"Spikes of a channel's neurons / T, mean over neurons and images; {at}."
    return channel_chart(f"{layer}: firing rate", caption, "rate, %", values, number=lambda rate: f"{rate:.2f} %")


def _threshold_chart(group: Sequence[_Entry], layer: str) -> Chart | None:
    values: list[tuple[str, int, list[float | None]]] = [
        (f"{entry.label}, for T = {entry.evaluation.timesteps}", entry.style, list(_real_thresholds(neurons)))
        for entry in group
        if (neurons := _neurons(entry, layer)) is not None
    ]
    if not values or all(value is None for _, _, numbers in values for value in numbers):
        return None
    caption = "In units of the CNN's activations, before rounding to Loihi's integers."
    return channel_chart(f"{layer}: threshold", caption, "threshold", values)


def _real_thresholds(neurons: ChannelThresholds) -> Iterator[float | None]:
    """What the integers were rounded from or, where the file does not say so, are worth; None: never fires."""
    for integer, real, scale in zip(neurons.integers, neurons.real, neurons.scales, strict=True):
        if real is None:
            yield None if integer >= NEVER_FIRES else integer * scale
        else:
            yield real


def _layer_table(entry: _Entry) -> Table:
    point, layers = entry.point, entry.evaluation.layers
    rows = []
    # Behind the last layer is no synapse; where it only integrates, it has no firing rate either.
    reached = ("", *(f"{operations:,.0f}" for operations in point.synaptic_operations_per_layer))
    for index, layer in enumerate(layers):
        spikes = index < len(point.firing_rate)
        rates, neurons = _rates(entry, layer.name), _neurons(entry, layer.name)
        rows.append(
            (
                layer.name,
                f"{layer.neuron_count:,}",
                (percent(point.firing_rate[index]) or "") if spikes else "",
                _range([percent(rate) or "" for rate in (min(rates), max(rates))]) if rates else "",
                str(sum(rate == 0 for rate in rates)) if rates else "",
                _range([f"{n:,}" for n in (min(neurons.integers), max(neurons.integers))])
                if neurons
                else ""
                if spikes
                else "only integrates",
                reached[index] if index < len(reached) else "",
                f"{layer.multiply_accumulates:,}",
            )
        )
    headers = (
        *("layer", "neurons", "firing\nrate %", "of channels\n%", "silent\nchannels", "thresholds,\nintegers"),
        *("SynOps\n/image", "CNN's MACs\n/image"),
    )
    caption = (
        f"{entry.full_label} at T = {point.timesteps}. SynOps: synapses of the layer reached by the spikes of the one "
        "before it; the first layer receives pixels at every step"
    )
    return Table(caption, headers, tuple(rows))


def _range(ends: Sequence[str], to: str = "..") -> str:
    return ends[0] if ends[0] == ends[1] else to.join(ends)


def _channel_table(entry: _Entry, layer: str) -> Table | None:
    rates, neurons = _rates(entry, layer), _neurons(entry, layer)
    if rates is None or neurons is None or len(rates) > MOST_CHANNELS:
        return None
    rows = tuple(
        (str(channel), percent(rate) or "", f"{integer:,}", "never fires" if real is None else f"{real:.4g}", f"{v0:,}")
        for channel, (rate, integer, real, v0) in enumerate(
            zip(rates, neurons.integers, _real_thresholds(neurons), neurons.initial_potentials, strict=True)
        )
    )
    headers = ("channel", "firing\nrate %", "threshold,\ninteger", "threshold,\nreal", "initial\npotential")
    return Table(f"{entry.full_label}, {layer}, at T = {entry.point.timesteps}", headers, rows, 0)


def _confusion(entries: Sequence[_Entry]) -> Iterator[Block]:
    known = [(entry, found) for entry in entries if (found := entry.run.confusions.get(entry.file)) is not None]
    blocks: list[tuple[_Entry, Block]] = []
    for entry, found in known:
        wrong = int(found.counts.sum() - found.counts.trace())
        confused = sorted(
            (
                (int(found.counts[row, column]), found.classes[row], found.classes[column])
                for row, column in zip(*found.counts.nonzero(), strict=True)
                if row != column
            ),
            key=lambda one: -one[0],
        )[:5]
        often = "; ".join(f"{is_} taken for {got} ({n})" for n, is_, got in confused)
        told = f"{entry.full_label} at T = {found.timesteps}: {wrong:,} of {int(found.counts.sum()):,} images wrong"
        told += f". Most often: {often}." if confused else "."
        if len(found.classes) <= MOST_CLASSES:
            caption = f"{told} Rows: what an image is; columns: the class it got; empty: none"
            blocks.append((entry, Matrix(caption, found)))
        else:
            blocks.append((entry, Paragraph(f"{told} {len(found.classes)} classes are too many for a matrix here.")))
    if len(blocks) == 1:
        yield blocks[0][1]
    else:
        for index, (entry, block) in enumerate(blocks):
            if index == 0:
                yield block
            else:
                yield Details(entry.full_label, (block,))


def _provenance(runs: Sequence[StoredRun]) -> Iterator[Block]:
    if len(runs) == 1:
        yield from _how_it_was_made(runs[0])
    else:
        for run in runs:
            yield Details(run.name, tuple(_how_it_was_made(run)))


def _how_it_was_made(run: StoredRun) -> Iterator[Block]:
    manifest = run.manifest
    versions = {**manifest.packages, **manifest.backend_versions}
    facts = (
        ("run folder", run.name),
        ("command", " ".join(manifest.command_line)),
        ("finished", manifest.utc_time),
        ("backend", manifest.backend + (f", layout {manifest.lava_layout}" if manifest.lava_layout else "")),
        ("data", manifest.data),
        ("Python", manifest.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("platform", manifest.platform),
    )
    yield Facts(facts)
    columns = {
        "balanced by": ("balance", "method"),
        "initial\npotential": ("balance", "initial_potential"),
        "reset": ("balance", "reset"),
        "weight\nbits": ("quantize", "weight_bits"),
        "pixel\nbits": ("quantize", "pixel_bits"),
        "CNN": ("model", "architecture"),
        "made from": ("model", "file"),
    }
    rows = tuple(
        (file.name, *(_recorded(run, Path(file.name).stem, *keys) for keys in columns.values()), file.sha256)
        for file in manifest.files
    )
    yield Table("Files of this run", ("file", *columns, "SHA-256"), rows, len(columns) + 2)
    whole = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    yield Details("The whole manifest, with all that is recorded of each file", (Code(whole),))


def _recorded(run: StoredRun, file: str, stage: str, key: str) -> str:
    """What the provenance of a file says, if it says so; other versions record other things."""
    found = run.manifest.provenance.get(file, {}).get(stage)
    value = found.get(key) if isinstance(found, dict) else None
    return "" if value is None else str(value)
