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
from loihi_convert.external.cuba_reader import (
    decode_external,
    dense_weights,
    layers_of,
    read_external,
    read_external_content,
    text_of,
)
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx import hdf5

__all__ = ["decode_external", "dense_weights", "layers_of", "read_any", "read_external", "text_of"]


def read_any(path: Path) -> QuantizedNetwork | CubaNetwork:
    """Return the network in the netx file at ``path``: one that `export` wrote, or one of another tool's.

    Raises
    ------
    NetxError
        As `netx.read` and `read_external`.
    """
    content = hdf5.read_content(path)
    with netx.errors_that_name(path):
        is_native = hdf5.is_native(content)
    return netx.read_native(path, content) if is_native else read_external_content(path, content)
