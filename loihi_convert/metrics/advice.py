"""A diagnosis in words, for readers who know PyTorch but not Loihi: what is lost, where, why, and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from loihi_convert.chip import limits
from loihi_convert.ground.choices import Architecture, DatasetName
from loihi_convert.ir.network import layer_words, only_relays, own_channels

if TYPE_CHECKING:
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.metrics.diagnosis import Diagnosis
    from loihi_convert.simulation.intermediate import Cause

CAUSES: Final[Mapping[Cause, str]] = {
    "clipping": "clipping at the thresholds",
    "amplitude": "amplitude 1 instead of the threshold",
    "levels": "rounding to T + 1 spike counts",
    "initial_potential": "initial potential",
    "timing": "uneven spike timing",
    "input": "noise of Poisson input",
    "correction": "corrected biases",
    "reset": "hard reset",
    "weights": "weight bits",
    "thresholds": "bits of thresholds, biases, pixels",
    "saturation": "saturation of potentials",
}
"""A short name for each cause."""


_CALIBRATE: Final = "calibrate on images like these"
_CALIBRATE_ON_ALL: Final = f"{_CALIBRATE}, as many as there are"

HIGH_THRESHOLD: Final = 2.0
"""A threshold this many times the largest activation leaves at least half of the spike counts unused."""

LARGE_MARGIN: Final = 1.0
"""Percentage points: images that cannot show a loss of this size cannot show that all is well."""


def verdict(diagnosis: Diagnosis) -> str:
    """Return the loss, its cause and its place, in a few sentences."""
    count = "1 image" if diagnosis.image_count == 1 else f"{diagnosis.image_count:,} images"
    if diagnosis.measure == "accuracy":
        what = f"{diagnosis.loss_points:.2f} points of accuracy on {count}"
    else:
        what = f"the CNN's class on {diagnosis.lost_images:,} of {count}"
    if diagnosis.main_cause is None:
        changing = max(diagnosis.stages, key=lambda stage: stage.changed_images)
        most = "" if changing.cause is None else f" Most changed classes are due to {CAUSES[changing.cause]}."
        few = f"nothing on {count}" if diagnosis.lost_images <= 0 else f"only {what}"
        pairs = f"{diagnosis.newly_wrong} newly wrong, {diagnosis.newly_right} newly right"
        found = f"file loses {few if diagnosis.is_small else what} ({pairs})"
        if not diagnosis.is_small:
            return f"No cause is named: the {found}, less than twice the standard error. Use more images.{most}"
        if diagnosis.same_class_notes:
            return f"These images cannot show a loss. {' '.join(diagnosis.same_class_notes)} The {found}.{most}"
        if diagnosis.margin_points > LARGE_MARGIN:
            least = f"{count} cannot show a loss of less than about {diagnosis.margin_points:.3g} points"
            return f"Too few images: {least}. The {found}.{most}"
        return f"No problem found: the {found}.{most}"
    (stage,) = (stage for stage in diagnosis.stages if stage.cause == diagnosis.main_cause)
    points = 100 * stage.remaining_images / diagnosis.image_count
    return (
        f"The file loses {what}. Main cause: {CAUSES[diagnosis.main_cause]} ({points:.2f} points). Half of the loss "
        f"has occurred by layer {diagnosis.first_layer}."
    )


def advice(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    """Return what to try, the most promising first, for ``network``; empty if the loss is not significant."""
    if diagnosis.main_cause is None:
        return ()
    facts = _facts(diagnosis, network)
    rows = (("is_mixed", _MIXED), *_ADVICE[diagnosis.main_cause])
    return tuple(sentence.format_map(facts) for condition, sentence in rows if not condition or facts[condition])


_MIXED: Final = "The thresholds are balanced for T = {balanced}: export with `timesteps={T}` to balance them for it."
_MORE_STEPS: Final = ("", "More time steps: export with `timesteps={twice}`.")
_FINE_TUNE: Final = (
    "can_be_trained",
    "To keep this T, fine-tune for a few epochs: `train --qcfs {qcfs} --from model.pt --teacher model.pt -o low.pt`, "
    "then export that with `timesteps={T}`.",
)
_ADVICE: Final[Mapping[Cause, tuple[tuple[str, str], ...]]] = {
    "clipping": (
        ("is_scaled", "`alpha={alpha}` lowered the thresholds: omit it."),
        ("", "{clipped}: {share:.1f} % of the positive activations are above the threshold, where a neuron spikes at "
         "every step and larger activations cannot be distinguished.{higher}"),
        ("is_coarse", "Balancing chose low thresholds because T = {T} steps are too coarse with higher ones. More time "
         "steps: export with `timesteps={twice}`."),
        ("is_fine", "If the file was balanced on other images than these, {on_all}."),
    ),
    "amplitude": (
        ("", "Use the threshold as the amplitude of a spike, not 1: export with `amplitude='compensated'`."),
    ),
    "levels": (
        ("is_high", "{highest}: thresholds are {ratio:.1f} times the largest activation (median over channels), so "
         "neurons hardly ever spike.{lower}"),
        ("is_low", "T = {T} steps give only {levels} different spike counts."),
        _MORE_STEPS,
        _FINE_TUNE,
    ),
    "initial_potential": (
        ("starts_half", "The corrected initial potentials do worse here: export with `bias_correction=False`, or "
         "{on_all}."),
        ("starts_empty", "Neurons start at potential 0, so each loses half a spike on average. Export with `{start}`: "
         "neurons start at half of their threshold, which rounds to nearest."),
    ),
    "timing": (
        ("", "Spikes arrive in bursts and gaps, and a neuron cannot take back a spike when negative input follows."),
        _MORE_STEPS,
        _FINE_TUNE,
        ("is_uncorrected", "Export with `bias_correction=True` to correct the mean current of each channel."),
    ),
    "input": (
        ("", "Pixels enter as random spikes, with the correct rate only on average: export with "
         "`input_coding='constant'` to feed the pixel values in every step."),
        _MORE_STEPS,
    ),
    "correction": (
        ("", "The corrections lower the accuracy here: export with `bias_correction=False`, or {on_all}."),
    ),
    "reset": (
        ("", "A hard reset discards the potential above the threshold: export with `reset='soft'` to keep it."),
        ("", "If you need Lava's LIF, use a larger T: export with `reset='hard'` and `timesteps={twice}`."),
    ),
    "weights": (
        ("has_few_bits", "The weights were rounded to {bits} bits: export with `weight_bits=8`."),
        ("wastes_bits", "{coarsest}: the widest weights use {coarsest_bits} of 8 bits, because large inputs or "
         "thresholds take up the range of the potential.{fewer_pixel_bits}{lower}"),
        ("", "A few large weights cost the others bits: train with weight decay, or with rounded weights{training}."),
    ),
    "thresholds": (
        ("has_few_pixel_bits", "Pixels enter with {pixel_bits} bits: export with `pixel_bits={more_pixel_bits}`."),
        ("smallest", "{smallest}: the smallest threshold is {smallest_threshold} weight units, so rounding can change "
         "it by {rounding:.2g} %."),
    ),
    "saturation": (
        ("", "{saturated}: on {saturated_images:,} of {image_count:,} images a potential reached +-{limit:,}, the "
         "limit of Loihi's range. If the file was balanced on other images than these, {calibrate}."),
    ),
}  # fmt: skip
"""What to try by cause, in this order: the fact that must be true, if any, and the sentence."""


def _facts(diagnosis: Diagnosis, network: QuantizedNetwork) -> dict[str, Any]:
    """What the sentences and conditions of `_ADVICE` name."""
    made, bits, steps = network.provenance.balance, network.provenance.quantize.weight_bits or 8, diagnosis.timesteps
    spiking = diagnosis.layers if diagnosis.readout == "spikes" else diagnosis.layers[:-1]
    clipped = max(spiking, key=lambda layer: layer.share_above_threshold or 0, default=diagnosis.layers[0])
    highest = max(spiking, key=lambda layer: layer.threshold_to_largest or 0, default=diagnosis.layers[0])
    coarsest = min(diagnosis.layers, key=lambda layer: layer.weight_bits or 9)
    saturated = max(diagnosis.layers, key=lambda layer: layer.saturated_images)
    smallest, smallest_name = smallest_threshold(network)
    alpha, is_trainable, ratio = made.alpha or 1.0, can_be_trained(network), highest.threshold_to_largest or 0
    is_coarse, pixels = alpha == 1 and made.method == "least-squares", network.pixel_bits
    # Levels for training: 4 are enough for the fewest steps; more than 16 have no benefit.
    qcfs = min(max(4, steps), 16)
    has_spare_pixels = coarsest.name == network.layers[0].name and pixels > 1 and network.poisson_seed is None
    return {
        "T": steps,
        "twice": 2 * steps,
        "levels": steps + 1,
        "balanced": diagnosis.balanced_timesteps,
        "is_mixed": diagnosis.balanced_timesteps != steps and network.spiking_layers,
        "alpha": alpha,
        "is_scaled": alpha != 1,
        "is_coarse": is_coarse,
        "is_fine": not is_coarse,
        "clipped": layer_words(clipped.name),
        "share": 100 * (clipped.share_above_threshold or 0),
        "higher": "" if is_coarse else _with_thresholds(network, "Raise"),
        "highest": layer_words(highest.name),
        "ratio": ratio,
        "is_high": ratio >= HIGH_THRESHOLD,
        "is_low": ratio < HIGH_THRESHOLD,
        "lower": _with_thresholds(network, "Lower") if network.spiking_layers else "",
        "starts_half": made.initial_potential == "half",
        "starts_empty": made.initial_potential != "half",
        "start": "reset='soft'" if diagnosis.reset == "hard" else "initial_potential='half'",
        "is_uncorrected": not network.provenance.is_corrected,
        "bits": bits,
        "has_few_bits": bits < 8,
        "coarsest": layer_words(coarsest.name),
        "coarsest_bits": coarsest.weight_bits,
        "wastes_bits": bits == 8 and coarsest.weight_bits != 8 and network.spiking_layers,
        "pixel_bits": pixels,
        "more_pixel_bits": pixels + 1,
        "has_few_pixel_bits": pixels < limits.MAX_PIXEL_BITS,
        "fewer_pixel_bits": f" Fewer pixel bits leave more: export with `pixel_bits={pixels - 1}`." * has_spare_pixels,
        "can_be_trained": is_trainable,
        "qcfs": qcfs,
        "training": f" (`train --qcfs {qcfs} --weight-bits {bits} --from model.pt`)" * is_trainable,
        "smallest": smallest_name and layer_words(smallest_name),
        "smallest_threshold": smallest,
        "rounding": 50 / smallest,
        "saturated": layer_words(saturated.name),
        "saturated_images": saturated.saturated_images,
        "image_count": diagnosis.image_count,
        "limit": limits.POTENTIAL_LIMIT,
        "on_all": _CALIBRATE_ON_ALL,
        # For target lava, more images than the default are not used.
        "calibrate": _CALIBRATE_ON_ALL if network.is_circuit else _CALIBRATE,
    }


def smallest_threshold(network: QuantizedNetwork) -> tuple[int, str | None]:
    """Return the smallest threshold of neurons other than relays, and its layer; (1, None) without such neurons."""
    thresholds = [
        (int(layer.neuron.threshold[own_channels(layer.relay_of)].min()), layer.name)
        for layer in network.layers
        if layer.neuron and not only_relays(layer.relay_of)
    ]
    return min(thresholds, default=(1, None))


def _with_thresholds(network: QuantizedNetwork, change: Literal["Raise", "Lower"]) -> str:
    """A sentence, after a space, with the options that may raise or lower the thresholds; empty without any.

    Options that made the file already are left out.
    """
    made, percentile = network.provenance.balance, 99.9 if change == "Raise" else 99
    used = made.percentile if made.method == "percentile" else None
    options = []
    if made.method != "qcfs" and not network.provenance.get("choice"):
        options.append("`method='auto'`")
    if change == "Raise" and made.method != "ngu-lee":
        options.append("`method='ngu-lee'`")
    is_useful = change == "Lower" or made.method in ("percentile", "robust-norm", "qcfs")
    if is_useful and (used is None or (used < percentile if change == "Raise" else used > percentile)):
        options.append(f"`method='percentile'` and `percentile={percentile:g}`")
    if not options:
        return ""
    return f" {change} the thresholds: export with {', or with '.join(options)}."


def can_be_trained(network: QuantizedNetwork) -> bool:
    """Return whether `loihi-convert train` can fine-tune the CNN of ``network``: it must know both CNN and data."""
    recorded = network.provenance.model
    return recorded.architecture in get_args(Architecture) and recorded.data in get_args(DatasetName)


def image_notes(network: QuantizedNetwork, fingerprint: str) -> tuple[str, ...]:
    """Return a warning about the images of a diagnosis; none if `train` excluded them from the training set.

    No warning either if the file records its images, and the `Dataset` with this ``fingerprint`` is none of them: the
    user chose others for the diagnosis.
    """
    recorded = network.provenance.model
    exported = {recorded.data_fingerprint, recorded.calibration_fingerprint} - {None}
    # A seed is that of a training by `train` or `fine_tune`.
    if recorded.architecture is not None or recorded.seed is not None or (exported and fingerprint not in exported):
        return ()
    return (
        "loihi-convert did not train this CNN. If its training set contained these images, its accuracy "
        "and the loss differ on test images: a CNN is usually more accurate on images it was trained on.",
    )
