"""Data as uint8 arrays, by name or by path: a benchmark set, a folder of images, an ``.npz`` file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from loihi_convert.data.benchmarks import DATASETS, load_benchmark
from loihi_convert.data.dataset import Dataset, DataSplits, HeldOut
from loihi_convert.data.own_images import load_image_folder, load_npz
from loihi_convert.errors import DataError, UsageError

__all__ = ["DATASETS", "DataSplits", "Dataset", "HeldOut", "default_root", "load_data"]


def load_data(data: str | Path, root: Path | None = None, *, classes: Sequence[str] = ()) -> DataSplits:
    """Return the data set of that name, or the images at that path.

    Parameters
    ----------
    data
        One of `DATASETS`; else the path of a folder (`own_images.load_image_folder`) or of an ``.npz`` file
        (`own_images.load_npz`). A folder that is called like a data set is ``./mnist`` or a `Path`.
    root
        The folder that holds the benchmark sets; by default `default_root`.
    classes
        The names of the network's classes in the order of its outputs, if they are known. They say which output the
        images in the folder ``cat/`` belong to; benchmark sets have names of their own.

    Raises
    ------
    UsageError
        If there is no data set of that name.
    DataError
        If a file is missing or damaged, or the images cannot be used.
    """
    if isinstance(data, str) and data in DATASETS:
        return load_benchmark(data, default_root() if root is None else root)
    path = Path(data)
    if path.is_dir():
        return load_image_folder(path, classes)
    if path.suffix == ".npz" and path.exists():
        return load_npz(path, classes)
    if path.exists():
        raise DataError(f"{path}: is neither a folder of images nor an .npz file; give one of these.")
    if path.suffix or str(data) != path.name:
        raise DataError(f"{path}: no such file or folder. Give a folder of images or an .npz file.")
    raise UsageError(
        f"data: {str(data)!r} is no data set; choose one of {', '.join(DATASETS)}, or give the path of a folder of "
        "images or of an .npz file."
    )


def default_root() -> Path:
    """Return the folder where benchmark sets lie: ``$LOIHI_CONVERT_DATA``, else ``~/.cache/loihi-convert``."""
    return Path(os.environ.get("LOIHI_CONVERT_DATA") or Path.home() / ".cache" / "loihi-convert")
