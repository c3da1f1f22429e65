"""`loihi-convert export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from loihi_convert.cli.console import exported_json, log, say_exported, say_json
from loihi_convert.cli.options import (
    ArchOption,
    ClassMapOption,
    DataOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    MeanOption,
    OverwriteOption,
    StdOption,
    parse_class_map,
    parse_class_names,
    parse_numbers,
    parse_shape,
    parse_timesteps,
)
from loihi_convert.errors import UsageError


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
            help="Balancing method: ngu-lee, act-norm, robust-norm, act-norm-channelwise, spike-norm, rmp, percentile, "
            "least-squares, qcfs, or auto: the one whose classes agree best with the CNN's on calibration images, for "
            "each T.",
        ),
    ] = "auto",
    amplitude: Annotated[
        str, typer.Option("--amplitude", help="What a spike is worth: compensated (its threshold) or literal (1).")
    ] = "compensated",
    alpha: Annotated[float, typer.Option("--alpha", help="Factor on the thresholds, in (0, 1].")] = 1.0,
    percentile: Annotated[float, typer.Option("--percentile", help="For --balance percentile, in (0, 100].")] = 99.0,
    reset: Annotated[
        str | None,
        typer.Option(
            "--reset",
            help="What a spike leaves: soft (default) subtracts the threshold, hard (default of spike-norm) is Lava's "
            "own LIF.",
            show_default=False,
        ),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="How pixels enter: constant (default), the same current in each step; poisson (default of spike-norm "
            "and rmp), as random spikes.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --input poisson.")] = 0,
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
        int | None,
        typer.Option(
            "--pixel-bits", help="Bits of a pixel, 1..8; default: 8, or what fits best if hard or for loihi2."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="lava: soft-reset neurons of ours. loihi2: numbers that a circuit of stock processes, which the chip "
            "has, can hold without wrapping; fewer bits.",
        ),
    ] = "lava",
    thresholds: Annotated[
        str,
        typer.Option(
            "--thresholds",
            help="channel: one threshold per channel, as an array, which only Lava's CPU models take. scalar: one per "
            "layer, the rest folded into the weights; what stock netx needs on hardware.",
        ),
    ] = "channel",
    arch: ArchOption = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", help="C,H,W, with --arch; default: the data's.", show_default=False),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Number or names a,b,c, with --arch; default: the data's.", show_default=False),
    ] = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    class_map: ClassMapOption = None,
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration",
            help="Images that set the thresholds: split, all training images, or so many of the split, as in 1000.",
        ),
    ] = "split",
    device: DeviceOption = "auto",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read the file back and compare.")] = True,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx file."""
    from loihi_convert import pipeline
    from loihi_convert.choices import InputCoding
    from loihi_convert.cnn.checkpoint import load
    from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions, published_neurons
    from loihi_convert.data import DATASETS, load_data
    from loihi_convert.frontend.source import open_source
    from loihi_convert.ir.quantized import Target
    from loihi_convert.progress import progress_bar
    from loihi_convert.simulation.gpu import chosen_device

    steps = parse_timesteps(timesteps)
    if target not in get_args(Target):
        raise UsageError(f"--target {target}: unknown; allowed are {', '.join(get_args(Target))}.")
    published_reset, published_input = published_neurons(method)
    coding = input_ or published_input
    if coding not in get_args(InputCoding):
        raise UsageError(f"--input {coding}: unknown; allowed are {', '.join(get_args(InputCoding))}.")
    if arch is not None and data is None:
        raise UsageError(f"{model}: a state dict does not say what it was trained on; pass --data.")
    normalization = {"mean": parse_numbers("--mean", mean), "std": parse_numbers("--std", std)}
    shape, names = parse_shape(input_shape), parse_class_names(classes)
    trained = load(model) if arch is None else None
    splits = load_data(
        data or (trained.data if trained else ""),
        data_root,
        classes=names or (trained.classes if trained else ()),
        class_map=parse_class_map(class_map),
        input_shape=trained.input_shape if trained else shape,
    )
    for note in splits.notes:
        log(note)
    if shape not in (None, splits.input_shape):
        raise UsageError(f"--input-shape {input_shape}: the images of {splits.name} have {splits.input_shape}.")
    if arch is not None:
        shape, names = splits.input_shape, names or splits.classes or None
    # The name of a data set; where a user's own images lie is nobody else's business.
    recorded = data if data is None or data in DATASETS else splits.name
    source = open_source(model, arch=arch, input_shape=shape, classes=names, data=recorded, **normalization)
    names_of: Any = {"method": method, "amplitude": amplitude, "initial_potential": initial_potential}
    names_of |= {"reset": reset or published_reset, "readout": readout}
    balance_options = BalanceOptions(
        **names_of,
        alpha=alpha,
        percentile=percentile,
        poisson_seed=seed if coding == "poisson" else None,
        bias_correction=correct,
    )
    rounding: Any = {"target": target, "thresholds": thresholds}
    quantize_options = QuantizeOptions(weight_bits=weight_bits, pixel_bits=pixel_bits, **rounding)
    exported = pipeline.export(
        source,
        output,
        steps,
        splits.calibration_images(calibration),
        balance_options=balance_options,
        quantize_options=quantize_options,
        device=chosen_device(device),
        overwrite=overwrite,
        verify=verify,
        bars=progress_bar,
    )
    if as_json:
        say_json({"files": [exported_json(item) for item in exported]})
    else:
        say_exported(exported)
