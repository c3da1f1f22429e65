"""snnTorch: J. K. Eshraghian et al., https://github.com/jeshraghian/snntorch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from simulators import Job, Runner, batched, initial_potentials, over_map, synapse_module, thresholds


def candidates(job: Job) -> Mapping[str, Runner]:
    """One time step after another through the whole network, as its tutorials do.

    By default Leaky subtracts the threshold of a spike at the beginning of the next step (``reset_delay``). Spikes are
    the same: in both cases V(t-1) - threshold s(t-1) + I(t) is compared with the threshold.
    """
    from snntorch import Leaky

    network = job.network
    hidden = list(zip(network.spiking_layers, network.shapes, strict=False))
    neurons = [
        Leaky(beta=1.0, threshold=over_map(thresholds(layer), shape), surrogate_disable=True) for layer, shape in hidden
    ]
    # It fires if V > threshold. With V half a unit higher, integers fire if V >= threshold.
    initial = [over_map(initial_potentials(layer) + 0.5, shape) for layer, shape in hidden]
    first, *later = (synapse_module(layer.synapse) for layer in network.layers)

    def batch(pixels: Tensor) -> Tensor:
        constant = first(pixels)
        potentials = [
            start.expand(len(pixels), *shape) for start, shape in zip(initial, network.shapes[:-1], strict=True)
        ]
        output: Tensor = constant.new_zeros(len(pixels), *network.shapes[-1])
        for _ in range(job.timesteps):
            current = constant
            for index, (neuron, synapse) in enumerate(zip(neurons, later, strict=True)):
                spikes, potentials[index] = neuron(current, potentials[index])
                current = synapse(spikes)
            output += current
        return output

    return batched(job, {"": batch})
