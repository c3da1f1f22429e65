"""A CNN as a graph of operations in order of computation, each with inputs and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.reading.operations import Add, Operation, Relu


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of the graph.

    Parameters
    ----------
    name
        The module's name in the CNN; for a function, or a module called again, also that of a module near it.
    kind
        Class or function, for messages.
    operation
        The operation; ``None`` for the image.
    inputs
        The indices of its input nodes.
    shape
        Shape of its output for one image: ``(C, H, W)``, or ``(N,)`` after flattening.
    obstacle
        Why it has no spiking equivalent; the operation and shape are then meaningless.
    """

    name: str
    kind: str
    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape
    obstacle: UnsupportedModelError | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A CNN as operations.

    Parameters
    ----------
    nodes
        In order of computation; the first is the image. Unused nodes are left out.
    output
        The index of the output node.
    notes
        Notes for the user, one sentence each.
    """

    nodes: tuple[Node, ...]
    output: int
    notes: tuple[str, ...] = ()

    @property
    def obstacles(self) -> tuple[UnsupportedModelError, ...]:
        """The parts without a spiking equivalent, in order of computation."""
        return tuple(node.obstacle for node in self.nodes if node.obstacle is not None)

    @cached_property
    def users(self) -> list[list[int]]:
        """The indices of the nodes that take each node; twice if they take it twice."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for before in node.inputs:
                found[before].append(number)
        return found

    @property
    def multiply_accumulates(self) -> int:
        """Multiplications by a nonzero weight in convolutions and dense layers, for one image; none on zero padding."""
        total = 0
        for node in self.nodes:
            if isinstance(node.operation, Conv):
                total += int(node.operation.fan_out(self.nodes[node.inputs[0]].shape).sum())
            elif isinstance(node.operation, Dense):
                total += int(np.count_nonzero(node.operation.weight))
        return total


def clipped_once(outer: Relu, inputs: tuple[int, ...], nodes: Sequence[Node]) -> tuple[Relu, tuple[int, ...]]:
    """Return ``outer``, a ReLU or clamp, and its ``inputs``: if that is one of another, as one of the other's input."""
    inner = nodes[inputs[0]].operation
    if not isinstance(inner, Relu) or inner.threshold is not None or outer.threshold is not None:
        return outer, inputs
    both = Relu(floor=max(inner.floor, outer.floor), ceiling=min(inner.ceiling, outer.ceiling))
    changes_nothing = (both.floor, both.ceiling) == (inner.floor, inner.ceiling)
    if changes_nothing or both.floor >= both.ceiling:
        return outer, inputs
    return both, nodes[inputs[0]].inputs


def left_by_sum(outer: Add, inputs: tuple[int, ...], nodes: Sequence[Node]) -> int | None:
    """Return the index of x if ``outer``, of ``inputs``, is ``(x - y) + y``, as in straight-through gradients."""
    for place, other in ((0, 1), (1, 0)):
        inner = nodes[inputs[place]]
        if not isinstance(inner.operation, Add) or inputs[other] not in inner.inputs:
            continue
        cancelled = inner.inputs.index(inputs[other])
        factors = [outer.factors[place] * factor for factor in inner.operation.factors]
        if factors[cancelled] == -outer.factors[other] and factors[1 - cancelled] == 1:
            return inner.inputs[1 - cancelled]
    return None


def pruned(nodes: list[Node], used: Sequence[int], notes: Iterable[str] = ()) -> Graph:
    """Return the graph without unused nodes; the image stays. The first node of ``used`` is the output."""
    needed = {0, *used}
    for number in range(len(nodes) - 1, -1, -1):
        if number in needed:
            needed.update(nodes[number].inputs)
    order = {number: place for place, number in enumerate(sorted(needed))}
    kept = tuple(
        replace(node, inputs=tuple(order[each] for each in node.inputs))
        for number, node in enumerate(nodes)
        if number in needed
    )
    return Graph(kept, order[used[0]], tuple(notes))
