"""`loihi-convert check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.choices import Target
from loihi_convert.cli import options
from loihi_convert.cli.check_output import checked_json, say_checked
from loihi_convert.cli.console import log, say_json
from loihi_convert.cli.flags import flags_of
from loihi_convert.cli.images import DataRequest, first_images, recorded_data, validation_images
from loihi_convert.cli.options import CnnOptions
from loihi_convert.errors import InputError, UsageError, rendered
from loihi_convert.options import Flag
from loihi_convert.ready_made import file_of

if TYPE_CHECKING:
    from loihi_convert.data import Dataset
    from loihi_convert.pipeline.loaded_file import LoadedFile

_ACTIVITY_IMAGES = 100
"""Images on which channels are looked at unless told otherwise: seconds."""


def check(
    ctx: typer.Context,
    file: Annotated[Path, Flag("FILE", is_argument=True)],
    *,
    target: Target | None = None,
    timesteps: options.Timesteps = None,
    image_count: options.ImageCount = None,
    chips: int = 1,
    compare: bool = False,
    device: options.OnDevice = "auto",
    details: bool = False,
    as_json: options.AsJson = False,
    cnn: Annotated[CnnOptions, Flag(only=("arch", "mean", "std", "input_shape"))],
    images: Annotated[DataRequest, Flag(only=("data", "data_root"))],
) -> None:
    """Check whether a network can run on the target: unsupported layers, overflow, resources.

    Parameters
    ----------
    file
        A .net file or a name of `loihi-convert models`; or a CNN before export: a checkpoint, an ONNX file.
    target
        Target platform: lava (CPU simulator) or loihi2 (chip). Default: the one that the file was exported for, or
        lava.
    image_count
        Use the first N validation images to find channels that never fire or fire at every step; 0: skip this. Default:
        100, if the data are available.
    chips
        Number of Loihi 2 chips on the board (Kapoho Point has 8).
    compare
        Also show the neurocores needed with each kind of neuron, and so the cost of soft reset on a chip.
    details
        Also print resources of each layer and all sources.
    """
    file = file_of(file)
    from loihi_convert.devices import chosen_device
    from loihi_convert.pipeline import checking
    from loihi_convert.pipeline.loaded_file import NativeFile, load_file
    from loihi_convert.progress import progress_bar

    input_shape = cnn.input_shape
    if input_shape is None and images.data is not None:
        from loihi_convert.data import load_data
        from loihi_convert.frontend.source import is_self_contained

        if cnn.arch is not None or is_self_contained(file):
            input_shape = load_data(images.data, images.data_root).input_shape
    candidate = load_file(file, arch=cnn.arch, input_shape=input_shape, normalization=cnn.normalization)
    known, skipped = _images(ctx, candidate, image_count, images)
    checked = checking.check(
        candidate,
        None if known is None else known.images,
        timesteps,
        labels=None if known is None else known.labels,
        target=target,
        chips=chips,
        compare=compare,
        device="cpu" if known is None else chosen_device(device),
        bars=progress_bar,
    )
    if as_json:
        say_json(checked_json(checked))
    else:
        model = candidate.recorded.file if isinstance(candidate, NativeFile) else None
        say_checked(checked, model, details=details)
    if skipped:
        log(skipped)
    if not checked.is_usable:
        raise typer.Exit(InputError.exit_code)


def _images(
    ctx: typer.Context, candidate: LoadedFile, count: int | None, images: DataRequest
) -> tuple[Dataset | None, str]:
    """Return the first validation images (for a user's own data, any images). If there are none and the user did not
    request any, also a note on the checks that are skipped."""
    from loihi_convert.data import load_data
    from loihi_convert.pipeline.checking import WITH_THRESHOLDS
    from loihi_convert.pipeline.loaded_file import CheckpointFile, NativeFile, RefusedFile

    if isinstance(candidate, RefusedFile):
        # Its obstacles are the answer.
        return None, ""
    if not isinstance(candidate, CheckpointFile | NativeFile):
        for where, given in (("image_count", count), ("data", images.data)):
            if given:
                expected = f"is only for CNNs, and for {WITH_THRESHOLDS}"
                raise UsageError(f"found {given}", where=where, expected=expected)
        return None, ""
    if count == 0:
        return None, ""
    try:
        wanted = images.data or recorded_data(candidate.path, candidate.recorded)
        splits = load_data(wanted, images.data_root, input_shape=candidate.network.input_shape)
    except (InputError, UsageError) as error:
        if count is not None or images.data is not None:
            raise
        return None, f"silent and saturated channels are not checked: {rendered(error, flags_of(ctx.command.params))}"
    known, kind = validation_images(splits)
    return known[: first_images(count, _ACTIVITY_IMAGES, len(known), f"{kind} of {splits.name}")], ""
