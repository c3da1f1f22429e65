"""A netx file and images -> a backend's integers, their evaluation, and a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from loihi_convert import netx
from loihi_convert.arrays import Array
from loihi_convert.backends import Backend
from loihi_convert.backends.difference import first_difference
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.request import check_run
from loihi_convert.backends.result import RunResult
from loihi_convert.data import Dataset, DataSplits, HeldOut
from loihi_convert.errors import VerificationError
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import MarginChoice, choose_margin
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.evaluation_by_task import evaluate_images
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.origin import float_network, source_of
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.runs import run_folder
from loihi_convert.runs.manifest import new_manifest
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import outputs

EXIT_IMAGES: Final = 2_000
"""Most images used to choose the margin of early exit."""

_DEFAULT: Final = RunOptions()


@dataclass(frozen=True, eq=False)
class OpenedFile:
    """A netx file in memory, with the float networks it is compared with.

    Parameters
    ----------
    path
        The ``.net`` file.
    network
        Its network.
    cnn, spiking
        The CNN it was made from, and the float SNN it was rounded from; None if the CNN is not available.
    """

    path: Path
    network: QuantizedNetwork
    cnn: ReluNetwork | None = None
    spiking: SpikingNetwork | None = None


def open_file(
    path: str | Path,
    *,
    network: QuantizedNetwork | None = None,
    model: str | Path | None = None,
    arch: str | None = None,
) -> OpenedFile:
    """Return the netx file at ``path``, and the CNN it was made from.

    Parameters
    ----------
    path
        The ``.net`` file.
    network
        The network in the file, if already read.
    model
        The checkpoint the file was made from; by default the one next to the file, if unchanged.
    arch
        As in `source.open_source`, if the file was made with one. Without it such a CNN is not opened: code that is
        named only in a file is not imported.

    Raises
    ------
    InputError
        If the file or ``model`` cannot be used, or the layers of ``model`` differ.
    """
    path = Path(path)
    model = None if model is None else Path(model)
    network = netx.read(path) if network is None else network
    source = source_of(path, network, model, arch)
    if source is None:
        return OpenedFile(path, network)
    return OpenedFile(path, network, source.network, float_network(network, source.network))


@dataclass(frozen=True, eq=False)
class FileRun:
    """Run of one file: its integers, its figures, and the number of images on which it was equal to `ref`."""

    path: Path
    network: QuantizedNetwork
    result: RunResult
    evaluation: Evaluation
    equal_to_reference: int


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A complete run folder: its path, its files, and the runs in it."""

    folder: Path
    files: tuple[Path, ...]
    runs: tuple[FileRun, ...]

    @property
    def figures(self) -> list[tuple[str, Evaluation]]:
        """The name, without suffix, and the figures of each file."""
        return [(ran.path.stem, ran.evaluation) for ran in self.runs]


def run(
    file: Path | OpenedFile,
    images: Dataset,
    backend: Backend,
    options: RunOptions = _DEFAULT,
    *,
    held_out: HeldOut | None = None,
    bars: ProgressFactory = no_progress_bar,
) -> FileRun:
    """Run one netx file on ``images`` and compare it with the CNN and the float SNN.

    Parameters
    ----------
    file
        The ``.net`` file, or the result of `open_file`.
    images
        Test images, with labels or targets if known.
    backend
        From `backends.open_backend`. A run on any backend other than `ref` is compared with `ref`, integer by integer.
    options
        T, early exit, recording, and the device of `ref`.
    held_out
        Images other than ``images``, run on `ref` to choose the margin of early exit. Early exit is not evaluated
        without them, with T = 1, or for a regression.

    Raises
    ------
    InputError
        As in `open_file`.
    UsageError
        As in `backends.request.check_run`.
    VerificationError
        If the backend's integers differ from those of `ref`.
    """
    opened = open_file(file) if isinstance(file, Path) else file
    _require_runnable(opened, images, backend, options)
    network, name = opened.network, opened.path.name
    steps = options.last_timestep(network.timesteps)
    choice = None
    is_wanted = options.exit_tolerance is not None and steps > 1 and network.task == "classification"
    if held_out is not None and is_wanted:
        choice = _exit_choice(opened, held_out, backend, options, bars=bars)
    with bars(f"{name}: running on {backend.name}") as progress:
        result = backend.run(opened.path, images.images, steps, trace=options.trace, progress=progress)
    equal = 0
    if backend.name != "ref":
        result, equal = _equal_to_reference(opened, result, images.images, backend, options, bars=bars), len(images)
    cnn_outputs, float_outputs = _float_outputs(opened, images.images, steps, options, bars=bars)
    evaluation = evaluate_images(
        result,
        network,
        images,
        cnn_outputs=cnn_outputs,
        float_outputs=float_outputs,
        exit_choice=choice,
        timesteps=options.timesteps,
    )
    return FileRun(opened.path, network, result, evaluation, equal)


def _require_runnable(opened: OpenedFile, images: Dataset, backend: Backend, options: RunOptions) -> None:
    """Raise any error that can be known before the run starts."""
    network = opened.network
    images.require_fit(network.task, network.shapes[-1][0], "data")
    check_run(network, images.images, options.last_timestep(network.timesteps), trace=options.trace)
    backend.options.neuron_model(network)


def _reference(
    opened: OpenedFile,
    images: Array,
    backend: Backend,
    options: RunOptions,
    *,
    trace: bool,
    description: str,
    bars: ProgressFactory,
) -> RunResult:
    """Run ``images`` on `ref` with the neurons of ``backend``."""
    with bars(f"{opened.path.name}: {description}") as progress:
        return run_network(
            opened.network,
            images,
            options.last_timestep(opened.network.timesteps),
            trace=trace,
            neuron=backend.options.neuron_model(opened.network),
            device=options.device,
            progress=progress,
        )


def _exit_choice(
    opened: OpenedFile, held_out: HeldOut, backend: Backend, options: RunOptions, *, bars: ProgressFactory
) -> MarginChoice:
    """Choose the margin of early exit on held-out images."""
    described = "choosing when to exit early"
    images = held_out.images
    others = _reference(opened, images.images, backend, options, trace=False, description=described, bars=bars).outputs
    tolerance = options.exit_tolerance
    assert tolerance is not None
    return choose_margin(others, images.labels, split=held_out.split, tolerance_points=tolerance)


def _equal_to_reference(
    opened: OpenedFile,
    result: RunResult,
    images: Array,
    backend: Backend,
    options: RunOptions,
    *,
    bars: ProgressFactory,
) -> RunResult:
    """Return ``result`` with the counts only `ref` has; raise a `VerificationError` unless both are equal."""
    reference = _reference(
        opened, images, backend, options, trace=options.trace, description="comparing with ref", bars=bars
    )
    if difference := first_difference(result, reference):
        raise VerificationError(f"{backend.name} and ref disagree: {difference}", where=opened.path)
    return replace(result, channel_spikes=reference.channel_spikes, wrapped_images=reference.wrapped_images)


def _float_outputs(
    opened: OpenedFile, images: Array, steps: int, options: RunOptions, *, bars: ProgressFactory
) -> tuple[Array | None, Array | None]:
    """The outputs of the CNN, ``(N, outputs)``, and of the float SNN, ``(N, T, outputs)``; None where not known."""
    if opened.cnn is None or opened.spiking is None:
        return None, None
    scores = cnn_scores(opened.cnn, images)
    if not options.float_snn:
        return scores, None
    with bars(f"{opened.path.name}: running the float SNN") as progress:
        return scores, outputs(opened.spiking, images, steps, device=options.device, progress=progress)


def run_into_folder(
    output: str | Path | None,
    files: Sequence[OpenedFile],
    backend: Backend,
    splits: DataSplits,
    images: Dataset,
    options: RunOptions = _DEFAULT,
    *,
    command_line: Sequence[str] = (),
    bars: ProgressFactory = no_progress_bar,
) -> RunFolder:
    """Run netx files on ``images``, as in `run`, and write the results and their origin into a run folder.

    If anything fails, no folder is left. All files are checked before the first run.

    Parameters
    ----------
    output
        The run folder, which must be new or empty; None: a new ``runs/<first file>-<backend>-<UTC time>``.
    files
        From `open_file`.
    backend
        From `backends.open_backend`; started and stopped here.
    splits
        The data set of ``images``. Its first `EXIT_IMAGES` held-out images choose the margin of early exit.
    images, options
        As in `run`.
    command_line
        The command line typed by the user, for the manifest.

    Raises
    ------
    InputError
        As in `open_file`, or if ``output`` is not empty or cannot be written.
    UsageError, VerificationError
        As in `run`.
    """
    classes = splits.classes or None
    run_folder.require_different_names([opened.path.stem for opened in files])
    for opened in files:
        _require_runnable(opened, images, backend, options)
        run_folder.require_class_names(opened.path.stem, opened.network, classes)
    held_out = splits.held_out
    if held_out is not None:
        held_out = held_out._replace(images=held_out.images[:EXIT_IMAGES])
    paths = [opened.path for opened in files]
    named = None if output is None else Path(output)
    with run_folder.run_folder(named, f"{paths[0].stem}-{backend.name}") as folder:
        with backend:
            runs = tuple(run(opened, images, backend, options, held_out=held_out, bars=bars) for opened in files)
        manifest = new_manifest(
            network=paths[0].stem,
            data=splits.name,
            backend=backend.name,
            files=paths,
            command_line=command_line,
            seed=None,
        )
        made_by = _made_by(backend, runs)
        written = run_folder.write_run(
            folder,
            [run_folder.FileResults(ran.path.stem, ran.evaluation, ran.result, ran.network) for ran in runs],
            labels=images.labels,
            targets=images.targets,
            classes=classes,
            manifest={**manifest, "classes": classes, **made_by},
        )
    return RunFolder(folder, written, runs)


def _made_by(backend: Backend, runs: Sequence[FileRun]) -> dict[str, Any]:
    """The manifest's entries on the backend and on each file."""
    return {
        "lava_layout": backend.layout,
        "neuron": backend.options.neuron,
        "leak": backend.options.leak,
        "backend_versions": backend.versions,
        "measured": {ran.path.stem: dict(ran.result.measured) for ran in runs},
        "provenance": {ran.path.stem: dict(ran.network.provenance) for ran in runs},
    }
