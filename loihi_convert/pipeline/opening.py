"""A CNN and the images it was trained on, named by its checkpoint or by options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loihi_convert.cnn.checkpoint import Checkpoint, load, load_if_ours
from loihi_convert.data import DATASETS, ClassMap, DataSplits, load_data
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import Task
from loihi_convert.ground.normalization import Normalization
from loihi_convert.reading.own_cnn import recorded_normalization
from loihi_convert.reading.source import Source, is_described, is_self_contained, open_source

if TYPE_CHECKING:
    from torch import nn


def open_cnn(
    model: Path,
    *,
    arch: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    data: str | None = None,
    data_root: Path | None = None,
    class_map: ClassMap | None = None,
    task: Task = "classification",
    tell: Callable[[str], None] = lambda sentence: None,
) -> tuple[Source, DataSplits]:
    """Return the CNN in ``model`` and its training data, named by the checkpoint or else by the options.

    Parameters
    ----------
    model, arch, input_shape, classes, normalization, task
        As in `source.open_source`; for a CNN that is not described by its file, shape and classes are by default those
        of the data.
    data, data_root, class_map
        As in `load_data`; by default the benchmark set named by the checkpoint.
    tell
        Called with each note on how the images were read.

    Raises
    ------
    UsageError
        As in `benchmark_of`, if ``data`` is not given.
    InputError
        If the CNN or the data cannot be used.
    """
    trained = load(model) if is_described(model, arch) else None
    # A checkpoint of the user's own code, too, names its classes.
    ours = trained or (None if arch is None or is_self_contained(model) else load_if_ours(model))
    if trained is not None:
        recorded_normalization(trained, normalization)
    known = classes or (ours.classes if ours else ())
    data = data or benchmark_of(model, ours)
    splits = load_data(
        data,
        data_root,
        classes=known,
        class_map=class_map,
        input_shape=trained.input_shape if trained else input_shape,
    )
    for note in splits.notes:
        tell(note)
    if trained is None:
        input_shape, classes = splits.input_shape, known or splits.classes or None
    # Only the name is recorded, because the path of a user's own images is private.
    recorded = data if data in DATASETS else splits.name
    source = open_source(
        model,
        arch=arch,
        input_shape=input_shape,
        classes=classes,
        data=recorded,
        normalization=normalization,
        task=task,
    )
    if splits.name not in DATASETS:
        digests = {
            "data_fingerprint": splits.test.fingerprint,
            "calibration_fingerprint": splits.calibration.fingerprint,
        }
        source = replace(source, provenance={**source.provenance, **digests})
    splits.test.require_fit(task, source.network.shapes[-1][0], "data")
    return source, splits


def benchmark_of(file: Path, trained: Checkpoint | None) -> str:
    """Return the benchmark set that the CNN in ``file`` was trained on; ``trained`` is its record, if it has one.

    Raises
    ------
    UsageError
        If it is not known, or was the user's own images: others may have the same path here.
    """
    if trained is not None and trained.is_benchmark:
        return trained.data
    found = "does not record its training data" if trained is None else "was trained on your own images"
    expected = "is needed unless the file was trained on a benchmark set"
    raise UsageError("not given", where="data", expected=expected, hint=f"{file.name} {found}: pass `data`.")


def open_model(
    model: nn.Module | str | Path,
    shape: Shape,
    *,
    arch: str | None,
    classes: Sequence[str] | None,
    normalization: Normalization | None,
    task: Task,
) -> Source:
    """Return a CNN in memory, or the one in a file, for images of ``shape``, ``(C, H, W)``.

    Raises
    ------
    UsageError
        If ``arch`` is given for a CNN in memory, or as in `source.open_source`.
    DataError
        If the CNN in the file takes images of another shape.
    InputError
        If it cannot be used.
    """
    if not isinstance(model, str | Path):
        if arch is not None:
            raise UsageError("given with a module", where="arch", expected="must come with the path of a state dict")
        return Source.from_module(model, shape, classes=classes, normalization=normalization, task=task)
    path, given = Path(model), None if is_described(Path(model), arch) else shape
    if given is None:
        recorded_normalization(load(path), normalization)
    source = open_source(path, arch=arch, input_shape=given, classes=classes, normalization=normalization, task=task)
    if shape != source.network.input_shape:
        raise DataError(f"found images of {shape}", where="images", expected=f"must be {source.network.input_shape}")
    return source
