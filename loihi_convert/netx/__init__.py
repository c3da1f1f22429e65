"""Netx files (``.net``), the network format of lava-dl.

==========  ============================================================================================================
``hdf5``    the bytes of a file <-> its datasets, safe against damage
``native``  datasets <-> `QuantizedNetwork` or, with graded spikes, `GradedNetwork`: the files written by `export`
``stock``   datasets -> the layers of any netx file, as lava-dl sees them: lenient, for `run`, `check` and `inspect`
==========  ============================================================================================================
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx import hdf5
from loihi_convert.netx.hdf5 import EXPORT_AGAIN, MAX_LAYER_SIZE, SUFFIX, Datasets, errors_that_name
from loihi_convert.netx.native import decode, read, read_with_digest, write
from loihi_convert.netx.stock import StockFile, stock_file

__all__ = [
    "MAX_LAYER_SIZE",
    "SUFFIX",
    "Datasets",
    "Stored",
    "errors_that_name",
    "read",
    "read_stock",
    "read_stored",
    "read_with_digest",
    "write",
]


class Stored(NamedTuple):
    """The bytes of a file, its datasets, and its network if it was written by `write`."""

    content: bytes
    datasets: Datasets
    network: QuantizedNetwork | GradedNetwork | None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def integers_sha256(self) -> str:
        """`hdf5.integers_sha256` of the datasets."""
        return hdf5.integers_sha256(self.datasets)


def read_stored(path: str | Path) -> Stored:
    """Return the contents of the netx file at ``path``, whether it can be run or not.

    Raises
    ------
    NetxError
        If it is missing or damaged, has no layers, or is a native file that its reader refuses.
    """
    path = Path(path)
    content = hdf5.read_content(path)
    with errors_that_name(path):
        if not hdf5.is_native(content):
            return Stored(content, hdf5.read_stock_datasets(content), None)
    with errors_that_name(path, hint=EXPORT_AGAIN):
        datasets = hdf5.read_native_datasets(content)
        return Stored(content, datasets, decode(datasets))


def read_stock(path: str | Path) -> StockFile:
    """Return the netx file at ``path`` as lava-dl sees it, native or external, even if `read` refuses it."""
    path = Path(path)
    content = hdf5.read_content(path)
    with errors_that_name(path):
        return stock_file(hdf5.read_stock_datasets(content))
