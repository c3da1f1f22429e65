"""Backend `ref`: the exact integers of a network, simulated on the CPU or a GPU; graded spikes on the CPU."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.backends.backend import Backend
from loihi_convert.backends.result import RunResult, are_saturated, check_run, require_result_size
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.progress import current_progress
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.neuron_model import NeuronModel, neuron_model
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.layers import Recording
from loihi_convert.simulation.simulator import Block, Simulator


class ReferenceBackend(Backend):
    """Runs networks exactly as Lava's CPU simulator does, without Lava.

    Parameters
    ----------
    options
        ``device``, ``neuron`` and ``leak`` are used.
    """

    name: BackendName = "ref"

    def run(
        self,
        network: QuantizedNetwork | GradedNetwork,
        images: Array,
        timesteps: int = 1,
        *,
        trace: bool = False,
        first_image: int = 0,
        is_stream: bool = False,
    ) -> RunResult:
        """See `backends.Backend.run`."""
        if isinstance(network, GradedNetwork):
            return run_graded(network, images, is_stream=is_stream, trace=trace)
        return run_network(
            network,
            images,
            timesteps,
            trace=trace,
            first_image=first_image,
            neuron=self.options.neuron_model(network),
            device=self.options.device,
        )


def run_network(
    network: QuantizedNetwork,
    images: Array,
    timesteps: int,
    *,
    trace: bool = False,
    first_image: int = 0,
    neuron: NeuronModel | None = None,
    device: str = "cpu",
) -> RunResult:
    """Run a network in memory, for example to compare an exported file with.

    Arguments as in `Backend.run`; ``neuron`` is a model that `neuron_model` returns for ``network``, by default that of
    the file's target.
    """
    started = time.perf_counter()
    check_run(network, images, timesteps, trace=trace)
    neuron = neuron or neuron_model(network)
    recording = Recording(counts=True, spikes=trace, potentials=trace, clipping=neuron.is_circuit)
    simulator = Simulator(network, recording, device=device, neuron=neuron)
    result = RunResult.unfilled(network, len(images), timesteps, trace=trace)
    has_wrapped, has_saturated = np.zeros((2, len(images)), np.bool_)

    def take(block: Block) -> None:
        place, last = (block.images, block.steps), block.layers[-1]
        result.potentials[place] = np.floor(last.potentials)[:, :, 0, 0]
        if result.output_spikes is not None:
            result.output_spikes[place] = last.spikes[:, :, 0, 0]
        for index, (layer, spikes) in enumerate(zip(block.layers, result.channel_spikes, strict=False)):
            result.spike_counts[(*place, index)] = layer.spike_counts
            result.synaptic_operations[(*place, index)] = layer.synaptic_operations
            spikes[block.steps] += layer.channel_spikes
        if block.digits is not None:
            has_saturated[block.images] |= are_saturated(block.digits)
        if neuron.is_circuit:
            has_wrapped[block.images] |= np.any([layer.clipped.any(axis=1) for layer in block.layers], axis=0)
        for traced, layer in zip(result.traces, block.layers, strict=False):
            whole = traced.potentials.shape[2:]
            traced.potentials[place] = _as_in_file(np.floor(layer.potentials), whole)
            if traced.spikes is not None:
                traced.spikes[place] = _as_in_file(layer.spikes, whole)

    ready = time.perf_counter()
    simulator.run(images, timesteps, take, first_image=first_image)
    return replace(
        result,
        seconds=time.perf_counter() - ready,
        startup_seconds=ready - started,
        wrapped_images=int(has_wrapped.sum()) if neuron.is_circuit else None,
        saturated_images=int(has_saturated.sum()) if network.low_bits else None,
    )


def _as_in_file(maps: Array, shape: Shape) -> Array:
    """``(B, T, H, W, C)`` in the file's axes, ``(B, T, *shape)``."""
    return maps.transpose(0, 1, 4, 2, 3).reshape(*maps.shape[:2], *shape)


# Largest number of images x neurons of the largest layer simulated at once.
_BLOCK: Final = 2**22


def run_graded(
    network: GradedNetwork,
    inputs: Array,
    *,
    is_stream: bool = False,
    trace: bool = False,
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
    """
    from loihi_convert.simulation.graded import frame_steps, settled_state

    started, progress = time.perf_counter(), current_progress()
    require_result_size(network, len(inputs), 1, trace=trace)
    count = len(inputs)
    result = RunResult.unfilled(network, count, 1, trace=trace)
    fan_outs = network.fan_outs
    state = start = settled_state(network)
    leaves_range = np.full(count, any(layer.leaves_range.any() for layer in start))
    ready = time.perf_counter()
    at_once = 1 if is_stream else max(1, _BLOCK // max(math.prod(shape) for shape in network.shapes))
    for first in range(0, count, at_once):
        rows = slice(first, min(first + at_once, count))
        state = next(frame_steps(network, [inputs[rows]], state if is_stream else start))
        result.potentials[rows, 0] = state[-1].activation.reshape(rows.stop - first, -1)
        leaves_range[rows] |= np.any([layer.leaves_range for layer in state], axis=0)
        for index, (layer, fan_out) in enumerate(zip(state, fan_outs, strict=False)):
            result.count(rows, 0, index, layer.messages != 0, fan_out)
        for traced, layer in zip(result.traces, state, strict=False):
            assert traced.spikes is not None
            traced.spikes[rows, 0], traced.potentials[rows, 0] = layer.messages, layer.activation
        progress(rows.stop, count)
    return replace(
        result,
        seconds=time.perf_counter() - ready,
        startup_seconds=ready - started,
        wrapped_images=int(leaves_range.sum()),
    )
