"""Native netx files changed by another tool, with digests that match."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from loihi_convert import netx
from loihi_convert.ground.arrays import Array


def overwrite(path: Path, name: str, value: object) -> None:
    """Change the value of a dataset, update the file's digest, and remove its seal.

    ``name`` is relative to the package's own group or, with a leading slash, to the file.
    """
    with h5py.File(path, "r+") as file:
        place = name.removeprefix("/") if name.startswith("/") else f"loihi_convert/{name}"
        found, wanted = file[place], np.asarray(value)
        if found.shape != wanted.shape or (found.dtype.kind == "i" and wanted.dtype.kind == "f"):
            del file[place]
            file[place] = wanted
        else:
            found[...] = value
        datasets: dict[str, Array] = {}
        file.visititems(
            lambda name, item: datasets.update({name: np.asarray(item[()])}) if isinstance(item, h5py.Dataset) else None
        )
        file.attrs["content_sha256"] = netx.hdf5.content_sha256(datasets)
    path.write_bytes(path.read_bytes()[512:])
