"""A netx file and images -> a backend's integers, their evaluation, and a run folder."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from loihi_convert.backends.backend import Backend, BackendOptions, open_backend
from loihi_convert.backends.reference import ReferenceBackend
from loihi_convert.backends.result import (
    RunResult,
    as_reference,
    concatenated,
    concatenated_if_known,
    require_result_size,
    require_safe_timesteps,
    result_size,
)
from loihi_convert.data import Dataset, DataSplits, HeldOut, StoredImages
from loihi_convert.errors import UsageError
from loihi_convert.external import AnyNetwork, is_external
from loihi_convert.external.readers import CubaNetwork
from loihi_convert.external.simulation import pixel_inputs, run_cuba
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import require_images
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import MarginChoice, choose_margin
from loihi_convert.metrics.evaluation import Evaluation, evaluate, expected_of
from loihi_convert.pipeline.opening import OpenedFile, notes_on_images, open_file
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.runs import run_folder
from loihi_convert.runs.columns import FileResults, ImageFacts
from loihi_convert.runs.run_folder import ReadFile, new_manifest, write_run
from loihi_convert.simulation.image_shards import DividedImages, Shard, Workers, shards
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import outputs


@dataclass(frozen=True, eq=False)
class ImagesRun:
    """The results of some images of a run.

    Parameters
    ----------
    result
        Their integers.
    equal_to_reference
        Number of images compared with `ref`: all, or 0 on `ref`.
    cnn_outputs, float_outputs
        Outputs of the CNN, ``(N, outputs)``, and of the float SNN, ``(N, T, outputs)``; None where not known.
    backend_versions
        `Backend.versions` after the run.
    place
        The thread that computed them.
    """

    result: RunResult
    equal_to_reference: int
    cnn_outputs: Array | None
    float_outputs: Array | None
    backend_versions: Mapping[str, str]
    place: str


@dataclass(frozen=True, eq=False)
class FileWork:
    """The run of one file, which any process can do for any shard of the images.

    A worker that it is sent to opens the backend itself.
    """

    opened: OpenedFile
    backend: Backend
    options: RunOptions

    @property
    def steps(self) -> int:
        """T of the run."""
        return self.options.last_timestep(self.opened.network.timesteps)

    def __reduce__(self) -> tuple[object, ...]:
        if self.backend.name == "loihi2":
            raise UsageError("found loihi2", where="backend", expected="must be ref or sim on several workers")
        # Workers may run in another folder, and the float SNN may be as large as all else.
        spiking = self.opened.spiking if self.options.float_snn else None
        opened = replace(self.opened, path=self.opened.path.absolute(), spiking=spiking)
        return _file_work, (opened, self.backend.name, self.backend.options, self.options)

    def describes(self, what: str) -> str:
        """Return the name of a progress bar."""
        return f"{self.opened.path.name}: {what}"

    def run_on(
        self, backend: Backend, network: QuantizedNetwork | GradedNetwork, shard: Shard, what: str, *, trace: bool
    ) -> RunResult:
        """Run ``shard`` on ``backend``; ``what`` describes that."""
        with progress_bar(self.describes(what)):
            return backend.run(
                network,
                shard.images,
                self.steps,
                trace=trace,
                first_image=shard.first,
                is_stream=self.options.stream,
            )


def _file_work(
    opened: OpenedFile, backend: BackendName, backend_options: BackendOptions, options: RunOptions
) -> FileWork:
    return FileWork(opened, open_backend(backend, backend_options), options)


def run_work(work: FileWork, shard: Shard) -> ImagesRun:
    """Do `run_shard` in a worker."""
    with open_backend(work.backend.name, work.backend.options) as backend:
        return run_shard(replace(work, backend=backend), shard)


def run_shard(work: FileWork, shard: Shard) -> ImagesRun:
    """Run the images of ``shard`` on the backend, on `ref` to compare, and on the float networks.

    Raises
    ------
    VerificationError
        If the backend's integers differ from those of `ref`.
    """
    shard = replace(shard, images=np.asarray(shard.images))
    opened, backend, options, images = work.opened, work.backend, work.options, shard.images
    # Graded spikes have no outputs after each step that could be compared instead.
    trace = options.trace or (backend.name != "ref" and opened.network.is_graded)
    reference = None
    if backend.name == "ref":
        result = run_reference(work, shard, "running on ref", trace=trace)
    else:
        assert not isinstance(opened.network, CubaNetwork)
        result = work.run_on(backend, opened.network, shard, f"running on {backend.name}", trace=trace)
        reference = run_reference(work, shard, "comparing with ref", trace=trace)
        result = as_reference(result, reference, backend.name, opened.path, first_image=shard.first)
    cnn_outputs = None if opened.cnn is None else cnn_scores(opened.cnn, images).reshape(len(images), -1)
    float_outputs = None
    if opened.spiking is not None and options.float_snn:
        with progress_bar(work.describes("running the float SNN")):
            float_outputs = outputs(opened.spiking, images, work.steps, device=options.device, first_image=shard.first)
    place = f"{platform.node()} {os.getpid()} {threading.get_ident()}"
    equal = 0 if reference is None else len(images)
    return ImagesRun(result, equal, cnn_outputs, float_outputs, backend.versions, place)


def run_reference(work: FileWork, shard: Shard, what: str, *, trace: bool = False) -> RunResult:
    """Run ``shard`` on `ref` with the neurons of the backend; ``what`` describes that."""
    network, images, normalization = work.opened.network, np.asarray(shard.images), work.opened.normalization
    if isinstance(network, CubaNetwork):
        with progress_bar(work.describes(what)):
            return run_cuba(network, images, work.steps, normalization=normalization)
    if isinstance(network, GradedNetwork) and normalization is not None:
        images = pixel_inputs(network, images, normalization)
    ref = ReferenceBackend(replace(work.backend.options, device=work.options.device))
    return work.run_on(ref, network, replace(shard, images=images), what, trace=trace)


def reference_outputs(work: FileWork, shard: Shard) -> Array:
    """Return the outputs of `run_reference`, see `RunResult.outputs`."""
    return run_reference(work, shard, _CHOOSING).outputs


def joined_runs(runs: Sequence[ImagesRun]) -> ImagesRun:
    """Return the results of all ``runs``, given in the order of their images.

    The time is that of the thread which took longest, because the others worked at the same time.
    """
    seconds, startup = (
        max(sum(getattr(run.result, name) for run in runs if run.place == place) for place in {r.place for r in runs})
        for name in ("seconds", "startup_seconds")
    )
    result = concatenated([run.result for run in runs])
    versions: dict[str, str] = {}
    for run in runs:
        for name, version in run.backend_versions.items():
            known = versions.get(name, version)
            versions[name] = known if version in known.split(", ") else f"{known}, {version}"
    return ImagesRun(
        result=replace(result, seconds=seconds, startup_seconds=startup),
        equal_to_reference=sum(run.equal_to_reference for run in runs),
        cnn_outputs=concatenated_if_known([run.cnn_outputs for run in runs]),
        float_outputs=concatenated_if_known([run.float_outputs for run in runs]),
        backend_versions=versions,
        place=runs[0].place,
    )


EXIT_IMAGES: Final = 2_000
"""Most images used to choose the margin of early exit."""

_CHOOSING: Final = "choosing when to exit early"

_DEFAULT: Final = RunOptions()

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class FileRun:
    """Run of one file: its integers and its figures.

    Parameters
    ----------
    path, network, result, evaluation
        The file, its network, the integers, and the figures computed from them.
    equal_to_reference
        Number of images compared with `ref` and found equal; 0 if `ref` itself ran.
    backend_versions
        See `Backend.versions`.
    normalization
        How pixels entered a network of another tool.
    """

    path: Path
    network: AnyNetwork
    result: RunResult
    evaluation: Evaluation
    equal_to_reference: int
    backend_versions: Mapping[str, str] = field(default_factory=dict)
    normalization: Normalization | None = None


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
    workers: Workers | None = None,
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
    workers
        Processes that share the images; every bit of the results is the same, except times. None: this process runs
        them all.
    """
    opened = open_file(file) if isinstance(file, Path) else file
    require_runnable(opened, images, backend, options, workers)
    network = opened.network
    is_wanted = options.exit_tolerance is not None and options.last_timestep(network.timesteps) > 1
    work, choice = FileWork(opened, backend, options), None
    if held_out is not None and is_wanted and opened.has_early_exit and network.task == "classification":
        choice = _exit_choice(work, held_out, workers)
    ran = _images_run(work, images.images, workers)
    evaluation = evaluate(
        ran.result,
        network,
        expected_of(ran.result, network, images, ran.cnn_outputs, ran.float_outputs),
        exit_choice=choice,
        timesteps=options.timesteps,
        multiply_accumulates=None if opened.cnn is None else opened.cnn.multiply_accumulates,
    )
    evaluation = evaluation.model_copy(update={"notes": (*opened.notes, *evaluation.notes)})
    equal, versions = ran.equal_to_reference, ran.backend_versions
    return FileRun(opened.path, network, ran.result, evaluation, equal, versions, opened.normalization)


def require_runnable(
    opened: OpenedFile, images: Dataset, backend: Backend, options: RunOptions, workers: Workers | None, kept: int = 0
) -> int:
    """Raise any error of `run` that can be known before it starts; return the size of the result in bytes.

    ``kept`` is the size of other results.

    Raises
    ------
    UsageError
        As in `backends.result.check_run`, or if an option does not apply to such a network.
    InputError
        If the images do not fit it.
    """
    network, steps = opened.network, options.last_timestep(opened.network.timesteps)
    images.require_fit(network.task, network.shapes[-1][0], "data")
    if is_external(network) and backend.name != "ref":
        expected = "must be ref for a file that another tool wrote"
        raise UsageError(f"found {backend.name}", where="backend", expected=expected)
    if isinstance(network, QuantizedNetwork):
        require_safe_timesteps(network, steps)
        require_images(network.input_shape, images.images)
        backend.options.neuron_model(network)
    elif isinstance(network, GradedNetwork) and steps != 1:
        expected = "must be 1: graded spikes take one step of each layer for an image"
        raise UsageError(f"found {steps}", where="timesteps", expected=expected)
    elif opened.normalization is None and isinstance(network, GradedNetwork):
        require_images(network.input_shape, images.images)
    if options.stream and not isinstance(network, GradedNetwork):
        expected = "must be off: such a network is reset before each image"
        raise UsageError("given for binary spikes", where="stream", expected=expected)
    trace = options.trace or (backend.name != "ref" and network.is_graded)
    size = result_size(network, len(images), steps, trace=trace)
    # That of `ref`, or the parts that were joined.
    second = size if backend.name != "ref" or workers is not None or _has_parts(images.images, options) else 0
    # float32 of the float SNN; float64 in the CNN's units, and twice while they are computed.
    each = 4 * (options.float_snn and opened.spiking is not None) + 16 * (network.task == "regression")
    besides = kept + second + each * len(images) * steps * network.shapes[-1][0]
    require_result_size(network, len(images), steps, trace=trace, besides=besides)
    return size


def _images_run(work: FileWork, images: Array, workers: Workers | None) -> ImagesRun:
    """Run ``images`` in this process, or on ``workers``."""
    if workers is not None:
        return joined_runs(_mapped(run_work, work, images, workers, f"running on {work.backend.name}"))
    parts = shards(images, 1, work.options.device) if _has_parts(images, work.options) else [Shard(0, images)]
    return joined_runs([run_shard(work, part) for part in parts])


def _has_parts(images: Array, options: RunOptions) -> bool:
    """Whether a process reads ``images`` in shards, because not more than one is in memory."""
    return isinstance(images, StoredImages) and not options.stream


def _exit_choice(work: FileWork, held_out: HeldOut, workers: Workers | None) -> MarginChoice:
    """Choose the margin of early exit on held-out images."""
    work = replace(work, opened=replace(work.opened, cnn=None, spiking=None))
    images, tolerance = held_out.images, work.options.exit_tolerance
    if workers is None:
        others = reference_outputs(work, Shard(0, images.images))
    else:
        others = np.concatenate(_mapped(reference_outputs, work, images.images, workers, _CHOOSING))
    assert tolerance is not None
    return choose_margin(others, images.labels, split=held_out.split, tolerance_points=tolerance)


def _mapped(
    function: Callable[[FileWork, Shard], _Result], work: FileWork, images: Array, workers: Workers, what: str
) -> list[_Result]:
    """Return what ``function`` gives for each shard of ``images``, in order."""
    with progress_bar(work.describes(what)):
        return DividedImages(images, workers, work.options.device).map(function, work)


def run_into_folder(
    output: str | Path | None,
    files: Sequence[OpenedFile],
    backend: Backend,
    splits: DataSplits,
    images: Dataset,
    options: RunOptions = _DEFAULT,
    *,
    workers: Workers | None = None,
    command_line: Sequence[str] = (),
    unwritten: Callable[[RunFolder], None] | None = None,
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
        The data set of ``images``. Up to `EXIT_IMAGES` held-out images of all classes choose the margin of early exit.
    images, options, workers
        As in `run`.
    command_line
        The command line typed by the user, for the manifest.
    unwritten
        Called with the run, without files, if its files cannot be written, before the error.
    """
    classes = splits.classes or None
    run_folder.require_different_names([opened.path.stem for opened in files])
    kept = 0
    for opened in files:
        kept += require_runnable(opened, images, backend, options, workers, kept)
        run_folder.require_class_names(opened.path.stem, opened.network, classes)
    if (held_out := splits.held_out) is not None:
        held_out = held_out._replace(images=held_out.images.mixed[:EXIT_IMAGES])
    with run_folder.run_folder(output, f"{files[0].path.stem}-{backend.name}") as folder:
        with backend:
            runs = tuple(
                _noted(run(opened, images, backend, options, held_out=held_out, workers=workers), splits)
                for opened in files
            )
        done = RunFolder(folder, (), runs)
        try:
            written = write_run(
                folder,
                [FileResults(ran.path.stem, ran.evaluation, ran.result, ran.network) for ran in runs],
                ImageFacts(images.labels, images.targets, images.paths, splits.classes or None),
                _manifest(runs, files, splits, backend, options, command_line),
            )
        except Exception:
            if unwritten is not None:
                unwritten(done)
            raise
        return replace(done, files=written)


def _noted(ran: FileRun, splits: DataSplits) -> FileRun:
    """Add the note on images that the file was calibrated on."""
    notes = (*notes_on_images(ran.network, splits.test.fingerprint), *ran.evaluation.notes)
    return replace(ran, evaluation=ran.evaluation.model_copy(update={"notes": notes}))


def _manifest(
    runs: Sequence[FileRun],
    opened: Sequence[OpenedFile],
    splits: DataSplits,
    backend: Backend,
    options: RunOptions,
    command_line: Sequence[str],
) -> dict[str, Any]:
    """All that is known of the origin of a run's results."""
    seeds = {getattr(file.network, "poisson_seed", None) for file in opened}
    found = new_manifest(
        network=opened[0].path.stem,
        data=splits.name,
        data_fingerprint=splits.fingerprint,
        backend=backend.name,
        files=[ReadFile(name=file.path.name, sha256=file.sha256) for file in opened],
        command_line=command_line,
        seed=seeds.pop() if len(seeds) == 1 else None,
    )
    found |= {
        "classes": splits.classes or None,
        "backend_versions": {name: version for ran in runs for name, version in ran.backend_versions.items()},
        "lava_layout": backend.layout,
        "neuron": backend.options.neuron,
        "leak": backend.options.leak,
        "measured": {ran.path.stem: dict(ran.result.measured) for ran in runs},
        "provenance": {ran.path.stem: dict(ran.network.provenance) for ran in runs if not is_external(ran.network)},
    }
    if backend.name != "ref":
        found["equal_to_ref"] = {ran.path.stem: ran.equal_to_reference for ran in runs}
    for ran in runs:
        if is_external(ran.network):
            found["mean"], found["std"] = ran.normalization or (None, None)
        if isinstance(ran.network, GradedNetwork):
            found |= {"spikes": "graded", "stream": options.stream}
    return found
