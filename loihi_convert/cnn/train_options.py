"""Options of a training, and the architecture and recipe that follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from loihi_convert.cnn.recipe import (
    Epochs,
    Rate,
    Recipe,
    TrainedSteps,
    default_recipe,
    fine_tuning_recipe,
    own_recipe,
    paper_recipe,
    spiking_recipe,
)
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import (
    MAX_SEED,
    Architecture,
    DatasetName,
    Device,
    RecipeName,
    WeightDtype,
)
from loihi_convert.ground.options import BASICS, Flag, QcfsLevels, WeightBits, declared

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.data import DataSplits


@declared("Training")
class TrainOptions:
    """Options for training a CNN.

    Parameters
    ----------
    architecture
        Built-in network to train. Default: the one for the data set, or that of `start`.

        The one for the data set is `models.default_architecture`.
    recipe
        best: this package's. paper: that of Ngu & Lee 2022, for mnist, fashion-mnist and cifar10 (VGG-16). Its values
        are printed when training starts.

        To fine-tune ``start``, ``"best"`` has fewer epochs with smaller steps. In Python also a `Recipe`.
    epochs
        Epochs. Default: those of the recipe.
    seed
        Seed of all random numbers.

        That is initialization, image order, augmentation and dropout.
    qcfs_levels
        Train for few time steps: activations with L levels (quantization-clip-floor-shift) and trained thresholds.

        `qcfs.Qcfs` replaces ReLU; None: as in ``start``, or ReLU.
    weight_bits
        With `qcfs_levels`, built-in CNNs without skip connections only: train with weights rounded to this many bits,
        for export with the same `weight_bits`.
    timesteps
        Fine-tune the spiking network itself for this many time steps; `start` is a CNN trained with `qcfs_levels`.

        See `through_spikes`.
    store
        float16 halves the file size; reported accuracies use the rounded weights.
    device
        Where to train: cpu, cuda (a GPU), or auto (a GPU if there is one).
    learning_rate
        Largest learning rate. Default: that of the recipe.
    test
        Also measure the accuracy on test images, at the end. Default: only on validation images, to choose options by.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    architecture: Annotated[Architecture | None, Flag(panel=BASICS)] = None
    recipe: RecipeName | Recipe = "best"
    epochs: Epochs | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    qcfs_levels: Annotated[QcfsLevels | None, Flag("L", "--qcfs")] = None
    weight_bits: Annotated[WeightBits | None, Flag("BITS")] = None
    timesteps: Annotated[TrainedSteps | None, Flag("T", "-T")] = None
    store: Annotated[WeightDtype, Flag(panel=BASICS)] = "float32"
    device: Annotated[Device, Flag(panel=BASICS)] = "auto"
    learning_rate: Annotated[Rate | None, Flag("RATE")] = None
    test: Annotated[bool, Flag(panel="Data")] = False


def chosen_architecture(data: str, options: TrainOptions, start: Checkpoint | None) -> str:
    """Return the architecture that ``options`` give for a data set."""
    from loihi_convert.cnn.models import default_architecture, paper_architecture

    if options.architecture is not None:
        return options.architecture
    if start is not None:
        return start.architecture
    if data not in get_args(DatasetName):
        raise UsageError(
            "not given",
            where="architecture",
            expected="must be given for your own images",
            hint=f"Choose a built-in one ({', '.join(get_args(Architecture))}), or name your own code with `arch`.",
        )
    return paper_architecture(data) if options.recipe == "paper" else default_architecture(data)


def chosen_recipe(splits: DataSplits, architecture: str, options: TrainOptions, *, is_fine_tuning: bool) -> Recipe:
    """Return the recipe that ``options`` give for ``architecture`` on a data set."""
    data, is_spiking = splits.name, options.timesteps is not None
    if isinstance(options.recipe, Recipe):
        recipe = options.recipe
    elif options.recipe == "best" and data not in get_args(DatasetName):
        recipe = own_recipe(len(splits.train), is_fine_tuning=is_fine_tuning, is_spiking=is_spiking)
    elif options.recipe == "best":
        recipe = fine_tuning_recipe(data, architecture) if is_fine_tuning else default_recipe(data, architecture)
        recipe = spiking_recipe(data, architecture) if is_spiking else recipe
        if architecture not in get_args(Architecture):
            # A user's own CNN has its own dropout.
            recipe = replace(recipe, dropout=0.0)
    else:
        if is_fine_tuning:
            raise UsageError("found 'paper', which is not for fine-tuning", where="recipe", hint="Omit `recipe`.")
        recipe = paper_recipe(data)
    return replace(
        recipe,
        epochs=recipe.epochs if options.epochs is None else options.epochs,
        learning_rate=recipe.learning_rate if options.learning_rate is None else options.learning_rate,
        weight_bits=recipe.weight_bits if options.weight_bits is None else options.weight_bits,
        timesteps=recipe.timesteps if options.timesteps is None else options.timesteps,
    )
