"""Netx files (``.net``), the network format of lava-dl.

===========  ===========================================================================================================
``hdf5``     the bytes of a file <-> its datasets, safe against damage; the only file that knows h5py
``ours``     datasets <-> `QuantizedNetwork`: what `export` writes
``foreign``  datasets -> `CubaNetwork`: what slayer, or other hands, wrote
===========  ===========================================================================================================
"""

from __future__ import annotations

from pathlib import Path

from loihi_convert.cuba import CubaNetwork
from loihi_convert.network import QuantizedNetwork
from loihi_convert.netx import hdf5
from loihi_convert.netx.foreign import dense_weights, read_foreign
from loihi_convert.netx.hdf5 import SUFFIX
from loihi_convert.netx.ours import FORMAT, read, stock_netx_notes, write

__all__ = ["FORMAT", "SUFFIX", "dense_weights", "read", "read_any", "read_foreign", "stock_netx_notes", "write"]


def read_any(path: Path) -> QuantizedNetwork | CubaNetwork:
    """Return the network in the netx file at ``path``: of ours, as `read` does, or of other hands, as `read_foreign`.

    Raises
    ------
    NetxError
        As these do.
    """
    content = hdf5.read_content(path)
    with hdf5.errors_that_name(path, advice=""):
        is_ours = hdf5.is_ours(content)
    return read(path) if is_ours else read_foreign(path)
