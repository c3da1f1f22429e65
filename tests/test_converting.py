"""Skips are spread over as many relays as were asked for, and the file says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loihi_convert import pipeline
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.errors import UnsupportedModelError, UsageError
from loihi_convert.frontend.source import Source
from loihi_convert.ir.relays import relay_count
from loihi_convert.netx import read
from loihi_convert.pipeline.converting import converted, require_same_outputs


class Block(nn.Module):
    """A skip whose values are large beside the convolution that it joins."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)
        return self.fc(x.flatten(1))


def source() -> Source:
    torch.manual_seed(0)
    return Source.from_module(Block(), (1, 8, 8))


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize(("copies", "relays"), [(1, 4), (2, 8), (4, 16)])
def test_as_many_relays_as_asked_for(copies: int, relays: int) -> None:
    options = BalanceOptions(method="percentile")
    made = converted(source(), pixels(), 4, options, QuantizeOptions(), skip_copies=copies)
    assert sum(relay_count(layer.relay_of) for layer in made.quantized.layers) == relays
    assert made.quantized.provenance.model.skip_copies == copies
    assert ("skip_copies" in made.quantized.provenance["model"]) == (copies > 1)


def test_the_number_is_chosen_by_trials_and_said() -> None:
    made = converted(source(), pixels(), 4, BalanceOptions(method="percentile"), QuantizeOptions())
    (note,) = [note for note in made.notes if "relay" in note]
    assert "1: " in note
    assert "2: " in note


class Misread(nn.Module):
    """Changes a view in place, and so the tensor that it is a view of: the front end reads a network without ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        maps.flatten(1).relu_()
        return self.fc(torch.relu(maps + 0.1).flatten(1))


def test_a_network_that_was_misread_is_not_converted() -> None:
    misread = Source.from_module(Misread(), (1, 8, 8))
    with pytest.raises(UnsupportedModelError) as caught:
        converted(misread, pixels(), 4, BalanceOptions(method="percentile"), QuantizeOptions())
    assert caught.value.where == "Misread"


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
def test_classes_are_compared_behind_a_softmax_or_sigmoid(ending: nn.Module) -> None:
    torch.manual_seed(0)
    require_same_outputs(Source.from_module(nn.Sequential(Block(), ending), (1, 8, 8)), pixels())


def test_normalization_is_part_of_the_comparison() -> None:
    torch.manual_seed(0)
    normalized = Source.from_module(Block(), (1, 8, 8), mean=(0.3,), std=(0.2,))
    require_same_outputs(normalized, pixels())
    with pytest.raises(UnsupportedModelError):
        require_same_outputs(replace(normalized, provenance=source().provenance), pixels())


def test_a_file_is_compared_with_the_network_of_its_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "block.pt"
    torch.save(Block().state_dict(), path)
    opened = Source.from_module(Block(), (1, 8, 8))
    (done,) = pipeline.export(
        opened, tmp_path / "block.net", (4,), pixels(), balance_options=BalanceOptions(method="percentile"),
        skip_copies=2,
    )  # fmt: skip
    network = read(done.path)
    assert done.verified_images == 32
    assert opened.with_skip_copies(network.provenance.model.skip_copies).network.shapes == network.shapes


@pytest.mark.parametrize("copies", [0, 9])
def test_too_few_or_too_many(copies: int) -> None:
    with pytest.raises(UsageError) as raised:
        converted(source(), pixels(), 4, BalanceOptions(), QuantizeOptions(), skip_copies=copies)
    assert raised.value.where == "skip_copies"
