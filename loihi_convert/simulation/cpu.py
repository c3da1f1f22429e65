"""The layers of `simulator.py` on a CPU: `Currents` and `Neurons` with the interface of `device.DeviceLayer`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loihi_convert.simulation.currents import Currents
from loihi_convert.simulation.layer_spec import LayerBlock, Recording
from loihi_convert.simulation.neurons import Neurons


@dataclass(frozen=True, eq=False)
class CpuLayer:
    """One layer on a CPU; see `device.DeviceLayer`."""

    synapse: Currents
    neurons: Neurons

    def currents_of(self, inputs: Tensor) -> Tensor:
        """See `device.DeviceLayer.currents_of`; inputs of dtype `Currents.input_dtype`."""
        maps = inputs.numpy()
        currents = self.synapse(maps.reshape(-1, *maps.shape[2:]))
        return torch.from_numpy(currents.reshape(*maps.shape[:2], -1))

    def initial_states(self, images: int) -> Tensor:
        """See `device.DeviceLayer.initial_states`."""
        return torch.from_numpy(self.neurons.initial_states(images))

    def fire(
        self, states: Tensor | None, currents: Tensor, steps: int, recording: Recording
    ) -> tuple[Tensor, LayerBlock]:
        """See `device.DeviceLayer.fire`."""
        pooled, block = self.neurons.fire(
            None if states is None else states.numpy(), currents.numpy(), steps, recording
        )
        return torch.from_numpy(pooled), block
