"""A diagnosis in words, for readers who know PyTorch but not Loihi: what is lost, where, why, and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

from loihi_convert.chip import limits
from loihi_convert.ground.choices import Architecture, DatasetName
from loihi_convert.ir.network import layer_words
from loihi_convert.ir.relays import only_relays, own_channels

if TYPE_CHECKING:
    from loihi_convert.ir.quantized import QuantizedNetwork
    from loihi_convert.metrics.diagnosis import Diagnosis, LayerLoss
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
        pairs = f"{diagnosis.newly_wrong} newly wrong, {diagnosis.newly_right} newly right"
        if not diagnosis.is_small:
            return (
                f"No cause is named: the file loses {what} ({pairs}), less than twice the standard error. Use more "
                f"images.{most}"
            )
        lost = f"nothing on {count}" if diagnosis.lost_images <= 0 else f"only {what}"
        if diagnosis.same_class_notes:
            notes = " ".join(diagnosis.same_class_notes)
            return f"These images cannot show a loss. {notes} The file loses {lost} ({pairs}).{most}"
        if diagnosis.margin_points > LARGE_MARGIN:
            return (
                f"Too few images: {count} cannot show a loss of less than about {diagnosis.margin_points:.3g} points. "
                f"The file loses {lost} ({pairs}).{most}"
            )
        return f"No problem found: the file loses {lost} ({pairs}).{most}"
    (stage,) = (stage for stage in diagnosis.stages if stage.cause == diagnosis.main_cause)
    points = 100 * stage.remaining_images / diagnosis.image_count
    return (
        f"The file loses {what}. Main cause: {CAUSES[diagnosis.main_cause]} ({points:.2f} points). Half of the loss "
        f"has occurred by layer {diagnosis.first_layer}."
    )


def advice(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    """Return what to try, the most promising first; empty if the loss is not significant.

    Parameters
    ----------
    diagnosis
        From `diagnosis.diagnose`.
    network
        The diagnosed network; its provenance records how it was made.
    """
    if diagnosis.main_cause is None:
        return ()
    balanced, steps = diagnosis.balanced_timesteps, diagnosis.timesteps
    other_timesteps = (
        f"The thresholds are balanced for T = {balanced}: export with `timesteps={steps}` to balance them for that T."
    )
    mixed = (other_timesteps,) if balanced != steps and network.spiking_layers else ()
    return (*mixed, *_ADVICE[diagnosis.main_cause](diagnosis, network))


def _clipping(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    layer = max(_spiking(diagnosis), key=lambda layer: layer.share_above_threshold or 0)
    share = layer.share_above_threshold or 0
    found = (
        f"{layer_words(layer.name)}: {100 * share:.1f} % of the positive activations are above the threshold. "
        "There a neuron spikes at every step, and larger activations cannot be distinguished."
    )
    made = network.provenance.balance
    alpha = 1.0 if made.alpha is None else made.alpha
    if alpha == 1 and made.method == "least-squares":
        starts_empty = made.initial_potential == "zero"
        return (
            f"{found} Balancing chose these thresholds because T = {diagnosis.timesteps} steps are too coarse with "
            "higher ones.",
            *(
                (
                    "With neurons that start at half of their threshold, higher ones work well: export with "
                    "`initial_potential='half'`.",
                )
                if starts_empty and diagnosis.reset == "soft"
                else ()
            ),
            *_more_steps(diagnosis, network),
        )
    return (
        *((f"`alpha={alpha}` lowered the thresholds: omit it.",) if alpha != 1 else ()),
        found + _with_thresholds(network, "Raise"),
        f"If the file was balanced on other images than these, {_CALIBRATE_ON_ALL}.",
    )


def _amplitude(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    return ("Use the threshold as the amplitude of a spike, not 1: export with `amplitude='compensated'`.",)


def _levels(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    layer = max(_spiking(diagnosis), key=lambda layer: layer.threshold_to_largest or 0)
    ratio = layer.threshold_to_largest or 0
    if ratio >= HIGH_THRESHOLD:
        return (
            f"{layer_words(layer.name)}: thresholds are {ratio:.1f} times the largest activation (median over "
            "channels), so neurons hardly ever spike." + _with_thresholds(network, "Lower"),
            *_more_steps(diagnosis, network),
        )
    return (
        f"T = {diagnosis.timesteps} steps give only {diagnosis.timesteps + 1} different spike counts.",
        *_more_steps(diagnosis, network),
    )


def _initial_potential(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    if network.provenance.balance.initial_potential == "half":
        return (
            "The corrected initial potentials do worse here: export with `bias_correction=False`, or "
            f"{_CALIBRATE_ON_ALL}.",
        )
    option = "reset='soft'" if diagnosis.reset == "hard" else "initial_potential='half'"
    return (
        "Neurons start at potential 0, so spike counts are rounded down: each neuron loses half a spike on average. "
        f"Export with `{option}`: neurons start at half of their threshold, which rounds to nearest.",
        *_more_steps(diagnosis, network),
    )


def _timing(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    corrected = network.provenance.is_corrected
    return (
        "Spikes arrive in bursts and gaps, and a neuron cannot take back a spike when negative input follows.",
        *_more_steps(diagnosis, network),
        *(() if corrected else ("Export with `bias_correction=True` to correct the mean current of each channel.",)),
    )


def _input(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    return (
        "Pixels enter as random spikes, with the correct rate only on average: export with "
        "`input_coding='constant'` to feed the pixel values in every step.",
        *_more_steps(diagnosis, network),
    )


def _correction(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    return (f"The corrections lower the accuracy here: export with `bias_correction=False`, or {_CALIBRATE_ON_ALL}.",)


def _reset(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    return (
        "A hard reset discards the potential above the threshold: export with `reset='soft'` to keep it.",
        "If you need Lava's LIF, use a larger T; less is lost if thresholds are well above the input of a single step: "
        f"export with `reset='hard'` and `timesteps={2 * diagnosis.timesteps}`.",
    )


def _weights(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    bits = network.provenance.quantize.weight_bits or 8
    if bits < 8:
        return (
            f"The weights were rounded to {bits} bits: export with `weight_bits=8`.",
            f"If you need {bits} bits, train with rounded weights"
            + (
                f": `train --qcfs {_qcfs_levels(diagnosis)} --weight-bits {bits} --from model.pt`, then export that "
                f"with `weight_bits={bits}`."
                if can_be_trained(network)
                else " in your own training code."
            ),
        )
    known = [layer for layer in diagnosis.layers if layer.weight_bits is not None]
    layer = min(known, key=lambda layer: layer.weight_bits or 0)
    larger = "thresholds or inputs" if network.spiking_layers else "inputs"
    command = f" (`train --qcfs {_qcfs_levels(diagnosis)} --weight-bits 8 --from model.pt`)"
    pixels, is_first = network.pixel_bits, layer.name == network.layers[0].name
    fewer = f" Fewer pixel bits leave more: export with `pixel_bits={pixels - 1}`." if is_first and pixels > 1 else ""
    taken = (
        f"{layer_words(layer.name)}: the widest weights use {layer.weight_bits} of 8 bits, because large {larger} take "
        f"up the range of the potential.{'' if network.poisson_seed is not None else fewer}"
        f"{_with_thresholds(network, 'Lower') if network.spiking_layers else ''}"
    )
    return (
        *([taken] if layer.weight_bits != 8 else []),
        "A few large weights leave few bits to the other weights of their channel: train with weight decay, or with "
        f"rounded weights{command if can_be_trained(network) else ''}.",
    )


def _thresholds(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    more_pixels = f"Pixels enter with {network.pixel_bits} bits: export with `pixel_bits={network.pixel_bits + 1}`."
    pixels = (more_pixels,) if network.pixel_bits < limits.MAX_PIXEL_BITS else ()
    if not network.spiking_layers:
        return pixels
    smallest, name = min(
        (int(layer.neuron.threshold[own_channels(layer.relay_of)].min()), layer.name)
        for layer in network.layers
        if layer.neuron and not only_relays(layer.relay_of)
    )
    bits = network.provenance.quantize.weight_bits or 8
    return (
        *pixels,
        f"{layer_words(name)}: the smallest threshold is {smallest} weight units, so rounding can change it by "
        f"{50 / smallest:.2g} %"
        + (f"; more weight bits make it larger: export with `weight_bits=8` instead of {bits}." if bits < 8 else "."),
    )


def _saturation(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    layer = max(diagnosis.layers, key=lambda layer: layer.saturated_images)
    bits = min(network.provenance.quantize.weight_bits or 8, layer.weight_bits or 8) - 1
    smaller = [f"with `weight_bits={bits}`"] if bits >= 2 else []
    smaller += [f"with `timesteps={diagnosis.timesteps // 2}`"] if diagnosis.timesteps > 1 else []
    # For target lava, more images than the default are not used.
    calibrate = _CALIBRATE_ON_ALL if network.is_circuit else _CALIBRATE
    return (
        f"{layer_words(layer.name)}: on {layer.saturated_images:,} of {diagnosis.image_count:,} images a potential "
        f"reached +-{limits.POTENTIAL_LIMIT:,}, the limit of Loihi's range. If the file was balanced on other images "
        f"than these, {calibrate}.",
        *((f"Smaller potentials: export {', or '.join(smaller)}.",) if smaller else ()),
    )


_ADVICE: Final = {
    "clipping": _clipping,
    "amplitude": _amplitude,
    "levels": _levels,
    "initial_potential": _initial_potential,
    "timing": _timing,
    "input": _input,
    "correction": _correction,
    "reset": _reset,
    "weights": _weights,
    "thresholds": _thresholds,
    "saturation": _saturation,
}


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


def _more_steps(diagnosis: Diagnosis, network: QuantizedNetwork) -> tuple[str, ...]:
    more = f"More time steps: export with `timesteps={2 * diagnosis.timesteps}`."
    if not can_be_trained(network):
        return (more,)
    return (
        more,
        f"To keep this T, fine-tune for a few epochs: `train --qcfs {_qcfs_levels(diagnosis)} --from model.pt "
        f"--teacher model.pt -o low.pt`, then export that with `timesteps={diagnosis.timesteps}`.",
    )


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


def _qcfs_levels(diagnosis: Diagnosis) -> int:
    """Levels for training: 4 are enough for the fewest steps; more than 16 have no benefit."""
    return min(max(4, diagnosis.timesteps), 16)


def _spiking(diagnosis: Diagnosis) -> tuple[LayerLoss, ...]:
    return diagnosis.layers if diagnosis.readout == "spikes" else diagnosis.layers[:-1]
