"""A CNN with random weights as users run it: spiking neurons replace ReLU; skips and pooling are unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from loihi_convert.reading.users_code import build_cnn
from simulators import Batch

Fire = Callable[[Tensor], Tensor]
"""From currents ``(T, B, ...)`` to spikes of the same shape; potentials start at 0."""


def built(arch: str) -> nn.Module:
    """Return the CNN of ``package.module:factory`` with random weights, seed 0, for inference."""
    torch.manual_seed(0)
    return build_cnn(arch).eval()


class Neurons(nn.Module):
    """A module that replaces ReLU."""

    def __init__(self, fire: Fire, network: Spiking) -> None:
        super().__init__()
        self._fire = fire
        # Not a child module, because the network contains this one.
        self._network = (network,)

    def forward(self, current: Tensor) -> Tensor:
        (network,) = self._network
        if len(current) == network.images:
            # The first synapse gets the same pixels at every step.
            current = current.repeat(network.timesteps, *(1,) * (current.ndim - 1))
        return self._fire(current.reshape(network.timesteps, network.images, *current.shape[1:])).flatten(0, 1)


class Spiking(nn.Module):
    """The CNN over all steps at once; steps are folded into the batch axis."""

    def __init__(self, arch: str, fire: Fire, timesteps: int) -> None:
        super().__init__()
        self.images, self.timesteps = 0, timesteps
        with warnings.catch_warnings():
            # The missing module is one that it imports.
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.fx.experimental.optimization import fuse
        self.graph = fuse(built(arch))
        for name, module in list(self.graph.named_modules()):
            if isinstance(module, nn.ReLU):
                parent, _, last = name.rpartition(".")
                setattr(self.graph.get_submodule(parent), last, Neurons(fire, self))

    def forward(self, pixels: Tensor) -> Tensor:
        self.images = len(pixels)
        currents: Tensor = self.graph(pixels)
        return currents.reshape(self.timesteps, self.images, -1).sum(0)


def graph_batch(arch: str, fire: Fire, timesteps: int, memory_format: torch.memory_format) -> Batch:
    """Return the CNN of ``arch`` with ``fire`` in place of every ReLU module, batch norm folded."""
    network = Spiking(arch, fire, timesteps)
    # torch's type hints omit this form of the call.
    network.to(memory_format=memory_format)  # type: ignore[call-overload]

    def batch(pixels: Tensor) -> None:
        network((pixels / 255).to(memory_format=memory_format))

    return batch
