"""The figure of a run, accuracy or regression error against latency, as a matplotlib figure and as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from loihi_convert.errors import InputError, UsageError, one_of
from loihi_convert.files import require_output, write_atomically
from loihi_convert.report.entries import entries_of, most_complete_of
from loihi_convert.report.error_figure import error_figure
from loihi_convert.report.figure import accuracy_figure
from loihi_convert.report.figure_style import SIZES, FigureFormat, Width, image_bytes
from loihi_convert.report.run_tables import Figures
from loihi_convert.runs.stored_run import read_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED: Final = 4
"""Files that a title names; the legend names them all."""


def run_figure(
    evaluations: Figures, title: str, *, note: str = "", width: Width = "screen", is_balanced: bool = True
) -> Figure | None:
    """Return `error_figure` for regressions, else `accuracy_figure`; None if there is nothing to draw."""
    if all(evaluation.regression is not None for _, evaluation in evaluations):
        return error_figure(evaluations, title, note=note, width=width)
    return accuracy_figure(evaluations, title, note=note, width=width, is_balanced=is_balanced)


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
    provenance = [entry.run.manifest.provenance.get(entry.file, {}) for entry in entries]
    figure = run_figure(
        evaluations,
        _title(evaluations, sources[0]),
        note=_seeds(provenance),
        width=width,
        is_balanced=all(entry.is_balanced for entry in entries),
    )
    if figure is None:
        raise InputError("neither labels nor the CNN are known, so there is nothing to draw", where=folders[0])
    write_atomically(output, image_bytes(figure, kind, dpi=SIZES[width].dpi))
    return output


def _title(evaluations: Figures, data: str) -> str:
    names = [name for name, _ in evaluations]
    return f"{', '.join(names) if len(names) <= _NAMED else f'{len(names)} files'} on {data}"


def _seeds(provenance: Sequence[Mapping[str, Any]]) -> str:
    """Return the training seeds of the CNNs that are recorded."""
    models = [stages.get("model") for stages in provenance]
    seeds = [model.get("seed") for model in models if isinstance(model, Mapping)]
    found = sorted({str(seed) for seed in seeds if seed is not None})
    return f"CNN trained with seed {' or '.join(found)}" if found else ""
