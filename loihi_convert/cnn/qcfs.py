"""Activation for CNNs that run with few time steps: quantization-clip-floor-shift (Bu et al., ICLR 2022).

``y = threshold * clip(floor(x L / threshold + 1/2) / L, 0, 1)`` with a learnable threshold for each channel and L
levels. This is the output, over L steps, of a soft-reset integrate-and-fire neuron that starts at threshold / 2, if its
current is constant and its spike amplitude is the threshold. A CNN trained with it loses little accuracy in conversion
to such neurons, at any T.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.arrays import Array
from loihi_convert.cnn.qcfs_kernels import quantize_clip_floor_shift, quantize_clip_floor_shift_backward
from loihi_convert.threads import on_usable_cores

COVERED_SHARE: Final = 0.99
"""Share of a channel's positive activations below its initial threshold."""

_MOST_FOR_TORCH: Final = 2**24
"""Largest input of torch.quantile."""

_LEAST_SHARE: Final = 1e-3
"""Initial threshold / largest of the layer: one below it could stay at `MIN_THRESHOLD`, where it has no gradient."""

MIN_THRESHOLD: Final = 1e-4
"""Lower bound that keeps thresholds positive in training."""


class Qcfs(nn.Module):
    """Clip, floor, shift; the gradient ignores the floor.

    Parameters
    ----------
    channels
        C of the inputs, ``(N, C, ...)``.
    levels
        L.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.threshold = nn.Parameter(torch.ones(channels, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        self.require_channels(x)
        # Always in float32, even under autocast: the 8 bits of bfloat16 would blur the steps.
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu":
                found: Tensor = _OnCpu.apply(x.float(), self.thresholds, self.levels)  # type: ignore[no-untyped-call]
                return in_layout_of(x, found)
            threshold = self.thresholds.reshape(-1, *(1,) * (x.ndim - 2))
            share = (x.float() / threshold).clamp(0, 1) * self.levels + 0.5
            stepped = share + (share.floor() - share).detach()
            # One half above the top level is that level.
            return stepped.clamp(max=self.levels) / self.levels * threshold

    def require_channels(self, x: Tensor) -> None:
        """Raise a ValueError unless ``x`` has C channels: compiled loops would write to memory of others."""
        if x.shape[1:2] != self.threshold.shape:
            raise ValueError(f"expected {len(self.threshold)} channels, found a tensor of shape {tuple(x.shape)}")

    @property
    def thresholds(self) -> Tensor:
        """``(C,)``, positive."""
        return self.threshold.clamp_min(MIN_THRESHOLD)


class _OnCpu(torch.autograd.Function):
    """The same in compiled loops, one pass in each direction: ten times faster than a dozen torch operations."""

    @staticmethod
    def forward(context: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        rows = x.detach().movedim(1, -1).contiguous()
        context.save_for_backward(rows, threshold)
        context.levels = levels
        y = torch.empty_like(rows)
        arrays = _flat(rows), threshold.detach().numpy(), np.float32(levels), _flat(y)
        shared(len(arrays[0]), lambda begin, end: quantize_clip_floor_shift(*arrays, begin, end))
        return y.movedim(-1, 1)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, threshold = context.saved_tensors
        slope = slopes[0].movedim(1, -1).contiguous()
        x_slope = torch.empty_like(rows)
        arrays = _flat(rows), threshold.detach().numpy(), np.float32(context.levels), _flat(slope), _flat(x_slope)
        threshold_slope = shared_sum(
            len(arrays[0]),
            len(threshold),
            lambda sums, begin, end: quantize_clip_floor_shift_backward(*arrays, sums, begin, end),
        )
        return x_slope.movedim(-1, 1), threshold_slope, None


def shared(rows: int, work: Callable[[int, int], object]) -> None:
    """Call ``work(begin, end)`` for parts of ``rows``, one on each of torch's threads."""
    parts = torch.get_num_threads()
    if parts == 1:
        work(0, rows)
        return
    bounds = [rows * part // parts for part in range(parts + 1)]
    with on_usable_cores(), ThreadPoolExecutor(parts) as threads:
        list(threads.map(work, bounds[:-1], bounds[1:]))


def shared_sum(rows: int, channels: int, work: Callable[[Array, int, int], object]) -> Tensor:
    """Like `shared`, for ``work(sums, begin, end)`` that adds to ``sums``; return all sums, float32 ``(channels,)``.

    They do not depend on which thread is done first.
    """
    found: dict[int, Array] = {}

    def summed(begin: int, end: int) -> None:
        work(found.setdefault(begin, np.zeros(channels)), begin, end)

    shared(rows, summed)
    return torch.from_numpy(np.sum([found[begin] for begin in sorted(found)], axis=0)).float()


def _flat(maps: Tensor) -> Array:
    """Contiguous ``(..., C)`` as an array ``(rows, C)``."""
    return np.asarray(maps.reshape(-1, maps.shape[-1]).numpy())


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """Return ``y``, whose channels are last in memory, contiguous if ``x`` is: the user's code may call ``view``."""
    return y.contiguous() if x.is_contiguous() else y


def set_thresholds(model: nn.Module, plain: nn.Module, images: Tensor) -> None:
    """Set the thresholds in ``model`` to `covering_thresholds` of the activations in ``plain``.

    ``plain`` is the same CNN with ReLU, ``images`` float32 ``(N, C, H, W)``.
    """

    def set_threshold(name: str, output: Tensor) -> None:
        model.get_submodule(name).get_parameter("threshold").copy_(covering_thresholds(output))

    hooks = [
        plain.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: set_threshold(name, output)
        )
        for name, module in model.named_modules()
        if isinstance(module, Qcfs)
    ]
    with torch.no_grad():
        plain.eval()(images)
    for hook in hooks:
        hook.remove()


def covering_thresholds(activations: Tensor) -> Tensor:
    """Return a threshold per channel, ``(C,)``: `COVERED_SHARE` of its positive ``activations`` lie below it.

    ``activations`` are ``(N, C, ...)``. A channel that is never positive, or far below the largest (`_LEAST_SHARE`),
    gets the median of the others.
    """
    positive = [channel[channel > 0] for channel in activations.movedim(1, 0).flatten(1)]
    quantiles = torch.stack([_quantile(numbers) if len(numbers) else torch.tensor(0.0) for numbers in positive])
    is_active = (quantiles > 0) & (quantiles >= _LEAST_SHARE * quantiles.max())
    typical = quantiles[is_active].median() if is_active.any() else torch.tensor(1.0)
    return torch.where(is_active, quantiles, typical)


def _quantile(numbers: Tensor) -> Tensor:
    if len(numbers) <= _MOST_FOR_TORCH:
        return torch.quantile(numbers, COVERED_SHARE)
    return torch.tensor(np.quantile(numbers.numpy(), COVERED_SHARE), dtype=numbers.dtype)
