"""A netx file and images -> a backend's integers, their evaluation, and a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from loihi_convert.backends import Backend
from loihi_convert.backends.result import check_run
from loihi_convert.data import Dataset, DataSplits, HeldOut, StoredImages
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import MarginChoice, choose_margin
from loihi_convert.metrics.evaluation import evaluate_images
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.origin import OpenedFile, notes_on_images, open_file
from loihi_convert.pipeline.run_results import FileRun, RunFolder, written
from loihi_convert.pipeline.shards import (
    FileWork,
    ImagesRun,
    file_work,
    joined_runs,
    reference_work,
    run_reference,
    run_shard,
    run_work,
)
from loihi_convert.runs import run_folder
from loihi_convert.simulation.image_shards import DividedImages, Shard, Workers, shards

EXIT_IMAGES: Final = 2_000
"""Most images used to choose the margin of early exit."""

_DEFAULT: Final = RunOptions()

_Result = TypeVar("_Result")


def run(
    file: Path | OpenedFile,
    images: Dataset,
    backend: Backend,
    options: RunOptions = _DEFAULT,
    *,
    held_out: HeldOut | None = None,
    workers: Workers | None = None,
    bars: ProgressFactory = no_progress_bar,
) -> FileRun[QuantizedNetwork]:
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

    Raises
    ------
    InputError
        As in `open_file`.
    UsageError
        As in `backends.result.check_run`, or if there are ``workers`` for a board.
    PlatformError
        As in `Workers.map`.
    VerificationError
        If the backend's integers differ from those of `ref`.
    """
    opened = open_file(file) if isinstance(file, Path) else file
    _require_runnable(opened, images, backend, options)
    network = opened.network
    steps = options.last_timestep(network.timesteps)
    choice = None
    is_wanted = options.exit_tolerance is not None and steps > 1 and network.task == "classification"
    if held_out is not None and is_wanted:
        choice = _exit_choice(opened, held_out, backend, options, workers, bars=bars)
    ran = _images_run(opened, images.images, backend, options, workers, bars=bars)
    evaluation = evaluate_images(
        ran.result,
        network,
        images,
        cnn=opened.cnn,
        cnn_outputs=ran.cnn_outputs,
        float_outputs=ran.float_outputs,
        exit_choice=choice,
        timesteps=options.timesteps,
        neuron=backend.options.neuron_model(network),
    )
    evaluation = evaluation.model_copy(update={"notes": (*opened.notes, *evaluation.notes)})
    return FileRun(opened.path, network, ran.result, evaluation, ran.equal_to_reference, ran.backend_versions)


def _require_runnable(opened: OpenedFile, images: Dataset, backend: Backend, options: RunOptions) -> None:
    """Raise any error that can be known before the run starts."""
    network = opened.network
    images.require_fit(network.task, network.shapes[-1][0], "data")
    check_run(network, images.images, options.last_timestep(network.timesteps), trace=options.trace)
    backend.options.neuron_model(network)


def _images_run(
    opened: OpenedFile,
    images: Array,
    backend: Backend,
    options: RunOptions,
    workers: Workers | None,
    *,
    bars: ProgressFactory,
) -> ImagesRun:
    """Run ``images`` in this process, or on ``workers``."""
    if workers is None:
        # Not more than a shard is in memory.
        parts = shards(images, 1, options.device) if isinstance(images, StoredImages) else [Shard(0, images)]
        return joined_runs([run_shard(opened, backend, options, part, bars=bars) for part in parts])
    work = file_work(opened, backend, options)
    return joined_runs(_mapped(run_work, work, images, workers, f"running on {backend.name}", bars=bars))


def _exit_choice(
    opened: OpenedFile,
    held_out: HeldOut,
    backend: Backend,
    options: RunOptions,
    workers: Workers | None,
    *,
    bars: ProgressFactory,
) -> MarginChoice:
    """Choose the margin of early exit on held-out images."""
    described, images = "choosing when to exit early", held_out.images
    if workers is None:
        shard, where = Shard(0, images.images), f"{opened.path.name}: {described}"
        others = run_reference(opened, backend, options, shard, where, bars=bars).outputs
    else:
        work = file_work(replace(opened, cnn=None, spiking=None), backend, options)
        others = np.concatenate(_mapped(reference_work, work, images.images, workers, described, bars=bars))
    tolerance = options.exit_tolerance
    assert tolerance is not None
    return choose_margin(others, images.labels, split=held_out.split, tolerance_points=tolerance)


def _mapped(
    function: Callable[[FileWork, Shard], _Result],
    work: FileWork,
    images: Array,
    workers: Workers,
    description: str,
    *,
    bars: ProgressFactory,
) -> list[_Result]:
    """Return what ``function`` gives for each shard of ``images``, in order."""
    with bars(f"{work.opened.path.name}: {description}") as progress:
        return DividedImages(images, workers, work.options.device).map(function, work, progress=progress)


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
    unwritten: Callable[[RunFolder[QuantizedNetwork]], None] | None = None,
    bars: ProgressFactory = no_progress_bar,
) -> RunFolder[QuantizedNetwork]:
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

    Raises
    ------
    InputError
        As in `open_file`, or if ``output`` is not empty or cannot be written.
    UsageError, VerificationError, PlatformError
        As in `run`.
    """
    classes = splits.classes or None
    run_folder.require_different_names([opened.path.stem for opened in files])
    for opened in files:
        _require_runnable(opened, images, backend, options)
        run_folder.require_class_names(opened.path.stem, opened.network, classes)
    held_out = splits.held_out
    if held_out is not None:
        held_out = held_out._replace(images=held_out.images.mixed[:EXIT_IMAGES])
    with run_folder.run_folder(output, f"{files[0].path.stem}-{backend.name}") as folder:
        with backend:
            runs = tuple(
                _noted(run(opened, images, backend, options, held_out=held_out, workers=workers, bars=bars), splits)
                for opened in files
            )
        seeds = {opened.network.poisson_seed for opened in files}
        return written(
            RunFolder(folder, (), runs),
            [opened.sha256 for opened in files],
            splits,
            images,
            backend=backend.name,
            command_line=command_line,
            unwritten=unwritten,
            seed=seeds.pop() if len(seeds) == 1 else None,
            more=_made_by(backend, runs),
        )


def _noted(ran: FileRun[QuantizedNetwork], splits: DataSplits) -> FileRun[QuantizedNetwork]:
    """Add the note on images that the file was calibrated on."""
    notes = (*notes_on_images(ran.network, splits.test.fingerprint), *ran.evaluation.notes)
    return replace(ran, evaluation=ran.evaluation.model_copy(update={"notes": notes}))


def _made_by(backend: Backend, runs: Sequence[FileRun[QuantizedNetwork]]) -> dict[str, Any]:
    """The manifest's entries on the backend and on each file."""
    return {
        "lava_layout": backend.layout,
        "neuron": backend.options.neuron,
        "leak": backend.options.leak,
        "measured": {ran.path.stem: dict(ran.result.measured) for ran in runs},
        "provenance": {ran.path.stem: dict(ran.network.provenance) for ran in runs},
    }
