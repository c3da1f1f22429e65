"""What a chart over T shows upwards: accuracy, agreement with the CNN, or the error of a regression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from loihi_convert.metrics.early_exit import ExitPoint
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import means
from loihi_convert.report.chart import Mark
from loihi_convert.report.table import count, number, percent, percent_ends, r_squared


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
