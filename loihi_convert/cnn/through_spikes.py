"""Fine-tuning through the spiking network itself: what is trained is the accuracy after T steps.

A network with QCFS activations computes what its spiking network would if spikes arrived evenly; deep networks lose
most at few steps to spikes that do not. Each training step therefore runs twice. First the spiking network takes T
steps, without gradients: every activation integrates its current from threshold / 2, fires at the threshold and
subtracts it, and notes the mean of its spikes. Then the network runs once with these means in place of its activations.
Layers between activations are linear, so that the means of currents are then exact; gradients pass as if an activation
clipped its mean current at 0 and at the threshold (rate-based backpropagation, Yu et al., NeurIPS 2024).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loihi_convert.cnn.qcfs import Qcfs, flat
from loihi_convert.cnn.qcfs_kernels import integrate_and_fire, rate_backward
from loihi_convert.errors import UsageError


class SpikingNetwork:
    """A model with QCFS activations, made to spike.

    Parameters
    ----------
    model
        From `models.build_model` with ``qcfs_levels``; its activations are replaced, its parameters stay the same.
    timesteps
        T, >= 1.

    Raises
    ------
    UsageError
        If the model has max pooling, whose spiking form is another network.
    """

    def __init__(self, model: nn.Module, timesteps: int) -> None:
        self.timesteps, self.images, self.is_spiking = timesteps, 0, False
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

    @torch.no_grad()
    def spike(self, inputs: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """Run T steps on ``inputs`` ``(N, C, H, W)``; return the mean of the outputs, ``(N, classes)``.

        ``tensors`` replace parameters of the same name. Activations keep their means for the next forward pass.
        """
        self.images, self.is_spiking = len(inputs), True
        try:
            currents: Tensor = torch.func.functional_call(self._model, tensors, (inputs,))
        finally:
            self.is_spiking = False
        return currents.reshape(-1, len(inputs), *currents.shape[1:]).float().mean(0)


class SpikingQcfs(Qcfs):
    """The neurons in place of a `Qcfs`, which keep its threshold.

    Parameters
    ----------
    activation
        What is replaced.
    network
        Says how many steps and images a batch holds, and whether it spikes.
    """

    def __init__(self, activation: Qcfs, network: SpikingNetwork) -> None:
        super().__init__(len(activation.threshold), activation.levels)
        self.threshold = activation.threshold
        self._network = network
        self._rate = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Spiking: currents ``(T N, ...)``, or ``(N, ...)`` if constant, to spikes. Else: mean currents to means."""
        with torch.autocast(x.device.type, enabled=False):
            if not self._network.is_spiking:
                found: Tensor = _Rate.apply(x.float(), self.thresholds, self._rate)  # type: ignore[no-untyped-call]
                return found
            currents = x.float().movedim(1, -1).contiguous()
            channels, (images, timesteps) = currents.shape[-1], (self._network.images, self._network.timesteps)
            # The first layer sees the same pixels at every step.
            steps = 1 if len(currents) == images else timesteps
            shape = (images, *currents.shape[1:])
            spikes, self._rate = torch.empty((timesteps, *shape)), torch.empty(shape)
            integrate_and_fire(
                currents.reshape(steps, -1, channels).numpy(),
                self.thresholds.detach().numpy(),
                spikes.reshape(timesteps, -1, channels).numpy(),
                flat(self._rate),
            )
            return spikes.flatten(0, 1).movedim(-1, 1)


class _Rate(torch.autograd.Function):
    """The noted means; differentiated as mean currents that are clipped, at a threshold that is learned with them."""

    @staticmethod
    def forward(context: Any, x: Tensor, threshold: Tensor, rate: Tensor) -> Tensor:
        context.save_for_backward(x.detach().movedim(1, -1).contiguous(), threshold, rate)
        return rate.movedim(-1, 1)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, threshold, rate = context.saved_tensors
        x_slope, threshold_slope = torch.empty_like(rows), torch.zeros(len(threshold), dtype=torch.float64)
        rate_backward(
            flat(rows),
            threshold.detach().numpy(),
            flat(rate),
            flat(slopes[0].movedim(1, -1).contiguous()),
            flat(x_slope),
            threshold_slope.numpy(),
        )
        return x_slope.movedim(-1, 1), threshold_slope.float(), None
