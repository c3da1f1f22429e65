"""Backend `ref` for networks of graded spikes: integers of images -> outputs and messages, one step for each image."""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.request import require_result_size
from loihi_convert.backends.result import LayerTrace, RunResult
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.progress import Progress, no_progress

# Largest number of images x neurons of the largest layer simulated at once.
_BLOCK: Final = 2**22


def run_graded(
    network: GradedNetwork,
    inputs: Array,
    *,
    is_stream: bool = False,
    trace: bool = False,
    progress: Progress = no_progress,
) -> RunResult:
    """Return the result of one step of each layer for each image.

    Parameters
    ----------
    network
        The network, settled before the first image (`ir.graded`).
    inputs
        Integers ``(N, *input_shape)``.
    is_stream
        Whether the images are the frames of one sequence: each is the change from the one before. Otherwise the settled
        state is written back before each image.
    trace
        Whether to record messages and activations of each layer.

    Returns
    -------
    RunResult
        T = 1. Potentials are the outputs, spike counts the messages that are not 0, of the input neurons first;
        synaptic operations the synapses they reach. ``wrapped_images`` counts the images on which a current or state
        does not fit its 24 bits, or a message its 16; all images if one does not while the network settles. In
        ``traces`` the spikes are the messages, int32.

    Raises
    ------
    UsageError
        If the result would be too large.
    """
    from loihi_convert.simulation.graded import frame_steps, settled_state

    started = time.perf_counter()
    require_result_size(network, len(inputs), 1, trace=trace)
    count, sending, outputs = len(inputs), len(network.spiking_layers), math.prod(network.shapes[-1])
    fan_outs = [fan_out.reshape(-1) for fan_out in network.fan_outs]
    potentials = np.empty((count, 1, outputs), np.int32)
    messages_sent, operations = np.empty((2, count, 1, sending), np.int64)
    channels = [np.zeros((1, shape[0]), np.int64) for shape in network.shapes[:sending]]
    traces = [
        LayerTrace(*(np.empty((count, 1, *shape), np.int32) for _ in range(2)))
        for shape in (network.shapes if trace else ())
    ]
    start = settled_state(network)
    leaves_range = np.full(count, any(layer.leaves_range.any() for layer in start))
    ready = time.perf_counter()
    at_once = 1 if is_stream else max(1, _BLOCK // max(math.prod(shape) for shape in network.shapes))
    state = start
    for first in range(0, count, at_once):
        rows = slice(first, min(first + at_once, count))
        state = next(frame_steps(network, [inputs[rows]], state if is_stream else start))
        potentials[rows, 0] = state[-1].activation.reshape(-1, outputs)
        leaves_range[rows] |= np.any([layer.leaves_range for layer in state], axis=0)
        for index, (layer, fan_out) in enumerate(zip(state, fan_outs, strict=False)):
            is_sent = (layer.messages != 0).reshape(len(layer.messages), -1)
            messages_sent[rows, 0, index] = is_sent.sum(axis=1)
            operations[rows, 0, index] = is_sent @ fan_out
            channels[index][0] += is_sent.reshape(len(is_sent), channels[index].shape[1], -1).sum(axis=(0, 2))
        for recorded, layer in zip(traces, state, strict=False):
            assert recorded.spikes is not None
            recorded.spikes[rows, 0], recorded.potentials[rows, 0] = layer.messages, layer.activation
        progress(rows.stop, count)
    return RunResult(
        potentials=potentials,
        spike_counts=messages_sent,
        synaptic_operations=operations,
        seconds=time.perf_counter() - ready,
        startup_seconds=ready - started,
        channel_spikes=tuple(channels),
        traces=tuple(traces),
        wrapped_images=int(leaves_range.sum()),
    )
