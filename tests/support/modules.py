"""PyTorch models for tests, and the float64 outputs of a `ReluNetwork`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv


class Of(nn.Module):
    """A model of ``modules`` whose forward is ``function``, which takes the model and the images."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self._function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def prepared(model: nn.Module, shape: Shape, seed: int = 0) -> nn.Module:
    """Return the randomized model in float64 and eval mode, with lazy modules initialized for images of ``shape``."""
    torch.manual_seed(seed)
    with torch.no_grad():
        # A model that was prepared before is in float64.
        model.float().eval()(torch.zeros(1, *shape))
    return randomized(model, seed).double()


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set batch-norm statistics, affine parameters and slopes to values typical after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            module.weight.data.uniform_(-0.5, 0.8, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
            assert module.running_var is not None
            module.running_var.uniform_(0.3, 2, generator=generator)
    return model


def outputs(network: ReluNetwork, images: Tensor) -> Tensor:
    """Return the chain's outputs ``(N, outputs)`` for float64 ``images`` ``(N, C, H, W)``."""
    maps = images
    for layer in network.layers:
        maps = _current(layer, maps)
        if layer is not network.layers[-1]:
            maps = _activated(layer, maps)
    return maps


def _current(layer: ReluLayer, maps: Tensor) -> Tensor:
    synapse, weight = layer.synapse, _tensor(layer.synapse.weight)
    if synapse.pool != (1, 1):
        maps = functional.avg_pool2d(maps, synapse.pool)
    if isinstance(synapse, Conv):
        found = functional.conv2d(maps, weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    else:
        found = functional.linear(maps.flatten(1), weight)
    if synapse.bias is None:
        return found
    return found + (_tensor(synapse.bias) if synapse.bias.ndim == 3 else _per_channel(synapse.bias, found.ndim))


def _activated(layer: ReluLayer, maps: Tensor) -> Tensor:
    found = maps.clamp(min=0)
    if layer.threshold is not None:
        assert layer.levels is not None
        threshold = _per_channel(np.where(np.isnan(layer.threshold), 1.0, layer.threshold), maps.ndim)
        has_steps = _per_channel(~np.isnan(layer.threshold), maps.ndim)
        found = torch.where(has_steps, stepped(maps, threshold, layer.levels), found)
    return found if layer.ceiling is None else torch.minimum(found, _per_channel(layer.ceiling, maps.ndim))


def stepped(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """`qcfs.Qcfs` in float64."""
    return ((x / threshold).clamp(0, 1) * levels + 0.5).floor().clamp(max=levels) / levels * threshold


def _per_channel(values: Array, axes: int) -> Tensor:
    return _tensor(values).reshape(-1, *(1,) * (axes - 2))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values.copy())
