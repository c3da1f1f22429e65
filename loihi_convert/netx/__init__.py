"""Netx files (``.net``), the network format of lava-dl.

==========  ============================================================================================================
``hdf5``    the bytes of a file <-> its datasets, safe against damage; the only file that knows h5py
``native``  datasets <-> `QuantizedNetwork`: what `export` writes
``stock``   the layers of any netx file, as lava-dl reads them
==========  ============================================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from loihi_convert.errors import escape_control
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx import hdf5
from loihi_convert.netx.hdf5 import MAX_LAYER_SIZE, SUFFIX, Datasets, errors_that_name
from loihi_convert.netx.native import FORMAT, read, read_native, stock_netx_notes, write

__all__ = [
    "FORMAT",
    "MAX_LAYER_SIZE",
    "SUFFIX",
    "Datasets",
    "Stored",
    "errors_that_name",
    "escape_control",
    "is_native",
    "read",
    "read_native",
    "read_stock",
    "read_stored",
    "stock_netx_notes",
    "write",
]


class Stored(NamedTuple):
    """Every dataset of a file, and the network in it where it is one of ours."""

    datasets: Datasets
    network: QuantizedNetwork | None


def read_stored(path: Path) -> Stored:
    """Return all that is in the netx file at ``path``, whether it can be run or not.

    Raises
    ------
    NetxError
        If it is missing or damaged, holds no layers, or is one of ours that `read` refuses.
    """
    network = read(path) if is_native(path) else None
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


def is_native(path: Path) -> bool:
    """Whether the netx file at ``path`` was written by `write`, whatever became of it since."""
    content = hdf5.read_content(path)
    with errors_that_name(path):
        return hdf5.is_native(content)
