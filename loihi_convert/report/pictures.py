"""The picture of a run: accuracy, or the error of a regression, against latency; as a figure, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.report.error_figure import error_figure
from loihi_convert.report.figure import accuracy_figure, image_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_figure(evaluations: Sequence[tuple[str, Evaluation]], title: str) -> Figure | None:
    """Return `error_figure` for regressions, else `accuracy_figure`; None where there is nothing to draw."""
    draw = error_figure if _are_regressions(evaluations) else accuracy_figure
    return draw(evaluations, title)


def run_pictures(evaluations: Sequence[tuple[str, Evaluation]], title: str) -> dict[str, bytes]:
    """Return ``accuracy.svg`` and ``accuracy.png``, or ``error.svg`` and ``error.png``, by name; {} where None."""
    figure = run_figure(evaluations, title)
    if figure is None:
        return {}
    stem = "error" if _are_regressions(evaluations) else "accuracy"
    return {f"{stem}.svg": image_bytes(figure, "svg"), f"{stem}.png": image_bytes(figure, "png")}


def _are_regressions(evaluations: Sequence[tuple[str, Evaluation]]) -> bool:
    return all(evaluation.regression is not None for _, evaluation in evaluations)
