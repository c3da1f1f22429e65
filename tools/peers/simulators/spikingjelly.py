"""SpikingJelly: W. Fang et al., https://github.com/fangwei123456/spikingjelly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simulators import Batch, Job, Runner, batched, initial_potentials, over_map, synapse_module, thresholds
from simulators.graph import graph_batch


def candidates(job: Job) -> Mapping[str, Runner]:
    """Multi-step mode, in which each layer takes all T steps at once, ``(T, B, ...)``, and single-step mode.

    IFNode has a single threshold, here 1, so its input is divided by each channel's threshold. Potentials start half a
    unit higher: then V + 1/2 differs from the threshold by more than rounding errors.
    """
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.layer import SeqToANNContainer

    network = job.network
    hidden = network.spiking_layers
    exact = [synapse_module(layer.synapse) for layer in network.layers]
    divided = [*(synapse_module(layer.synapse, 1 / thresholds(layer)) for layer in hidden), exact[-1]]
    starts = [initial_potentials(layer) for layer in hidden]
    starts_divided = [(start + 0.5) / thresholds(layer) for start, layer in zip(starts, hidden, strict=True)]

    def multi_step(nodes: list[Any], synapses: list[nn.Sequential], starts: list[Tensor]) -> Batch:
        first, *later = synapses[0], *(SeqToANNContainer(*synapse) for synapse in synapses[1:])

        def batch(pixels: Tensor) -> Tensor:
            current: Tensor = first(pixels)
            current = current.expand(job.timesteps, *current.shape)
            for node, start, synapse in zip(nodes, starts, later, strict=True):
                node.v = _over(start, current.shape[1:])
                current = synapse(node(current))
            return current.sum(0)

        return batch

    def single_step(nodes: list[Any], synapses: list[nn.Sequential], starts: list[Tensor]) -> Batch:
        first, *later = synapses

        def batch(pixels: Tensor) -> Tensor:
            constant = first(pixels)
            for node, start, shape in zip(nodes, starts, network.shapes, strict=False):
                node.v = _over(start, (len(pixels), *shape))
            output: Tensor = constant.new_zeros(len(pixels), *network.shapes[-1])
            for _ in range(job.timesteps):
                current = constant
                for node, synapse in zip(nodes, later, strict=True):
                    current = synapse(node(current))
                output += current
            return output

        return batch

    def fire(currents: Tensor) -> Tensor:
        spikes: Tensor = neuron.IFNode(v_reset=None, step_mode="m")(currents)
        return spikes

    formats = {"CNN": torch.contiguous_format, "CNN, channels last": torch.channels_last} if job.arch else {}
    per_channel = [
        neuron.ActivationAwareIFNode(v_threshold=thresholds(layer), channel_dim=1, step_mode="m") for layer in hidden
    ]
    whole, single = ([neuron.IFNode(v_reset=None, step_mode=mode) for _ in hidden] for mode in "ms")
    return {
        **batched(
            job,
            {
                "ActivationAwareIFNode": multi_step(per_channel, exact, starts),
                "IFNode": multi_step(whole, divided, starts_divided),
                **{name: graph_batch(job.arch, fire, job.timesteps, order) for name, order in formats.items()},
            },
            all_steps_at_once=True,
        ),
        **batched(job, {"IFNode single-step": single_step(single, divided, starts_divided)}),
    }


def _over(start: Tensor, shape: Sequence[int]) -> Tensor:
    """Return ``(C,)`` expanded to every neuron of ``(B, C, ...)``."""
    return over_map(start, shape[1:]).expand(*shape).contiguous()
