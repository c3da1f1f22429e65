"""`loihi-convert train`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, flagged, log, on_interrupt, say_json
from loihi_convert.cli.flags import option_words
from loihi_convert.cli.images import DataRequest
from loihi_convert.cli.options import DATA, CnnOptions
from loihi_convert.cli.wrong_files import require_cnn
from loihi_convert.cnn.recipe import TrainOptions
from loihi_convert.errors import UsageError
from loihi_convert.ground.options import Flag

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.cnn.design import Design, Teacher
    from loihi_convert.data import ClassMap, DataSplits
    from loihi_convert.ground.normalization import Normalization
    from loihi_convert.metrics.own_accuracy import OwnAccuracy


def train(
    ctx: typer.Context,
    *,
    images: DataRequest,
    output: options.Output = Path("model.pt"),
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    cnn: Annotated[CnnOptions, Flag(only=("arch", "mean", "std", "input_shape"))],
    validation: Annotated[Path | None, Flag(panel=DATA)] = None,
    chosen: TrainOptions,
    resume: Annotated[bool, Flag(panel="Training")] = False,
    start: Annotated[Path | None, Flag("FILE", "--from", "Training")] = None,
    teacher: Annotated[Path | None, Flag("FILE", panel="Training")] = None,
) -> None:
    """Train a CNN that converts well, or fine-tune your own for few time steps; write it as model.pt.

    Parameters
    ----------
    data
        Data set (digits, mnist, fashion-mnist, cifar10), a folder of images, or an .npz file. Default: digits, or the
        benchmark set of `start`.
    output
        Checkpoint to write, .pt or .safetensors.
    mean
        Normalization of the input, (pixel/255 - mean) / std: one number, or one per channel. Default: that of `start`,
        or pixel/255 as it is.
    validation
        Validation images for your own images: a folder or an .npz file. Default: a tenth of `data`.
    resume
        Continue an interrupted training.
    start
        Weights to fine-tune, at a small learning rate: a checkpoint of `train` or, with `arch`, your own.
    teacher
        Also learn the scores of this trained CNN (distillation), usually the one before fine-tuning: a checkpoint of
        `train` or, with `arch`, your own.
    """
    for file in (start, teacher):
        if file is not None:
            require_cnn(file)
    options.require_data(images.data)
    arch, normalization = cnn.arch, cnn.normalization
    if arch is None and normalization is not None:
        raise UsageError("given without `arch`", where="mean", expected="is for your own CNN")
    if arch is not None and chosen.architecture is not None:
        raise UsageError("given with `arch`", where="architecture", expected="names a built-in CNN", hint="Omit one.")
    from loihi_convert.batch.computation import duration
    from loihi_convert.cnn.checkpoint import load_if_ours
    from loihi_convert.cnn.design import built_in
    from loihi_convert.cnn.recipe import chosen_architecture, chosen_recipe
    from loihi_convert.cnn.training import require_free, resume_path, train_design
    from loihi_convert.ground.files import refuse_to_replace
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.pipeline.before_training import accuracy_before, accuracy_of_teacher
    from loihi_convert.pipeline.opening import benchmark_of

    for file in (start, teacher):
        if file is not None:
            refuse_to_replace(file, output)
    require_free(output, resume=resume, overwrite=overwrite)
    begun = None if start is None or arch is not None else _started(start)
    recorded = begun if arch is None or start is None else load_if_ours(start)
    named_data = images.data or ("digits" if start is None or recorded is None else benchmark_of(start, recorded))
    # Before own images are read.
    chosen_name = None if arch is not None else chosen_architecture(named_data, chosen, begun)
    splits = _images(
        named_data,
        images.data_root,
        images.class_map,
        cnn.input_shape,
        validation,
        recorded.classes if recorded else (),
    )
    if arch is not None:
        design = _own(arch, start, splits, chosen, normalization)
    else:
        assert chosen_name is not None
        design = built_in(chosen_name, splits, chosen.qcfs_levels, begun, timesteps=chosen.timesteps)
    before = accuracy_before(design, splits)
    if before is not None:
        _say(before)
    if teacher is not None:
        design = replace(design, teacher=_teacher(teacher, arch, splits, design))
        _say(accuracy_of_teacher(design, splits, before))
    used = chosen_recipe(splits, design.name, chosen, is_fine_tuning=design.start is not None)
    log(f"{design.name} on {splits.name}: {used.words}")
    state, began = resume_path(output), time.monotonic()
    on_interrupt(lambda: f"{state} keeps the finished epochs; continue with --resume" if state.exists() else "")
    # What the user's code prints is not output of the command.
    with progress_bar(f"training {design.name} on {splits.name}") as progress, redirect_stdout(sys.stderr):
        trained = train_design(
            design,
            splits,
            used,
            chosen,
            output,
            resume=resume,
            progress=progress,
            on_epoch=_epoch_line(used.epochs),
        )
    log(f"trained in {duration(time.monotonic() - began)}")
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
        given = {
            "-T": trained.spiking_timesteps,
            "--weight-bits": trained.weight_bits,
            "--arch": arch,
            "--data": None if trained.is_benchmark else named_data,
            "--data-root": images.data_root,
            "--class-map": ctx.params["class_map"],
            # Other checkpoints record it.
            "--input-shape": None if arch is None else ctx.params["input_shape"],
        }
        echo(f"next: {shlex.join(['loihi-convert', 'export', str(output), *option_words(given)])}")


def trained_sentence(output: Path, checkpoint: Checkpoint) -> str:
    """Return a sentence on the trained network, its accuracy, and its file."""
    figures = ", ".join(f"{name} {100 * share:.2f} %" for name, share in checkpoint.spiking_accuracy.items())
    steps = checkpoint.spiking_timesteps
    spiking = f"; as a spiking network after {steps} step{'s' * (steps != 1)}: {figures}" if figures else ""
    return f"wrote {output}: {checkpoint.architecture}, seed {checkpoint.seed}, {checkpoint.accuracies}{spiking}"


def _own(
    arch: str, start: Path | None, splits: DataSplits, chosen: TrainOptions, normalization: Normalization | None
) -> Design:
    """Return the design of the user's own CNN."""
    from loihi_convert.pipeline.before_training import require_same_training
    from loihi_convert.reading.own_cnn import own_design

    design = own_design(
        arch,
        start,
        splits,
        normalization=normalization,
        qcfs_levels=chosen.qcfs_levels,
        timesteps=chosen.timesteps,
    )
    require_same_training(design, splits)
    return design


def _teacher(path: Path, arch: str | None, splits: DataSplits, design: Design) -> Teacher:
    """Return the CNN in the file ``path``, of this package or of ``arch``, as the teacher of ``design``."""
    from loihi_convert.cnn.checkpoint import load_if_ours
    from loihi_convert.cnn.design import built_in_teacher
    from loihi_convert.reading.own_cnn import own_teacher

    trained = load_if_ours(path)
    if arch is not None and (trained is None or trained.is_own):
        return own_teacher(arch, path, splits, design)
    if trained is None or trained.is_own:
        raise UsageError(
            "does not hold a CNN that `train` builds",
            where=path,
            hint="A built-in CNN is taught by a built-in one; in Python, `lc.fine_tune` takes any module as `teacher`.",
        )
    return built_in_teacher(trained, splits, design.classes)


def _say(found: OwnAccuracy) -> None:
    log(f"warning: {flagged(found.warning, 'train')}" if found.warning else found.sentence)


def _images(
    data: str,
    root: Path | None,
    class_map: ClassMap | None,
    input_shape: tuple[int, int, int] | None,
    validation: Path | None,
    classes: tuple[str, ...],
) -> DataSplits:
    """Return the training and validation images; ``classes`` are those of the CNN, if known."""
    from loihi_convert.data import DATASETS, load_data, split_for_training

    its_map = None
    if validation is not None:
        class_map, its_map = _part(class_map, data, validation), _part(class_map, validation, data)
    splits = load_data(data, root, classes=classes, class_map=class_map, input_shape=input_shape)
    for note in splits.notes:
        log(note)
    if data in DATASETS:
        if validation is not None:
            raise UsageError(
                f"given for {data}", where="validation", expected="is for your own images", hint="Omit it."
            )
        return splits
    if validation is None:
        return split_for_training(splits)
    held_out = load_data(validation, root, classes=splits.classes, class_map=its_map, input_shape=splits.input_shape)
    for note in held_out.notes:
        log(f"validation: {note}")
    if shared := held_out.test.count_among(splits.test.digests):
        log(
            f"{shared} of the {len(held_out.test)} validation images are also training images; the validation accuracy "
            "may be too high"
        )
    return split_for_training(splits, held_out.test)


def _part(class_map: ClassMap | None, own: str | Path, other: str | Path) -> ClassMap | None:
    """Return ``class_map`` without the folders that only ``other`` has; None if ``own`` needs none."""
    folders, others = (next(os.walk(path), ("", [], []))[1] for path in (own, other))
    if not folders:
        # Refused if it is for neither.
        return None if others else class_map
    if class_map is None or isinstance(class_map, str):
        return class_map
    return {name: wanted for name, wanted in class_map.items() if name in folders or name not in others} or None


def _epoch_line(epochs: int) -> Callable[[int, float], None] | None:
    """Return a function that logs a line after each epoch where stderr is not a terminal, which has a bar."""
    if sys.stderr is None or sys.stderr.isatty():
        return None
    begun = time.monotonic()
    first = 0

    def say(epoch: int, accuracy: float) -> None:
        nonlocal first
        first = first or epoch
        seconds = time.monotonic() - begun
        left = seconds / (epoch - first + 1) * (epochs - epoch)
        if epoch == epochs:
            # A large network takes minutes for it.
            rest = "; measuring the accuracy of the stored weights"
        else:
            rest = f", about {left:.0f} s left" if left >= 1 else ""
        log(f"epoch {epoch} of {epochs}: validation accuracy {100 * accuracy:.2f} %, {seconds:.0f} s{rest}")

    return say


def _started(path: Path) -> Checkpoint:
    """Return the CNN to continue training; it must be a built-in one."""
    from loihi_convert.cnn.checkpoint import load_if_ours

    found = load_if_ours(path)
    if found is None or found.is_own:
        what = "was not written by `loihi-convert train`" if found is None else "holds your own CNN"
        example = "package.module:factory" if found is None else found.architecture
        raise UsageError(what, where=path, hint=f"Name the code that builds its CNN: `arch`, such as {example}.")
    return found
