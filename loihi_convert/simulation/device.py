"""One layer of the simulations on one device: a CPU, or a GPU or another torch device.

Axes as in `layer_spec.py`. Tensors are on the device; on a CPU they share memory with NumPy arrays.

On a GPU the integers are the same, because every sum is one of float32 numbers below 2^24. A convolution is computed as
a matrix product (im2col), since cuDNN may choose transforms (Winograd, Fourier), which round. TF32, which rounds
operands, is switched off meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from loihi_convert.chip import limits
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.synapse import Conv
from loihi_convert.simulation.currents import Currents, Geometry, convolved_by_product, exact_products, pooled_maps
from loihi_convert.simulation.layer_spec import LayerBlock, LayerSpec, Recording
from loihi_convert.simulation.neurons import Neurons


@dataclass(frozen=True, eq=False)
class CpuLayer:
    """A synapse and its neurons on a CPU."""

    synapse: Currents
    neurons: Neurons

    def currents_of(self, inputs: Tensor) -> Tensor:
        """Return float32 ``(B, T, neurons)``, without the bias, for inputs ``(B, T, H', W', C)`` on any device.

        The inputs are already summed over the windows of the pooling before the synapse; here their dtype is
        `Currents.input_dtype`.
        """
        maps = inputs.numpy()
        currents = self.synapse(maps.reshape(-1, *maps.shape[2:]))
        return torch.from_numpy(currents.reshape(*maps.shape[:2], -1))

    def initial_states(self, images: int) -> Tensor:
        """Return the state before the first step: float32 ``(images, neurons)``."""
        return torch.from_numpy(self.neurons.initial_states(images))

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
        pooled, block = self.neurons.fire(
            None if states is None else states.numpy(), currents.numpy(), steps, recording
        )
        return torch.from_numpy(pooled), block


# Largest im2col matrix, in numbers.
_COLUMNS = 2**27


class Step(NamedTuple):
    """Neurons after one step: states for the next one, potentials after the reset, and which of them fired."""

    states: Tensor
    potentials: Tensor
    spikes: Tensor


class NeuronTensors(NamedTuple):
    """Neurons of a layer: their model, and tensors ``(neurons,)`` as in `LayerSpec`."""

    model: NeuronModel
    limit: float
    bias: Tensor
    threshold: Tensor
    level: Tensor
    initial: Tensor
    offset: Tensor

    @classmethod
    def of(cls, spec: LayerSpec, device: str) -> NeuronTensors:
        """Return those of ``spec`` on ``device``."""
        arrays = (spec.biases, spec.thresholds, spec.levels, spec.initial_states, spec.offsets)
        return cls(spec.neuron, spec.limit, *(torch.from_numpy(array).to(device) for array in arrays))


def one_step(neurons: NeuronTensors, states: Tensor, currents: Tensor) -> Step:
    """Return neurons after one step: the equations of `ir.neuron_model`, which `neuron_kernels.py` must equal.

    ``states``, V or the circuit's u, and ``currents``, I(t), are ``(B, neurons)``.
    """
    model, limit = neurons.model, neurons.limit
    v = states + (currents + neurons.bias)
    if not model.is_circuit:
        v = v.clamp(-limit, limit)
        fires = v > neurons.level
        v = torch.where(fires, v - neurons.threshold if model.reset == "soft" else 0, v)
        return Step(v, v, fires)
    u = torch.where(v > limit, v - 2 * limit, v)
    u = torch.where(u <= -limit, u + 2 * limit, u)
    fires = u > neurons.level
    spent = torch.where(fires, neurons.threshold, 0)
    decayed = u
    if model.leaks:
        units = 1 << limits.UNIT_EXP
        decayed = u - u.sign() * (u.abs() * units / limits.MAX_DECAY).ceil() / units
    return Step(decayed - spent, u + neurons.offset - spent, fires)


class GpuLayer:
    """A synapse and its neurons on a GPU; methods as in `CpuLayer`."""

    def __init__(self, spec: LayerSpec, device: str) -> None:
        synapse = spec.synapse
        weight = synapse.weight if spec.is_integer else synapse.weight / math.prod(synapse.pool)
        self._device = device
        self._geometry: Geometry | None = None
        if isinstance(synapse, Conv):
            self._geometry = Geometry(synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        else:
            # From C, H, W order to H, W, C.
            height, width, channels = pooled_maps(spec.input_shape, synapse.pool)
            weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        with np.errstate(over="ignore"):
            self._kernel = torch.from_numpy(weight.astype(np.float32, order="C")).to(device)
        self._map_shape, self._pool = spec.map_shape, spec.pool
        self._neurons = NeuronTensors.of(spec, device)
        self._fan_out = torch.from_numpy(spec.pooled_fan_out).to(device).flatten()

    def currents_of(self, inputs: Tensor) -> Tensor:
        """See `CpuLayer.currents_of`."""
        maps = inputs.reshape(-1, *inputs.shape[2:]).to(self._device, torch.float32)
        return self._currents(maps).reshape(*inputs.shape[:2], -1)

    def _currents(self, maps: Tensor) -> Tensor:
        """float32 ``(N, H_out, W_out, C_out)``, or ``(N, C_out)`` of a dense synapse, for float32 ``(N, H, W, C)``."""
        with exact_products(self._device):
            if self._geometry is None:
                return maps.flatten(1) @ self._kernel.flatten(1).T
            at_once = max(1, _COLUMNS // (maps[0].numel() * math.prod(self._kernel.shape[2:])))
            parts = (maps[start : start + at_once].permute(0, 3, 1, 2) for start in range(0, len(maps), at_once))
            found = torch.cat([convolved_by_product(part, self._kernel, self._geometry) for part in parts])
            return found.permute(0, 2, 3, 1)

    def initial_states(self, images: int) -> Tensor:
        """See `CpuLayer.initial_states`."""
        return self._neurons.initial.repeat(images, 1)

    def fire(
        self, states: Tensor | None, currents: Tensor, steps: int, recording: Recording
    ) -> tuple[Tensor, LayerBlock]:
        """See `CpuLayer.fire`."""
        states = self.initial_states(len(currents)) if states is None else states
        (images, neurons), bias = states.shape, self._neurons.bias
        whole, channels = (images, steps, *self._map_shape), self._map_shape[2]
        # Whatever torch's default dtype is.
        spikes = torch.empty(images, steps, neurons, dtype=torch.float32, device=states.device)
        kept = torch.empty_like(spikes if recording.potentials else spikes[:0])
        clipped = torch.zeros(images, 2, dtype=torch.bool, device=states.device)
        for step in range(steps):
            current = currents[:, min(step, currents.shape[1] - 1)]
            if recording.clipping:
                reached, limit = states + (current + bias), self._neurons.limit
                low = reached <= -limit if self._neurons.model.is_circuit else reached < -limit
                clipped[:, 0] |= low.any(1)
                clipped[:, 1] |= (reached > limit).any(1)
            done = one_step(self._neurons, states, current)
            spikes[:, step] = done.spikes
            states.copy_(done.states)
            if recording.potentials:
                kept[:, step] = done.potentials
        pooled = self._summed(spikes.reshape(whole))
        counted = images if recording.counts else 0
        fired = spikes.reshape(whole)[:counted].sum((2, 3), dtype=torch.float64).long().cpu()
        operations = torch.zeros(counted, steps, dtype=torch.float64)
        if len(self._fan_out):
            operations = pooled[:counted].flatten(2).double() @ self._fan_out
        received = currents[: images if recording.currents else 0] + bias
        largest = torch.cat([received.reshape(-1, channels), states.new_full((1, channels), -math.inf)]).amax(0)
        block = LayerBlock(
            potentials=kept.reshape(len(kept), *whole[1:]).cpu().numpy(),
            spikes=spikes.reshape(whole)[: images if recording.spikes else 0].cpu().numpy(),
            spike_counts=fired.sum(2).numpy(),
            synaptic_operations=operations.long().cpu().numpy(),
            channel_spikes=fired.sum(0).numpy(),
            largest_current=largest.cpu().numpy(),
            clipped=clipped.cpu().numpy(),
        )
        return pooled, block

    def _summed(self, spikes: Tensor) -> Tensor:
        """``(B, T, H', W', C)``: spikes summed over each window of the pooling after the layer."""
        (pool_h, pool_w), (height, width, channels) = self._pool, self._map_shape
        rows, columns = height // pool_h, width // pool_w
        covered = spikes[:, :, : rows * pool_h, : columns * pool_w]
        return covered.reshape(*spikes.shape[:2], rows, pool_h, columns, pool_w, channels).sum((3, 5))


DeviceLayer: TypeAlias = CpuLayer | GpuLayer
"""A layer on its device."""
