"""The activation that stands for integrate-and-fire neurons in a CNN."""

from __future__ import annotations

from torch import Tensor, nn


class FiringRate(nn.Module):
    """``y = min(max(x, 0), 1)``: the rate of neurons with threshold 1 and soft reset at the constant current x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)
