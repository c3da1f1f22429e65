"""The grid to which weights are rounded if they have few bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loihi_convert.ir.quantized import nearest_scales, rounded


def error(weights: np.ndarray, scales: np.ndarray, largest: int) -> np.ndarray:
    return np.square(weights - rounded(weights, scales, largest) * scales[:, None]).sum(axis=1)


@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8))
def test_never_worse_than_the_scale_of_the_largest_weight(seed: int, bits: int) -> None:
    weights = np.random.default_rng(seed).standard_t(3, (5, 30))
    largest = 2 ** (bits - 1) - 1
    scales = nearest_scales(weights, largest)
    peaks = np.abs(weights).max(axis=1) / largest
    assert (error(weights, scales, largest) <= error(weights, peaks, largest)).all()
    assert np.abs(rounded(weights, scales, largest)).max() <= largest


def test_a_single_large_weight_is_clipped_where_bits_are_few() -> None:
    """With 3 bits, -3..3, all weights of 0.4 would become 0 at the scale of the largest weight, 1."""
    weights = np.array([[3.0] + [0.4] * 100])
    (scale,) = nearest_scales(weights, 3)
    assert scale < 1
    assert (rounded(weights, np.array([scale]), 3) == [[3.0] + [1.0] * 100]).all()
    # With 8 bits both fit.
    (scale,) = nearest_scales(weights, 127)
    assert 127 * scale == pytest.approx(3, rel=0.05)


def test_weights_are_rounded_to_the_nearest_integer() -> None:
    assert rounded(np.array([[1.6, -1.6, 0.4, 9.0]]), np.ones(1), 3).tolist() == [[2, -2, 0, 3]]


def test_integers_are_kept() -> None:
    weights = np.array([[-7.0, 3.0, 1.0], [2.0, 0.0, 7.0]])
    assert nearest_scales(weights, 7).tolist() == [1, 1]
    assert rounded(weights, np.ones(2), 7).tolist() == weights.tolist()


def test_dead_channels_stay_zero() -> None:
    assert nearest_scales(np.zeros((2, 3)), 7).tolist() == [0, 0]
    assert rounded(np.ones((2, 3)), np.array([0.0, np.inf]), 7).tolist() == [[0, 0, 0], [0, 0, 0]]
