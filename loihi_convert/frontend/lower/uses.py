"""Questions about the nodes that use a node's output: they decide which tensors become populations.

A tensor is a linear map of populations, and each layer that uses it composes its own map with that one. If several do,
or if relays must carry it past layers, populations of the tensor itself need fewer synapses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from loihi_convert.arrays import Shape
from loihi_convert.frontend.graph import Graph
from loihi_convert.frontend.operations import (
    Add,
    Affine,
    AveragePool,
    Cat,
    Ending,
    LeakyRelu,
    MaxPool,
    Move,
    Operation,
    Relu,
)
from loihi_convert.ir.synapse import Dense

_LINEAR_OF_VECTORS: Final = Add | Affine | Dense | Ending | Move


def as_map(shape: Shape) -> Shape:
    """Return the shape ``(C, H, W)``; that of a vector is ``(N, 1, 1)``."""
    return shape if len(shape) == 3 else (shape[0], 1, 1)


@dataclass(frozen=True, eq=False)
class Uses:
    """The users of each node of ``graph``; nodes are given as indices."""

    graph: Graph

    @cached_property
    def _is_head(self) -> list[bool]:
        """Whether each node is a vector from which only linear maps lead to the output."""
        found = [len(node.shape) == 1 for node in self.graph.nodes]
        for number, users in reversed(list(enumerate(self.graph.users))):
            found[number] &= all(
                found[user] and isinstance(self._operation(user), _LINEAR_OF_VECTORS) for user in users
            )
        return found

    def _operation(self, number: int) -> Operation | None:
        return self.graph.nodes[number].operation

    def is_shared(self, number: int) -> bool:
        """Return whether several layers would each contain the map that computes this tensor.

        ReLUs of it do not count, since each of their populations has exactly this map; nor does the head, where all
        maps are composed into the last layer.
        """
        return len(self.graph.users[number]) > 1 and not self._is_head[number] and not self._feeds_relus(number)

    def _feeds_relus(self, number: int) -> bool:
        """Whether only ReLUs use it, possibly after a batch norm."""
        for user in self.graph.users[number]:
            operation = self._operation(user)
            is_norm = isinstance(operation, Affine) and len(self.graph.users[user]) == 1
            if not isinstance(operation, Relu | LeakyRelu) and not (is_norm and self._feeds_relus(user)):
                return False
        return True

    def waits_for_a_maximum(self, number: int) -> bool:
        """Return whether it is averages that are joined with the maxima of the same windows, which take more layers."""
        node = self.graph.nodes[number]
        if not isinstance(node.operation, AveragePool) or not self._is_joined(number):
            return False
        (before,) = node.inputs
        is_smaller = math.prod(node.shape) < math.prod(self.graph.nodes[before].shape)
        beside = (self.graph.nodes[user] for user in self.graph.users[before])
        return is_smaller and any(
            isinstance(other.operation, MaxPool) and as_map(other.shape) == as_map(node.shape) for other in beside
        )

    def _is_joined(self, number: int) -> bool:
        """Whether it goes into nothing but sums and concatenations."""
        users = self.graph.users[number]
        return bool(users) and all(
            isinstance(self._operation(user), Add | Cat)
            or (isinstance(self._operation(user), Move) and self._is_joined(user))
            for user in users
        )

    def is_end(self, number: int, kinds: tuple[type, ...] = (Move,)) -> bool:
        """Return whether only operations of ``kinds`` follow."""
        users = self.graph.users[number]
        return all(isinstance(self._operation(user), kinds) and self.is_end(user, kinds) for user in users)
