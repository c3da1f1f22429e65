"""ReluNetwork -> QuantizedNetwork: choose a method, balance, correct, quantize, and report the cost of rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.agreement import (
    Agreement,
    Measure,
    agreement_of,
    measure_of,
    real_outputs,
    rounding_notes,
)
from loihi_convert.conversion.balancing import Trial, balance, choose_method, trial_images
from loihi_convert.conversion.options import AUTO, BalanceOptions, ConversionOptions, QuantizeOptions, require_timesteps
from loihi_convert.conversion.quantization import quantize
from loihi_convert.conversion.scales import is_proven
from loihi_convert.ground.arrays import Array, signed_bits
from loihi_convert.ground.choices import Target
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork, is_relay, layer_words
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Synapse
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.simulation.simulator import HarmlessLimits, clipped_images, harmless_limits


@dataclass(frozen=True)
class LayerReport:
    """Cost of rounding one layer, without its relays, which are rounded without error.

    Parameters
    ----------
    name
        The layer.
    weight_bits
        Bits used by the widest weight of a channel, sign included: (smallest, median, largest) over the channels that
        can fire, or integrate; ``None`` if there are none.
    weight_error
        Root mean square of the rounding error of the weights, divided by that of the weights themselves, over the
        channels that can fire.
    thresholds
        (smallest, largest) of the channels that can fire; ``None`` if none can, or the layer only integrates.
    threshold_error
        Largest relative rounding error of a threshold; 0 without thresholds.
    dead_channels
        Channels that can never fire.
    low_clipped, high_clipped, either_clipped
        Calibration images on which a potential passed its lower limit, its upper limit, or either. For target loihi2:
        images on which u wrapped.
    identity_ratio
        If skip connections enter: the weight of a skip divided by the largest other weight of the same channel, the
        median over the channels that a skip enters; see `identity_ratio`. ``None`` without skips.
    is_low_harmless, is_high_harmless
        Whether clipping at that limit changes no spike, see `HarmlessLimits`.
    is_proven
        For target loihi2: True if no image can make u wrap; False if it only stays in range on the calibration images.
        ``None`` for target lava, whose potentials clip.
    """

    name: str
    weight_bits: tuple[int, int, int] | None
    weight_error: float
    thresholds: tuple[int, int] | None
    dead_channels: tuple[int, ...]
    low_clipped: int
    high_clipped: int
    either_clipped: int
    threshold_error: float = 0.0
    is_proven: bool | None = None
    identity_ratio: float | None = None
    is_low_harmless: bool = False
    is_high_harmless: bool = False

    @property
    def harmful_clips(self) -> int:
        """Calibration images on which clipping may have changed spikes or outputs."""
        harmless = HarmlessLimits(self.is_low_harmless, self.is_high_harmless)
        return harmless.harmful(self.low_clipped, self.high_clipped, self.either_clipped)

    @property
    def identity_bits(self) -> float | None:
        """Weight bits lost by the channels that skips enter: log2 of `identity_ratio`, at least 0."""
        return None if self.identity_ratio is None else max(0.0, math.log2(self.identity_ratio))


@dataclass(frozen=True)
class QuantizationReport:
    """Cost of rounding, layer by layer.

    Parameters
    ----------
    layers
        One per layer.
    image_count
        Number of calibration images on which clipping was counted.
    timesteps
        Number of steps over which clipping was counted.
    max_timesteps
        Largest T for which the output potentials stay in range.
    target
        Target of the network.
    pixel_bits
        Pixel bits of the network.
    """

    layers: tuple[LayerReport, ...]
    image_count: int
    timesteps: int
    max_timesteps: int
    target: Target = "lava"
    pixel_bits: int = limits.MAX_PIXEL_BITS


def report_quantization(
    network: QuantizedNetwork,
    real: SpikingNetwork,
    images: ImageArray,
    *,
    device: str = "cpu",
) -> QuantizationReport:
    """Return the cost of rounding ``real`` to ``network``.

    Clipping is counted on ``images``, uint8 ``(N, C, H, W)``, over ``network.timesteps`` steps.
    """
    clipped = clipped_images(network, images, network.timesteps, device=device)
    layers = []
    for index, (layer, before, counts, amplitude) in enumerate(
        zip(network.layers, real.layers, clipped.tolist(), network.received_amplitudes, strict=True)
    ):
        synapse = before.synapse if amplitude is None else before.synapse.with_input_factors(amplitude)
        proven = None
        if network.is_circuit:
            proven = is_proven(layer, network.timesteps, is_constant=network.has_constant_current(index))
        own = ~is_relay(layer.relay_of, layer.synapse.channels)
        dead = np.zeros(len(own), np.bool_) if layer.balanced is None else ~np.isfinite(layer.balanced.threshold) & own
        alive = own & ~dead
        rows, wanted = (weight.reshape(len(own), -1)[alive] for weight in (layer.weight, synapse.weight))
        bits = signed_bits(np.abs(rows).max(axis=1))
        lost = float(np.square(wanted - rows * (layer.scale[alive, None] * layer.largest_input_sum)).sum())
        fires = np.zeros(0) if layer.threshold is None else layer.threshold[alive]
        balanced = fires if layer.balanced is None else layer.balanced.threshold[alive]
        errors = np.abs(fires * layer.scale[alive] - balanced) / balanced if fires.size else fires
        report = LayerReport(
            layer.name,
            (int(bits.min()), int(np.median(bits)), int(bits.max())) if bits.size else None,
            math.sqrt(lost / (float(np.square(wanted).sum()) or 1.0)),
            (int(fires.min()), int(fires.max())) if fires.size else None,
            tuple(np.flatnonzero(dead).tolist()),
            low_clipped=counts[0],
            high_clipped=counts[1],
            either_clipped=counts[2],
            threshold_error=float(errors.max(initial=0)),
            is_proven=proven,
            identity_ratio=identity_ratio(synapse, network.layers[index - 1].relay_of if index else None),
            **harmless_limits(network, index)._asdict(),
        )
        layers.append(report)
    return QuantizationReport(
        tuple(layers), len(images), network.timesteps, network.max_timesteps, network.target, network.pixel_bits
    )


def identity_ratio(synapse: Synapse, relay_of: Array | None) -> float | None:
    """Return the size of the weights of skips relative to the other weights of the channels they enter.

    A relay enters a layer as an *identity* if it has a single weight there, one tap into one channel that also has
    weights from other inputs. It contains the amplitude that the relay repeats. Since all weights of a channel share
    one scale, the others lose the logarithm of the ratio in bits: the largest weight of an identity divided by the
    largest other weight, the median over the channels that have both; None if there are none. ``synapse`` is in
    floating point, with amplitudes, ``relay_of`` that of the layer before.
    """
    if relay_of is None:
        return None
    groups = synapse.groups if isinstance(synapse, Conv) else 1
    weight = np.abs(synapse.weight)
    # (groups, outputs and inputs of a group, taps)
    taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    inputs = np.repeat(is_relay(relay_of, len(relay_of)), groups * weight.shape[1] // len(relay_of))
    is_identity = (np.count_nonzero(taps, axis=(1, 3)) == 1) & inputs.reshape(groups, -1)
    largest = taps.max(axis=3)
    skips = np.where(is_identity[:, None], largest, 0).max(axis=2)
    others = np.where(is_identity[:, None], 0, largest).max(axis=2)
    joined = (skips > 0) & (others > 0)
    return float(np.median(skips[joined] / others[joined])) if joined.any() else None


COMPARED_IMAGES: Final = 32
"""Calibration images on which the outputs of the quantized and of the float network are compared."""

# Bits that the readout loses before a split is tried, or hinted at.
_LOST_BITS: Final = 2
# Largest part of the squared error that a split may leave: it takes more neurons, and other tools see both digits.
_SPLIT_ERROR: Final = 0.75

CHOICE_NOTE: Final = "`method='auto'`: "
"""The beginning of the note on the method that was chosen."""


@dataclass(frozen=True, eq=False)
class Conversion:
    """A CNN in Loihi's integers, and the stages of its conversion.

    Parameters
    ----------
    spiking
        The float SNN that was rounded.
    quantized
        The rounded network, in integers.
    report
        Cost of rounding, layer by layer.
    trials
        The trials of ``auto``, the chosen method first; empty if the method was given.
    agreement
        Agreement of ``quantized`` with the CNN, on the calibration images of the trials.
    notes
        Notes for the user, one sentence each.
    """

    spiking: SpikingNetwork
    quantized: QuantizedNetwork
    report: QuantizationReport
    trials: tuple[Trial, ...]
    agreement: Agreement
    notes: tuple[str, ...]


def to_integers(
    cnn: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: ConversionOptions = ConversionOptions(),
) -> Conversion:
    """Return ``cnn`` in Loihi's integers, balanced for ``timesteps`` steps; arguments as in `balancing.balance`."""
    require_timesteps((timesteps,))
    balancing, rounding, device = options.balance, options.quantize, options.device
    measure, trying = measure_of(cnn.task), trial_images(images, timesteps)

    def made(chosen: BalanceOptions) -> _Made:
        """Balance, correct, quantize and measure."""
        with progress_bar(f"T = {timesteps}: balancing thresholds"):
            spiking = balance(cnn, images, timesteps, chosen, device=device)
        return rounded(spiking, rounding)

    def rounded(spiking: SpikingNetwork, rounding: QuantizeOptions) -> _Made:
        with progress_bar(f"T = {timesteps}: quantizing"):
            quantized = quantize(spiking, images, rounding, device=device)
        found = real_outputs(quantized, trying, device=device)
        return _Made(spiking, quantized, agreement_of(found, cnn_scores(cnn, trying), measure))

    trials: tuple[Trial, ...] = ()
    choice: tuple[str, ...] = ()
    if balancing.method == AUTO:
        with progress_bar(f"T = {timesteps}: choosing the balancing method"):
            trials = choose_method(cnn, images, timesteps, balancing, rounding, device=device)
        done, trials, choice = _best_of(made, trials, balancing, measure)
        if rounding.may_split(balancing) and _lost_bits(done.quantized, rounding.weight_bits) >= _LOST_BITS:
            split = rounded(done.spiking, replace(rounding, split_readout=True))
            if split.agreement.error < _SPLIT_ERROR * done.agreement.error:
                choice = (*choice, _split_note(measure, done, split))
                done = split
    else:
        done = made(balancing)
    spiking, quantized, agreement = done
    record = [asdict(trial) for trial in trials]
    spiking = replace(spiking, provenance=spiking.provenance.with_parts(choice=record))
    quantized = replace(quantized, provenance=quantized.provenance.with_parts(choice=record))
    # With enough images, others than chose the scales. On a chip potentials wrap, which is worse, so there all count.
    counted = images if quantized.is_circuit else trying
    with progress_bar(f"T = {timesteps}: counting clipped potentials"):
        report = report_quantization(quantized, spiking, counted, device=device)
    compared = np.asarray(images[:COMPARED_IMAGES])
    share = measure.share(*(real_outputs(network, compared, device=device) for network in (quantized, spiking)))
    notes = (
        *choice,
        *_agreement_notes(measure, agreement, balancing),
        *_readout_notes(quantized, rounding.weight_bits, may_split=not rounding.split_readout),
        *rounding_notes(measure, share, "the float SNN", len(compared)),
    )
    return Conversion(spiking, quantized, report, trials, agreement, notes)


class _Made(NamedTuple):
    spiking: SpikingNetwork
    quantized: QuantizedNetwork
    agreement: Agreement


def _best_of(
    made: Callable[[BalanceOptions], _Made], trials: tuple[Trial, ...], options: BalanceOptions, measure: Measure
) -> tuple[_Made, tuple[Trial, ...], tuple[str, ...]]:
    """The conversion by the best trial, the trials with the chosen one first, and notes.

    With more images than in the trial, thresholds and scales differ, and few-bit integers round differently. If the
    agreement falls by more than chance, the second best trial is converted too, and the better of both conversions is
    kept.
    """
    best, *others = trials
    found = made(best.chosen(options))
    notes: tuple[str, ...] = ()
    if others and measure.falls_short(found.agreement, best):
        second, *rest = others
        other = made(second.chosen(options))
        notes = (
            f"With all calibration images, the agreement of {best.name} falls to "
            f"{measure.percent(found.agreement.agreement)}, that of {second.name} to "
            f"{measure.percent(other.agreement.agreement)}; the better one is used.",
        )
        if (-other.agreement.agreement, other.agreement.error) < (-found.agreement.agreement, found.agreement.error):
            found, trials = other, (second, best, *rest)
    tried = ", ".join(f"{trial.name} {measure.percent(trial.agreement)}" for trial in trials)
    agreement, steps = found.agreement, found.quantized.timesteps
    agrees = measure.words(agreement.agreement, "the CNN", f"{agreement.image_count} calibration images")
    choice = f"{CHOICE_NOTE}{trials[0].name} for T = {steps}; the quantized network {agrees} (trials: {tried})."
    return found, trials, (choice, *notes)


def _agreement_notes(measure: Measure, found: Agreement, options: BalanceOptions) -> tuple[str, ...]:
    """A warning if the conversion loses much, and a hint if a percentile looks like a fraction."""
    notes: tuple[str, ...] = ()
    if found.agreement < measure.least_share:
        agrees = measure.words(found.agreement, "the CNN", f"{found.image_count} calibration images")
        remedy = "Try more `timesteps`" + ("." if options.method in (AUTO, "qcfs") else ", or `method='auto'`.")
        where = " `diagnose` shows where it loses." if measure.is_diagnosed else ""
        notes = (f"the quantized network only {agrees}. {remedy}{where}",)
    if options.percent <= 1:
        notes += (f"`percentile` is in percent: found {options.percent:g}; write {100 * options.percent:g}?",)
    return notes


def _split_note(measure: Measure, one: _Made, split: _Made) -> str:
    before, after = (measure.percent(made.agreement.agreement) for made in (one, split))
    name = layer_words(split.quantized.layers[-1].name)
    return f"{name}: two digits (`split_readout`) hold its weights: agreement {after} instead of {before}."


def _lost_bits(quantized: QuantizedNetwork, bits: int) -> int:
    """How many of ``bits`` the range of the output potentials costs the last layer's weights."""
    if quantized.readout == "spikes" or quantized.is_circuit:
        return 0
    return bits - int(signed_bits(np.abs(quantized.layers[-1].weight).max(keepdims=True)).max())


def _readout_notes(quantized: QuantizedNetwork, bits: int, *, may_split: bool) -> tuple[str, ...]:
    """A hint where the range of the output potentials costs the last layer weight bits."""
    lost = _lost_bits(quantized, bits)
    if lost < _LOST_BITS:
        return ()
    kept = f"weights keep only {bits - lost} of {bits} bits: the output potentials, with"
    remedy = "Fewer `timesteps` leave more" + (", or `split_readout`." if may_split else ".")
    return (f"{layer_words(quantized.layers[-1].name)}: {kept} their biases, take the range. {remedy}",)
