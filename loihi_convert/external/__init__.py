"""Netx files not written by loihi-convert: networks of CUBA neurons, read, simulated, run.

===================  ===================================================================================================
``cuba``             the network
``cuba_reader``      layers as lava-dl sees them -> `CubaNetwork`: strict
``cuba_simulation``  its integers, step by step
``cuba_run``         images -> potentials and spikes of `ref`
===================  ===================================================================================================
"""

from __future__ import annotations

from pathlib import Path

from loihi_convert import netx
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.external.cuba_reader import decode_external, dense_weights, read_external
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.stock import stock_file

__all__ = ["decode_external", "dense_weights", "read_any", "read_external"]


def read_any(path: str | Path) -> QuantizedNetwork | CubaNetwork:
    """Return the network in the netx file at ``path``, native or external.

    Raises
    ------
    NetxError
        As in `netx.read` and `read_external`.
    """
    path = Path(path)
    stored = netx.read_stored(path)
    if stored.network is not None:
        return stored.network
    with netx.errors_that_name(path):
        return decode_external(stock_file(stored.datasets))
