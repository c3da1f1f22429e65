"""The order of images: the first N, which many verbs take, should show all classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def in_turns(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return an order of images in which the first N, for any N, show each class about as often as all of them do."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels))
    place[by_class] = (np.arange(len(labels)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    return np.asarray(np.lexsort((labels, place)))


def mixing(labels: NDArray[np.int64] | None, count: int) -> NDArray[np.intp] | None:
    """Return an order of ``count`` images in which the first N show all classes; None if they may stay as they are.

    Images without labels may be in the order of their classes, too: they get a random order, always the same.
    """
    if labels is None:
        return np.random.default_rng(0).permutation(count)
    return in_turns(labels) if is_in_class_order(labels) else None


def is_in_class_order(labels: NDArray[np.int64]) -> bool:
    """Whether each class comes as a whole before the next one, as if read from one folder after the other."""
    changes = np.count_nonzero(np.diff(labels))
    return bool(0 < changes == len(np.unique(labels)) - 1 < len(labels) - 1)
