"""Checkpoints of half the size: weights rounded to float16, and their accuracies.

float16 has 11 significant bits, more than the 8 bits of exported weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from loihi_convert.cnn.accuracy import accuracy
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.data import DataSplits
from loihi_convert.errors import CheckpointError

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

    Raises
    ------
    CheckpointError
        If a weight is beyond +-65,504.
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
