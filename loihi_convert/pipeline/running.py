"""A netx file and images -> a backend's integers, their evaluation, a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loihi_convert import netx
from loihi_convert.backends import Backend
from loihi_convert.backends.difference import first_difference
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.request import check_run, used_neuron
from loihi_convert.backends.result import RunResult
from loihi_convert.data import Dataset, DataSplits, HeldOut
from loihi_convert.errors import VerificationError
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import TOLERANCE_POINTS, choose_margin, evaluate_early_exit, require_tolerance
from loihi_convert.metrics.evaluation import Evaluation, evaluate
from loihi_convert.pipeline.origin import float_network, source_of
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.runs import run_folder
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import outputs

EXIT_IMAGES: Final = 2_000
"""Images, at most, that choose the margin of early exit."""


@dataclass(frozen=True, eq=False)
class FileRun:
    """One file's run: its integers, its figures, and the images on which it was found equal to `ref`."""

    path: Path
    network: QuantizedNetwork
    result: RunResult
    evaluation: Evaluation
    equal_to_reference: int


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A complete folder of results: where it is, its files, and the runs they tell of."""

    folder: Path
    files: tuple[Path, ...]
    runs: tuple[FileRun, ...]

    @property
    def figures(self) -> list[tuple[str, Evaluation]]:
        """Each file's name, without its suffix, and its figures."""
        return [(ran.path.stem, ran.evaluation) for ran in self.runs]


def run(
    path: Path,
    images: Dataset,
    backend: Backend,
    timesteps: int | None = None,
    *,
    held_out: HeldOut | None = None,
    exit_tolerance: float | None = TOLERANCE_POINTS,
    model: Path | None = None,
    arch: str | None = None,
    trace: bool = False,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> FileRun:
    """Run one netx file on ``images`` and evaluate it beside the CNN and the spiking network in real numbers.

    Parameters
    ----------
    path
        The ``.net`` file.
    images
        Test images and labels.
    backend
        From `backends.open_backend`. A run of any other backend is compared with `ref`, integer by integer.
    timesteps
        T; by default the one the file was balanced for.
    held_out
        Other images than ``images``: a run of them on `ref` chooses the margin of early exit. Without them, with T = 1
        or with one class, early exit is not evaluated.
    exit_tolerance
        Percentage points of accuracy that stopping early may lose on them; None: early exit is not evaluated.
    model
        The checkpoint the file was made from; by default the one beside the file, if it is still the same.
        Without it there are no figures of the CNN.
    arch
        As in `source.open_source`, if the file was made with one. Without it there are no figures of such a CNN: the
        code that a file names is not imported unless the user names it too.
    trace
        Record and compare every layer's spikes and potentials.
    device
        Where the comparison with `ref` and the real numbers are simulated: ``"cpu"``, or another one of torch's.

    Raises
    ------
    InputError
        If the file or ``model`` cannot be used.
    UsageError
        If ``exit_tolerance`` is out of range, or as `backends.request.check_run`.
    VerificationError
        If the backend's integers are not those of `ref`.
    """
    if exit_tolerance is not None:
        require_tolerance(exit_tolerance)
    network, real = _opened(path, images, backend, timesteps, model=model, arch=arch, trace=trace)
    steps = network.timesteps if timesteps is None else timesteps
    choice = None
    if held_out is not None and exit_tolerance is not None and steps > 1 and network.shapes[-1][0] > 1:
        with bars(f"{path.name}: choosing the margin of early exit") as progress:
            others = run_network(
                network,
                held_out.images.images,
                steps,
                neuron=backend.neuron,
                leak=backend.leak,
                device=device,
                progress=progress,
            ).outputs
        choice = choose_margin(others, held_out.images.labels, split=held_out.split, tolerance_points=exit_tolerance)
    with bars(f"{path.name}: running on {backend.name}") as progress:
        result = backend.run(path, images.images, steps, trace=trace, progress=progress)
    equal = 0
    if backend.name != "ref":
        with bars(f"{path.name}: comparing with ref") as progress:
            reference = run_network(
                network,
                images.images,
                steps,
                trace=trace,
                neuron=backend.neuron,
                leak=backend.leak,
                device=device,
                progress=progress,
            )
        if difference := first_difference(result, reference):
            raise VerificationError(f"{path}: the backend and ref disagree: {difference}.")
        result = replace(result, channel_spikes=reference.channel_spikes, wrapped_images=reference.wrapped_images)
        equal = len(images)
    cnn_predictions = float_predictions = None
    if real is not None:
        cnn, spiking = real
        cnn_predictions = cnn_scores(cnn, images.images).argmax(axis=1)
        with bars(f"{path.name}: the same in real numbers") as progress:
            scores = outputs(spiking, images.images, steps, device=device, progress=progress)
        float_predictions = scores.argmax(axis=2)
    early_exit = None
    if choice is not None:
        early_exit = evaluate_early_exit(result, choice, labels=images.labels, cnn_predictions=cnn_predictions)
    evaluation = evaluate(
        result,
        network,
        labels=images.labels,
        cnn_predictions=cnn_predictions,
        float_predictions=float_predictions,
        early_exit=early_exit,
    )
    return FileRun(path, network, result, evaluation, equal)


def _opened(
    path: Path,
    images: Dataset,
    backend: Backend,
    timesteps: int | None,
    *,
    model: Path | None,
    arch: str | None,
    trace: bool,
) -> tuple[QuantizedNetwork, tuple[ReluNetwork, SpikingNetwork] | None]:
    """Return the network in ``path``, and, if it can be had, its CNN and what it was rounded from; arguments as `run`.

    Whatever a run is refused for is found out here, before it takes its time.
    """
    network = netx.read(path)
    check_run(network, images.images, network.timesteps if timesteps is None else timesteps, trace=trace)
    used_neuron(network, backend.neuron, leak=backend.leak)
    source = source_of(path, network, model, arch)
    return network, None if source is None else (source.network, float_network(network, source.network))


def run_into_folder(
    root: Path,
    paths: Sequence[Path],
    backend: Backend,
    splits: DataSplits,
    images: Dataset,
    timesteps: int | None = None,
    *,
    exit_tolerance: float | None = TOLERANCE_POINTS,
    model: Path | None = None,
    arch: str | None = None,
    trace: bool = False,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> RunFolder:
    """Run netx files on ``images``, as `run` does, and write a folder below ``root`` that tells everything about it.

    ``splits`` is the data set that ``images`` are from, and whose held-out images, the first `EXIT_IMAGES` of
    them, choose the margin of early exit; ``backend``, from `backends.open_backend`, is started and ended. If anything
    fails, no folder is left; what can be known of all files before a run is.
    """
    classes = splits.classes or None
    run_folder.require_different_names([path.stem for path in paths])
    if exit_tolerance is not None:
        require_tolerance(exit_tolerance)
    for path in paths:
        network, _ = _opened(path, images, backend, timesteps, model=model, arch=arch, trace=trace)
        run_folder.require_class_names(path.stem, network.shapes[-1][0], classes)
    held_out = splits.held_out
    if held_out is not None:
        held_out = held_out._replace(images=held_out.images[:EXIT_IMAGES])
    with run_folder.run_folder(root, f"{paths[0].stem}-{backend.name}") as folder:
        with backend:
            runs = tuple(
                run(
                    path,
                    images,
                    backend,
                    timesteps,
                    held_out=held_out,
                    exit_tolerance=exit_tolerance,
                    model=model,
                    arch=arch,
                    trace=trace,
                    device=device,
                    bars=bars,
                )
                for path in paths
            )
        manifest = run_folder.manifest(
            network=paths[0].stem,
            data=splits.name,
            backend=backend.name,
            files=paths,
            command_line=sys.argv,
            seed=None,
        )
        files = run_folder.write_run(
            folder,
            [run_folder.RunOfFile(ran.path.stem, ran.evaluation, ran.result, ran.network) for ran in runs],
            labels=images.labels,
            classes=classes,
            manifest={
                **manifest,
                "classes": classes,
                "lava_layout": backend.layout,
                "neuron": backend.neuron,
                "leak": backend.leak,
                "backend_versions": backend.versions,
                "measured": {ran.path.stem: dict(ran.result.measured) for ran in runs},
                "provenance": {ran.path.stem: dict(ran.network.provenance) for ran in runs},
            },
        )
    return RunFolder(folder, files, runs)
