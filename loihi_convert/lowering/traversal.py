"""Graph -> populations: one pass over the nodes, which keeps a tensor for each (`value.py`); before it,
`pooled_after_relu`.

Each operation becomes a call of the file that lowers it; what follows is the same for all:

- A step that is not linear raises `MustBeCarriedError`: its inputs become populations, and it is done again.
- A tensor used by several layers becomes populations, see `Uses.is_shared`.
- A node that cannot be lowered is an obstacle. Its output counts as a population, so that later obstacles are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.lowering import operations
from loihi_convert.lowering.value import MustBeCarriedError, Population, Populations, Tensor, Value
from loihi_convert.reading.graph import (
    ONLY_LAST,
    Add,
    Affine,
    AveragePool,
    Cat,
    Ending,
    Graph,
    LeakyRelu,
    MaxPool,
    Move,
    Node,
    Operation,
    Relu,
    placed_at,
    refusal,
)


def populated(
    graph: Graph, image_shape: Shape, normalization: Affine | None = None
) -> tuple[Populations, tuple[UnsupportedModelError, ...]]:
    """Return the populations of ``graph``, the output's last, and its obstacles; with obstacles, without the output.

    ``normalization`` is applied to the pixels / 255 of images ``(C, H, W)`` first.
    """
    populations, uses = Populations(image_shape), Uses(graph)
    # After a place that could not be read, other errors are unreliable.
    if found := tuple(_refused(graph, uses)):
        return populations, found
    return populations, tuple(_Traversal(graph, normalization, populations, uses).run())


def _refused(graph: Graph, uses: Uses) -> Iterator[UnsupportedModelError]:
    """The obstacles of a graph, and the endings before layers that are none."""
    for number, node in enumerate(graph.nodes):
        if node.obstacle is not None:
            yield node.obstacle
        elif isinstance(node.operation, Ending) and node.operation.function and not uses.is_end(number):
            expected = f"supported: {node.kind} at the end, of all outputs; ReLU before it"
            yield refusal(node.name, node.kind, "is before other layers", expected, ONLY_LAST)


@dataclass(eq=False)
class _Traversal:
    """Creates the populations of a graph.

    Parameters
    ----------
    tensors
        The output of each node so far.
    """

    graph: Graph
    normalization: Affine | None
    populations: Populations
    uses: Uses
    tensors: list[Tensor] = field(default_factory=list)

    def run(self) -> list[UnsupportedModelError]:
        """Create the populations, the output's last; return the obstacles."""
        found: list[UnsupportedModelError] = []
        for number, node in enumerate(self.graph.nodes):
            try:
                with placed_at(node.name, node.kind):
                    self.tensors.append(self._of_node(number))
            except UnsupportedModelError as error:
                found.append(error)
                # Continue as if this output were known.
                self.tensors.append(self.populations.add(Population(node.name, Value(as_map(node.shape), ()))))
        if not found:
            try:
                self._add_output()
            except UnsupportedModelError as error:
                found.append(error)
        return found

    def _of_node(self, number: int) -> Tensor:
        """The output of a node; creates populations where it needs some."""
        node = self.graph.nodes[number]
        try:
            tensor = self._computed(number)
        except MustBeCarriedError:
            # Later users of these tensors read the same populations.
            for before in node.inputs:
                self.tensors[before] = self._carried(self.tensors[before], self.graph.nodes[before].name)
            tensor = self._computed(number)
        if self.uses.is_shared(number) and not all(value.is_direct for value in _values(tensor)):
            return self._carried(tensor, node.name)
        return tensor

    def _computed(self, number: int) -> Tensor:
        """A node's operation on its inputs."""
        node = self.graph.nodes[number]
        if node.operation is None:
            image: Tensor = self.populations.image()
            return image if self.normalization is None else operations.normalized(image, self.normalization)
        tensors = [self.tensors[before] for before in node.inputs]
        tensor = tensors[0]
        match node.operation:
            case Relu() | LeakyRelu():
                return operations.activated(self.populations, tensor, node.operation, node.name)
            case Affine():
                return operations.normalized(tensor, node.operation)
            case Add():
                return operations.added(tensors, node.operation.factors)
            case Cat():
                return operations.joined(tensors)
            case Move():
                return operations.moved(tensor, node.operation)
            case Ending():
                return tensor
            case Dense():
                return operations.connected(tensor, node.operation, node.name)
            case Conv() if isinstance(tensor, Value):
                return operations.convolved(tensor, node.operation, as_map(node.shape), node.name)
            case AveragePool() | MaxPool() if isinstance(tensor, Value):
                return self._pooled(number, tensor, node.operation)
        raise UnsupportedModelError(
            f"is applied to a tensor of shape {self.graph.nodes[node.inputs[0]].shape}",
            expected="supported: convolutions and poolings of maps, dense layers of vectors",
        )

    def _pooled(self, number: int, value: Value, pool: AveragePool | MaxPool) -> Value:
        node = self.graph.nodes[number]
        shape = as_map(node.shape)
        if isinstance(pool, MaxPool):
            return operations.largest(self.populations, value, pool, shape, node.name)
        found = operations.averaged(value, pool, shape)
        if self.uses.waits_for_a_maximum(number) and found.is_nonnegative:
            # Relays then carry the means, not every pixel, past the layers of the maximum.
            found = self.populations.carried(found, node.name)
        return found

    def _carried(self, tensor: Tensor, name: str) -> Tensor:
        """The same numbers, as populations of their own."""
        if isinstance(tensor, Value):
            return self.populations.carried(tensor, tensor.name or name)
        values = (self.populations.carried(value, value.name or name) for value in tensor.values)
        return replace(tensor, values=tuple(values))

    def _add_output(self) -> None:
        """Turn the output into a population without ReLU."""
        node, tensor = self.graph.nodes[self.graph.output], self.tensors[self.graph.output]
        if isinstance(tensor, Value) and tensor.size != (1, 1):
            raise UnsupportedModelError(
                f"the model ends here, with {node.shape}",
                where=node.name,
                expected="must end with a vector: one number per class, or the outputs of a regression",
            )
        try:
            value = operations.as_vector(tensor)
        except MustBeCarriedError:
            value = operations.as_vector(self._carried(tensor, node.name))
        if len(value.terms) == 0:
            raise UnsupportedModelError(
                "the model ends here, with constants", where=node.name, expected="must depend on the image"
            )
        while isinstance(node.operation, Move | Ending):
            node = self.graph.nodes[node.inputs[0]]
        self.populations.add(Population(value.name or node.name, value))


def ending_of(graph: Graph) -> Node | None:
    """Return the `Ending` of a graph without obstacles; only moves follow it."""
    node = graph.nodes[graph.output]
    while isinstance(node.operation, Move):
        node = graph.nodes[node.inputs[0]]
    return node if isinstance(node.operation, Ending) else None


def _values(tensor: Tensor) -> list[Value]:
    return [tensor] if isinstance(tensor, Value) else [*tensor.values]


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
        """Return whether several layers would each contain the map that computes this tensor."""
        # Populations of its ReLUs have exactly this map, and all maps of the head are composed into the last layer.
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

    def is_end(self, number: int) -> bool:
        """Return whether only other orders of all its numbers follow, or obstacles, of which the user is told."""
        order = np.arange(math.prod(self.graph.nodes[number].shape))
        for user in self.graph.users[number]:
            node = self.graph.nodes[user]
            is_move = isinstance(node.operation, Move) and np.array_equal(
                np.sort(node.operation.index, axis=None), order
            )
            if node.obstacle is None and not (is_move and self.is_end(user)):
                return False
        return True


def pooled_after_relu(graph: Graph) -> Graph:
    """Return ``graph`` with each max pooling that directly precedes its only ReLU moved after it.

    The result is the same: a ReLU, and a batch norm of positive gain before it, preserve the order of numbers. After
    the ReLU values are never negative.
    """
    nodes, users = list(graph.nodes), graph.users
    # From the last, so that all of several consecutive ones move.
    for number, node in reversed(list(enumerate(graph.nodes))):
        if not isinstance(node.operation, MaxPool):
            continue
        following = _monotone(nodes, users, number)
        if following and isinstance(nodes[following[-1]].operation, Relu):
            shape = nodes[node.inputs[0]].shape
            places = [number, *following]
            moved_up = [replace(nodes[each], shape=shape) for each in following]
            for place, each, before in zip(places, moved_up, [node.inputs[0], *places], strict=False):
                nodes[place] = replace(each, inputs=(before,))
            nodes[places[-1]] = replace(node, inputs=(places[-2],))
    return replace(graph, nodes=tuple(nodes))


def _monotone(nodes: Sequence[Node], users: Sequence[Sequence[int]], number: int) -> list[int]:
    """The operations after a node, each the only user of the one before, up to a ReLU; empty without a ReLU."""
    found: list[int] = []
    while len(users[number]) == 1:
        (number,) = users[number]
        operation = nodes[number].operation
        found.append(number)
        if isinstance(operation, Relu):
            return found
        if not isinstance(operation, Affine) or (operation.gain < 0).any() or operation.shift.ndim > 1:
            return []
    return []
