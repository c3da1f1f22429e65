"""`loihi-convert train`."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, flagged, log, on_interrupt, say_json
from loihi_convert.cli.options import option_words, require_cnn
from loihi_convert.cnn.recipe import TrainOptions
from loihi_convert.errors import UsageError
from loihi_convert.ground.options import Flag
from loihi_convert.pipeline.options import DATA, CnnOptions, DataRequest, FolderClasses

if TYPE_CHECKING:
    from loihi_convert.cnn.checkpoint import Checkpoint
    from loihi_convert.cnn.design import Design, Teacher
    from loihi_convert.data import DataSplits
    from loihi_convert.metrics.own_accuracy import OwnAccuracy


def train(
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
        Data set (a name of `loihi-convert data`, such as mnist), a folder of images, or an .npz file. Default: digits,
        or the benchmark set of `start`.
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
    inputs = [file for file in (start, teacher) if file is not None]
    for file in inputs:
        require_cnn(file)
    options.require_data(images.data)
    if cnn.arch is None and cnn.normalization is not None:
        raise UsageError("given without `arch`", where="mean", expected="is for your own CNN")
    if cnn.arch is not None and chosen.architecture is not None:
        raise UsageError("given with `arch`", where="architecture", expected="names a built-in CNN")
    from loihi_convert.batch.computation import duration
    from loihi_convert.cnn.checkpoint import load_if_ours
    from loihi_convert.cnn.recipe import chosen_architecture, chosen_recipe
    from loihi_convert.cnn.training import require_free, resume_path, train_design
    from loihi_convert.fine_tuning import accuracy_before, accuracy_of_teacher
    from loihi_convert.ground.files import refuse_to_replace
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.pipeline.opening import benchmark_of

    for file in inputs:
        refuse_to_replace(file, output)
    require_free(output, resume=resume, overwrite=overwrite)
    recorded = None if start is None else load_if_ours(start)
    if start is not None and cnn.arch is None and (recorded is None or recorded.is_own):
        what = "was not written by `loihi-convert train`" if recorded is None else "holds your own CNN"
        example = "package.module:factory" if recorded is None else recorded.architecture
        expected = f"needs `arch`, the code that builds its CNN, such as {example}"
        raise UsageError(what, where=start, expected=expected)
    data = images.data or ("digits" if start is None or recorded is None else benchmark_of(start, recorded))
    # Before own images are read.
    built_in = None if cnn.arch is not None else chosen_architecture(data, chosen, recorded)
    known = recorded.classes if recorded else ()
    splits = _splits(replace(images, data=data), validation, cnn.input_shape, known)
    design = _design(cnn, built_in, splits, chosen, start, recorded)
    if (before := accuracy_before(design, splits)) is not None:
        _say(before)
    if teacher is not None:
        design = replace(design, teacher=_teacher(teacher, cnn.arch, splits, design))
        _say(accuracy_of_teacher(design, splits, before))
    used = chosen_recipe(splits, design.name, chosen, is_fine_tuning=design.start is not None)
    log(f"{design.name} on {splits.name}: {used.words}")
    state, began = resume_path(output), time.monotonic()
    on_interrupt(lambda: f"{state} keeps the finished epochs; continue with --resume" if state.exists() else "")

    def say_epoch(epoch: int, accuracy: float) -> None:
        log(f"epoch {epoch} of {used.epochs}: validation accuracy {100 * accuracy:.2f} %")

    # What the user's code prints is not output of the command.
    with progress_bar(f"training {design.name} on {splits.name}"), redirect_stdout(sys.stderr):
        trained = train_design(
            design,
            splits,
            used,
            chosen,
            output,
            resume=resume,
            overwrite=overwrite,
            # On a terminal, the bar shows how far it is.
            on_epoch=None if sys.stderr is None or sys.stderr.isatty() else say_epoch,
        )
    log(f"trained in {duration(time.monotonic() - began)}")
    if as_json:
        names = ("architecture", "data", "seed", "recipe", "qcfs_levels", "stored_as", "validation_accuracy")
        figures = {name: getattr(trained, name) for name in (*names, "test_accuracy")}
        say_json({"file": str(output), **figures})
        return
    echo(trained_sentence(output, trained))
    given = {
        "-T": trained.spiking_timesteps,
        "--weight-bits": trained.weight_bits,
        "--arch": cnn.arch,
        "--data": None if trained.is_benchmark else data,
        "--data-root": images.data_root,
        "--class-map": images.class_map,
        # Other checkpoints record it.
        "--input-shape": None if cnn.arch is None else cnn.input_shape,
    }
    echo(f"next: {shlex.join(['loihi-convert', 'export', str(output), *option_words(given)])}")


def trained_sentence(output: Path, checkpoint: Checkpoint) -> str:
    """Return a sentence on the trained network, its accuracy, and its file."""
    figures = ", ".join(f"{name} {100 * share:.2f} %" for name, share in checkpoint.spiking_accuracy.items())
    steps = checkpoint.spiking_timesteps
    spiking = f"; as a spiking network after {steps} step{'s' * (steps != 1)}: {figures}" if figures else ""
    return f"wrote {output}: {checkpoint.architecture}, seed {checkpoint.seed}, {checkpoint.accuracies}{spiking}"


def _design(
    cnn: CnnOptions,
    built_in: str | None,
    splits: DataSplits,
    chosen: TrainOptions,
    start: Path | None,
    recorded: Checkpoint | None,
) -> Design:
    """Return what is trained: the CNN called ``built_in``, or that of the user's own code."""
    from loihi_convert.cnn import design
    from loihi_convert.fine_tuning import require_same_training
    from loihi_convert.reading.own_cnn import own_design

    if cnn.arch is None:
        assert built_in is not None
        return design.built_in(built_in, splits, chosen.qcfs_levels, recorded, timesteps=chosen.timesteps)
    own = own_design(cnn.arch, start, splits, options=chosen, normalization=cnn.normalization)
    require_same_training(own, splits)
    return own


def _teacher(path: Path, arch: str | None, splits: DataSplits, design: Design) -> Teacher:
    """Return the CNN in the file ``path``, of this package or of ``arch``, as the teacher of ``design``."""
    from loihi_convert.cnn.checkpoint import load_if_ours
    from loihi_convert.cnn.design import built_in_teacher
    from loihi_convert.reading.own_cnn import own_teacher

    trained = load_if_ours(path)
    if arch is not None and (trained is None or trained.is_own):
        return own_teacher(arch, path, splits, design)
    if trained is None or trained.is_own:
        expected = "must teach a CNN of the same `arch`; in Python, `lc.fine_tune` takes any module as `teacher`"
        raise UsageError("does not hold a CNN that `train` builds", where=path, expected=expected)
    return built_in_teacher(trained, splits, design.classes)


def _say(found: OwnAccuracy) -> None:
    log(f"warning: {flagged(found.warning, 'train')}" if found.warning else found.sentence)


def _splits(
    images: DataRequest, validation: Path | None, input_shape: tuple[int, int, int] | None, classes: tuple[str, ...]
) -> DataSplits:
    """Return the training and validation images; ``classes`` are those of the CNN, if known."""
    from loihi_convert.data import DATASETS, split_for_training

    assert images.data is not None
    of_data, of_validation = images, None
    if validation is not None:
        data = Path(images.data)
        of_validation = replace(images, data=str(validation), class_map=_part(images.class_map, validation, data))
        of_data = replace(images, class_map=_part(images.class_map, data, validation))
    splits = of_data.load(classes, input_shape)
    if of_validation is None:
        return splits if images.data in DATASETS else split_for_training(splits)
    if images.data in DATASETS:
        raise UsageError(f"given for {images.data}", where="validation", expected="is for your own images")
    held_out = of_validation.load(splits.classes, splits.input_shape, prefix="validation: ")
    if shared := held_out.test.count_among(splits.test.digests):
        log(
            f"{shared} of the {len(held_out.test)} validation images are also training images; the validation accuracy "
            "may be too high"
        )
    return split_for_training(splits, held_out.test)


def _part(class_map: FolderClasses | None, own: Path, other: Path) -> FolderClasses | None:
    """Return ``class_map`` without the folders that only ``other`` has; None if ``own`` needs none."""
    if not own.is_dir():
        # Refused if it is for neither.
        return None if other.is_dir() else class_map
    if class_map is None or isinstance(class_map, str):
        return class_map
    return tuple((name, to) for name, to in class_map if (own / name).is_dir() or not (other / name).is_dir()) or None
