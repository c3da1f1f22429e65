"""Fine-tuning of the spiking network itself: training optimizes its output after T steps.

A QCFS activation equals the output of its spiking neuron if the spikes arrive evenly. In deep networks with few steps,
most of the accuracy loss comes from uneven spikes. Here every activation is simulated as the exported neuron: it
integrates its currents from threshold / 2, fires at the threshold and subtracts it. Gradients pass back through all
steps (backpropagation through time with a surrogate gradient, Neftci et al., IEEE Signal Processing Magazine 2019).
All steps of a layer are computed at once: they are folded into the batch axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.cnn.qcfs import (
    Qcfs,
    in_layout_of,
    integrate_and_fire,
    integrate_and_fire_backward,
    shared,
    shared_sum,
)
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array


class SpikingCnn:
    """A spiking version of a model with QCFS activations.

    Parameters
    ----------
    model
        From `models.build_model` with ``qcfs_levels``. Its activations are replaced in place; its parameters are kept.
    timesteps
        T, >= 1.

    Raises
    ------
    UsageError
        If the model has max pooling, which converts to a different spiking network.
    """

    def __init__(self, model: nn.Module, timesteps: int) -> None:
        self.timesteps, self.images = timesteps, 0
        self._model = model
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.MaxPool2d):
                raise UsageError(
                    "found a network with max pooling",
                    where="timesteps",
                    expected="needs a network whose activations are joined by linear layers",
                    hint="Train it without `timesteps`, or with average pooling.",
                )
            if isinstance(module, Qcfs):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, SpikingQcfs(module, self))

    def __call__(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Run T steps on ``inputs`` ``(N, C, H, W)``; return the mean output over steps, float32 ``(N, classes)``.

        ``tensors`` replace the parameters of the same names.
        """
        self.images = len(inputs)
        outputs: Tensor = torch.func.functional_call(self._model, dict(tensors), (inputs,))
        return outputs.reshape(-1, len(inputs), *outputs.shape[1:]).float().mean(0)


class SpikingQcfs(Qcfs):
    """Spiking neurons that replace a `Qcfs` and use its threshold.

    Parameters
    ----------
    activation
        The activation to replace.
    network
        Gives the number of steps and of images in the batch.
    """

    def __init__(self, activation: Qcfs, network: SpikingCnn) -> None:
        super().__init__(len(activation.threshold), activation.levels)
        self.threshold = activation.threshold
        self._network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes ``(T N, C, ...)``; currents have that shape, or ``(N, C, ...)`` if they are constant over T."""
        self.require_channels(x)
        images, timesteps = self._network.images, self._network.timesteps
        with torch.autocast(x.device.type, enabled=False):
            # The first layer receives the same pixels at every step.
            steps = 1 if len(x) == images else timesteps
            currents = x.float().movedim(1, -1).reshape(steps, images, *x.shape[2:], x.shape[1])
            if x.device.type == "cpu":
                spikes: Tensor = _Spikes.apply(currents, self.thresholds, timesteps)  # type: ignore[no-untyped-call]
            else:
                spikes = fired(currents, self.thresholds, timesteps)
            return in_layout_of(x, spikes.flatten(0, 1).movedim(-1, 1))


class _Spikes(torch.autograd.Function):
    """Converts currents ``(T or 1, N, ..., C)`` to spikes ``(T, N, ..., C)``."""

    @staticmethod
    def forward(context: Any, currents: Tensor, threshold: Tensor, timesteps: int) -> Tensor:
        currents = currents.detach().contiguous()
        spikes = currents.new_empty(timesteps, *currents.shape[1:])
        potentials = torch.empty_like(spikes)
        arrays = _rows(currents), threshold.detach().numpy(), _rows(potentials), _rows(spikes)
        shared(arrays[2].shape[1], lambda begin, end: integrate_and_fire(*arrays, begin, end))
        context.save_for_backward(potentials, threshold)
        context.shape = currents.shape
        return spikes

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        potentials, threshold = context.saved_tensors
        current_slopes = potentials.new_empty(context.shape)
        arrays = (
            threshold.detach().numpy(),
            _rows(potentials),
            _rows(slopes[0].contiguous()),
            _rows(current_slopes),
        )
        threshold_slope = shared_sum(
            arrays[1].shape[1],
            len(threshold),
            lambda sums, begin, end: integrate_and_fire_backward(*arrays, sums, begin, end),
        )
        return current_slopes, threshold_slope, None


def fired(currents: Tensor, threshold: Tensor, timesteps: int) -> Tensor:
    """Return the same spikes as `_Spikes`, with the same gradients, in torch operations, which run on any device."""
    spikes = []
    potential = (threshold / 2).expand(currents.shape[1:])
    for step in range(timesteps):
        reached = potential + currents[min(step, len(currents) - 1)]
        distance = reached - threshold
        # 1 within half a threshold of the threshold; it has a gradient but no value.
        surrogate = (distance.abs() < threshold / 2).to(reached.dtype).detach() * distance
        spikes.append((distance >= 0).to(reached.dtype) * threshold + surrogate - surrogate.detach())
        potential = reached - spikes[-1]
    return torch.stack(spikes)


def _rows(maps: Tensor) -> Array:
    """Return contiguous ``(T, N, ..., C)`` as an array ``(T, rows, C)``, without a copy."""
    return np.asarray(maps.view(len(maps), -1, maps.shape[-1]).numpy())
