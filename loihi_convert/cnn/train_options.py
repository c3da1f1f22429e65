"""Options of a training, and the architecture and recipe that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loihi_convert.arrays import plain_numbers
from loihi_convert.choices import Architecture, Device, RecipeName, WeightDtype
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import ARCHITECTURES, default_architecture, paper_architecture
from loihi_convert.cnn.recipe import (
    RECIPES,
    Recipe,
    default_recipe,
    fine_tuning_recipe,
    own_recipe,
    paper_recipe,
    require_whole_numbers,
    spiking_recipe,
)
from loihi_convert.data import DATASETS, DataSplits
from loihi_convert.errors import UsageError, one_of


@dataclass(frozen=True)
class TrainOptions:
    """Options for training a CNN.

    Parameters
    ----------
    architecture
        Default: that of ``start``, or the one for the data set (`models.default_architecture`).
    recipe
        ``"best"``: this package's recipe for the data set or, to fine-tune ``start``, fewer epochs with smaller steps.
        ``"paper"``: that of Ngu & Lee 2022, with its architecture. Or a `Recipe`.
    epochs, learning_rate
        Default: the recipe's.
    seed
        Seed of initialization, image order, augmentation and dropout, 0..2^31 - 1.
    qcfs_levels
        Levels L of the activation `qcfs.Qcfs`, which replaces ReLU, in 1..256; None: as in ``start``, or ReLU.
    weight_bits
        With ``qcfs_levels``: train with weights rounded to this many bits, 2..8.
    timesteps
        Fine-tune the spiking network itself for this many steps T (`through_spikes`); ``start`` has QCFS activations.
    store
        ``"float16"`` halves the file size; the rounded weights are evaluated.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if torch finds one.
    test
        Also measure the accuracy on test images, at the end. Off by default, so that options are chosen by that on
        validation images.

    Raises
    ------
    UsageError
        If a number, other than ``learning_rate``, is not a whole number.
    """

    architecture: Architecture | None = None
    recipe: RecipeName | Recipe = "best"
    epochs: int | None = None
    seed: int = 0
    qcfs_levels: int | None = None
    weight_bits: int | None = None
    timesteps: int | None = None
    store: WeightDtype = "float32"
    device: Device = "auto"
    learning_rate: float | None = None
    test: bool = False

    def __post_init__(self) -> None:
        plain_numbers(self)
        require_whole_numbers(self, "epochs", "seed", "qcfs_levels", "weight_bits", "timesteps")


def chosen_architecture(data: str, options: TrainOptions, start: Checkpoint | None) -> str:
    """Return the architecture that ``options`` give for a data set."""
    if options.architecture is not None:
        return options.architecture
    if start is not None:
        return start.architecture
    if data not in DATASETS:
        raise UsageError(
            "not given",
            where="architecture",
            expected="must be given for your own images",
            hint=f"Choose a built-in one ({', '.join(ARCHITECTURES)}), or name your own code with `arch`.",
        )
    return paper_architecture(data) if options.recipe == "paper" else default_architecture(data)


def chosen_recipe(splits: DataSplits, architecture: str, options: TrainOptions, *, is_fine_tuning: bool) -> Recipe:
    """Return the recipe that ``options`` give for ``architecture`` on a data set."""
    data, is_spiking = splits.name, options.timesteps is not None
    if isinstance(options.recipe, Recipe):
        recipe = options.recipe
    elif options.recipe == "best" and data not in DATASETS:
        recipe = own_recipe(len(splits.train), is_fine_tuning=is_fine_tuning, is_spiking=is_spiking)
    elif options.recipe == "best":
        recipe = fine_tuning_recipe(data, architecture) if is_fine_tuning else default_recipe(data, architecture)
        recipe = spiking_recipe(data, architecture) if is_spiking else recipe
        if architecture not in ARCHITECTURES:
            # A user's own CNN has its own dropout.
            recipe = replace(recipe, dropout=0.0)
    elif options.recipe == "paper":
        if is_fine_tuning:
            raise UsageError("found 'paper', which is not for fine-tuning", where="recipe", hint="Omit `recipe`.")
        recipe = paper_recipe(data)
    else:
        raise UsageError(f"found {options.recipe!r}", where="recipe", expected=one_of(RECIPES))
    return replace(
        recipe,
        epochs=recipe.epochs if options.epochs is None else options.epochs,
        learning_rate=recipe.learning_rate if options.learning_rate is None else options.learning_rate,
        weight_bits=recipe.weight_bits if options.weight_bits is None else options.weight_bits,
        timesteps=recipe.timesteps if options.timesteps is None else options.timesteps,
    )
