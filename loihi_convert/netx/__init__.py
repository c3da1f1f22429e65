"""Netx files (``.net``), lava-dl's format: networks of ours, written and read (`ours`), as HDF5 (`hdf5`)."""

from __future__ import annotations

from loihi_convert.netx.hdf5 import SUFFIX, Datasets, read_stock
from loihi_convert.netx.ours import FORMAT, read, stock_netx_notes, write

__all__ = ["FORMAT", "SUFFIX", "Datasets", "read", "read_stock", "stock_netx_notes", "write"]
