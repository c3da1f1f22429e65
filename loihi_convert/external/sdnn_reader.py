"""External netx files -> `GradedNetwork`: the integers that lava-dl passes to Lava's sigma-delta Processes.

The chain is read as in `stock_chain`; the neurons must be ``SDNN``. As in ``get_neuron_params`` of
``lava/lib/dl/netx/hdf5.py``, input neurons are ``Delta``, a layer with a dataset ``neuron/sigma_output`` (whatever its
value) is ``Sigma``, all others are ``SigmaDelta`` with a ReLU, whatever the file names as its activation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from loihi_convert.chip import limits
from loihi_convert.errors import NetxError
from loihi_convert.external.stock_chain import Link, integer, read_chain
from loihi_convert.ir.graded import STOCK_SPIKE_EXP, GradedLayer, GradedNetwork
from loihi_convert.ir.synapse import Dense, PixelBias
from loihi_convert.netx.stock import StockFile

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
