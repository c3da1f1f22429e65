"""The figure of a run: accuracy or regression error against latency, as a matplotlib figure and as a file.

A figure contains one of two kinds of curves. *Anytime*: one file, thresholds balanced for its T, read after each step
of one run. *Per T*: several files, each with one point, at the T it was balanced for. Early exit is drawn at its
average T: a curve of many margins for one file, or the chosen margin of each file, joined to that file's point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from loihi_convert.errors import InputError, UsageError, one_of
from loihi_convert.ground.choices import Width
from loihi_convert.ground.files import require_output, write_atomically
from loihi_convert.metrics.early_exit import ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import means
from loihi_convert.report.axes import CnnLevels, Mark, Series, timestep_axes
from loihi_convert.report.chart import SIZES, Chart, FigureFormat, figure_of, image_bytes, outside
from loihi_convert.report.entries import by_network, entries_of, family_of, most_complete_of
from loihi_convert.report.run_tables import Figures, per_t_caption, readout_caption
from loihi_convert.report.table import count, number, percent, percent_ends, r_squared
from loihi_convert.runs.run_folder import read_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARLY_MARKER: Final = "<"
"""The marker of early exit, hollow."""

FLOAT_MARKER: Final = "D"
"""The marker of the float SNNs, hollow."""

_NAMED: Final = 4
"""Files that a title names; the legend names them all."""


class Measure(NamedTuple):
    """A measure, in the unit of its axis: per cent, or the CNN's unit.

    ``is_error``: of regressions. ``is_judged``: all files have labels or targets; else the CNN takes their place.
    """

    is_error: bool
    is_judged: bool

    @property
    def label(self) -> str:
        """The label of the axis."""
        if self.is_error:
            return "RMSE, in the CNN's units" if self.is_judged else "RMSE to the CNN's outputs"
        return "accuracy, %" if self.is_judged else "agreement with the CNN's class, %"

    def words(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{number(value)}" if self.is_error else f"{value:.2f} %"

    def cnn(self, evaluation: Evaluation) -> float | None:
        """Return the value of the CNN, if it is known and can be compared."""
        if not self.is_judged:
            return None
        return evaluation.cnn_rmse if self.is_error else _in_percent(evaluation.cnn_accuracy)

    def marks(
        self,
        label: str,
        evaluation: Evaluation,
        points: Iterable[Point],
        x: Callable[[Point], float] = lambda point: point.timesteps,
    ) -> tuple[Mark, ...]:
        """Return the known values of the integer network; ``label`` begins their texts."""
        return tuple(mark for point in points if (mark := self._mark(label, evaluation, point, x(point))) is not None)

    def _mark(self, label: str, evaluation: Evaluation, point: Point, x: float) -> Mark | None:
        at = f"{label}, T = {point.timesteps}: " if label else f"T = {point.timesteps}: "
        if evaluation.regression is not None:
            errors = evaluation.regression.at(point.timesteps)
            rmse, r2 = means(errors.to_targets if self.is_judged else errors.to_cnn)
            known = f"{at}RMSE {number(rmse)}, R^2 {r_squared(r2) or 'unknown'}"
            return None if rmse is None or not self.is_error else Mark(x, rmse, known)
        fraction = point.accuracy if self.is_judged else point.agreement_with_cnn
        if fraction is None:
            return None
        text = f"{at}{percent(fraction)} %, {count(point.synaptic_operations)} SynOps an image"
        return Mark(x, 100 * fraction, text, *percent_ends(point.accuracy_interval if self.is_judged else None))

    def floats(self, evaluation: Evaluation, points: Iterable[Point]) -> tuple[Mark, ...]:
        """Return the known values of the float SNN, which has none beside the CNN's."""
        regression, marks = evaluation.regression, []
        for point in points if self.is_judged else ():
            value = _in_percent(point.float_accuracy)
            if regression is not None:
                value = means(regression.at(point.timesteps).float_to_targets)[0]
            if value is not None:
                marks.append(Mark(point.timesteps, value, f"float SNN, T = {point.timesteps}: {self.words(value)}"))
        return tuple(marks)

    def exit(self, point: ExitPoint) -> tuple[Mark, ...]:
        """Return early exit at its average T, if its value is known."""
        value = _in_percent(point.accuracy if self.is_judged else point.agreement_with_cnn)
        text = f"early exit, average T {point.average_timesteps:.2f}: "
        return () if value is None else (Mark(point.average_timesteps, value, text + self.words(value)),)


def _in_percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def measure_of(evaluations: Sequence[Evaluation]) -> Measure:
    """Return the measure by which files on the same images are compared."""
    return Measure(
        is_error=all(evaluation.regression is not None for evaluation in evaluations),
        is_judged=all(evaluation.is_judged for evaluation in evaluations),
    )


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
    for style, ((_, images), files) in enumerate(found):
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
        label = _listed([name for name, _ in files]) + of_images.format(images)
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
    write_atomically(output, image_bytes(figure, kind, dpi=SIZES[width].dpi), overwrite=overwrite)
    return output


def _title(evaluations: Figures, data: str) -> str:
    names = [name for name, _ in evaluations]
    return f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} files'} on {data}"
