"""Findings of `check` in a native file that matter to users of unmodified lava-dl; `export` prints them."""

from __future__ import annotations

from typing import Final

from loihi_convert.checks.finding import Rule, findings
from loihi_convert.checks.integer_rules import (
    NetworkRun,
    neurons_reset_as_stock_neurons_do,
    pixels_enter_as_numbers,
    pixels_enter_with_eight_bits,
)
from loihi_convert.checks.stock_rules import (
    biases_fit_sixteen_bits,
    dense_weights_have_both_signs,
    one_threshold_per_population,
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
    Rule(biases_fit_sixteen_bits, {"lava": "note"}),
    Rule(the_geometry_fits_eight_bits, {"lava": "note"}),
)
_HARD_RESET_RULES: Final = (*_LAYER_RULES, Rule(one_threshold_per_population, {"lava": "note"}))


def lava_dl_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """Return how unmodified lava-dl treats the file of ``network`` differently, one line per finding."""
    file = stock_file(dict(encode(network))).with_names([layer.name for layer in network.layers])
    layer_rules = _HARD_RESET_RULES if network.reset == "hard" else _LAYER_RULES
    found = (
        *findings(_NETWORK_RULES, [(None, NetworkRun(network, network.timesteps))], "lava"),
        *findings(layer_rules, file.layers, "lava"),
    )
    return tuple(finding.text for finding in found)
