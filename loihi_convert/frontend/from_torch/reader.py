"""nn.Module -> the graph of its operations in order of computation, each with inputs and shapes (torch.fx).

======================================================  =============================================
module, function or method                              operation
======================================================  =============================================
a module                                                see `layers.py`
``x + y``, ``x - y``                                    `Add`
``cat`` along the channels, or of vectors               `Cat`
``x - c``, ``x + c``, ``x * c``, ``x / c``, ``c - x``   `Affine`: c a number, a buffer or a parameter
``relu``, ``relu6``, ``clamp``, ``hardtanh``,           `Relu`
``threshold``, ``maximum(x, 0)``, ``x * (x > 0)``, ...
``maximum``, ``minimum`` of two tensors                 `Add`, `Relu`, `Add`
``leaky_relu``, ``rrelu``, ``prelu``, ``abs``           `LeakyRelu`
``conv1d``, ``linear``, ``@``, ``batch_norm``, ...      `Conv`, `Dense`, `Affine`: weights as ``c``
poolings; ``interpolate`` to smaller maps;              `AveragePool`, `MaxPool`
``mean``, ``sum``, ``amax``, ``max(dim)``
of whole maps, or over their height or width
``mean``, ``sum`` over the channels, or of a vector     `Conv`, `Dense`
``floor``, ``round``, before or after a clipped ReLU    `Relu` with levels: see `quantized_relu.py`
``softmax``, ``log_softmax``, ``sigmoid``, ``tanh``     `Ending`
rearrangements: ``flatten``, ``view``, slices,          `Move`; none if every number keeps its place
``chunk``, ``permute``, zero padding, ...
``dropout``                                             none: has no effect at inference
======================================================  =============================================

The model is traced with an actual image, so that sizes are numbers: ``if x.shape[1] != 3: raise`` in a ``forward`` is
allowed. The effect of a rearranging function is found by applying it to the positions of the numbers. The tracer
records some functions as simpler ones (`decompositions.py`).

Everything else is an obstacle, reported with its place and an alternative. Reading continues after an obstacle, so that
all of them are found at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from loihi_convert.arrays import Shape
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.frontend.from_torch.calls import arguments_of, arithmetic_of, called, name_of, operands, positional
from loihi_convert.frontend.from_torch.decompositions import CAT_CALLED, EXTREMES_CALLED
from loihi_convert.frontend.from_torch.functions import (
    DROPOUT_CALLED,
    MOVES_CALLED,
    NOTHING_CALLED,
    OVER_MAPS_CALLED,
    affine,
    concatenation,
    joins_one,
    operation_of_call,
    over_maps,
    relu_input,
    repeats_pixels,
    require_factor_per_channel,
    require_padding_with_zeros,
    require_two_alike,
    returned_input,
    sum_of_two,
    takes_pixels,
    takes_whole_maps,
)
from loihi_convert.frontend.from_torch.layers import DROPOUTS, MOVES, operation_of_module
from loihi_convert.frontend.from_torch.moved import Moved, shape_of, stored_as
from loihi_convert.frontend.from_torch.quantized_relu import clipped_rounding, rounded_relu
from loihi_convert.frontend.from_torch.reordered import as_output, channels_are_last, is_over_last_axis, on_map
from loihi_convert.frontend.from_torch.tensors import Tensors
from loihi_convert.frontend.from_torch.tracing import TRACED_IMAGES, computed, numbers_taken, trace
from loihi_convert.frontend.graph import Graph, Node, clipped_once, left_by_sum, pruned
from loihi_convert.frontend.model_runs import require_forward_alone, require_not_random
from loihi_convert.frontend.operations import Add, Affine, Ending, Move, Operation, Relu, Rounding, placed_at, refuse


@torch.no_grad()
def read_graph(model: nn.Module, input_shape: Shape) -> Graph:
    """Return the operations of ``model``, which must be in eval mode, for images ``(C, H, W)``.

    For a model that takes signals ``(C, L)``, ``input_shape`` is ``(C, 1, L)``.

    Raises
    ------
    UnsupportedModelError
        If its forward cannot be traced, takes more than one tensor, does not return a single tensor, or is random.
    InputError
        If it does not accept images of ``input_shape``.
    """
    traced = trace(model, input_shape)
    graph = _Reader(model, traced, input_shape).graph()
    if not graph.obstacles:
        require_not_random(model, next(iter(traced.nodes)).meta["value"])
    return graph


@dataclass(eq=False)
class _Reader:
    """Builds a `Graph` from the graph traced by `_Tracer`."""

    model: nn.Module
    traced: fx.Graph
    input_shape: Shape
    nodes: list[Node] = field(default_factory=list)
    tensors: Tensors = field(default_factory=Tensors)
    # Obstacles that take what was overwritten: views of it, which may change the output without being used by it.
    views: list[int] = field(default_factory=list)

    def graph(self) -> Graph:
        """Return the graph of all nodes that the output needs."""
        output: fx.Node | None = None
        for node in self.traced.nodes:
            if node.op == "placeholder":
                self._add(node, Node("the image", "image", None, (), self.input_shape))
            elif node.op == "output":
                output = node
            else:
                self._take(node)
        assert output is not None
        (returned,) = output.args
        if isinstance(returned, fx.Node) and returned in self.tensors.lost:
            # The obstacles say why.
            return pruned(self.nodes, (self.tensors.lost[returned], *self.views))
        if not isinstance(returned, fx.Node) or returned not in self.tensors.moved:
            is_one = isinstance(returned, fx.Node)
            raise UnsupportedModelError(
                "its output does not depend on the image"
                if is_one
                else f"its forward returns a {type(returned).__name__.removeprefix('immutable_')}, not one tensor",
                where=type(self.model).__name__,
                expected="must return one tensor",
                hint=""
                if is_one
                else "Wrap it in a module that returns only the class scores or, for a regression, all outputs as "
                "torch.cat(outputs, 1).",
            )
        with placed_at(type(self.model).__name__, "its output"):
            self.tensors.require_current(output)
        with placed_at(name_of(returned), self._kind(returned)):
            moved = self.tensors.moved[returned]
            self.tensors.moved[returned], notes = as_output(moved, self.nodes[moved.base].shape)
            if (entry := output.meta["scores_name"]) is not None:
                notes = (f"the entry {entry!r} of what its forward returns is used.", *notes)
            return pruned(self.nodes, (self._input(returned), *self.views), notes)

    def _take(self, node: fx.Node) -> None:
        if arithmetic_of(node) is not None:
            node.args, node.kwargs = positional(node)
        if (x := relu_input(node)) is not None:
            is_in_place = returned_input(node, None) is x
            node.op, node.target, node.args = "call_function", torch.relu_ if is_in_place else torch.relu, (x,)
            node.kwargs = {name: given for name, given in node.kwargs.items() if name == "out"}
        taken = numbers_taken(node)
        is_constant = node.op == "get_attr" or all(before in self.tensors.constants for before in taken)
        if not is_constant and any(before in self.tensors.lost for before in node.all_input_nodes):
            self._lose(node)
        elif is_constant or any(before in self.tensors.moved for before in taken):
            try:
                with placed_at(name_of(node), self._kind(node)):
                    if is_constant:
                        self._keep(node)
                    else:
                        self._read(node)
            except UnsupportedModelError as obstacle:
                self._lose(node, obstacle)
                if self.tensors.change_of(node) is not None:
                    self.views.append(len(self.nodes) - 1)
        # Otherwise sizes and arithmetic on them.
        self.tensors.overwrite(node, returned_input(node, self._module(node)))

    def _keep(self, node: fx.Node) -> None:
        self.tensors.require_not_overwritten(node)
        if isinstance(node.meta["value"], Tensor):
            self.tensors.constants[node] = node.meta["value"]

    def _lose(self, node: fx.Node, obstacle: UnsupportedModelError | None = None) -> None:
        """Continue after an obstacle as if its output were known."""
        value = node.meta["value"]
        is_batch = isinstance(value, Tensor) and value.shape[:1] == (TRACED_IMAGES,)
        inputs = tuple(
            self.tensors.lost[before] if before in self.tensors.lost else self.tensors.moved[before].base
            for before in node.all_input_nodes
            if before in self.tensors.lost or before in self.tensors.moved
        )
        shape = shape_of(value) if is_batch else (1,)
        made = replace(self._made(node, Ending(), inputs, shape), obstacle=obstacle)
        if is_batch:
            self._add(node, made)
        else:
            self.nodes.append(made)
            self.tensors.lost[node] = len(self.nodes) - 1

    def _read(self, node: fx.Node) -> None:
        module, function = self._module(node), called(node)
        taken = [before for before in numbers_taken(node) if before in self.tensors.moved]
        first, moved = taken[0], self.tensors.moved[taken[0]]
        self.tensors.require_current(node)
        if self._kind(node).lower().replace("_", "").endswith("pool2d") and moved.tensor.ndim != 4:
            shape = tuple(moved.tensor.shape[1:])
            refuse(f"is applied to a tensor of shape {shape}", supported="maps (C, H, W)")
        is_on = isinstance(module, DROPOUTS) and module.training
        if function in DROPOUT_CALLED:
            is_on = arguments_of(node, DROPOUT_CALLED[function]).get("training", True)
        if is_on:
            refuse("is not switched off in eval mode; pass training=self.training")
        if isinstance(module, (*DROPOUTS, nn.Identity)) or function in (*NOTHING_CALLED, *DROPOUT_CALLED):
            if isinstance(node.meta["value"], Tensor) and not node.meta["value"].is_floating_point():
                refuse(f"casts to {node.meta['value'].dtype}", supported="floating point")
            self.tensors.moved[node] = moved if returned_input(node, module) else moved.copied()
        elif (
            function in MOVES_CALLED
            or isinstance(module, MOVES)
            or joins_one(node, self.tensors.moved, self.tensors.constants)
            or takes_pixels(node, module, moved.tensor.shape)
        ):
            self._move(node)
        elif not all(self.tensors.moved[each].tensor.numel() for each in taken) and function not in CAT_CALLED:
            refuse("takes an empty tensor", supported="tensors that hold numbers", hint="Leave it out.")
        elif repeats_pixels(node, module, moved.tensor.shape):
            repeated = functional.interpolate(moved.tensor, size=node.meta["value"].shape[2:], mode="nearest")
            self.tensors.moved[node] = Moved(moved.base, repeated, repeated)
        elif function in OVER_MAPS_CALLED:
            is_whole = takes_whole_maps(node, moved.tensor, self.nodes[moved.base].shape)
            maps = moved.base if is_whole else self._input(first)
            rank, after = moved.tensor.ndim, shape_of(node.meta["value"])
            pool, shape = over_maps(node, self.nodes[maps].shape, after, rank, is_whole=is_whole)
            self._add(node, self._made(node, pool, (maps,), shape))
        elif function == "copy_" and (copied := self._copied_by(node)) is not None:
            self.tensors.moved[node] = copied
        elif function in ("floor", "round") and len(node.args) == 1 and not node.kwargs:
            self._round(node, self._input(first))
        elif function in EXTREMES_CALLED and len(operands(node)) == 2:
            self._extreme_of_two(node)
        else:
            operation, inputs = self._operation(node, first)
            given = [self.tensors.moved[before] for before in inputs]
            bases = tuple(each.base for each in given)
            if found := on_map(operation, given, [self.nodes[base].shape for base in bases]):
                self._add(node, self._made(node, found.operation, bases, found.shape), found.positions)
            else:
                require_factor_per_channel(operation)
                size = node.meta["value"].shape if isinstance(operation, Add) else None
                numbers = tuple(self._input(before, size) for before in inputs)
                self._add(node, self._made(node, operation, numbers))
        if module is not None:
            require_forward_alone(name_of(node), module, first.meta["value"])

    def _round(self, node: fx.Node, number: int) -> None:
        try:
            with placed_at(name_of(node), self._kind(node)):
                self._add(node, self._quantized(node, *rounded_relu(self.nodes, number, self._kind(node))))
        except UnsupportedModelError as obstacle:
            # It may be clipped later.
            self._add(node, replace(self._made(node, Rounding(), (number,)), obstacle=obstacle))

    def _quantized(self, node: fx.Node, source: int, relu: Relu, factor: float) -> Node:
        """``factor`` times ``relu`` of the node ``source``."""
        shape = self.nodes[source].shape
        self.nodes.append(Node(name_of(node), self._kind(node), relu, (source,), shape))
        gain = np.full(shape[0], factor)
        return replace(self.nodes[-1], operation=Affine(gain, 0 * gain), inputs=(len(self.nodes) - 1,))

    def _extreme_of_two(self, node: fx.Node) -> None:
        """Read max(a, b) as b + relu(a - b), and min(a, b) as b - relu(b - a)."""
        if not all(each in self.tensors.moved for each in operands(node)):
            refuse("compares the previous layer with a constant", supported="another layer, zeros, or clamp")
        require_two_alike(node)
        a, b = (self._input(each, node.meta["value"].shape) for each in operands(node))
        sign = 1.0 if "max" in called(node) else -1.0
        self._add(node, self._made(node, Add((sign, -sign)), (a, b)))
        self._add(node, self._made(node, Relu(), (len(self.nodes) - 1,)))
        self._add(node, self._made(node, Add((1.0, sign)), (b, len(self.nodes) - 1)))

    def _made(self, node: fx.Node, operation: Operation, inputs: tuple[int, ...], shape: Shape | None = None) -> Node:
        if isinstance(operation, Relu):
            operation, inputs = clipped_once(operation, inputs, self.nodes)
            if (quantized := clipped_rounding(self.nodes, operation, inputs[0])) is not None:
                return self._quantized(node, *quantized)
        elif isinstance(operation, Add) and (left := left_by_sum(operation, inputs, self.nodes)) is not None:
            one = np.ones(self.nodes[left].shape[0])
            operation, inputs, shape = Affine(one, 0 * one), (left,), self.nodes[left].shape
        return Node(name_of(node), self._kind(node), operation, inputs, shape or shape_of(node.meta["value"]))

    def _add(self, node: fx.Node, made: Node, positions: Tensor | None = None) -> None:
        self.nodes.append(made)
        value = node.meta["value"]
        tensor = stored_as(value, torch.arange(1, value.numel() + 1) if positions is None else positions)
        memory = self.tensors.moved[node].memory if node in self.tensors.moved else tensor
        self.tensors.moved[node] = Moved(len(self.nodes) - 1, tensor, memory)

    def _move(self, node: fx.Node) -> None:
        """Apply ``node`` to positions."""
        require_padding_with_zeros(node)
        taken = [self.tensors.moved[before] for before in numbers_taken(node) if before in self.tensors.moved]
        bases = {moved.base for moved in taken}
        if len(bases) > 1:
            refuse("rearranges numbers of several tensors")

        def positions(before: fx.Node, where: str) -> Any:
            return getattr(self.tensors.moved[before], where) if before in self.tensors.moved else before.meta["value"]

        tensor = computed(self.model, node, partial(positions, where="tensor"))
        if all(moved.memory is moved.tensor for moved in taken):
            memory = tensor
        else:
            memory = computed(self.model, node, partial(positions, where="memory"))
        self.tensors.moved[node] = Moved(bases.pop(), tensor, memory)

    def _copied_by(self, node: fx.Node) -> Moved | None:
        """The numbers that ``copy_`` copies; ``None`` if they are repeated or rounded."""
        source, value = node.args[1], node.meta["value"]
        if not isinstance(source, fx.Node) or source not in self.tensors.moved or not value.is_floating_point():
            return None
        return self.tensors.moved[source].copied() if self.tensors.moved[source].tensor.shape == value.shape else None

    def _input(self, before: fx.Node, size: torch.Size | None = None) -> int:
        """The index of the node for ``before``; a new `Move` if its numbers were rearranged, or repeat to ``size``."""
        moved = self.tensors.moved[before]
        is_larger = size is not None and size != moved.tensor.shape
        if is_larger:
            moved = replace(moved, tensor=moved.tensor.expand(size))
        base = self.nodes[moved.base]
        count = int(np.prod(base.shape))
        shape = shape_of(moved.tensor)
        if not moved.keeps_images_apart(count):
            mixing = self._mixing(before, count)
            with placed_at(name_of(mixing), self._kind(mixing)):
                refuse(
                    "mixes images: its first axis is not the batch axis",
                    hint="Keep the batch axis first, as in x.flatten(1). A Linear along the last axis needs no view.",
                )
        if len(shape) not in (1, 3):
            refuse(f"is applied to a tensor of shape {shape}", supported="(C, H, W)")
        index = moved.tensor[0].numpy().astype(np.int64).reshape(shape) - 1
        if shape == base.shape and np.array_equal(index.ravel(), np.arange(count)):
            return moved.base
        made = self._made(before, Move(index), (moved.base,), shape)
        if is_larger:
            self.nodes.append(made)
        else:
            self._add(before, made)
        return len(self.nodes) - 1

    def _mixing(self, node: fx.Node, count: int) -> fx.Node:
        """The first of the nodes that lead to ``node`` after which images, of ``count`` numbers, are mixed."""
        for before in node.all_input_nodes:
            moved = self.tensors.moved.get(before)
            if moved is not None and isinstance(moved.tensor, Tensor) and not moved.keeps_images_apart(count):
                return self._mixing(before, count)
        return node

    def _operation(self, node: fx.Node, first: fx.Node) -> tuple[Operation, tuple[fx.Node, ...]]:
        """The operation of a computing node, and its input tensors."""
        if not isinstance(node.meta["value"], Tensor):
            refuse("has no spiking equivalent here: it returns several tensors")
        module, moved = self._module(node), self.tensors.moved[first]
        before, after, rank = shape_of(moved.tensor), shape_of(node.meta["value"]), moved.tensor.ndim
        if is_over_last_axis(node, module) and channels_are_last(moved, self.nodes[moved.base].shape):
            is_vector = node.meta["value"].ndim < rank
            before, after, rank = before[-1:], (1,) if is_vector else after[-1:], 2
        if module is not None:
            return operation_of_module(module, before, after, rank), (first,)
        arithmetic = arithmetic_of(node)
        # Both may be one tensor.
        taken = [each for each in node.args if isinstance(each, fx.Node) and each in self.tensors.moved]
        if arithmetic is not None and len(taken) > 1:
            return sum_of_two(node, arithmetic), operands(node)
        if arithmetic is not None:
            return affine(node, arithmetic, first, self.tensors.constants, moved.tensor.shape), (first,)
        if called(node) in CAT_CALLED:
            return concatenation(node, self.tensors.moved)
        if sum(each in self.tensors.moved for each in node.all_input_nodes) > 1:
            refuse("has no spiking equivalent here")
        return operation_of_call(node, before, after, rank), (first,)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _kind(self, node: fx.Node) -> str:
        module = self._module(node)
        return type(module).__name__ if module is not None else arithmetic_of(node) or called(node)
