"""How to train: numbers of epochs, learning rates, augmentation, for each data set."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from loihi_convert.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    epochs
        Passes over the training images, >= 1.
    batch_size
        Images per step; the last batch of an epoch may be smaller.
    learning_rate
        The peak of the one-cycle schedule.
    weight_decay
        AdamW's, decoupled.
    label_smoothing
        Share of the target that is spread evenly over the classes.
    averaging
        Decay per step of the moving average of the weights (and of batch norm's statistics), which is what is evaluated
        and stored.
    rotation, scaling, shear, translation
        Augmentation: each image is rotated by up to +-``rotation`` degrees, scaled by up to 1 +- ``scaling``, sheared
        by up to +-``shear`` (a tangent), and moved by up to +-``translation`` of its width and height, uniformly. Where
        it is only moved, it is by whole pixels, which keeps it sharp.
    flip
        Augmentation: mirror every other image, by chance, left to right.
    weight_bits
        Train with weights rounded to so many bits, 2..8, as they will be exported; with QCFS activations only.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    averaging: float = 0.999
    rotation: float = 12.0
    scaling: float = 0.1
    shear: float = 0.1
    translation: float = 0.08
    flip: bool = False
    weight_bits: int | None = None

    def __post_init__(self) -> None:
        for name, is_valid, allowed in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in 0..1, below 1"),
            ("weight_bits", self.weight_bits is None or 2 <= self.weight_bits <= 8, "in 2..8"),
            ("averaging", 0 <= self.averaging < 1, "in 0..1, below 1"),
        ):
            if not is_valid:
                raise UsageError(f"recipe: {name} is {getattr(self, name)}; it must be {allowed}.")

    @property
    def only_moves(self) -> bool:
        """Whether images are moved, and neither rotated nor scaled nor sheared."""
        return self.translation > 0 and not (self.rotation or self.scaling or self.shear)


def default_recipe(data: str) -> Recipe:
    """Return the recipe for a data set; chosen without its test images.

    The epochs of ``fashion-mnist`` and ``cifar10`` are what two CPU cores do in well under an hour.
    """
    if data == "digits":
        # An 8 x 8 digit is rotated and moved less than a 28 x 28 one before it looks like another.
        return Recipe(epochs=100, batch_size=64, learning_rate=1e-2, averaging=0.99, rotation=6.0, translation=0.06)
    if data == "fashion-mnist":
        # Clothes are photographed upright and centred; a mirrored one is still of its class.
        return Recipe(
            epochs=25, batch_size=128, learning_rate=2e-3, rotation=4.0, shear=0.0, translation=0.06, flip=True
        )
    if data == "cifar10":
        return Recipe(
            epochs=24,
            batch_size=128,
            learning_rate=4e-3,
            rotation=0.0,
            scaling=0.0,
            shear=0.0,
            translation=0.125,
            flip=True,
        )
    return Recipe(epochs=24, batch_size=128, learning_rate=4e-3)


def fine_tuning_recipe(data: str) -> Recipe:
    """Return the recipe for going on with a trained CNN: few epochs, small steps."""
    recipe = default_recipe(data)
    return replace(recipe, epochs=max(1, recipe.epochs // 3), learning_rate=recipe.learning_rate / 4)
