"""Activation for CNNs that run with few time steps: quantization-clip-floor-shift (Bu et al., ICLR 2022).

``y = threshold * clip(floor(x L / threshold + 1/2) / L, 0, 1)`` with a learnable threshold for each channel and L
levels. This is the output, over L steps, of a soft-reset integrate-and-fire neuron that starts at threshold / 2, if its
current is constant and its spike amplitude is the threshold. A CNN trained with it loses little accuracy in conversion
to such neurons, at any T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.compiled import compiled
from loihi_convert.ground.devices import on_usable_cores

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

    ``plain`` is the same CNN with ReLU, which is used up; ``images`` are float32 ``(N, C, H, W)``.
    """

    def set_threshold(activation: Qcfs, output: Tensor) -> None:
        activation.threshold.copy_(covering_thresholds(output))

    for name, module in model.named_modules():
        if isinstance(module, Qcfs):
            plain.get_submodule(name).register_forward_hook(
                lambda _, inputs, output, module=module: set_threshold(module, output)
            )
    with torch.no_grad():
        plain.eval()(images)


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


@compiled()
def _clipped(share: np.float32) -> np.float32:
    share = np.float32(1) if share > np.float32(1) else share
    return np.float32(0) if share < np.float32(0) else share


@compiled()
def _level(clipped: np.float32, levels: np.float32) -> np.float32:
    step = np.floor(clipped * levels + np.float32(0.5))
    return (levels if step > levels else step) / levels


@compiled()
def quantize_clip_floor_shift(x: Array, threshold: Array, levels: np.float32, y: Array, begin: int, end: int) -> None:
    """Write the activation of ``x`` to ``y``, see `qcfs.Qcfs`; both are float32 ``(rows, C)``."""
    for row in range(begin, end):
        for channel in range(len(threshold)):
            share = x[row, channel] / threshold[channel]
            y[row, channel] = _level(_clipped(share), levels) * threshold[channel]


@compiled()
def quantize_or_rectify(maps: Array, thresholds: Array, levels: np.float32) -> None:
    """Apply the activation to ``maps`` in place, and ReLU in channels whose threshold is NaN. A NaN in ``maps`` stays.

    A loop of its own: given the same array twice, `quantize_clip_floor_shift` would not be vectorized.
    """
    for row in range(len(maps)):
        for channel in range(len(thresholds)):
            value, threshold = maps[row, channel], thresholds[channel]
            positive = np.float32(0) if value < np.float32(0) else value
            stepped = _level(_clipped(value / threshold), levels) * threshold
            maps[row, channel] = positive if np.isnan(threshold) else stepped


@compiled()
def quantize_clip_floor_shift_backward(
    x: Array,
    threshold: Array,
    levels: np.float32,
    slope: Array,
    x_slope: Array,
    threshold_slope: Array,
    begin: int,
    end: int,
) -> None:
    """Compute gradients that treat the floor as the identity; add to ``threshold_slope``, float64 ``(C,)``."""
    sums = np.zeros(len(threshold), np.float32)
    for first in range(begin, end, 256):
        for row in range(first, min(first + 256, end)):
            _add_slopes(x[row], threshold, levels, slope[row], x_slope[row], sums)
        for channel in range(len(threshold)):
            threshold_slope[channel] += sums[channel]
            sums[channel] = 0


@compiled()
def _add_slopes(x: Array, threshold: Array, levels: np.float32, slope: Array, x_slope: Array, sums: Array) -> None:
    for channel in range(x.size):
        share = x[channel] / threshold[channel]
        clipped = _clipped(share)
        inside = np.float32(1) if clipped == share else np.float32(0)
        x_slope[channel] = slope[channel] * inside
        sums[channel] += slope[channel] * (_level(clipped, levels) - share * inside)


@compiled()
def integrate_and_fire(
    currents: Array, threshold: Array, potentials: Array, spikes: Array, begin: int, end: int
) -> None:
    """Simulate the neurons of `SpikingCnn`: write ``potentials`` before the reset, and ``spikes``.

    All arrays are float32: ``currents`` ``(T or 1, rows, C)``, ``threshold`` ``(C,)``, the other two ``(T, rows, C)``.
    """
    is_constant = len(currents) == 1
    for row in range(begin, end):
        for step in range(len(spikes)):
            current, reached, spike = (
                currents[0 if is_constant else step, row],
                potentials[step, row],
                spikes[step, row],
            )
            before, left = potentials[max(0, step - 1), row], spikes[max(0, step - 1), row]
            for channel in range(len(threshold)):
                start = before[channel] - left[channel] if step else threshold[channel] * np.float32(0.5)
                reached[channel] = start + current[channel]
                spike[channel] = threshold[channel] if reached[channel] >= threshold[channel] else np.float32(0)


@compiled()
def integrate_and_fire_backward(
    threshold: Array,
    potentials: Array,
    slopes: Array,
    current_slopes: Array,
    threshold_slope: Array,
    begin: int,
    end: int,
) -> None:
    """Write the gradients of `integrate_and_fire` to ``current_slopes``; add to ``threshold_slope``.

    ``current_slopes`` is float32 ``(T or 1, rows, C)``, ``threshold_slope`` float64 ``(C,)``. The derivative of a spike
    with respect to its potential is 1 within half a threshold of the threshold, and 0 elsewhere. The potential that
    remains after a step carries gradients to later steps.
    """
    is_constant = len(current_slopes) == 1
    half = np.float32(0.5)
    carried = np.empty(len(threshold), np.float32)
    for row in range(begin, end):
        carried[:] = 0
        if is_constant:
            current_slopes[0, row, :] = 0
        for step in range(len(potentials) - 1, -1, -1):
            reached, slope = potentials[step, row], slopes[step, row]
            found = current_slopes[0 if is_constant else step, row]
            for channel in range(len(threshold)):
                distance = reached[channel] - threshold[channel]
                fires = np.float32(1) if distance >= 0 else np.float32(0)
                near = np.float32(1) if abs(distance) < half * threshold[channel] else np.float32(0)
                # A spike also lowers the remaining potential.
                spike_slope = slope[channel] - carried[channel]
                threshold_slope[channel] += spike_slope * (fires - near)
                carried[channel] += spike_slope * near
                found[channel] = carried[channel] + (found[channel] if is_constant else np.float32(0))
        for channel in range(len(threshold)):
            threshold_slope[channel] += half * carried[channel]


class SpikingCnn:
    """A spiking version of a model with QCFS activations, to be trained by its output after T steps.

    A QCFS activation equals the output of its spiking neuron if the spikes arrive evenly. In deep networks with few
    steps, most of the accuracy loss comes from uneven spikes. Here every activation is simulated as the exported
    neuron: it integrates its currents from threshold / 2, fires at the threshold and subtracts it. Gradients pass back
    through all steps (backpropagation through time with a surrogate gradient, Neftci et al., IEEE Signal Processing
    Magazine 2019). All steps of a layer are computed at once: they are folded into the batch axis.

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
                expected = "needs a network whose activations are joined by linear layers"
                raise UsageError("found a network with max pooling", where="timesteps", expected=expected)
            if isinstance(module, Qcfs):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, SpikingQcfs(module, self))

    def __call__(self, inputs: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the mean output over T steps, float32 ``(N, classes)``; ``tensors`` replace parameters by name."""
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
        arrays = (threshold.detach().numpy(), _rows(potentials), _rows(slopes[0].contiguous()), _rows(current_slopes))
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
