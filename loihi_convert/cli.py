"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loihi_convert.console import (
    diagnosed_json,
    exported_json,
    note,
    note_run,
    say,
    say_diagnosed,
    say_exported,
    say_json,
    say_tables,
    trained_sentence,
)
from loihi_convert.errors import InputError, PlatformError, UsageError
from loihi_convert.memory import require_memory
from loihi_convert.options import (
    ArchOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    LavaLayoutOption,
    LavaPythonOption,
    OverwriteOption,
    SeedOption,
    parse_class_names,
    parse_numbers,
    parse_shape,
    parse_timesteps,
)

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.data import DataSplits
    from loihi_convert.pipeline import CompletedRun

app = typer.Typer(
    help="Convert a trained PyTorch CNN to a spiking network for Loihi 2 and Lava, and see accuracy against latency.",
    epilog="Start with: loihi-convert demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SIM_IMAGES = 100
"""Images a run on Lava's simulator takes unless told otherwise: seconds, not minutes."""


DIAGNOSED_IMAGES = 1_000
"""Images a diagnosis takes unless told otherwise: seconds, and a few tenths of a point of accuracy."""


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        say(installed("loihi-convert"))
        raise typer.Exit
    try:
        Path.cwd()
    except FileNotFoundError:
        # MKL ends the program with words of its own then.
        raise InputError("the current folder has been deleted; change into one that exists.") from None


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")] = Path(
        "loihi-convert-demo"
    ),
    timesteps: Annotated[int, typer.Option("-T", "--timesteps", help="Latency T in time steps.")] = 32,
    seed: SeedOption = 0,
    lava_python: LavaPythonOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, export and run a small CNN on 8x8 digits, Lava's simulator included: the whole flow in minutes."""
    require_memory()
    from loihi_convert import pipeline
    from loihi_convert.backends import open_backend
    from loihi_convert.data import load_data
    from loihi_convert.files import refuse_to_overwrite
    from loihi_convert.progress import bar

    model = output / "model.pt"
    refuse_to_overwrite(model, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    splits = load_data("digits")
    note("1/3  train a CNN on the embedded digits")
    note(trained_sentence(model, _train("digits-cnn", splits, model, seed=seed)))
    note(f"2/3  convert it to spikes, balance thresholds for T = {timesteps}, write a netx file")
    exported = pipeline.export(model, None, (timesteps,), splits.calibration_images(), overwrite=True, bars=bar)
    if not as_json:
        say_exported(exported)
    note("3/3  run it on Lava's CPU simulator")
    sim = open_backend("sim", lava_python=lava_python)
    done = pipeline.run_into_folder(output / "runs", (exported[0].path,), sim, splits, splits.test, bars=bar)
    _show_run(done, trace=False, arch=None, as_json=as_json)


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set: digits (default), mnist, fashion-mnist or cifar10.", show_default=False),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Network to train; default: the one for the data set.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write, .pt or .safetensors.")] = Path(
        "model.pt"
    ),
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs; default: the recipe's.")] = None,
    qcfs: Annotated[
        int | None,
        typer.Option(
            "--qcfs",
            metavar="L",
            help="Train for few time steps: activations of L levels (quantization-clip-floor-shift) and thresholds.",
            show_default=False,
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            "--weight-bits",
            help="With --qcfs: train with weights rounded to so many bits, 2..8, for export with the same.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Trained CNN to go on with, in a few epochs of small steps.", show_default=False),
    ] = None,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    data_root: DataRootOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a CNN that converts well (ReLU, average pooling, no bias) and write it as model.pt."""
    require_memory()
    from loihi_convert.cnn.checkpoint import load
    from loihi_convert.cnn.models import default_architecture
    from loihi_convert.cnn.train import resume_path
    from loihi_convert.data import load_data
    from loihi_convert.files import refuse_to_overwrite

    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            f"{unfinished}: an interrupted training lies here; nothing was changed. Go on with --resume, or start "
            "anew by --overwrite."
        )
    origin = None if start is None else load(start)
    splits = load_data(data or (origin.data if origin else "digits"), data_root)
    architecture = architecture or (origin.architecture if origin else default_architecture(splits.name))
    trained = _train(
        architecture,
        splits,
        output,
        seed=seed,
        epochs=epochs,
        qcfs_levels=qcfs,
        weight_bits=weight_bits,
        start=origin,
        resume=resume,
    )
    if as_json:
        say_json(
            {
                "file": str(output),
                "architecture": trained.architecture,
                "data": trained.data,
                "seed": trained.seed,
                "recipe": trained.recipe,
                "qcfs_levels": trained.qcfs_levels,
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": trained.test_accuracy,
            }
        )
    else:
        say(trained_sentence(output, trained))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Trained CNN: a .pt or .safetensors checkpoint.", metavar="MODEL")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: MODEL with suffix .net.")
    ] = None,
    timesteps: Annotated[
        str, typer.Option("-T", "--timesteps", help="Latency T to balance for; several as 1,2,4 write one file each.")
    ] = "64",
    method: Annotated[
        str,
        typer.Option(
            "--balance",
            help="Balancing method: ngu-lee, percentile, least-squares, or auto: the one whose classes agree best with "
            "the CNN's on calibration images, for each T.",
        ),
    ] = "auto",
    amplitude: Annotated[
        str, typer.Option("--amplitude", help="What a spike is worth: compensated (its threshold) or literal (1).")
    ] = "compensated",
    alpha: Annotated[float, typer.Option("--alpha", help="Factor on the thresholds, in (0, 1].")] = 1.0,
    percentile: Annotated[float, typer.Option("--percentile", help="For --balance percentile, in (0, 100].")] = 99.0,
    reset: Annotated[
        str, typer.Option("--reset", help="What a spike leaves: soft subtracts the threshold, hard is Lava's own LIF.")
    ] = "soft",
    readout: Annotated[
        str,
        typer.Option("--readout", help="What the class is read from: the last layer's potential, or its spikes."),
    ] = "potential",
    initial_potential: Annotated[
        str | None,
        typer.Option("--initial-potential", help="Potential before the first step; default: half, or zero if hard."),
    ] = None,
    correct: Annotated[
        bool | None,
        typer.Option(
            "--correct/--no-correct",
            help="Mend biases and initial potentials for what few steps do to currents, on calibration images; "
            "default: what --balance auto finds better.",
            show_default=False,
        ),
    ] = None,
    weight_bits: Annotated[int, typer.Option("--weight-bits", help="Bits of a weight, 2..8, sign included.")] = 8,
    pixel_bits: Annotated[
        int | None, typer.Option("--pixel-bits", help="Bits of a pixel, 1..8; default: 8, or what fits best if hard.")
    ] = None,
    arch: ArchOption = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", help="C,H,W, with --arch; default: the data's.", show_default=False),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", help="Per channel a,b,c if the CNN expects (pixel/255 - mean) / std.", show_default=False
        ),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="Per channel, see --mean.", show_default=False)] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Number or names a,b,c, with --arch; default: the data's.", show_default=False),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    calibration: Annotated[
        str, typer.Option("--calibration", help="Images that set the thresholds: split, or all training images.")
    ] = "split",
    device: DeviceOption = "auto",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read the file back and compare.")] = True,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx file."""
    require_memory()
    from loihi_convert import pipeline
    from loihi_convert.cnn.checkpoint import load
    from loihi_convert.data import DATASETS, load_data
    from loihi_convert.progress import bar
    from loihi_convert.simulation.gpu import chosen_device
    from loihi_convert.source import open_source

    steps = parse_timesteps(timesteps)
    if arch is not None and data is None:
        raise UsageError(f"{model}: a state dict does not say what it was trained on; pass --data.")
    normalization = {"mean": parse_numbers("--mean", mean), "std": parse_numbers("--std", std)}
    shape, names = parse_shape(input_shape), parse_class_names(classes)
    splits = load_data(data or load(model).data, data_root, classes=names or ())
    if shape not in (None, splits.input_shape):
        raise UsageError(f"--input-shape {input_shape}: the images of {splits.name} have {splits.input_shape}.")
    if arch is not None:
        shape, names = splits.input_shape, names or splits.classes or None
    # The name of a data set; where a user's own images lie is nobody else's business.
    recorded = data if data is None or data in DATASETS else splits.name
    source = open_source(model, arch=arch, input_shape=shape, classes=names, data=recorded, **normalization)
    options: dict[str, Any] = {
        "method": method,
        "amplitude": amplitude,
        "alpha": alpha,
        "percentile": percentile,
        "initial_potential": initial_potential,
        "reset": reset,
        "readout": readout,
        "weight_bits": weight_bits,
        "pixel_bits": pixel_bits,
        "correct": correct,
    }
    exported = pipeline.export(
        source,
        output,
        steps,
        splits.calibration_images(calibration),
        options=pipeline.ExportOptions(**options),
        device=chosen_device(device),
        overwrite=overwrite,
        verify=verify,
        bars=bar,
    )
    if as_json:
        say_json({"files": [exported_json(item) for item in exported]})
    else:
        say_exported(exported)


@app.command()
def run(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Exported .net files; default: the newest in this folder.", metavar="[FILE]..."),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="ref: exact integers, fast. sim: Lava's CPU simulator.")
    ] = "ref",
    timesteps: Annotated[
        int | None, typer.Option("-T", "--timesteps", help="Time steps; default: what the file was balanced for.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", help=f"Test images, the first N; default: all on ref, {SIM_IMAGES} on sim."),
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
    ] = 0.1,
    data: DataOption = None,
    data_root: DataRootOption = None,
    lava_python: LavaPythonOption = None,
    lava_layout: LavaLayoutOption = None,
    device: DeviceOption = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for run folders.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Run exported files on test images; show accuracy against latency; write a run folder."""
    require_memory()
    from loihi_convert import netx, pipeline
    from loihi_convert.backends import open_backend
    from loihi_convert.data import load_data
    from loihi_convert.progress import bar
    from loihi_convert.simulation.gpu import chosen_device

    chosen = chosen_device(device)
    paths = tuple(files) if files else (_newest(netx.SUFFIX),)
    source = netx.read(paths[0]).provenance.get("model", {})
    if data is None and "data" not in source:
        raise UsageError(f"{paths[0]}: does not say what data it was made from; pass --data.")
    splits = load_data(data or str(source["data"]), data_root, classes=source.get("classes", ()))
    count = min(SIM_IMAGES, len(splits.test)) if backend == "sim" else len(splits.test)
    count = count if images is None else images
    if not 1 <= count <= len(splits.test):
        raise UsageError(f"--images {count}: {splits.name} has 1..{len(splits.test)} test images.")
    if backend == "sim" and images is None and count < len(splits.test):
        note(f"running the first {count} of {len(splits.test)} test images; choose with --images")
    if early_exit and splits.held_out is None:
        note(
            f"early exit is not evaluated: its margin is chosen on images that are not run, and {splits.name} has "
            "none; an .npz file may hold others as `calibration`"
        )
    done = pipeline.run_into_folder(
        output,
        paths,
        open_backend(backend, device=chosen, lava_python=lava_python, lava_layout=lava_layout),
        splits,
        splits.test[:count],
        timesteps,
        exit_tolerance=exit_tolerance if early_exit else None,
        model=model,
        arch=arch,
        trace=trace,
        device=chosen,
        bars=bar,
    )
    _show_run(done, trace=trace, arch=arch, as_json=as_json)


@app.command()
def diagnose(
    model: Annotated[Path, typer.Argument(help="The CNN the file was made from.", metavar="MODEL")],
    file: Annotated[Path, typer.Argument(help="Exported .net file.", metavar="FILE")],
    timesteps: Annotated[
        int | None, typer.Option("-T", "--timesteps", help="Time steps; default: what the file was balanced for.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", help=f"Validation images, the first N; default: {DIAGNOSED_IMAGES:,}, or all."),
    ] = None,
    sim: Annotated[
        int, typer.Option("--sim", metavar="N", help="Run the first N of them on Lava, too, and compare every layer.")
    ] = 0,
    arch: ArchOption = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    lava_python: LavaPythonOption = None,
    lava_layout: LavaLayoutOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say where the accuracy went between a CNN and its exported file: by cause, by layer, and what to try."""
    require_memory()
    from loihi_convert import netx, pipeline
    from loihi_convert.backends import open_backend
    from loihi_convert.data import load_data
    from loihi_convert.progress import bar
    from loihi_convert.simulation.gpu import chosen_device

    chosen = chosen_device(device)
    source = netx.read(file).provenance.get("model", {})
    if data is None and "data" not in source:
        raise UsageError(f"{file}: does not say what data it was made from; pass --data.")
    splits = load_data(data or str(source["data"]), data_root, classes=source.get("classes", ()))
    # A user's own images are not split.
    known, kind = (splits.validation, "validation") if len(splits.validation) else (splits.test, "own")
    count = min(DIAGNOSED_IMAGES, len(known)) if images is None else images
    if not 1 <= count <= len(known):
        raise UsageError(f"--images {count}: {splits.name} has 1..{len(known)} {kind} images.")
    if not 0 <= sim <= count:
        raise UsageError(f"--sim {sim}: allowed are 0..{count}, the images that are looked at.")
    left = "; test images are left for the final figure" if kind == "validation" else ""
    note(f"looking at the first {count:,} of {len(known):,} {kind} images of {splits.name}{left}")
    lava = open_backend("sim", lava_python=lava_python, lava_layout=lava_layout) if sim else None
    done = pipeline.diagnose(
        model,
        file,
        known[:count],
        timesteps,
        arch=arch,
        lava=lava,
        lava_images=sim,
        device=chosen,
        bars=bar,
    )
    for remark in done.notes:
        note(remark)
    if done.equal_on_lava:
        note(f"Lava: every layer of the first {sim} images equal to ref at every step, error 0")
    if as_json:
        say_json(diagnosed_json(done))
    else:
        say_diagnosed(done)


@app.command()
def doctor(lava_python: LavaPythonOption = None, as_json: JsonOption = False) -> None:
    """Say what is installed, what is missing, and what to do (Python, Lava, Loihi)."""
    require_memory()
    from dataclasses import asdict

    from loihi_convert.doctor import examine

    checks = examine(lava_python)
    if as_json:
        say_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {"ok": "ok     ", "absent": "absent ", "broken": "BROKEN "}[check.state]
            say(f"{mark} {check.name}: {check.found}" + (f"\n        {check.advice}" if check.advice else ""))
    broken = [check.name for check in checks if check.state == "broken"]
    if broken:
        raise PlatformError(f"{', '.join(broken)}: does not work; see above for what to do.")


def _train(
    architecture: str,
    splits: DataSplits,
    output: Path,
    *,
    seed: int,
    epochs: int | None = None,
    qcfs_levels: int | None = None,
    weight_bits: int | None = None,
    start: Checkpoint | None = None,
    resume: bool = False,
) -> Checkpoint:
    from dataclasses import replace

    from loihi_convert.cnn.recipe import default_recipe, fine_tuning_recipe
    from loihi_convert.cnn.train import train
    from loihi_convert.progress import bar

    recipe = default_recipe(splits.name) if start is None else fine_tuning_recipe(splits.name)
    recipe = replace(recipe, epochs=recipe.epochs if epochs is None else epochs, weight_bits=weight_bits)
    with bar(f"training {architecture} on {splits.name}") as progress:
        return train(
            architecture,
            splits,
            recipe,
            seed=seed,
            output=output,
            qcfs_levels=qcfs_levels,
            start=start,
            resume=resume,
            progress=progress,
        )


def _show_run(done: CompletedRun, *, trace: bool, arch: str | None, as_json: bool) -> None:
    for ran in done.runs:
        note_run(ran, trace=trace, arch=arch)
    if as_json:
        from loihi_convert.results.report import results_json

        say(results_json(done.figures))
    else:
        from loihi_convert.results.tables import accuracy_table, early_exit_table, layer_table, per_t_table

        tables = [table for _, figures in done.figures for table in (accuracy_table(figures), layer_table(figures))]
        early_exit = early_exit_table(done.figures)
        say_tables(
            [
                *([per_t_table(done.figures)] if len(done.runs) > 1 else tables),
                *([] if early_exit is None else [early_exit]),
            ]
        )
    note(f"wrote {done.folder}/ ({', '.join(path.name for path in done.files)})")


def _newest(suffix: str) -> Path:
    found = sorted(Path().glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"this folder holds no {suffix} file; `loihi-convert export model.pt` writes one.")
    return found[-1]
