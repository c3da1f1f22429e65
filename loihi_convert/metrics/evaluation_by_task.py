"""Evaluation of a run of a native file according to its task: classification or regression."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.result import RunResult
from loihi_convert.data.dataset import Dataset
from loihi_convert.errors import escape_control
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import ReluNetwork, classes_of
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.circuit_work import CircuitWork
from loihi_convert.metrics.early_exit import MarginChoice, evaluate_early_exit
from loihi_convert.metrics.evaluating import evaluate
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import RegressionOutputs


def evaluate_images(
    result: RunResult,
    network: QuantizedNetwork | GradedNetwork,
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

    Parameters
    ----------
    result
        A run of N images over T time steps.
    images
        With labels or targets, if known; they must match the network's task.
    cnn
        The CNN, if available.
    cnn_outputs
        ``(N, outputs)``, from `relu.cnn_scores`.
    float_outputs
        ``(N, T, outputs)``, from `simulator.outputs`.
    exit_choice
        The margins of early exit; None for a regression.
    timesteps
        As in `evaluating.evaluate`.
    neuron
        The neuron model of the run; by default that of the file's target.

    Raises
    ------
    DataError
        As in `evaluating.evaluate`.
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
