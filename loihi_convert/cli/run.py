"""`loihi-convert run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import log
from loihi_convert.cli.golden import run_plan, show_run_plan
from loihi_convert.cli.options import NETX, BoardOptions, first_images, require_netx
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.dependencies import other_interpreter
from loihi_convert.ground.files import require_new_or_empty
from loihi_convert.ground.options import Flag
from loihi_convert.ground.ready_made import file_of
from loihi_convert.pipeline.options import OWN_CNN, CnnOptions, DataRequest, RunOptions

if TYPE_CHECKING:
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.external import AnyNetwork
    from loihi_convert.pipeline.opening import OpenedFile
    from loihi_convert.pipeline.running import RunFolder

EARLY_EXIT: Final = "Early exit"

_DEFAULT_IMAGES: Final = {"sim": 100, "loihi2": 10}
"""Images of a run unless told otherwise: seconds on Lava's simulator; on a board every layer is read at every step."""

_OF_ANY_FILE: Final = frozenset(
    (
        *("files", "backend", "timesteps", "image_count", "stream", "early_exit", "output", "details"),
        *("as_json", "data", "data_root", "class_map"),
    )
)
"""Parameters that apply to every file."""

_OF_GRADED_SPIKES: Final = _OF_ANY_FILE | {"model", "arch", "lava_python", "lava_layout"}
_OF_OTHER_TOOLS: Final = _OF_ANY_FILE | {"mean", "std"}


def run(
    ctx: typer.Context,
    files: Annotated[list[Path] | None, Flag("FILE", is_argument=True)] = None,
    backend: BackendName = "ref",
    *,
    run_options: RunOptions,
    image_count: options.ImageCount = None,
    device: options.OnDevice = "auto",
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    details: bool = False,
    as_json: options.AsJson = False,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
    images: DataRequest,
    model: Annotated[Path | None, Flag("FILE", panel=OWN_CNN)] = None,
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
    started, paths = time.monotonic(), _paths(files)
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
    from loihi_convert.cli.run_output import RunScene, say_run
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.pipeline.opening import open_file
    from loihi_convert.pipeline.running import run_into_folder

    tolerance = run_options.exit_tolerance if early_exit else None
    run_options = replace(run_options, exit_tolerance=tolerance, device=place.device(device))
    backend_options = replace(backend_options, device=run_options.device, board=board.chosen(backend))
    runner = open_backend(backend, backend_options)
    read = external.read_any(paths[0])
    if board.dry_run and isinstance(read[0], QuantizedNetwork):
        splits = images.load_for(paths[0], read[0].provenance.model, read[0].input_shape)
        count, steps = len(_chosen(splits, image_count, backend)), run_options.timesteps
        planned = run_plan(read[0], count, max(steps, default=read[0].timesteps), backend_options)
        show_run_plan(ctx, paths, planned, steps, board, as_json=as_json)
        return
    _refuse_others(ctx, paths, read[0])
    if backend == "loihi2" and isinstance(read[0], QuantizedNetwork):
        # Checked before the images are loaded.
        require_extension(other_interpreter(backend_options.lava_python))
    opened = [
        open_file(path, read=None if index else read, model=model, arch=cnn.arch, normalization=cnn.normalization)
        for index, path in enumerate(paths)
    ]
    if run_options.float_snn and all(file.spiking is None for file in opened):
        expected = "needs the CNN: `model`, and `arch` if your own code builds it"
        raise UsageError("given, but the CNN is not available", where="float_snn", expected=expected)
    splits = _splits(opened, images)
    shown = _chosen(splits, image_count, backend)
    is_asked = any(options.is_given(ctx, name) for name in ("early_exit", "exit_tolerance"))
    no_early_exit = _no_early_exit(opened, splits, run_options, is_asked=is_asked)

    def say(done: RunFolder) -> None:
        seconds = time.monotonic() - started
        scene = RunScene(splits.name, backend, seconds, run_options, cnn, no_early_exit)
        say_run(done, scene, as_json=as_json, details=details)

    with place.opened() as workers:
        done = run_into_folder(
            output,
            opened,
            runner,
            splits,
            shown,
            run_options,
            workers=workers,
            command_line=sys.argv,
            unwritten=say,
        )
    say(done)


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


def _refuse_others(ctx: typer.Context, paths: Sequence[Path], network: AnyNetwork) -> None:
    """Refuse options that would have no effect on ``network``, which the first file holds, and several such files."""
    from loihi_convert.external import is_external
    from loihi_convert.ir.graded import GradedNetwork

    if is_external(network):
        what, known = "another tool wrote it", _OF_OTHER_TOOLS
    elif isinstance(network, GradedNetwork):
        what, known = "its spikes are graded", _OF_GRADED_SPIKES
    else:
        return
    if len(paths) > 1:
        raise UsageError(what, where=paths[0], expected="must be run alone")
    options.refuse_others(ctx, known, f"given for {paths[0]}: {what}", expected="must be left out")


def _chosen(splits: DataSplits, image_count: int | None, backend: BackendName) -> Dataset:
    """Return the test images to run: as many as requested, else all, or as many as a slow backend runs quickly."""
    available = len(splits.test)
    default = _DEFAULT_IMAGES.get(backend, available)
    count = first_images(image_count, default, available, f"test images of {splits.name}")
    if image_count is None and count < available:
        log(f"running the first {count} of {available} test images; choose with --images")
    return splits.test[:count]


def _no_early_exit(opened: Sequence[OpenedFile], splits: DataSplits, run_options: RunOptions, *, is_asked: bool) -> str:
    """Return why early exit is not evaluated; empty if it is, or was not asked for."""
    spiking = [file.network for file in opened if file.has_early_exit]
    if run_options.exit_tolerance is None or not spiking:
        return ""
    if all(network.task == "regression" for network in spiking):
        return "does not apply to a regression"
    if all(run_options.last_timestep(network.timesteps) == 1 for network in spiking):
        return "does not apply to one time step" if is_asked else ""
    needed = "other images as `calibration` in an .npz file"
    return "" if splits.held_out is not None else f"not evaluated: it needs {needed}"


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
    return request.load_for(first.path, first.network.provenance.model, first.network.input_shape, at_once=False)
