"""Train a source CNN: AdamW, augmentation, label smoothing, spatial dropout, averaged weights, as a `Recipe` says.

In bfloat16 where the processor multiplies it (AVX512-BF16 or Intel AMX), else in float32. On an EPYC with AVX512-BF16 a
step of the Fashion-MNIST CNN or of `vgg-small` takes half the time so; without such instructions it takes longer.

Everything random is drawn from generators keyed by (seed, epoch), and the learning rate is a function of the step, so
that the training state is nothing but tensors and the number of finished epochs. It is written after each epoch to
``<output>.resume.pt``; a run that was interrupted and resumed ends with the same weights, bit for bit, as one that was
not. (The same bits need the same machine, number of threads and torch: floating-point sums depend on all three.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.accuracy import accuracy
from loihi_convert.cnn.augmentation import augmented
from loihi_convert.cnn.checkpoint import Checkpoint, Json
from loihi_convert.cnn.few_bits import RoundedWeights
from loihi_convert.cnn.float16 import in_float16
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.qcfs import MAX_LEVELS, Qcfs, set_thresholds
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.torch_zip import read_pt, write_pt
from loihi_convert.data import DATASETS, Dataset, DataSplits
from loihi_convert.errors import CheckpointError, UsageError
from loihi_convert.progress import Progress, no_progress

_WARM_UP: Final = 0.25
_START_DIVISOR: Final = 25
_END_DIVISOR: Final = 10_000
_STEP_DIVISOR: Final = 10
# Images that choose the first thresholds of a fine-tuning.
_FIRST_IMAGES: Final = 200


def train(
    architecture: str,
    splits: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    output: Path,
    qcfs_levels: int | None = None,
    start: Checkpoint | None = None,
    store: str = "float32",
    resume: bool = False,
    progress: Progress = no_progress,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Return the trained CNN, which is also written to ``output``.

    Parameters
    ----------
    architecture
        One of `loihi_convert.cnn.models.ARCHITECTURES`.
    splits
        Trained on ``train``; ``validation`` is looked at after each epoch, ``test`` once, at the end.
    recipe
        See `recipe.default_recipe` and `recipe.paper_recipe`.
    seed
        Of initialization, order of images, augmentation and dropout, >= 0.
    output
        ``.pt`` or ``.safetensors``; replaced if it exists.
    qcfs_levels
        Train with the activation `qcfs.Qcfs` of so many levels in place of ReLU.
    start
        A trained CNN of the same architecture to begin with; default: random weights.
    store
        ``"float16"``: round the trained weights to it, which halves the file, and return and measure these.
    resume
        Go on from ``<output>.resume.pt``, which an interrupted run of the same training has left.
    progress
        Called after each batch with batches done and batches in all epochs.
    on_epoch
        Called after each epoch with its number, from 1, and the validation accuracy in 0..1.

    Raises
    ------
    UsageError
        If the architecture is not known, ``splits`` has no validation images, ``output`` has another suffix, ``store``
        is not known, or there is nothing to resume.
    CheckpointError
        If ``<output>.resume.pt`` is damaged or belongs to another training, the training diverged, or a weight is too
        large for float16.
    InputError
        If a file cannot be written; this is found out before the first epoch.
    """
    checkpoint.require_suffix(output)
    if store not in checkpoint.STORES:
        raise UsageError(f"--store {store}: not known; choose one of {', '.join(checkpoint.STORES)}.")
    if not len(splits.validation):
        raise UsageError(
            f"train: {splits.name} is not split into training and validation images; allowed are the data sets "
            f"{', '.join(DATASETS)}. Train on your own images in your own program and bring the checkpoint."
        )
    if not 0 <= seed < 2**31:
        raise UsageError(f"seed: {seed} is not allowed; choose one in 0..{2**31 - 1}.")
    state_file = resume_path(output)
    if qcfs_levels is not None and not 1 <= qcfs_levels <= MAX_LEVELS:
        raise UsageError(f"--qcfs {qcfs_levels}: allowed are 1..{MAX_LEVELS} levels.")
    if recipe.weight_bits is not None and qcfs_levels is None:
        raise UsageError("--weight-bits: rounds what spikes are multiplied with, so it needs thresholds; add --qcfs L.")
    if start is not None and (start.architecture, start.input_shape) != (architecture, splits.input_shape):
        raise UsageError(
            f"--from: a {start.architecture} for images {start.input_shape}; asked for is a {architecture} for "
            f"{splits.input_shape}. Fine-tune with the same architecture and images."
        )
    run: dict[str, Json] = {
        "architecture": architecture,
        "data": splits.name,
        "seed": seed,
        "recipe": asdict(recipe),
        "qcfs_levels": qcfs_levels,
        "start": None if start is None else checkpoint.digest("", start.state),
    }
    training = _Training(architecture, splits, recipe, seed, qcfs_levels, start)
    if resume:
        _restore(training, state_file, run)
    else:
        write_pt({**run, **training.state()}, state_file)
    while training.epoch < recipe.epochs:
        validation_accuracy = training.run_epoch(progress)
        write_pt({**run, **training.state()}, state_file)
        if on_epoch is not None:
            on_epoch(training.epoch, validation_accuracy)
    trained = Checkpoint(
        architecture=architecture,
        state=training.average,
        data=splits.name,
        input_shape=splits.input_shape,
        classes=splits.classes,
        seed=seed,
        validation_accuracy=training.history[-1],
        test_accuracy=training.accuracy(splits.test),
        qcfs_levels=qcfs_levels,
        recipe={
            **asdict(recipe),
            **({} if start is None else {"start": _origin(start)}),
            "validation_accuracy_per_epoch": list(training.history),
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "seconds": round(training.seconds, 1),
            "arithmetic": "bfloat16" if multiplies_bfloat16() else "float32",
        },
    )
    if store == "float16":
        trained = in_float16(trained, splits, output)
    checkpoint.save(trained, output)
    state_file.unlink()
    return trained


def multiplies_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16 that torch uses: dot products, or matrix units."""
    # Public in no release so far; torch below 2.6 has one of them or none.
    checks: list[Callable[[], bool]] = [
        getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(supported() for supported in checks)


def resume_path(output: Path) -> Path:
    """Return the file that holds the state of an unfinished training whose result will be ``output``."""
    return output.with_name(f"{output.name}.resume.pt")


class _Training:
    """A training in progress: weights, their average, AdamW's moments, the number and time of finished epochs."""

    def __init__(
        self,
        architecture: str,
        splits: DataSplits,
        recipe: Recipe,
        seed: int,
        qcfs_levels: int | None,
        start: Checkpoint | None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = build_model(architecture, splits.input_shape, len(splits.classes), qcfs_levels=qcfs_levels)
        if start is not None:
            _begin_with(self._model, start, _pixels(torch.from_numpy(splits.train.images[:_FIRST_IMAGES].copy())))
        # channels_last takes 30 % less time on the CPU.
        self._model = self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parameters = dict(self._model.named_parameters())
        thresholds = [value for name, value in self._parameters.items() if name.endswith(".threshold")]
        others = [value for name, value in self._parameters.items() if not name.endswith(".threshold")]
        # Decay would pull thresholds towards 0.
        groups: list[dict[str, Any]] = [
            {"params": others},
            *([{"params": thresholds, "weight_decay": 0.0}] if thresholds else []),
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        self._rounded = None if recipe.weight_bits is None else RoundedWeights(self._model, recipe.weight_bits)
        self._scales: dict[str, Tensor] = {}
        self._generator = torch.Generator()
        if recipe.dropout:
            _drop_channels(self._model, recipe.dropout, self._generator)
        self._splits, self._recipe, self._seed = splits, recipe, seed
        self._steps_per_epoch = math.ceil(len(splits.train) / recipe.batch_size)
        # Parameters and the statistics of batch norm; each shares its memory with the model's own.
        self._tensors: dict[str, Tensor] = self._model.state_dict()
        self.average = {name: tensor.clone() for name, tensor in self._tensors.items()}
        self.epoch = 0
        self.history: list[float] = []
        self.seconds = 0.0

    def run_epoch(self, progress: Progress) -> float:
        """Train on every training image once; return the validation accuracy of the averaged weights."""
        begun = time.monotonic()
        generator = self._generator.manual_seed((self._seed << 20) + self.epoch)
        order = torch.randperm(len(self._splits.train), generator=generator)
        images = torch.from_numpy(self._splits.train.images.copy())
        labels = torch.from_numpy(self._splits.train.known_labels.copy())
        self._model.train()
        if self._rounded is not None:
            # Once an epoch: they hardly move.
            self._scales = self._rounded.scales(self._parameters)
        for batch, chosen in enumerate(torch.split(order, self._recipe.batch_size)):
            step = self.epoch * self._steps_per_epoch + batch
            self._step(augmented(_pixels(images[chosen]), self._recipe, generator), labels[chosen], step)
            progress(step + 1, self._recipe.epochs * self._steps_per_epoch)
        self.epoch += 1
        self.history.append(self.accuracy(self._splits.validation))
        self.seconds += time.monotonic() - begun
        return self.history[-1]

    def _step(self, inputs: Tensor, labels: Tensor, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = _learning_rate(self._recipe, step / (self._recipe.epochs * self._steps_per_epoch))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bfloat16()):
            scores = torch.func.functional_call(
                self._model,
                {} if self._rounded is None else self._rounded.weights(self._parameters, self._scales),
                (inputs.to(memory_format=torch.channels_last),),
            )
        loss = functional.cross_entropy(scores.float(), labels, label_smoothing=self._recipe.label_smoothing)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        # Short memory at first, so that the average does not drag the random initialization along.
        weight = 1 - min(self._recipe.averaging, (1 + step) / (10 + step))
        for name, tensor in self._tensors.items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, weight)
            else:
                self.average[name].copy_(tensor)

    def accuracy(self, dataset: Dataset) -> float:
        """Return the share of images that the averaged weights, rounded or not, classify correctly, in float32."""
        return accuracy(self._model, self.average, dataset, self._recipe.weight_bits)

    def state(self) -> dict[str, object]:
        """Return everything that `restore` needs, as tensors and numbers."""
        return {
            "epoch": self.epoch,
            "history": list(self.history),
            "seconds": self.seconds,
            "weights": self._tensors,
            "average": self.average,
            "moments": {
                name: dict(self._optimizer.state[parameter])
                for name, parameter in self._parameters.items()
                if parameter in self._optimizer.state
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self.epoch, self.history, self.seconds = state["epoch"], list(state["history"]), state["seconds"]
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        for name, parameter in self._parameters.items():
            if name in state["moments"]:
                self._optimizer.state[parameter] = {
                    key: moment.clone() for key, moment in state["moments"][name].items()
                }


def _begin_with(model: nn.Module, start: Checkpoint, images: Tensor) -> None:
    """Give ``model`` the weights of ``start``, and thresholds that suit them where ``start`` has none."""
    missing, unexpected = model.load_state_dict(start.state, strict=False)
    if unexpected:
        raise UsageError(
            f"--from: the CNN has activations of {start.qcfs_levels} levels; go on with --qcfs, or from one with ReLU."
        )
    if missing:
        plain = build_model(start.architecture, start.input_shape, len(start.classes))
        plain.load_state_dict(start.state)
        set_thresholds(model, plain, images)


def _origin(start: Checkpoint) -> dict[str, Json]:
    return {
        "sha256": checkpoint.digest("", start.state),
        "seed": start.seed,
        "validation_accuracy": start.validation_accuracy,
        "test_accuracy": start.test_accuracy,
    }


def _restore(training: _Training, path: Path, run: dict[str, Json]) -> None:
    """Set ``training`` to the state in ``path``, which must belong to ``run``."""
    if not path.exists():
        raise UsageError(f"{path}: there is no interrupted training to resume. Train without --resume.")
    state = read_pt(path)
    if not isinstance(state, dict) or not run.keys() <= state.keys():
        raise CheckpointError(f"{path}: not the state of a training. Delete it and train without --resume.")
    for name, value in run.items():
        if state[name] != value:
            raise CheckpointError(
                f"{path}: belongs to another training: its {name} is {state[name]!r}, asked for is {value!r}. "
                "Resume with the same options, or train without --resume to start anew."
            )
    try:
        training.restore(state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not the state of a {run['architecture']} in training ({error}). "
            "Delete it and train without --resume."
        ) from error


def _drop_channels(model: nn.Module, probability: float, generator: torch.Generator) -> None:
    """Add spatial dropout behind the activation of each convolution, active in training mode only.

    Its random numbers come from ``generator``, in place of torch's global one as with `torch.nn.Dropout2d`. Before or
    behind the pooling makes no difference: a whole channel is 0.
    """

    def drop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not module.training:
            return output
        kept = torch.rand((*output.shape[:2], 1, 1), generator=generator) >= probability
        return output * (kept / (1 - probability)).to(output.dtype)

    is_convolution = False
    for module in model.children():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            is_convolution = isinstance(module, nn.Conv2d)
        elif is_convolution and isinstance(module, (nn.ReLU, Qcfs)):
            module.register_forward_hook(drop)


def _learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at ``progress`` in 0..1 of the training."""
    if recipe.schedule == "step":
        return recipe.learning_rate / (_STEP_DIVISOR if progress >= recipe.step_at else 1)
    return _one_cycle(progress) * recipe.learning_rate


def _one_cycle(progress: float) -> float:
    """Return the learning rate as a share of its peak, at ``progress`` in 0..1 of the training.

    From 1/25 up to 1 in the first quarter, then down to 1/10,000, both along half a cosine (Smith & Topin 2019).
    """
    if progress < _WARM_UP:
        start, end, share = 1 / _START_DIVISOR, 1.0, progress / _WARM_UP
    else:
        start, end, share = 1.0, 1 / _END_DIVISOR, (progress - _WARM_UP) / (1 - _WARM_UP)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _pixels(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255
