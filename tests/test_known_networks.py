"""The comparison of `support.known_networks` finds another network."""

from __future__ import annotations

import pytest
import torch
from support.known_networks import difference, of_network
from torch import nn

from loihi_convert.lowering import to_relu_network


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, ""),
        ({"names": ["0", "fc"]}, "names were"),
        ({"layers": []}, "layers were"),
        ({"sums": [1, 0, 0, 0]}, "nonzero numbers"),
        ({"weights": [1, 0], "sums": [1, 0, 0, 0]}, ""),
        ({"refused": ["InputError", "0"]}, "was read; is refused: InputError, 0"),
    ],
)
def test_a_difference_is_found_unless_the_weights_are_others(change: dict[str, list[object]], found: str) -> None:
    record = of_network(to_relu_network(model(), (1, 6, 6)), model())
    assert difference(record, record | change).startswith(found)
    assert bool(difference(record, record | change)) == bool(found)


def test_two_weights_that_are_exchanged_are_found() -> None:
    known, changed = model(), model()
    last = changed[3].weight.data
    last[0, 0], last[0, 1] = last[0, 1].item(), last[0, 0].item()
    records = [of_network(to_relu_network(each, (1, 6, 6)), known) for each in (known, changed)]
    assert "sums of all numbers" in difference(*records)
