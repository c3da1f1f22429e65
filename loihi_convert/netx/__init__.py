"""Netx files (``.net``), the network format of lava-dl.

===========  ===========================================================================================================
``hdf5``     the bytes of a file <-> its datasets, safe against damage; the only file that knows h5py
``ours``     datasets <-> `QuantizedNetwork`: what `export` writes
``foreign``  datasets -> `CubaNetwork`: what slayer, or other hands, wrote
===========  ===========================================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from loihi_convert.cuba import CubaNetwork
from loihi_convert.errors import shown
from loihi_convert.netx import hdf5
from loihi_convert.netx.foreign import decode_foreign, dense_weights, layers_of, read_foreign, text_of
from loihi_convert.netx.hdf5 import LARGEST_LAYER, SUFFIX, Datasets, errors_that_name
from loihi_convert.netx.ours import FORMAT, read, stock_netx_notes, write
from loihi_convert.quantized import QuantizedNetwork

__all__ = [
    "FORMAT",
    "LARGEST_LAYER",
    "SUFFIX",
    "Datasets",
    "Stored",
    "decode_foreign",
    "dense_weights",
    "errors_that_name",
    "is_ours",
    "layers_of",
    "read",
    "read_any",
    "read_foreign",
    "read_stock",
    "read_stored",
    "shown",
    "stock_netx_notes",
    "text_of",
    "write",
]


class Stored(NamedTuple):
    """Every dataset of a file, and the network in it where it is one of ours."""

    datasets: Datasets
    network: QuantizedNetwork | None


def read_any(path: Path) -> QuantizedNetwork | CubaNetwork:
    """Return the network in the netx file at ``path``: of ours, as `read` does, or of other hands, as `read_foreign`.

    Raises
    ------
    NetxError
        As these do.
    """
    return read(path) if is_ours(path) else read_foreign(path)


def read_stored(path: Path) -> Stored:
    """Return all that is in the netx file at ``path``, whether it can be run or not.

    Raises
    ------
    NetxError
        If it is missing or damaged, holds no layers, or is one of ours that `read` refuses.
    """
    network = read(path) if is_ours(path) else None
    content = hdf5.read_content(path)
    with errors_that_name(path):
        datasets = hdf5.read_stock_datasets(content) if network is None else hdf5.read_datasets(content)
    return Stored(datasets, network)


def read_stock(path: Path) -> Datasets:
    """Return what lava-dl may look at in the netx file at ``path``, whoever wrote it, even if `read` refuses it.

    Raises
    ------
    NetxError
        If it is missing or damaged, or holds no layers.
    """
    content = hdf5.read_content(path)
    with errors_that_name(path):
        return hdf5.read_stock_datasets(content)


def is_ours(path: Path) -> bool:
    """Whether the netx file at ``path`` was written by `write`, whatever became of it since."""
    content = hdf5.read_content(path)
    with errors_that_name(path):
        return hdf5.is_ours(content)
