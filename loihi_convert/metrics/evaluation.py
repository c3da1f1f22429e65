"""The figures of one run of one file: the schema of ``--json`` and of ``result.json``.

The curve is the *anytime* curve: one run of one file, whose thresholds were balanced for one T, read after each step.
Spikes and synaptic operations are counted for layers with neurons. Pixels enter the first layer as graded spikes at
every step, so its work does not depend on the image: it is T times the first layer's `LayerSize.multiply_accumulates`.
With Poisson input it is less, and those spikes are not counted. Relays are left out of rates and included in work, with
their share given separately (`ir.relays`).
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from loihi_convert.chip.energy import Energy
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.records import Record
from loihi_convert.ground.statistics import Interval
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.metrics.layer_size import LayerSize
from loihi_convert.metrics.regression import Regression, means

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
