"""sinabs: SynSense, https://github.com/synsense/sinabs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from simulators import Job, Runner, batched, initial_potentials, over_map, synapse_module, thresholds


def candidates(job: Job) -> Mapping[str, Runner]:
    """Each layer takes all T steps at once, ``(B, T, ...)``, squeezed to ``(B T, ...)`` for the synapses."""
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers import IAF, IAFSqueeze

    network = job.network
    hidden = list(zip(network.spiking_layers, network.shapes, strict=False))
    neurons = []
    for index, (layer, shape) in enumerate(hidden):
        options = {
            "spike_threshold": over_map(thresholds(layer), shape),
            "spike_fn": SingleSpike,
            "reset_fn": MembraneSubtract(),
        }
        neurons.append(IAFSqueeze(num_timesteps=job.timesteps, **options) if index else IAF(**options))
    initial = [over_map(initial_potentials(layer), shape) for layer, shape in hidden]
    first, *later = (synapse_module(layer.synapse) for layer in network.layers)

    def batch(pixels: Tensor) -> Tensor:
        count, constant = len(pixels), first(pixels)
        signal: Tensor = constant.unsqueeze(1).expand(count, job.timesteps, *network.shapes[0])
        for neuron, start, shape, synapse in zip(neurons, initial, network.shapes, later, strict=False):
            neuron.v_mem = start.expand(count, *shape)
            spikes = neuron(signal)
            signal = synapse(spikes if spikes.ndim == len(shape) + 1 else spikes.flatten(0, 1))
        return signal.reshape(count, job.timesteps, -1).sum(1)

    return batched(job, {"": batch}, all_steps_at_once=True)
