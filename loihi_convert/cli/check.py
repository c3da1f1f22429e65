"""`loihi-convert check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from loihi_convert.cli.console import checked_json, log, say_checked, say_json
from loihi_convert.cli.options import (
    ArchOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    MeanOption,
    StdOption,
    parse_numbers,
    parse_shape,
)
from loihi_convert.errors import DataError, UsageError

if TYPE_CHECKING:
    from loihi_convert.arrays import Array
    from loihi_convert.pipeline import LoadedFile

CHECKED_IMAGES = 100
"""Images on which channels are looked at unless told otherwise: seconds."""

UNUSABLE = 3
"""The exit code of a file with an error: that of an input that is rejected."""


def check(
    file: Annotated[Path, typer.Argument(help="A .net file, or before export the CNN: .pt, .safetensors.")],
    target: Annotated[
        str, typer.Option("--target", help="What shall run it: lava, on a CPU, or loihi2, a chip.")
    ] = "lava",
    timesteps: Annotated[
        int | None, typer.Option("-T", "--timesteps", help="Time steps; default: what the file was balanced for.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            help="Look for channels that are silent or fire at every step on N validation images; 0: do not; default: "
            f"{CHECKED_IMAGES}, if the data are there.",
        ),
    ] = None,
    chips: Annotated[int, typer.Option("--chips", help="Loihi 2 chips of the board: 8 for Kapoho Point.")] = 1,
    arch: ArchOption = None,
    input_shape: Annotated[
        str | None, typer.Option("--input-shape", help="C,H,W, with --arch.", show_default=False)
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a file before anyone runs it: what does not fit, what overflows, how many neurocores."""
    from loihi_convert import pipeline
    from loihi_convert.ir.quantized import Target
    from loihi_convert.progress import progress_bar
    from loihi_convert.simulation.gpu import chosen_device

    chosen: Target | None = next((known for known in get_args(Target) if known == target), None)
    if chosen is None:
        raise UsageError(f"--target {target}: unknown; allowed are {', '.join(get_args(Target))}.")
    options: dict[str, Any] = {
        "input_shape": parse_shape(input_shape),
        "mean": parse_numbers("--mean", mean),
        "std": parse_numbers("--std", std),
    }
    candidate = pipeline.load_file(file, arch=arch, **options)
    checked = pipeline.check(
        candidate,
        _images(candidate, images, data, data_root),
        timesteps,
        target=chosen,
        chips=chips,
        device=chosen_device(device),
        bars=progress_bar,
    )
    if as_json:
        say_json(checked_json(checked))
    else:
        say_checked(checked)
    if not checked.is_usable:
        raise typer.Exit(UNUSABLE)


def _images(candidate: LoadedFile, count: int | None, data: str | None, data_root: Path | None) -> Array | None:
    """The first validation images, or of a user's own any; without them, unless they were asked for, a note says what
    is not looked at."""
    from loihi_convert.data import load_data
    from loihi_convert.pipeline.checking import CheckpointFile, NativeFile

    if count == 0 or not isinstance(candidate, CheckpointFile | NativeFile):
        return None
    wanted = data or candidate.recorded.get("data")
    try:
        if wanted is None:
            raise UsageError(f"{candidate.path}: does not say what data it was made from; pass --data.")
        splits = load_data(str(wanted), data_root, input_shape=candidate.network.input_shape)
    except (DataError, UsageError) as error:
        if count is not None or data is not None:
            raise
        log(f"silent and saturated channels are not looked for: {error}")
        return None
    # A user's own images are not split.
    known, kind = (splits.validation, "validation images") if len(splits.validation) else (splits.test, "images")
    count = min(CHECKED_IMAGES, len(known)) if count is None else count
    if not 1 <= count <= len(known):
        raise UsageError(f"--images {count}: allowed are 0..{len(known)}, the {kind} of {splits.name}.")
    return known[:count].images
