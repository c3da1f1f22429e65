"""The graph of an ONNX file as a torch.fx graph of torch's own modules and functions.

Values that do not depend on the image (shapes, axes, weights) are computed immediately, by onnx's reference
implementation. Weights become parameters of modules named after the weight, such as ``layer1.0.conv1`` for
``layer1.0.conv1.weight``; other operators are named after the node.

A file made for a single image may contain the batch size 1 in a Reshape. It accepts batches here: a reshape keeps the
first axis if the rest has the size of an image. Such a file may also drop the batch axis; the module keeps it, and
counts later axes as the file does.
"""

from __future__ import annotations

import graphlib
import heapq
import operator
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Array
from loihi_convert.errors import InputError, UnsupportedModelError, first_line, is_lack_of_memory
from loihi_convert.frontend.from_onnx.layout import Layout
from loihi_convert.frontend.from_onnx.node import Call, OnnxNode, attributes_of, unknown
from loihi_convert.frontend.from_onnx.operators import NOT_SUPPORTED, OPERATORS, SUPPORTED, WITHOUT_BATCH
from loihi_convert.frontend.from_onnx.shapes import BATCH_HINT
from loihi_convert.frontend.from_onnx.signs import is_nonnegative
from loihi_convert.frontend.from_onnx.stacks import without_stacks
from loihi_convert.frontend.operations import placed_at
from loihi_convert.frontend.users_code import listed

_BATCH: Final = 2
"""Number of images in the example that determines the shape of every value."""

_ATTRIBUTES: Final = frozenset(dir(fx.GraphModule({}, fx.Graph())))
"""Attributes of a module, which its parts cannot have as names."""


_COMPUTED: Final = (
    *("Constant", "Identity", "Cast", "Shape", "Size", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Reshape"),
    *("Transpose", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Sqrt", "Reciprocal", "ReduceProd"),
    *("ConstantOfShape", "Expand", "Tile", "Equal", "Where"),
)
"""Operators on constants: shapes, axes and weights. Those that inflate small inputs are bounded by `_LARGEST`."""

_LARGEST: Final = 1_000
"""Numbers that ConstantOfShape, Expand and Tile may make, or as many as the largest tensor before them has."""


def to_module(content: Any, input_name: str, layout: Layout, path: Path, *, is_for_one: bool) -> nn.Module:
    """Return the graph of ``content``, an ``onnx.ModelProto``, as a module.

    Parameters
    ----------
    content
        The model, with all weights loaded.
    input_name
        Name of its image input.
    layout
        How the file arranges an image.
    path
        The file, for messages.
    is_for_one
        Whether its input has the batch size 1.

    Raises
    ------
    UnsupportedModelError
        If it contains unsupported operators; the error names all of them.
    InputError
        If it does not accept images of this shape.
    """
    others = [node for node in content.graph.node if node.op_type in NOT_SUPPORTED or node.domain]
    if others:
        raise UnsupportedModelError(
            f"holds {listed([_described(node) for node in others])}",
            where=path,
            expected=f"supported: {', '.join(SUPPORTED)}",
            hint=_remedy(others),
        )
    module = _Reader(content, path, is_for_one=is_for_one).read(input_name, layout)
    # In a file for one image, sizes are those of one.
    if not is_for_one and any(node.op_type == "Shape" for node in content.graph.node):
        other = _Reader(content, path, is_for_one=False, batch=_BATCH + 1).read(input_name, layout)
        if not _are_alike(module, other):
            raise UnsupportedModelError(
                "computes with the number of images",
                where=path,
                expected="must compute the same outputs for an image in every batch",
                hint="Use x.size(0) only in view and reshape.",
            )
    return module


def _are_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether both have the same code and modules, which are part of the text, and the same weights and constants."""
    own, theirs = one.state_dict(), other.state_dict()
    return (
        str(one) == str(other)
        and own.keys() == theirs.keys()
        and all(np.array_equal(tensor, theirs[name], equal_nan=True) for name, tensor in own.items())
    )


def _described(node: Any) -> str:
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type} ({node.name or node.output[0]})"


def _remedy(others: list[Any]) -> str:
    domains = {node.domain for node in others}
    if any(re.search("QLinear|[Qq]uantize|Integer", node.op_type) for node in others):
        return "Give the file from before its quantization."
    if domains & {"com.microsoft", "com.microsoft.nchwc"}:
        return "Give the file from before onnxruntime optimized it."
    return "Remove them from the CNN, or train without them."


_OLDEST_OPSET: Final = 7


class _Reader:
    """Reads the nodes in an order of computation; some converters append nodes at the end of the file."""

    def __init__(self, content: Any, path: Path, *, is_for_one: bool, batch: int = _BATCH) -> None:
        from onnx import numpy_helper

        self._content, self._path, self._is_for_one, self._batch = content, path, is_for_one, batch
        self._opsets = {entry.domain: entry.version for entry in content.opset_import}
        if (opset := self._opsets.get("", 1)) < _OLDEST_OPSET:
            expected = f"must be at least {_OLDEST_OPSET}: before, Add and Mul aligned shapes otherwise"
            raise InputError(f"opset {opset}", where=path, expected=expected, hint="Export it again.")
        self._constants: dict[str, Array] = {}
        for initializer in content.graph.initializer:
            try:
                self._constants[initializer.name] = numpy_helper.to_array(initializer)
            # Sizes that do not fit, an unknown type, or a missing weight file.
            except Exception as error:
                if is_lack_of_memory(error):
                    raise
                raise InputError(f"{initializer.name} cannot be read ({first_line(error)})", where=path) from error
        self._graph = fx.Graph()
        self._parts: dict[str, nn.Module | Tensor] = {}
        # With the ``meta``: "example", the value for the example; "lacks_batch", whether it does in the file, which has
        # dropped the axis with size 1, and the example keeps it; "is_nonnegative", for all images.
        self._nodes: dict[str, fx.Node] = {}

    def read(self, input_name: str, layout: Layout) -> nn.Module:
        image, example = self._graph.placeholder("image"), torch.zeros(self._batch, *layout.input_shape)
        if layout.function is not None:
            image = self._graph.call_function(layout.function, (image, *layout.arguments))
            example = layout.function(example, *layout.arguments)
        image.meta |= {"example": example, "lacks_batch": False, "is_nonnegative": False}
        self._nodes[input_name] = image
        # First the constants: `without_stacks` looks for axes among them.
        for node in self._content.graph.node:
            if node.op_type == "Constant":
                with placed_at(_name(node), node.op_type):
                    self._compute(node)
        for node in self._in_order():
            with placed_at(_name(node), node.op_type):
                if any(name in self._nodes for name in node.input):
                    self._take(node)
                elif node.op_type != "Constant":
                    self._compute(node)
        output = self._content.graph.output[0].name
        if output not in self._nodes:
            raise InputError(f"the output {output} does not depend on the image", where=self._path)
        self._graph.output(self._nodes[output])
        # Else the module keeps them.
        for each in self._graph.nodes:
            each.meta.clear()
        return fx.GraphModule(self._parts, self._graph)

    def _in_order(self) -> list[Any]:
        """The nodes, each after those that make its inputs; otherwise in the order of the file."""
        nodes = without_stacks(self._content.graph, self._constants)
        makers: dict[str, int] = {}
        for index, node in enumerate(nodes):
            for name in filter(None, node.output):
                if makers.setdefault(name, index) != index:
                    raise InputError(f"two operators make {name}", where=self._path)
        before = {index: {makers[name] for name in node.input if name in makers} for index, node in enumerate(nodes)}
        sorter = graphlib.TopologicalSorter(before)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            raise InputError("its operators form a loop", where=self._path) from error
        order: list[Any] = []
        ready: list[int] = []
        while sorter.is_active():
            for index in sorter.get_ready():
                heapq.heappush(ready, index)
            index = heapq.heappop(ready)
            order.append(nodes[index])
            sorter.done(index)
        return order

    def _compute(self, node: Any) -> None:
        """Compute values that do not depend on the image."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        if node.op_type not in _COMPUTED:
            raise unknown("is not supported on constants")
        try:
            inputs = {name: self._constants[name] for name in node.input if name}
            if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
                self._require_few(node.op_type, *(inputs[name] for name in node.input))
            outputs = [name for name in node.output if name]
            alone = helper.make_function("", "alone", list(inputs), outputs, [node], self._content.opset_import)
            found = ReferenceEvaluator(alone).run(None, inputs, attributes={})
        # The reference implementation may raise any exception.
        except Exception as error:
            if is_lack_of_memory(error) or isinstance(error, UnsupportedModelError):
                raise
            raise unknown(f"cannot be computed ({first_line(error)})") from error
        self._constants |= dict(zip(node.output, map(np.asarray, found), strict=False))

    def _require_few(self, kind: str, *inputs: Array) -> None:
        """Refuse a constant larger than `_LARGEST` and than every value of the image; zeros_like of a value fits."""
        largest = max(_LARGEST, *(value.meta["example"].numel() for value in self._nodes.values()))
        *repeated, sizes = inputs
        shape = np.array(np.broadcast_shapes(repeated[0].shape, tuple(sizes))) if kind == "Expand" else sizes
        count = shape.prod(dtype=np.float64) * (repeated[0].size if kind == "Tile" else 1)
        if count > largest:
            raise unknown(f"makes more than {largest:,} numbers")

    def _take(self, node: Any) -> None:
        """Convert an operator on values that depend on the image."""
        attributes = attributes_of(node)
        if node.op_type == "Shape":
            value = self._nodes[node.input[0]]
            shape = np.array(value.meta["example"].shape, np.int64)
            if self._is_for_one:
                shape[0] = 1
            shape = shape[value.meta["lacks_batch"] :]
            self._constants[node.output[0]] = shape[attributes.get("start", 0) : attributes.get("end")]
            return
        if node.op_type == "NonZero":
            hint = "Write x.masked_fill(x < 0, 0) or relu(x) in place of x[x < 0] = 0, and export it again."
            raise unknown("is not supported", hint)
        if node.op_type not in OPERATORS:
            raise unknown("is not supported")
        values = {name: self._nodes[name] for name in node.input if name in self._nodes}
        lacks_batch = any(value.meta["lacks_batch"] for value in values.values())
        if lacks_batch and node.op_type not in WITHOUT_BATCH:
            raise unknown("follows an operator that drops the batch axis", BATCH_HINT)
        read = OnnxNode(
            node.op_type,
            tuple(node.input),
            attributes,
            {name: self._constants[name] for name in node.input if name in self._constants},
            values,
            self._opsets.get("", 1),
            len(node.output),
            self._is_for_one,
        )
        try:
            result: fx.Node | None = None
            for call in OPERATORS[node.op_type](read):
                result = self._add(node, call, result)
                result.meta["lacks_batch"] = lacks_batch if call.lacks_batch is None else call.lacks_batch
            assert result is not None
            self._store(node, result)
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"{_name(node)}: {node.op_type} cannot be applied to "
                f"{[tuple(found.shape[1:]) for found in read.examples.values()]} ({first_line(error)})",
                where=self._path,
            ) from error

    def _store(self, node: Any, value: fx.Node) -> None:
        example = value.meta["example"]
        if isinstance(example, Tensor):
            self._nodes[node.output[0]] = value
            return
        for index, (name, part) in enumerate(zip(node.output, example, strict=True)):
            self._nodes[name] = self._graph.call_function(operator.getitem, (value, index))
            self._nodes[name].meta |= value.meta | {"example": part}

    def _add(self, node: Any, call: Call, previous: fx.Node | None) -> fx.Node:
        """Add one call; the argument `Call.PREVIOUS` stands for the ``previous`` call."""
        arguments = tuple(
            previous if argument is Call.PREVIOUS else self._argument(node, argument) for argument in call.arguments
        )
        if isinstance(call.target, nn.Module):
            module = call.target.float().eval()
            has_weights = next(module.parameters(), None) is not None
            name = self._part(_module_name(node) if has_weights else _name(node), module)
            found = self._graph.call_module(name, arguments)
        else:
            found = self._graph.call_function(call.target, arguments)
        with torch.no_grad():
            found.meta["example"] = call.target(*fx.node.map_arg(arguments, lambda each: each.meta["example"]))
        found.meta["is_nonnegative"] = is_nonnegative(call.target, arguments)
        return found

    def _argument(self, node: Any, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._nodes[name] for name in argument]
        if isinstance(argument, str):
            return self._nodes.get(argument, argument)
        if not isinstance(argument, Tensor):
            return argument
        constant = self._graph.get_attr(self._part(f"{_name(node)}_constant", argument))
        constant.meta |= {"example": argument, "is_nonnegative": bool((argument >= 0).all())}
        return constant

    def _part(self, name: str, part: nn.Module | Tensor) -> str:
        """Store ``part`` under a free name, and return the name."""
        name = ".".join(f"node_{word}" if word in _ATTRIBUTES else word for word in name.split("."))
        chosen, number = name, 1
        while any(
            taken == chosen or taken.startswith(f"{chosen}.") or chosen.startswith(f"{taken}.") for taken in self._parts
        ):
            number += 1
            chosen = f"{name}_{number}"
        self._parts[chosen] = part
        return chosen


def _name(node: Any) -> str:
    """The node's name, made valid for a module."""
    found = re.sub(r"\W+", "_", node.name or node.output[0]).strip("_") or "node"
    return f"node_{found}" if found[0].isdecimal() else found


def _module_name(node: Any) -> str:
    """The name of the module whose weight the node uses, if the exporter kept it; otherwise the node's name."""
    weight = node.input[1] if len(node.input) > 1 else ""
    stem = weight.removesuffix(".weight")
    if stem != weight and all(part.isidentifier() or part.isdecimal() for part in stem.split(".")):
        return str(stem)
    return _name(node)
