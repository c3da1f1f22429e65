"""Wilson's interval, McNemar's test, and the accuracy of a constant answer."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np

from loihi_convert.ground.arrays import Array

CONFIDENCE: Final = 0.95
"""The confidence level of every interval in this package."""

Z_SCORE: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half the width of such an interval of a normal distribution, in standard deviations: 1.96."""

Interval = tuple[float, float]

FEWEST_JUDGED: Final = 50
"""With fewer images, chance explains much."""

POOR_CNN: Final = "The CNN itself "
"""Start of a note that the CNN is not better than a constant answer."""

# With fewer images, an accuracy is not compared with a constant answer's.
_FEWEST_COMPARED: Final = 10


def constant_accuracy(accuracy: float, labels: Array) -> float | None:
    """Return the accuracy of always predicting the most frequent of ``labels``, if ``accuracy`` is not clearly higher.

    None also with fewer than 10 labels or only one class.
    """
    # Higher by two standard errors, or, of few labels, by anything.
    share = float(np.bincount(labels).max()) / len(labels)
    margin = 2 * math.sqrt(share * (1 - share) / len(labels)) if len(labels) >= FEWEST_JUDGED else 0.0
    is_higher = accuracy == 1 or accuracy > share + margin
    return None if len(labels) < _FEWEST_COMPARED or share == 1 or is_higher else share


def wilson_interval(correct: int, count: int) -> Interval:
    """Return the 95 % Wilson score interval (low, high), fractions 0..1, of ``correct`` out of ``count`` images.

    With p = correct / count and z = 1.96: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Raises
    ------
    ValueError
        Unless 0 <= ``correct`` <= ``count`` and ``count`` >= 1.
    """
    if not 0 <= correct <= count or count < 1:
        raise ValueError(f"found {correct} correct of {count} images; must be 0..count of at least 1")
    # Written out: scipy.stats, which has it, takes most of a second to import.
    share, z = correct / count, Z_SCORE
    centre, added = share + z * z / (2 * count), z * z / count
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if correct == 0 else (centre - half) / (1 + added)
    high = 1.0 if correct == count else (centre + half) / (1 + added)
    return low, high


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test of two classifiers, each right on images the other is not.

    With n = only_first + only_second: min(1, 2 P(X <= min(only_first, only_second))), X binomial of n trials and 1/2.
    """
    # Written out, in exact integers: scipy.stats takes most of a second to import.
    different, ways, term = only_first + only_second, 1, 1
    for k in range(min(only_first, only_second)):
        term = term * (different - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / (1 << different))
