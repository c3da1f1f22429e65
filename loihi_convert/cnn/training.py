"""Train a CNN with a `Recipe`: AdamW, SGD or Muon, augmentation, label smoothing, spatial dropout, averaged weights.

Uses bfloat16 where it is faster (`trainer.uses_bfloat16`), else float32. On an EPYC with AVX512-BF16 it halves the time
per step of the Fashion-MNIST CNN and of `vgg-small`.

All random numbers come from generators keyed by (seed, epoch), and the learning rate is a function of the step, so the
training state is just tensors and the number of finished epochs. It is written after each epoch to
``<output>.resume.pt``; a run that was interrupted and resumed writes the same file, byte for byte, as an uninterrupted
one, on the same kind of processor, with the same torch version and number of threads. `training_threads`
gives small networks one thread on every machine, and large ones at most torch's number (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.accuracy import accuracy, in_float16
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import Design, built_in, built_in_teacher
from loihi_convert.cnn.models import ARCHITECTURES
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.stored_states import read_pt, write_pt
from loihi_convert.cnn.through_spikes import SpikingCnn
from loihi_convert.cnn.train_options import TrainOptions, chosen_architecture, chosen_recipe
from loihi_convert.cnn.trainer import Training
from loihi_convert.data import DATASETS, Dataset, DataSplits
from loihi_convert.errors import CheckpointError, DataError, InputError, UsageError, one_of
from loihi_convert.ground.choices import WeightDtype
from loihi_convert.ground.devices import chosen_device, torch_threads
from loihi_convert.ground.files import as_path, asked, refuse_to_overwrite, require_writable
from loihi_convert.ground.progress import Progress, no_progress, progress_bar


def train_cnn(
    splits: DataSplits,
    output: str | Path,
    options: TrainOptions | None = None,
    *,
    start: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train a built-in CNN on ``splits``, write it to ``output`` and return it; see `train_design`.

    ``start`` is a trained CNN of the same architecture; by default weights are random. ``teacher`` is one of any
    built-in architecture, whose scores are learned, too (`teacher`). ``progress`` is by default a bar on stderr.

    Raises
    ------
    UsageError
        As in `train_design`, `design.built_in` and `design.built_in_teacher`; also if ``splits`` are not `DataSplits`,
        or ``start`` or ``teacher`` not a `Checkpoint`.
    DataError, CheckpointError
        As in `train_design`.
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
    for where, given in (("start", start), ("teacher", teacher)):
        if given is not None and not isinstance(given, Checkpoint):
            raise UsageError(
                f"found an object of type {type(given).__name__}",
                where=where,
                expected="must be a Checkpoint, as `train_cnn` returns it",
                hint="`loihi_convert.cnn.checkpoint.load` reads one from a file.",
            )
    file = as_path(output, "output")
    require_free(file, resume=resume, overwrite=overwrite)
    chosen = TrainOptions() if options is None else options
    architecture = chosen_architecture(splits.name, chosen, start)
    bar = progress_bar(f"training {architecture}") if progress is None else nullcontext(progress)
    with bar as shown:
        recipe = chosen_recipe(splits, architecture, chosen, is_fine_tuning=start is not None)
        design = built_in(architecture, splits, chosen.qcfs_levels, start, timesteps=recipe.timesteps)
        if teacher is not None:
            design = replace(design, teacher=built_in_teacher(teacher, splits, design.classes))
        return train_design(
            design,
            splits,
            recipe,
            seed=chosen.seed,
            output=file,
            store=chosen.store,
            device=chosen_device(chosen.device),
            test=chosen.test,
            resume=resume,
            progress=shown,
            on_epoch=on_epoch,
        )


@torch.inference_mode(False)
@torch.enable_grad()
def train_design(
    design: Design,
    splits: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    output: Path | None,
    store: WeightDtype = "float32",
    device: str = "cpu",
    test: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Checkpoint:
    """Train ``design``, write it to ``output`` and return it, also where the caller has switched gradients off.

    Parameters
    ----------
    design
        The network.
    splits
        It is trained on ``train``; ``validation`` is evaluated after each epoch.
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
    test
        Also evaluate the images ``test`` of ``splits`` once, at the end.
    resume
        Continue from ``<output>.resume.pt``, left by an interrupted run of the same training.
    progress
        Called after each batch with the number of batches done and in total.
    on_epoch
        Called after each epoch with its number, from 1, and the validation accuracy in 0..1.
    """
    if output is not None:
        checkpoint.require_suffix(output)
        require_writable(output)
    _require_sense(design, splits, recipe)
    if test and not len(splits.test):
        raise UsageError(
            f"{splits.name} has no test images", where="test", hint="Measure the accuracy with `run`, on other images."
        )
    if not test:
        splits = replace(splits, test=splits.test[:0])
    where = output or Path("the CNN")
    training = Training(design, splits, recipe, seed, device)
    unfinished = None if output is None else UnfinishedTraining(output, design, splits, recipe, seed)
    with torch_threads(training.threads):
        if unfinished is not None:
            (unfinished.restore if resume else unfinished.write)(training)
        stored = training.epoch
        try:
            while not training.is_finished:
                validation_accuracy = training.run_epoch(progress)
                checkpoint.require_finite(training.average, where)
                if unfinished is not None:
                    unfinished.write(training)
                stored = training.epoch
                if on_epoch is not None:
                    on_epoch(training.epoch, validation_accuracy)
        except Exception:
            if unfinished is not None and not stored:
                # It would fail again.
                unfinished.path.unlink(missing_ok=True)
            raise
        trained = training.trained()
        if store == "float16":
            trained = in_float16(trained, splits, where, design.network())
        if recipe.timesteps is not None:
            trained = _with_spiking_accuracy(trained, design, splits, recipe.timesteps)
    if output is not None and unfinished is not None:
        checkpoint.save(trained, output)
        unfinished.path.unlink(missing_ok=True)
    return trained


def _require_sense(design: Design, splits: DataSplits, recipe: Recipe) -> None:
    """Raise the `UsageError` and the `DataError` of `train_design`."""
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
    if recipe.weight_bits is not None and design.qcfs_levels is None:
        raise UsageError(
            "cannot be set without learned thresholds, by which weights are multiplied before rounding",
            where="weight_bits",
            hint="Also set `qcfs_levels`.",
        )
    if recipe.weight_bits is not None and design.name not in ARCHITECTURES:
        raise UsageError(
            "cannot be set for your own CNN", where="weight_bits", expected="is for the built-in plain chains of layers"
        )


def _with_spiking_accuracy(trained: Checkpoint, design: Design, splits: DataSplits, timesteps: int) -> Checkpoint:
    """Return ``trained`` with the accuracies of its spiking network in its recipe."""
    found: dict[str, JsonValue] = {
        name: spiking_accuracy(design, images, timesteps, trained.state, trained.weight_bits)
        for name, images in (("validation", splits.validation), ("test", splits.test))
        if len(images)
    }
    return replace(trained, recipe={**trained.recipe, "spiking_accuracy": found})


def spiking_accuracy(
    design: Design,
    images: Dataset,
    timesteps: int,
    state: Mapping[str, Tensor] | None = None,
    weight_bits: int | None = None,
) -> float:
    """Return the accuracy, 0..1, of the spiking network of ``design`` after ``timesteps``, in floating point.

    ``state`` replaces the weights to begin with; ``weight_bits`` is as in `accuracy`.
    """
    model = design.network()
    tensors = model.state_dict() if state is None else state
    return accuracy(model, tensors, images, weight_bits, spiking=SpikingCnn(model, timesteps))


_START_ANEW: Final = "Delete it and train without `resume=True`."
_RESUME: Final = (
    "Resume with the same options and the same images in the same order (a DataLoader with shuffle=False and without "
    "random transforms), or start over with `overwrite=True`."
)
_DIGEST: Final = "digest of images and labels"
_MODULES: Final = "digest of the CNN's modules"
_ADDED_LATER: Final = ("teacher", "classes", "mean", "std", _DIGEST, _MODULES)
"""Fields that the state of an unfinished training may lack."""


class UnfinishedTraining:
    """The file with the state of the training that writes ``output``.

    Parameters
    ----------
    output, design, splits, recipe, seed
        As in `training.train_design`.
    """

    def __init__(self, output: Path, design: Design, splits: DataSplits, recipe: Recipe, seed: int) -> None:
        self.path = resume_path(output)
        mean, std = design.normalization or (None, None)
        self._run: dict[str, JsonValue] = {
            "architecture": design.name,
            "data": splits.name,
            "seed": seed,
            "recipe": {**recipe.recorded()},
            "qcfs_levels": design.qcfs_levels,
            "start": None if design.start is None else design.start["sha256"],
            "teacher": None if design.teacher is None else design.teacher.record["sha256"],
            "classes": list(design.classes),
            "mean": None if mean is None else list(mean),
            "std": None if std is None else list(std),
            _DIGEST: _digest(splits),
        }
        if design.name not in ARCHITECTURES:
            # The user's own code may have changed, with tensors of the same shapes.
            self._run[_MODULES] = hashlib.blake2b(repr(design.network()).encode(), digest_size=16).hexdigest()

    def write(self, training: Training) -> None:
        """Write the state of ``training``."""
        write_pt({**self._run, **training.state()}, self.path)

    def restore(self, training: Training) -> None:
        """Set ``training`` to the state in the file.

        Raises
        ------
        UsageError
            If the file does not exist.
        CheckpointError
            If it is damaged, or belongs to another training.
        """
        if not self.path.exists():
            raise UsageError(
                "does not exist: no training was interrupted", where=self.path, hint="Train without `resume=True`."
            )
        state = read_pt(self.path)
        if not isinstance(state, dict) or not self._run.keys() - _ADDED_LATER <= state.keys():
            raise CheckpointError("not the state of a training", where=self.path, hint=_START_ANEW)
        for name, value in self._run.items():
            if name in state and state[name] != value:
                name, found, expected = _difference(name, state[name], value)
                raise CheckpointError(
                    f"belongs to another training: its {name} is {found!r}",
                    where=self.path,
                    expected=f"must be {expected!r}",
                    hint=_RESUME,
                )
        try:
            training.restore(state)
            is_same = training.computes(state.get("outputs"))
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"not the training state of a {self._run['architecture']} ({error})", where=self.path, hint=_START_ANEW
            ) from error
        if not is_same:
            raise CheckpointError(
                "belongs to another training: the CNN computes something else with its weights",
                where=self.path,
                expected="must be resumed with the same code",
                hint="Undo the change, or start over with `overwrite=True`.",
            )


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


def _digest(splits: DataSplits) -> str:
    """Return a digest of the images and labels that are trained on and evaluated after each epoch."""
    found = hashlib.blake2b(digest_size=16)
    for part in (splits.train, splits.validation):
        found.update(repr(part.images.shape).encode())
        found.update(np.ascontiguousarray(part.images).data)
        found.update(np.ascontiguousarray(part.known_labels).data)
    return found.hexdigest()


def _difference(name: str, found: JsonValue, expected: JsonValue) -> tuple[str, JsonValue, JsonValue]:
    """Return the first entry that differs, of records as of a recipe; otherwise the values themselves."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {**expected, **found}:
            if found.get(key) != expected.get(key):
                return key, found.get(key), expected.get(key)
    return name, found, expected
