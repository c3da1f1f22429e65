"""Networks whose outputs are numbers, or one logit: trained on generated images, converted, run, and told about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.blobs import blobs, fitted
from torch import nn

from loihi_convert.arrays import Array
from loihi_convert.conversion.agreement import Agreement, explained_share, measure_of
from loihi_convert.conversion.flow import to_integers
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.errors import UsageError
from loihi_convert.frontend.lowering import to_relu_network
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.task import class_count, classes_of

pytestmark = pytest.mark.slow

SIZE = 8
TRAINING, TEST = blobs(600, SIZE), blobs(200, SIZE, seed=1)


@pytest.fixture(scope="module")
def position() -> nn.Module:
    """Two outputs: row and column."""
    return fitted(*TRAINING, nn.MSELoss(), steps=150, size=SIZE)


def scores(model: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        return model(torch.from_numpy(images[:, np.newaxis] / np.float32(255))).numpy()


def as_regression(model: nn.Module) -> ReluNetwork:
    return replace(to_relu_network(model, (1, SIZE, SIZE)), task="regression")


def test_one_output_is_a_threshold_at_zero() -> None:
    assert classes_of(np.array([[-1.5], [0.0], [2.0]])).tolist() == [0, 0, 1]
    assert classes_of(np.array([[[1, 3, 3]], [[2, 2, 0]]])).tolist() == [[1], [0]]
    assert [class_count(outputs) for outputs in (1, 2, 10)] == [2, 2, 10]


def test_explained_share() -> None:
    expected = np.array([[0.0, 10], [2, 10], [4, 10]])
    assert explained_share(expected, expected) == 1
    # The spread is 8; the second output does not vary.
    assert explained_share(expected + np.array([1, 5]), expected) == pytest.approx(1 - 3 / 8)
    assert explained_share(expected + np.array([9, 0]), expected) == 0
    constant = np.full((3, 2), 0.1, np.float32)
    assert [explained_share(found, constant) for found in (constant, constant + 1)] == [1, 0]


def test_a_regression_falls_short_by_more_than_chance_and_more_than_is_negligible() -> None:
    def falls_short(written: float, trial: float) -> bool:
        found = [Agreement(agreement=share, error=0.1, image_count=200) for share in (written, trial)]
        return measure_of("regression").falls_short(*found)

    # Of 200 images the interval ends 19.6 % above what is unexplained.
    assert [falls_short(share, 0.9) for share in (0.89, 0.882, 0.878)] == [False, False, True]
    assert [falls_short(share, 0.9999) for share in (0.999, 0.998)] == [False, True]


def test_auto_compares_outputs(position: nn.Module) -> None:
    cnn = as_regression(position)
    calibration = TRAINING[0][:, np.newaxis]
    made = to_integers(cnn, calibration, 16)
    assert 0.98 < made.agreement.agreement < 1
    ranks = [-trial.agreement for trial in made.trials]
    assert ranks == sorted(ranks)
    assert f"the quantized network explains {100 * made.agreement.agreement:.3f} % of the variance" in made.notes[0]
    coarse = to_integers(cnn, calibration, 1, BalanceOptions(method="percentile"))
    assert coarse.agreement.agreement < 0.9


def test_spike_counts_are_no_numbers(position: nn.Module) -> None:
    with pytest.raises(UsageError) as caught:
        to_integers(as_regression(position), TRAINING[0][:, np.newaxis], 4, BalanceOptions(readout="spikes"))
    assert caught.value.where == "readout"
