"""Histograms of activations: the same in any order, and percentiles of them beside exact ones."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from loihi_convert.ground.arrays import Array
from loihi_convert.simulation.relu import Histogram

BINS = 64
VALUES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 60), st.just(3)),
    elements=st.floats(-1, 2.0**99, width=32) | st.floats(0, 1, width=32),
)


def histogram(values: Array, bins: int = BINS) -> Histogram:
    found = Histogram(values.shape[1], bins)
    found.add(values[:, None, None])
    return found


@given(VALUES, st.floats(0.5, 100), st.integers(0, 2**30))
@settings(deadline=None)
def test_a_percentile_lies_at_most_one_bin_above_the_exact_one(values: Array, percentile: float, seed: int) -> None:
    found = histogram(values).percentile(percentile)
    for channel, value in zip(values.T.astype(np.float64), found, strict=True):
        positive = np.sort(channel[channel > 0])
        if len(positive) == 0:
            assert value == 0
            continue
        rank = math.ceil(len(positive) * Fraction(repr(percentile)) / 100)
        exact, largest = positive[rank - 1], positive[-1]
        assert exact <= value <= min(exact + 2 * largest / BINS, largest)
    # One value after another, in another order, and in two histograms.
    parts = [Histogram(3, BINS), Histogram(3, BINS)]
    for number, row in enumerate(np.random.default_rng(seed).permutation(values)):
        parts[number % 2].add(row[None, None, None])
    assert np.array_equal(parts[0].with_values_of(parts[1]).percentile(percentile), found)


@given(VALUES, st.floats(0.5, 100))
@settings(deadline=None)
def test_channels_joined_are_the_histogram_of_all_their_values(values: Array, percentile: float) -> None:
    together = histogram(values[:, [0, 2]].reshape(-1, 1))
    joined = histogram(values).of_channels(np.array([0, 2]))
    assert np.array_equal(joined.percentile(percentile), together.percentile(percentile))


def test_the_largest_value_is_known_exactly() -> None:
    found = histogram(np.array([[1.5, -1.0], [np.inf, -2.0], [0.5, 0.0]], np.float32))
    assert found.percentile(100).tolist() == [np.inf, 0]


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_what_is_not_finite_stays_so(odd: float) -> None:
    values = np.array([[1.0, 2.0], [odd, 1.0]], np.float32)
    found = histogram(values).percentile(50)
    assert (np.isfinite(found).tolist(), found[1]) == ([False, True], pytest.approx(1, abs=4 / 64))


@pytest.mark.parametrize("percentile", [66.66666666666667, 99.86501019683699, 1e-18])
def test_a_percentile_of_many_digits_fits_its_integers(percentile: float) -> None:
    """The rank is a product of 5,000 and a numerator of 16 digits: above 2^63."""
    values = np.arange(1, 5_001, dtype=np.float32)[:, None]
    rank = math.ceil(len(values) * Fraction(repr(percentile)) / 100)
    assert rank <= histogram(values, 4_096).percentile(percentile)[0] <= rank + 8_192 / 4_096
