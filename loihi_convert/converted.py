"""A network in Loihi's integers in Python, with the CNN it was made from: run, save, check, diagnose.

Everything stays in memory. Files are written only by `Converted.save`, and for backends in another process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Final

from loihi_convert import netx
from loihi_convert.backends import open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import RunResult, check_run, first_difference
from loihi_convert.conversion.agreement import measure_of
from loihi_convert.conversion.flow import Conversion
from loihi_convert.data.dataset import Dataset
from loihi_convert.data.in_memory import Images, Labels, Targets, as_dataset, as_images, as_regression_dataset
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import BackendName, Target
from loihi_convert.ground.devices import AnyDevice, chosen_device
from loihi_convert.ground.files import as_path
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.network import class_count
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.diagnosis import require_classification
from loihi_convert.metrics.evaluation import evaluate_images
from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit
from loihi_convert.nir.write import require_netx_name
from loihi_convert.pipeline.checking import CheckReport, check
from loihi_convert.pipeline.diagnosing import DiagnosisReport, diagnosed
from loihi_convert.pipeline.loaded_file import load_file
from loihi_convert.pipeline.origin import doubt, notes_on_images
from loihi_convert.reading.source import Source
from loihi_convert.report.conversion_tables import network_table
from loihi_convert.report.table import Table, notebook_html
from loihi_convert.result import Result
from loihi_convert.simulation.relu import cnn_scores

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
        with progress_bar("running on ref") as progress:
            result = run_network(network, data.images, steps, device=chosen, progress=progress)
        is_equal = None
        if ran is not None:
            is_equal = first_difference(ran, result) is None
            if is_equal:
                # Lava counts neither, but equal runs have equal counts.
                ran = replace(ran, channel_spikes=result.channel_spikes, wrapped_images=result.wrapped_images)
            result = ran
        cnn = None if self.source is None else cnn_scores(self.source.compared, data.images)
        evaluation = evaluate_images(result, network, data, cnn_outputs=cnn)
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
        return check(replace(file, path=Path("the network")), pixels, target=target, chips=chips)

    def diagnose(
        self,
        images: Images,
        labels: Labels | None = None,
        *,
        timesteps: int | None = None,
        device: AnyDevice = "auto",
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
            raise UsageError("the CNN is not available", where="model", hint="Pass it to `load` as `model=`, by name.")
        require_classification(self.network)
        data, steps = self._dataset(images, labels), self._steps(timesteps)
        chosen = chosen_device(device)
        return diagnosed(self.network, self.source, data, steps, doubt=self._doubt(), device=chosen, bars=progress_bar)

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
        with tempfile.TemporaryDirectory() as folder, open_backend(backend) as opened:
            path = self.save(Path(folder) / _FILE)
            with progress_bar(f"running on {backend}") as progress:
                return opened.run(path, images, timesteps, progress=progress)

    def __repr__(self) -> str:
        if self.conversion is None:
            return f"Converted({self.network.summary})"
        found = self.conversion.agreement
        images = f"{found.image_count} calibration images"
        agrees = measure_of(self.network.task).words(found.agreement, "the CNN", images)
        return f"Converted({self.network.summary}; {agrees})"

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), self.table())
