"""Hooks, and forwards of a module's own: a CNN is what its modules return, not only what their classes compute."""

from __future__ import annotations

import re

import pytest
from support.lowering import Case, assert_equals_module
from torch import nn

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.lower import to_relu_network

SHAPE = (1, 6, 6)


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))


def hooked(layer: int | None = None) -> nn.Module:
    """A CNN with hooks that return nothing; and one on ``layer``, or on the whole, that doubles its input."""
    model = cnn()
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    if layer is not None:
        (model[layer] if layer >= 0 else model).register_forward_pre_hook(lambda _, given: (2 * given[0],))
    return model


def with_own_forward() -> nn.Module:
    model = cnn()
    model[1].forward = lambda x: x + 1  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (hooked(-1), "Sequential: Sequential has hooks, .* that change its outputs"),
        (hooked(0), "0: Conv2d has hooks, .* that change its outputs"),
        (hooked(2), "2: Flatten has hooks, .* that change its outputs"),
        (with_own_forward(), "1: ReLU has hooks, or a forward set on the instance, that change its outputs"),
    ],
)
def test_what_changes_outputs_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(model.eval(), SHAPE)
    assert re.search(message, str(raised.value)), str(raised.value)


def test_hooks_that_only_look_are_ignored() -> None:
    assert_equals_module(Case(hooked, SHAPE))
