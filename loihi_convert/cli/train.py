"""`loihi-convert train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loihi_convert.choices import Architecture, DatasetName, RecipeName, Store
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json, trained_sentence
from loihi_convert.cli.options import BASICS, TRAINING, choice, named, switch
from loihi_convert.cli.wrong_files import require_cnn
from loihi_convert.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint

_DATA = "Data set; default: digits, or that of --from."
_ARCHITECTURE = "Network to train; default: the one for the data set, or that of --from."
_STORE = "float16 halves the file size; reported accuracies use the rounded weights."
_RECIPE = "best: this package's. paper: that of Ngu & Lee 2022, for mnist, fashion-mnist and cifar10 (VGG-16)."
_EPOCHS = "Epochs; default: those of the recipe."
_START = "Checkpoint of `train` to fine-tune, for a few epochs at a small learning rate."
_QCFS = "Train for few time steps: activations with L levels (quantization-clip-floor-shift) and trained thresholds."
_WEIGHT_BITS = "With --qcfs: train with weights rounded to 2..8 bits, for export with the same --weight-bits."
_TIMESTEPS = "Fine-tune the spiking network itself for this many time steps; --from names a CNN trained with --qcfs."


def train(
    data: Annotated[DatasetName | None, choice(DatasetName, "--data", BASICS, _DATA)] = None,
    architecture: Annotated[Architecture | None, choice(Architecture, "--architecture", BASICS, _ARCHITECTURE)] = None,
    output: Annotated[Path, options.output("Checkpoint to write, .pt or .safetensors.")] = Path("model.pt"),
    store: Annotated[Store, choice(Store, "--store", BASICS, _STORE)] = "float32",
    overwrite: Annotated[bool, options.overwrite()] = False,
    as_json: Annotated[bool, options.as_json()] = False,
    data_root: Annotated[Path | None, options.data_root(BASICS)] = None,
    recipe: Annotated[RecipeName, choice(RecipeName, "--recipe", TRAINING, _RECIPE)] = "best",
    epochs: Annotated[int | None, named("--epochs", TRAINING, _EPOCHS, metavar="N")] = None,
    seed: Annotated[int, options.seed(TRAINING)] = 0,
    resume: Annotated[bool, switch("--resume", TRAINING, "Continue an interrupted training.")] = False,
    start: Annotated[Path | None, named("--from", TRAINING, _START, metavar="FILE")] = None,
    qcfs_levels: Annotated[int | None, named("--qcfs", TRAINING, _QCFS, metavar="L")] = None,
    weight_bits: Annotated[int | None, named("--weight-bits", TRAINING, _WEIGHT_BITS, metavar="BITS")] = None,
    timesteps: Annotated[int | None, named("-T", TRAINING, _TIMESTEPS, metavar="T")] = None,
) -> None:
    """Train a CNN that converts well (ReLU and average pooling) and write it as model.pt."""
    if start is not None:
        require_cnn(start)
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
        hint = "Continue with `resume`, or start anew with `overwrite`."
        raise InputError("is an interrupted training; nothing was changed", where=unfinished, hint=hint)
    chosen = TrainOptions(architecture, recipe, epochs, seed, qcfs_levels, weight_bits, timesteps, store)
    origin = None if start is None else _started(start)
    splits = load_benchmark(data or (origin.data if origin else "digits"), data_root or default_root())
    with progress_bar(f"training {chosen_architecture(splits.name, chosen, origin)} on {splits.name}") as progress:
        trained = train_cnn(splits, output, chosen, start=origin, resume=resume, progress=progress)
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
        echo(f"next: loihi-convert export {shlex.quote(str(output))}")


def _started(path: Path) -> Checkpoint:
    """Return the CNN to continue training; it must be a checkpoint written by `train`."""
    from loihi_convert.cnn.checkpoint import load

    try:
        return load(path)
    except CheckpointError as error:
        if "not a checkpoint of loihi-convert" not in str(error):
            raise
        exporting = f"loihi-convert export {path} --arch package.module:factory"
        hint = f"Fine-tune your own CNN with your own code, and export it: `{exporting}`."
        raise CheckpointError("was not written by `loihi-convert train`", where=path, hint=hint) from error
