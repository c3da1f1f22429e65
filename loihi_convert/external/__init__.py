"""Netx files not written by loihi-convert: networks of CUBA or sigma-delta neurons, read and simulated."""

from __future__ import annotations

import logging
from pathlib import Path

from loihi_convert import netx
from loihi_convert.external.readers import CubaNetwork, decode_cuba, decode_sdnn, dense_weights
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.stock import StockFile, stock_file

AnyNetwork = QuantizedNetwork | CubaNetwork | GradedNetwork
"""A network that `run` can run."""

__all__ = ["AnyNetwork", "decode_external", "dense_weights", "is_external", "read_any", "read_external"]


def read_any(path: str | Path) -> tuple[AnyNetwork, str]:
    """Return the network in the netx file at ``path``, native or external, and the SHA-256 of the file."""
    path = Path(path)
    stored = netx.read_stored(path)
    if stored.network is not None:
        return stored.network, stored.sha256
    with netx.errors_that_name(path):
        return decode_external(stock_file(stored.datasets)), stored.sha256


def is_external(network: AnyNetwork) -> bool:
    """Return whether another tool made ``network``: it has no scales, and its CNN is not known."""
    return isinstance(network, CubaNetwork) or (isinstance(network, GradedNetwork) and not network.is_converted)


def read_external(path: str | Path) -> CubaNetwork | GradedNetwork:
    """Return `decode_external` of the netx file at ``path``."""
    with netx.errors_that_name(Path(path)):
        return decode_external(netx.read_stock(path))


def decode_external(file: StockFile) -> CubaNetwork | GradedNetwork:
    """Return the network that lava-dl builds from ``file``."""
    if odd := sum(layer.fractional_weights for _, layer in file.layers):
        logging.getLogger(__name__).warning(
            "%s weights in the file are not integers: they are rounded towards 0, as by netx; `check` names them", odd
        )
    return decode_sdnn(file) if file.is_graded else decode_cuba(file)
