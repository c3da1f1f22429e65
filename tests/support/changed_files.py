"""Native netx files changed by another tool, with digests that match."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from loihi_convert import netx
from loihi_convert.arrays import Array


def overwrite(path: Path, name: str, value: object) -> None:
    """Give a dataset of the file another value, and the file the digest of what it then holds; it loses its seal."""
    with h5py.File(path, "r+") as file:
        file[f"loihi_convert/{name}"][...] = value
        datasets: dict[str, Array] = {}
        file.visititems(
            lambda name, item: datasets.update({name: np.asarray(item[()])}) if isinstance(item, h5py.Dataset) else None
        )
        file.attrs["content_sha256"] = netx.hdf5.content_sha256(datasets)
    path.write_bytes(path.read_bytes()[512:])
