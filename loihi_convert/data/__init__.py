"""Images as uint8 arrays: from a benchmark set, a folder of images, an ``.npz`` file, or arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loihi_convert.data.benchmarks import DATASETS, DESCRIPTIONS, default_root, load_benchmark
from loihi_convert.data.dataset import Dataset, DataSplits, HeldOut, split_for_training
from loihi_convert.data.image_files import StoredImages
from loihi_convert.data.in_memory import as_dataset, as_images, as_input_shape, as_labels
from loihi_convert.data.own_images import NPZ_HINT, load_image_folder, load_npz, require_class_folders
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import ClassMap, unknown_dataset
from loihi_convert.ground.files import asked

__all__ = [
    "DATASETS",
    "ClassMap",
    "DataSplits",
    "Dataset",
    "HeldOut",
    "StoredImages",
    "as_dataset",
    "as_images",
    "as_labels",
    "default_root",
    "load_data",
    "split_for_training",
]


def load_data(
    data: str | Path,
    root: str | Path | None = None,
    *,
    classes: Sequence[str] = (),
    class_map: ClassMap | None = None,
    input_shape: Shape | None = None,
    at_once: bool = True,
) -> DataSplits:
    """Return the data set with the name, or the images at the path, ``data``.

    Parameters
    ----------
    data
        One of `DATASETS`, or the path of a folder (`own_images.load_image_folder`) or an ``.npz`` file
        (`own_images.load_npz`). For a folder with the name of a data set, give ``./mnist`` or a `Path`.
    root
        The folder with the benchmark sets; by default `default_root`.
    classes
        The names of the network's classes, if known.
    class_map
        The class of each class folder; default: as in `own_images.classes_of_folders`.
    input_shape
        ``(C, H, W)`` of the network or, for signals, ``(C, L)``, if known: images of another shape are refused.
    at_once
        Whether to read all images now; if not, many own images may be `StoredImages`.

    Raises a `UsageError` if the data set is unknown or ``class_map`` does not fit, and a `DataError` if a file is
    missing or damaged, or the images cannot be used.
    """
    if not isinstance(data, str | Path):
        found, expected = f"found an object of type {type(data).__name__}", "must be the name of a data set, or a path"
        raise UsageError(found, where="data", expected=expected)
    shape = as_input_shape(input_shape) if input_shape and len(input_shape) in (2, 3) else None
    path = Path(data)
    is_benchmark = isinstance(data, str) and data in DATASETS
    if not is_benchmark and asked(path, Path.is_dir, DataError):
        return load_image_folder(path, classes, class_map=class_map, input_shape=shape, at_once=at_once)
    require_class_folders(data, class_map)
    if is_benchmark:
        if shape not in (None, own_shape := DESCRIPTIONS[str(data)].input_shape):
            expected = f"must be images of {shape}, which the network takes"
            raise DataError(f"found {data}, images of {own_shape}", where="data", expected=expected)
        return load_benchmark(str(data), None if root is None else Path(root))
    if path.suffix.lower() == ".npz" and path.is_file():
        return load_npz(path, classes, input_shape=shape)
    own, exists = "a folder of images or an .npz file", path.exists()
    if exists or path.suffix or str(data) != path.name:
        found = "found a file of another type" if exists else "no such file or folder"
        raise DataError(found, where=path, expected=f"must be {own}", hint=NPZ_HINT if exists else "")
    raise unknown_dataset(str(data), f", or the path of {own}")
