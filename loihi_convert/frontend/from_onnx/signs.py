"""Values that are never negative: zeros beyond their border change no maximum."""

from __future__ import annotations

import operator
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

_ALWAYS: Final = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax)

_KEEPS: Final = (
    *(nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
"""Modules whose outputs are nonnegative if their inputs are."""

_KEEP: Final = (
    *(torch.cat, torch.split, torch.index_select, torch.select, torch.broadcast_to, torch.tile, torch.flatten),
    *(torch.reshape, torch.permute, torch.mean, torch.sum, torch.amax, torch.minimum, operator.add, functional.pad),
)
"""Functions whose outputs are nonnegative if all their inputs are."""


def is_nonnegative(target: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether the call ``target(*arguments)`` is known to be nonnegative for all images."""
    if isinstance(target, nn.Hardtanh):
        return bool(target.min_val >= 0)
    if isinstance(target, _ALWAYS):
        return True
    values: list[fx.Node] = []
    fx.node.map_arg(arguments, values.append)
    signs = [bool(value.meta["is_nonnegative"]) for value in values]
    if target is torch.maximum:
        return any(signs)
    # Other numbers are axes and sizes.
    constants = [each for each in arguments if isinstance(each, float)] if target is operator.add else []
    keeps = isinstance(target, _KEEPS) or any(target is function for function in _KEEP)
    return keeps and all(signs) and all(each >= 0 for each in constants)
