"""`loihi-convert train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.choices import Architecture, RecipeName, Store
from loihi_convert.cli.console import echo, say_json, trained_sentence
from loihi_convert.cli.options import DataRootOption, JsonOption, OverwriteOption, SeedOption
from loihi_convert.errors import InputError


def train(
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set: digits (default), mnist, fashion-mnist or cifar10.", show_default=False),
    ] = None,
    architecture: Annotated[
        Architecture | None, typer.Option("--architecture", help="Network to train; default: the one for the data set.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write, .pt or .safetensors.")] = Path(
        "model.pt"
    ),
    recipe: Annotated[
        RecipeName,
        typer.Option(
            "--recipe",
            help="How to train. best: ours. paper: as Ngu & Lee 2022 do, on mnist, fashion-mnist or cifar10 (VGG-16).",
        ),
    ] = "best",
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
    store: Annotated[
        Store,
        typer.Option(
            "--store", help="float32, or float16: half the file; accuracies are those of the rounded weights."
        ),
    ] = "float32",
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    data_root: DataRootOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a CNN that converts well (ReLU and average pooling) and write it as model.pt."""
    from loihi_convert.cnn.checkpoint import load
    from loihi_convert.cnn.training import TrainOptions, chosen_architecture, resume_path, train_cnn
    from loihi_convert.data import default_root
    from loihi_convert.data.benchmarks import load_benchmark
    from loihi_convert.files import refuse_to_overwrite, refuse_to_replace
    from loihi_convert.progress import progress_bar

    if start is not None:
        refuse_to_replace(start, output)
    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            "an interrupted training lies here; nothing was changed",
            where=unfinished,
            hint="Continue it with `resume=True`, or start anew with `overwrite=True`.",
        )
    options = TrainOptions(architecture, recipe, epochs, seed, qcfs, weight_bits, store)
    origin = None if start is None else load(start)
    splits = load_benchmark(data or (origin.data if origin else "digits"), data_root or default_root())
    with progress_bar(f"training {chosen_architecture(splits.name, options, origin)} on {splits.name}") as progress:
        trained = train_cnn(splits, output, options, start=origin, resume=resume, progress=progress)
    if as_json:
        say_json(
            {
                "file": str(output),
                "architecture": trained.architecture,
                "data": trained.data,
                "seed": trained.seed,
                "recipe": trained.recipe,
                "qcfs_levels": trained.qcfs_levels,
                "stored_as": trained.stored_as,
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": trained.test_accuracy,
            }
        )
    else:
        echo(trained_sentence(output, trained))
