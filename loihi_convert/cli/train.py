"""`loihi-convert train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.cli.console import echo, say_json, trained_sentence
from loihi_convert.cli.options import DataRootOption, JsonOption, OverwriteOption, SeedOption
from loihi_convert.errors import InputError, UsageError

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.data import DataSplits


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
    recipe: Annotated[
        str,
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
        str,
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
    from loihi_convert.cnn.models import default_architecture, paper_architecture
    from loihi_convert.cnn.recipe import RECIPES
    from loihi_convert.cnn.training import resume_path
    from loihi_convert.data import load_data
    from loihi_convert.files import refuse_to_overwrite, refuse_to_replace

    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: not known; choose one of {', '.join(RECIPES)}.")
    if recipe == "paper" and start is not None:
        raise UsageError("--recipe paper: the paper does not fine-tune; leave out --from, or --recipe.")
    if start is not None:
        refuse_to_replace(start, output)
    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            f"{unfinished}: an interrupted training lies here; nothing was changed. Go on with --resume, or start "
            "anew by --overwrite."
        )
    origin = None if start is None else load(start)
    splits = load_data(data or (origin.data if origin else "digits"), data_root)
    default = paper_architecture if recipe == "paper" else default_architecture
    architecture = architecture or (origin.architecture if origin else default(splits.name))
    trained = train_cnn(
        architecture,
        splits,
        output,
        seed=seed,
        recipe_name=recipe,
        epochs=epochs,
        qcfs_levels=qcfs,
        weight_bits=weight_bits,
        start=origin,
        store=store,
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
                "stored_as": trained.stored_as,
                "validation_accuracy": trained.validation_accuracy,
                "test_accuracy": trained.test_accuracy,
            }
        )
    else:
        echo(trained_sentence(output, trained))


def train_cnn(
    architecture: str,
    splits: DataSplits,
    output: Path,
    *,
    seed: int,
    recipe_name: str = "best",
    epochs: int | None = None,
    qcfs_levels: int | None = None,
    weight_bits: int | None = None,
    start: Checkpoint | None = None,
    store: str = "float32",
    resume: bool = False,
) -> Checkpoint:
    from loihi_convert.cnn.recipe import default_recipe, fine_tuning_recipe, paper_recipe
    from loihi_convert.cnn.training import train
    from loihi_convert.progress import progress_bar

    if recipe_name == "paper":
        recipe = paper_recipe(splits.name)
    else:
        recipe = default_recipe(splits.name) if start is None else fine_tuning_recipe(splits.name)
    recipe = replace(recipe, epochs=recipe.epochs if epochs is None else epochs, weight_bits=weight_bits)
    with progress_bar(f"training {architecture} on {splits.name}") as progress:
        return train(
            architecture,
            splits,
            recipe,
            seed=seed,
            output=output,
            qcfs_levels=qcfs_levels,
            start=start,
            store=store,
            resume=resume,
            progress=progress,
        )
