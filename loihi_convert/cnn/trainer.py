"""A training in progress, epoch by epoch; run by `training.train_design`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from loihi_convert.cnn.augmentation import augmented
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import Design, Teacher, pixels, recent, teachers_loss
from loihi_convert.cnn.models import ARCHITECTURES, RoundedWeights, multiply_adds, rounded_state
from loihi_convert.cnn.muon import Muon
from loihi_convert.cnn.qcfs import Qcfs, SpikingCnn
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import WeightDtype
from loihi_convert.ground.devices import has_fast_bfloat16, thread_count
from loihi_convert.ground.progress import current_progress
from loihi_convert.ir.network import classes_of

_WARM_UP: Final = 0.25
_START_DIVISOR: Final = 25
_END_DIVISOR: Final = 10_000
_STEP_DIVISOR: Final = 10
_MOMENTUM: Final = 0.9

# Training images whose outputs show whether the CNN's code has changed, and the mean difference that is a rounding
# error, of which one may move a QCFS activation by a level.
_SHOWN: Final = 8
_ROUNDING: Final = 0.01

_BATCH: Final = 1_000
_PIXELS: Final = _BATCH * 3 * 32 * 32
"""Most pixels of a batch whose accuracy is measured: larger images than those of CIFAR-10 need too much memory."""
_SPIKING: Final = 5
"""A batch of a spiking network is smaller by this factor."""


class Training:
    """A training in progress: weights, their average, the optimizer's state, the number of finished epochs."""

    def __init__(self, design: Design, splits: DataSplits, recipe: Recipe, seed: int, device: str = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` also seeds the generators of GPUs, which are not restored.
            torch.default_generator.manual_seed(seed)
            self._model = design.network().to(device)
        # channels_last is 30 % faster on the CPU, but in the user's code `view` may need another order.
        self._format = torch.channels_last if design.name in ARCHITECTURES else torch.contiguous_format
        self._model = self._model.to(memory_format=self._format)  # type: ignore[call-overload]
        self.threads = training_threads(self._model, splits.input_shape, recipe.batch_size)
        # The CNN as it is built; that of a training through spikes is changed.
        self._own = self._model if recipe.timesteps is None else design.network().to(device)
        self._spiking = None if recipe.timesteps is None else SpikingCnn(self._model, recipe.timesteps)
        self._parameters = dict(self._model.named_parameters())
        self._optimizers = _optimizers(recipe, self._parameters)
        self._rounded = None if recipe.weight_bits is None else RoundedWeights(self._model, recipe.weight_bits)
        self._scales: dict[str, Tensor] = {}
        self._generator = torch.Generator()
        if recipe.dropout:
            drop_channels(self._model, recipe.dropout, self._generator)
        self._teacher = design.teacher
        if self._teacher is not None:
            self._teacher.network.to(device)
        self._splits, self._recipe, self._seed = splits, recipe, seed
        self._design, self._device = design, device
        # bfloat16 rounds a probability above 0.998 to 1, from which no score follows.
        self._is_bfloat16 = uses_bfloat16(device) and not design.ending
        self._steps_per_epoch = math.ceil(len(splits.train) / recipe.batch_size)
        # Parameters and batch-norm statistics, which share memory with the model.
        self._tensors: dict[str, Tensor] = self._model.state_dict()
        self.average = {name: tensor.clone() for name, tensor in self._tensors.items()}
        self.epoch = 0
        self.history: list[float] = []

    @property
    def is_finished(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.epoch >= self._recipe.epochs

    def run_epoch(self) -> float:
        """Train on each training image once; return the validation accuracy of the averaged weights.

        With a recipe for ``timesteps``, it is that of the spiking network.
        """
        progress, key = current_progress(), (self._seed << 20) + self.epoch
        generator = self._generator.manual_seed(key)
        order = torch.randperm(len(self._splits.train), generator=generator)
        images, labels = self._splits.train.images, torch.from_numpy(self._splits.train.known_labels.copy())
        # Batch norm of the spiking network is what it will be in the exported file: constant.
        self._model.train(self._spiking is None)
        if self._rounded is not None:
            # Once per epoch, as they hardly change.
            self._scales = self._rounded.scales(self._parameters)
        devices = [] if self._device == "cpu" else [torch.cuda.current_device()]
        with torch.random.fork_rng(devices=devices):
            # For dropout in the user's code. The key differs from that of the generator.
            torch.default_generator.manual_seed(-1 - key)
            if devices:
                torch.cuda.manual_seed(-1 - key)
            for batch, chosen in enumerate(torch.split(order, self._recipe.batch_size)):
                if len(chosen) == 1 < min(self._recipe.batch_size, len(order)):
                    # A remainder: batch norm after a dense layer needs two images.
                    continue
                step = self.epoch * self._steps_per_epoch + batch
                # Augmented on the CPU, so that a seed gives the same images on every device.
                inputs = augmented(pixels(images[chosen.numpy()]), self._recipe, generator)
                inputs = inputs.to(self._device, memory_format=self._format)
                self._step(inputs, labels[chosen].to(self._device), step)
                progress(step + 1, self._recipe.epochs * self._steps_per_epoch)
        self.epoch += 1
        held_out, bits = self._splits.validation, self._recipe.weight_bits
        self.history.append(accuracy(self._model, self.average, held_out, bits, spiking=self._spiking))
        return self.history[-1]

    def _step(self, inputs: Tensor, labels: Tensor, step: int) -> None:
        rate = learning_rate(self._recipe, step / (self._recipe.epochs * self._steps_per_epoch))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        scores = self._scores(inputs)
        loss = _loss(scores, labels, self._recipe.label_smoothing)
        if self._teacher is not None:
            loss = teachers_loss(scores, self._taught(inputs, self._teacher), loss)
        self._model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        # A short memory at first, so that the average forgets the random initialization.
        weight = 1 - min(self._recipe.averaging, (1 + step) / (10 + step))
        for name, tensor in self._tensors.items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, weight)
            else:
                self.average[name].copy_(tensor)

    def _scores(self, inputs: Tensor) -> Tensor:
        rounded = {} if self._rounded is None else self._rounded.weights(self._parameters, self._scales)
        with self._autocast(self._is_bfloat16):
            if self._spiking is not None:
                return self._spiking(inputs, rounded).float()
            scores: Tensor = functional_call(self._model, rounded, (inputs,))
            return scores.float()

    @torch.no_grad()
    def _taught(self, inputs: Tensor, teacher: Teacher) -> Tensor:
        with self._autocast(self._is_bfloat16 and not teacher.gives_probabilities):
            scores: Tensor = teacher.network(inputs)
            return scores.float()

    def _autocast(self, is_bfloat16: bool) -> torch.autocast:
        return torch.autocast(self._device, dtype=torch.bfloat16, enabled=is_bfloat16)

    def trained(self, stored_as: WeightDtype) -> Checkpoint:
        """Return the CNN with the averaged weights, rounded to what a file stores, and its accuracies.

        With a recipe for ``timesteps``, those of its spiking network are in the checkpoint's recipe.
        """
        design, recipe, splits = self._design, self._recipe, self._splits
        state = dict(self.average)
        if stored_as == "float16":
            state |= {name: each.half().to(each.dtype) for name, each in state.items() if each.is_floating_point()}
        parts = {"validation": splits.validation, "test": splits.test}

        def correct(spiking: SpikingCnn | None = None) -> dict[str, float]:
            bits = recipe.weight_bits
            return {
                name: accuracy(self._own if spiking is None else self._model, state, images, bits, spiking=spiking)
                for name, images in parts.items()
                if len(images)
            }

        accuracies = correct()
        spiking: dict[str, JsonValue] = {**correct(self._spiking)} if self._spiking is not None else {}
        return Checkpoint(
            architecture=design.name,
            state={name: tensor.cpu() for name, tensor in state.items()},
            data=splits.name,
            input_shape=splits.input_shape,
            classes=design.classes,
            seed=self._seed,
            validation_accuracy=accuracies["validation"],
            test_accuracy=accuracies.get("test"),
            qcfs_levels=design.qcfs_levels,
            stored_as=stored_as,
            normalization=design.normalization,
            recipe={
                **recipe.recorded(),
                **({} if design.start is None else {"start": recent(design.start)}),
                **({} if design.teacher is None else {"teacher": design.teacher.recorded}),
                "validation_accuracy_per_epoch": list(self.history),
                "torch": str(torch.__version__),
                "threads": self.threads,
                **({} if self._device == "cpu" else {"device": self._device}),
                "arithmetic": "bfloat16" if self._is_bfloat16 else "float32",
                **({"spiking_accuracy": spiking} if spiking else {}),
            },
        )

    def _outputs(self) -> Tensor:
        """The outputs of the averaged weights for the first training images, float32 ``(N, outputs)``."""
        shown = pixels(self._splits.train.images[:_SHOWN]).to(self._device)
        with torch.no_grad():
            outputs: Tensor = functional_call(self._own.eval(), _used(self._own, self.average), (shown,))
        return outputs.float().cpu()

    def computes(self, outputs: Tensor) -> bool:
        """Whether the weights have the ``outputs`` stored in their `state`, up to rounding."""
        difference = (self._outputs() - outputs).abs().mean()
        return bool(difference <= _ROUNDING * outputs.abs().mean())

    def state(self) -> dict[str, object]:
        """Return everything that `restore` needs, and outputs for `computes`, as numbers and tensors."""
        return {
            "outputs": self._outputs(),
            "epoch": self.epoch,
            "history": list(self.history),
            "weights": self._tensors,
            "average": self.average,
            "optimizers": [each.state_dict() for each in self._optimizers],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        self.epoch, self.history = state["epoch"], list(state["history"])
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        for optimizer, content in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    dataset: Dataset,
    weight_bits: int | None = None,
    *,
    spiking: SpikingCnn | None = None,
) -> float:
    """Return the share of images, 0..1, that ``model`` classifies correctly in float32 with the weights ``tensors``.

    These are all parameters and buffers by name, on the device to compute on, and are first rounded to ``weight_bits``,
    if given. ``spiking`` is the spiking form of ``model``, whose outputs are counted instead.
    """
    model.eval()
    used = dict(rounded_state(model, _used(model, tensors), weight_bits))
    device = next(iter(used.values())).device
    correct = 0
    most = min(_BATCH, _PIXELS // math.prod(dataset.images.shape[1:]))
    size = max(1, most if spiking is None else most // _SPIKING)
    for start in range(0, len(dataset), size):
        batch = dataset[start : start + size]
        inputs = pixels(batch.images).to(device)
        scores: Tensor = functional_call(model, used, (inputs,)) if spiking is None else spiking(inputs, used)
        correct += int((classes_of(scores.float().cpu().numpy()) == batch.known_labels).sum())
    return correct / len(dataset)


def spiking_accuracy(design: Design, images: Dataset, timesteps: int) -> float:
    """Return the `accuracy` of the spiking network of ``design`` after ``timesteps``, before it is trained."""
    model = design.network()
    return accuracy(model, model.state_dict(), images, spiking=SpikingCnn(model, timesteps))


def _used(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without second names, of a module that is used twice: each may be given only once."""
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if name in names}


def _optimizers(recipe: Recipe, parameters: Mapping[str, nn.Parameter]) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizer of all ``parameters``, or that of convolution weights and that of all others."""
    # Decay would pull thresholds towards 0.
    undecayed = [value for name, value in parameters.items() if name.endswith(".threshold")]
    others = [value for name, value in parameters.items() if not name.endswith(".threshold")]
    weights = [value for value in others if recipe.optimizer == "muon" and value.ndim > 2]
    groups: list[dict[str, Any]] = [
        {"params": [value for value in others if value.ndim <= 2] if weights else others},
        *([{"params": undecayed, "weight_decay": 0.0}] if undecayed else []),
    ]
    if recipe.optimizer == "sgd":
        rate, decay = recipe.learning_rate, recipe.weight_decay
        return (torch.optim.SGD(groups, lr=rate, momentum=_MOMENTUM, nesterov=True, weight_decay=decay),)
    adamw = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    return (Muon(weights, recipe.weight_decay), adamw) if weights else (adamw,)


def _loss(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross entropy; of a single output, the logit of class 1."""
    if scores.shape[1] > 1:
        return functional.cross_entropy(scores, labels, label_smoothing=label_smoothing)
    targets = labels.to(scores.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(scores[:, 0], targets)


def uses_bfloat16(device: str) -> bool:
    """Return whether training on ``device`` is faster in bfloat16: GPUs that have it, and `has_fast_bfloat16`."""
    # `is_bf16_supported` is also true for older GPUs, which emulate it.
    return torch.cuda.get_device_capability() >= (8, 0) if device == "cuda" else has_fast_bfloat16()


def training_threads(model: nn.Module, input_shape: tuple[int, int, int], batch_size: int) -> int:
    """Return the threads of a training step: one for a small network on any machine, at most torch's number."""
    return thread_count(batch_size * multiply_adds(model, input_shape), torch.get_num_threads())


def drop_channels(model: nn.Module, probability: float, generator: torch.Generator) -> None:
    """Add spatial dropout after the activation of each convolution, active only in training mode.

    Random numbers come from ``generator``; `torch.nn.Dropout2d` would use torch's global generator. The order of
    dropout and pooling does not matter, as a whole channel is 0.

    Raises
    ------
    UsageError
        If none of the model's children is the activation of a convolution, as in most CNNs of users.
    """

    def drop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # The user's code may call the same ReLU after a dense layer.
        if not module.training or output.ndim != 4:
            return output
        kept = torch.rand((*output.shape[:2], 1, 1), generator=generator, dtype=torch.float32) >= probability
        return output * (kept / (1 - probability)).to(output.device, output.dtype)

    is_convolution = is_dropped = False
    for module in model.children():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            is_convolution = isinstance(module, nn.Conv2d)
        elif is_convolution and isinstance(module, (nn.ReLU, Qcfs)):
            module.register_forward_hook(drop)
            is_dropped = True
    if not is_dropped:
        raise UsageError(
            f"found {probability:g}, and no ReLU after a convolution at the top level of the CNN",
            where="dropout",
            expected="must be 0 for this CNN",
        )


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the learning rate at ``progress`` in 0..1 of the training."""
    if recipe.schedule == "step":
        return recipe.learning_rate / (_STEP_DIVISOR if progress >= recipe.step_at else 1)
    return one_cycle(progress) * recipe.learning_rate


def one_cycle(progress: float) -> float:
    """Return the learning rate as a share of its peak, at ``progress`` in 0..1 of the training.

    From 1/25 up to 1 in the first quarter, then down to 1/10,000, both along half a cosine (Smith & Topin 2019).
    """
    if progress < _WARM_UP:
        start, end, share = 1 / _START_DIVISOR, 1.0, progress / _WARM_UP
    else:
        start, end, share = 1.0, 1 / _END_DIVISOR, (progress - _WARM_UP) / (1 - _WARM_UP)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
