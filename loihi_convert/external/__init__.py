"""Netx files not written by loihi-convert: networks of CUBA or sigma-delta neurons, read, simulated, run.

===============  =======================================================================================================
``stock_chain``  layers as lava-dl sees them -> synapses and their geometry: strict
``cuba``         the network of CUBA neurons
``readers``      synapses and neurons -> `CubaNetwork`, or `GradedNetwork`
``run``          images -> potentials, outputs and spikes of `ref`
===============  =======================================================================================================
"""

from __future__ import annotations

from pathlib import Path

from loihi_convert import netx
from loihi_convert.external.cuba import CubaNetwork
from loihi_convert.external.readers import decode_cuba, decode_sdnn
from loihi_convert.external.stock_chain import dense_weights
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.stock import StockFile, stock_file

AnyNetwork = QuantizedNetwork | CubaNetwork | GradedNetwork
"""A network that `run` can run."""

__all__ = ["AnyNetwork", "decode_external", "dense_weights", "read_any", "read_external"]


def read_any(path: str | Path) -> tuple[AnyNetwork, str]:
    """Return the network in the netx file at ``path``, native or external, and the SHA-256 of the file.

    Raises
    ------
    NetxError
        As in `netx.read` and `read_external`.
    """
    path = Path(path)
    stored = netx.read_stored(path)
    if stored.network is not None:
        return stored.network, stored.sha256
    with netx.errors_that_name(path):
        return decode_external(stock_file(stored.datasets)), stored.sha256


def read_external(path: str | Path) -> CubaNetwork | GradedNetwork:
    """Return the network that lava-dl builds from the netx file at ``path``.

    Raises
    ------
    NetxError
        If the file is missing or damaged, or is not a chain of convolutions and dense layers without delays, with
        neurons of one type, CUBA or SDNN.
    """
    path = Path(path)
    file = netx.read_stock(path)
    with netx.errors_that_name(path):
        return decode_external(file)


def decode_external(file: StockFile) -> CubaNetwork | GradedNetwork:
    """Return the network that lava-dl builds from ``file``.

    Raises
    ------
    NetxError
        As in `read_external`.
    """
    return decode_sdnn(file) if file.is_graded else decode_cuba(file)
