"""Plain torch: the file step by step, or the CNN itself with a loop over T for its neurons."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loihi_convert.ir.quantized import QuantizedNetwork
from simulators import Batch, Job, Runner, batched, initial_potentials, over_map, synapse_module, thresholds
from simulators.graph import graph_batch


def candidates(job: Job) -> Mapping[str, Runner]:
    """Both orders of an image's values in memory."""
    formats = {"": torch.contiguous_format, "channels last": torch.channels_last}
    if not job.arch:
        return batched(job, {name: file_batch(job.network, job.timesteps, order) for name, order in formats.items()})
    variants = {name: graph_batch(job.arch, fire, job.timesteps, order) for name, order in formats.items()}
    return batched(job, variants, all_steps_at_once=True)


def file_batch(network: QuantizedNetwork, timesteps: int, memory_format: torch.memory_format) -> Batch:
    """Return ``network`` in modules of torch, one time step after another; the first synapse once per image."""
    # torch's type hints omit this form of the call.
    first, *later = (
        synapse_module(layer.synapse).to(memory_format=memory_format)  # type: ignore[call-overload]
        for layer in network.layers
    )
    hidden = list(zip(network.spiking_layers, network.shapes, strict=False))
    levels = [over_map(thresholds(layer), shape) for layer, shape in hidden]
    initial = [over_map(initial_potentials(layer), shape) for layer, shape in hidden]

    def batch(pixels: Tensor) -> Tensor:
        constant: Tensor = first(pixels.contiguous(memory_format=memory_format))
        potentials = [
            start.expand(len(pixels), *shape).clone() for start, shape in zip(initial, network.shapes[:-1], strict=True)
        ]
        output = constant.new_zeros(len(pixels), *network.shapes[-1])
        for _ in range(timesteps):
            current = constant
            for potential, level, synapse in zip(potentials, levels, later, strict=True):
                potential += current
                spikes = (potential >= level).to(potential.dtype)
                potential -= spikes * level
                current = synapse(spikes)
            output += current
        return output

    return batch


def fire(currents: Tensor) -> Tensor:
    """Integrate ``(T, B, ...)``, fire at 1, subtract 1."""
    potential = torch.zeros_like(currents[0])
    spikes = torch.empty_like(currents)
    for current, spike in zip(currents, spikes, strict=True):
        potential += current
        torch.ge(potential, 1, out=spike)
        potential -= spike
    return spikes
