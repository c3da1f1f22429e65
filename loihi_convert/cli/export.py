"""`loihi-convert export`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import log, on_interrupt, say_json
from loihi_convert.cli.export_output import (
    NextRun,
    exported_json,
    graded_json,
    say_exported,
    say_graded_export,
    say_rewritten,
)
from loihi_convert.cli.flags import flags_of, option_words
from loihi_convert.cli.images import DataRequest, validation_images
from loihi_convert.cli.options import DATA, CnnOptions
from loihi_convert.cli.wrong_files import is_netx, require_cnn
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, published_neurons
from loihi_convert.errors import UsageError, with_flags
from loihi_convert.ground.choices import DatasetName, FileFormat, SpikeKind
from loihi_convert.ground.files import require_output
from loihi_convert.ground.options import Flag, parse_timesteps

if TYPE_CHECKING:
    from loihi_convert.data import DataSplits
    from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit
    from loihi_convert.reading.source import Source

_OF_A_FILE = ("model", "output", "file_format", "allow_hard_reset", "verify", "overwrite", "details", "as_json")
"""The parameters that apply where a netx file is written again in another format."""

_OF_GRADED_SPIKES = (
    *("model", "output", "spikes", "task", "verify", "overwrite", "details", "as_json", "arch", "mean", "std"),
    *("input_shape", "classes", "data", "data_root", "class_map", "calibration", "expect"),
)
"""The parameters that apply to graded spikes."""


def export(
    ctx: typer.Context,
    model: Annotated[Path, Flag("MODEL", is_argument=True)],
    *,
    cnn: CnnOptions,
    images: DataRequest,
    calibration: Annotated[str, Flag("IMAGES", panel=DATA)] = "split",
    expect: Annotated[float | None, Flag("PERCENT", panel=DATA)] = None,
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    timesteps: Annotated[tuple[int, ...], Flag("T", "-T,--timesteps", parse=parse_timesteps)] = (64,),
    balancing: BalanceOptions,
    quantization: QuantizeOptions,
    spikes: SpikeKind = "binary",
    file_format: Annotated[FileFormat, Flag(name="--format")] = "netx",
    allow_hard_reset: bool = False,
    device: options.OnDevice = "auto",
    chips: int | None = None,
    verify: bool = True,
    overwrite: options.Overwrite = False,
    details: bool = False,
    as_json: options.AsJson = False,
    bundle: Annotated[Path | None, Flag("FOLDER")] = None,
    skip_copies: Annotated[int | None, Flag(panel="Balancing")] = None,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx or NIR file.

    Parameters
    ----------
    model
        Trained CNN: a checkpoint (from torch.save, with any suffix, or safetensors), an ONNX file, or a NIR file.
    data
        Data set (digits, mnist, fashion-mnist, cifar10), a folder of images, or an .npz file. Default: the benchmark
        set the CNN was trained on.
    calibration
        Calibration images: split, all, or a number (first N of the split).
    expect
        Known accuracy of the CNN in percent; a warning is given if that on validation images, or on your own images, is
        lower. Default: an accuracy that any CNN reaches on the data set; for your own images, that of a constant
        answer.
    output
        File to write, or an existing folder; with several T, one file each, such as FILE-T8.net. Default: MODEL with
        the suffix .net or .nir.
    timesteps
        Latency T to balance for; a list such as 1,2,4 gives one file for each.
    spikes
        binary: T steps per image. graded: spikes that carry integers, one step of each layer per image (Lava's
        sigma-delta neurons); only for ReLU, and without options for thresholds or T.
    file_format
        netx: for Lava and Loihi (.net). nir: for other spiking-network libraries (.nir); MODEL may then be a .net file.
    allow_hard_reset
        With `file_format='nir'`: write soft-reset neurons as NIR's IF, which resets to 0. Spikes differ.
    chips
        The same limit as `max_cores` in chips of 128 neurocores (Kapoho Point has 8 chips).
    verify
        Read the file back and compare.
    details
        Also print bits, thresholds and clipping of each layer.
    bundle
        Folder for a bundle that runs where only Lava is installed, such as a board's machine: the file, ten images,
        their expected potentials, a script. Needs `target='loihi2'` and one T.
    skip_copies
        Relays for each value of a skip connection, 1..8. More relays leave more weight bits to the convolution in their
        layer. Default: as few as possible without losing agreement with the CNN.
    """
    if file_format == "nir" and is_netx(model):
        found = "given for a netx file, which contains a converted network"
        options.refuse_others(ctx, _OF_A_FILE, found, hint="Give the CNN as MODEL.")
        from loihi_convert.nir.write import rewritten_as_nir

        say_rewritten(
            rewritten_as_nir(model, output, allow_hard_reset=allow_hard_reset, overwrite=overwrite, verify=verify),
            as_json=as_json,
        )
        return
    require_cnn(model)
    if spikes == "graded":
        binary = "must be left out: it is for binary spikes, or not supported for graded ones"
        options.refuse_others(ctx, _OF_GRADED_SPIKES, "given with `spikes='graded'`", expected=binary)
    place = place_options.chosen(default=0)
    if expect is not None and not 1 < expect <= 100:
        hint = f"Write {100 * expect:g} for {expect:g}." if 0 < expect <= 1 else ""
        raise UsageError(f"found {expect:g}", where="expect", expected="must be in percent, in (1, 100]", hint=hint)
    is_poisson = (balancing.input_coding or published_neurons(balancing.method)[1]) == "poisson"
    if balancing.poisson_seed is not None and not is_poisson:
        raise UsageError("given", where="poisson_seed", expected="is only for `input_coding='poisson'`")
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.metrics.own_accuracy import own_accuracy, unjudged
    from loihi_convert.nir.write import require_file_format
    from loihi_convert.pipeline import exporting
    from loihi_convert.pipeline.bundle import BUNDLED_IMAGES, SCRIPT, require_bundle, require_new_bundle, write_bundle
    from loihi_convert.pipeline.converting import require_convertible
    from loihi_convert.pipeline.exporting import output_paths
    from loihi_convert.pipeline.graded import export_graded
    from loihi_convert.pipeline.opening import open_cnn

    paths = output_paths(model, output, timesteps, file_format)
    for path in paths:
        require_output(path, overwrite, model)
    require_file_format(file_format, allow_hard_reset, paths[0])
    if bundle is not None and file_format == "nir":
        raise UsageError("given with `file_format='nir'`", where="bundle", expected="must come with a netx file")
    if bundle is not None:
        require_bundle(quantization.target, timesteps, is_poisson=is_poisson, readout=balancing.output)
        require_new_bundle(bundle, paths[0], overwrite=overwrite)
    quantization = replace(quantization, max_cores=_most_cores(quantization.max_cores, chips))
    source, splits = open_cnn(
        model,
        arch=cnn.arch,
        input_shape=cnn.input_shape,
        classes=cnn.classes,
        normalization=cnn.normalization,
        data=images.data,
        data_root=images.data_root,
        class_map=images.class_map,
        task=cnn.task,
        tell=log,
    )
    known, kind = validation_images(splits)
    require_convertible(source, known.images, balancing, quantization, skip_copies)
    own = own_accuracy(
        source, known, f"{kind} of {splits.name}", None if expect is None else expect / 100, data=splits.name
    )
    _say_own(ctx, source, own, unjudged(source, known) if own is None else own.warning)
    next_run = _next_run(splits, images, ctx.params)
    if spikes == "graded":
        item = export_graded(
            source,
            paths[0],
            splits.calibration_images(calibration),
            overwrite=overwrite,
            verify=verify,
            bars=progress_bar,
        )
        if as_json:
            say_json({"files": [graded_json(item)], "cnn": None if own is None else asdict(own)})
        else:
            say_graded_export(item, next_run, details=details)
        return
    if len(timesteps) > 1:
        on_interrupt(lambda: "no partial files were left; files of finished T are complete")
    with place.opened() as shard_workers:
        exported = exporting.export(
            source,
            output,
            timesteps,
            splits.calibration_images(calibration),
            balance_options=balancing,
            quantize_options=quantization,
            skip_copies=skip_copies,
            device=place.device(device),
            workers=shard_workers,
            overwrite=overwrite,
            verify=verify,
            file_format=file_format,
            allow_hard_reset=allow_hard_reset,
            bars=progress_bar,
        )
    if bundle is not None:
        write_bundle(bundle, exported[0].path, splits.test.images[:BUNDLED_IMAGES], overwrite=overwrite)
    if as_json:
        say_json({"files": [exported_json(item) for item in exported], "cnn": None if own is None else asdict(own)})
    else:
        say_exported(exported, next_run, details=details)
    if bundle is not None:
        log(f"wrote {bundle}/; where Lava is installed: python {shlex.quote(str(bundle / SCRIPT))}")


def _say_own(ctx: typer.Context, source: Source, own: OwnAccuracy | OwnFit | None, warning: str) -> None:
    """Print the ``warning`` about the CNN itself or else its accuracy or error, if known, on stderr."""
    if own is None and source.network.task == "classification" and source.neurons is None:
        log(
            "the images have no labels, so the CNN's own accuracy is not checked; it is treated as a classifier "
            f"with {len(source.recorded.names)} classes (--task regression: numeric outputs)"
        )
    if warning:
        log(f"warning: {with_flags(warning, flags_of(ctx.command.params))}")
    elif own is not None:
        log(own.sentence)


def _next_run(splits: DataSplits, images: DataRequest, typed: Mapping[str, object]) -> NextRun:
    """Return how to run the file: paths and code are not in it, and test images may be needed.

    ``typed`` are the options as text.
    """
    words = option_words({f"--{name.replace('_', '-')}": typed[name] for name in ("data_root", "class_map", "arch")})
    if splits.calibration is splits.test:
        return NextRun(words, "TEST.npz" if splits.name.endswith(".npz") else "TEST", splits.name)
    data = images.data
    is_found = data is None or data in get_args(DatasetName) or str(Path(data)) == splits.name
    return NextRun(words, None if is_found else data)


def _most_cores(max_cores: int | None, chips: int | None) -> int | None:
    """Return the number of neurocores allowed; None for any."""
    if chips is None:
        return max_cores
    from loihi_convert.chip.limits import NEUROCORES

    if max_cores is not None:
        raise UsageError(f"found {chips}", where="chips", expected="must not be given with `max_cores`")
    if chips < 1:
        raise UsageError(f"found {chips}", where="chips", expected="must be at least 1")
    return chips * NEUROCORES
