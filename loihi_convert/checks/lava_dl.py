"""What lava-dl makes of a netx file.

Rules on any file: contents that lava-dl cannot load, that do not fit Loihi, or that it silently gets wrong. For files
of this package, also how unmodified lava-dl runs them, and what that costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import numpy as np

from loihi_convert.checks.finding import Finding, Rule, Severity, Violation, findings
from loihi_convert.checks.network_rules import NetworkRun, pixels_enter_as_numbers, pixels_enter_with_eight_bits
from loihi_convert.chip import limits, rules
from loihi_convert.errors import InputError, low_to_high, one_of
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Target
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import classes_of
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.netx.hdf5 import EXPORT_AGAIN
from loihi_convert.netx.native import encode
from loihi_convert.netx.stock import StockFile, StockLayer, stock_file

_NETX: Final = "lava/lib/dl/netx/hdf5.py"
_WEIGHTS: Final = "optimize_weight_bits in lava/lib/dl/netx/utils.py"
_LIF: Final = "lava/proc/lif"
_SIGMA_DELTA: Final = "lava/proc/sdn"

_DENSE: Final = ("dense", "dense_rec")
_BUILT: Final = ("input", "conv", "flatten", *_DENSE)
_RAISING: Final = ("pool", "convT", "unpool", "average", "concat", "dense_comp")
_KNOWN_NEURONS: Final = ("CUBA", "LOIHI", "SDNN", "RF")
_RUNS_OWN: Final = "`loihi-convert run` computes its own files exactly, despite this."


def layers_are_numbered_from_zero(file: StockFile) -> Iterator[Violation]:
    if file.stray:
        found = f"the group /layer has a member {file.stray[0][:20]!a}"
        yield Violation(found, "its members must be 0, 1, 2, ...", _NETX, EXPORT_AGAIN)


def netx_builds_the_layer(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind not in _BUILT:
        outcome = "netx raises an error" if layer.kind in _RAISING else "netx skips it silently"
        fix = "Write a pooling as a strided convolution, as `loihi-convert export` does."
        yield Violation(f"a layer of type {layer.kind[:20]!r}: {outcome}", one_of(_BUILT), _NETX, fix)


def what_netx_needs_is_there(layer: StockLayer) -> Iterator[Violation]:
    if layer.missing:
        allowed = f"{layer.kind} needs {', '.join(layer.needed)}"
        yield Violation(f"{', '.join(layer.missing)} missing", allowed, _NETX, EXPORT_AGAIN)


def the_shape_follows_from_the_input(layer: StockLayer) -> Iterator[Violation]:
    if layer.stored_shape is None or layer.missing:
        return
    try:
        computed, _ = layer.output_shape, layer.recurrent
    except InputError as error:
        known = "unknown" if layer.input_shape is None else f"{layer.input_shape}"
        found, *rest = filter(None, (error.found, error.expected, f"the shape of its input is {known}"))
        yield Violation(found, "; ".join(rest), _NETX, EXPORT_AGAIN)
        return
    if computed is not None and computed != layer.expected_shape:
        allowed = f"its input and weights give {computed}"
        yield Violation(f"a shape of {layer.stored_shape}", allowed, _NETX, EXPORT_AGAIN)


def dense_layers_follow_a_flatten(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind in _DENSE and not layer.is_flat:
        allowed = "must follow a layer flatten: netx connects ports as they are"
        yield Violation(f"maps of shape {layer.input_shape}", allowed, _NETX, "Add a layer of type flatten.")


def the_geometry_fits_eight_bits(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind == "conv":
        most = limits.MAX_CONV_GEOMETRY
        for found in _outside(layer, ("stride", "padding", "dilation", "groups"), -math.inf, most):
            allowed = f"must be at most {most}: Lava's Conv stores int8, and fails"
            yield Violation(found, allowed, "lava/proc/conv/models.py", f"Divide the layer. {_RUNS_OWN}")


def the_neurons_are_known_to_netx(layer: StockLayer) -> Iterator[Violation]:
    if not _is_known(layer.neuron_type):
        found = f"{layer.neuron_type}"[:20]
        yield Violation(f"{found} neurons", one_of(_KNOWN_NEURONS), _NETX, "Train with one of these.")


def the_neurons_are_cuba_or_sigma_delta(layer: StockLayer) -> Iterator[Violation]:
    if layer.neuron_type is not None and _is_known(layer.neuron_type) and not (layer.is_cuba or layer.is_sdnn):
        fix = "Only weights and sizes are checked, not decays and thresholds."
        allowed = "`check` supports only CUBA, which is Lava's LIF, and SDNN, its sigma-delta neurons"
        yield Violation(f"{layer.neuron_type} neurons"[:40], allowed, "", fix)


def _is_known(neurons: str | None) -> bool:
    return neurons is None or neurons in _KNOWN_NEURONS or "RF" in neurons


def biases_and_thresholds_fit_the_state_of_a_sigma_delta_neuron(layer: StockLayer) -> Iterator[Violation]:
    if layer.is_sdnn and layer.kind != "input":
        shift = layer.spike_exp + limits.SIGMA_DELTA_STATE_EXP
        most = limits.CURRENT_LIMIT >> shift
        for found in _outside(layer, ("bias", "neuron/vThMant"), -most, most):
            allowed = f"must be within +-{most:,}: netx shifts them left by {shift} bits, into 24 bits"
            yield Violation(found, allowed, _SIGMA_DELTA, "Scale weights and biases down.")


def graded_spikes_are_the_changes_of_an_input(file: StockFile) -> Iterator[Violation]:
    if file.is_graded:
        allowed = (
            "a spike carries a number, the change of an activation, and nothing resets these neurons between images"
        )
        fix = "`loihi-convert run` computes each image from the settled state, which a blank input leaves."
        yield Violation("sigma-delta neurons, whose spikes are graded", allowed, _SIGMA_DELTA, fix)


def weights_are_whole_numbers(layer: StockLayer) -> Iterator[Violation]:
    if odd := layer.fractional_weights:
        fix = "Quantize them, as `loihi-convert export` and slayer's export_hdf5 do."
        yield Violation(f"{odd:,} weights are not integers", "netx rounds them towards 0", _NETX, fix)


def dense_weights_fit_a_synapse(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind in _DENSE:
        yield from _beyond_a_synapse(layer.synaptic_weights, "netx clips other weights, or sets the layer to 0")


def kernels_fit_a_synapse(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind == "conv":
        yield from _beyond_a_synapse(layer.synaptic_weights, "8 bits")


def _beyond_a_synapse(weight: Array | None, reason: str) -> Iterator[Violation]:
    if weight is not None:
        low, high = float(weight.min()), float(weight.max())
        least, most = limits.SYNAPSE_LIMITS if low < 0 < high else limits.UNSIGNED_SYNAPSE_LIMITS
        if not (least <= low and high <= most):
            allowed = f"must be in {least}..{most}: {reason}"
            yield Violation(f"weights {low:,.0f}..{high:,.0f}", allowed, _WEIGHTS, "Scale weights and thresholds down.")


def large_dense_weights_are_even(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind != "conv":
        yield from _odd_beyond_eight_bits(layer.synaptic_weights)


def large_kernels_are_even(layer: StockLayer) -> Iterator[Violation]:
    if layer.kind == "conv":
        yield from _odd_beyond_eight_bits(layer.synaptic_weights)


def _odd_beyond_eight_bits(weight: Array | None) -> Iterator[Violation]:
    if weight is None or not weight.min() < 0 < weight.max() or any(_beyond_a_synapse(weight, "")):
        return
    most = limits.WEIGHT_LIMIT
    if (weight.min() < -most - 1 or weight.max() > most) and (odd := int(np.count_nonzero(np.mod(weight, 2) == 1))):
        allowed = f"weights of both signs beyond +-{most} are stored in steps of 2"
        yield Violation(f"{odd:,} odd weights", allowed, _WEIGHTS, f"Make all weights even, or at most {most}.")


def dense_weights_have_both_signs(layer: StockLayer) -> Iterator[Violation]:
    weight = layer.synaptic_weights
    if layer.kind in _DENSE and weight is not None and not weight.min() < 0 < weight.max():
        found = f"a dense layer without a {'positive' if weight.max() <= 0 else 'negative'} weight"
        allowed = "unmodified lava-dl halves or clips such a layer, and fails if all weights are 0"
        # `run` does not support recurrent layers.
        yield Violation(found, allowed, _WEIGHTS, "Add such a weight." + f" {_RUNS_OWN}" * (layer.kind == "dense"))


def decays_fit_twelve_bits(layer: StockLayer) -> Iterator[Violation]:
    if layer.is_cuba:
        for found in _outside(layer, ("neuron/iDecay", "neuron/vDecay"), 0, limits.MAX_DECAY):
            allowed, fix = f"must be in 0..{limits.MAX_DECAY}", "Train with a decay in that range."
            yield Violation(found, allowed, f"{_LIF}/models.py", fix)


def thresholds_fit_seventeen_bits(layer: StockLayer) -> Iterator[Violation]:
    most, name = limits.THRESHOLD_LIMIT - 1, "neuron/vThMant"
    value = layer.numbers(name) if layer.is_cuba else None
    if value is not None and (any(_outside(layer, (name,), 0, most)) or not _is_whole(value).all()):
        fix = "Scale weights and thresholds down together."
        yield Violation(f"vThMant {_range(value)}", f"must be integers in 0..{most}", "17 bits; Loihi", fix)


def one_threshold_per_population(layer: StockLayer) -> Iterator[Violation]:
    value = layer.numbers("neuron/vThMant") if layer.is_cuba else None
    if value is not None and np.unique(value).size > 1:
        fix = "Export with `thresholds='scalar'`, or with `target='loihi2'` and `reset='soft'`."
        found = f"{np.unique(value).size} different thresholds, vThMant {_range(value)}"
        allowed = "LIF has one threshold for all its neurons; an array works only on the CPU, and is undocumented"
        yield Violation(found, allowed, f"vth of shape (1,), {_LIF}/process.py", fix)


def biases_fit_sixteen_bits(layer: StockLayer) -> Iterator[Violation]:
    fix = "Scale weights, biases and thresholds down together."
    limit, reason = limits.LIF_BIAS_LIMIT, "Lava's LIF stores int16 and wraps"
    yield from _bias_outside(layer, -limit - 1, limit, reason, fix)


def biases_fit_thirteen_bits(layer: StockLayer) -> Iterator[Violation]:
    fix = "Export with `target='loihi2'` and `reset='soft'`, where a bias has an exponent."
    yield from _bias_outside(layer, *limits.BIAS_MANT_RANGE, "bias_mant has 13 bits", fix)


def _bias_outside(layer: StockLayer, least: int, most: int, reason: str, fix: str) -> Iterator[Violation]:
    # A dense layer without neurons is a LIF that never fires.
    if layer.kind != "input" and (layer.is_cuba or (layer.kind == "dense" and not layer.has_neurons)):
        for found in _outside(layer, ("bias",), least, most):
            yield Violation(found, f"must be in {least}..{most}: {reason}", f"{_LIF}/models.py", fix)


def delays_are_short(layer: StockLayer) -> Iterator[Violation]:
    for found in _outside(layer, ("delay",), -math.inf, limits.MAX_DELAY_STEPS):
        allowed = f"must be at most {limits.MAX_DELAY_STEPS} steps; netx shortens longer ones"
        yield Violation(found, allowed, _NETX, "Train with shorter delays.")


def spikes_have_no_bit_widths(layer: StockLayer) -> Iterator[Violation]:
    if "neuron/messageBits" in layer.datasets:
        yield Violation("a dataset neuron/messageBits", "netx fails on it", _NETX, "Delete the dataset.")


def _outside(layer: StockLayer, names: Iterable[str], least: float, most: float) -> Iterator[str]:
    """Yield the first dataset with a number outside ``least``..``most``, and its range."""
    for name in names:
        value = layer.numbers(name)
        # In float64, as float16 cannot hold every limit.
        if value is not None and not ((exact := value.astype(np.float64)) >= least).all() & (exact <= most).all():
            yield f"{name.removeprefix('neuron/')} {_range(value)}"
            return


def _is_whole(value: Array) -> Array:
    return np.asarray(np.isfinite(value) & (np.floor(value) == value))


def _range(value: Array) -> str:
    return low_to_high((value.min(), value.max()), "{:,}".format)


FILE_RULES: Final[tuple[Rule[StockFile], ...]] = (
    Rule(layers_are_numbered_from_zero, "error"),
    Rule(graded_spikes_are_the_changes_of_an_input, "note"),
)

STOCK_RULES: Final[tuple[Rule[StockLayer], ...]] = (
    Rule(netx_builds_the_layer, "error"),
    Rule(what_netx_needs_is_there, "error"),
    Rule(the_shape_follows_from_the_input, "error"),
    Rule(dense_layers_follow_a_flatten, "error"),
    Rule(the_geometry_fits_eight_bits, "warning"),
    Rule(the_neurons_are_known_to_netx, "error"),
    Rule(the_neurons_are_cuba_or_sigma_delta, "note"),
    Rule(biases_and_thresholds_fit_the_state_of_a_sigma_delta_neuron, "warning"),
    Rule(weights_are_whole_numbers, "error"),
    Rule(dense_weights_fit_a_synapse, "error"),
    Rule(kernels_fit_a_synapse, None, "error"),
    Rule(large_dense_weights_are_even, "warning"),
    Rule(large_kernels_are_even, None, "warning"),
    Rule(dense_weights_have_both_signs, "warning"),
    Rule(decays_fit_twelve_bits, "error"),
    Rule(thresholds_fit_seventeen_bits, "error"),
    Rule(delays_are_short, "warning"),
    Rule(spikes_have_no_bit_widths, "error"),
)

STOCK_LIF_RULES: Final[tuple[Rule[StockLayer], ...]] = (
    Rule(biases_fit_sixteen_bits, "warning", None),
    Rule(one_threshold_per_population, None, "error"),
    Rule(biases_fit_thirteen_bits, None, "error"),
)
"""Rules on Lava's LIF: not for soft reset, for which `lava_dl` measures what unmodified lava-dl computes."""


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

    def unmodified_lava_dl_computes_the_same(network: QuantizedNetwork) -> Iterator[Violation]:
        found = "unmodified lava-dl computes another network" if measured is None else _words(network, measured)
        if network.reset == "hard":
            return
        if measured is not None and not is_loss:
            yield Violation(found, "it is exact with `reset='hard'`", "", "")
            return
        other_target = " and `target='lava'`" * network.is_circuit
        fix = f"For a file that it computes exactly, export with `reset='hard'`{other_target}."
        yield Violation(found, f"its neurons {', '.join(_differences(network))}", "lava/proc/lif/models.py", fix)

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
