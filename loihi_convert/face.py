"""The Python face: `convert` and `load`, the network that they return, and the result of its run."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.backend import open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import RunResult, check_run, first_difference
from loihi_convert.conversion.agreement import measure_of
from loihi_convert.conversion.flow import Conversion
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions, require_timesteps
from loihi_convert.data.dataset import Dataset
from loihi_convert.data.in_memory import (
    Images,
    Labels,
    Targets,
    as_calibration,
    as_dataset,
    as_images,
    as_input_shape,
    as_regression_dataset,
)
from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import BackendName, Target, Task
from loihi_convert.ground.devices import AnyDevice, chosen_device
from loihi_convert.ground.files import as_path
from loihi_convert.ground.normalization import channel_normalization
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.network import class_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.diagnosis import require_classification
from loihi_convert.metrics.evaluation import Evaluation, Point, evaluate, expected_of
from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit, own_accuracy, require_expectation, unjudged
from loihi_convert.metrics.regression import mean_errors
from loihi_convert.pipeline.checking import CheckReport, check, load_file
from loihi_convert.pipeline.converting import converted, require_convertible
from loihi_convert.pipeline.diagnosing import DiagnosisReport, diagnose
from loihi_convert.pipeline.exporting import require_netx_name
from loihi_convert.pipeline.opening import doubt, notes_on_images, open_model, source_of
from loihi_convert.pipeline.options import CheckOptions
from loihi_convert.reading.source import Source
from loihi_convert.reading.users_code import named
from loihi_convert.report.conversion_tables import network_table
from loihi_convert.report.run_tables import accuracy_table, output_table
from loihi_convert.report.table import Table, notebook_html
from loihi_convert.simulation.relu import cnn_scores

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn


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
            raise UsageError("not given to `run`, and there is no CNN: there is nothing to draw", where=known)
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


_FILE: Final = f"model{netx.SUFFIX}"


@dataclass(frozen=True, eq=False, repr=False)
class Converted:
    """A network in Loihi's integers, from `convert` or `load`.

    Parameters
    ----------
    network
        The integers, as stored in a file.
    source
        The CNN it was made from; None if not available.
    conversion
        Details of the conversion; None if loaded from a file.
    own
        Accuracy or error of the CNN on the calibration images; None without labels and targets, or if loaded from a
        file.
    calibrated_on
        `Dataset.digests` of the calibration images; empty if loaded from a file.
    """

    network: QuantizedNetwork
    source: Source | None = None
    conversion: Conversion | None = None
    own: OwnAccuracy | OwnFit | None = None
    calibrated_on: frozenset[bytes] = frozenset()

    @property
    def timesteps(self) -> int:
        """The latency T that the thresholds are balanced for."""
        return self.network.timesteps

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the conversion: the CNN's accuracy, what was read from it, the method chosen, warnings.

        If loaded from a file: whether ``source`` is another CNN than that of the file.
        """
        if self.conversion is None:
            reason = self._doubt()
            return (f"{reason}: differences between the two CNNs are counted as conversion loss",) if reason else ()
        own = () if self.own is None else (self.own.warning or self.own.sentence,)
        return (*own, *(() if self.source is None else self.source.notes), *self.conversion.notes)

    @property
    def cnn_accuracy(self) -> float | None:
        """Accuracy of the CNN, after any fine-tuning, on the calibration images, 0..1; None without labels or if loaded
        from a file."""
        return self.own.accuracy if isinstance(self.own, OwnAccuracy) else None

    def table(self) -> Table:
        """Return a table of the layers: shape, neurons, weight bits, thresholds."""
        return network_table(self.network)

    def run(
        self,
        images: Images,
        labels: Labels | None = None,
        *,
        targets: Targets | None = None,
        timesteps: int | None = None,
        backend: BackendName = "ref",
        device: AnyDevice = "auto",
    ) -> Result:
        """Run each of ``images`` for ``timesteps`` steps and return the result, with the CNN's for comparison.

        Parameters
        ----------
        images
            Test images, in any format that `convert` accepts.
        labels
            The class of each image, from 0; without labels the result has the agreement with the CNN but no accuracy.
        targets
            For a regression, instead of labels: the target values of each image, ``(N,)`` or ``(N, outputs)``.
        timesteps
            T; by default the one the thresholds are balanced for.
        backend
            ``"ref"``: exact integers in this process. ``"sim"``: Lava's CPU simulator, much slower; the result says
            whether its integers equal those of ``ref``. ``"loihi2"``: a board.
        device
            Where ``ref`` simulates.

        Raises
        ------
        UsageError
            If ``timesteps`` is out of range, or labels are given for a regression, or targets for a classification.
        DataError
            If the images do not fit the network.
        PlatformError
            If Lava or a board is missing.
        """
        network = self.network
        steps = self._steps(timesteps)
        data = self._dataset(images, labels, targets)
        check_run(network, data.images, steps)
        chosen = chosen_device(device)
        # First, because it may be missing.
        ran = None if backend == "ref" else self._run_file(data.images, steps, backend)
        with progress_bar("running on ref"):
            result = run_network(network, data.images, steps, device=chosen)
        is_equal = None
        if ran is not None:
            is_equal = first_difference(ran, result) is None
            if is_equal:
                # Lava counts neither, but equal runs have equal counts.
                ran = replace(ran, channel_spikes=result.channel_spikes, wrapped_images=result.wrapped_images)
            result = ran
        cnn = None if self.source is None else cnn_scores(self.source.compared, data.images)
        evaluation = evaluate(result, network, expected_of(result, network, data, cnn))
        compared = () if self.source is None else self.source.notes_on_compared
        rounding = filter(None, [data.rounding_note])
        notes = (*self._notes_on(data), *rounding, *compared, *evaluation.notes)
        evaluation = evaluation.model_copy(update={"notes": notes})
        return Result(network, result, evaluation, backend, is_equal)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a lava-dl netx HDF5 file and return its path; replace an existing file only if ``overwrite``.

        Raises
        ------
        UsageError
            If ``path`` is not a path, or has the suffix of a CNN or of a NIR file.
        InputError
            If ``path`` exists and ``overwrite`` is off, or it cannot be written.
        """
        file = as_path(path, "path")
        require_netx_name(file, "path")
        netx.write(self.network, file, overwrite=overwrite)
        return file

    def check(self, target: Target | None = None, images: Images | None = None, *, chips: int = 1) -> CheckReport:
        """Return the problems with a target, the most severe first; see `CheckReport`.

        Parameters
        ----------
        target
            ``"lava"`` or ``"loihi2"``; by default the one that the network was made for.
        images
            Images used to find channels that stay silent or fire at every step.
        chips
            Number of Loihi 2 chips available.
        """
        pixels = None if images is None else as_images(images, self._image_shape)
        with tempfile.TemporaryDirectory() as folder:
            file = load_file(self.save(Path(folder) / _FILE))
        # Not the name of a file that is gone.
        return check(replace(file, path=Path("the network")), pixels, CheckOptions(target, chips=chips))

    def diagnose(
        self, images: Images, labels: Labels | None = None, *, timesteps: int | None = None, device: AnyDevice = "auto"
    ) -> DiagnosisReport:
        """Return where accuracy is lost between the CNN and the integers, and what to try.

        Parameters
        ----------
        images, labels
            Validation images, as in `run`; not test images, because the advice is meant to be acted on.
        timesteps
            T; by default the one the thresholds are balanced for.
        device
            Where to simulate, as in `convert`.

        Raises
        ------
        UsageError
            If the CNN is not available, or the network is a regression.
        """
        if self.source is None:
            raise UsageError("the CNN is not available", where="model", expected="must be given to `load`")
        require_classification(self.network)
        data, steps = self._dataset(images, labels), self._steps(timesteps)
        chosen = chosen_device(device)
        return diagnose(self.network, self.source, data, steps, doubt=self._doubt(), device=chosen)

    def _doubt(self) -> str:
        """The reason to doubt that a loaded file was made from ``source``."""
        return "" if self.source is None or self.conversion is not None else doubt(self.network, self.source)

    def _notes_on(self, data: Dataset) -> tuple[str, ...]:
        """A note if ``data`` are the calibration images or, for a network in memory, over 1 % of ``data`` are."""
        notes = notes_on_images(self.network, data.fingerprint)
        shared = data.count_among(self.calibrated_on)
        if notes or 100 * shared <= len(data):
            return notes
        others = "other images may have a lower accuracy"
        return (f"the network was calibrated on {shared:,} of these {len(data):,} images: {others}",)

    def _steps(self, timesteps: int | None) -> int:
        """The T of a run; `check_run` checks its upper bound."""
        if timesteps is None:
            return self.timesteps
        if isinstance(timesteps, bool) or not isinstance(timesteps, Integral):
            raise UsageError(f"found {timesteps!r}", where="timesteps", expected="must be a whole number")
        return int(timesteps)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.network.input_shape
        return channels, height, width

    def _dataset(self, images: Images, labels: Labels | None, targets: Targets | None = None) -> Dataset:
        """The images with their labels or targets, whichever match the network's task."""
        outputs = self.network.shapes[-1][0]
        if self.network.task == "regression":
            if labels is not None:
                raise UsageError("given for a regression", where="labels", hint="Pass `targets`.")
            return as_regression_dataset(images, targets, input_shape=self._image_shape, output_count=outputs)
        if targets is not None:
            raise UsageError("given for a classification", where="targets", hint="Pass `labels`.")
        return as_dataset(images, labels, input_shape=self._image_shape, class_count=class_count(outputs))

    def _run_file(self, images: Array, timesteps: int, backend: BackendName) -> RunResult:
        with open_backend(backend) as opened, progress_bar(f"running on {backend}"):
            return opened.run(self.network, images, timesteps)

    def __repr__(self) -> str:
        if self.conversion is None:
            return f"Converted({self.network.summary})"
        found = self.conversion.agreement
        images = f"{found.image_count} calibration images"
        agrees = measure_of(self.network.task).words(found.agreement, "the CNN", images)
        return f"Converted({self.network.summary}; {agrees})"

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), self.table())


_LEAST_AGREEMENT: Final = 0.8
"""A conversion that agrees less with the CNN, by more than chance, gives a warning."""


def convert(
    model: nn.Module | str | Path,
    images: Images,
    labels: Labels | None = None,
    *,
    targets: Targets | None = None,
    timesteps: int = 64,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    arch: str | Callable[..., nn.Module] | None = None,
    input_shape: Shape | None = None,
    classes: Sequence[str] | None = None,
    task: Task = "classification",
    balancing: BalanceOptions | None = None,
    quantization: QuantizeOptions = QuantizeOptions(),
    skip_copies: int | None = None,
    device: AnyDevice = "auto",
    expect: float | None = None,
) -> Converted:
    """Return ``model`` as a spiking network in Loihi's integers, balanced for ``timesteps`` steps.

    Parameters
    ----------
    model
        The trained CNN: a `torch.nn.Module`, or the path of its checkpoint, ONNX or NIR file. A module is not changed;
        copies of it run, which call its forward hooks.
    images
        Calibration images from the training set, preferably thousands; never test images. NumPy, torch or a DataLoader;
        uint8, or floats in 0..1, not normalized; ``(N, H, W)`` or ``(N, C, H, W)``, with ``input_shape`` also
        ``(N, H, W, C)``.
    labels
        The class of each image, from 0; a DataLoader may supply them. With labels, the CNN's accuracy is reported in
        ``cnn_accuracy`` and in the notes, and a Python warning is given if it is too low.
    targets
        For a regression: the numbers of each image, ``(N, outputs)``; the CNN's error is then in the notes, with a
        warning if it explains nothing.
    timesteps
        The latency T.
    mean, std
        If the CNN was trained on ``(x - mean) / std`` with x in 0..1: one number, or one per channel; both or none.
    arch
        For the path of a plain state dict: ``package.module:factory``, a class or function that builds the CNN without
        arguments, or that class or function. Its code is executed.
    input_shape
        For signals: ``(C, L)``; ``images`` are then ``(N, C, L)``, or ``(N, L)`` for one channel. Default: ``(C, H,
        W)`` of ``images``.
    classes
        The name of each output (both class names for a single output); by default 0, 1, ...
    task
        Meaning of the outputs: class scores (a single output is a logit: class 1 if above 0), or, with
        ``"regression"``, numbers.
    balancing
        How firing thresholds are balanced; by default with the method that agrees best with the CNN on ``images``. A
        NIR file keeps its own thresholds, with hard reset.
    quantization
        Bits and target.
    skip_copies
        Relays that carry each value of a skip connection, 1..8; by default as few as the agreement with the CNN on
        ``images`` allows.
    device
        Where to simulate: ``"cpu"``, ``"cuda"``, ``"auto"`` (a GPU if torch finds one), or a `torch.device`.
    expect
        The known accuracy of the CNN, in (0, 1]; a lower one on ``images`` gives a warning. By default the CNN only has
        to be better than always predicting the most frequent class.

    Raises
    ------
    UsageError
        If parameters are out of range or contradict each other.
    UnsupportedModelError
        If a part of the CNN has no spiking equivalent.
    InputError
        If the checkpoint or the images cannot be used.
    """
    require_expectation(expect)
    balancing = BalanceOptions() if balancing is None else balancing
    skip_copies = int(skip_copies) if isinstance(skip_copies, np.integer) else skip_copies
    options = ConversionOptions(balancing, quantization, skip_copies, chosen_device(device))
    timesteps = int(timesteps) if isinstance(timesteps, np.integer) else timesteps
    require_timesteps((timesteps,))
    image_shape = None if input_shape is None else as_input_shape(input_shape)
    dataset = as_calibration(images, labels, targets, task=task, input_shape=image_shape)
    shape = dataset.images.shape[1:]
    source = open_model(
        model,
        shape,
        arch=arch if arch is None else named(arch),
        classes=classes,
        normalization=channel_normalization(mean, std, shape[0]),
        task=task,
    )
    source = replace(source, provenance={**source.provenance, "calibration_fingerprint": dataset.fingerprint})
    dataset = dataset.mixed
    dataset.require_fit(task, source.network.shapes[-1][0], "images" if targets is None else "targets")
    require_convertible(source, dataset.images, options)
    own = own_accuracy(source, dataset, "calibration images", expect)
    implausible = unjudged(source, dataset) if own is None else own.warning
    for warning in filter(None, (dataset.rounding_note, implausible)):
        warnings.warn(warning, stacklevel=2)
    done = converted(source, dataset.images, timesteps, options)
    measure, found = measure_of(source.network.task), done.agreement
    if measure.falls_short(found, replace(found, agreement=_LEAST_AGREEMENT)):
        agrees = measure.words(found.agreement, "the CNN", f"{found.image_count} calibration images")
        where = "`notes`, and `diagnose`" if measure.is_diagnosed else "`notes`"
        warnings.warn(f"the quantized network only {agrees}; see its {where}", stacklevel=2)
    used = source.with_skip_copies(done.quantized.provenance.model.skip_copies)
    return Converted(done.quantized, used, done, own, dataset.digests)


def load(
    path: str | Path, *, model: nn.Module | str | Path | None = None, arch: str | Callable[..., nn.Module] | None = None
) -> Converted:
    """Return the network in ``path``, a ``.net`` file written by loihi-convert.

    Parameters
    ----------
    path
        The file.
    model
        Its CNN: the `torch.nn.Module`, or the path of its checkpoint; by default the one in the folder of the file, if
        it is unchanged. Without a CNN, `Result.cnn_accuracy` is None and `Converted.diagnose` raises an error.
    arch
        As in `convert`.

    Raises
    ------
    UsageError
        If ``path`` is not a path, or ``arch`` is given with a module.
    InputError
        If a file cannot be used.
    """
    file = as_path(path, "path")
    network = netx.read(file)
    source = source_of(file, network, model, arch if arch is None else named(arch))
    found = Converted(network, source)
    for note in found.notes:
        warnings.warn(f"{file.name}: {note}", stacklevel=2)
    return found
