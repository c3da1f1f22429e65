"""`loihi-convert export`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from loihi_convert.choices import (
    Amplitude,
    AnyMethod,
    DatasetName,
    FileFormat,
    Granularity,
    InitialPotential,
    InputCoding,
    Readout,
    Reset,
    SpikeKind,
    Target,
    Task,
)
from loihi_convert.cli import cluster, options
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
from loihi_convert.cli.images import validation_images
from loihi_convert.cli.options import BALANCING, BASICS, DATA, NEURONS, OWN_CNN, choice, named, number, switch
from loihi_convert.cli.wrong_files import is_netx, require_cnn
from loihi_convert.errors import UsageError, with_flags
from loihi_convert.files import require_output

if TYPE_CHECKING:
    from loihi_convert.data import DataSplits
    from loihi_convert.frontend.source import Source
    from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit

_MODEL = typer.Argument(
    help="Trained CNN: a checkpoint (from torch.save, with any suffix, or safetensors), an ONNX file, or a NIR file.",
    metavar="MODEL",
    show_default=False,
)
_TIMESTEPS = typer.Option(
    "-T",
    "--timesteps",
    metavar="T",
    help="Latency T to balance for; a list such as 1,2,4 gives one file for each.",
    rich_help_panel=BASICS,
)
_TARGET = (
    "lava: with soft reset, for the simulator only. loihi2: restrict parameters to what stock Loihi 2 neurons can "
    "represent (fewer bits)."
)
_SPIKES = (
    "binary: T steps per image. graded: spikes that carry integers, one step of each layer per image (Lava's "
    "sigma-delta neurons); only for ReLU, and without options for thresholds or T."
)
_TASK = (
    "Meaning of the outputs: class scores (a single output: a logit, class 1 above 0), or numbers, with targets in an "
    ".npz file."
)
_METHOD = (
    f"Balancing method: {', '.join(get_args(AnyMethod))}. auto tries several and takes the one that agrees best with "
    "the CNN on calibration images, for each T."
)
_PERCENTILE = "With --balance percentile, in (0, 100]."
_THRESHOLDS = (
    "channel: one threshold per channel. scalar: one per layer, with the differences moved into the weights; "
    "unmodified lava-dl needs it on a chip."
)
_OUTPUT = (
    "File to write, or an existing folder; with several T, one file each, such as FILE-T8.net. Default: MODEL with the "
    "suffix .net or .nir."
)
_FORMAT = (
    "netx: for Lava and Loihi (.net). nir: for other spiking-network libraries (.nir); MODEL may then be a .net file."
)
_ALLOW_HARD_RESET = "With --format nir: write soft-reset neurons as NIR's IF, which resets to 0. Spikes differ."
_CORRECTION = (
    "Correct biases and initial potentials for the error of few time steps (Li et al., 2021); default: chosen by "
    "--balance auto."
)
_INITIAL = "Potential before the first step; default: half of the threshold with soft reset, zero with hard reset."
_RESET = (
    "Reset after a spike: soft (subtract the threshold) or hard (to 0, as Lava's LIF does). Default: soft, but hard "
    "for spike-norm and for NIR files, whose neurons reset to 0 by definition."
)
_READOUT = (
    "Read the class from the last layer's potential or spikes. Default: potential, but spikes for a NIR file that "
    "ends with neurons."
)
_INPUT = (
    "How pixels enter: constant (the same current in each step) or poisson (random spikes). Default: constant, but "
    "poisson for spike-norm and rmp."
)
_SKIP_COPIES = (
    "Relays for each value of a skip connection, 1..8. More relays leave more weight bits to the convolution in their "
    "layer. Default: as few as possible without losing agreement with the CNN."
)
_SPLIT_READOUT = (
    "Store the last layer as high and low digits of its weights. Useful if the range of its potential costs weight "
    "bits, as after a global average with many steps. Other tools see both digits."
)
_PIXEL_BITS = (
    "Bits of a pixel, 1..8; default: 8, but chosen automatically with hard reset, for target loihi2, and for a network "
    "of one layer."
)
_BUNDLE = (
    "Folder for a bundle that runs where only Lava is installed, such as a board's machine: the file, ten images, "
    "their expected potentials, a script. Needs --target loihi2 and one T."
)
_MAX_CORES = (
    "Refuse a network that needs more than N Loihi 2 neurocores (estimated, see `check`), and say what would fit."
)
_CHIPS = "The same limit in chips of 128 neurocores (Kapoho Point has 8 chips)."
_CALIBRATION = "Calibration images: split, all, or a number (first N of the split)."
_EXPECT = (
    "Known accuracy of the CNN in percent; a warning is given if that on validation images, or on your own images, is "
    "lower. Default: an accuracy that any CNN reaches on the data set; for your own images, that of a constant answer."
)
_CLASSES = (
    "With --arch: number of classes, or their names a,b,c, or names of a regression's outputs; default: those of the "
    "data."
)


_OF_A_FILE = ("model", "output", "file_format", "allow_hard_reset", "verify", "overwrite", "details", "as_json")
"""The parameters that apply where a netx file is written again in another format."""

_OF_GRADED_SPIKES = (
    *("model", "output", "spikes", "task", "verify", "overwrite", "details", "as_json", "arch", "mean", "std"),
    *("input_shape", "classes", "data", "data_root", "class_map", "calibration", "expect"),
)
"""The parameters that apply to graded spikes."""


def export(
    ctx: typer.Context,
    model: Annotated[Path, _MODEL],
    arch: Annotated[str | None, options.arch(OWN_CNN)] = None,
    mean: Annotated[str | None, options.mean(OWN_CNN, "none, only pixel/255")] = None,
    std: Annotated[str | None, options.std(OWN_CNN)] = None,
    input_shape: options.InputShape = None,
    classes: Annotated[str | None, named("--classes", OWN_CNN, _CLASSES, metavar="NAMES")] = None,
    data: Annotated[str | None, options.data(DATA, "the benchmark set the CNN was trained on")] = None,
    data_root: Annotated[Path | None, options.data_root(DATA)] = None,
    class_map: Annotated[str | None, options.class_map(DATA)] = None,
    calibration: Annotated[str, number("--calibration", DATA, _CALIBRATION, metavar="IMAGES")] = "split",
    expect: Annotated[float | None, named("--expect", DATA, _EXPECT, metavar="PERCENT")] = None,
    output: Annotated[Path | None, options.output(_OUTPUT)] = None,
    timesteps: Annotated[str, _TIMESTEPS] = "64",
    target: Annotated[Target, choice(Target, "--target", BASICS, _TARGET)] = "lava",
    spikes: Annotated[SpikeKind, choice(SpikeKind, "--spikes", BASICS, _SPIKES)] = "binary",
    task: Annotated[Task, choice(Task, "--task", BASICS, _TASK)] = "classification",
    file_format: Annotated[FileFormat, choice(FileFormat, "--format", BASICS, _FORMAT)] = "netx",
    allow_hard_reset: Annotated[bool, switch("--allow-hard-reset", BASICS, _ALLOW_HARD_RESET)] = False,
    weight_bits: Annotated[int, options.weight_bits(BASICS)] = 8,
    device: options.OnDevice = "auto",
    max_cores: Annotated[int | None, named("--max-cores", BASICS, _MAX_CORES, metavar="N")] = None,
    chips: Annotated[int | None, named("--chips", BASICS, _CHIPS, metavar="N")] = None,
    verify: Annotated[bool, switch("--verify/--no-verify", BASICS, "Read the file back and compare.")] = True,
    overwrite: Annotated[bool, options.overwrite()] = False,
    details: Annotated[bool, options.details("Also print bits, thresholds and clipping of each layer.")] = False,
    as_json: options.AsJson = False,
    bundle: Annotated[Path | None, named("--bundle", BASICS, _BUNDLE, metavar="FOLDER")] = None,
    method: Annotated[AnyMethod, choice(AnyMethod, "--balance", BALANCING, _METHOD, metavar="METHOD")] = "auto",
    percentile: Annotated[float, number("--percentile", BALANCING, _PERCENTILE, metavar="PERCENT")] = 99.0,
    alpha: Annotated[
        float, number("--alpha", BALANCING, "Factor on the thresholds, in (0, 1].", metavar="FACTOR")
    ] = 1.0,
    thresholds: Annotated[Granularity, choice(Granularity, "--thresholds", BALANCING, _THRESHOLDS)] = "channel",
    bias_correction: Annotated[
        bool | None, switch("--bias-correction/--no-bias-correction", BALANCING, _CORRECTION)
    ] = None,
    reset: Annotated[Reset | None, choice(Reset, "--reset", NEURONS, _RESET)] = None,
    amplitude: Annotated[
        Amplitude,
        choice(Amplitude, "--amplitude", NEURONS, "Amplitude of a spike: its threshold (compensated), or 1 (literal)."),
    ] = "compensated",
    initial_potential: Annotated[
        InitialPotential | None, choice(InitialPotential, "--initial-potential", NEURONS, _INITIAL)
    ] = None,
    readout: Annotated[Readout | None, choice(Readout, "--readout", NEURONS, _READOUT)] = None,
    input_coding: Annotated[InputCoding | None, choice(InputCoding, "--input", NEURONS, _INPUT)] = None,
    poisson_seed: Annotated[int, options.seed(NEURONS, "Seed of the Poisson input.")] = 0,
    skip_copies: Annotated[int | None, named("--skip-copies", BALANCING, _SKIP_COPIES, metavar="N")] = None,
    split_readout: Annotated[bool, switch("--split-readout", BALANCING, _SPLIT_READOUT)] = False,
    pixel_bits: Annotated[int | None, named("--pixel-bits", NEURONS, _PIXEL_BITS, metavar="BITS")] = None,
    workers: cluster.ShardWorkers = None,
    scheduler: cluster.Scheduler = None,
    slurm: cluster.Slurm = None,
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx or NIR file."""
    if file_format == "nir" and is_netx(model):
        found = "given for a netx file, which contains a converted network"
        options.refuse_others(ctx, _OF_A_FILE, found, hint="Give the CNN as MODEL.")
        from loihi_convert.pipeline.nir_files import rewritten_as_nir

        say_rewritten(
            rewritten_as_nir(model, output, allow_hard_reset=allow_hard_reset, overwrite=overwrite, verify=verify),
            as_json=as_json,
        )
        return
    require_cnn(model)
    if spikes == "graded":
        binary = "must be left out: it is for binary spikes, or not supported for graded ones"
        options.refuse_others(ctx, _OF_GRADED_SPIKES, "given with `spikes='graded'`", expected=binary)
    steps = options.parse_timesteps(timesteps)
    place = cluster.chosen_place(workers, scheduler, slurm, default=0)
    if expect is not None and not 1 < expect <= 100:
        hint = f"Write {100 * expect:g} for {expect:g}." if 0 < expect <= 1 else ""
        raise UsageError(f"found {expect:g}", where="expect", expected="must be in percent, in (1, 100]", hint=hint)
    if method != "percentile":
        _refuse_if_given(ctx, "percentile", "is only for `method='percentile'`")
    from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, published_neurons
    from loihi_convert.metrics.own_accuracy import own_accuracy, unjudged
    from loihi_convert.pipeline import exporting
    from loihi_convert.pipeline.bundle import BUNDLED_IMAGES, SCRIPT, require_bundle, require_new_bundle, write_bundle
    from loihi_convert.pipeline.converting import require_convertible
    from loihi_convert.pipeline.exporting import output_paths
    from loihi_convert.pipeline.graded import export_graded
    from loihi_convert.pipeline.nir_files import require_file_format
    from loihi_convert.pipeline.opening import open_cnn
    from loihi_convert.progress import progress_bar

    is_poisson = (input_coding or published_neurons(method)[1]) == "poisson"
    if not is_poisson:
        _refuse_if_given(ctx, "poisson_seed", "is only for `input_coding='poisson'`")
    paths = output_paths(model, output, steps, file_format)
    for path in paths:
        require_output(path, overwrite, model)
    require_file_format(file_format, allow_hard_reset, paths[0])
    if bundle is not None and file_format == "nir":
        raise UsageError("given with `file_format='nir'`", where="bundle", expected="must come with a netx file")
    if bundle is not None:
        require_bundle(target, steps, is_poisson=is_poisson, readout=readout or "potential")
        require_new_bundle(bundle, paths[0], overwrite=overwrite)
    balance_options = BalanceOptions(
        method=method,
        amplitude=amplitude,
        alpha=alpha,
        percentile=percentile if method == "percentile" else None,
        initial_potential=initial_potential,
        reset=reset,
        readout=readout,
        input_coding=input_coding,
        poisson_seed=poisson_seed if is_poisson else None,
        bias_correction=bias_correction,
    )
    quantize_options = QuantizeOptions(
        weight_bits, pixel_bits, target, thresholds, split_readout, _most_cores(max_cores, chips)
    )
    source, splits = open_cnn(
        model,
        arch=arch,
        input_shape=options.parse_shape(input_shape),
        classes=options.parse_class_names(classes),
        normalization=options.parse_normalization(mean, std),
        data=data,
        data_root=data_root,
        class_map=options.parse_class_map(class_map),
        task=task,
        tell=log,
    )
    images, kind = validation_images(splits)
    require_convertible(source, images.images, balance_options, quantize_options, skip_copies)
    own = own_accuracy(
        source, images, f"{kind} of {splits.name}", None if expect is None else expect / 100, data=splits.name
    )
    _say_own(ctx, source, own, unjudged(source, images) if own is None else own.warning)
    next_run = _next_run(splits, data, data_root, class_map, arch)
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
    if len(steps) > 1:
        on_interrupt(lambda: "no partial files were left; files of finished T are complete")
    with place.shard_workers() as shard_workers:
        exported = exporting.export(
            source,
            output,
            steps,
            splits.calibration_images(calibration),
            balance_options=balance_options,
            quantize_options=quantize_options,
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


def _next_run(
    splits: DataSplits, data: str | None, data_root: Path | None, class_map: str | None, arch: str | None
) -> NextRun:
    """Return how to run the file: paths and code are not in it, and test images may be needed."""
    words = option_words({"--data-root": data_root, "--class-map": class_map, "--arch": arch})
    if splits.calibration is splits.test:
        return NextRun(words, "TEST.npz" if splits.name.endswith(".npz") else "TEST", splits.name)
    is_found = data is None or data in get_args(DatasetName) or str(Path(data)) == splits.name
    return NextRun(words, None if is_found else data)


def _refuse_if_given(ctx: typer.Context, name: str, expected: str) -> None:
    """Raise a `UsageError` if the option of the parameter ``name``, which would have no effect, is given."""
    if options.is_given(ctx, name):
        raise UsageError("given", where=name, expected=expected)


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
