"""Interface of one layer on one device, CPU or GPU, as the simulations use it.

Axes as in `layer_spec.py`. Tensors are on the device; on a CPU they share memory with NumPy arrays.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from loihi_convert.simulation.layer_spec import LayerBlock, Recording


class DeviceLayer(Protocol):
    """A synapse and its neurons; see `cpu.CpuLayer` and `gpu.GpuLayer`."""

    def currents_of(self, inputs: Tensor) -> Tensor:
        """Return float32 ``(B, T, neurons)``, without the bias, for inputs ``(B, T, H', W', C)`` on any device.

        The inputs are already summed over the windows of the pooling before the synapse.
        """
        ...

    def initial_states(self, images: int) -> Tensor:
        """Return the state before the first step: float32 ``(images, neurons)``."""
        ...

    def fire(
        self, states: Tensor | None, currents: Tensor, steps: int, recording: Recording
    ) -> tuple[Tensor, LayerBlock]:
        """Advance ``states``, in place, by ``steps`` steps; return the spikes for the next layer, and the record.

        Parameters
        ----------
        states
            float32 ``(B, neurons)``: potentials, or the circuit's u as carried over to the next step. None: those
            before the first step, if no call goes on from the last one; they then take no memory.
        currents
            float32 ``(B, steps, neurons)``, or ``(B, 1, neurons)`` if they are constant; without the bias.

        Returns
        -------
        tuple
            ``(B, T, H', W', C)``, uint8 or float32: spikes, summed over each window of the pooling after the layer; and
            the recorded values.
        """
        ...
