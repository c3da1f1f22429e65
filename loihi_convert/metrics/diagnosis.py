"""Where accuracy is lost: the networks between CNN and file are compared, and the loss split by cause and layer.

*By cause*: each network of `simulation.intermediate` differs from the one before in one respect, and the difference in
results is the loss due to it. Losses are counted in images, so that they add up exactly to the total loss; a gain is a
negative loss. A cause is measured after those before it: an image that is already lost cannot be lost again.

*By layer*: the CNN is continued from the file's activations of a layer, including its relays. Errors were then made up
to that layer; relays are exact and add none. All other figures of a layer leave its relays out: their
error is that of the layer they repeat. A layer with only relays has that layer's errors, and no range.

The loss counts correct classes or, without labels, classes equal to the CNN's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.arrays import Array, signed_bits
from loihi_convert.ground.choices import Readout, Reset
from loihi_convert.ground.options import Record
from loihi_convert.ground.progress import current_progress, quiet
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork, classes_of, only_relays, own_channels
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.metrics.evaluation import same_class_notes
from loihi_convert.simulation.intermediate import Cause, Intermediate, intermediate_networks
from loihi_convert.simulation.relu import ReluChain
from loihi_convert.simulation.simulator import clipped_images, harmless_limits

SMALL_LOSS: Final = {"accuracy": 0.2, "agreement": 1.0}
"""Percentage points up to which a loss is not a problem, for any number of images."""

_FEWEST_CHANGED: Final = 3
"""If none of N images changes, up to this many of N could (95 %, the rule of three)."""


# Largest number of images x neurons of all layers compared at once: 32 MiB per network.
_BLOCK: Final = 2**23


class LayerError(Record):
    """Errors of a layer's activations against the CNN's, over all images, positions, and channels except relays.

    Attributes
    ----------
    correlation
        Pearson correlation; None if either is constant.
    mean_squared_error
        In squared units of the CNN.
    relative_error
        Mean squared error / the CNN's mean square: 1 for a silent layer; None if all the CNN's activations are 0.
    """

    correlation: float | None
    mean_squared_error: float
    relative_error: float | None


class ErrorSums:
    """Sums over pairs of activations, to compute correlation and errors."""

    def __init__(self) -> None:
        self._count = 0
        # Sums of x, y, x^2, y^2, x y and (x - y)^2.
        self._sums = np.zeros(6)

    def add(self, found: Array, expected: Array) -> None:
        x, y = found.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        self._count += x.size
        difference = x - y
        self._sums += (x.sum(), y.sum(), x @ x, y @ y, x @ y, difference @ difference)

    @property
    def error(self) -> LayerError:
        x, y, xx, yy, xy, square = (self._sums / self._count).tolist()
        # The variance of a constant is 0 up to rounding errors.
        is_varied = xx - x * x > 1e-12 * xx and yy - y * y > 1e-12 * yy
        return LayerError(
            correlation=(xy - x * y) / math.sqrt((xx - x * x) * (yy - y * y)) if is_varied else None,
            mean_squared_error=square,
            relative_error=square / yy if yy > 0 else None,
        )


class ActivationRange:
    """Range of the CNN's activations in a layer relative to its thresholds, ``(C,)``."""

    def __init__(self, threshold: Array) -> None:
        self._threshold = threshold
        self._largest = np.zeros(len(threshold))
        self._positive = self._above = 0

    def add(self, maps: Array) -> None:
        rows = maps.reshape(-1, len(self._threshold))
        np.maximum(self._largest, rows.max(axis=0), out=self._largest)
        self._positive += int(np.count_nonzero(rows > 0))
        # A channel that can never fire clips everything.
        limit = np.where(np.isfinite(self._threshold), self._threshold, 0).astype(np.float32)
        self._above += int(np.count_nonzero((rows > limit) & (rows > 0)))

    @property
    def threshold_to_largest(self) -> float | None:
        known = np.isfinite(self._threshold) & (self._largest > 0)
        return float(np.median(self._threshold[known] / self._largest[known])) if known.any() else None

    @property
    def share_above_threshold(self) -> float | None:
        return self._above / self._positive if self._positive else None


def _classes(activations: Sequence[Array]) -> Array:
    """The predicted classes from the last layer's activations: int64 ``(N,)``."""
    return classes_of(activations[-1].reshape(len(activations[-1]), -1))


class ComparedActivations(NamedTuple):
    """Classes and activation errors of every network on the images.

    Classes are int64: ``classes``, ``(1 + networks, N)``, are those of the CNN and of the networks after it;
    ``resumed``, ``(layers, N)``, those of the CNN continued from each layer of the file. ``errors`` are by network and
    layer, ``ranges`` by layer.
    """

    classes: Array
    resumed: Array
    errors: list[list[ErrorSums]]
    ranges: list[ActivationRange | None]


def compare_activations(
    chain: ReluChain,
    networks: Sequence[Intermediate],
    network: QuantizedNetwork,
    images: Array,
) -> ComparedActivations:
    """Compare the activations of every network with the CNN's, in batches; the last network is the file."""
    depth = len(network.layers)
    owns = [own_channels(layer.relay_of) for layer in network.layers]
    compared = ComparedActivations(
        classes=np.empty((1 + len(networks), len(images)), np.int64),
        resumed=np.empty((depth, len(images)), np.int64),
        errors=[[ErrorSums() for _ in range(depth)] for _ in networks],
        ranges=[
            None
            if layer.balanced is None or only_relays(layer.relay_of)
            else ActivationRange(layer.balanced.threshold[own])
            for layer, own in zip(network.layers, owns, strict=True)
        ],
    )
    size = max(1, _BLOCK // sum(math.prod(shape) for shape in network.shapes))
    progress = current_progress()
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        expected = chain(images[rows])
        compared.classes[0, rows] = _classes(expected)
        if network.readout == "spikes":
            # A spike count is never negative.
            expected[-1] = np.maximum(expected[-1], 0)
        wanted = [maps[..., own] for maps, own in zip(expected, owns, strict=True)]
        for layer_range, maps in zip(compared.ranges, wanted, strict=True):
            if layer_range is not None:
                layer_range.add(maps)
        for index, between in enumerate(networks):
            with quiet():
                found = between.activations(images[rows], start)
            compared.classes[1 + index, rows] = _classes(found)
            for sums, maps, own, own_wanted in zip(compared.errors[index], found, owns, wanted, strict=True):
                sums.add(maps[..., own], own_wanted)
        for index, maps in enumerate(found):
            compared.resumed[index, rows] = _classes(chain.after(index, maps) or found)
        progress(min(start + size, len(images)), len(images))
    return compared


class Stage(Record):
    """One network in the chain from the CNN to the file.

    Attributes
    ----------
    cause
        The change from the network before it; None for the CNN.
    correct_count, accuracy
        Number of images with the correct class, and their fraction; None without labels.
    agreement_count, agreement_with_cnn
        Number of images with the CNN's class, and their fraction.
    lost_images
        Loss from the stage before: correct classes or, without labels, classes equal to the CNN's; negative: a gain.
    changed_images
        Loss of classes equal to the CNN's, with or without labels.
    loss_points
        `lost_images` in percentage points.
    remaining_images
        The part of a positive loss that remains at the end: a gain undoes the losses before it, the nearest first. Low
        thresholds, for example, clip activations but compensate for an initial potential of 0.
    layers
        One error per layer; empty for the CNN.
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
    """Loss in one layer of the file.

    Attributes
    ----------
    name
        The module's name in the CNN.
    lost_images, loss_points
        Loss in this layer: the errors of the CNN continued from the file's activations in this layer, minus those for
        the layer before. They add up to the whole loss.
    threshold_to_largest
        Threshold / the largest activation in the CNN, the median over channels that can fire and are active; None if
        there are none.
    share_above_threshold
        Fraction of the CNN's positive activations that are above the threshold, or in a channel that can never fire;
        None if there are no positive activations.
    weight_bits
        Bits of the widest weight of a channel, sign included, the median over channels except relays; None if all are
        relays.
    saturated_images
        Number of images on which a potential passed a limit of its range, where that may have changed spikes or
        outputs.
    """

    name: str
    lost_images: int
    loss_points: float
    threshold_to_largest: float | None
    share_above_threshold: float | None
    weight_bits: int | None
    saturated_images: int


class Diagnosis(Record):
    """Where accuracy is lost: the schema of ``diagnose --json``, except for the advice.

    Attributes
    ----------
    image_count
        N.
    timesteps, balanced_timesteps
        T of the comparison, and the T that the thresholds are balanced for.
    readout, reset
        Readout and reset of the file.
    measure
        The measure of the loss: ``"accuracy"`` or, without labels, ``"agreement"``.
    stages, layers
        Stages from the CNN to the file, and layers in the order of the network.
    lost_images, loss_points
        The total loss: the sum over the stages, and also over the layers.
    newly_wrong, newly_right
        Images that only the CNN classifies correctly, and that only the file does; without labels, images with another
        class than the CNN's, and 0.
    is_small
        Whether the loss is at most `SMALL_LOSS`.
    is_noteworthy
        Whether the loss is larger than `SMALL_LOSS` and than twice its standard error, which is sqrt(newly wrong +
        newly right) images (McNemar).
    main_cause
        The cause with the most remaining lost images. Causes whose number is smaller by at most its standard error, its
        square root, count as equal; of these, the one that changes most classes. None if the loss is not noteworthy.
    first_layer
        The first layer by which half of the loss has occurred. None if the loss is not noteworthy.
    same_class_notes
        A sentence each if the CNN gives all images the same class, or if all have the same label.
    """

    image_count: int
    timesteps: int
    balanced_timesteps: int
    readout: Readout
    reset: Reset
    measure: Literal["accuracy", "agreement"]
    stages: tuple[Stage, ...]
    layers: tuple[LayerLoss, ...]
    lost_images: int
    loss_points: float
    newly_wrong: int
    newly_right: int
    is_small: bool
    is_noteworthy: bool
    main_cause: Cause | None
    first_layer: str | None
    same_class_notes: tuple[str, ...] = ()

    @property
    def margin_points(self) -> float:
        """The smallest loss, in percentage points, that differs from chance: twice the standard error, or 3 images."""
        changed = self.newly_wrong + self.newly_right
        return min(100.0, 100 * max(2 * math.sqrt(changed), _FEWEST_CHANGED) / self.image_count)


def require_classification(network: QuantizedNetwork) -> None:
    """Raise a `UsageError` if ``network`` is a regression."""
    if network.task == "regression":
        expected = "must be a classification: losses are counted in images"
        raise UsageError("found a regression", where="network", expected=expected, hint="Run it instead, with targets.")


def diagnose(
    cnn: ReluNetwork,
    spiking: SpikingNetwork,
    network: QuantizedNetwork,
    images: Array,
    labels: Array | None,
    timesteps: int,
    *,
    device: str = "cpu",
) -> Diagnosis:
    """Return where correct classes are lost between ``cnn`` and ``network``; memory does not grow with the images.

    ``images`` are uint8 ``(N, C, H, W)``, ``labels`` ``(N,)``; the rest is as in `intermediate.intermediate_networks`.

    Raises
    ------
    UsageError
        If ``network`` is a regression.
    InputError
        If ``network`` does not record the float thresholds from which its integers were rounded.
    """
    require_classification(network)
    for layer in network.layers:
        if layer.neuron is not None and layer.balanced is None:
            found = "the file does not record the float thresholds from which its integers were rounded"
            raise InputError(found, where=layer.name, hint="Export it again.")
    networks = intermediate_networks(cnn, spiking, network, timesteps, device=device)
    compared = compare_activations(ReluChain(cnn), networks, network, images)
    stages = stages_of([None, *(between.cause for between in networks)], compared.classes, compared.errors, labels)
    wanted = compared.classes[0] if labels is None else labels
    hits = compared.classes == wanted
    newly_wrong = int(np.count_nonzero(hits[0] & ~hits[-1]))
    newly_right = int(np.count_nonzero(hits[-1] & ~hits[0]))
    lost = newly_wrong - newly_right
    measure: Literal["accuracy", "agreement"] = "agreement" if labels is None else "accuracy"
    layers = _layer_losses(network, compared, wanted, clipped_images(network, images, timesteps, device=device))
    so_far = zip(layers, itertools.accumulate(layer.lost_images for layer in layers), strict=True)
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
        main_cause=main_cause(stages) if is_noteworthy else None,
        first_layer=next(layer.name for layer, total in so_far if 2 * total >= lost) if is_noteworthy else None,
        same_class_notes=tuple(same_class_notes(labels, compared.classes[0])),
    )


def _layer_losses(
    network: QuantizedNetwork, compared: ComparedActivations, wanted: Array, saturated: Array
) -> tuple[LayerLoss, ...]:
    """Loss of each layer; ``saturated`` is that of `simulator.clipped_images`."""
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
            saturated_images=harmless_limits(network, index).harmful(*map(int, clips)),
        )
        for index, (layer, layer_range, (before, after), clips) in enumerate(
            zip(network.layers, compared.ranges, itertools.pairwise(right), saturated, strict=True)
        )
    )


def stages_of(
    causes: Sequence[Cause | None], classes: Array, errors: Sequence[Sequence[ErrorSums]], labels: Array | None
) -> tuple[Stage, ...]:
    """Return the stages from the CNN to the file.

    Parameters
    ----------
    causes
        The cause of each stage; None for the CNN, the first.
    classes
        ``(stages, N)``.
    errors
        For each stage except the CNN, the errors of its layers.
    labels
        ``(N,)``, or None if unknown.
    """
    count = classes.shape[1]
    agreeing = [int(np.count_nonzero(row == classes[0])) for row in classes]
    correct = [None if labels is None else int(np.count_nonzero(row == labels)) for row in classes]
    hits = [same if right is None else right for same, right in zip(agreeing, correct, strict=True)]
    layers = [(), *(tuple(sums.error for sums in stage) for stage in errors)]
    lost = [hits[max(0, index - 1)] - hits[index] for index in range(len(hits))]
    remaining = remaining_losses(lost)
    return tuple(
        Stage(
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


def remaining_losses(lost: Sequence[int]) -> list[int]:
    """Return the remainder of each loss after each gain undoes the losses before it, the nearest first."""
    remaining: list[int] = []
    for loss in lost:
        gain = max(0, -loss)
        for index in reversed(range(len(remaining))):
            taken = min(gain, remaining[index])
            remaining[index] -= taken
            gain -= taken
        remaining.append(max(0, loss))
    return remaining


def main_cause(stages: Sequence[Stage]) -> Cause | None:
    """Return `Diagnosis.main_cause` of a noteworthy loss: the most remaining images, of equals the most changes."""
    largest = max(stage.remaining_images for stage in stages)
    # At least 1: 1 - sqrt(1) = 0 would also match stages without a loss.
    close = [stage for stage in stages if stage.remaining_images >= max(1, largest - math.sqrt(largest))]
    return max(close, key=lambda stage: stage.changed_images).cause


def _weight_bits(layer: QuantizedLayer) -> int | None:
    """Bits of the widest weight of a channel, sign included, the median over channels that fire, except relays."""
    if only_relays(layer.relay_of):
        return None
    fires = np.ones(len(layer.weight), np.bool_) if layer.threshold is None else layer.threshold < limits.NEVER_FIRES
    own = own_channels(layer.relay_of)
    weight = layer.weight[own][fires[own]]
    if not len(weight):
        return None
    return int(np.median(signed_bits(np.abs(weight.reshape(len(weight), -1)).max(axis=1))))
