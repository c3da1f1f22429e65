"""`loihi-convert run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from loihi_convert.backends import BackendOptions, open_backend
from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.cli import options
from loihi_convert.cli.dry_run import show_run_plan
from loihi_convert.cli.images import DataRequest
from loihi_convert.cli.options import BoardOptions, CnnOptions
from loihi_convert.cli.run_other import run_external, run_graded
from loihi_convert.cli.run_output import say_run
from loihi_convert.cli.run_request import RunRequest
from loihi_convert.cli.wrong_files import NETX, require_netx
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.dependencies import other_interpreter
from loihi_convert.ground.files import require_new_or_empty
from loihi_convert.ground.options import Flag
from loihi_convert.ground.ready_made import file_of
from loihi_convert.pipeline.options import RunOptions

if TYPE_CHECKING:
    from loihi_convert.batch.places import Place
    from loihi_convert.data import DataSplits
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.pipeline.origin import OpenedFile
    from loihi_convert.pipeline.run_results import RunFolder

EARLY_EXIT: Final = "Early exit"


def run(
    ctx: typer.Context,
    files: Annotated[list[Path] | None, Flag("FILE", is_argument=True)] = None,
    backend: BackendName = "ref",
    *,
    run_options: RunOptions,
    image_count: options.ImageCount = None,
    stream: bool = False,
    device: options.OnDevice = "auto",
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    details: bool = False,
    as_json: options.AsJson = False,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
    images: DataRequest,
    model: Annotated[Path | None, Flag("FILE", panel=options.OWN_CNN)] = None,
    cnn: Annotated[CnnOptions, Flag(only=("arch", "mean", "std"))],
    early_exit: Annotated[bool, Flag(panel=EARLY_EXIT)] = True,
    backend_options: BackendOptions,
    board: BoardOptions,
) -> None:
    """Run .net files on test images, show accuracy against latency, and write a run folder.

    Parameters
    ----------
    files
        Exported .net files, or names of `loihi-convert models`. Default: the newest file in this folder.
    backend
        ref: exact integers, fast. sim: Lava's CPU simulator. loihi2: a board, through Lava's extension for Loihi; never
        tested on one.
    image_count
        Use the first N test images. Default: all on ref, 100 on sim, 10 on loihi2.
    stream
        For graded spikes: treat the images as frames of one sequence, and send only the change from the frame before.
        Default: send each image as the change from a blank image.
    output
        Run folder to write, new or empty. Default: runs/FILE-BACKEND-TIME.
    details
        Also print all tables: layers, intervals, early exit, energy at each T.
    model
        Checkpoint of the CNN. Default: the one in the folder of the file, if it is unchanged.
    early_exit
        Evaluate early exit: stop when one class leads clearly. The margin is chosen on held-out images.
    mean
        For files of other tools: normalization of the input, (pixel/255 - mean) / std: one number, or one per channel.
        Default: 0.5, as in lava-dl.
    """
    started = time.monotonic()
    paths = _paths(files)
    if not early_exit and options.is_given(ctx, "exit_tolerance"):
        raise UsageError("given, but early exit is off", where="exit_tolerance", expected="needs early exit")
    if output is not None:
        require_new_or_empty(output)
    place = place_options.chosen(default=0)
    if backend == "loihi2":
        expected = "must be left out: a board is used by one process"
        options.refuse_given(place_options.given, "given, but the backend is loihi2", expected)
    from loihi_convert import external
    from loihi_convert.backends.loihi2.board import require_extension
    from loihi_convert.ir.graded import GradedNetwork
    from loihi_convert.ir.quantized import QuantizedNetwork

    tolerance = run_options.exit_tolerance if early_exit else None
    run_options = replace(run_options, exit_tolerance=tolerance, device=place.device(device))
    backend_options = replace(backend_options, device=run_options.device, board=board.chosen(backend))
    request = RunRequest(
        paths=paths,
        output=output,
        data=images,
        image_count=image_count,
        options=run_options,
        backend=open_backend(backend, backend_options),
        model=model,
        arch=cnn.arch,
        normalization=cnn.normalization,
        is_stream=stream,
        given={
            "trace": run_options.trace,
            "float_snn": run_options.float_snn,
            "early_exit": early_exit and options.is_given(ctx, "early_exit"),
            "exit_tolerance": options.is_given(ctx, "exit_tolerance"),
            "neuron": backend_options.neuron,
            "leak": backend_options.leak,
            "device": device == "cuda",
            **place_options.given,
        },
        started=started,
        as_json=as_json,
        details=details,
    )
    network, sha256 = external.read_any(paths[0])
    if isinstance(network, GradedNetwork) and network.is_converted:
        run_graded(request, network, sha256)
        return
    if stream and not isinstance(network, GradedNetwork):
        raise UsageError(
            "given for binary spikes", where="stream", expected="must be off: such a network is reset before each image"
        )
    if not isinstance(network, QuantizedNetwork):
        run_external(request, network, sha256)
        return
    found = f"given, but {paths[0]} already has its normalization"
    options.refuse_given({"mean": cnn.normalization}, found, "is only for netx files written by other tools")
    if board.dry_run:
        count = len(request.images(request.load(network.provenance.model, network.input_shape)))
        steps, overwrite = run_options.timesteps, board.overwrite
        show_run_plan(ctx, paths, network, count, steps, backend_options, overwrite=overwrite, as_json=as_json)
        return
    if backend == "loihi2":
        # Checked before the images are loaded.
        require_extension(other_interpreter(backend_options.lava_python))
    _run_exported(request, (network, sha256), place)


def _run_exported(request: RunRequest, read: tuple[QuantizedNetwork, str], place: Place) -> None:
    """Run files that `export` wrote; ``read`` are the network and the SHA-256 of the first."""
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.pipeline import running
    from loihi_convert.pipeline.origin import open_file

    run_options = request.options
    opened = [
        open_file(path, read=None if index else read, model=request.model, arch=request.arch)
        for index, path in enumerate(request.paths)
    ]
    if run_options.float_snn and all(file.spiking is None for file in opened):
        hint = "Pass `model`, and `arch` if your own code builds it."
        raise UsageError("given, but the CNN is not available", where="float_snn", expected="needs the CNN", hint=hint)
    splits = _splits(opened, request.data)
    images = request.images(splits)
    splits, no_early_exit = _with_held_out(request, opened, splits)

    def say(done: RunFolder[QuantizedNetwork]) -> None:
        say_run(done, request.scene(splits, no_early_exit), as_json=request.as_json, details=request.details)

    with place.opened() as shard_workers:
        done = running.run_into_folder(
            request.output,
            opened,
            request.backend,
            splits,
            images,
            run_options,
            workers=shard_workers,
            command_line=sys.argv,
            unwritten=say,
            bars=progress_bar,
        )
    say(done)


def _with_held_out(request: RunRequest, opened: Sequence[OpenedFile], splits: DataSplits) -> tuple[DataSplits, str]:
    """Return ``splits`` with images that choose when to exit early, or why early exit is not evaluated.

    The reason is empty if it is evaluated, or was not asked for.
    """
    if request.options.exit_tolerance is None:
        return splits, ""
    if all(file.network.task == "regression" for file in opened):
        return splits, "does not apply to a regression"
    if all(request.options.last_timestep(file.network.timesteps) == 1 for file in opened):
        is_given = request.given["early_exit"] or request.given["exit_tolerance"]
        return splits, "does not apply to one time step" if is_given else ""
    if splits.held_out is None:
        records = [file.network.provenance.model for file in opened]
        splits = request.data.with_calibration(splits, opened[0].path, records)
    if splits.held_out is not None:
        return splits, ""
    return splits, "not evaluated: it needs other images as `calibration` in an .npz file"


def _paths(files: Sequence[Path] | None) -> tuple[Path, ...]:
    """Return the files to run: those given, or the newest in the current folder."""
    if not files:
        found = [path for path in Path().glob(f"*{NETX}") if path.is_file()]
        files = sorted(found, key=lambda path: path.stat().st_mtime)[-1:]
    if not files:
        hint = "Write one: `loihi-convert export model.pt`."
        raise InputError(f"this folder does not hold a {NETX} file", hint=hint)
    paths = tuple(map(file_of, files))
    for path in paths:
        require_netx(path)
    return paths


def _splits(opened: Sequence[OpenedFile], request: DataRequest) -> DataSplits:
    """Return the data of the first file; unless the options name them, all CNNs must have the same data and classes."""
    from loihi_convert.data import DATASETS

    first = opened[0]
    names = {"data": "data", "classes": "classes", "data_fingerprint": "images"}
    if request.data is not None:
        names = {} if request.data in DATASETS else {"classes": "classes"}
    for name, words in names.items():
        recorded = [(file.path, getattr(file.network.provenance.model, name)) for file in opened]
        if name == "data_fingerprint":
            # Not every file records which images they were.
            recorded = [(path, value) for path, value in recorded if value is not None]
        for path, value in recorded[1:]:
            other, expected = recorded[0]
            if value != expected:
                values = f" ({value!r}, {expected!r})" if name == "data" else ""
                raise UsageError(
                    f"the {words} of its CNN differ from those of {other}{values}",
                    where=path,
                    hint="Run them one by one" + ("." if name == "classes" else ", or pass `data`."),
                )
    return request.load(first.path, first.network.provenance.model, first.network.input_shape, at_once=False)
