"""The images of a run in shards: computed apart, in any process and order, and joined into one result."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loihi_convert.backends import Backend, BackendOptions, open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import RunResult, as_reference, concatenated, concatenated_if_known
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.files import sha256
from loihi_convert.ground.progress import ProgressFactory, no_progress_bar
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.origin import OpenedFile
from loihi_convert.simulation.image_shards import Shard
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


def run_shard(
    opened: OpenedFile,
    backend: Backend,
    options: RunOptions,
    shard: Shard,
    *,
    bars: ProgressFactory = no_progress_bar,
) -> ImagesRun:
    """Run the images of ``shard`` on ``backend``, on `ref` to compare, and on the float networks.

    Raises
    ------
    InputError
        If ``backend`` reads the file, and it is missing here or was replaced since it was opened.
    VerificationError
        If the backend's integers differ from those of `ref`.
    """
    shard = replace(shard, images=np.asarray(shard.images))
    name, images = opened.path.name, shard.images
    steps = options.last_timestep(opened.network.timesteps)
    described, equal = f"{name}: running on {backend.name}", 0
    if backend.name == "ref":
        # Of the network in memory: the file may have been replaced since it was opened.
        result = run_reference(opened, backend, options, shard, described, trace=options.trace, bars=bars)
    else:
        _require_unchanged(opened)
        with bars(described) as progress:
            result = backend.run(
                opened.path, images, steps, trace=options.trace, first_image=shard.first, progress=progress
            )
        described, equal = f"{name}: comparing with ref", len(images)
        reference = run_reference(opened, backend, options, shard, described, trace=options.trace, bars=bars)
        result = as_reference(result, reference, backend.name, opened.path, first_image=shard.first)
    cnn_outputs = None if opened.cnn is None else cnn_scores(opened.cnn, images)
    float_outputs = None
    if opened.spiking is not None and options.float_snn:
        with bars(f"{name}: running the float SNN") as progress:
            float_outputs = outputs(
                opened.spiking, images, steps, device=options.device, first_image=shard.first, progress=progress
            )
    place = f"{platform.node()} {os.getpid()} {threading.get_ident()}"
    return ImagesRun(result, equal, cnn_outputs, float_outputs, backend.versions, place)


def _require_unchanged(opened: OpenedFile) -> None:
    if not opened.path.is_file() or sha256(opened.path) != opened.sha256:
        raise InputError(
            f"missing or replaced on {platform.node()} since it was opened",
            where=opened.path,
            hint="The backend reads it again: leave it in place; workers, if any, must find it under the same path.",
        )


def run_reference(
    opened: OpenedFile,
    backend: Backend,
    options: RunOptions,
    shard: Shard,
    description: str,
    *,
    trace: bool = False,
    bars: ProgressFactory = no_progress_bar,
) -> RunResult:
    """Run ``shard`` on `ref` with the neurons of ``backend``."""
    with bars(description) as progress:
        return run_network(
            opened.network,
            np.asarray(shard.images),
            options.last_timestep(opened.network.timesteps),
            trace=trace,
            first_image=shard.first,
            neuron=backend.options.neuron_model(opened.network),
            device=options.device,
            progress=progress,
        )


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


@dataclass(frozen=True, eq=False)
class FileWork:
    """What a worker needs for any shard of a run of one file.

    Parameters
    ----------
    opened
        The file; only `sim` reads it again.
    backend, backend_options, options
        As in `run_shard`.
    """

    opened: OpenedFile
    backend: BackendName
    backend_options: BackendOptions
    options: RunOptions


def file_work(opened: OpenedFile, backend: Backend, options: RunOptions) -> FileWork:
    """Return what workers need, after all checks.

    Raises
    ------
    UsageError
        If ``backend`` is a board.
    """
    if backend.name == "loihi2":
        raise UsageError(
            "found loihi2",
            where="backend",
            expected="must be ref or sim on several workers",
            hint="A board is used by one process.",
        )
    # Workers may run in another folder, and the float SNN may be as large as all else.
    slim = replace(opened, path=opened.path.absolute(), spiking=opened.spiking if options.float_snn else None)
    return FileWork(slim, backend.name, backend.options, options)


def run_work(work: FileWork, shard: Shard) -> ImagesRun:
    """Do `run_shard` in a worker."""
    with open_backend(work.backend, work.backend_options) as backend:
        return run_shard(work.opened, backend, work.options, shard)


def reference_work(work: FileWork, shard: Shard) -> Array:
    """Return the outputs of `run_reference`, see `RunResult.outputs`, in a worker."""
    backend = open_backend(work.backend, work.backend_options)
    return run_reference(work.opened, backend, work.options, shard, "").outputs
