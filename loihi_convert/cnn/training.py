"""Train a CNN with a `Recipe`: AdamW or SGD, augmentation, label smoothing, spatial dropout, averaged weights.

Uses bfloat16 where it is faster (`trainer.uses_bfloat16`), else float32. On an EPYC with AVX512-BF16 it halves the time
per step of the Fashion-MNIST CNN and of `vgg-small`.

All random numbers come from generators keyed by (seed, epoch), and the learning rate is a function of the step, so the
training state is just tensors and the number of finished epochs. It is written after each epoch to
``<output>.resume.pt``; a run that was interrupted and resumed ends with the same weights, bit for bit, as an
uninterrupted one, on the same kind of processor, with the same torch version and number of threads. `training_threads`
gives small networks one thread on every machine, and large ones at most torch's number (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.accuracy import accuracy
from loihi_convert.cnn.checkpoint import Checkpoint, Json
from loihi_convert.cnn.design import Design, built_in
from loihi_convert.cnn.float16 import in_float16
from loihi_convert.cnn.kept_memory import kept_memory
from loihi_convert.cnn.models import ARCHITECTURES
from loihi_convert.cnn.qcfs import MAX_LEVELS
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.through_spikes import SpikingNetwork
from loihi_convert.cnn.torch_zip import read_pt, write_pt
from loihi_convert.cnn.train_options import TrainOptions, chosen_architecture, chosen_recipe
from loihi_convert.cnn.trainer import Training, on_cpu
from loihi_convert.data import DATASETS, DataSplits
from loihi_convert.devices import chosen_device, torch_threads
from loihi_convert.errors import CheckpointError, DataError, InputError, UsageError, one_of
from loihi_convert.files import asked, refuse_to_overwrite, require_writable
from loihi_convert.progress import Progress, no_progress, progress_bar

_START_ANEW: Final = "Delete it and train without `resume=True`."
_DIGEST: Final = "digest of images and labels"
_MODULES: Final = "digest of the CNN's modules"
_ADDED_LATER: Final = ("classes", "mean", "std", _DIGEST, _MODULES)
"""Fields that the state of an unfinished training may lack."""


def train_cnn(
    splits: DataSplits,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    start: Checkpoint | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train a CNN on ``splits``, write it to ``output`` and return it; see `train`.

    ``progress`` is by default a bar on stderr.

    Raises
    ------
    UsageError, CheckpointError
        As in `train`; also if ``splits`` are not `DataSplits`.
    InputError
        Also if ``output``, or an interrupted training of it, exists, unless ``overwrite`` or, for the latter,
        ``resume``.
    """
    if not isinstance(splits, DataSplits):
        raise UsageError(
            f"found an object of type {type(splits).__name__}",
            where="splits",
            expected="must be DataSplits, such as load_data('digits')",
            hint="Store images in an .npz file for `load_data`, or train your own CNN with `fine_tune`.",
        )
    require_free(Path(output), resume=resume, overwrite=overwrite)
    chosen = TrainOptions() if options is None else options
    architecture = chosen_architecture(splits.name, chosen, start)
    bar = progress_bar(f"training {architecture}") if progress is None else nullcontext(progress)
    with bar as shown:
        return train(
            architecture,
            splits,
            chosen_recipe(splits, architecture, chosen, is_fine_tuning=start is not None),
            seed=chosen.seed,
            output=Path(output),
            qcfs_levels=chosen.qcfs_levels,
            start=start,
            store=chosen.store,
            device=chosen_device(chosen.device),
            resume=resume,
            progress=shown,
            on_epoch=on_epoch,
        )


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
    device: str = "cpu",
    resume: bool = False,
    progress: Progress = no_progress,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train a built-in CNN, write it to ``output`` and return it.

    Parameters
    ----------
    architecture
        One of `loihi_convert.cnn.models.ARCHITECTURES`.
    splits
        As in `train_design`.
    recipe
        See `recipe.default_recipe` and `recipe.paper_recipe`.
    seed, output, store, device, resume, progress, on_epoch
        As in `train_design`.
    qcfs_levels
        Levels L of the activation `qcfs.Qcfs`, which replaces ReLU.
    start
        A trained CNN of the same architecture; default: random initial weights.

    Raises
    ------
    UsageError
        As in `train_design`; also if the architecture is unknown, or ``start`` does not fit it.
    CheckpointError, InputError
        As in `train_design`.
    """
    return train_design(
        built_in(architecture, splits, qcfs_levels, start, timesteps=recipe.timesteps),
        splits,
        recipe,
        seed=seed,
        output=output,
        store=store,
        device=device,
        resume=resume,
        progress=progress,
        on_epoch=on_epoch,
    )


def train_design(
    design: Design,
    splits: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    output: Path | None,
    store: str = "float32",
    device: str = "cpu",
    resume: bool = False,
    progress: Progress = no_progress,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train ``design``, write it to ``output`` and return it.

    Parameters
    ----------
    design
        The network.
    splits
        It is trained on ``train``; ``validation`` is evaluated after each epoch, ``test``, if there is any, once at the
        end.
    recipe
        Hyperparameters.
    seed
        Seed of initialization, image order, augmentation and dropout, 0..2^31 - 1.
    output
        ``.pt`` or ``.safetensors``; replaced if it exists. None: nothing is written.
    store
        ``"float16"``: round the trained weights to float16, which halves the file size; these are evaluated and
        returned.
    device
        ``"cpu"`` or ``"cuda"``.
    resume
        Continue from ``<output>.resume.pt``, left by an interrupted run of the same training.
    progress
        Called after each batch with the number of batches done and in total.
    on_epoch
        Called after each epoch with its number, from 1, and the validation accuracy in 0..1.

    Raises
    ------
    UsageError
        If ``store`` is unknown, ``splits`` has no validation images, ``output`` has another suffix, or there is nothing
        to resume.
    DataError
        If the images have no labels, or labels that are not classes of the network.
    CheckpointError
        If ``<output>.resume.pt`` is damaged or belongs to another training, the training diverged, or a weight is too
        large for float16.
    InputError
        If a file cannot be written; raised before the first epoch.
    """
    if output is not None:
        checkpoint.require_suffix(output)
        require_writable(output)
    _require_sense(design, splits, recipe, seed, store)
    run: dict[str, Json] = {
        "architecture": design.name,
        "data": splits.name,
        "seed": seed,
        "recipe": {**recipe.recorded()},
        "qcfs_levels": design.qcfs_levels,
        "start": None if design.start is None else design.start["sha256"],
        "classes": list(design.classes),
        "mean": None if design.mean is None else list(design.mean),
        "std": None if design.std is None else list(design.std),
        _DIGEST: "" if output is None else _digest(splits),
    }
    training = Training(design, splits, recipe, seed, device)
    if output is not None and design.name not in ARCHITECTURES:
        # The user's own code may have changed, with tensors of the same shapes.
        run[_MODULES] = hashlib.blake2b(repr(design.network()).encode(), digest_size=16).hexdigest()
    where, state_file = output or Path("the CNN"), None if output is None else resume_path(output)
    with torch_threads(training.threads), kept_memory():
        _run_epochs(training, run, where, state_file, resume=resume, progress=progress, on_epoch=on_epoch)
        trained = Checkpoint(
            architecture=design.name,
            state=on_cpu(training.average),
            data=splits.name,
            input_shape=splits.input_shape,
            classes=design.classes,
            seed=seed,
            validation_accuracy=training.cnn_accuracy(splits.validation),
            test_accuracy=training.cnn_accuracy(splits.test) if len(splits.test) else None,
            qcfs_levels=design.qcfs_levels,
            mean=design.mean,
            std=design.std,
            recipe={
                **recipe.recorded(),
                **({} if design.start is None else {"start": design.start}),
                "validation_accuracy_per_epoch": list(training.history),
                "torch": str(torch.__version__),
                "threads": training.threads,
                **({} if device == "cpu" else {"device": device}),
                "seconds": round(training.seconds, 1),
                "arithmetic": "bfloat16" if training.is_bfloat16 else "float32",
            },
        )
        if store == "float16":
            trained = in_float16(trained, splits, where, design.network())
        if recipe.timesteps is not None:
            trained = _with_spiking_accuracy(trained, design, splits, recipe.timesteps)
    if output is not None and state_file is not None:
        checkpoint.save(trained, output)
        state_file.unlink(missing_ok=True)
    return trained


def _require_sense(design: Design, splits: DataSplits, recipe: Recipe, seed: int, store: str) -> None:
    """Raise the `UsageError` and the `DataError` of `train_design`."""
    if store not in checkpoint.STORES:
        raise UsageError(f"found {store!r}", where="store", expected=one_of(checkpoint.STORES))
    if not len(splits.validation):
        raise UsageError(
            f"{splits.name} is not split into training and validation images",
            where="data",
            expected=f"{one_of(DATASETS)}, or your own images, split by `data.split_for_training`",
        )
    labels = np.concatenate([splits.train.known_labels, splits.validation.known_labels])
    if len(labels) and int(labels.max()) >= len(design.classes):
        raise DataError(
            f"found the class {int(labels.max())}",
            where="labels",
            expected=f"must be 0..{len(design.classes) - 1}: the CNN has {len(design.classes)} classes",
        )
    if not 0 <= seed < 2**31:
        raise UsageError(f"found {seed}", where="seed", expected=f"must be in 0..{2**31 - 1}")
    levels = design.qcfs_levels
    if levels is not None and not 1 <= levels <= MAX_LEVELS:
        raise UsageError(f"found {levels}", where="qcfs_levels", expected=f"must be in 1..{MAX_LEVELS}")
    if recipe.weight_bits is not None and levels is None:
        raise UsageError(
            "cannot be set without learned thresholds, by which weights are multiplied before rounding",
            where="weight_bits",
            hint="Also set `qcfs_levels`.",
        )
    if recipe.weight_bits is not None and design.name not in ARCHITECTURES:
        raise UsageError(
            "cannot be set for your own CNN", where="weight_bits", expected="is for the built-in plain chains of layers"
        )


def _run_epochs(
    training: Training,
    run: dict[str, Json],
    where: Path,
    state_file: Path | None,
    *,
    resume: bool,
    progress: Progress,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    """Train to the last epoch; ``state_file`` always holds the state after the last finished one.

    Raises a `CheckpointError` for ``where``, the file to write, after an epoch in which the training diverged.
    """
    if resume and state_file is not None:
        _restore(training, state_file, run)
    elif state_file is not None:
        write_pt({**run, **training.state()}, state_file)
    while not training.is_finished:
        validation_accuracy = training.run_epoch(progress)
        checkpoint.require_finite(training.average, where)
        if state_file is not None:
            write_pt({**run, **training.state()}, state_file)
        if on_epoch is not None:
            on_epoch(training.epoch, validation_accuracy)


def require_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise an `InputError` if a training would replace ``output``, or the state of an interrupted one."""
    refuse_to_overwrite(output, overwrite)
    unfinished = resume_path(output)
    if asked(unfinished, Path.exists) and not (resume or overwrite):
        hint = "Continue with `resume=True`, or start over with `overwrite=True`."
        raise InputError("is an interrupted training; nothing was changed", where=unfinished, hint=hint)


def resume_path(output: Path) -> Path:
    """Return the path of the state of an unfinished training with the result ``output``."""
    return output.with_name(f"{output.name}.resume.pt")


def _with_spiking_accuracy(trained: Checkpoint, design: Design, splits: DataSplits, timesteps: int) -> Checkpoint:
    """Return ``trained`` with the accuracies of its spiking network in its recipe, in floating point."""
    model = design.network()
    bits = trained.recipe.get("weight_bits")
    spiking = SpikingNetwork(model, timesteps)
    found: dict[str, Json] = {
        name: accuracy(model, trained.state, images, bits if isinstance(bits, int) else None, spiking=spiking)
        for name, images in (("validation", splits.validation), ("test", splits.test))
        if len(images)
    }
    return replace(trained, recipe={**trained.recipe, "spiking_accuracy": found})


def _digest(splits: DataSplits) -> str:
    """Return a digest of the images and labels that are trained on and evaluated after each epoch."""
    found = hashlib.blake2b(digest_size=16)
    for part in (splits.train, splits.validation):
        found.update(repr(part.images.shape).encode())
        found.update(np.ascontiguousarray(part.images).data)
        found.update(np.ascontiguousarray(part.known_labels).data)
    return found.hexdigest()


def _difference(name: str, found: Json, expected: Json) -> tuple[str, Json, Json]:
    """Return the first entry that differs, of records as of a recipe; otherwise the values themselves."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {**expected, **found}:
            if found.get(key) != expected.get(key):
                return key, found.get(key), expected.get(key)
    return name, found, expected


def _restore(training: Training, path: Path, run: dict[str, Json]) -> None:
    """Set ``training`` to the state in ``path``, which must belong to ``run``."""
    if not path.exists():
        raise UsageError("does not exist: no training was interrupted", where=path, hint="Train without `resume=True`.")
    state = read_pt(path)
    if not isinstance(state, dict) or not run.keys() - _ADDED_LATER <= state.keys():
        raise CheckpointError("not the state of a training", where=path, hint=_START_ANEW)
    for name, value in run.items():
        if name in state and state[name] != value:
            name, found, expected = _difference(name, state[name], value)
            raise CheckpointError(
                f"belongs to another training: its {name} is {found!r}",
                where=path,
                expected=f"must be {expected!r}",
                hint="Resume with the same options and images, or start over with `overwrite=True`.",
            )
    try:
        training.restore(state)
        is_same = training.computes(state.get("outputs"))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"not the training state of a {run['architecture']} ({error})", where=path, hint=_START_ANEW
        ) from error
    if not is_same:
        raise CheckpointError(
            "belongs to another training: the CNN computes something else with its weights",
            where=path,
            expected="must be resumed with the same code",
            hint="Undo the change, or start over with `overwrite=True`.",
        )
