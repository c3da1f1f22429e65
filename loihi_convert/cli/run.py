"""`loihi-convert run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from loihi_convert.cli.console import echo, log, note_run, say_tables
from loihi_convert.cli.dry_run import dry_run
from loihi_convert.cli.external import refuse_for_external, show_external
from loihi_convert.cli.golden import check_golden
from loihi_convert.cli.options import (
    ArchOption,
    BoardOption,
    ClassMapOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    LavaLayoutOption,
    LavaPythonOption,
    LoihiGenOption,
    OverwriteOption,
    PartitionOption,
    parse_class_map,
    parse_numbers,
)
from loihi_convert.errors import InputError, UsageError

if TYPE_CHECKING:
    from loihi_convert.choices import Layout, Neuron
    from loihi_convert.data import DataSplits
    from loihi_convert.pipeline import RunFolder

SIM_IMAGES = 100
"""Images a run on Lava's simulator takes unless told otherwise: seconds, not minutes."""

CHIP_IMAGES = 10
"""The same on a board, where every layer is read after every step."""

RUNS = Path("runs")
TOLERANCE = 0.1
"""The defaults of -o and --exit-tolerance, which a script need not repeat."""


def run(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="ExportResult .net files; default: the newest in this folder. With --golden: a golden folder.",
            metavar="[FILE]...",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="ref: exact integers, fast. sim: Lava's CPU simulator. loihi2: a board, by the Lava extension for "
            "Loihi; never tried on one.",
        ),
    ] = "ref",
    timesteps: Annotated[
        int | None, typer.Option("-T", "--timesteps", help="Time steps; default: what the file was balanced for.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            help=f"Test images, the first N; default: all on ref, {SIM_IMAGES} on sim, {CHIP_IMAGES} on loihi2.",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The CNN the file was made from; default: the one beside it.")
    ] = None,
    arch: ArchOption = None,
    trace: Annotated[bool, typer.Option("--trace", help="Record and compare every layer, not only the last.")] = False,
    early_exit: Annotated[
        bool,
        typer.Option(
            "--early-exit/--no-early-exit",
            help="Show what stopping at a clear lead gives; the lead is chosen on held-out images, on ref.",
        ),
    ] = True,
    exit_tolerance: Annotated[
        float,
        typer.Option("--exit-tolerance", help="Percentage points of accuracy that stopping early may lose there."),
    ] = TOLERANCE,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            help="For a file that export has not written and whose network has input neurons: x = (pixel / 255 - "
            "mean) / std enters it; one number, or one per channel. Default: 0.5, as lava-dl's own.",
            show_default=False,
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="See --mean. Default: 0.5.", show_default=False)] = None,
    golden: Annotated[
        bool,
        typer.Option(
            "--golden",
            help="Compare a backend with a golden folder, by default the one in this package: every spike and "
            "potential of a tiny network. Exit code 5 if any differs.",
        ),
    ] = False,
    data: DataOption = None,
    data_root: DataRootOption = None,
    class_map: ClassMapOption = None,
    lava_python: LavaPythonOption = None,
    lava_layout: LavaLayoutOption = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron",
            help="own: those the file says. stock: a circuit of Lava's LIF, as on a chip (default of files of target "
            "loihi2, which alone can be).",
            show_default=False,
        ),
    ] = None,
    leak: Annotated[
        bool, typer.Option("--leak", help="Stock neurons of du = 0 instead of -1: u loses a 4096th in each step.")
    ] = False,
    partition: PartitionOption = None,
    board: BoardOption = None,
    loihi_gen: LoihiGenOption = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="For loihi2: run once more, and measure time and energy by Lava's profiler."),
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="For loihi2: show what would run, and write FILE.sbatch; run nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for run folders.")] = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Run exported files, or one other netx file, on test images; show accuracy against latency; write a run folder."""
    from loihi_convert import external, netx, pipeline
    from loihi_convert.backends import BackendOptions, open_backend
    from loihi_convert.backends.loihi2.board import chosen_board
    from loihi_convert.data import DATASETS, load_data
    from loihi_convert.external.cuba import CubaNetwork
    from loihi_convert.metrics.early_exit import require_tolerance
    from loihi_convert.progress import progress_bar
    from loihi_convert.simulation.gpu import chosen_device

    chosen = chosen_device(device)
    steps = () if timesteps is None else (timesteps,)
    require_tolerance(exit_tolerance)
    options = pipeline.RunOptions(steps, exit_tolerance if early_exit else None, trace, chosen)
    on_board = None
    if backend == "loihi2":
        on_board = chosen_board(partition=partition, name=board, generation=loihi_gen)
    elif partition or board or loihi_gen or dry:
        raise UsageError("--partition, --board, --loihi-gen and --dry-run are for --backend loihi2.")
    backend_options = BackendOptions(
        device=chosen,
        lava_python=lava_python,
        lava_layout=cast("Layout | None", lava_layout),
        neuron=cast("Neuron | None", neuron),
        leak=leak,
        board=on_board,
        profile=profile,
    )
    opened = open_backend(backend, backend_options)
    if golden:
        check_golden(files, opened, as_json=as_json)
        return
    paths = tuple(files) if files else (_newest(netx.SUFFIX),)
    network = external.read_any(paths[0])
    source = {} if isinstance(network, CubaNetwork) else network.provenance.get("model", {})
    if data is None and source.get("data") is None:
        raise UsageError(f"{paths[0]}: does not say what data it was made from; pass --data.")
    if data not in DATASETS and not isinstance(network, CubaNetwork):
        _require_like_first(paths, source, ("data", "classes") if data is None else ("classes",))
    splits = load_data(
        data or str(source["data"]),
        data_root,
        classes=source.get("classes", ()),
        class_map=parse_class_map(class_map),
        input_shape=network.input_shape,
    )
    for note in splits.notes:
        log(note)
    count = _image_count(images, backend, splits)
    if isinstance(network, CubaNetwork):
        refuse_for_external(
            paths,
            {
                f"--backend {backend}": backend != "ref",
                "--neuron": neuron,
                "--leak": leak,
                "--model": model,
                "--arch": arch,
                "--trace": trace,
            },
        )
        ran = pipeline.run_external_into_folder(
            output,
            paths[0],
            network,
            splits,
            splits.test[:count],
            timesteps=steps,
            mean=parse_numbers("--mean", mean),
            std=parse_numbers("--std", std),
            command_line=sys.argv,
            bars=progress_bar,
        )
        show_external(ran, paths[0], as_json=as_json)
        return
    if mean is not None or std is not None:
        raise UsageError(f"--mean, --std: {paths[0]} holds its own normalization; only files of other hands need it.")
    if on_board is not None and dry:
        if len(paths) > 1:
            raise UsageError(f"--dry-run: {len(paths)} files; allowed is one, for a script of its own.")
        given = {
            "--data": data,
            "--data-root": data_root,
            "--lava-python": lava_python,
            "--lava-layout": lava_layout,
            "--neuron": neuron,
            "--model": model,
            "--arch": arch,
            "--exit-tolerance": None if exit_tolerance == TOLERANCE else exit_tolerance,
            "--device": None if device == "auto" else device,
            "--output": None if output == RUNS else output,
        }
        further = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        flags = {"--no-early-exit": not early_exit, "--leak": leak, "--trace": trace, "--profile": profile}
        further += [name for name, on in flags.items() if on]
        dry_run(
            paths[0],
            network,
            count,
            timesteps,
            on_board,
            options=backend_options,
            further=further,
            overwrite=overwrite,
            as_json=as_json,
        )
        return
    if images is None and count < len(splits.test):
        log(f"running the first {count} of {len(splits.test)} test images; choose with --images")
    if early_exit and splits.held_out is None:
        log(
            f"early exit is not evaluated: its margin is chosen on images that are not run, and {splits.name} has "
            "none; an .npz file may hold others as `calibration`"
        )
    done = pipeline.run_into_folder(
        output,
        [
            pipeline.open_file(path, network=network if path == paths[0] else None, model=model, arch=arch)
            for path in paths
        ],
        opened,
        splits,
        splits.test[:count],
        options,
        command_line=sys.argv,
        bars=progress_bar,
    )
    show_run(done, trace=trace, arch=arch, as_json=as_json)


def _require_like_first(paths: Sequence[Path], first: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise a `UsageError` unless all files say the same of the ``names`` of their CNN: the images come from one."""
    from loihi_convert import netx

    for path in paths[1:]:
        other = netx.read(path).provenance.get("model", {})
        for name in names:
            if other.get(name) != first.get(name):
                is_data = name == "data"
                raise UsageError(
                    f"{path}: the {name} of its CNN are not those of {paths[0]}"
                    f"{f' ({other.get(name)!r}, {first.get(name)!r})' if is_data else ''}; run them one by one"
                    f"{', or pass --data' if is_data else ''}."
                )


def _image_count(images: int | None, backend: str, splits: DataSplits) -> int:
    """How many test images to run: as asked, else all, or as many as the backend runs in a short while."""
    available = len(splits.test)
    count = min({"sim": SIM_IMAGES, "loihi2": CHIP_IMAGES}.get(backend, available), available)
    count = count if images is None else images
    if not 1 <= count <= available:
        raise UsageError(f"--images {count}: {splits.name} has 1..{available} test images.")
    return count


def show_run(done: RunFolder, *, trace: bool, arch: str | None, as_json: bool) -> None:
    for ran in done.runs:
        note_run(ran, trace=trace, arch=arch)
    if as_json:
        from loihi_convert.runs.run_folder import results_json

        echo(results_json(done.figures))
    else:
        from loihi_convert.report.run_tables import (
            accuracy_table,
            early_exit_table,
            energy_table,
            layer_table,
            per_t_table,
        )

        tables = [table for _, figures in done.figures for table in (accuracy_table(figures), layer_table(figures))]
        more = (early_exit_table(done.figures), energy_table(done.figures))
        say_tables(
            [
                *([per_t_table(done.figures)] if len(done.runs) > 1 else tables),
                *(table for table in more if table is not None),
            ]
        )
    log(f"wrote {done.folder}/ ({', '.join(path.name for path in done.files)})")


def _newest(suffix: str) -> Path:
    found = sorted(Path().glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"this folder holds no {suffix} file; `loihi-convert export model.pt` writes one.")
    return found[-1]
