"""ONNX graphs without unused nodes, and without stacks, before they are read.

Sums, means, maxima and minima of stacked values become one operator on the values themselves, in place of the stack.

Unsqueeze of each, Concat and ReduceSum become Sum, ReduceMean Mean, ReduceMax Max, and ReduceMin Min: ensembles of
CNNs, often stacked before the batch axis, and maxout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.frontend.from_onnx.node import attributes_of

_OF_SEVERAL: Final[Mapping[str, str]] = {
    "ReduceSum": "Sum",
    "ReduceMean": "Mean",
    "ReduceMax": "Max",
    "ReduceMin": "Min",
}


def without_stacks(graph: Any, constants: Mapping[str, Array]) -> list[Any]:
    """Return the nodes of ``graph``, an ``onnx.GraphProto``, with one operator for each stack that is reduced.

    ``constants`` are the values, by name, of the initializers and of all Constant nodes.
    """
    from onnx import helper

    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    left_out: list[Any] = []
    for node in graph.node:
        joined = _joined_before(node, makers, constants) if node.op_type in _OF_SEVERAL else []
        if joined:
            values = [part.input[0] for part in joined[1:]]
            nodes.append(helper.make_node(_OF_SEVERAL[node.op_type], values, node.output, name=node.name))
            left_out += joined
        else:
            nodes.append(node)
    # Concat before what it joins; others may use either.
    for node in left_out:
        used = {name for each in nodes for name in each.input} | {value.name for value in graph.output}
        if node in nodes and not used & {*node.output}:
            nodes.remove(node)
    return nodes


def drop_unused(graph: Any) -> None:
    """Remove from ``graph`` the nodes on which its outputs do not depend."""
    makers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            makers.setdefault(name, []).append(index)
    wanted, used = [value.name for value in graph.output], set[int]()
    while wanted:
        found = {*makers.get(wanted.pop(), ())} - used
        used |= found
        wanted += [name for index in found for name in graph.node[index].input if name]
    for index in sorted({*range(len(graph.node))} - used, reverse=True):
        del graph.node[index]


def _joined_before(node: Any, makers: Mapping[str, Any], constants: Mapping[str, Array]) -> list[Any]:
    """The Concat that ``node`` reduces, and each Unsqueeze before it; empty if it is not a stack along one axis."""
    stack = makers.get(node.input[0]) if node.input else None
    if stack is None or stack.op_type != "Concat" or attributes_of(node).get("keepdims", 1):
        return []
    parts = [makers.get(name) for name in stack.input]
    axis = attributes_of(stack).get("axis")
    is_stack = all(part is not None and part.op_type == "Unsqueeze" and part.input for part in parts)
    return [stack, *parts] if is_stack and all(_axes(each, constants) == [axis] for each in (node, *parts)) else []


def _axes(node: Any, constants: Mapping[str, Array]) -> list[int]:
    """The axes of ``node``, an attribute or its second input; empty if unknown."""
    name = node.input[1] if len(node.input) > 1 else ""
    return list(np.ravel(attributes_of(node).get("axes", constants.get(name, ()))))
