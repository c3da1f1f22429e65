"""Tables of a network: layers, effects of quantization, resources on a chip, and where accuracy is lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from loihi_convert.chip import limits
from loihi_convert.chip.partition import span
from loihi_convert.errors import first_few, low_to_high
from loihi_convert.ir.network import layer_words, own_channels, relay_count
from loihi_convert.metrics.advice import CAUSES
from loihi_convert.report.table import Table, neurons, neurons_header, percent, points, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loihi_convert.checks.finding import Finding
    from loihi_convert.chip.resources import Chips, NeuronCost
    from loihi_convert.conversion.flow import LayerReport, QuantizationReport
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.metrics.diagnosis import Diagnosis, LayerError


# At most this many places are named per reason; `--json` lists all.
_MAX_PLACES = 2


def network_table(network: QuantizedNetwork) -> Table:
    """Return the layers of a network: output shape, neurons, bits of the largest weight, range of thresholds.

    Relays are counted separately, and excluded from bits and thresholds.
    """
    has_relays = any(relay_count(layer.relay_of) for layer in network.layers)
    rows = [
        {
            "layer": layer.name,
            "output": " x ".join(map(str, shape)),
            neurons_header(has_relays=has_relays): neurons(
                math.prod(shape), math.prod(shape[1:]) * relay_count(layer.relay_of)
            ),
            "weights": f"{layer.weight.size:,}",
            "weight\nbits": str(int(abs(layer.weight[own_channels(layer.relay_of)]).max(initial=0)).bit_length() + 1),
            "thresholds": "only integrates"
            if layer.threshold is None
            else low_to_high(layer.threshold[own_channels(layer.relay_of)].tolist()),
        }
        for layer, shape in zip(network.layers, network.shapes, strict=True)
    ]
    return table_of(rows, caption=network.summary)


def quantization_table(report: QuantizationReport) -> Table:
    """Return the bits, thresholds and clipping of each layer of an exported network.

    For target loihi2 it also shows how its grid changed the thresholds, and why u cannot wrap (proof or headroom).
    """
    is_chip = report.target == "loihi2"
    rows = [
        {
            "layer": layer.name,
            "weight bits\nleast..most": None if layer.weight_bits is None else low_to_high(layer.weight_bits),
            "weights\noff by": f"{100 * layer.weight_error:.2g} %",
            "identity\nbits lost": None
            if layer.identity_ratio is None
            else f"{layer.identity_ratio:.1f} x: {layer.identity_bits:.1f}",
            "thresholds": _thresholds(layer),
            "thresholds\noff by": f"{100 * layer.threshold_error:.2g} %" if is_chip and layer.thresholds else None,
            "dead\nchannels": str(len(layer.dead_channels)) if layer.dead_channels else "",
            f"images {'wrapped' if is_chip else 'clipped'}\nlow / high": (
                f"{layer.low_clipped:,} / {layer.high_clipped:,}"
            ),
            "u cannot wrap:": _proof(layer, report.image_count) if is_chip else None,
        }
        for layer in report.layers
    ]
    if is_chip:
        caption = (
            f"target loihi2, pixels of {report.pixel_bits} bits, T = {report.timesteps}: proven for any image, or "
            "held in range, with headroom, on the calibration images"
        )
    else:
        harmless = "".join(
            f"; {'low and high are' if layer.is_high_harmless else 'low is'} harmless in {layer_words(layer.name)}"
            for layer in report.layers
            if layer.is_low_harmless
        )
        caption = (
            f"clipping in {report.timesteps} steps of {report.image_count:,} calibration images{harmless}. "
            f"Output potentials fit, with a margin, for T <= {report.max_timesteps:,}"
        )
    if any(layer.identity_ratio for layer in report.layers):
        caption += (
            ". Identity: the weight of a skip relative to the largest weight of the convolution in its layer, and the "
            "bits this costs that convolution"
        )
    return table_of(rows, caption=caption)


def obstacle_table(obstacles: Sequence[Finding], name: str) -> Table:
    """Return the layers of the CNN ``name`` that cannot be converted, one row per reason."""
    places: dict[tuple[str, str], list[str]] = {}
    for finding in obstacles:
        # The first error's hint also gives the number of errors.
        places.setdefault((finding.found, finding.fix.split(".")[0]), []).append(finding.layer or name)
    rows = [
        {
            "operation": found.split()[0],
            "places": first_few(layers, _MAX_PLACES),
            "found": " ".join(found.split()[1:]),
            "instead": fix,
        }
        for (found, fix), layers in places.items()
    ]
    words = ("operation", "places", "found", "instead")
    return table_of(rows, words=words, caption=f"{name}: {len(obstacles)} parts have no spiking equivalent")


def _thresholds(layer: LayerReport) -> str:
    if layer.thresholds is not None:
        return low_to_high(layer.thresholds)
    if layer.dead_channels:
        return "none fires"
    return "relays" if layer.weight_bits is None else "only integrates"


def _proof(layer: LayerReport, image_count: int) -> str:
    if layer.is_proven:
        return "proven"
    return "not held" if layer.low_clipped or layer.high_clipped else f"held on {image_count:,} images"


_NEURONS: Final = {
    "own": ("soft reset, own neurons", "microcode, which needs Intel's tools"),
    "circuit": ("soft reset, stock circuit", "export --target loihi2"),
    "LIF": ("hard reset, stock LIF", "export --reset hard, other spikes"),
    "graded": ("graded spikes, stock SigmaDelta", "export --spikes graded, one step"),
}


def neuron_cost_table(costs: Sequence[NeuronCost]) -> Table:
    """Return what a network takes on Loihi 2 with each kind of neuron."""
    rows = [
        {
            "kind": _NEURONS[cost.neurons][0],
            "how": _NEURONS[cost.neurons][1],
            "neurocores": span(cost.cores),
            "neurons": f"{cost.neuron_count:,}",
            "synapses": f"{cost.synapses:,}",
        }
        for cost in costs
    ]
    return table_of(rows, words=("kind", "how"), caption="neurocores are an estimate")


def resource_table(chips: Chips) -> Table:
    """Return the resources that each layer of a network needs on Loihi 2."""
    rows = [
        {
            "layer": layer.name,
            neurons_header(has_relays=chips.has_relays): neurons(layer.neurons, layer.relay_neurons),
            "fan-in": f"{layer.fan_in:,}",
            "fan-out": f"{layer.fan_out:,}" if layer.fan_out else None,
            "synapses": f"{layer.synapses:,}",
            "weights\nin file": f"{layer.weights:,}",
            "tile\nw x h x c": None if layer.tile is None else " x ".join(map(str, layer.tile)),
            "neurons\na core": f"{layer.core_neurons:,}",
            "words\na core": f"{layer.core_words:,}",
            "neurocores": span(layer.cores),
            "limited by": layer.limit,
        }
        for layer in chips.layers
    ]
    relays = f", {span(chips.relay_cores)} of them for relays" if chips.has_relays else ""
    sources = f", {chips.source_cores:,} of them for bias sources" if chips.source_cores else ""
    caption = (
        f"{span(chips.cores)} of {chips.available:,} neurocores{relays}{sources}; a core has "
        f"{limits.NEURONS_PER_CORE:,} neurons and {limits.SYNAPSE_WORDS:,} words of synaptic memory. This is "
        f"{chips.boundary}"
    )
    return table_of(rows, caption=caption)


_CHANGED: Final = "changed, one step at a time"


def cause_table(diagnosis: Diagnosis) -> Table:
    """Return the networks from the CNN to the file, with the loss of each relative to the previous one."""
    rows = [
        {
            _CHANGED: "(the CNN)" if step.cause is None else CAUSES[step.cause],
            "accuracy\n%": percent(step.accuracy),
            "same as\nCNN %": percent(step.agreement_with_cnn),
            "loss,\npoints": None if step.cause is None else points(step.loss_points),
            "output's\ncorrelation": _correlation(step.layers[-1]) if step.layers else None,
        }
        for step in diagnosis.stages
    ]
    rows.append({**dict.fromkeys(rows[0]), _CHANGED: "in all", "loss,\npoints": points(diagnosis.loss_points)})
    caption = f"at T = {diagnosis.timesteps}; a negative loss is a gain. The last network is the file"
    return table_of(rows, words=(_CHANGED,), caption=caption, has_total=True)


def divergence_table(diagnosis: Diagnosis) -> Table:
    """Return the deviation of each layer from the CNN at the main steps, and its loss."""
    counts = [step for step in diagnosis.stages if step.cause in ("levels", "initial_potential")]
    spikes = [step for step in diagnosis.stages if step.cause in ("timing", "input", "correction", "reset")]
    clipped, file = diagnosis.stages[1], diagnosis.stages[-1]
    rows = [
        {
            "layer": layer.name,
            "clipped": _correlation(clipped.layers[index]) or "",
            "spike\ncounts": _correlation(counts[-1].layers[index]) or "",
            "float\nSNN": _correlation(spikes[-1].layers[index]) or "",
            "file": _correlation(file.layers[index]) or "",
            "error\n%": percent(file.layers[index].relative_error),
            "loss,\npoints": points(layer.loss_points),
            "threshold /\nlargest": points(layer.threshold_to_largest),
            "cut off\n%": percent(layer.share_above_threshold),
            "weight\nbits": None if layer.weight_bits is None else str(layer.weight_bits),
        }
        for index, layer in enumerate(diagnosis.layers)
    ]
    caption = (
        "clipped, spike counts, float SNN, file: correlation with the CNN's activations. Error: the file's mean "
        "squared error over the CNN's mean square. Loss: points that the CNN loses when it continues from this layer "
        "of the file, minus those for the layer before. Threshold / largest: threshold over the CNN's largest "
        "activation. Cut off: the CNN's positive activations above the threshold"
    )
    return table_of(rows, words=("layer",), caption=caption)


def _correlation(error: LayerError) -> str | None:
    return None if error.correlation is None else f"{error.correlation:.3f}"
