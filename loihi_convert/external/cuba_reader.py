"""External netx files -> `CubaNetwork`: the integers that lava-dl passes to Lava's processes.

The chain is read as in `stock_chain`; the neurons must be ``CUBA`` or ``LOIHI``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from loihi_convert.arrays import Shape
from loihi_convert.chip import limits
from loihi_convert.choices import MAX_TIMESTEPS
from loihi_convert.errors import NetxError
from loihi_convert.external.cuba import INTEGRATOR, CubaLayer, CubaNetwork, CubaNeuron
from loihi_convert.external.stock_chain import MAX_SUM, Link, integer, integers, per_neuron, read_chain
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.netx.stock import StockFile, StockLayer

GRADED_PIXEL: Final = 2**limits.MAX_PIXEL_BITS - 1
"""Largest value of a pixel that enters as a graded spike, in networks without input neurons."""


def decode_cuba(file: StockFile) -> CubaNetwork:
    """Return the network of CUBA neurons that lava-dl builds from ``file``.

    Raises
    ------
    NetxError
        If the file is not a chain of convolutions and dense layers of CUBA neurons without delays.
    """
    is_first = True

    def with_neurons(link: Link) -> CubaLayer:
        nonlocal is_first
        has_pixels, is_first = is_first, False
        neuron = INTEGRATOR
        if link.stock.kind != "dense" or link.stock.has_neurons:
            neuron = _neuron(link.stock, link.shape)
        if not isinstance(link.synapse, PixelBias):
            weight = np.abs(link.synapse.weight)
            largest = int(weight.reshape(len(weight), -1).sum(axis=1).max()) * (GRADED_PIXEL if has_pixels else 1)
            if largest > MAX_SUM:
                expected = f"must be at most {MAX_SUM:,}, or Lava's int32 wraps"
                raise NetxError(f"a weighted sum that can reach {largest:,}", expected=expected)
        return CubaLayer(link.name, link.synapse, neuron, link.weight_shift)

    chain = read_chain(file, with_neurons, bias_limit=limits.LIF_BIAS_LIMIT)
    return CubaNetwork(chain.input_shape, chain.layers, _timesteps(file))


def _neuron(layer: StockLayer, shape: Shape) -> CubaNeuron:
    if not layer.is_cuba:
        raise NetxError(f"neurons of type '{layer.neuron_type}'", expected="must be one of CUBA, LOIHI")
    i_decay, v_decay = (integer(layer, f"neuron/{name}", 0, limits.MAX_DECAY) for name in ("iDecay", "vDecay"))
    threshold = integers(layer, "neuron/vThMant", 0, limits.THRESHOLD_LIMIT)
    return CubaNeuron(
        i_decay=i_decay,
        v_decay=v_decay,
        v_th_mant=per_neuron(threshold, "neuron/vThMant", shape, allows_one=True).astype(np.int32),
    )


def _timesteps(file: StockFile) -> int | None:
    value = file.simulation.get("tSample")
    fits = value is not None and value.size == 1 and value.dtype.kind in "iu" and 1 <= value.item() <= MAX_TIMESTEPS
    return int(value.item()) if value is not None and fits else None
