"""Compares each file, at the T it is balanced for, with the paper's results at that T: a chart, a table, remarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from loihi_convert.report import paper
from loihi_convert.report.chart import NEUTRAL, PAPER, Chart, CnnLevels, Mark, Series, timestep_chart
from loihi_convert.report.entries import Entry, by_network, family_of
from loihi_convert.report.run_tables import per_t_caption
from loihi_convert.report.table import Table, percent, percent_ends

_ALPHA: Final = "\N{GREEK SMALL LETTER ALPHA}"
_PAPER_METHODS: Final = {"act-norm-channelwise": "act-norm by channel", "spike-norm": "spike-norm", "rmp": "RMP-SNN"}


def per_t_chart(entries: Sequence[Entry], levels: CnnLevels) -> Chart | None:
    """Return the chart of these files and the paper's results, each at its T; None if there is only one point."""
    drawn = [entry for entry in entries if entry.is_per_t]
    rows = [row for row in _paper_rows(entries[0].data) if row.kind == "own"]
    if not drawn or (len(drawn) == 1 and not rows):
        return None
    series = []
    for index, family in enumerate(families(drawn)):
        files = [(entry, _own_mark(entry)) for entry in family.entries]
        if len(files) > 1:
            line = ("solid", "dashed", "dotted")[index % 3]
            joined = tuple(mark._replace(low=None, high=None) for _, mark in files)
            series.append(Series(f"{family.label}, by T", NEUTRAL, joined, line, is_line_only=True))
        series += [Series(entry.label, entry.style, (mark,), "", emphasised=mark.x) for entry, mark in files]
    for style, row in zip(PAPER, rows, strict=False):
        marks = tuple(Mark(t, value, f"{row.label}, T = {t}: {value:.2f} %") for t, value in row.cells.items())
        series.append(Series(row.label, style, marks, ("dotted", "dashed")[-style - 1]))
    is_balanced = all(entry.is_balanced for entry in drawn)
    caption = per_t_caption([entry.evaluation for entry in drawn], is_balanced=is_balanced)
    caption = f"{caption[0].upper()}{caption[1:]}; bars are 95 % intervals."
    if rows:
        caption += " Hollow: the paper's results, with its own CNN."
    return timestep_chart("Accuracy at each file's own T", caption, series, levels, "accuracy, %")


def _own_mark(entry: Entry) -> Mark:
    low, high = percent_ends(entry.point.accuracy_interval)
    return Mark(
        entry.point.timesteps,
        100 * (entry.point.accuracy or 0),
        f"{entry.label}, T = {entry.point.timesteps}: {percent(entry.point.accuracy)} %",
        low,
        high,
    )


def paper_table(entries: Sequence[Entry]) -> Table | None:
    """Return a table of these files above the paper's results, one column per T; None if either has no row."""
    rows = _paper_rows(entries[0].data)
    own = families([entry for entry in entries if entry.is_per_t])
    if not rows or not own:
        return None
    steps = sorted(
        {entry.point.timesteps for family in own for entry in family.entries} | {t for row in rows for t in row.cells}
    )
    body = []
    for family in own:
        cells = {entry.point.timesteps: percent(entry.point.accuracy) for entry in family.entries}
        cnn = sorted({percent(entry.evaluation.cnn_accuracy) or "" for entry in family.entries} - {""})
        body.append((f"ours: {family.label}", ", ".join(cnn), *(cells.get(t) or "" for t in steps)))
    paper_cnn = paper.cnn_accuracy(entries[0].data)
    for row in rows:
        form = "g" if row.kind == "alpha" else ".2f"
        texts = (format(row.cells[t], form) if t in row.cells else "" for t in steps)
        body.append((row.label, f"{paper_cnn:.2f}" if row.kind == "own" and paper_cnn is not None else "", *texts))
    headers = ("accuracy, %", "CNN", *(f"T = {t}" for t in steps))
    return Table("Compared with the paper (Ngu & Lee 2022), each file at its own T", headers, tuple(body), 1)


def paper_remarks(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the remarks needed to compare these files with the paper."""
    yield "Empty cells: not measured here, or not in the paper."
    if (count := entries[0].evaluation.image_count) != 10_000:
        yield f"The paper's results are for all 10,000 test images; the results here are for {count:,}."
    if early := [entry.label for entry in entries if entry.evaluation.timesteps > entry.point.timesteps]:
        yield f"Left out, because the run ended before the T that the file is balanced for: {', '.join(early)}."
    if entries[0].data == "cifar10":
        yield "The paper's CIFAR-10 network is a VGG-16; do not compare another CNN with it."


class Family(NamedTuple):
    """Files of one network for several T: one row of the table, and one curve."""

    label: str
    entries: tuple[Entry, ...]


def families(entries: Sequence[Entry]) -> list[Family]:
    """Group the files, all run on the same images, whose names differ only in T, with the same neurons and CNN.

    Two files for the same T belong to different families.
    """
    rows = by_network(((family_of(entry.file), entry.neuron), entry.evaluation, entry) for entry in entries)
    neurons: dict[str, set[str | None]] = {}
    for (name, neuron), _ in rows:
        neurons.setdefault(name, set()).add(neuron)
    names = [
        f"{name} ({neuron or 'unknown neurons'})" if len(neurons[name]) > 1 else name for (name, neuron), _ in rows
    ]
    return [
        Family(
            name if len(row) > 1 and names.count(name) == 1 else row[0].label,
            row,
        )
        for name, (_, row) in zip(names, rows, strict=True)
    ]


class _PaperRow(NamedTuple):
    """One row of the paper: its own method, another method, or the best factor alpha; one number per T."""

    label: str
    kind: Literal["own", "other", "alpha"]
    cells: dict[int, float]


def _paper_rows(data: str) -> list[_PaperRow]:
    """Return the paper's rows of a data set: its method with alpha 1 and with the best alpha, and other methods."""
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
        # If accuracies are equal, the larger alpha is chosen.
        best = {t: max((accuracy, alpha) for alpha, accuracy in by.items()) for t, by in own.items()}
        rows.append(_PaperRow(f"paper: best {_ALPHA}", "own", {t: accuracy for t, (accuracy, _) in best.items()}))
        rows.append(_PaperRow(f"paper: that {_ALPHA}", "alpha", {t: alpha for t, (_, alpha) in best.items()}))
    for method, cells in others.items():
        rows.append(_PaperRow(f"paper: {_PAPER_METHODS.get(method, method)}", "other", cells))
    return [row for row in rows if row.cells]
