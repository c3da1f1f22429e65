"""The package in Python, on values: `convert` a CNN or `load` a file, then run, save, check, diagnose.

Everything here is in memory; a file is written only where one is asked for, or where something outside this process
must read it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loihi_convert import netx
from loihi_convert.arrays import Array, Shape
from loihi_convert.backends import open_backend
from loihi_convert.backends.difference import first_difference
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.request import check_run
from loihi_convert.backends.result import RunResult
from loihi_convert.choices import BackendName, Device, Target, Task
from loihi_convert.conversion.flow import Conversion
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.data.dataset import Dataset
from loihi_convert.data.in_memory import (
    Images,
    Labels,
    Targets,
    as_dataset,
    as_images,
    as_input_shape,
    as_regression_dataset,
)
from loihi_convert.errors import DataError, UsageError
from loihi_convert.frontend.lower import per_channel
from loihi_convert.frontend.source import Source, is_described, open_source
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.task import class_count
from loihi_convert.metrics.advice import advice, image_notes
from loihi_convert.metrics.diagnosis import diagnose as diagnose_network
from loihi_convert.metrics.evaluation_by_task import evaluate_images
from loihi_convert.metrics.own_accuracy import OwnAccuracy, own_accuracy, require_expectation
from loihi_convert.normalization import require_both
from loihi_convert.pipeline.checking import CheckReport, check, load_file
from loihi_convert.pipeline.converting import converted
from loihi_convert.pipeline.diagnosing import DiagnosisReport
from loihi_convert.pipeline.origin import float_network, source_of
from loihi_convert.progress import progress_bar
from loihi_convert.report.conversion_tables import network_table
from loihi_convert.report.table import Table, notebook_html
from loihi_convert.result import Result as Result
from loihi_convert.simulation.gpu import chosen_device
from loihi_convert.simulation.relu import cnn_scores

if TYPE_CHECKING:
    from torch import nn

_FILE: Final = f"model{netx.SUFFIX}"


def convert(
    model: nn.Module | str | Path,
    images: Images,
    labels: Labels | None = None,
    *,
    timesteps: int = 64,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    arch: str | None = None,
    input_shape: Shape | None = None,
    classes: Sequence[str] | None = None,
    task: Task = "classification",
    balancing: BalanceOptions = BalanceOptions(),
    quantization: QuantizeOptions = QuantizeOptions(),
    skip_copies: int | None = None,
    device: Device = "auto",
    expect: float | None = None,
) -> Converted:
    """Return ``model`` as a spiking network in Loihi's integers, balanced for ``timesteps`` steps.

    Parameters
    ----------
    model
        The trained CNN: a `torch.nn.Module`, or the path of its checkpoint or ONNX file.
    images
        Calibration images, some hundreds to thousands of the training set, never test images: NumPy, torch or a
        DataLoader; uint8, or floats in 0..1; ``(N, H, W)`` or ``(N, C, H, W)``. Before any normalization.
    labels
        The class of each image, from 0; those in a DataLoader come along. With them the CNN's own accuracy stands in
        ``cnn_accuracy`` and in the notes, and a Python warning says if it is too low.
    timesteps
        The latency T.
    mean, std
        Where the CNN was trained on ``(x - mean) / std`` with x in 0..1: one number, or one per channel; both or none.
    arch
        For the path of a checkpoint of other origin: ``package.module:factory``, which builds the CNN. Its code runs.
    input_shape
        For signals: ``(C, L)``, with ``images`` ``(N, C, L)``, or ``(N, L)`` of one channel; default: ``(C, H, W)`` of
        ``images``.
    classes
        The name of each output, or of both classes of a single one; by default 0, 1, ...
    task
        What the outputs are: scores of classes (a single output: a logit, class 1 above 0), or, with ``"regression"``,
        numbers.
    balancing
        How firing thresholds are balanced; by default the method that agrees best with the CNN on ``images``.
    quantization
        Bits and target.
    skip_copies
        How many relays carry each value of a skip connection, 1..8; by default as many as the agreement with the CNN
        on ``images`` asks for.
    device
        Where to simulate: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if torch sees one.
    expect
        The accuracy that the CNN is known to have, a fraction; by default, better than always the same class.

    Raises
    ------
    UsageError
        If parameters are out of range or contradict each other.
    UnsupportedModelError
        If the CNN holds what has no spiking equivalent.
    InputError
        If the checkpoint or the images cannot be used.
    """
    require_expectation(expect)
    dataset = _labelled(images, labels, None if input_shape is None else as_input_shape(input_shape))
    pixels, shape = dataset.images, dataset.images.shape[1:]
    require_both(mean, std)
    means, deviations = per_channel(mean, shape[0], "mean"), per_channel(std, shape[0], "std")
    if isinstance(model, str | Path):
        given = None if is_described(Path(model), arch) else shape
        source = open_source(
            Path(model), arch=arch, input_shape=given, classes=classes, mean=means, std=deviations, task=task
        )
    elif arch is not None:
        raise UsageError("given with a module", where="arch", expected="is for the path of a plain state dict")
    else:
        source = Source.from_module(model, shape, classes=classes, mean=means, std=deviations, task=task)
    own = own_accuracy(source, dataset, "calibration images", expect)
    if own is not None and own.warning:
        warnings.warn(own.warning, stacklevel=2)
    done = converted(
        source,
        pixels,
        timesteps,
        balancing,
        quantization,
        skip_copies=skip_copies,
        device=chosen_device(device),
        bars=progress_bar,
    )
    used = source.with_skip_copies(done.quantized.provenance.model.skip_copies)
    return Converted(done.quantized, used, done, own)


def _labelled(images: Images, labels: Labels | None, input_shape: tuple[int, int, int] | None) -> Dataset:
    """Images, with labels if there are any; a DataLoader may hold something else beside its images."""
    if labels is not None:
        return as_dataset(images, labels, input_shape=input_shape)
    # What has a length can be gone through twice.
    if isinstance(images, Sized):
        try:
            return as_dataset(images, input_shape=input_shape)
        except DataError as error:
            if error.where != "labels":
                raise
    return Dataset(as_images(images, input_shape), None)


def load(path: str | Path, *, model: str | Path | None = None, arch: str | None = None) -> Converted:
    """Return the network in the ``.net`` file at ``path``, which loihi-convert wrote.

    Parameters
    ----------
    path
        The file.
    model
        The checkpoint of its CNN; by default the one beside the file, if it is unchanged. Without a CNN there is no
        ``cnn_accuracy`` and no diagnosis.
    arch
        As in `convert`.

    Raises
    ------
    InputError
        If a file cannot be used.
    """
    file = Path(path)
    network = netx.read(file)
    return Converted(network, source_of(file, network, None if model is None else Path(model), arch))


@dataclass(frozen=True, eq=False, repr=False)
class Converted:
    """A network in Loihi's integers, from `convert` or `load`.

    Parameters
    ----------
    network
        The integers, as they stand in a file.
    source
        The CNN it was made from; None where that is not at hand.
    conversion
        How it was made; None for a file.
    own
        The CNN on the calibration images; None where these have no labels, and for a file.
    """

    network: QuantizedNetwork
    source: Source | None = None
    conversion: Conversion | None = None
    own: OwnAccuracy | None = None

    @property
    def timesteps(self) -> int:
        """The latency T its thresholds are balanced for."""
        return self.network.timesteps

    @property
    def notes(self) -> tuple[str, ...]:
        """What the conversion had to say: the CNN's own accuracy, the method it chose, and warnings."""
        own = () if self.own is None else (self.own.warning or self.own.sentence,)
        return own if self.conversion is None else (*own, *self.conversion.notes)

    @property
    def cnn_accuracy(self) -> float | None:
        """Of the CNN on the calibration images, a fraction; None where these have no labels, and for a file."""
        return None if self.own is None else self.own.accuracy

    def table(self) -> Table:
        """Return the layers: shape, neurons, weight bits, thresholds."""
        return network_table(self.network)

    def run(
        self,
        images: Images,
        labels: Labels | None = None,
        *,
        targets: Targets | None = None,
        timesteps: int | None = None,
        backend: BackendName = "ref",
        device: Device = "auto",
    ) -> Result:
        """Run ``images`` for ``timesteps`` steps each and return what came of it, beside the CNN.

        Parameters
        ----------
        images
            Test images, as `convert` takes them.
        labels
            The class of each image, from 0; without them there is agreement with the CNN, no accuracy.
        targets
            For a regression, in place of labels: the numbers for each image, ``(N,)`` or ``(N, outputs)``.
        timesteps
            T; by default the one that thresholds are balanced for.
        backend
            ``"ref"``: exact integers in this process. ``"sim"``: Lava's CPU simulator, much slower; the result says
            whether it equals ``ref``. ``"loihi2"``: a board.
        device
            Where ``ref`` simulates.

        Raises
        ------
        UsageError
            If ``timesteps`` is out of range, or there are labels for a regression, or targets for classes.
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
        with progress_bar("running on ref") as progress:
            result = run_network(network, data.images, steps, device=chosen, progress=progress)
        is_equal = None
        if backend != "ref":
            reference, result = result, self._run_file(data.images, steps, backend)
            is_equal = first_difference(result, reference) is None
            if is_equal:
                # Lava counts neither; equal runs have equal counts.
                result = replace(
                    result, channel_spikes=reference.channel_spikes, wrapped_images=reference.wrapped_images
                )
        cnn = None if self.source is None else cnn_scores(self.source.network, data.images)
        evaluation = evaluate_images(result, network, data, cnn_outputs=cnn)
        return Result(network, result, evaluation, backend, is_equal)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a lava-dl netx HDF5 file and return its path; an existing file is kept unless ``overwrite``."""
        netx.write(self.network, Path(path), overwrite=overwrite)
        return Path(path)

    def check(self, target: Target | None = None, images: Images | None = None, *, chips: int = 1) -> CheckReport:
        """Return what is in the way of a target, the worst first; see `CheckReport`.

        Parameters
        ----------
        target
            ``"lava"`` or ``"loihi2"``; by default the one it was made for.
        images
            Images on which to look for channels that stay silent or fire at every step.
        chips
            How many Loihi 2 chips there are for it.
        """
        pixels = None if images is None else as_images(images, self._image_shape)
        with tempfile.TemporaryDirectory() as folder:
            file = load_file(self.save(Path(folder) / _FILE))
        return check(file, pixels, target=target or self.network.target, chips=chips)

    def diagnose(
        self, images: Images, labels: Labels | None = None, *, timesteps: int | None = None
    ) -> DiagnosisReport:
        """Return where the accuracy went between the CNN and these integers, and what to try.

        Parameters
        ----------
        images, labels
            Validation images, as in `run`: what the answer is acted on must not be the test images.

        Raises
        ------
        UsageError
            If the CNN is not at hand, or the network is a regression.
        """
        if self.source is None:
            raise UsageError("the CNN is not at hand", where="model", hint="Pass `model` to `load`.")
        data = self._dataset(images, labels)
        steps = self._steps(timesteps)
        check_run(self.network, data.images, steps)
        spiking = float_network(self.network, self.source.network)
        with progress_bar("from the CNN to the integers") as progress:
            found = diagnose_network(
                self.source.network, spiking, self.network, data.images, data.labels, steps, progress=progress
            )
        return DiagnosisReport(None, found, advice(found, self.network), image_notes(self.network))

    def _steps(self, timesteps: int | None) -> int:
        """The T of a run; how large it may be, `check_run` knows."""
        if timesteps is None:
            return self.timesteps
        if isinstance(timesteps, bool) or not isinstance(timesteps, int):
            raise UsageError(f"found {timesteps!r}", where="timesteps", expected="must be a whole number")
        return timesteps

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.network.input_shape
        return channels, height, width

    def _dataset(self, images: Images, labels: Labels | None, targets: Targets | None = None) -> Dataset:
        """The images with what they show, which must be what the network gives."""
        outputs = self.network.shapes[-1][0]
        if self.network.task == "regression":
            if labels is not None:
                raise UsageError("given for a regression", where="labels", hint="Pass `targets`.")
            return as_regression_dataset(images, targets, input_shape=self._image_shape, output_count=outputs)
        if targets is not None:
            raise UsageError("given for a network of classes", where="targets", hint="Pass `labels`.")
        return as_dataset(images, labels, input_shape=self._image_shape, class_count=class_count(outputs))

    def _run_file(self, images: Array, timesteps: int, backend: BackendName) -> RunResult:
        with tempfile.TemporaryDirectory() as folder, open_backend(backend) as opened:
            path = self.save(Path(folder) / _FILE)
            with progress_bar(f"running on {backend}") as progress:
                return opened.run(path, images, timesteps, progress=progress)

    def __repr__(self) -> str:
        return f"Converted({self.network.summary})"

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), self.table())
