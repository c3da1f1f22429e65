"""Result of a run in Python: accuracies or errors, tables, a data frame, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loihi_convert.backends.result import RunResult
from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import BackendName
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.metrics.regression import mean_errors
from loihi_convert.report.run_tables import accuracy_table, output_table
from loihi_convert.report.table import Table, notebook_html

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Result of a run; unknown values are None.

    Accuracies are fractions, 0..1. The errors of a regression are means over its outputs, in the CNN's units.

    Parameters
    ----------
    network
        The network that ran.
    run
        Integers: potentials of the last layer, spike counts and synaptic operations after each step.
    evaluation
        Figures at each reported T, with intervals.
    backend
        The backend it ran on.
    equals_reference
        Whether every integer equals that of ``ref``; None if it ran on ``ref``.
    """

    network: QuantizedNetwork
    run: RunResult
    evaluation: Evaluation
    backend: BackendName
    equals_reference: bool | None = None

    @property
    def _last(self) -> Point:
        return self.evaluation.points[-1]

    @property
    def _errors(self) -> dict[str, float | None]:
        regression = self.evaluation.regression
        return {} if regression is None else mean_errors(regression.points[-1])

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the figures, for example that the network was calibrated on the images."""
        return self.evaluation.notes

    @property
    def accuracy(self) -> float | None:
        """Accuracy after the last step."""
        return self._last.accuracy

    @property
    def cnn_accuracy(self) -> float | None:
        """Accuracy of the CNN on the same images; of a CNN fine-tuned for few steps, before that, see `notes`."""
        return self.evaluation.cnn_accuracy

    @property
    def agreement_with_cnn(self) -> float | None:
        """Share of images to which the network and the CNN assign the same class."""
        return self._last.agreement_with_cnn

    @property
    def rmse(self) -> float | None:
        """Root mean squared error against the targets after the last step."""
        return self._errors.get("rmse")

    @property
    def r2(self) -> float | None:
        """R^2 against the targets after the last step: 1 at best."""
        return self._errors.get("r2")

    @property
    def rmse_to_cnn(self) -> float | None:
        """Root mean squared error against the CNN's outputs after the last step."""
        return self._errors.get("rmse_to_cnn")

    @property
    def cnn_rmse(self) -> float | None:
        """Root mean squared error of the CNN on the same images."""
        return self.evaluation.cnn_rmse

    @property
    def outputs(self) -> Array:
        """The outputs after the last step in the CNN's units: float64 ``(N, outputs)``."""
        return self.network.real_outputs(self.run.outputs[:, -1], self._last.timesteps)

    @property
    def predictions(self) -> Array:
        """The class of each image after the last step: int64 ``(N,)``; for a regression the `outputs`."""
        return self.outputs if self.network.task == "regression" else self.run.predictions[:, -1]

    def table(self) -> Table:
        """Return a table of accuracy or errors, spikes and operations at each reported T."""
        return accuracy_table(self.evaluation)

    def output_table(self) -> Table:
        """Return a table of the errors of each output of a regression, at the T the thresholds are balanced for.

        Raises
        ------
        UsageError
            If the network is not a regression.
        """
        table = output_table(self.evaluation)
        if table is None:
            raise UsageError("found classification", where="task", expected="must be regression")
        return table

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the figures at each reported T as a pandas data frame, one row per T; needs pandas.

        Raises
        ------
        PlatformError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise PlatformError("not installed", where="pandas", hint="pip install pandas") from error
        left_out = {"synaptic_operations_per_layer", "firing_rate"}
        if not self.evaluation.has_relays:
            left_out |= {"relay_spikes_per_image", "relay_synaptic_operations"}
        if self.evaluation.points[-1].circuit_synaptic_operations is None:
            left_out.add("circuit_synaptic_operations")
        rows = [point.model_dump(exclude=left_out) for point in self.evaluation.points]
        if self.evaluation.regression is not None:
            rows = [
                row | mean_errors(point) for row, point in zip(rows, self.evaluation.regression.points, strict=True)
            ]
        return pandas.DataFrame(rows).set_index("timesteps")

    def plot(self) -> Figure:
        """Return accuracy, or error, against T as a matplotlib figure.

        Raises
        ------
        UsageError
            If there is nothing to draw: no labels or targets, and no CNN.
        """
        from loihi_convert.report.figure import run_figure

        figure = run_figure([("", self.evaluation)], self.network.summary)
        if figure is None:
            known = "labels" if self.evaluation.regression is None else "targets"
            raise UsageError(
                f"there are no {known} and no CNN, so there is nothing to draw",
                where=known,
                hint=f"Pass `{known}` to `run`.",
            )
        return figure

    def __repr__(self) -> str:
        shown = {"accuracy": self.accuracy, "CNN": self.cnn_accuracy, "same class as the CNN": self.agreement_with_cnn}
        numbers = {"RMSE": self.rmse, "CNN": self.cnn_rmse, "to the CNN": self.rmse_to_cnn, "R^2": self.r2}
        percents = [f"{name} {100 * value:.2f} %" for name, value in shown.items() if value is not None]
        known = ", ".join([*percents, *(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)])
        equal = {None: "", True: ", equal to ref", False: ", NOT equal to ref"}[self.equals_reference]
        ran = f"{self.evaluation.image_count:,} images, T = {self._last.timesteps} on {self.backend}{equal}"
        return f"Result({ran}: {known or 'nothing to compare with'})"

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), self.table())
