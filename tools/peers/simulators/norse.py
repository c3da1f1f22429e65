"""norse: C. Pehle and J. E. Pedersen, https://github.com/norse/norse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from simulators import Job, Runner, batched, initial_potentials, over_map, synapse_module, thresholds


def candidates(job: Job) -> Mapping[str, Runner]:
    """One time step after another through a `SequentialState`."""
    from norse.torch import SequentialState, reset_subtract
    from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
    from norse.torch.functional.threshold import threshold
    from norse.torch.module.snn import SNNCell

    def step(current: Tensor, state: Any, parameters: Any, dt: float) -> tuple[Tensor, Any]:
        """`iaf_feed_forward_step`, which resets to a value, changed to norse's soft reset."""
        potential = state.v + current
        spikes = threshold(potential - parameters.v_th, parameters.method, parameters.alpha)
        after = reset_subtract(spikes, potential, parameters.v_reset, parameters.v_th)
        return spikes, IAFFeedForwardState(v=after)

    network = job.network
    hidden = list(zip(network.spiking_layers, network.shapes, strict=False))
    # It fires if V > threshold. With V half a unit higher, integers fire if V >= threshold.
    initial = [over_map(initial_potentials(layer) + 0.5, shape) for layer, shape in hidden]
    first, *later = (synapse_module(layer.synapse) for layer in network.layers)
    modules: list[nn.Module] = []
    for (layer, shape), synapse in zip(hidden, later, strict=True):
        parameters = IAFParameters(v_th=over_map(thresholds(layer), shape), method="heaviside")
        modules += [SNNCell(step, lambda _: None, parameters), synapse]
    model = SequentialState(*modules)

    def batch(pixels: Tensor) -> Tensor:
        constant = first(pixels)
        state: list[Any] = [None] * len(modules)
        state[::2] = [IAFFeedForwardState(v=start) for start in initial]
        output: Tensor = constant.new_zeros(len(pixels), *network.shapes[-1])
        for _ in range(job.timesteps):
            current, state = model(constant, state)
            output += current
        return output

    return batched(job, {"": batch})
