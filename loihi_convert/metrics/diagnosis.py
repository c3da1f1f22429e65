"""Where the accuracy went: the networks between CNN and file, compared on images, the loss split by cause and layer.

*By cause*: each network of `simulation.intermediate` differs from the one before in one thing, and what changes with it
is that thing's loss. Losses are counted in images, so that they add up exactly to the whole loss; a gain is a negative
loss. A cause is judged on top of those before it: what is lost already cannot be lost again.

*By layer*: the CNN goes on from the file's activations of a layer. What is wrong then was lost up to that layer.

The loss is one of right answers or, without labels, of classes that are the CNN's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import InputError
from loihi_convert.ir.network import Readout, ReluNetwork, Reset, SpikingNetwork
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.progress import Progress, no_progress
from loihi_convert.records import Record
from loihi_convert.simulation.intermediate import Cause, intermediate_networks
from loihi_convert.simulation.relu import ReluChain
from loihi_convert.simulation.simulator import clipped_images

SMALL_LOSS: Final = {"accuracy": 0.2, "agreement": 1.0}
"""Points of loss up to which there is nothing to mend, however many images they were counted on."""

# Neurons of all layers, times images, that are compared at once: 32 MiB for each network.
_BLOCK: Final = 2**23


class LayerError(Record):
    """How far the activations of a layer are from the CNN's, over all images, positions and channels.

    Attributes
    ----------
    correlation
        Pearson's; None where one of both is constant.
    mean_squared_error
        In squares of the CNN's units.
    relative_error
        The same over the CNN's mean square: 1 is what a silent layer has; None where the CNN's are 0.
    """

    correlation: float | None
    mean_squared_error: float
    relative_error: float | None


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
        Bits of the widest weight of a channel, sign included, the median over channels.
    saturated_images
        Images on which some potential ran into an end of its range; in the first layer the upper one only. That is
        harmless where a neuron spikes at every step, or never, anyway.
    """

    name: str
    lost_images: int
    loss_points: float
    threshold_to_largest: float | None
    share_above_threshold: float | None
    weight_bits: int
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
        ``"accuracy"``, or without labels ``"agreement"``: what losses are counted in.
    stages
        From the CNN to the file.
    layers
        In order.
    lost_images, loss_points
        The whole loss: the sum over the stages, and over the layers.
    newly_wrong, newly_right
        Images that only the CNN gets right, and that only the file does; without labels, other classes than the CNN's,
        and 0.
    is_small
        Whether the loss is at most `SMALL_LOSS`.
    is_noteworthy
        Whether it is not, and larger than twice its standard deviation, sqrt(newly wrong + newly right) images
        (McNemar).
    main_cause
        The cause of which most images remain lost; among those that are within the standard deviation of that number,
        its square root, the one that changes most classes; never one of which none remain. None if the loss is not
        noteworthy.
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
    """Return where the way from ``cnn`` to ``network`` loses right answers on ``images``.

    Memory does not grow with the number of images.

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
    InputError
        If ``network`` does not say which real numbers its thresholds were rounded from.
    """
    for layer in network.layers:
        if layer.neuron is not None and layer.balanced is None:
            raise InputError(
                f"{layer.name}: the file does not say which real numbers its thresholds were rounded from; export it "
                "again."
            )
    chain = ReluChain(cnn)
    networks = intermediate_networks(cnn, spiking, network, timesteps, device=device)
    depth = len(network.layers)
    # Classes of each image: of the CNN and the networks, and of the CNN behind each layer of the file.
    classes = np.empty((1 + len(networks), len(images)), np.int64)
    behind = np.empty((depth, len(images)), np.int64)
    errors = [[_Sums() for _ in range(depth)] for _ in networks]
    ranges = [_Range(layer.balanced.threshold) if layer.balanced is not None else None for layer in network.layers]
    size = max(1, _BLOCK // sum(math.prod(shape) for shape in network.shapes))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        expected = chain(images[rows])
        classes[0, rows] = _classes(expected)
        if network.readout == "spikes":
            # Spikes are no negative numbers.
            expected[-1] = np.maximum(expected[-1], 0)
        for layer_range, maps in zip(ranges, expected, strict=True):
            if layer_range is not None:
                layer_range.add(maps)
        for index, between in enumerate(networks):
            found = between.activations(images[rows])
            classes[1 + index, rows] = _classes(found)
            for sums, maps, wanted in zip(errors[index], found, expected, strict=True):
                sums.add(maps, wanted)
        # The last network is the file.
        for index, maps in enumerate(found):
            behind[index, rows] = _classes(chain.behind(index, maps) or found)
        progress(min(start + size, len(images)), len(images))
    stages = _stages([None, *(between.cause for between in networks)], classes, errors, labels)
    saturated = clipped_images(network, images, timesteps, device=device)
    wanted_classes = classes[0] if labels is None else labels
    hits = classes == wanted_classes
    newly_wrong = int(np.count_nonzero(hits[0] & ~hits[-1]))
    newly_right = int(np.count_nonzero(hits[-1] & ~hits[0]))
    lost = newly_wrong - newly_right
    measure: Literal["accuracy", "agreement"] = "agreement" if labels is None else "accuracy"
    left = [int(np.count_nonzero(row == wanted_classes)) for row in (classes[0], *behind)]
    layers = tuple(
        LayerLoss(
            name=layer.name,
            lost_images=before - after,
            loss_points=100 * (before - after) / len(images),
            threshold_to_largest=None if layer_range is None else layer_range.threshold_to_largest,
            share_above_threshold=None if layer_range is None else layer_range.share_above_threshold,
            weight_bits=_weight_bits(layer.weight),
            saturated_images=int(high if index == 0 else max(low, high)),
        )
        for index, (layer, layer_range, (before, after), (low, high)) in enumerate(
            zip(network.layers, ranges, itertools.pairwise(left), saturated, strict=True)
        )
    )
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


class _Sums:
    """Sums over pairs of activations, from which correlation and errors follow."""

    def __init__(self) -> None:
        self._count = 0
        # Of x, y, x^2, y^2, x y and (x - y)^2.
        self._sums = np.zeros(6)

    def add(self, found: Array, expected: Array) -> None:
        x, y = found.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        self._count += x.size
        difference = x - y
        self._sums += (x.sum(), y.sum(), x @ x, y @ y, x @ y, difference @ difference)

    @property
    def error(self) -> LayerError:
        x, y, xx, yy, xy, square = (self._sums / self._count).tolist()
        # What rounding leaves of a constant is no variance.
        is_varied = xx - x * x > 1e-12 * xx and yy - y * y > 1e-12 * yy
        return LayerError(
            correlation=(xy - x * y) / math.sqrt((xx - x * x) * (yy - y * y)) if is_varied else None,
            mean_squared_error=square,
            relative_error=square / yy if yy > 0 else None,
        )


class _Range:
    """Where the CNN's activations of a layer lie beside thresholds, ``(C,)``."""

    def __init__(self, threshold: Array) -> None:
        self._threshold = threshold
        self._largest = np.zeros(len(threshold))
        self._positive = self._above = 0

    def add(self, maps: Array) -> None:
        rows = maps.reshape(-1, len(self._threshold))
        np.maximum(self._largest, rows.max(axis=0), out=self._largest)
        self._positive += int(np.count_nonzero(rows > 0))
        # A channel that can never fire cuts off everything.
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
    """int64 ``(N,)``: arg max of the last layer; the lowest class among equals."""
    return np.asarray(activations[-1].reshape(len(activations[-1]), -1).argmax(axis=1))


def _stages(
    causes: Sequence[Cause | None], classes: Array, errors: Sequence[Sequence[_Sums]], labels: Array | None
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


def _weight_bits(weight: Array) -> int:
    """Bits of the widest weight of a channel, sign included, the median over channels."""
    widest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    return int(np.median(np.ceil(np.log2(widest.astype(np.float64) + 1)))) + 1
