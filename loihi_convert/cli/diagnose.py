"""`loihi-convert diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from loihi_convert.cli.console import diagnosed_json, log, say_diagnosed, say_json
from loihi_convert.cli.options import (
    ArchOption,
    ClassMapOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    LavaLayoutOption,
    LavaPythonOption,
    parse_class_map,
)
from loihi_convert.errors import UsageError

if TYPE_CHECKING:
    from loihi_convert.choices import Layout

DIAGNOSED_IMAGES = 1_000
"""Images a diagnosis takes unless told otherwise: seconds, and a few tenths of a point of accuracy."""


def diagnose(
    model: Annotated[Path, typer.Argument(help="The CNN the file was made from.", metavar="MODEL")],
    file: Annotated[Path, typer.Argument(help="ExportResult .net file.", metavar="FILE")],
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
    class_map: ClassMapOption = None,
    lava_python: LavaPythonOption = None,
    lava_layout: LavaLayoutOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say where the accuracy went between a CNN and its exported file: by cause, by layer, and what to try."""
    from loihi_convert import netx, pipeline
    from loihi_convert.backends import BackendOptions, open_backend
    from loihi_convert.data import load_data
    from loihi_convert.progress import progress_bar
    from loihi_convert.simulation.gpu import chosen_device

    chosen = chosen_device(device)
    network = netx.read(file)
    source = network.provenance.get("model", {})
    if data is None and source.get("data") is None:
        raise UsageError(f"{file}: does not say what data it was made from; pass --data.")
    splits = load_data(
        data or str(source["data"]),
        data_root,
        classes=source.get("classes", ()),
        class_map=parse_class_map(class_map),
        input_shape=network.input_shape,
    )
    for note in splits.notes:
        log(note)
    # A user's own images are not split.
    known, kind = (splits.validation, "validation") if len(splits.validation) else (splits.test, "own")
    count = min(DIAGNOSED_IMAGES, len(known)) if images is None else images
    if not 1 <= count <= len(known):
        raise UsageError(f"--images {count}: {splits.name} has 1..{len(known)} {kind} images.")
    if not 0 <= sim <= count:
        raise UsageError(f"--sim {sim}: allowed are 0..{count}, the images that are looked at.")
    left = "; test images are left for the final figure" if kind == "validation" else ""
    log(f"looking at the first {count:,} of {len(known):,} {kind} images of {splits.name}{left}")
    options = BackendOptions(lava_python=lava_python, lava_layout=cast("Layout | None", lava_layout))
    lava = open_backend("sim", options) if sim else None
    done = pipeline.diagnose(
        model,
        file,
        known[:count],
        timesteps,
        arch=arch,
        lava=lava,
        lava_images=sim,
        device=chosen,
        bars=progress_bar,
    )
    for remark in done.notes:
        log(remark)
    if done.equal_on_lava:
        log(f"Lava: every layer of the first {sim} images equal to ref at every step, error 0")
    if as_json:
        say_json(diagnosed_json(done))
    else:
        say_diagnosed(done)
