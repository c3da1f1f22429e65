"""What a forward returns: a vector in any shape, with or without a softmax; also in a mapping or dataclass."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.modules import Of, outputs, prepared
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.cnn.design import scores_of
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.lowering import to_relu_network
from loihi_convert.pipeline.converting import require_same_outputs
from loihi_convert.reading.source import Source

SHAPE = (1, 6, 6)


class AudioTutorial(nn.Module):
    """The end of PyTorch's audio tutorial: an average over time, a Linear of channels in the last axis."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.end = nn.Conv1d(1, 8, 9, stride=4), nn.Linear(8, 35), end

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return self.end(self.fc(functional.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)))


def returns(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """What a function makes of ten numbers."""
    return prepared(Of(lambda m, x: function(m.fc(x.flatten(1))), fc=nn.Linear(36, 10)), SHAPE)


def read(model: nn.Module, ended: Callable[[Tensor], Tensor] = lambda y: y) -> ReluNetwork:
    """The network, whose outputs, ``ended``, are those of ``model``."""
    network, images = to_relu_network(model, SHAPE), torch.rand(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(ended(outputs(network, images)), model(images).flatten(1))
    return network


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (lambda y: y, ""),
        (lambda y: functional.log_softmax(y, dim=2), "logsoftmax"),
        (lambda y: functional.log_softmax(y, dim=-1).squeeze(1), "logsoftmax"),
    ],
)
def test_the_audio_tutorial_converts(end: Callable[[Tensor], Tensor], ending: str) -> None:
    model, signals = prepared(AudioTutorial(end), (1, 400)), torch.rand(3, 1, 400, dtype=torch.float64)
    network = to_relu_network(model, (1, 400))
    found = outputs(network, signals[:, :, None])
    assert network.ending == ending
    expected = model(signals).flatten(1)
    torch.testing.assert_close(found.log_softmax(1) if ending else found, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[:, None],
        lambda y: y[:, :, None, None],
        lambda y: y[:, None].flip(2),
        lambda y: y[:, None, :5],
        lambda y: y.view(-1, 2, 5).transpose(1, 2).flatten(1),
    ],
)
def test_a_vector_may_have_axes_of_length_1_and_any_order(function: Callable[[Tensor], Tensor]) -> None:
    assert read(returns(function)).notes == ()


def test_a_softmax_may_run_over_a_vector_in_any_order() -> None:
    assert read(returns(lambda y: y.flip(1)[:, None].softmax(2)), lambda y: y.softmax(1)).ending == "softmax"


def test_an_output_in_the_shape_of_the_image_is_a_vector() -> None:
    model = Of(
        lambda m, x: m.decoder(m.encoder(x.flatten(1)).relu()).sigmoid().view_as(x),
        encoder=nn.Linear(36, 10), decoder=nn.Linear(10, 36),
    )  # fmt: skip
    network = read(prepared(model, SHAPE), torch.sigmoid)
    assert network.notes[0] == "the output of shape (1, 6, 6) is taken as a vector of 36 numbers."


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda y: y.view(-1, 2, 5).transpose(1, 2), "gives an output of shape (5, 2)"),
        (lambda y: y.view(-1, 2, 5).transpose(1, 2).sigmoid(), "gives an output of shape (5, 2)"),
        (lambda y: y[:, None].expand(-1, 2, -1), "gives an output of shape (2, 10)"),
        (lambda y: y[:, None].softmax(1), "runs over axis 1 of (1, 10)"),
        (lambda y: y.view(-1, 2, 5).softmax(1), "runs over axis 1 of (2, 5)"),
        (lambda y: y.view(-1, 2, 5).softmax(2).flatten(1), "runs over axis 2 of (2, 5)"),
        (lambda y: y[:, :, None, None].softmax(2), "runs over axis 2 of (10, 1, 1)"),
        (lambda y: y[None].transpose(1, 2), "gives an output of shape (10, 2)"),
    ],
)
def test_other_shapes_are_refused(function: Callable[[Tensor], Tensor], found: str) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(returns(function), SHAPE)
    assert found in raised.value.found


def test_a_softmax_of_each_pixel_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softmax(1)), SHAPE)
    assert raised.value.found == "Softmax runs over axis 1 of (2, 4, 4)"
    assert "global average pooling" in raised.value.hint


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As in Hugging Face's library: a dataclass, and a mapping of its fields that are not None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "logits", "hidden_states"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


@dataclass
class Scores:
    """Not a mapping."""

    logits: Tensor
    features: Tensor


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


class Named(nn.Module):
    """A CNN that returns its class scores under a name."""

    def __init__(self, named: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.fc, self.named = nn.Conv2d(1, 2, 3), nn.Linear(32, 3), named

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x).relu()
        return self.named(self.fc(x.flatten(1)), x)


NAMED = [
    lambda y, x: {"scores": y},
    lambda y, x: {"features": x, "logits": y},
    lambda y, x: ModelOutput(logits=y),
    lambda y, x: ModelOutput(logits=y, hidden_states=(x,)),
    lambda y, x: Scores(logits=y, features=x),
    lambda y, x: Pair(y, x),
    lambda y, x: [y],
    lambda y, x: (y, None),
]


def named(function: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    torch.manual_seed(0)
    return Named(function).eval()


@pytest.mark.parametrize("function", NAMED)
def test_class_scores_may_have_a_name(function: Callable[[Tensor, Tensor], Any]) -> None:
    model = named(function)
    source = Source.from_module(model, SHAPE)
    name = {0: "scores", 6: 0, 7: 0}.get(NAMED.index(function), "logits")
    assert source.notes == (f"the entry {name!r} of what its forward returns is used.",)
    require_same_outputs(source)
    images = torch.rand(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(outputs(source.network, images), scores_of(model.double()(images)))


def test_scores_with_a_name_can_be_fine_tuned() -> None:
    images = torch.rand(8, *SHAPE)
    model = WithQcfs(named(NAMED[2]), images, 4).eval()
    source = Source.from_module(model, SHAPE)
    require_same_outputs(source, np.zeros((1, *SHAPE), np.uint8))
    assert model(images).shape == (8, 3)


def test_random_scores_with_a_name_are_refused() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        to_relu_network(named(lambda y, x: {"logits": y * random.random()}), SHAPE)
    assert "differ from call to call" in raised.value.found


def test_a_hook_may_change_scores_with_a_name() -> None:
    model = named(NAMED[1])
    model.register_forward_hook(lambda module, images, found: {"logits": found["logits"] * 2})
    require_same_outputs(Source.from_module(model, SHAPE))


def test_scores_may_be_changed_in_place_through_a_view() -> None:
    def changed(y: Tensor, x: Tensor) -> Any:
        y[:, :1].relu_()
        return Scores(logits=y, features=x)

    require_same_outputs(Source.from_module(named(changed), SHAPE))
