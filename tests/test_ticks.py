"""Ticks are round values within the range, and their labels short."""

from __future__ import annotations

import pytest

from loihi_convert.report.axes import decade_ticks, nice_ticks, tick_label, timestep_range, timestep_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (98.2, 99.9, [98.5, 99, 99.5]), (0, 0.03, [0, 0.01, 0.02, 0.03]), (5, 5, [5])],
)
def test_nice_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.9, 25, [1, 2, 5, 10, 20]), (900, 2500, [1000, 2000]), (2100, 4000, [2500, 3000, 3500, 4000])],
)
def test_decade_ticks(low: float, high: float, expected: list[float]) -> None:
    """The last range does not contain any of 1, 2, 5, 10, ..."""
    assert decade_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("number", "label"),
    [(0.5, "0.5"), (64, "64"), (9999, "9999"), (20_000, "20 k"), (1_500_000, "1.5 M"), (2e9, "2 G")],
)
def test_tick_label(number: float, label: str) -> None:
    assert tick_label(number) == label


@pytest.mark.parametrize("first", [2.36, 2.4, 1, 8])
def test_labels_of_t_are_on_the_axis(first: float) -> None:
    """Also the power of 2 before an average T that early exit has."""
    begin, end = timestep_range(first, 64)
    labels = timestep_ticks([first, 16, 64], first)
    assert begin <= min(labels)
    assert max(labels) <= end
