"""Concatenation: several blocks of channels.

Requires: tensors of equal size.
Ensures: a value with the terms of all tensors, each for its own channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loihi_convert.frontend.lower.value import Features, Tensor, Value


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return the channels of ``tensors``, concatenated."""
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    if len(values) < len(tensors):
        features = tuple(part for tensor in tensors if not isinstance(tensor, Value) for part in tensor)
        if not all(part.is_vector for part in features):
            return features
        return (Features(_joined([part.value for part in features])),)
    return _joined(values)


def _joined(values: Sequence[Value]) -> Value:
    terms, first = [], 0
    for value in values:
        terms += [replace(term, channels=term.channels + first) for term in value.terms]
        first += value.shape[0]
    constant = None
    if any(value.constant is not None for value in values):
        are_maps = any(value.constant is not None and value.constant.ndim == 3 for value in values)
        constant = np.concatenate(
            [value.map_of_constant() if are_maps else value.map_of_constant()[:, 0, 0] for value in values]
        )
    return Value((first, *values[0].size), tuple(terms), constant)
