"""How unmodified lava-dl runs a file of this package, and what that costs: a finding of `export` and `check`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from loihi_convert.checks.finding import Finding, Rule, Severity, Violation, findings
from loihi_convert.checks.network_rules import NetworkRun, pixels_enter_as_numbers, pixels_enter_with_eight_bits
from loihi_convert.checks.stock_rules import (
    STOCK_LIF_RULES,
    dense_weights_have_both_signs,
    the_geometry_fits_eight_bits,
)
from loihi_convert.chip import limits, rules
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Target
from loihi_convert.ground.records import Record
from loihi_convert.ir.network import classes_of
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.native import encode
from loihi_convert.netx.stock import StockFile, StockLayer, stock_file

LOSS: Final = 0.01
"""Largest loss that is not worth a warning."""

_NETWORK_RULES: Final[tuple[Rule[NetworkRun], ...]] = (
    Rule(pixels_enter_as_numbers, "note", None),
    Rule(pixels_enter_with_eight_bits, "note", None),
)
_LAYER_RULES: Final[tuple[Rule[StockLayer], ...]] = (
    Rule(dense_weights_have_both_signs, "note", None),
    Rule(the_geometry_fits_eight_bits, "note", None),
)


class LavaDl(Record):
    """Unmodified lava-dl beside `ref`, on the same images.

    Attributes
    ----------
    image_count
        Number of images.
    agreement
        Agreement with `ref`, 0..1, see `conversion.agreement.Measure`.
    accuracy, ref_accuracy
        Share of images classified correctly by lava-dl and by `ref`; None without labels.
    """

    image_count: int
    agreement: float
    accuracy: float | None = None
    ref_accuracy: float | None = None

    @property
    def loss(self) -> float:
        """Accuracy that `ref` has and lava-dl does not; without labels, the share on which they disagree."""
        known = self.accuracy is not None and self.ref_accuracy is not None
        loss = (self.ref_accuracy or 0) - (self.accuracy or 0) if known else 1 - self.agreement
        # 1 - 0.99 exceeds 0.01 by a rounding error.
        return round(loss, 9)


def lava_dl(
    network: QuantizedNetwork, images: Array, timesteps: int, *, labels: Array | None = None, device: str = "cpu"
) -> LavaDl | None:
    """Return what unmodified lava-dl computes for ``images``, uint8 ``(N, C, H, W)``, after T steps.

    None if it changes the weights of a layer, or fails (`lava_dl_notes` has the reason).
    """
    if any(findings(_LAYER_RULES, _stock(network).layers, "lava")):
        return None
    # Loads torch, which a netx file does not need.
    from loihi_convert.conversion.agreement import measure_of
    from loihi_convert.simulation.simulator import last_outputs

    found, expected = (
        last_outputs(network, images, timesteps, device=device, neuron=neuron)
        for neuron in (NeuronModel.STOCK_LIF, None)
    )
    measure = measure_of(network.task)
    share = measure.share(*(network.real_outputs(outputs, timesteps) for outputs in (found, expected)))
    right = [None] * 2 if labels is None else [float((classes_of(each) == labels).mean()) for each in (found, expected)]
    return LavaDl(image_count=len(images), agreement=share, accuracy=right[0], ref_accuracy=right[1])


def lava_dl_findings(network: QuantizedNetwork, measured: LavaDl | None, target: Target) -> Iterator[Finding]:
    """Yield a warning if unmodified lava-dl loses more than `LOSS`, a note if it loses less or that is not known.

    Nothing for a file of hard reset, which it computes exactly.
    """

    is_loss = measured is not None and measured.loss > LOSS

    def unmodified_lava_dl_computes_the_same(network: QuantizedNetwork) -> Violation | None:
        if network.reset == "hard":
            return None
        if measured is not None and not is_loss:
            return Violation(_words(network, measured), "it is exact with `reset='hard'`", "", "")
        return Violation(
            "unmodified lava-dl computes another network" if measured is None else _words(network, measured),
            f"its neurons {', '.join(_differences(network))}",
            "lava/proc/lif/models.py",
            "For a file that it computes exactly, export with `reset='hard'`"
            + (" and `target='lava'`." if network.is_circuit else "."),
        )

    severity: Severity = "warning" if is_loss else "note"
    yield from findings([Rule(unmodified_lava_dl_computes_the_same, severity)], [(None, network)], target)


def _words(network: QuantizedNetwork, measured: LavaDl) -> str:
    from loihi_convert.conversion.agreement import measure_of

    measure, images = measure_of(network.task), f"{measured.image_count:,} images"
    if measured.accuracy is None or measured.ref_accuracy is None:
        return f"unmodified lava-dl {measure.words(measured.agreement, '`ref`', images)}"
    right, wanted = map(measure.percent, (measured.accuracy, measured.ref_accuracy))
    return f"unmodified lava-dl classifies {right} of {images} correctly, `ref` {wanted}"


def _differences(network: QuantizedNetwork) -> Iterator[str]:
    """Say what Lava's LIF does otherwise with the numbers of ``network``."""
    layers = network.stored.layers
    yield "reset to 0"
    if any(rules.neurons_start_at_zero(layer) for layer in layers):
        yield "start at 0"
    if any(rules.synaptic_currents_do_not_wrap(layer) for layer in layers):
        yield f"wrap currents beyond {limits.WRAPS_ABOVE:,}"
    if any(rules.biases_fit_sixteen_bits(layer) for layer in layers):
        yield f"wrap biases beyond {limits.LIF_BIAS_LIMIT:,}"


def _stock(network: QuantizedNetwork) -> StockFile:
    return stock_file(dict(encode(network))).with_names([layer.name for layer in network.layers])


def lava_dl_notes(network: QuantizedNetwork) -> tuple[str, ...]:
    """Return what a user of unmodified lava-dl must know to run the file of ``network``, one line per finding.

    With hard reset, which it computes exactly on a CPU, also the first reason why it cannot do so on a chip.
    """
    file = _stock(network)
    found = (
        *findings(_NETWORK_RULES, [(None, NetworkRun(network, network.timesteps))], "lava"),
        *findings(_LAYER_RULES, file.layers, "lava"),
    )
    on_chip = findings(STOCK_LIF_RULES if network.reset == "hard" else (), file.layers, "loihi2")
    return (
        *(finding.text for finding in found),
        *(f"not usable on Loihi 2: {first.text}" for first in islice(on_chip, 1)),
    )
