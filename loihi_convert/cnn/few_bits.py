"""Quantization-aware fine-tuning: training with the rounded weights that the chip will use.

`quantize` rounds a weight times the amplitude of its input spikes, which is the threshold of their channel. The same is
done here in each forward pass, with the current thresholds; gradients ignore the rounding (straight-through estimator,
Bengio et al. 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loihi_convert.cnn.models import ResidualBlock
from loihi_convert.cnn.qcfs import MIN_THRESHOLD, Qcfs
from loihi_convert.errors import UsageError
from loihi_convert.ir.quantized import nearest_scales

Parameters = Mapping[str, Tensor]
"""Parameters of a model by name."""


class _Rounded(NamedTuple):
    weight: str
    threshold_before: str | None
    is_output: bool


class RoundedWeights:
    """The rounded weights of a model from `models.build_model` with QCFS activations.

    Parameters
    ----------
    model
        The CNN; only its structure is used.
    bits
        2..8, sign included.

    Raises
    ------
    UsageError
        If the model is not a plain chain: the input of a residual block has a different amplitude in each of its sums.
    """

    def __init__(self, model: nn.Module, bits: int) -> None:
        self._largest = 2 ** (bits - 1) - 1
        synapses: list[_Rounded] = []
        threshold: str | None = None
        for name, module in model.named_children():
            if isinstance(module, ResidualBlock):
                expected = "must be unset unless the CNN is a plain chain of layers"
                raise UsageError("found a network with residual blocks", where="weight_bits", expected=expected)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                synapses.append(_Rounded(f"{name}.weight", threshold, is_output=False))
            elif isinstance(module, Qcfs):
                threshold = f"{name}.threshold"
        self._synapses = [*synapses[:-1], synapses[-1]._replace(is_output=True)]

    def scales(self, tensors: Parameters) -> dict[str, Tensor]:
        """Return the scales as in `quantize`: ``(C_out, 1)``, one per row of each weight; one for all output rows."""
        found = {}
        for synapse in self._synapses:
            rows = _rows(synapse, tensors).detach()
            numbers = rows.cpu().numpy()
            chosen = nearest_scales(numbers.reshape(1, -1) if synapse.is_output else numbers, self._largest)
            found[synapse.weight] = torch.from_numpy(chosen).float().reshape(-1, 1).to(rows.device)
        return found

    def weights(self, tensors: Parameters, scales: Parameters) -> dict[str, Tensor]:
        """Return the rounded weights in ``tensors``; gradients pass to the unrounded weights."""
        found = {}
        for synapse in self._synapses:
            weight, factors, rows = tensors[synapse.weight], _factors(synapse, tensors), _rows(synapse, tensors)
            with torch.no_grad():
                scale = scales[synapse.weight].clamp_min(torch.finfo(torch.float32).tiny)
                steps = (rows / scale).round().clamp(-self._largest, self._largest)
                change = (steps * scale).reshape(weight.shape) / factors - weight
            found[synapse.weight] = weight + change
        return found


def rounded_state(model: nn.Module, state: Parameters, bits: int | None) -> Parameters:
    """Return ``state`` with the weights that a CNN trained for ``bits`` computes with; unchanged for None.

    ``model`` is the CNN; only its structure is used.
    """
    if bits is None:
        return state
    rounded = RoundedWeights(model, bits)
    with torch.no_grad():
        return {**state, **rounded.weights(state, rounded.scales(state))}


def _rows(synapse: _Rounded, tensors: Parameters) -> Tensor:
    """``(C_out, inputs)``: weights times the amplitude of an input spike."""
    return (tensors[synapse.weight] * _factors(synapse, tensors)).flatten(1)


def _factors(synapse: _Rounded, tensors: Parameters) -> Tensor:
    """The amplitude of an input spike, a factor on the weights: the threshold of its channel."""
    weight = tensors[synapse.weight]
    if synapse.threshold_before is None:
        return weight.new_ones(1)
    threshold = tensors[synapse.threshold_before].detach().clamp_min(MIN_THRESHOLD)
    if weight.ndim == 2:
        # Flattened maps: all positions of a channel are adjacent.
        return threshold.repeat_interleave(weight.shape[1] // len(threshold))
    return threshold.reshape(-1, 1, 1)
