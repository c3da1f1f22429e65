"""Convolutions of small maps as matrix products."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from loihi_convert.cnn.fast_steps import SmallMaps
from torch import Tensor, nn

from loihi_convert.cnn import fast_steps, trainer
from loihi_convert.cnn.design import built_in
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.data import load_data
from loihi_convert.ground.progress import no_progress


def computed(inputs: Tensor, layer: nn.Conv2d, slope: Tensor, *, as_product: bool) -> list[Tensor]:
    """The output, and the gradients of the input, the weights and, where there is one, the bias."""
    inputs = inputs.detach().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16), SmallMaps() if as_product else nullcontext():
        output = layer(inputs)
    output.backward(slope)
    gradients = [tensor.grad for tensor in (inputs, layer.weight, layer.bias) if tensor is not None]
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (2, 2), (1, 1), (2, 7)])
def test_the_product_is_the_convolution(size: tuple[int, int], has_bias: bool) -> None:
    """Sums of few small whole numbers, which bfloat16 holds exactly."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(256, 24, 3, padding=1, bias=has_bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=draw))
    inputs = (torch.rand(3, 256, *size, generator=draw) < 0.05).float()
    slope = torch.randint(-1, 2, (3, 24, *size), generator=draw).bfloat16()
    expected = computed(inputs, layer, slope, as_product=False)
    found = computed(inputs, layer, slope, as_product=True)
    assert len(found) == len(expected) == 3 + has_bias
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_gradients_are_those_of_the_function() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, 3, 5, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, generator=draw, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fast_steps._Convolution.apply, (inputs, weight))


@pytest.mark.parametrize("is_built_in", [True, False])
def test_trainings_of_built_in_networks_use_products(is_built_in: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's code may call `view`, which needs another order of the channels in memory."""
    used = []
    monkeypatch.setattr(trainer, "uses_bfloat16", lambda device: True)
    monkeypatch.setattr(SmallMaps, "__enter__", lambda self: used.append(self))
    monkeypatch.setattr(SmallMaps, "__exit__", lambda *_: None)
    splits = load_data("digits")
    splits = replace(splits, train=splits.train[:32], validation=splits.validation[:8])
    design = built_in("digits-cnn", splits, None, None)
    if not is_built_in:
        design = replace(design, name="mine:Net")
    trainer.Training(design, splits, Recipe(epochs=1, batch_size=16, learning_rate=1e-3), seed=0).run_epoch(no_progress)
    assert len(used) == 2 * is_built_in


@pytest.mark.parametrize(
    ("layer", "size", "is_product"),
    [
        (nn.Conv2d(256, 8, 3, padding=1), 4, True),
        (nn.Conv2d(256, 8, 3, padding=1), 5, False),
        (nn.Conv2d(255, 8, 3, padding=1), 4, False),
        (nn.Conv2d(256, 8, 1), 4, False),
        (nn.Conv2d(256, 8, 3, padding="same"), 4, False),
        (nn.Conv2d(256, 8, 3, padding=1, stride=2), 4, False),
        (nn.Conv2d(256, 8, 3, padding=2, dilation=2), 4, False),
        (nn.Conv2d(256, 8, 3, padding=1, groups=2), 4, False),
    ],
)
def test_only_small_maps_of_many_channels(layer: nn.Conv2d, size: int, is_product: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), SmallMaps():
        output = layer(torch.ones(1, layer.in_channels, size, size))
    names = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            names.add(node.name())
            waiting += [before for before, _ in node.next_functions]
    assert ("_ConvolutionBackward" in names) is is_product
