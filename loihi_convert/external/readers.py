"""External netx files -> `CubaNetwork` or `GradedNetwork`: the integers that lava-dl passes to Lava's processes.

The chain is read as in `stock_chain`; the neurons must be ``CUBA`` or ``LOIHI``, or all ``SDNN``. As in
``get_neuron_params`` of ``lava/lib/dl/netx/hdf5.py``, input neurons are ``Delta``, a layer with a dataset
``neuron/sigma_output`` (whatever its value) is ``Sigma``, all others are ``SigmaDelta`` with a ReLU, whatever the file
names as its activation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import NetxError
from loihi_convert.external.cuba import INTEGRATOR, CubaLayer, CubaNetwork, CubaNeuron
from loihi_convert.external.stock_chain import MAX_SUM, Link, integer, integers, per_neuron, read_chain
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.choices import MAX_TIMESTEPS
from loihi_convert.ir.graded import STOCK_SPIKE_EXP, GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import Dense, PixelBias
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


_LARGEST: Final = limits.CURRENT_LIMIT >> (STOCK_SPIKE_EXP + limits.SIGMA_DELTA_STATE_EXP)
"""Largest bias and threshold that fit the 24-bit state."""
_OUTPUT: Final = "neuron/sigma_output"


def decode_sdnn(file: StockFile) -> GradedNetwork:
    """Return the network of sigma-delta neurons that lava-dl builds from ``file``, with its default ``spike_exp``.

    Raises
    ------
    NetxError
        If the file is not input neurons and a chain of convolutions and dense layers, all of SDNN neurons, without
        delays.
    """
    chain = read_chain(file, _layer, bias_limit=_LARGEST)
    if not isinstance(chain.layers[0].synapse, PixelBias):
        raise NetxError(
            "no input neurons", where="layer 0", expected="must have SDNN neurons, which send the change of the input"
        )
    return GradedNetwork(chain.input_shape, chain.layers)


def _layer(link: Link) -> GradedLayer:
    stock, synapse = link.stock, link.synapse
    if not stock.is_sdnn:
        found = f"neurons of type '{stock.neuron_type}'" if stock.has_neurons else "has no neurons"
        raise NetxError(found, expected="must be SDNN, as in the other layers")
    if isinstance(synapse, Dense) and link.weight_shift:
        if (synapse.weight % (1 << link.weight_shift)).any():
            raise NetxError("weights that Lava's synapse clips", expected="must fit 8 bits")
        # Shifting the sum back is the same as shifting the weights, which are multiples of 2^shift.
        synapse = replace(synapse, weight=synapse.weight >> link.weight_shift)
    is_output = _OUTPUT in stock.datasets and not isinstance(synapse, PixelBias)
    if is_output and "bias" in stock.datasets:
        raise NetxError("has a bias", expected="must have none: Lava's Sigma takes no bias, and lava-dl fails")
    threshold = 0 if is_output else integer(stock, "neuron/vThMant", 0, _LARGEST)
    return GradedLayer(link.name, synapse, threshold, sends=not is_output)
