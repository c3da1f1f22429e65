"""Options of a training, and the architecture and recipe that follow from them: this package's, or the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

from pydantic import Field

from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import MAX_SEED, Architecture, DatasetName, Device, RecipeName, WeightDtype
from loihi_convert.ground.options import BASICS, Flag, QcfsLevels, WeightBits, declared

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.data import DataSplits

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
        Train the spiking network for this many steps T (`qcfs.SpikingCnn`); only with QCFS activations.
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
        numbers = {
            "label smoothing": self.label_smoothing,
            "weights averaged by": self.averaging,
            "spatial dropout": self.dropout,
            **{name: float(getattr(self, name)) for name in ("rotation", "scaling", "shear", "translation")},
            "cut-out": self.cutout,
        }
        parts = (
            f"weights of {self.weight_bits} bits" if self.weight_bits is not None else "",
            f"through spikes, T = {self.timesteps}" if self.timesteps is not None else "",
            f"{self.epochs} epoch{'s' * (self.epochs > 1)}, batches of {self.batch_size}",
            f"{optimizer} (weight decay {self.weight_decay:g})" if self.weight_decay else optimizer,
            rate,
            *(f"{name} {value:g}" for name, value in numbers.items() if value),
            "flip" if self.flip else "",
        )
        return ", ".join(part for part in parts if part)

    @property
    def is_affine(self) -> bool:
        """Whether images are rotated, scaled, sheared, moved or mirrored."""
        return bool(self.rotation or self.scaling or self.shear or self.translation or self.flip)


def default_architecture(data: str) -> str:
    """Return the default architecture for a data set: ``vgg-small`` for cifar10, else ``<data>-cnn``."""
    return "vgg-small" if data == "cifar10" else f"{data}-cnn"


def paper_architecture(data: str) -> str:
    """Return the architecture that Ngu & Lee 2022 train on a data set: ``vgg16`` for cifar10, else ``<data>-cnn``."""
    return "vgg16" if data == "cifar10" else f"{data}-cnn"


_MNIST: Final = Recipe(
    epochs=24, batch_size=128, learning_rate=4e-3, rotation=12.0, scaling=0.1, shear=0.1, translation=0.08
)
# Clothes are photographed upright and centred; mirroring does not change the class. Rotation and scaling would blur an
# image, and fabrics differ in their finest detail.
_FASHION: Final = Recipe(epochs=30, batch_size=128, learning_rate=2e-3, translation=0.06, flip=True, dropout=0.1)
_CIFAR: Final = Recipe(epochs=24, batch_size=128, learning_rate=4e-3, translation=0.125, flip=True)
# 93.36 % of the validation images (seed 0); 24 epochs of the data set's recipe gave 92.32 %.
_VGG_SMALL: Final = replace(
    _CIFAR, epochs=12, learning_rate=8e-3, weight_decay=0.1, label_smoothing=0.1, translation=0.09, optimizer="muon"
)
# Chosen without test images. On two CPU cores the epochs of fashion-mnist take about an hour, those of resnet20 50
# minutes, those of vgg-small without bfloat16 an hour and a half, and those of vgg16 with it about three hours.
_BEST: Final[Mapping[tuple[str, str | None], Recipe]] = {
    # An 8 x 8 digit looks like another one after less rotation and shift than a 28 x 28 digit.
    ("digits", None): replace(
        _MNIST, epochs=100, batch_size=64, learning_rate=1e-2, averaging=0.99, rotation=6.0, translation=0.06
    ),
    ("fashion-mnist", None): _FASHION,
    ("fashion-mnist", "conv3-max"): replace(
        _FASHION, epochs=40, weight_decay=0.05, rotation=4.0, scaling=0.1, cutout=8
    ),
    ("cifar10", None): _CIFAR,
    # 270,000 weights never learn the training images by heart: no label smoothing, a gradient with momentum.
    ("cifar10", "resnet20"): replace(
        _CIFAR, epochs=50, learning_rate=0.2, weight_decay=5e-4, label_smoothing=0.0, optimizer="sgd"
    ),
    ("cifar10", "vgg-small"): _VGG_SMALL,
    # 94.52 % of the validation images (seed 0); 20 epochs gave 93.54 %. The recipe of vgg-small in batches four times
    # as large, at twice the rate: on a CPU half of a step with a small batch is Muon's.
    ("cifar10", "vgg16"): replace(
        _VGG_SMALL, epochs=40, batch_size=512, learning_rate=0.016, weight_decay=0.2, averaging=0.996, cutout=8
    ),
}


def default_recipe(data: str, architecture: str | None = None) -> Recipe:
    """Return the recipe for a data set, or that of an ``architecture`` too deep or too narrow for the data set's."""
    return _BEST.get((data, architecture)) or _BEST.get((data, None), _MNIST)


def fine_tuning_recipe(data: str, architecture: str | None = None, divisor: int = 3) -> Recipe:
    """Return the recipe for fine-tuning a trained CNN: the epochs of `default_recipe` / ``divisor``, small steps.

    It is the data set's own recipe where the optimizer is not AdamW, and without dropout.
    """
    recipe = default_recipe(data, architecture)
    if recipe.optimizer != "adamw":
        recipe = default_recipe(data)
    epochs = max(1, recipe.epochs // divisor)
    return replace(recipe, epochs=epochs, learning_rate=recipe.learning_rate / 4, dropout=0.0)


def spiking_recipe(data: str, architecture: str | None = None) -> Recipe:
    """Return the recipe for fine-tuning through the spiking network: an eighth of the epochs of `default_recipe`."""
    return fine_tuning_recipe(data, architecture, divisor=8)


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

    The paper does not give the size of the square on MNIST (8 here) or the batch sizes of the other two (here 50, and
    128 for VGG-16). It trains on all 60,000 (50,000) images, of which 5,000 are held out here for validation.
    """
    recipe = Recipe(100, 50, 1e-3, weight_decay=0.0, label_smoothing=0.0, averaging=0.0, dropout=0.5, schedule="step")
    of_data = {
        "mnist": replace(recipe, cutout=8),
        # The last 70 epochs at a tenth of the rate; with fewer epochs, the same share of them.
        "fashion-mnist": replace(recipe, epochs=250, step_at=180 / 250),
        "cifar10": replace(recipe, epochs=300, batch_size=128, learning_rate=1e-2, cutout=16),
    }
    if data not in of_data:
        raise UsageError(f"the paper does not train on {data}", where="data", expected=one_of(tuple(of_data)))
    return of_data[data]


@declared("Training")
class TrainOptions:
    """Options for training a CNN.

    Parameters
    ----------
    architecture
        Built-in network to train. Default: the one for the data set, or that of `start`.

        The one for the data set is `default_architecture`.
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

        See `qcfs.SpikingCnn`.
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
    if options.architecture is not None:
        return options.architecture
    if start is not None:
        return start.architecture
    if default_architecture(data) not in get_args(Architecture):
        raise UsageError(
            "not given",
            where="architecture",
            expected="must be given for your own images and for MLPerf Tiny",
            hint=f"Choose one of {', '.join(get_args(Architecture))}, or name your own code with `arch`.",
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
    elif is_fine_tuning:
        raise UsageError("found 'paper', which is not for fine-tuning", where="recipe")
    else:
        recipe = paper_recipe(data)
    given = {name: getattr(options, name) for name in ("epochs", "learning_rate", "weight_bits", "timesteps")}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})
