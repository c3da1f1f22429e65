"""Sums and differences: residual connections.

Requires: tensors of equal shape.
Ensures: a value with the terms of all tensors. Values that skip layers are relayed by `relays.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from loihi_convert.frontend.lower.linear import as_vector
from loihi_convert.frontend.lower.value import Features, Tensor, Value, summed


def added(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Return the sum of ``tensors``, each times its factor."""
    values = [tensor for tensor in tensors if isinstance(tensor, Value)]
    if len(values) == len(tensors):
        return summed(values, factors, _name(values))
    flat = [tensor for tensor in tensors if not isinstance(tensor, Value)]
    if all(len(each) == 1 and each[0].is_whole for each in flat):
        maps = [each[0].value for each in flat]
        if len({each.shape for each in maps}) == 1:
            return (Features(summed(maps, factors, _name(maps))),)
    vectors = [as_vector(each) for each in flat]
    return (Features(summed(vectors, factors, _name(vectors))),)


def _name(values: Sequence[Value]) -> str:
    """The name of the first value that comes from a layer, not from a skip."""
    return next((value.name for value in values if value.name), "")
