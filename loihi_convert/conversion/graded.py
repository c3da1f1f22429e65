"""ReluNetwork -> GradedNetwork: a CNN in integers whose activations are sent as graded spikes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.agreement import (
    MOST,
    Agreement,
    agreement_of,
    measure_of,
    require_calibration,
    rounding_notes,
)
from loihi_convert.conversion.graded_rounding import BATCH, Reach, Rounding, largest_magnitudes, reaches_of
from loihi_convert.conversion.scales import HEADROOM
from loihi_convert.errors import RangeError, UnsupportedModelError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.progress import current_progress
from loihi_convert.ir.graded import OUT_OF_RANGE, GradedLayer, GradedNetwork
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.simulation.currents import MAX_PIXEL
from loihi_convert.simulation.graded import frame_steps, settled_state
from loihi_convert.simulation.relu import cnn_scores

_ENDS: Final = (*(MAX_PIXEL * 2.0**octave for octave in range(-1, 6)), limits.MESSAGE_LIMIT / HEADROOM)
"""Largest messages of the last hidden layer that are tried."""
_TRIED: Final = 32
"""Images on which they are compared."""
_SAMPLE: Final = 192
"""Images on which biases are corrected."""
_COMPARED: Final = 500
"""Images on which the agreement with the CNN is measured."""


@dataclass(frozen=True, kw_only=True)
class GradedLayerReport:
    """The integers of one layer.

    Parameters
    ----------
    name
        The layer.
    weight_bits
        Bits that the weights use: log2 of the number of steps between the largest weight and its negative, mean over
        channels without relays. Without the weights that carry the biases of the last layer.
    largest_message
        Largest message on the calibration images; 0 for the last layer.
    """

    name: str
    weight_bits: float
    largest_message: int


@dataclass(frozen=True, eq=False)
class GradedConversion:
    """A CNN as a network of graded spikes.

    Parameters
    ----------
    network
        The network, without the CNN's record in its provenance.
    layers
        Report on each layer with a synapse.
    agreement
        Agreement with the CNN on calibration images.
    notes
        A warning if that is low, and one if a value does not fit the chip.
    """

    network: GradedNetwork
    layers: tuple[GradedLayerReport, ...]
    agreement: Agreement
    notes: tuple[str, ...]


def to_graded(cnn: ReluNetwork, images: Array) -> GradedConversion:
    """Return ``cnn`` as a network of graded spikes.

    Parameters
    ----------
    cnn
        The CNN, a skip connection with one relay for each value.
    images
        Calibration images, uint8 ``(N, C, H, W)``.
    """
    require_calibration(cnn, images)
    require_relu(cnn)
    network, ran = _rounded(cnn, images)
    _require_weights(network.layers[-1], cnn)
    scores = cnn_scores(cnn, images[:_COMPARED]).reshape(len(ran.outputs), -1)
    found = network.real_outputs(ran.outputs)
    measure = measure_of(cnn.task)
    agreement = agreement_of(found, scores, measure)
    reports = tuple(
        GradedLayerReport(name=layer.name, weight_bits=_weight_bits(layer, source), largest_message=message)
        for layer, source, message in zip(network.layers[1:], cnn.layers, ran.largest[1:], strict=True)
    )
    notes = rounding_notes(measure, agreement.agreement, "the CNN", agreement.image_count)
    if ran.leaves_range:
        where = f"on some of {agreement.image_count} calibration images, or while the network settles,"
        notes = (*notes, f"{where} {OUT_OF_RANGE}; a chip may give other outputs.")
    return GradedConversion(network, reports, agreement, notes)


class _Ran(NamedTuple):
    """The outputs of a network, int32 ``(N, outputs)``, the largest message of each layer, and whether a value does not
    fit, on an image or while the network settles."""

    outputs: Array
    largest: list[int]
    leaves_range: bool


def _rounded(cnn: ReluNetwork, images: Array) -> tuple[GradedNetwork, _Ran]:
    """The network and its run.

    Biases of classes that are all positive, or all negative, would be rounded to steps of their largest. As only their
    differences choose a class, their middle is then an offset outside.
    """
    middle, last = _middle_of_biases(cnn), cnn.layers[-1]
    offset = np.full(last.synapse.channels, middle)
    if middle:
        last = replace(last, synapse=last.synapse.with_added_bias(-offset))
        cnn = replace(cnn, layers=(*cnn.layers[:-1], last))
    network, ran = _best(cnn, images, reaches_of(cnn, images[:MOST]))
    if ran.leaves_range:
        network, ran = _best(cnn, images, reaches_of(cnn, images[:MOST], while_settling=True))
    if middle:
        network = replace(network, layers=(*network.layers[:-1], replace(network.layers[-1], offset=offset)))
    return network, ran


def _best(cnn: ReluNetwork, images: Array, reaches: list[Reach]) -> tuple[GradedNetwork, _Ran]:
    """The network with the largest messages of the last hidden layer with which its outputs are nearest to the CNN's,
    and its run."""
    trial, errors = Rounding(cnn, images[:_TRIED], reaches), {}
    progress = current_progress()
    for done, end in enumerate(_ENDS):
        _, errors[end] = trial.network(end)
        progress(done + 1, len(_ENDS))
    final = Rounding(cnn, images[:_SAMPLE], reaches, compensates=True)
    network, _ = final.network(min(errors, key=lambda end: errors[end]))
    return network, _run(network, images[:_COMPARED])


def _middle_of_biases(cnn: ReluNetwork) -> float:
    """The middle of the biases of several classes that are all positive or all negative; otherwise 0."""
    bias = cnn.layers[-1].synapse.bias
    if cnn.task != "classification" or bias is None or len(bias) < 2 or bias.min() <= 0 <= bias.max():
        return 0.0
    return (float(bias.min()) + float(bias.max())) / 2


def require_relu(cnn: ReluNetwork) -> None:
    """Raise an `UnsupportedModelError` unless sigma-delta neurons can compute ``cnn``."""
    for layer in cnn.layers[:-1]:
        name = "QCFS" if layer.threshold is not None else "a clipped ReLU, such as ReLU6," if _is_clipped(layer) else ""
        if name:
            found = f"{name} has no equivalent in graded spikes"
            expected = "must be ReLU: Lava's SigmaDelta has no other activation"
            hint = "Train with ReLU, or export binary spikes."
            raise UnsupportedModelError(found, where=layer.name, expected=expected, hint=hint)
    if len(cnn.layers) < 2:
        raise UnsupportedModelError(
            "a single layer", where=cnn.layers[0].name, expected="must have a hidden layer: the output has no bias"
        )


def _is_clipped(layer: ReluLayer) -> bool:
    return layer.ceiling is not None and bool(np.isfinite(layer.ceiling).any())


def _run(network: GradedNetwork, images: Array) -> _Ran:
    start, outputs, largest = settled_state(network), [], [0] * len(network.layers)
    leaves_range = any(layer.leaves_range.any() for layer in start)
    for first in range(0, len(images), BATCH):
        state = next(frame_steps(network, [images[first : first + BATCH]], start))
        outputs.append(state[-1].activation)
        largest = [max(most, int(np.abs(layer.messages).max())) for most, layer in zip(largest, state, strict=True)]
        leaves_range |= any(layer.leaves_range.any() for layer in state)
    return _Ran(np.concatenate(outputs), largest, leaves_range)


def _require_weights(last: GradedLayer, cnn: ReluNetwork) -> None:
    """Raise a `RangeError` if all weights of the last layer are rounded to 0."""
    source, middle = cnn.layers[-1], _middle_of_biases(cnn)
    if source.synapse.weight.any() and not _own_weights(last, source).any():
        bias = source.synapse.bias
        largest = 0.0 if bias is None else float(np.abs(bias - middle).max())
        found = f"all weights are rounded to 0: its biases, up to {largest:.3g} from {middle:.3g}, take the whole range"
        hint = "Bring the biases nearer to each other, or that of a single output nearer to 0."
        raise RangeError(found, where=last.name, hint=hint)


def _own_weights(layer: GradedLayer, source: ReluLayer) -> Array:
    """Its weights without those from a constant channel, which the last layer alone has."""
    assert not isinstance(layer.synapse, PixelBias)
    weight = layer.synapse.weight
    return weight if layer.sends else weight[:, : source.synapse.weight.shape[1]]


def _weight_bits(layer: GradedLayer, source: ReluLayer) -> float:
    largest, relay_of = largest_magnitudes(_own_weights(layer, source)), source.relay_of
    if relay_of is not None:
        # A constant channel, which would be the last, has no weights.
        largest = largest[: len(relay_of)][relay_of < 0]
    used = largest[largest > 0]
    return float(np.log2(2 * used + 1).mean()) if used.size else 0.0
