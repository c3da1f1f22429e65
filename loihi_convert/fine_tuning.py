"""Fine-tuning of a CNN for few time steps: `fine_tune`, and what is known of a CNN before it is trained further."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from loihi_convert.cnn.checkpoint import digest
from loihi_convert.cnn.design import Design
from loihi_convert.cnn.qcfs import MIN_THRESHOLD, Qcfs
from loihi_convert.cnn.recipe import Recipe, TrainOptions, chosen_recipe
from loihi_convert.cnn.trainer import accuracy, spiking_accuracy
from loihi_convert.cnn.training import require_free, train_design
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.data import as_dataset, split_for_training
from loihi_convert.data.dataset import Dataset, DataSplits
from loihi_convert.data.in_memory import Images, Labels, as_input_shape
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import MAX_LEVELS, Device
from loihi_convert.ground.devices import AnyDevice, chosen_device
from loihi_convert.ground.files import as_path
from loihi_convert.ground.normalization import channel_normalization, require_both
from loihi_convert.ground.progress import progress_bar, tell
from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit, own_accuracy
from loihi_convert.pipeline.converting import COMPARED, require_same_outputs
from loihi_convert.reading.own_cnn import copies_of, design_of, require_training, teacher_of
from loihi_convert.reading.source import Source
from loihi_convert.reading.users_code import article, named, unwrapped


def fine_tune(
    model: nn.Module,
    images: Images,
    labels: Labels | None = None,
    *,
    qcfs_levels: int | None = None,
    timesteps: int | None = None,
    teacher: nn.Module | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    validation: tuple[Images, Labels] | Images | None = None,
    input_shape: Shape | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: AnyDevice = "auto",
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> nn.Module:
    """Return a copy of ``model``, trained further so that it loses less when converted for few time steps.

    With ``qcfs_levels``, every ReLU becomes a step function with L levels and a trained threshold (`cnn.qcfs.Qcfs`),
    which the spikes of L time steps can represent. Choose L near the T that you will convert for. For the last points
    of accuracy, call it again with ``timesteps``: this trains the spiking network itself (`cnn.qcfs.SpikingCnn`), and
    each step takes about T times as long.

    The accuracy on validation images is shown before and after, on stderr, also that of the spiking network if that is
    trained. A Python warning is given if that of
    ``model`` is implausible, for example because ``mean`` and ``std`` were forgotten.

    Parameters
    ----------
    model
        A trained `torch.nn.Module`; for ``timesteps``, one that this function returned. It is not changed. All weights
        of the copy are trained, also those that do not require a gradient here.
    images
        Training images, not normalized, in any format that `convert` accepts.
    labels
        The class of each image, from 0; a DataLoader may supply them.
    qcfs_levels
        L, in 1..256.
    timesteps
        T, in 1..256.
    teacher
        A trained CNN for the same images and classes whose scores are learned, too (distillation): usually the one
        before fine-tuning. It may have layers that do not convert. It is not changed.
    mean, std
        If ``model`` was trained on ``(x - mean) / std`` with x in 0..1: one number, or one per channel; both or none.
    validation
        ``(images, labels)``, or a Dataset or DataLoader of both, evaluated after each epoch; by default a tenth of
        ``images``, not trained on.
    input_shape
        For signals: ``(C, L)``, as in `convert`.
    epochs
        By default about 3,000 training steps; 500 with ``timesteps``.
    learning_rate
        The largest learning rate, above 0; by default that of ``recipe``, 0.001.
    recipe
        All other hyperparameters, such as augmentation, which is off by default.
    seed
        Seed of image order and augmentation.
    device
        Where to train: ``"cpu"``, ``"cuda"``, ``"auto"`` (a GPU if torch finds one), or a `torch.device`.
    output
        A ``.pt`` or ``.safetensors`` file to write the CNN to, with its thresholds, ``mean`` and ``std``. `convert`
        takes its path with ``arch``. Finished epochs are kept in ``<output>.resume.pt`` until it is written.
    resume
        Continue the interrupted training of ``output``, with the same images in the same order: a DataLoader must have
        ``shuffle=False`` and no random transforms.
    overwrite
        Replace ``output``, or start its interrupted training over.

    Returns
    -------
    nn.Module
        In eval mode, on the CPU. It takes the same inputs as ``model``; pass it to `convert` with the same ``mean`` and
        ``std``. Its ``validation_accuracy`` is that of its step functions, 0..1, and with ``timesteps`` its
        ``spiking_accuracy`` that of the spiking network.

    Raises
    ------
    UsageError
        If neither ``qcfs_levels`` nor ``timesteps`` is given, or parameters contradict each other or the model.
    UnsupportedModelError
        If a part of ``model`` has no spiking equivalent.
    InputError
        If it does not accept such images, or these have no labels, or ``output`` exists or cannot be written.
    """
    if not isinstance(model, nn.Module):
        expected = "must be a torch.nn.Module; `loihi-convert train --from` takes a file"
        raise UsageError(f"found {article(model)}", where="model", expected=expected)
    if teacher is not None and not isinstance(teacher, nn.Module):
        raise UsageError(f"found {article(teacher)}", where="teacher", expected="must be a torch.nn.Module")
    if output is None and resume:
        raise UsageError("given", where="resume", expected="needs `output`, the file of the interrupted training")
    file = None if output is None else as_path(output, "output")
    if file is not None:
        require_free(file, resume=resume, overwrite=overwrite)
    if timesteps is None and isinstance(recipe, Recipe):
        timesteps = recipe.timesteps
    chosen = TrainOptions(
        recipe=recipe or "best",
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        qcfs_levels=qcfs_levels,
        timesteps=timesteps,
    )
    levels, timesteps = chosen.qcfs_levels, chosen.timesteps
    if levels is None and timesteps is None:
        raise UsageError("not given", where="qcfs_levels", expected="`qcfs_levels` or `timesteps` must be given")
    if levels is None and not isinstance(model, WithQcfs):
        expected = "`timesteps` takes what `fine_tune` with `qcfs_levels` returned"
        raise UsageError("found a CNN without QCFS activations", where="model", expected=expected)
    require_both(mean, std)
    shape = None if input_shape is None else as_input_shape(input_shape)
    everything = as_dataset(images, labels, input_shape=shape)
    held_out = None if validation is None else _held_out(validation, everything.images.shape[1:])
    unsplit = DataSplits("your images", (), everything, everything[:0], everything, everything)
    splits = split_for_training(unsplit, held_out)
    made = copies_of(model)
    design = design_of(
        made,
        named(type(unwrapped(model.cnn if isinstance(model, WithQcfs) else model))),
        splits,
        options=chosen,
        normalization=channel_normalization(mean, std, splits.input_shape[0]),
        start=_record_of(made()),
    )
    require_same_training(design, splits)
    if teacher is not None:
        taught = teacher_of(copies_of(teacher)(), named(type(unwrapped(teacher))), splits, design)
        design = replace(design, teacher=taught)
    used = chosen_recipe(splits, design.name, chosen, is_fine_tuning=True)
    before = accuracy_before(design, splits)
    for warning in filter(None, (everything.rounding_note, "" if before is None else before.warning)):
        warnings.warn(warning, stacklevel=2)
    if design.teacher is not None:
        of_teacher = accuracy_of_teacher(design, splits, before)
        if of_teacher.warning:
            warnings.warn(of_teacher.warning, stacklevel=2)
        else:
            tell(of_teacher.sentence)
    begun_spiking = None if timesteps is None else spiking_accuracy(design, splits.validation, timesteps)
    with progress_bar(f"training {design.name}"):
        trained = train_design(
            design,
            splits,
            used,
            replace(chosen, device=cast("Device", chosen_device(device))),
            file,
            resume=resume,
            overwrite=overwrite,
        )
    ended_spiking = trained.spiking_accuracy.get("validation")
    first = "" if before is None else f"{before.sentence}{_as_spiking(timesteps, begun_spiking)}; "
    last = f"after training: validation accuracy {100 * trained.validation_accuracy:.2f} %"
    tell(f"{first}{last}{_as_spiking(timesteps, ended_spiking)}")
    # Tensors made in inference mode could not be trained again.
    with torch.inference_mode(False):
        found, begun = design.build(), made()
    found.load_state_dict(trained.state)
    assert isinstance(found, WithQcfs)
    found.timesteps, found.validation_accuracy = timesteps, trained.validation_accuracy
    found.spiking_accuracy = ended_spiking
    begun.eval()
    found.before = begun.before if isinstance(begun, WithQcfs) else (begun,)
    return found.eval()


def _as_spiking(timesteps: int | None, accuracy: float | None) -> str:
    """A part of a sentence with the ``accuracy`` of the spiking network, if it is known."""
    if accuracy is None:
        return ""
    return f", as a spiking network after {timesteps} step{'s' * (timesteps != 1)} {100 * accuracy:.2f} %"


def _record_of(model: nn.Module) -> dict[str, JsonValue]:
    """Return the record of the CNN that a fine-tuning begins with, and of the one before it, as `design.record_of`."""
    record: dict[str, JsonValue] = {"sha256": digest(model.state_dict())}
    if isinstance(model, WithQcfs):
        record["qcfs_levels"] = model.levels
        for before in model.before:
            record["start"] = _record_of(before)
    return record


def _held_out(validation: tuple[Images, Labels] | Images, input_shape: tuple[int, int, int]) -> Dataset:
    """Return validation images with their labels: a pair, or a container of both."""
    if isinstance(validation, tuple) and len(validation) == 2:
        images, labels = cast("tuple[Images, Labels]", validation)
        return as_dataset(images, labels, input_shape=input_shape)
    return as_dataset(validation, input_shape=input_shape)


_FINE_QCFS_TOLERANCE: Final = 0.02
_LEAST_THRESHOLD: Final = 10 * MIN_THRESHOLD
"""Smaller than it, a layer's largest threshold is near the bound of all, and its weights are as small."""
_WORSE: Final = 2
"""Standard errors by which an accuracy of one half may be lower by chance, the largest of all."""


def require_same_training(design: Design, splits: DataSplits) -> None:
    """Raise an error if the QCFS network that ``design`` trains would be read as another one, before it is trained.

    Its activations get so many levels that a rounding error hardly moves an output.
    """
    require_training(design, splits)
    if design.qcfs_levels is None:
        return
    model = design.build()
    for number, module in enumerate(module for module in model.modules() if isinstance(module, Qcfs)):
        _require_trainable(module, number, design.name)
        module.levels = MAX_LEVELS
    source = Source.from_module(model, splits.input_shape, normalization=design.normalization)
    require_same_outputs(source, np.asarray(splits.train.images[:COMPARED]), qcfs_tolerance=_FINE_QCFS_TOLERANCE)


def _require_trainable(activation: Qcfs, number: int, name: str) -> None:
    """Raise a `UsageError` if all thresholds are so small that a step of the optimizer is larger."""
    largest = float(activation.threshold.detach().max())
    if largest < _LEAST_THRESHOLD:
        raise UsageError(
            f"found activations of at most about {largest:.2g} after ReLU {number + 1}",
            where=name,
            expected=f"must be at least about {_LEAST_THRESHOLD:g}, which a training step changes little",
        )


def accuracy_before(design: Design, splits: DataSplits) -> OwnAccuracy | None:
    """Return how good the CNN that a training of ``design`` begins with is on validation images; None if untrained.

    A forgotten normalization would be trained into the CNN.
    """
    if design.trained is None:
        return None
    source = Source.from_module(
        design.trained(), splits.input_shape, normalization=design.normalization, data=splits.name
    )
    found = own_accuracy(source, splits.validation, "validation images", data=splits.name)
    assert not isinstance(found, OwnFit)
    return found


class TeacherAccuracy(OwnAccuracy):
    """The accuracy of a teacher."""

    subject = "the teacher"


def accuracy_of_teacher(design: Design, splits: DataSplits, cnn: OwnAccuracy | None) -> TeacherAccuracy:
    """Return how good the teacher of ``design`` is on all validation images, with a warning if ``cnn`` is better.

    An untrained teacher, or one that needs another normalization, would teach errors.
    """
    assert design.teacher is not None
    network = design.teacher.network
    found = accuracy(network, network.state_dict(), splits.validation)
    of_teacher = TeacherAccuracy(found, len(splits.validation), "validation images")
    if cnn is None or found >= cnn.accuracy - _WORSE * (0.25 / cnn.image_count) ** 0.5:
        return of_teacher
    reason = f"the CNN itself {100 * cnn.accuracy:.2f} %. Has it been trained, on images with the same mean and std?"
    return replace(of_teacher, warning=f"{of_teacher.sentence}, {reason}")
