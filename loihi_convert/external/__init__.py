"""Netx files that other tools wrote: networks of CUBA neurons, read, simulated, run.

===================  ===================================================================================================
``cuba``             the network
``cuba_reader``      netx datasets -> `CubaNetwork`
``cuba_simulation``  its integers, step by step
``cuba_run``         images -> a run of it on `ref`
===================  ===================================================================================================
"""

from __future__ import annotations

from pathlib import Path

from loihi_convert import netx
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.external.cuba_reader import decode_external, dense_weights, layers_of, read_external, text_of
from loihi_convert.ir.quantized import QuantizedNetwork

__all__ = ["decode_external", "dense_weights", "layers_of", "read_any", "read_external", "text_of"]


def read_any(path: Path) -> QuantizedNetwork | CubaNetwork:
    """Return the network in the netx file at ``path``: one that `export` wrote, or one of another tool's.

    Raises
    ------
    NetxError
        As `netx.read` and `read_external`.
    """
    return netx.read(path) if netx.is_native(path) else read_external(path)
