"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from loihi_convert.errors import InputError, LoihiConvertError, PlatformError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from loihi_convert.checkpoint import Checkpoint
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.pipeline import Exported
    from loihi_convert.source import Source
    from loihi_convert.synapse import Array

app = typer.Typer(
    help="Convert a trained PyTorch CNN to a spiking network for Loihi 2 and Lava, and see accuracy against latency.",
    epilog="Start with: loihi-convert demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set (digits, mnist, fashion-mnist, cifar10), folder of images, or .npz file; default: the model's.",
        show_default=False,
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder that holds the data sets; default: ~/.cache/loihi-convert."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="For a plain state dict: package.module:factory, your class or function that builds the CNN. It is "
        "imported from the current folder, and its code runs.",
        show_default=False,
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
LavaPythonOption = Annotated[
    str | None,
    typer.Option(
        "--lava-python",
        metavar="PATH",
        help="Python that has Lava, if not this one; or set LOIHI_CONVERT_LAVA_PYTHON.",
        show_default=False,
    ),
]
_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LACK_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "failed to map segment")
SIM_IMAGES = 100
"""Images a run on Lava's simulator takes unless told otherwise: seconds, not minutes."""


def main() -> NoReturn:
    """Run the command line; errors of ours are one sentence on stderr and their exit code, never a traceback."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    # Under nohup, or behind a script's `&`, some are ignored, and stay so.
    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, interrupt)
    try:
        # Some versions of typer raise Abort on Ctrl-C, some return the exit code.
        code = app(standalone_mode=False) or 0
    except BaseException as error:
        # A library that is interrupted while it is imported raises what it likes.
        code = _INTERRUPTED if received else _explain(error)
    if code == _INTERRUPTED:
        number = signal.Signals(received[0]) if received else signal.SIGINT
        code = 128 + number
        cause = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        _note(f"error: {cause}; nothing half-written is left.")
    # From here on a signal ends the process without a traceback from the interpreter's exit.
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def _explain(error: BaseException) -> int:
    """Tell the user about ``error`` in one sentence and return its exit code; raise it if it is a bug."""
    if isinstance(error, LoihiConvertError):
        _note(f"error: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _INTERRUPTED
    if _is_lack_of_memory(error):
        _note(
            "error: the memory is not enough for this; nothing half-written is left. Free some, or take fewer images."
        )
        return PlatformError.exit_code
    # Complaints of the option parser know how to show themselves and carry exit code 2.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    raise error


def _is_lack_of_memory(error: BaseException) -> bool:
    # torch raises RuntimeError; the loader of shared libraries has two words for it.
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _LACK_OF_MEMORY)


def _print(text: str) -> None:
    """Print ``text`` on stdout, now: what goes wrong there is found out here, not at the interpreter's exit.

    Where nobody reads on, as in ``| head``, the program ends as any other does there.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise PlatformError(
            f"stdout: cannot be written ({error.strerror}); files named above or by -o are complete. Send it elsewhere."
        ) from error


def _note(message: str) -> None:
    """Print ``message`` on stderr; that nobody reads it is no failure."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    # What is left in its buffer would be written, and fail, again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        _print(installed("loihi-convert"))
        raise typer.Exit


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
    from loihi_convert.data import load_data
    from loihi_convert.files import refuse_to_overwrite

    model = output / "model.pt"
    refuse_to_overwrite(model, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    splits = load_data("digits")
    _note("1/3  train a CNN on the embedded digits")
    _note(_trained(model, _train("digits-cnn", splits, model, seed=seed, epochs=None, resume=False)))
    _note(f"2/3  convert it to spikes, balance thresholds for T = {timesteps}, write a netx file")
    exported = _export(model, None, (timesteps,), splits.calibration_images(), {}, overwrite=True, verify=True)
    if not as_json:
        _print_exported(exported)
    _note("3/3  run it on Lava's CPU simulator")
    _run(
        (exported[0].path,),
        "sim",
        splits,
        splits.test,
        timesteps=None,
        model=None,
        arch=None,
        trace=False,
        lava_python=lava_python,
        root=output / "runs",
        as_json=as_json,
    )


@app.command()
def train(
    data: Annotated[str, typer.Option("--data", help="Data set: digits, mnist, fashion-mnist or cifar10.")] = "digits",
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Network to train; default: the one for the data set.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write, .pt or .safetensors.")] = Path(
        "model.pt"
    ),
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs; default: the recipe's.")] = None,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    data_root: DataRootOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a CNN that converts well (ReLU, average pooling, no bias) and write it as model.pt."""
    from loihi_convert.data import load_data
    from loihi_convert.files import refuse_to_overwrite
    from loihi_convert.models import default_architecture
    from loihi_convert.train import resume_path

    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            f"{unfinished}: an interrupted training lies here; nothing was changed. Go on with --resume, or start "
            "anew by --overwrite."
        )
    splits = load_data(data, data_root)
    architecture = architecture or default_architecture(splits.name)
    trained = _train(architecture, splits, output, seed=seed, epochs=epochs, resume=resume)
    if as_json:
        _print_json(
            {
                "file": str(output),
                "architecture": trained.architecture,
                "data": trained.data,
                "seed": trained.seed,
                "recipe": trained.recipe,
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": trained.test_accuracy,
            }
        )
    else:
        _print(_trained(output, trained))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Trained CNN: a .pt or .safetensors checkpoint.", metavar="MODEL")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: MODEL with suffix .net.")
    ] = None,
    timesteps: Annotated[
        str, typer.Option("-T", "--timesteps", help="Latency T to balance for; several as 1,2,4 write one file each.")
    ] = "64",
    method: Annotated[str, typer.Option("--balance", help="Balancing method: ngu-lee or percentile.")] = "ngu-lee",
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
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read the file back and compare.")] = True,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx file."""
    from loihi_convert.checkpoint import load
    from loihi_convert.data import DATASETS, load_data
    from loihi_convert.source import open_source

    steps = _timesteps(timesteps)
    if arch is not None and data is None:
        raise UsageError(f"{model}: a state dict does not say what it was trained on; pass --data.")
    normalization = {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
    shape, names = _shape(input_shape), _class_names(classes)
    splits = load_data(data or load(model).data, data_root, classes=names or ())
    if shape not in (None, splits.input_shape):
        raise UsageError(f"--input-shape {input_shape}: the images of {splits.name} have {splits.input_shape}.")
    if arch is not None:
        shape, names = splits.input_shape, names or splits.classes or None
    # The name of a data set; where a user's own images lie is nobody else's business.
    recorded = data if data is None or data in DATASETS else splits.name
    source = open_source(model, arch=arch, input_shape=shape, classes=names, data=recorded, **normalization)
    options = {
        "method": method,
        "amplitude": amplitude,
        "alpha": alpha,
        "percentile": percentile,
        "initial_potential": initial_potential,
        "reset": reset,
        "readout": readout,
        "weight_bits": weight_bits,
        "pixel_bits": pixel_bits,
    }
    images = splits.calibration_images(calibration)
    exported = _export(source, output, steps, images, options, overwrite=overwrite, verify=verify)
    if as_json:
        _print_json({"files": [_exported_json(item) for item in exported]})
    else:
        _print_exported(exported)


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
    data: DataOption = None,
    data_root: DataRootOption = None,
    lava_python: LavaPythonOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for run folders.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Run exported files on test images; show accuracy against latency; write a run folder."""
    from loihi_convert import netx
    from loihi_convert.data import load_data

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
        _note(f"running the first {count} of {len(splits.test)} test images; choose with --images")
    _run(
        paths,
        backend,
        splits,
        splits.test[:count],
        timesteps=timesteps,
        model=model,
        arch=arch,
        trace=trace,
        lava_python=lava_python,
        root=output,
        as_json=as_json,
    )


@app.command()
def doctor(lava_python: LavaPythonOption = None, as_json: JsonOption = False) -> None:
    """Say what is installed, what is missing, and what to do (Python, Lava, Loihi)."""
    from dataclasses import asdict

    from loihi_convert.doctor import examine

    checks = examine(lava_python)
    if as_json:
        _print_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {"ok": "ok     ", "absent": "absent ", "broken": "BROKEN "}[check.state]
            _print(f"{mark} {check.name}: {check.found}" + (f"\n        {check.advice}" if check.advice else ""))
    broken = [check.name for check in checks if check.state == "broken"]
    if broken:
        raise PlatformError(f"{', '.join(broken)}: does not work; see above for what to do.")


def _train(
    architecture: str, splits: DataSplits, output: Path, *, seed: int, epochs: int | None, resume: bool
) -> Checkpoint:
    from dataclasses import replace

    from loihi_convert.progress import bar
    from loihi_convert.train import default_recipe, train

    recipe = default_recipe(splits.name)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    with bar(f"training {architecture} on {splits.name}") as progress:
        return train(architecture, splits, recipe, seed=seed, output=output, resume=resume, progress=progress)


def _trained(output: Path, checkpoint: Checkpoint) -> str:
    validation, test = 100 * checkpoint.validation_accuracy, 100 * checkpoint.test_accuracy
    return (
        f"wrote {output}: {checkpoint.architecture}, seed {checkpoint.seed}, validation accuracy {validation:.2f} %, "
        f"test accuracy {test:.2f} %"
    )


def _export(
    model: Path | Source,
    output: Path | None,
    timesteps: Sequence[int],
    calibration: Array,
    options: dict[str, Any],
    *,
    overwrite: bool,
    verify: bool,
) -> tuple[Exported, ...]:
    from loihi_convert import pipeline
    from loihi_convert.progress import bar

    return pipeline.export(
        model,
        output,
        timesteps,
        calibration,
        options=pipeline.ExportOptions(**options),
        overwrite=overwrite,
        verify=verify,
        bars=bar,
    )


def _run(
    paths: Sequence[Path],
    backend_name: str,
    splits: DataSplits,
    images: Dataset,
    *,
    timesteps: int | None,
    model: Path | None,
    arch: str | None,
    trace: bool,
    lava_python: str | None,
    root: Path,
    as_json: bool,
) -> None:
    from loihi_convert import pipeline, report
    from loihi_convert.backends import open_backend
    from loihi_convert.progress import bar
    from loihi_convert.tables import accuracy_table, layer_table, per_t_table

    outcomes: list[pipeline.Ran] = []
    with report.run_folder(root, f"{paths[0].stem}-{backend_name}") as folder:
        with open_backend(backend_name, lava_python=lava_python) as backend:
            for path in paths:
                ran = pipeline.run(path, images, backend, timesteps, model=model, arch=arch, trace=trace, bars=bar)
                outcomes.append(ran)
        figures = [(outcome.path.stem, outcome.evaluation) for outcome in outcomes]
        written = report.write_run(
            folder,
            [(outcome.path.stem, outcome.evaluation, outcome.result) for outcome in outcomes],
            labels=images.labels,
            classes=splits.classes or None,
            manifest={
                **report.manifest(
                    network=paths[0].stem,
                    data=splits.name,
                    backend=backend_name,
                    files=paths,
                    command_line=sys.argv,
                    seed=None,
                ),
                "backend_versions": backend.versions,
                "provenance": {outcome.path.stem: dict(outcome.network.provenance) for outcome in outcomes},
            },
        )
    for outcome in outcomes:
        if outcome.equal_to_reference:
            layers = "every layer" if trace else "every output potential and spike count"
            _note(
                f"{outcome.path.name}: {layers} of {outcome.equal_to_reference} images equal to ref at every step, "
                "error 0"
            )
        if outcome.evaluation.cnn_accuracy is None:
            named = outcome.network.provenance.get("model", {}).get("arch")
            if named is not None and arch is None:
                _note(f"{outcome.path.name}: pass --arch {named} to import and run that code, for the CNN's figures")
            else:
                _note(
                    f"{outcome.path.name}: its model.pt is not beside it (or changed); pass --model for the CNN's "
                    "figures"
                )
    if as_json:
        _print(report.results_json(figures))
    else:
        tables = [table for _, evaluation in figures for table in (accuracy_table(evaluation), layer_table(evaluation))]
        _print_tables([per_t_table(figures)] if len(figures) > 1 else tables)
    _note(f"wrote {folder}/ ({', '.join(path.name for path in written)})")


def _print_exported(exported: Sequence[Exported]) -> None:
    from loihi_convert.tables import account_table

    for item in exported:
        _print_tables([account_table(item.account)])
        for note in item.notes:
            _print(f"note: {note}")
        verified = f"verified on {item.verified_images} images, every layer" if item.verified_images else "not verified"
        _print(f"wrote {item.path} ({item.path.stat().st_size:,} bytes; {verified})")


def _exported_json(item: Exported) -> dict[str, Any]:
    from dataclasses import asdict

    from loihi_convert.files import sha256

    return {
        "file": str(item.path),
        "sha256": sha256(item.path),
        "account": asdict(item.account),
        "notes": item.notes,
        "verified_images": item.verified_images,
        "provenance": dict(item.network.provenance),
    }


def _print_tables(tables: Sequence[Table]) -> None:
    from rich.console import Console

    # None where the caller has closed it.
    console = Console(width=None if sys.stdout is not None and sys.stdout.isatty() else 110)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    _print(capture.get().removesuffix("\n"))


def _timesteps(text: str) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise UsageError(f"--timesteps {text}: allowed are whole numbers from 1, each once, as in 1,2,4.")
    return steps


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: allowed are numbers, one per channel, as in 0.49,0.48,0.45.") from None


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise UsageError(f"--input-shape {text}: allowed are three whole numbers from 1, C,H,W, as in 3,32,32.")
    return channels, height, width


def _class_names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    # More than five digits are no number of classes but a claim on all memory.
    is_number = text.isdecimal() and len(text) <= 5
    names = tuple(map(str, range(int(text)))) if is_number else tuple(text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--classes {text}: allowed is their number from 2, or their names, each once: cat,dog,bird.")
    return names


def _newest(suffix: str) -> Path:
    found = sorted(Path().glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"this folder holds no {suffix} file; `loihi-convert export model.pt` writes one.")
    return found[-1]


def _print_json(value: dict[str, Any]) -> None:
    _print(json.dumps(value, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
