"""Training recipes for each data set: epochs, learning rates, augmentation; this package's and the paper's."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import RecipeName
from loihi_convert.ground.options import WeightBits, declared

RECIPES: Final[tuple[str, ...]] = get_args(RecipeName)
"""The recipes by name: this package's, and that of Ngu & Lee 2022."""

Epochs = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0)]
TrainedSteps = Annotated[int, Field(ge=1, le=256)]
"""Steps of the spiking network that is trained: each takes as much memory as the first."""


@declared()
class Recipe:
    """Hyperparameters of a training.

    Parameters
    ----------
    epochs
        Passes over the training images.
    batch_size
        Images per step; the last batch of an epoch may be smaller.
    learning_rate
        The largest learning rate: the peak of ``"one-cycle"``, the start of ``"step"``.
    weight_decay
        Decoupled weight decay of AdamW (0: plain Adam) and of Muon; L2 penalty of ``"sgd"``.
    label_smoothing
        Share of the target spread evenly over the classes.
    averaging
        Decay per step of the moving average of the weights (and of batch norm's statistics); the averages are evaluated
        and stored.
    rotation, scaling, shear, translation
        Augmentation: each image is rotated by up to +-``rotation`` degrees, scaled by up to 1 +- ``scaling``, sheared
        by up to +-``shear`` (a tangent), and moved by up to +-``translation`` of its width and height, uniformly. If
        images are only moved, it is by whole pixels, which keeps them sharp.
    flip
        Augmentation: mirror each image left to right with probability 1/2.
    cutout
        Augmentation: set a square with sides of this many pixels to 0. Its centre may be any pixel of the image, so
        that part of the square may be outside (DeVries & Taylor 2017). 0: none.
    dropout
        Probability that a channel of a convolution is set to 0 for a whole image in a step (spatial dropout); the
        others are divided by 1 - ``dropout``.
    schedule
        Up and down in one cycle, or constant with one step down to a tenth.
    step_at
        Share of the training after which ``"step"`` continues with a tenth of ``learning_rate``; 1: never.
    weight_bits
        Train with weights rounded to this many bits, as in the exported file; only with QCFS activations.
    timesteps
        Train the spiking network for this many steps T (`through_spikes`); only with QCFS activations.
    optimizer
        AdamW; `muon.Muon` for the weights of convolutions, AdamW for the rest; or stochastic
        gradient descent with Nesterov momentum 0.9.
    """

    epochs: Epochs
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Rate
    weight_decay: Amount = 0.02
    label_smoothing: Share = 0.05
    averaging: Share = 0.999
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    scaling: Share = 0.0
    shear: Amount = 0.0
    translation: Annotated[float, Field(ge=0, le=1)] = 0.0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0
    dropout: Share = 0.0
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    step_at: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_bits: WeightBits | None = None
    timesteps: TrainedSteps | None = None
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"

    def recorded(self) -> dict[str, bool | int | float | str | None]:
        """Return the record for a checkpoint: all fields, but ``timesteps`` and ``optimizer`` only if set."""
        unset = {"timesteps": None, "optimizer": "adamw"}
        return {name: value for name, value in asdict(self).items() if name not in unset or value != unset[name]}

    @property
    def words(self) -> str:
        """A line that names every value that matters: epochs, optimizer, learning rate, augmentation."""
        rate = f"learning rate {self.learning_rate:g}"
        if self.schedule == "one-cycle":
            rate = f"one cycle up to {rate}"
        elif self.step_at < 1:
            rate += f", a tenth after {100 * self.step_at:g} % of the epochs"
        optimizer = {"sgd": "SGD", "muon": "Muon"}.get(self.optimizer, "AdamW" if self.weight_decay else "Adam")
        augmentation = {
            "rotation": self.rotation,
            "scaling": self.scaling,
            "shear": self.shear,
            "translation": self.translation,
            "cut-out": self.cutout,
        }
        parts = (
            f"weights of {self.weight_bits} bits" if self.weight_bits is not None else "",
            f"through spikes, T = {self.timesteps}" if self.timesteps is not None else "",
            f"{self.epochs} epoch{'s' * (self.epochs > 1)}, batches of {self.batch_size}",
            f"{optimizer} (weight decay {self.weight_decay:g})" if self.weight_decay else optimizer,
            rate,
            f"label smoothing {self.label_smoothing:g}" if self.label_smoothing else "",
            f"weights averaged by {self.averaging:g}" if self.averaging else "",
            f"spatial dropout {self.dropout:g}" if self.dropout else "",
            *(f"{name} {value:g}" for name, value in augmentation.items() if value),
            "flip" if self.flip else "",
        )
        return ", ".join(part for part in parts if part)

    @property
    def is_affine(self) -> bool:
        """Whether images are rotated, scaled, sheared, moved or mirrored."""
        return bool(self.rotation or self.scaling or self.shear or self.translation or self.flip)

    @property
    def only_moves(self) -> bool:
        """Whether images are moved, and neither rotated nor scaled nor sheared."""
        return self.translation > 0 and not (self.rotation or self.scaling or self.shear)


def default_recipe(data: str, architecture: str | None = None) -> Recipe:
    """Return the recipe for a data set, which was chosen without its test images.

    ``architecture`` (`models.ARCHITECTURES`) has its own if it is too deep or too narrow for the data set's. On two CPU
    cores the epochs of ``fashion-mnist`` take about an hour, those of ``resnet20`` about 50 minutes, those of
    ``vgg-small`` without bfloat16 an hour and a half, and those of ``vgg16`` with it up to two and a half hours.
    """
    if (data, architecture) == ("cifar10", "resnet20"):
        # 270,000 weights never learn the training images by heart: no label smoothing, a gradient with momentum.
        return replace(
            default_recipe(data),
            epochs=50,
            learning_rate=0.2,
            weight_decay=5e-4,
            label_smoothing=0.0,
            optimizer="sgd",
        )
    if (data, architecture) == ("cifar10", "vgg-small"):
        # 93.36 % of the validation images (seed 0); 24 epochs of the data set's recipe gave 92.32 %.
        return replace(
            default_recipe(data),
            epochs=12,
            learning_rate=8e-3,
            weight_decay=0.1,
            label_smoothing=0.1,
            translation=0.09,
            optimizer="muon",
        )
    if (data, architecture) == ("cifar10", "vgg16"):
        # 94.52 % of the validation images (seed 0); 20 epochs gave 93.54 %. The recipe of vgg-small in batches four
        # times as large, at twice the rate: on a CPU half of a step with a small batch is Muon's.
        return replace(
            default_recipe(data, "vgg-small"),
            epochs=40,
            batch_size=512,
            learning_rate=0.016,
            weight_decay=0.2,
            averaging=0.996,
            cutout=8,
        )
    if (data, architecture) == ("fashion-mnist", "conv3-max"):
        return replace(default_recipe(data), epochs=40, weight_decay=0.05, rotation=4.0, scaling=0.1, cutout=8)
    if data == "digits":
        # An 8 x 8 digit looks like another one after less rotation and shift than a 28 x 28 digit.
        return Recipe(
            epochs=100,
            batch_size=64,
            learning_rate=1e-2,
            averaging=0.99,
            rotation=6.0,
            scaling=0.1,
            shear=0.1,
            translation=0.06,
        )
    if data == "fashion-mnist":
        # Clothes are photographed upright and centred; mirroring does not change the class. Rotation and scaling would
        # blur an image, and fabrics differ in their finest detail.
        return Recipe(
            epochs=30,
            batch_size=128,
            learning_rate=2e-3,
            translation=0.06,
            flip=True,
            dropout=0.1,
        )
    if data == "cifar10":
        return Recipe(
            epochs=24,
            batch_size=128,
            learning_rate=4e-3,
            translation=0.125,
            flip=True,
        )
    return Recipe(
        epochs=24,
        batch_size=128,
        learning_rate=4e-3,
        rotation=12.0,
        scaling=0.1,
        shear=0.1,
        translation=0.08,
    )


def fine_tuning_recipe(data: str, architecture: str | None = None) -> Recipe:
    """Return the recipe for fine-tuning a trained CNN: a third of the epochs of `default_recipe`."""
    return _shortened(data, architecture, 3)


def spiking_recipe(data: str, architecture: str | None = None) -> Recipe:
    """Return the recipe for fine-tuning through the spiking network: an eighth of the epochs of `default_recipe`."""
    return _shortened(data, architecture, 8)


def _shortened(data: str, architecture: str | None, divisor: int) -> Recipe:
    """The default recipe or, where its optimizer is not AdamW, the data set's own; small steps, no dropout."""
    recipe = default_recipe(data, architecture)
    if recipe.optimizer != "adamw":
        recipe = default_recipe(data)
    epochs = max(1, recipe.epochs // divisor)
    return replace(recipe, epochs=epochs, learning_rate=recipe.learning_rate / 4, dropout=0.0)


def own_recipe(image_count: int, *, is_fine_tuning: bool, is_spiking: bool) -> Recipe:
    """Return the recipe for a user's own ``image_count`` training images: as many epochs as a number of steps takes.

    Images are not augmented, as nothing is known about them: a mirrored letter is another one.
    """
    batch_size = 128 if image_count >= 2_000 else 32
    steps = 500 if is_spiking else 3_000 if is_fine_tuning else 6_000
    return Recipe(
        epochs=min(200, max(1, round(steps * batch_size / image_count))),
        batch_size=batch_size,
        learning_rate=1e-3 if is_fine_tuning else 2e-3,
        averaging=0.99,
    )


def paper_recipe(data: str) -> Recipe:
    """Return the recipe of Ngu & Lee 2022: Adam, spatial dropout of 0.5, cutout, no other augmentation.

    ==================  ==========================================================================================
    ``mnist``           100 epochs with batches of 50 at 1e-3; cutout
    ``fashion-mnist``   250 epochs at 1e-3, the last 70 at 1e-4; no cutout
    ``cifar10``         VGG-16, 300 epochs at 1e-2; cutout of 16 x 16
    ==================  ==========================================================================================

    With fewer epochs the step down comes at the same share of them, 180 / 250. The paper does not give the size of the
    square on MNIST (8 here) or the batch sizes of the other two (here 50, and 128 for VGG-16). It trains on all 60,000
    (50,000) images, of which 5,000 are held out here for validation.

    Raises
    ------
    UsageError
        If the paper does not use this data set.
    """
    recipe = Recipe(
        epochs=100,
        batch_size=50,
        learning_rate=1e-3,
        weight_decay=0.0,
        label_smoothing=0.0,
        averaging=0.0,
        dropout=0.5,
        schedule="step",
    )
    if data == "mnist":
        return replace(recipe, cutout=8)
    if data == "fashion-mnist":
        return replace(recipe, epochs=250, step_at=180 / 250)
    if data == "cifar10":
        return replace(recipe, epochs=300, batch_size=128, learning_rate=1e-2, cutout=16)
    raise UsageError(
        f"the paper does not train on {data}",
        where="data",
        expected=one_of(("mnist", "fashion-mnist", "cifar10")),
        hint="Omit `recipe`.",
    )
