"""The figures of one run of one file: the schema of ``--json`` and of ``result.json``.

The curve is the *anytime* curve: one run of one file, whose thresholds were balanced for one T, read after each step.
Spikes and synaptic operations are counted for layers with neurons. Pixels enter the first layer as graded spikes at
every step, so its work does not depend on the image: it is T times the first layer's `LayerSize.multiply_accumulates`.
With Poisson input it is less, and those spikes are not counted. Relays are left out of rates and included in work, with
their share given separately (`ir.network`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field

from loihi_convert.backends.result import RunResult, are_saturated
from loihi_convert.chip.energy import Energy, Estimate, NetworkSize, RelayEvents, energy, estimate
from loihi_convert.data.dataset import Dataset
from loihi_convert.errors import DataError
from loihi_convert.external import AnyNetwork
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import POOR_CNN, Interval, constant_accuracy
from loihi_convert.ir.graded import OUT_OF_RANGE
from loihi_convert.ir.network import class_count, classes_of
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import EarlyExit, MarginChoice, evaluate_early_exit, share
from loihi_convert.metrics.regression import Regression, RegressionOutputs, means, output_names
from loihi_convert.metrics.work import CircuitWork, LayerSize, known, layer_sizes, relay_work

MAX_COUNT: Final = 1e15
"""More spikes or operations of an image than this are damage: no T and no network reach them."""


class Point(Record):
    """Figures after T time steps. Accuracies and agreements are fractions 0..1, or None if they cannot be computed.

    Attributes
    ----------
    timesteps
        T, steps of one layer.
    global_steps
        T + depth, the steps Lava needs: every synapse adds one.
    correct_count, accuracy, accuracy_interval
        For the integer network; the interval is Wilson's, 95 %.
    float_accuracy, float_accuracy_interval
        For the float SNN: the same spiking network before rounding to integers.
    conversion_loss_points
        CNN accuracy - accuracy of the integer network, in percentage points.
    agreement_with_cnn, agreement_with_float
        Fraction of images with the same class as from the CNN (from the float SNN at this T).
    spikes_per_image
        Spikes of all spiking layers in steps 1..T, mean over images.
    synaptic_operations
        Synapses of nonzero weight reached by those spikes, mean over images, and those of the circuit.
    synaptic_operations_per_layer
        The same, by spiking layer, without the circuit's.
    firing_rate
        Per spiking layer: spikes / (neurons x T), 0..1, mean over images, without relays. None if relays were not
        counted, or there is nothing else.
    activation_sparsity
        1 - firing rate over all neurons that can spike, without relays. None if there are no such neurons, or relays
        were not counted.
    relay_spikes_per_image, relay_synaptic_operations
        The share of relays in the above, see `work`; None if they were not counted.
    circuit_synaptic_operations
        The share of the circuit of stock neurons, see `work`; None without it.
    """

    timesteps: int
    global_steps: int
    correct_count: int | None
    accuracy: float | None
    accuracy_interval: Interval | None
    float_accuracy: float | None
    float_accuracy_interval: Interval | None
    conversion_loss_points: float | None
    agreement_with_cnn: float | None
    agreement_with_float: float | None
    spikes_per_image: float = Field(ge=0, le=MAX_COUNT)
    synaptic_operations: float = Field(ge=0, le=MAX_COUNT)
    synaptic_operations_per_layer: tuple[float, ...]
    firing_rate: tuple[float | None, ...]
    activation_sparsity: float | None
    relay_spikes_per_image: float | None
    relay_synaptic_operations: float | None
    circuit_synaptic_operations: float | None


class Evaluation(Record):
    """The figures of one run of one file: the schema of ``--json`` and of ``result.json``.

    Attributes
    ----------
    image_count
        N.
    timesteps
        The T that the file's thresholds were balanced for. For a file from another tool: its time steps per sample or,
        if it has none, the T of the run.
    depth
        Number of layers that have synapses; Lava needs T + depth global steps.
    readout
        The output of the last layer: ``"potential"`` or ``"spikes"``.
    layers
        In order; all spike, or all but the last.
    multiply_accumulates
        Multiplications of the CNN by a nonzero weight, for one image; None if unknown, as for files of other tools.
    cnn_accuracy, cnn_accuracy_interval
        Fraction 0..1 and its Wilson interval, 95 %; None without labels or without the CNN's classes.
    points
        At T = 1, 2, 4, ..., at the last step of the run, at `timesteps` if the run reached it, and at requested T,
        ascending.
    early_exit
        Results of early exit; None if T is 1 or no margin was chosen.
    is_graded
        Whether spikes are graded (`ir.graded`): messages with a number, one step of each layer, no thresholds.
    regression
        Errors of a regression, at the T of `points`, whose accuracies are then None; None for a classification.
    energy
        Estimated energy of an inference at the T of `points`; None for graded spikes, whose costs are not public.
    saturated_images
        Number of images with an output potential, or a digit of it, of magnitude 131071 in any step: it may have
        been clipped.
    wrapped_images
        Number of images on which u of a stock neuron wrapped; None if neurons are not stock.
    notes
        Sentences needed to interpret the figures, for example that all images have one class.
    seconds, startup_seconds
        Wall-clock time of the simulation, and of loading and compiling before it.
    images_per_second
        N / ``seconds``.
    """

    image_count: int
    timesteps: int
    depth: int
    readout: Readout
    layers: tuple[LayerSize, ...]
    multiply_accumulates: int | None
    cnn_accuracy: float | None
    cnn_accuracy_interval: Interval | None
    points: tuple[Point, ...]
    early_exit: EarlyExit | None
    saturated_images: int
    seconds: float
    startup_seconds: float
    images_per_second: float
    wrapped_images: int | None
    energy: Energy | None
    notes: tuple[str, ...]
    regression: Regression | None
    is_graded: bool

    @property
    def has_relays(self) -> bool:
        """Whether any neuron is a relay."""
        return any(layer.relay_neuron_count for layer in self.layers)

    @property
    def nominal_point(self) -> Point:
        """The point at the T the file was balanced for; the last point if the run ended earlier."""
        return next((point for point in self.points if point.timesteps == self.timesteps), self.points[-1])

    @property
    def cnn_rmse(self) -> float | None:
        """The RMSE of the CNN, mean over outputs; None if unknown, and for a classification."""
        return None if self.regression is None else means(self.regression.cnn)[0]

    @property
    def is_judged(self) -> bool:
        """Whether the accuracy, or the error of a regression, is known."""
        if self.regression is not None:
            return self.regression.points[-1].to_targets is not None
        return self.nominal_point.accuracy is not None

    @property
    def is_compared_with_cnn(self) -> bool:
        """Whether the CNN's classes, or outputs, are known."""
        if self.regression is not None:
            return self.regression.points[-1].to_cnn is not None
        return self.nominal_point.agreement_with_cnn is not None


class ExpectedClasses(NamedTuple):
    """The classes to compare a run of N images with, int64; None if unknown.

    Attributes
    ----------
    labels, cnn
        The class of each image, and the CNN's class for it: ``(N,)``.
    floating
        The classes of the float SNN after each step: ``(N, T)``.
    """

    labels: Array | None = None
    cnn: Array | None = None
    floating: Array | None = None


_UNKNOWN: Final = ExpectedClasses()


def expected_of(
    result: RunResult,
    network: AnyNetwork,
    images: Dataset,
    cnn_outputs: Array | None = None,
    float_outputs: Array | None = None,
) -> ExpectedClasses | RegressionOutputs:
    """Return what a run of ``network`` on ``images`` is to be compared with.

    ``cnn_outputs`` are ``(N, outputs)``, from `relu.cnn_scores`; ``float_outputs`` ``(N, T, outputs)``, from
    `simulator.outputs`.
    """
    if network.task == "regression":
        steps = np.arange(1, result.outputs.shape[1] + 1)[:, np.newaxis]
        return RegressionOutputs(
            names=output_names(network),
            outputs=network.real_outputs(result.outputs, steps),
            targets=images.targets,
            cnn_outputs=cnn_outputs,
            float_outputs=None if float_outputs is None else float_outputs / steps,
        )
    of_cnn, of_float = (None if outputs is None else classes_of(outputs) for outputs in (cnn_outputs, float_outputs))
    return ExpectedClasses(images.labels, of_cnn, of_float)


def evaluate(
    result: RunResult,
    network: AnyNetwork,
    expected: ExpectedClasses | RegressionOutputs = _UNKNOWN,
    *,
    exit_choice: MarginChoice | None = None,
    timesteps: Sequence[int] = (),
    multiply_accumulates: int | None = None,
) -> Evaluation:
    """Return accuracy, or error, against latency for a run of ``network`` on N images over T time steps.

    ``timesteps`` are further T to report; ``multiply_accumulates`` are the CNN's, by default those in the file.

    Raises
    ------
    DataError
        If a label is not one of the network's classes.
    """
    image_count, run_timesteps, _ = result.potentials.shape
    numbers = expected if isinstance(expected, RegressionOutputs) else None
    classes = _UNKNOWN if isinstance(expected, RegressionOutputs) else expected
    require_classes(classes.labels, class_count(network.shapes[-1][0]))
    circuit = None
    # Of binary spikes, only stock neurons count the images on which u wraps.
    if isinstance(network, QuantizedNetwork) and result.wrapped_images is not None:
        circuit = CircuitWork(result, network)
    cnn = share(classes.cnn, classes.labels)
    own_timesteps = run_timesteps if network.timesteps is None else network.timesteps
    further = (min(own_timesteps, run_timesteps), *(steps for steps in timesteps if steps <= run_timesteps))
    reported = sorted({*reported_timesteps(run_timesteps), *further})
    points = tuple(_points(result, network, classes, circuit, reported))
    macs = network.provenance.model.multiply_accumulates if multiply_accumulates is None else multiply_accumulates
    return Evaluation(
        image_count=image_count,
        timesteps=own_timesteps,
        depth=network.depth,
        readout=network.readout,
        layers=layer_sizes(network),
        multiply_accumulates=macs,
        cnn_accuracy=cnn.fraction,
        cnn_accuracy_interval=cnn.interval,
        points=points,
        early_exit=None
        if exit_choice is None
        else evaluate_early_exit(
            result, exit_choice, labels=classes.labels, cnn_predictions=classes.cnn, circuit=circuit
        ),
        saturated_images=_saturated_images(result, network),
        seconds=result.seconds,
        startup_seconds=result.startup_seconds,
        # A run shorter than the clock's resolution of 1 ns takes 0 seconds.
        images_per_second=image_count / max(result.seconds, 1e-9),
        wrapped_images=None if network.is_graded else result.wrapped_images,
        # Loihi 1, whose costs are public, cannot send graded spikes.
        energy=None if network.is_graded else _energy(network, points, macs, circuit),
        notes=(*(_notes(classes) if numbers is None else numbers.notes()), *_range_notes(result, network)),
        regression=None if numbers is None else numbers.evaluated(reported),
        is_graded=network.is_graded,
    )


def _points(
    result: RunResult,
    network: AnyNetwork,
    classes: ExpectedClasses,
    circuit: CircuitWork | None,
    timesteps: Sequence[int],
) -> Iterator[Point]:
    """Yield the figures after each of ``timesteps``."""
    predictions, image_count = result.classes_after(timesteps), len(result.potentials)
    cnn, relays = share(classes.cnn, classes.labels), relay_work(result, network)
    neurons = np.array([math.prod(shape) for shape in network.shapes[: len(network.spiking_layers)]], np.int64)
    for steps, fixed in zip(timesteps, predictions.T, strict=True):
        floating = None if classes.floating is None else classes.floating[:, steps - 1]
        correct, of_float = share(fixed, classes.labels), share(floating, classes.labels)
        lost = None if cnn.matches is None or correct.matches is None else cnn.matches - correct.matches
        spikes = result.spike_counts[:, :steps].sum(axis=(0, 1))
        operations = result.synaptic_operations[:, :steps].sum(axis=(0, 1)) / image_count
        relay_spikes, relay_operations = (work[steps - 1] for work in relays[1:])
        of_circuit = None if circuit is None else circuit.events(steps).synaptic_operations
        # In the circuit, a spike of a relay also reaches the synapse that resets it.
        relay_operations = relay_operations + (0 if circuit is None else relay_spikes)
        own, possible = (spikes - relay_spikes) / image_count, (neurons - relays.neurons) * steps
        rates = np.divide(own, possible, out=np.full_like(own, np.nan), where=possible > 0)
        sparsity = 1 - float(own.sum()) / int(possible.sum()) if possible.sum() else None
        yield Point(
            timesteps=steps,
            global_steps=steps + network.depth,
            correct_count=correct.matches,
            accuracy=correct.fraction,
            accuracy_interval=correct.interval,
            float_accuracy=of_float.fraction,
            float_accuracy_interval=of_float.interval,
            conversion_loss_points=None if lost is None else 100 * lost / image_count,
            agreement_with_cnn=share(fixed, classes.cnn).fraction,
            agreement_with_float=share(fixed, floating).fraction,
            spikes_per_image=float((spikes / image_count).sum()),
            synaptic_operations=float(operations.sum()) + (of_circuit or 0.0),
            synaptic_operations_per_layer=tuple(operations.tolist()),
            firing_rate=tuple(map(known, rates.tolist())),
            activation_sparsity=None if sparsity is None else known(sparsity),
            relay_spikes_per_image=known(float(relay_spikes.sum()) / image_count),
            relay_synaptic_operations=known(float(relay_operations.sum()) / image_count),
            circuit_synaptic_operations=of_circuit,
        )


def _energy(
    network: AnyNetwork, points: Sequence[Point], multiply_accumulates: int | None, circuit: CircuitWork | None
) -> Energy:
    """The estimated energy of an inference, at the T of ``points``."""
    is_poisson, stored = getattr(network, "poisson_seed", None) is not None, network.stored
    # Pixels of Poisson input may have relays; their synapses count as reached by pixels.
    input_synapses = int(stored.layers[0].synapse.fan_out(network.input_shape).sum())
    size = NetworkSize([math.prod(shape) for shape in stored.shapes], input_synapses, is_poisson)
    relay_neurons = sum(layer.relay_neuron_count for layer in layer_sizes(network))

    def at(point: Point) -> Estimate:
        events = None if circuit is None else circuit.events(point.timesteps)
        return estimate(
            size,
            point.timesteps,
            point.spikes_per_image + (0 if events is None else events.spikes),
            point.synaptic_operations,
            relays=RelayEvents(relay_neurons, point.relay_spikes_per_image, point.relay_synaptic_operations),
            circuit=events,
        )

    return energy([at(point) for point in points], multiply_accumulates)


def _notes(classes: ExpectedClasses) -> Iterator[str]:
    """Notes if accuracy or agreement carry no information."""
    labels, of_cnn = classes.labels, classes.cnn
    yield from same_class_notes(labels, of_cnn)
    if labels is not None and of_cnn is not None:
        accuracy = float(np.mean(of_cnn == labels))
        if (constant := constant_accuracy(accuracy, labels)) is not None:
            yield (
                f"{POOR_CNN}classifies {100 * accuracy:.2f} % of these images, and always predicting their most "
                f"frequent class {100 * constant:.2f} %: check the labels, the class order, and the normalization."
            )


def same_class_notes(labels: Array | None, cnn_predictions: Array | None) -> Iterator[str]:
    """Yield a note if the CNN gives all of several images the same class, or all have the same label."""
    found = [
        (f"{whose.format(count=len(expected))} the same class, {int(expected[0])}", measure)
        for expected, whose, measure in (
            (cnn_predictions, "The CNN gives all {count:,} images", "the agreement with the CNN"),
            (labels, "All {count:,} images are labelled with", "the accuracy"),
        )
        if expected is not None and len(expected) > 1 and np.all(expected == expected[0])
    ]
    if found:
        sentences, measures = zip(*found, strict=True)
        yield (
            f"{'. '.join(sentences)}: {' and '.join(measures)} mean{'s' * (len(found) == 1)} little, because a "
            "constant output reaches 100 %."
        )


def _range_notes(result: RunResult, network: AnyNetwork) -> Iterator[str]:
    """A note if values of a graded network do not fit the chip."""
    if network.is_graded and result.wrapped_images:
        yield (
            f"On {result.wrapped_images:,} of {len(result.potentials):,} images, {OUT_OF_RANGE}; all images count if "
            "this happens while the network settles. Lava's CPU models do not check it; a chip may give other outputs."
        )


def reported_timesteps(timesteps: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... below ``timesteps`` (at least 1), then ``timesteps`` itself."""
    return (*(2**exponent for exponent in range((timesteps - 1).bit_length())), timesteps)


def _saturated_images(result: RunResult, network: AnyNetwork) -> int:
    """Number of images with an output potential, or one of its digits, at an end of its range."""
    if network.is_graded:
        return 0
    if result.saturated_images is not None:
        return result.saturated_images
    count = 0
    for part in result.parts():
        potentials = part.potentials
        if part.output_spikes is not None and isinstance(network, QuantizedNetwork) and network.reset == "soft":
            # Before the reset.
            potentials = potentials + part.output_spikes * network.layers[-1].threshold
        count += int(are_saturated(potentials).sum())
    return count


def require_classes(labels: Array | None, classes: int) -> None:
    """Raise a `DataError` unless all ``labels`` are classes of the network."""
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"found {labels.min()}..{labels.max()}",
            where="labels",
            expected=f"must be 0..{classes - 1}, the classes of the network",
            hint="Number the classes from 0, and use the data the CNN was trained on.",
        )
