"""Where the accuracy went: the networks between CNN and file, compared on images, the loss split by cause and layer.

*By cause*: each network of `simulation.intermediate` differs from the one before in one thing, and what changes with it
is that thing's loss. Losses are counted in images, so that they add up exactly to the whole loss; a gain is a negative
loss. A cause is judged on top of those before it: what is lost already cannot be lost again.

*By layer*: the CNN goes on from the file's activations of a layer, those of its relays included. What is wrong then was
lost up to that layer; a relay, being exact, adds nothing. In all other figures of a layer its relays are left out.

The loss is one of right answers or, without labels, of classes that are the CNN's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ir.network import Readout, ReluNetwork, Reset, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.relays import only_relays, own_channels
from loihi_convert.metrics.activation_errors import ComparedActivations, ErrorSums, LayerError, compare_activations
from loihi_convert.progress import Progress, no_progress
from loihi_convert.records import Record
from loihi_convert.simulation.intermediate import Cause, intermediate_networks
from loihi_convert.simulation.relu import ReluChain
from loihi_convert.simulation.simulator import clipped_images

SMALL_LOSS: Final = {"accuracy": 0.2, "agreement": 1.0}
"""Percentage points up to which a loss is no problem, however many images it was counted on."""


class DiagnosisStep(Record):
    """One network of the chain.

    Attributes
    ----------
    cause
        What distinguishes it from the one before it; None for the CNN.
    correct_count, accuracy
        Images with the right class, and their fraction; None without labels.
    agreement_count, agreement_with_cnn
        Images with the CNN's class, and their fraction.
    lost_images
        Loss against the stage before it: right answers or, without labels, classes of the CNN; negative: a gain.
    changed_images
        Loss of classes of the CNN, with and without labels.
    loss_points
        `lost_images` in percentage points.
    remaining_images
        What remains of a positive loss at the end: a gain takes back the losses before it, the nearest first. Low
        thresholds, say, cut activations off, and make up for an initial potential of 0.
    layers
        One per layer; empty for the CNN.
    """

    cause: Cause | None
    correct_count: int | None
    accuracy: float | None
    agreement_count: int
    agreement_with_cnn: float
    lost_images: int
    changed_images: int
    loss_points: float
    remaining_images: int
    layers: tuple[LayerError, ...]


class LayerLoss(Record):
    """What one layer of the file does.

    Attributes
    ----------
    name
        The module's name in the CNN.
    lost_images, loss_points
        Loss in this layer: what the CNN, going on from the file's activations of it, gets wrong, less the same for the
        layer before it. They add up to the whole loss.
    threshold_to_largest
        Threshold over the largest activation in the CNN, the median over channels that can fire and are active; None
        where there are none.
    share_above_threshold
        Fraction of the CNN's positive activations that are above the threshold, or in a channel that can never fire;
        None where the layer has none.
    weight_bits
        Bits of the widest weight of a channel, sign included, the median over channels but relays; None where there is
        nothing else.
    saturated_images
        Images on which some potential ran into an end of its range; in the first layer the upper one only. That is
        harmless where a neuron spikes at every step, or never, anyway.
    """

    name: str
    lost_images: int
    loss_points: float
    threshold_to_largest: float | None
    share_above_threshold: float | None
    weight_bits: int | None
    saturated_images: int


class Diagnosis(Record):
    """Where the accuracy went: the schema of ``diagnose --json``, beside the advice.

    Attributes
    ----------
    image_count
        N.
    timesteps, balanced_timesteps
        T of the comparison, and the T that the thresholds are balanced for.
    readout, reset
        Of the file.
    measure
        What is lost: ``"accuracy"`` or, without labels, ``"agreement"``.
    stages, layers
        From the CNN to the file, and in the order of the network.
    lost_images, loss_points
        The whole loss: the sum over the stages, and over the layers.
    newly_wrong, newly_right
        Images that only the CNN gets right, and that only the file does; without labels, other classes than the CNN's,
        and 0.
    is_small
        Whether the loss is at most `SMALL_LOSS`.
    is_noteworthy
        Whether the loss is larger than `SMALL_LOSS` and than twice its standard error, which is sqrt(newly wrong +
        newly right) images (McNemar).
    main_cause
        The cause with the most remaining lost images. Causes whose number is less by no more than its standard error,
        its square root, count as equal: then the one that changes most classes. None if the loss is not noteworthy.
    first_layer
        The first layer up to which half of the loss is there. None if the loss is not noteworthy.
    """

    image_count: int
    timesteps: int
    balanced_timesteps: int
    readout: Readout
    reset: Reset
    measure: Literal["accuracy", "agreement"]
    stages: tuple[DiagnosisStep, ...]
    layers: tuple[LayerLoss, ...]
    lost_images: int
    loss_points: float
    newly_wrong: int
    newly_right: int
    is_small: bool
    is_noteworthy: bool
    main_cause: Cause | None
    first_layer: str | None


def diagnose(
    cnn: ReluNetwork,
    spiking: SpikingNetwork,
    network: QuantizedNetwork,
    images: Array,
    labels: Array | None,
    timesteps: int,
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Diagnosis:
    """Return where the way from ``cnn`` to ``network`` loses right answers; memory does not grow with the images.

    Parameters
    ----------
    cnn, spiking, network, timesteps, device
        As in `simulation.intermediate.intermediate_networks`.
    images
        uint8 ``(N, C, H, W)``, N >= 1.
    labels
        ``(N,)``, or None where they are not known.

    Raises
    ------
    UsageError
        If ``network`` is a regression.
    InputError
        If ``network`` does not record the float thresholds from which its integers were rounded.
    """
    if network.task == "regression":
        raise UsageError(
            "found a regression",
            where="task",
            expected="must be classification: losses are counted in images",
            hint="Run the file instead: errors against T stand beside those of the CNN and of the float SNN.",
        )
    _require_float_thresholds(network)
    networks = intermediate_networks(cnn, spiking, network, timesteps, device=device)
    compared = compare_activations(ReluChain(cnn), networks, network, images, progress)
    stages = _stages([None, *(between.cause for between in networks)], compared.classes, compared.errors, labels)
    wanted = compared.classes[0] if labels is None else labels
    hits = compared.classes == wanted
    newly_wrong = int(np.count_nonzero(hits[0] & ~hits[-1]))
    newly_right = int(np.count_nonzero(hits[-1] & ~hits[0]))
    lost = newly_wrong - newly_right
    measure: Literal["accuracy", "agreement"] = "agreement" if labels is None else "accuracy"
    layers = _layer_losses(network, compared, wanted, clipped_images(network, images, timesteps, device=device))
    points = 100 * lost / len(images)
    is_small = points <= SMALL_LOSS[measure]
    is_noteworthy = not is_small and lost > 2 * math.sqrt(newly_wrong + newly_right)
    return Diagnosis(
        image_count=len(images),
        timesteps=timesteps,
        balanced_timesteps=network.timesteps,
        readout=network.readout,
        reset=network.reset,
        measure=measure,
        stages=stages,
        layers=layers,
        lost_images=lost,
        loss_points=points,
        newly_wrong=newly_wrong,
        newly_right=newly_right,
        is_small=is_small,
        is_noteworthy=is_noteworthy,
        main_cause=_main_cause(stages) if is_noteworthy else None,
        first_layer=_first_layer(layers, lost) if is_noteworthy else None,
    )


def _require_float_thresholds(network: QuantizedNetwork) -> None:
    for layer in network.layers:
        if layer.neuron is not None and layer.balanced is None:
            raise InputError(
                "the file does not record the float thresholds from which its integers were rounded",
                where=layer.name,
                hint="Export it again.",
            )


def _layer_losses(
    network: QuantizedNetwork, compared: ComparedActivations, wanted: Array, saturated: Array
) -> tuple[LayerLoss, ...]:
    """What each layer of the file does; ``saturated``, ``(layers, 2)``: images that ran into the low and high end."""
    count = len(wanted)
    right = [int(np.count_nonzero(row == wanted)) for row in (compared.classes[0], *compared.resumed)]
    return tuple(
        LayerLoss(
            name=layer.name,
            lost_images=before - after,
            loss_points=100 * (before - after) / count,
            threshold_to_largest=None if layer_range is None else layer_range.threshold_to_largest,
            share_above_threshold=None if layer_range is None else layer_range.share_above_threshold,
            weight_bits=_weight_bits(layer),
            saturated_images=int(high if index == 0 else max(low, high)),
        )
        for index, (layer, layer_range, (before, after), (low, high)) in enumerate(
            zip(network.layers, compared.ranges, itertools.pairwise(right), saturated, strict=True)
        )
    )


def _stages(
    causes: Sequence[Cause | None], classes: Array, errors: Sequence[Sequence[ErrorSums]], labels: Array | None
) -> tuple[DiagnosisStep, ...]:
    count = classes.shape[1]
    agreeing = [int(np.count_nonzero(row == classes[0])) for row in classes]
    correct = [None if labels is None else int(np.count_nonzero(row == labels)) for row in classes]
    hits = [same if right is None else right for same, right in zip(agreeing, correct, strict=True)]
    layers = [(), *(tuple(sums.error for sums in stage) for stage in errors)]
    lost = [hits[max(0, index - 1)] - hits[index] for index in range(len(hits))]
    remaining = _remaining(lost)
    return tuple(
        DiagnosisStep(
            cause=cause,
            correct_count=correct[index],
            accuracy=None if labels is None else hits[index] / count,
            agreement_count=agreeing[index],
            agreement_with_cnn=agreeing[index] / count,
            lost_images=lost[index],
            changed_images=agreeing[max(0, index - 1)] - agreeing[index],
            loss_points=100 * lost[index] / count,
            remaining_images=remaining[index],
            layers=layers[index],
        )
        for index, cause in enumerate(causes)
    )


def _remaining(lost: Sequence[int]) -> list[int]:
    """What remains of each loss when each gain takes back the losses before it, the nearest first."""
    remaining: list[int] = []
    for loss in lost:
        gain = max(0, -loss)
        for index in reversed(range(len(remaining))):
            taken = min(gain, remaining[index])
            remaining[index] -= taken
            gain -= taken
        remaining.append(max(0, loss))
    return remaining


def _main_cause(stages: Sequence[DiagnosisStep]) -> Cause | None:
    largest = max(stage.remaining_images for stage in stages)
    # 1 - sqrt(1) = 0: what every stage has that loses nothing.
    close = [stage for stage in stages if stage.remaining_images >= max(1, largest - math.sqrt(largest))]
    return max(close, key=lambda stage: stage.changed_images).cause


def _first_layer(layers: Sequence[LayerLoss], lost: int) -> str:
    """The name of the first layer up to which half of the ``lost`` images are lost."""
    sums = itertools.accumulate(layer.lost_images for layer in layers)
    return next(layer.name for layer, total in zip(layers, sums, strict=True) if 2 * total >= lost)


def _weight_bits(layer: QuantizedLayer) -> int | None:
    """Bits of the widest weight of a channel, sign included, the median over channels but relays."""
    if only_relays(layer.relay_of):
        return None
    weight = layer.weight[own_channels(layer.relay_of)]
    widest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    return int(np.median(np.ceil(np.log2(widest.astype(np.float64) + 1)))) + 1
