"""A CNN and the images it was trained on, named by its checkpoint or by options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from loihi_convert.choices import Task
from loihi_convert.cnn.checkpoint import load
from loihi_convert.data import DATASETS, ClassMap, DataSplits, load_data
from loihi_convert.errors import UsageError
from loihi_convert.frontend.source import Source, is_described, open_source


def open_cnn(
    model: Path,
    *,
    arch: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: str | None = None,
    data_root: Path | None = None,
    class_map: ClassMap | None = None,
    task: Task = "classification",
    tell: Callable[[str], None] = lambda sentence: None,
) -> tuple[Source, DataSplits]:
    """Return the CNN in ``model`` and its training data, named by the checkpoint or else by the options.

    Parameters
    ----------
    model, arch, input_shape, classes, mean, std, task
        As in `source.open_source`; for a CNN that is not described by its file, shape and classes are by default those
        of the data.
    data, data_root, class_map
        As in `load_data`; by default the data set named by the checkpoint.
    tell
        Called with each note on how the images were read.

    Raises
    ------
    UsageError
        If no data set is named, or the shapes differ.
    InputError
        If the CNN or the data cannot be used.
    """
    trained = load(model) if is_described(model, arch) else None
    if trained is None and data is None:
        hint = f"{model.name} does not record its training data: pass `data`."
        raise UsageError("not given", where="data", expected="is needed with `arch` and for ONNX files", hint=hint)
    splits = load_data(
        data or (trained.data if trained else ""),
        data_root,
        classes=classes or (trained.classes if trained else ()),
        class_map=class_map,
        input_shape=trained.input_shape if trained else input_shape,
    )
    for note in splits.notes:
        tell(note)
    if input_shape not in (None, splits.input_shape):
        expected = f"must be {splits.input_shape}, the shape of the images of {splits.name}"
        raise UsageError(f"found {input_shape}", where="input_shape", expected=expected)
    if trained is None:
        input_shape, classes = splits.input_shape, classes or splits.classes or None
    # Only the name is recorded, because the path of a user's own images is private.
    recorded = data if data is None or data in DATASETS else splits.name
    source = open_source(
        model, arch=arch, input_shape=input_shape, classes=classes, data=recorded, mean=mean, std=std, task=task
    )
    if splits.name not in DATASETS:
        source = replace(source, provenance={**source.provenance, "data_fingerprint": splits.fingerprint})
    splits.test.require_fit(task, source.network.shapes[-1][0], "data")
    return source, splits
