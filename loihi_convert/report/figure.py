"""The figure of a run: accuracy or regression error against latency, as a matplotlib figure and as a file.

A figure contains one of two kinds of curves. *Anytime*: one file, thresholds balanced for its T, read after each step
of one run. *Per T*: several files, each with one point, at the T it was balanced for. Early exit is drawn at its
average T: a curve of many margins for one file, or the chosen margin of each file, joined to that file's point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from loihi_convert.errors import InputError, UsageError, one_of
from loihi_convert.ground.choices import Width
from loihi_convert.ground.files import require_output, write_atomically
from loihi_convert.report.chart import (
    SIZES,
    Chart,
    CnnLevels,
    FigureFormat,
    Measure,
    Series,
    figure_of,
    image_bytes,
    measure_of,
    outside,
    timestep_axes,
)
from loihi_convert.report.entries import by_network, entries_of, family_of, most_complete_of
from loihi_convert.report.run_tables import Figures, per_t_caption, readout_caption
from loihi_convert.runs.run_folder import read_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARLY_MARKER: Final = "<"
"""The marker of early exit, hollow."""

FLOAT_MARKER: Final = "D"
"""The marker of the float SNNs, hollow."""

_NAMED: Final = 4
"""Files that a title names; the legend names them all."""


def run_figure(evaluations: Figures, title: str, *, width: Width = "screen") -> Figure | None:
    """Return the figure of accuracy or, for regressions, of RMSE against latency; None if there is nothing to draw.

    Unless all files ran with labels, or targets, it shows the agreement with the CNN.
    """
    measure = measure_of([evaluation for _, evaluation in evaluations])
    series = [one for one in _series(evaluations, measure) if one.marks]
    if not series:
        return None
    axes = timestep_axes(
        [one for one in series if one.marker != FLOAT_MARKER],
        cnn_levels(evaluations, measure),
        measure.label,
        f"latency T, time steps (on Lava: {' or '.join(sorted({f'T + {e.depth}' for _, e in evaluations}))})",
        is_error=measure.is_error,
    )
    said = (*_notes(evaluations), outside(series, axes).rstrip("."))
    return figure_of(title, [Chart("", ". ".join(text for text in said if text), series, axes)], width)


def _series(evaluations: Figures, measure: Measure) -> Iterator[Series]:
    """Yield the float SNNs, early exit and integer networks of each network, run on one number of images."""
    if len(evaluations) == 1:
        ((_, one),) = evaluations
        yield Series("float SNN", 1, measure.floats(one, one.points), "dashed", marker=FLOAT_MARKER)
        stopped = [] if one.early_exit is None else one.early_exit.points
        early = tuple(mark for point in stopped for mark in measure.exit(point))
        yield Series("early exit, at its average T", 2, early, "early", marker=EARLY_MARKER)
        marks = measure.marks("", one, one.points)
        yield Series("fixed point", 0, marks, has_band=True)
        return
    found = by_network(((family_of(name), e.image_count), e, (name, e)) for name, e in evaluations)
    of_images = ", {:,} images" if _differ_in_images(evaluations) else ""
    for style, ((_, count), files) in enumerate(found):
        own = [mark for _, e in files for mark in measure.marks("", e, [e.nominal_point])]
        floats = [mark for _, e in files for mark in measure.floats(e, [e.nominal_point])]
        yield Series("float SNN", style, tuple(floats), "", marker=FLOAT_MARKER)
        for _, one in files:
            if one.early_exit is not None:
                early = measure.exit(one.early_exit.chosen_point)
                yield Series("early exit, at its average T", style, early, "", marker=EARLY_MARKER)
                if one.early_exit.choice.timesteps == one.nominal_point.timesteps:
                    joined = (*early, *measure.marks("", one, [one.nominal_point]))
                    yield Series("", style, joined, "dotted", is_line_only=True)
        label = _listed([name for name, _ in files]) + of_images.format(count)
        yield Series(label, style, tuple(own), "", emphasised=None)


def cnn_levels(evaluations: Figures, measure: Measure) -> CnnLevels:
    """Return the level of each CNN with its name; if they differ, with the files made from it."""
    found: dict[tuple[float, int], list[str]] = {}
    for name, evaluation in evaluations:
        if (level := measure.cnn(evaluation)) is not None:
            found.setdefault((level, evaluation.image_count), []).append(name)
    on_images = " on {:,} images" if _differ_in_images(evaluations) else ""
    return tuple(
        (
            level,
            f"CNN{f' of {_listed(names)}' if len(found) > 1 else ''}{on_images.format(count)}, {measure.words(level)}",
        )
        for (level, count), names in sorted(found.items())
    )


def _notes(evaluations: Figures) -> tuple[str, str]:
    """Return a description of the points, and the number of images."""
    counts = " or ".join(f"{count:,}" for count in sorted({evaluation.image_count for _, evaluation in evaluations}))
    first = evaluations[0][1]
    described = readout_caption(first)
    if len(evaluations) > 1:
        described = per_t_caption([evaluation for _, evaluation in evaluations])
    has_intervals = all(point.accuracy_interval for _, evaluation in evaluations for point in evaluation.points)
    return described[0].upper() + described[1:], f"n = {counts} images{', 95 % intervals' if has_intervals else ''}"


def _differ_in_images(evaluations: Figures) -> bool:
    return len({evaluation.image_count for _, evaluation in evaluations}) > 1


def _listed(names: Sequence[str]) -> str:
    """Return an abbreviated list of names: model-T1, -T4, -T64."""
    families = [family_of(name) for name in names]
    shorter = [
        name.removeprefix(family) if index and name != family and family == families[index - 1] else name
        for index, (name, family) in enumerate(zip(names, families, strict=True))
    ]
    return ", ".join(shorter)


def write_figure(folders: Sequence[Path], output: Path, *, width: Width = "screen", overwrite: bool = False) -> Path:
    """Write the figure of run folders of one data set to ``output``, with the most complete run of each file.

    Raises
    ------
    UsageError
        If ``output`` does not end in .png, .svg or .pdf, or the runs are on images of several data sets.
    InputError
        If a folder cannot be used, nothing can be drawn, or the file cannot be written, or exists and ``overwrite`` is
        off.
    """
    kind = next((kind for kind in get_args(FigureFormat) if output.suffix == f".{kind}"), None)
    if kind is None:
        suffixes = one_of(f".{kind}" for kind in get_args(FigureFormat))
        raise UsageError(f"found {output}", where="figure", expected=f"its suffix {suffixes}")
    require_output(output, overwrite)
    shown, _ = most_complete_of(read_runs(folders))
    entries = entries_of(shown)
    if len(sources := sorted({entry.source for entry in entries})) > 1:
        raise UsageError(f"the runs are of {' and '.join(sources)}", where="figure", expected="one data set")
    evaluations = [(entry.label, entry.evaluation) for entry in entries]
    figure = run_figure(evaluations, _title(evaluations, sources[0]), width=width)
    if figure is None:
        raise InputError("neither labels nor the CNN are known, so there is nothing to draw", where=folders[0])
    write_atomically(output, image_bytes(figure, kind, dpi=SIZES[width].dpi))
    return output


def _title(evaluations: Figures, data: str) -> str:
    names = [name for name, _ in evaluations]
    return f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} files'} on {data}"
