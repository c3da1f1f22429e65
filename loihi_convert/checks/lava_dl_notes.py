"""Findings of `check` in a native file that matter to users of unmodified lava-dl; `export` prints them."""

from __future__ import annotations

from itertools import islice
from typing import Final

from loihi_convert.checks.finding import Rule, findings
from loihi_convert.checks.integer_rules import (
    NetworkRun,
    neurons_reset_as_stock_neurons_do,
    pixels_enter_as_numbers,
    pixels_enter_with_eight_bits,
)
from loihi_convert.checks.stock_rules import (
    STOCK_LIF_RULES,
    dense_weights_have_both_signs,
    the_geometry_fits_eight_bits,
)
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.native import encode
from loihi_convert.netx.stock import StockLayer, stock_file

_NETWORK_RULES: Final[tuple[Rule[NetworkRun], ...]] = (
    Rule(neurons_reset_as_stock_neurons_do, {"lava": "note"}),
    Rule(pixels_enter_as_numbers, {"lava": "note"}),
    Rule(pixels_enter_with_eight_bits, {"lava": "note"}),
)
_LAYER_RULES: Final[tuple[Rule[StockLayer], ...]] = (
    Rule(dense_weights_have_both_signs, {"lava": "note"}),
    Rule(the_geometry_fits_eight_bits, {"lava": "note"}),
)


def lava_dl_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """Return how unmodified lava-dl treats the file of ``network`` differently, one line per finding.

    With hard reset, which it computes exactly on a CPU, also the first reason why it cannot do so on a chip.
    """
    file = stock_file(dict(encode(network))).with_names([layer.name for layer in network.layers])
    found = (
        *findings(_NETWORK_RULES, [(None, NetworkRun(network, network.timesteps))], "lava"),
        *findings(_LAYER_RULES, file.layers, "lava"),
    )
    on_chip = findings(STOCK_LIF_RULES if network.reset == "hard" else (), file.layers, "loihi2")
    return (
        *(finding.text for finding in found),
        *(f"not usable on Loihi 2: {first.text}" for first in islice(on_chip, 1)),
    )
