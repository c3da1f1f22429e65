"""Runs and evaluations of 200 images with a known number of correct ones after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np

from loihi_convert.backends.result import RunResult
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.metrics.early_exit import MarginChoice
from loihi_convert.metrics.evaluation import ExpectedClasses, evaluate
from loihi_convert.runs.columns import FileResults

LABELS = np.arange(200) % 3


def _network(timesteps: int) -> QuantizedNetwork:
    """One pixel -> 4 neurons, "first.conv" -> 3 classes."""
    neuron = IntegerNeuron(np.full(4, 5), np.zeros(4, int))
    return QuantizedNetwork(
        input_shape=(1, 1, 1),
        layers=(
            QuantizedLayer("first.conv", Conv(np.ones((4, 1, 1, 1), int)), neuron, np.ones(4), largest_input=255),
            QuantizedLayer("classes", Dense(np.ones((3, 4), int)), None, np.ones(3)),
        ),
        timesteps=timesteps,
        max_timesteps=64,
        pixel_bits=8,
        reset="soft",
    )


def _run(correct_counts: Sequence[int]) -> RunResult:
    """Return a run whose first ``correct_counts[t]`` images are correct after step t; 2 spikes per image and step."""
    classes = np.stack([np.where(np.arange(200) < right, LABELS, (LABELS + 1) % 3) for right in correct_counts], axis=1)
    # All numbers differ, so that a swapped image, step or class is detected.
    potentials = np.arange(classes.size * 3, dtype=np.int32).reshape(*classes.shape, 3) % 997
    np.put_along_axis(potentials, classes[:, :, None], 1000, axis=2)
    spikes = np.full((200, len(correct_counts), 1), 2)
    # Of the 400 spikes of a step, by channel.
    channel_spikes = np.tile([0, 50, 150, 200], (len(correct_counts), 1))
    return RunResult(
        potentials, spikes, 3 * spikes, seconds=0.5, startup_seconds=0.25, channel_spikes=(channel_spikes,)
    )


def entry(
    correct_counts: Sequence[int],
    *,
    name: str = "model",
    balanced: int = 4,
    labels: Array | None = LABELS,
    has_cnn: bool = True,
    has_float: bool = True,
    exit_leads: Sequence[int] | None = None,
) -> FileResults:
    """Return a run and its results, with the first ``correct_counts[t]`` of `LABELS` correct after step t.

    ``exit_leads`` are the leads of the class after each step, in every image. Early exit uses a margin of 5.
    """
    result = _run(correct_counts)
    cnn_predictions = np.where(np.arange(200) < 198, LABELS, 0) if has_cnn else None
    choice = None
    if exit_leads is not None:
        leads = np.array(exit_leads, np.int32)[:, None] * np.eye(3, dtype=np.int32)[result.predictions]
        result = replace(result, potentials=leads)
        choice = MarginChoice(
            margin=5,
            curve_margins=(0, 5, 9),
            tolerance_points=0.1,
            timesteps=len(correct_counts),
            split="validation",
            image_count=2000,
            by_labels=True,
        )
    network = _network(balanced)
    floating = _run([min(200, count + 1) for count in correct_counts]).predictions if has_float else None
    evaluation = evaluate(
        result,
        network,
        ExpectedClasses(labels, cnn_predictions, floating),
        exit_choice=choice,
        multiply_accumulates=16 if has_cnn else None,
    )
    return FileResults(name, evaluation, result, network)


def bytes_of(value: Any) -> int:
    """The size of all arrays in a result."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = value if isinstance(value, list | tuple) else vars(value).values() if is_dataclass(value) else ()
    return sum(map(bytes_of, parts))
