"""The figures of one run of one file: the schema of ``--json`` and of ``result.json``.

The curve is the *anytime* curve: one run of one file, whose thresholds were balanced for one T, read after each step.
Spikes and synaptic operations are counted for layers with neurons. Pixels enter the first layer as graded spikes at
every step, so its work does not depend on the image: it is T times the first layer's `LayerSize.multiply_accumulates`.
With Poisson input it is less, and those spikes are not counted. Relays are left out of rates and included in work, with
their share given separately (`ir.network`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from loihi_convert.backends.result import RunResult, are_saturated
from loihi_convert.chip.energy import Energy, Estimate, RelayEvents, energy, estimate
from loihi_convert.data.dataset import Dataset
from loihi_convert.errors import DataError, escape_control
from loihi_convert.external import AnyNetwork
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.options import Record
from loihi_convert.ground.statistics import POOR_CNN, Interval, constant_accuracy, wilson_interval
from loihi_convert.ir.graded import OUT_OF_RANGE, GradedNetwork
from loihi_convert.ir.network import ReluNetwork, class_count, classes_of
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.metrics.early_exit import EarlyExit, MarginChoice, evaluate_early_exit, require_shape
from loihi_convert.metrics.work import CircuitWork, LayerSize, known, layer_sizes, relay_work

_FLOAT32_NOISE: Final = 1e-6
"""Relative rounding errors of outputs that the CNN computes in float32."""


class Error(Record):
    """The error of one output, or the means over all.

    Attributes
    ----------
    rmse
        In the units of the output.
    r2
        R^2; None if the expected values are constant over the images.
    """

    rmse: float
    r2: float | None


class Errors(Record):
    """The errors of all outputs, at least one, and their means."""

    mean: Error
    outputs: tuple[Error, ...] = Field(min_length=1)

    @property
    def worst(self) -> int:
        """The output with the lowest R^2; if no R^2 is known, the one with the largest RMSE."""
        known = [index for index, error in enumerate(self.outputs) if error.r2 is not None]
        if known:
            return min(known, key=lambda index: self.outputs[index].r2 or 0.0)
        return max(range(len(self.outputs)), key=lambda index: self.outputs[index].rmse)


class RegressionPoint(Record):
    """Errors after T time steps; None without anything to compare with.

    Attributes
    ----------
    timesteps
        T.
    to_targets, to_cnn
        Errors of the integer network against the targets, and against the outputs of the CNN.
    float_to_targets
        Errors of the float SNN against the targets.
    """

    timesteps: int
    to_targets: Errors | None
    to_cnn: Errors | None
    float_to_targets: Errors | None


class Regression(Record):
    """The errors of one run.

    Attributes
    ----------
    output_names
        The name of each output.
    cnn
        Errors of the CNN against the targets.
    points
        At the T of `Evaluation.points`.
    """

    output_names: tuple[str, ...]
    cnn: Errors | None
    points: tuple[RegressionPoint, ...]

    @model_validator(mode="after")
    def _require_an_error_of_each_output(self) -> Regression:
        found = [self.cnn, *(e for p in self.points for e in (p.to_targets, p.to_cnn, p.float_to_targets))]
        if any(errors is not None and len(errors.outputs) != len(self.output_names) for errors in found):
            raise ValueError("not one error per output")
        return self

    def at(self, timesteps: int) -> RegressionPoint:
        """Return the point at a reported T."""
        return next(point for point in self.points if point.timesteps == timesteps)


class RegressionOutputs(NamedTuple):
    """The outputs of a regression and the values to compare with: float64, in the CNN's units; None if unknown.

    Attributes
    ----------
    names
        One name per output.
    outputs, float_outputs
        Outputs of the integer network and of the float SNN after each step: ``(N, T, outputs)``.
    cnn_outputs, targets
        ``(N, outputs)``.
    """

    names: tuple[str, ...]
    outputs: Array
    targets: Array | None = None
    cnn_outputs: Array | None = None
    float_outputs: Array | None = None


def evaluate_regression(numbers: RegressionOutputs, timesteps: Sequence[int]) -> Regression:
    """Return the errors after each of ``timesteps``, all within the run.

    Raises
    ------
    DataError
        If the shapes do not match.
    """
    count, _, outputs = numbers.outputs.shape
    for name, array, expected in (
        ("names", np.array(numbers.names), (outputs,)),
        ("targets", numbers.targets, (count, outputs)),
        ("cnn_outputs", numbers.cnn_outputs, (count, outputs)),
        ("float_outputs", numbers.float_outputs, numbers.outputs.shape),
    ):
        require_shape(name, array, expected)

    def point(steps: int) -> RegressionPoint:
        found = numbers.outputs[:, steps - 1]
        floating = None if numbers.float_outputs is None else numbers.float_outputs[:, steps - 1]
        return RegressionPoint(
            timesteps=steps,
            to_targets=errors(found, numbers.targets),
            to_cnn=errors(found, numbers.cnn_outputs, relative_noise=_FLOAT32_NOISE),
            float_to_targets=errors(floating, numbers.targets),
        )

    return Regression(
        output_names=numbers.names,
        cnn=errors(numbers.cnn_outputs, numbers.targets),
        points=tuple(map(point, timesteps)),
    )


def errors(found: Array | None, expected: Array | None, *, relative_noise: float = 0.0) -> Errors | None:
    """Return the errors of ``found`` against ``expected``, both ``(N, outputs)``; None if either is unknown.

    An output is constant if ``expected`` deviates from its mean by at most ``relative_noise`` of its size.
    """
    if found is None or expected is None:
        return None
    wanted = expected.astype(np.float64)
    squares = np.square(found - wanted).mean(axis=0)
    spread = np.square(wanted - wanted.mean(axis=0)).mean(axis=0)
    # The mean of a constant is itself only up to rounding errors.
    varies = (wanted != wanted[0]).any(axis=0) & (spread > relative_noise**2 * np.square(wanted).mean(axis=0))
    outputs = tuple(
        Error(rmse=float(np.sqrt(square)), r2=float(1 - square / variance) if is_varied else None)
        for square, variance, is_varied in zip(squares, spread, varies, strict=True)
    )
    known = [one.r2 for one in outputs if one.r2 is not None]
    mean = Error(rmse=float(np.mean([one.rmse for one in outputs])), r2=float(np.mean(known)) if known else None)
    return Errors(mean=mean, outputs=outputs)


def means(found: Errors | None) -> tuple[float | None, float | None]:
    """Return RMSE and R^2, means over outputs; None if unknown."""
    return (None, None) if found is None else (found.mean.rmse, found.mean.r2)


def mean_errors(point: RegressionPoint) -> dict[str, float | None]:
    """Return the means over outputs by column name: ``rmse``, ``r2``, ``rmse_to_cnn``, ..., ``r2_float``."""
    columns: dict[str, float | None] = {}
    for suffix, found in (("", point.to_targets), ("_to_cnn", point.to_cnn), ("_float", point.float_to_targets)):
        columns[f"rmse{suffix}"], columns[f"r2{suffix}"] = means(found)
    return columns


def regression_notes(numbers: RegressionOutputs) -> Iterator[str]:
    """Yield notes needed to interpret the errors."""
    for array, what in ((numbers.targets, "target"), (numbers.cnn_outputs, "output of the CNN")):
        if array is not None and len(array) > 1:
            same = np.flatnonzero((array == array[0]).all(axis=0))
            if len(same):
                names = ", ".join(numbers.names[index] for index in same)
                yield f"All {len(array):,} images have the same {what} ({names}), for which R^2 is undefined."
    own = errors(numbers.cnn_outputs, numbers.targets)
    if own is not None and own.mean.r2 is not None and own.mean.r2 <= 0:
        yield (
            f"{POOR_CNN}has an R^2 of {own.mean.r2:.4f} on these images: always predicting their mean "
            "is as good. Check the targets and the normalization."
        )


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


def evaluate(
    result: RunResult,
    network: AnyNetwork,
    *,
    labels: Array | None = None,
    cnn_predictions: Array | None = None,
    float_predictions: Array | None = None,
    early_exit: EarlyExit | None = None,
    numbers: RegressionOutputs | None = None,
    timesteps: Sequence[int] = (),
    multiply_accumulates: int | None = None,
    circuit: CircuitWork | None = None,
) -> Evaluation:
    """Return accuracy, or error, against latency for a run of ``network`` on N images over T time steps.

    ``labels`` and ``cnn_predictions`` are ``(N,)``, ``float_predictions``, the classes of the float SNN, ``(N, T)``;
    ``numbers`` are the outputs of a regression, ``timesteps`` further T to report, ``circuit`` the work of the circuit
    of stock neurons.

    Raises
    ------
    DataError
        If the shapes do not match, or a label is not one of the network's classes.
    """
    image_count, run_timesteps = _checked_size(result, network)
    require_shape("labels", labels, (image_count,))
    require_shape("cnn_predictions", cnn_predictions, (image_count,))
    require_shape("float_predictions", float_predictions, (image_count, run_timesteps))
    require_classes(labels, class_count(network.shapes[-1][0]))
    layers = layer_sizes(network)
    cnn = _share(cnn_predictions, labels)
    own_timesteps = run_timesteps if network.timesteps is None else network.timesteps
    further = (min(own_timesteps, run_timesteps), *(steps for steps in timesteps if steps <= run_timesteps))
    reported = sorted({*reported_timesteps(run_timesteps), *further})
    points = tuple(_points(result, network, layers, labels, cnn_predictions, float_predictions, circuit, reported))
    return Evaluation(
        image_count=image_count,
        timesteps=own_timesteps,
        depth=_depth(network),
        readout=network.readout,
        layers=layers,
        multiply_accumulates=multiply_accumulates,
        cnn_accuracy=cnn.fraction,
        cnn_accuracy_interval=cnn.interval,
        points=points,
        early_exit=early_exit,
        saturated_images=_saturated_images(result, network),
        seconds=result.seconds,
        startup_seconds=result.startup_seconds,
        # A run shorter than the clock's resolution of 1 ns takes 0 seconds.
        images_per_second=image_count / max(result.seconds, 1e-9),
        wrapped_images=None if isinstance(network, GradedNetwork) else result.wrapped_images,
        energy=_energy(network, layers, points, multiply_accumulates, circuit),
        notes=(
            *(_notes(labels, cnn_predictions) if numbers is None else regression_notes(numbers)),
            *_range_notes(result, network),
        ),
        regression=None if numbers is None else evaluate_regression(numbers, reported),
        is_graded=isinstance(network, GradedNetwork),
    )


def _points(
    result: RunResult,
    network: AnyNetwork,
    layers: Sequence[LayerSize],
    labels: Array | None,
    cnn_predictions: Array | None,
    float_predictions: Array | None,
    circuit: CircuitWork | None,
    timesteps: Iterable[int],
) -> Iterator[Point]:
    """Yield the figures after each of ``timesteps``; shapes are as in `evaluate`."""
    predictions, image_count, depth = result.predictions, len(result.potentials), _depth(network)
    cnn, relays = _share(cnn_predictions, labels), relay_work(result, network)
    neurons = np.array([layer.neuron_count for layer in layers[: len(network.spiking_layers)]], np.int64)
    for steps in timesteps:
        fixed = predictions[:, steps - 1]
        floating = None if float_predictions is None else float_predictions[:, steps - 1]
        correct, of_float = _share(fixed, labels), _share(floating, labels)
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
            global_steps=steps + depth,
            correct_count=correct.matches,
            accuracy=correct.fraction,
            accuracy_interval=correct.interval,
            float_accuracy=of_float.fraction,
            float_accuracy_interval=of_float.interval,
            conversion_loss_points=None if lost is None else 100 * lost / image_count,
            agreement_with_cnn=_share(fixed, cnn_predictions).fraction,
            agreement_with_float=_share(fixed, floating).fraction,
            spikes_per_image=float((spikes / image_count).sum()),
            synaptic_operations=float(operations.sum()) + (of_circuit or 0.0),
            synaptic_operations_per_layer=tuple(operations.tolist()),
            firing_rate=tuple(map(known, rates.tolist())),
            activation_sparsity=None if sparsity is None else known(sparsity),
            relay_spikes_per_image=known(float(relay_spikes.sum()) / image_count),
            relay_synaptic_operations=known(float(relay_operations.sum()) / image_count),
            circuit_synaptic_operations=of_circuit,
        )


def _depth(network: AnyNetwork) -> int:
    # Input neurons have no synapse before them, for which Lava would add a step.
    return sum(not isinstance(layer.synapse, PixelBias) for layer in network.layers)


def _energy(
    network: AnyNetwork,
    layers: Sequence[LayerSize],
    points: Sequence[Point],
    multiply_accumulates: int | None,
    circuit: CircuitWork | None,
) -> Energy | None:
    """The estimated energy of an inference, at the T of ``points``; None for graded spikes,
    which Loihi 1 cannot send."""
    if isinstance(network, GradedNetwork):
        return None
    is_poisson = isinstance(network, QuantizedNetwork) and network.poisson_seed is not None
    stored = network.stored if isinstance(network, QuantizedNetwork) else network
    # Pixels of Poisson input may have relays; their synapses count as reached by pixels.
    input_synapses = int(stored.layers[0].synapse.fan_out(network.input_shape).sum())
    neuron_counts = [math.prod(shape) for shape in stored.shapes]
    relay_neurons = sum(layer.relay_neuron_count for layer in layers)

    def at(point: Point) -> Estimate:
        events = None if circuit is None else circuit.events(point.timesteps)
        return estimate(
            point.timesteps,
            point.spikes_per_image + (0 if events is None else events.spikes),
            point.synaptic_operations,
            neuron_counts,
            input_synapses,
            is_poisson=is_poisson,
            relays=RelayEvents(relay_neurons, point.relay_spikes_per_image, point.relay_synaptic_operations),
            circuit=events,
        )

    return energy([at(point) for point in points], multiply_accumulates, is_poisson=is_poisson)


def _notes(labels: Array | None, cnn_predictions: Array | None) -> Iterator[str]:
    """Notes if accuracy or agreement carry no information."""
    yield from same_class_notes(labels, cnn_predictions)
    if labels is not None and cnn_predictions is not None:
        accuracy = float(np.mean(cnn_predictions == labels))
        if (share := constant_accuracy(accuracy, labels)) is not None:
            yield (
                f"{POOR_CNN}classifies {100 * accuracy:.2f} % of these images, and always predicting their most "
                f"frequent class {100 * share:.2f} %: check the labels, the class order, and the normalization."
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
    if isinstance(network, GradedNetwork) and result.wrapped_images:
        yield (
            f"On {result.wrapped_images:,} of {len(result.potentials):,} images, {OUT_OF_RANGE}; all images count if "
            "this happens while the network settles. Lava's CPU models do not check it; a chip may give other outputs."
        )


def reported_timesteps(timesteps: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... below ``timesteps`` (at least 1), then ``timesteps`` itself."""
    return (*(2**exponent for exponent in range((timesteps - 1).bit_length())), timesteps)


class _Share(NamedTuple):
    """How many images have the expected class, the fraction, and its interval; None if unknown."""

    matches: int | None
    fraction: float | None
    interval: Interval | None


def _share(predictions: Array | None, expected: Array | None) -> _Share:
    if predictions is None or expected is None:
        return _Share(None, None, None)
    count, images = int(np.count_nonzero(predictions == expected)), len(expected)
    return _Share(count, count / images, wilson_interval(count, images))


def _checked_size(result: RunResult, network: AnyNetwork) -> tuple[int, int]:
    image_count, timesteps, classes = result.potentials.shape
    spiking = (image_count, timesteps, len(network.spiking_layers))
    fits = result.spike_counts.shape == spiking and result.synaptic_operations.shape == spiking
    found_spikes = None if result.output_spikes is None else result.output_spikes.shape
    fits &= found_spikes == (result.potentials.shape if network.readout == "spikes" else None)
    outputs = network.shapes[-1][0]
    if not fits or classes != outputs or image_count < 1 or timesteps < 1:
        sizes = {
            "potentials": result.potentials.shape,
            "output spikes": found_spikes,
            "spike counts": result.spike_counts.shape,
            "synaptic operations": result.synaptic_operations.shape,
        }
        raise DataError(
            f"found {', '.join(f'{name} {shape}' for name, shape in sizes.items())}",
            where="result",
            expected=f"must be those of a run of this network: (N, T, {outputs}) and (N, T, {spiking[2]})",
        )
    return image_count, timesteps


def _saturated_images(result: RunResult, network: AnyNetwork) -> int:
    """Number of images with an output potential, or one of its digits, at an end of its range."""
    if isinstance(network, GradedNetwork):
        return 0
    if result.saturated_images is not None:
        return result.saturated_images
    potentials = result.potentials
    if result.output_spikes is not None and isinstance(network, QuantizedNetwork) and network.reset == "soft":
        # Before the reset.
        potentials = potentials + result.output_spikes * network.layers[-1].threshold
    return int(are_saturated(potentials).sum())


def evaluate_images(
    result: RunResult,
    network: AnyNetwork,
    images: Dataset,
    *,
    cnn: ReluNetwork | None = None,
    cnn_outputs: Array | None = None,
    float_outputs: Array | None = None,
    exit_choice: MarginChoice | None = None,
    timesteps: Sequence[int] = (),
    neuron: NeuronModel | None = None,
) -> Evaluation:
    """Return the figures of a run of ``network`` on ``images``, compared with the CNN and the float SNN.

    ``cnn_outputs`` are ``(N, outputs)``, from `relu.cnn_scores`, ``float_outputs`` ``(N, T, outputs)``, from
    `simulator.outputs`; ``neuron`` is the neuron model of the run, by default that of the file's target.

    Raises
    ------
    DataError
        As in `evaluation.evaluate`.
    """
    multiply_accumulates = network.provenance.model.multiply_accumulates if cnn is None else cnn.multiply_accumulates
    circuit = None
    if isinstance(network, QuantizedNetwork) and (neuron or neuron_model(network)).is_circuit:
        circuit = CircuitWork(result, network)
    evaluated = partial(
        evaluate, result, network, timesteps=timesteps, multiply_accumulates=multiply_accumulates, circuit=circuit
    )
    if network.task == "regression":
        steps = np.arange(1, result.outputs.shape[1] + 1)[:, np.newaxis]
        numbers = RegressionOutputs(
            names=output_names(network),
            outputs=network.real_outputs(result.outputs, steps),
            targets=images.targets,
            cnn_outputs=cnn_outputs,
            float_outputs=None if float_outputs is None else float_outputs / steps,
        )
        return evaluated(numbers=numbers)
    cnn_classes = None if cnn_outputs is None else classes_of(cnn_outputs)
    early_exit = None
    if exit_choice is not None:
        early_exit = evaluate_early_exit(
            result, exit_choice, labels=images.labels, cnn_predictions=cnn_classes, circuit=circuit
        )
    return evaluated(
        labels=images.labels,
        cnn_predictions=cnn_classes,
        float_predictions=None if float_outputs is None else classes_of(float_outputs),
        early_exit=early_exit,
    )


def output_names(network: QuantizedNetwork | GradedNetwork) -> tuple[str, ...]:
    """Return the name of each output of a regression: the names in the file, if complete, else 0, 1, ..."""
    count, recorded = network.shapes[-1][0], network.provenance.model.names
    # Names are printed in tables; a terminal would interpret control characters.
    return tuple(map(escape_control, recorded)) if len(recorded) == count else tuple(map(str, range(count)))


def require_classes(labels: Array | None, classes: int) -> None:
    """Raise a `DataError` unless all ``labels`` are classes of the network."""
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"found {labels.min()}..{labels.max()}",
            where="labels",
            expected=f"must be 0..{classes - 1}, the classes of the network",
            hint="Number the classes from 0, and use the data the CNN was trained on.",
        )
