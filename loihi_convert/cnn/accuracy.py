"""The share of images that a CNN classifies correctly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import pixels
from loihi_convert.cnn.few_bits import rounded_state
from loihi_convert.cnn.through_spikes import SpikingCnn
from loihi_convert.data import Dataset, DataSplits
from loihi_convert.errors import CheckpointError
from loihi_convert.ir.network import classes_of

_BATCH: Final = 1_000
_PIXELS: Final = _BATCH * 3 * 32 * 32
"""Most pixels of a batch: larger images than those of CIFAR-10 would need too much memory."""
_SPIKING: Final = 5
"""A batch of a spiking network is smaller by this factor."""


@torch.no_grad()
def accuracy(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    dataset: Dataset,
    weight_bits: int | None = None,
    *,
    spiking: SpikingCnn | None = None,
) -> float:
    """Return the share of images, 0..1, that ``model`` classifies correctly in float32 with the weights ``tensors``.

    Parameters
    ----------
    model
        A CNN; set to eval mode, its own weights are not used.
    tensors
        All parameters and buffers by name, on the device to compute on.
    dataset
        Images ``(N, C, H, W)`` in 0..255, and labels, N >= 1.
    weight_bits
        If given, weights are first rounded to this many bits, as in training with ``Recipe.weight_bits``.
    spiking
        The spiking form of ``model``; if given, its outputs are counted instead.
    """
    model.eval()
    # A tensor with two names, of a module that is used twice, may be given only once.
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    used = {name: tensor for name, tensor in tensors.items() if name in names}
    used = dict(rounded_state(model, used, weight_bits))
    device = next(iter(used.values())).device
    correct = 0
    most = min(_BATCH, _PIXELS // math.prod(dataset.images.shape[1:]))
    size = max(1, most if spiking is None else most // _SPIKING)
    for start in range(0, len(dataset), size):
        batch = dataset[start : start + size]
        inputs = pixels(batch.images).to(device)
        scores: Tensor = functional_call(model, used, (inputs,)) if spiking is None else spiking(inputs, used)
        correct += int((classes_of(scores.float().cpu().numpy()) == batch.known_labels).sum())
    return correct / len(dataset)


LARGEST: Final = 65_504
"""The largest finite number of float16."""


def in_float16(trained: Checkpoint, splits: DataSplits, path: Path, model: nn.Module) -> Checkpoint:
    """Return ``trained`` with each weight rounded to the nearest float16 number, with updated accuracies.

    Parameters
    ----------
    trained
        The checkpoint; its ``state`` is float32 and stays float32.
    splits
        The data set it was trained on; its validation and test images are classified again.
    path
        The file, for error messages.
    model
        The CNN, in which the weights are evaluated; its own are not used.
    """
    state, bits = _rounded(trained.state, path), trained.weight_bits
    return replace(
        trained,
        state=state,
        stored_as="float16",
        validation_accuracy=accuracy(model, state, splits.validation, bits),
        test_accuracy=accuracy(model, state, splits.test, bits) if len(splits.test) else None,
    )


def _rounded(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``state`` with each weight rounded to the nearest float16 number, in its own dtype."""
    rounded = {}
    for name, tensor in state.items():
        rounded[name] = tensor.to(torch.float16).to(tensor.dtype) if tensor.is_floating_point() else tensor
        if bool((rounded[name].isinf() & tensor.isfinite()).any()):
            raise CheckpointError(
                f"{name} holds {float(tensor.abs().max()):g}",
                where=path,
                expected=f"must be in +-{LARGEST:,}, the range of float16",
                hint="Store it as float32.",
            )
    return rounded
