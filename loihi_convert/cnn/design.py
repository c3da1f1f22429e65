"""What is trained: a built-in architecture, or the user's own CNN, with the weights that the training begins with.

Also what a CNN takes and returns: its inputs from pixels, and class scores from its outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import build_model, rounded_state
from loihi_convert.cnn.qcfs import set_thresholds
from loihi_convert.data import DataSplits
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.normalization import Normalization

FIRST_IMAGES: Final = 200
"""Training images on which the initial thresholds are set."""

_RECENT: Final = 8


@dataclass(frozen=True, eq=False)
class Design:
    """A network to train.

    Parameters
    ----------
    name
        One of `models.ARCHITECTURES`, or the user's code, ``package.module:factory``.
    build
        Returns the network with the weights to begin with; torch's random numbers may be used.
    classes
        The name of each class.
    qcfs_levels
        L of its activations, if they are `qcfs.Qcfs`.
    normalization
        What the network takes, one number per channel each; None: pixel / 255.
    image_shape
        The shape in which it takes an image, such as ``(C, L)`` of a signal; None: ``(C, H, W)``.
    start
        The record of the weights it begins with; None: random ones.
    trained
        For the user's own CNN: returns it with these weights, and the activations that it was trained with.
    ending
        The function at the end of the network, as in `ir.network.ReluNetwork`; empty: none.
    teacher
        A trained CNN whose scores it also learns; None: only labels.
    """

    name: str
    build: Callable[[], nn.Module]
    classes: tuple[str, ...]
    qcfs_levels: int | None = None
    normalization: Normalization | None = None
    image_shape: Shape | None = None
    start: dict[str, JsonValue] | None = None
    trained: Callable[[], nn.Module] | None = None
    ending: str = ""
    teacher: Teacher | None = None

    def network(self) -> nn.Module:
        """Return the result of ``build``, but from pixels / 255 ``(N, C, H, W)`` to scores ``(N, outputs)``.

        See `inputs_of` and `scores_before_ending`. Torch's random state is left as it is.
        """
        with torch.random.fork_rng(devices=[]):
            network = self.build()
        network.register_forward_pre_hook(
            lambda module, images: inputs_of(images[0], self.normalization, self.image_shape)
        )
        network.register_forward_hook(
            lambda module, images, returned: scores_before_ending(scores_of(returned), self.ending)
        )
        return network


class NoActivationsError(UsageError):
    """A spiking network is to be trained without a trained CNN with QCFS activations."""

    def __init__(self) -> None:
        super().__init__(
            "found no trained CNN with QCFS activations to start from",
            where="start",
            expected="`timesteps` fine-tunes one: train it with `qcfs_levels` first",
        )


def built_in(
    architecture: str,
    splits: DataSplits,
    qcfs_levels: int | None,
    start: Checkpoint | None,
    *,
    timesteps: int | None = None,
) -> Design:
    """Return the design of ``architecture``, one of `models.ARCHITECTURES`, to train on ``splits``.

    Parameters
    ----------
    qcfs_levels
        L of the activations `qcfs.Qcfs`; their thresholds are set on training images if ``start`` has ReLUs. None: as
        in ``start``, or ReLU.
    start
        The weights to begin with; None: random ones.
    timesteps
        T, if the spiking network is to be trained.
    """
    if timesteps is not None and (start is None or start.qcfs_levels is None):
        raise NoActivationsError
    if start is not None and (start.architecture, start.input_shape) != (architecture, splits.input_shape):
        raise UsageError(
            f"found a {start.architecture} for images {start.input_shape}",
            where="start",
            expected=f"must be a {architecture} for {splits.input_shape}",
        )
    if start is not None and qcfs_levels is None:
        qcfs_levels = start.qcfs_levels
    # Own images may have labels without names.
    named = splits.classes or (() if start is None else start.classes)
    count = len(named) or int(splits.train.known_labels.max()) + 1
    if not 2 <= count <= max(len(splits.train), len(named)):
        found, expected = f"found {count} classes in {len(splits.train)} images", "must be at least 2, numbered from 0"
        raise DataError(found, where="labels", expected=expected)
    classes = named or tuple(map(str, range(count)))
    if start is not None:
        require_classes(start, classes)
    # Fails now if the architecture is unknown, or the images do not fit.
    with torch.device("meta"):
        build_model(architecture, splits.input_shape, len(classes), qcfs_levels=qcfs_levels)

    def build() -> nn.Module:
        model = build_model(architecture, splits.input_shape, len(classes), qcfs_levels=qcfs_levels)
        if start is not None and model.load_state_dict(start.state, strict=False).missing_keys:
            # It has ReLUs.
            plain = build_model(start.architecture, start.input_shape, len(start.classes))
            plain.load_state_dict(start.state)
            first = pixels(splits.train.images[:FIRST_IMAGES])
            set_thresholds(model, plain, inputs_of(first, start.normalization, None))
        return model

    if start is None:
        return Design(architecture, build, classes, qcfs_levels)
    return Design(architecture, build, classes, qcfs_levels, start.normalization, start=record_of(start))


def built_in_teacher(trained: Checkpoint, splits: DataSplits, classes: Sequence[str]) -> Teacher:
    """Return ``trained``, a built-in CNN, as the teacher of a network with ``classes``.

    Raises
    ------
    UsageError
        If it has other classes, or takes other images.
    """
    if trained.input_shape != splits.input_shape:
        raise UsageError(
            f"found a {trained.architecture} for images {trained.input_shape}",
            where="teacher",
            expected=f"must be for {splits.input_shape}",
        )
    require_classes(trained, classes, "teacher")
    # Its classes may have other names in own images.
    named = replace(splits, classes=trained.classes)
    design = built_in(trained.architecture, named, None, trained)
    network = design.network().eval()
    network.load_state_dict(rounded_state(design.build(), network.state_dict(), trained.weight_bits))
    network.requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(network, {"architecture": trained.architecture, "sha256": checkpoint.digest(trained.state)})


def require_classes(start: Checkpoint, classes: Sequence[str], where: str = "start") -> None:
    """Raise a `UsageError` if ``classes`` are in another order than those of ``start``, or more or fewer.

    ``where`` is what ``start`` was given as.
    """
    are_named = set(classes) == set(start.classes)
    if len(classes) != len(start.classes) or (are_named and tuple(classes) != start.classes):
        raise UsageError(
            f"found a CNN with the {len(start.classes)} classes {', '.join(start.classes)}",
            where=where,
            expected=f"must have those of the images, in this order: {', '.join(classes)}",
        )


def record_of(start: Checkpoint) -> dict[str, JsonValue]:
    """Return the record of the checkpoint that a fine-tuning begins with, and of those before it."""
    earlier = start.recipe.get("start")
    return {
        "sha256": checkpoint.digest(start.state),
        "seed": start.seed,
        "validation_accuracy": start.validation_accuracy,
        "test_accuracy": start.test_accuracy,
        "qcfs_levels": start.qcfs_levels,
        **({} if earlier is None else {"start": earlier}),
    }


def recent(record: dict[str, JsonValue], count: int = _RECENT) -> dict[str, JsonValue]:
    """Return a `record_of` with at most ``count`` records, the latest: files are not nested without limit."""
    own, earlier = {key: value for key, value in record.items() if key != "start"}, record.get("start")
    return {**own, "start": recent(earlier, count - 1)} if count > 1 and isinstance(earlier, dict) else own


def inputs_of(images: Tensor, normalization: Normalization | None, image_shape: Shape | None) -> Tensor:
    """Return pixels / 255, ``(N, C, H, W)``, as a CNN takes them: normalized, and each of ``image_shape``, if any."""
    if normalization is not None:
        mean, std = (images.new_tensor(values).reshape(-1, 1, 1) for values in normalization)
        images = (images - mean) / std
    return images if image_shape is None else images.reshape(len(images), *image_shape)


def scores_before_ending(outputs: Tensor, ending: str) -> Tensor:
    """Return the scores to which ``ending`` was applied, ``(N, outputs)``, from ``(N, outputs, ...)`` or ``(N,)``.

    They are right up to a constant per image; very large ones are clipped.
    """
    outputs = outputs.reshape(len(outputs), -1)
    if ending == "softmax":
        return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
    if ending in ("sigmoid", "logsigmoid"):
        return torch.logit(outputs if ending == "sigmoid" else outputs.exp(), eps=torch.finfo(outputs.dtype).eps)
    if ending == "tanh":
        return torch.logit((outputs + 1) / 2, eps=torch.finfo(outputs.dtype).eps) / 2
    # A log-softmax only adds a constant.
    return outputs


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """Return images as float32 in 0..1."""
    # A copy, as torch warns of arrays that are read-only.
    return torch.from_numpy(np.array(images, order="C")).to(torch.float32) / 255


TEACHER_SHARE: Final = 0.9
"""Of the loss; the rest is that of the labels."""

TEMPERATURE: Final = 4.0
"""Scores are divided by it, so that unlikely classes count."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained CNN that another one imitates.

    Parameters
    ----------
    network
        From pixels / 255 ``(N, C, H, W)`` to scores ``(N, outputs)``, see `design.Design.network`.
    record
        What a checkpoint says of it: ``architecture`` and ``sha256``.
    gives_probabilities
        Whether its scores are computed from probabilities, for which bfloat16 is too coarse.
    """

    network: nn.Module
    record: dict[str, JsonValue]
    gives_probabilities: bool = False

    @property
    def recorded(self) -> dict[str, JsonValue]:
        """The record for the checkpoint of what it teaches."""
        return {**self.record, "share": TEACHER_SHARE, "temperature": TEMPERATURE}


def teachers_loss(scores: Tensor, taught: Tensor, of_labels: Tensor) -> Tensor:
    """Return the loss of ``scores`` ``(N, outputs)`` with respect to those of the teacher, and to labels.

    The first is the Kullback-Leibler divergence of the classes' probabilities at `TEMPERATURE`, times its square, which
    keeps the size of gradients.
    """
    # A single score is that of class 1, against 0.
    both = (each if each.shape[1] > 1 else torch.cat([torch.zeros_like(each), each], 1) for each in (scores, taught))
    found, wanted = (functional.log_softmax(each / TEMPERATURE, 1) for each in both)
    divergence = functional.kl_div(found, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
    return (1 - TEACHER_SHARE) * of_labels + TEACHER_SHARE * divergence


def scores_of(returned: Any) -> Any:
    """Return the class scores in a mapping, dataclass or sequence, see `scores_name`; anything else as it is."""
    name = scores_name(returned)
    return returned if name is None else _entries(returned)[name]


def scores_name(returned: Any) -> str | int | None:
    """Return the key of the class scores: the only entry that is not None, or ``logits``; None if there is none."""
    entries = _entries(returned)
    name = next(iter(entries)) if len(entries) == 1 else "logits"
    return name if isinstance(entries.get(name), Tensor) else None


def _entries(returned: Any) -> dict[str | int, Any]:
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type | Mapping):
        returned = {entry.name: getattr(returned, entry.name) for entry in dataclasses.fields(returned)}
    if isinstance(returned, list | tuple):
        # A named tuple has names.
        returned = returned._asdict() if hasattr(returned, "_asdict") else dict(enumerate(returned))
    entries = returned.items() if isinstance(returned, Mapping) else ()
    return {name: value for name, value in entries if value is not None}
