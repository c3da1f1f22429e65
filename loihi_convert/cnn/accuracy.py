"""The share of images that a CNN classifies correctly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loihi_convert.cnn.few_bits import RoundedWeights
from loihi_convert.cnn.through_spikes import SpikingNetwork
from loihi_convert.data import Dataset

_BATCH: Final = 1_000
_SPIKING_BATCH: Final = 200


@torch.no_grad()
def accuracy(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    dataset: Dataset,
    weight_bits: int | None = None,
    *,
    spiking: SpikingNetwork | None = None,
) -> float:
    """Return the share of images, 0..1, that ``model`` classifies correctly in float32 with the weights ``tensors``.

    Parameters
    ----------
    model
        From `models.build_model`; set to eval mode, its own weights are not used.
    tensors
        All parameters and buffers by name.
    dataset
        Images ``(N, C, H, W)`` in 0..255, and labels, N >= 1.
    weight_bits
        If given, weights are first rounded to this many bits, as in training with ``Recipe.weight_bits``.
    spiking
        The spiking form of ``model``; if given, its outputs are counted instead.
    """
    model.eval()
    used = dict(tensors)
    if weight_bits is not None:
        rounded = RoundedWeights(model, weight_bits)
        used |= rounded.weights(used, rounded.scales(used))
    correct = 0
    size = _BATCH if spiking is None else _SPIKING_BATCH
    for start in range(0, len(dataset), size):
        batch = dataset[start : start + size]
        inputs = torch.from_numpy(batch.images.copy()).to(torch.float32) / 255
        scores: Tensor = functional_call(model, used, (inputs,)) if spiking is None else spiking(inputs, used)
        correct += int((scores.argmax(1).numpy() == batch.known_labels).sum())
    return correct / len(dataset)
