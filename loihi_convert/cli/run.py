"""`loihi-convert run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.choices import BackendName
from loihi_convert.cli import cluster, options
from loihi_convert.cli.dry_run import show_run_plan
from loihi_convert.cli.external import run_external
from loihi_convert.cli.graded import run_graded
from loihi_convert.cli.images import DataRequest
from loihi_convert.cli.run_output import say_run
from loihi_convert.cli.run_request import CHIP_IMAGES, SIM_IMAGES, RunRequest
from loihi_convert.cli.wrong_files import NETX, require_netx
from loihi_convert.dependencies import other_interpreter
from loihi_convert.errors import InputError, UsageError
from loihi_convert.files import require_new_or_empty
from loihi_convert.ready_made import file_of

if TYPE_CHECKING:
    from loihi_convert.cli.cluster import Place
    from loihi_convert.data import DataSplits
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.pipeline.opened_file import OpenedFile
    from loihi_convert.pipeline.run_results import RunFolder

_FILES = typer.Argument(
    help="Exported .net files, or names of `loihi-convert models`; default: the newest file in this folder.",
    metavar="FILE",
)
_BACKEND = (
    "ref: exact integers, fast. sim: Lava's CPU simulator. loihi2: a board, through Lava's extension for Loihi; never "
    "tested on one."
)
_TIMESTEPS = (
    "Time steps; default: the T that the file was balanced for. A list such as 1,4 gives one run to the largest T, "
    "with results at each."
)
_IMAGES = f"test images; default: all on ref, {SIM_IMAGES} on sim, {CHIP_IMAGES} on loihi2."
_OUTPUT = "Run folder to write, new or empty; default: runs/FILE-BACKEND-TIME."
_MODEL = "Checkpoint of the CNN; default: the one in the folder of the file, if it is unchanged."
_DETAILS = "Also print all tables: layers, intervals, early exit, energy at each T."
_FLOAT = "Also run the same network in floating point (float SNN) for comparison; takes as long as the run itself."
_EARLY_EXIT = "Evaluate early exit: stop when one class leads clearly. The margin is chosen on held-out images."
_TOLERANCE = "Accuracy that early exit may lose on these images, in percentage points."
_STREAM = (
    "For graded spikes: treat the images as frames of one sequence, and send only the change from the frame before. "
    "Default: send each image as the change from a blank image."
)
_PROFILE = "Run once more, and measure time and energy with Lava's profiler."
_DRY_RUN = "Run nothing: show what would run, and write FILE.sbatch, or FILE.sh without SLURM."


def run(
    ctx: typer.Context,
    files: Annotated[list[Path] | None, _FILES] = None,
    backend: Annotated[BackendName, options.choice(BackendName, "--backend", options.BASICS, _BACKEND)] = "ref",
    timesteps: Annotated[str | None, options.timesteps(_TIMESTEPS)] = None,
    image_count: Annotated[int | None, options.images(_IMAGES)] = None,
    trace: Annotated[bool, options.switch("--trace", options.BASICS, "Record and compare every layer.")] = False,
    stream: Annotated[bool, options.switch("--stream", options.BASICS, _STREAM)] = False,
    device: options.OnDevice = "auto",
    output: Annotated[Path | None, options.output(_OUTPUT)] = None,
    details: Annotated[bool, options.details(_DETAILS)] = False,
    as_json: options.AsJson = False,
    workers: cluster.ShardWorkers = None,
    scheduler: cluster.Scheduler = None,
    slurm: cluster.Slurm = None,
    data: Annotated[str | None, options.data(options.DATA_AND_CNN)] = None,
    data_root: Annotated[Path | None, options.data_root(options.DATA_AND_CNN)] = None,
    class_map: Annotated[str | None, options.class_map(options.DATA_AND_CNN)] = None,
    model: Annotated[Path | None, options.named("--model", options.DATA_AND_CNN, _MODEL, metavar="FILE")] = None,
    arch: Annotated[str | None, options.arch(options.DATA_AND_CNN)] = None,
    float_snn: Annotated[bool, options.switch("--float", options.DATA_AND_CNN, _FLOAT)] = False,
    early_exit: Annotated[bool, options.switch("--early-exit/--no-early-exit", options.EARLY_EXIT, _EARLY_EXIT)] = True,
    exit_tolerance: Annotated[
        float, options.number("--exit-tolerance", options.EARLY_EXIT, _TOLERANCE, metavar="POINTS")
    ] = 0.1,
    lava_python: options.LavaPython = None,
    lava_layout: options.LayoutOnLava = None,
    neuron: options.NeuronOnLava = None,
    leak: options.Leak = False,
    partition: options.Partition = None,
    board: options.BoardName = None,
    loihi_gen: options.LoihiGen = None,
    profile: Annotated[bool, options.switch("--profile", options.BOARD, _PROFILE)] = False,
    dry_run: Annotated[bool, options.switch("--dry-run", options.BOARD, _DRY_RUN)] = False,
    overwrite: Annotated[bool, options.overwrite("Replace an existing FILE.sbatch or FILE.sh.", options.BOARD)] = False,
    mean: Annotated[str | None, options.mean(options.EXTERNAL, "0.5, as in lava-dl")] = None,
    std: Annotated[str | None, options.std(options.EXTERNAL)] = None,
) -> None:
    """Run .net files on test images, show accuracy against latency, and write a run folder."""
    started = time.monotonic()
    paths = _paths(files)
    if overwrite and not dry_run:
        hint = "A run folder is never replaced: choose another one with `output`."
        raise UsageError("given without a batch script", where="overwrite", expected="needs `dry_run`", hint=hint)
    if not early_exit and options.is_given(ctx, "exit_tolerance"):
        raise UsageError("given, but early exit is off", where="exit_tolerance", expected="needs early exit")
    if output is not None:
        require_new_or_empty(output)
    steps = () if timesteps is None else options.parse_timesteps(timesteps)
    normalization = options.parse_normalization(mean, std)
    images = DataRequest(data, data_root, options.parse_class_map(class_map))
    shared = {"workers": workers, "scheduler": scheduler, "slurm": slurm}
    place = cluster.chosen_place(workers, scheduler, slurm, default=0)
    if backend == "loihi2":
        expected = "must be left out: a board is used by one process"
        options.refuse_given(shared, "given, but the backend is loihi2", expected)
    from loihi_convert import external
    from loihi_convert.backends import BackendOptions, open_backend
    from loihi_convert.backends.loihi2.board import require_extension
    from loihi_convert.ir.graded import GradedNetwork
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.pipeline.options import RunOptions

    run_options = RunOptions(
        steps,
        exit_tolerance if early_exit else None,
        trace,
        place.device(device),
        float_snn=float_snn,
    )
    on_board = options.board_of(backend, partition, board, loihi_gen, dry_run=dry_run)
    backend_options = BackendOptions(run_options.device, lava_python, lava_layout, neuron, leak, on_board, profile)
    request = RunRequest(
        paths=paths,
        output=output,
        data=images,
        image_count=image_count,
        options=run_options,
        backend=open_backend(backend, backend_options),
        model=model,
        arch=arch,
        normalization=normalization,
        is_stream=stream,
        given={
            "trace": trace,
            "float_snn": float_snn,
            "early_exit": early_exit and options.is_given(ctx, "early_exit"),
            "exit_tolerance": options.is_given(ctx, "exit_tolerance"),
            "neuron": neuron,
            "leak": leak,
            "device": device == "cuda",
            **shared,
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
    options.refuse_given({"mean": normalization}, found, "is only for netx files written by other tools")
    if dry_run:
        count = len(request.images(request.load(network.provenance.model, network.input_shape)))
        show_run_plan(ctx, paths, network, count, steps, backend_options, overwrite=overwrite, as_json=as_json)
        return
    if backend == "loihi2":
        # Checked before the images are loaded.
        require_extension(other_interpreter(lava_python))
    _run_exported(request, (network, sha256), place)


def _run_exported(request: RunRequest, read: tuple[QuantizedNetwork, str], place: Place) -> None:
    """Run files that `export` wrote; ``read`` are the network and the SHA-256 of the first."""
    from loihi_convert.pipeline import running
    from loihi_convert.pipeline.opened_file import open_file
    from loihi_convert.progress import progress_bar

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

    with place.shard_workers() as shard_workers:
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
