"""nn.Module -> the chain of its operations, in order, each with its name and shapes (torch.fx).

====================================================  =====================
module, function or method                            operation
====================================================  =====================
a module                                              that of `operations.py`
``x - c``, ``x + c``, ``x * c``, ``x / c``, ``c - x``   `Affine`: c a number, a buffer or a parameter, one per channel
``relu``, ``relu_``                                   `Relu`
``avg_pool2d``                                        `Pool`
``adaptive_avg_pool2d``, ``mean`` over H and W        `Pool` of the whole map
``flatten``, ``view``, ``reshape``                    `Flatten`; none where the shape stays
``squeeze`` of maps of one pixel                      `Flatten`
``softmax``, ``log_softmax``                          `Softmax`
``dropout``, ``contiguous``                           none: nothing at inference
====================================================  =====================

Everything else is refused by name, with what to use instead. In which order operations can become a spiking network is
the business of `lowering.py`.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from loihi_convert.arrays import Shape
from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.frontend.operations import (
    AVG_POOL_ARGUMENTS,
    NOTHING,
    SUPPORTED,
    Affine,
    Flatten,
    Operation,
    Pool,
    Relu,
    adaptive_pool,
    average_pool,
    is_one_operation,
    operation_of_module,
    refuse,
    softmax,
)

_DROPOUT_CALLED: Final = (functional.dropout, functional.dropout1d, functional.dropout2d)
_NOTHING_CALLED: Final = ("contiguous", "float", "clone")
_RELU_CALLED: Final = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")
_FLATTEN_CALLED: Final = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_SQUEEZE_CALLED: Final = (torch.squeeze, "squeeze")
# By their names: x - c is operator.sub, x -= c operator.isub, x.sub(c) the method sub, x.sub_(c) the method sub_.
_ARITHMETIC: Final = {
    spelling: name
    for name in ("add", "sub", "mul", "truediv")
    for spelling in (name, f"i{name}", f"{name}_", *(("div", "div_") if name == "truediv" else ()))
}
_SOFTMAX_CALLED: Final = (functional.softmax, functional.log_softmax, torch.softmax, torch.log_softmax)


@dataclass(frozen=True, eq=False)
class Link:
    """One operation of the chain.

    Parameters
    ----------
    name
        The module's name in the CNN, or the node's where a function is called.
    kind
        Class or function, as a message names it.
    operation
        What it does.
    input_shape
        Of one image's tensor before it, without the batch axis.
    """

    name: str
    kind: str
    operation: Operation
    input_shape: Shape

    def refuse(self, why: str, *, supported: str = SUPPORTED, hint: str = "") -> NoReturn:
        """Raise an `UnsupportedModelError` that names this link."""
        refuse(self.name, self.kind, why, supported=supported, hint=hint)


def read_chain(model: nn.Module, input_shape: Shape) -> tuple[Link, ...]:
    """Return the operations of ``model``, which is in eval mode, in the order in which an image passes them.

    Raises
    ------
    UnsupportedModelError
        If it cannot be traced, is no chain, or holds an operation that the table above does not.
    InputError
        If it does not take images of ``input_shape``.
    """
    try:
        graph = fx.GraphModule(model, _Tracer().trace(model, concrete_args=_defaults(model)))
    # Tracing runs the user's forward, which may raise anything.
    except Exception as error:
        reason = _first_line(error)
        raise UnsupportedModelError(
            f"its forward cannot be traced ({reason})",
            where=type(model).__name__,
            expected=f"supported: a plain chain of {SUPPORTED}, without control flow that depends on data",
            hint="Rewrite forward as such a chain.",
        ) from error
    shapes = _Shapes(graph)
    # Two images, so that a reshape that mixes the batch into the features shows.
    try:
        with torch.no_grad():
            shapes.run(torch.zeros(2, *input_shape))
    except Exception as error:
        reason = _first_line(error)
        raise InputError(
            f"does not take images of shape {input_shape} ({reason})", where=type(model).__name__
        ) from error
    # Sizes as arguments, as in avg_pool2d(x, x.shape[2:]), become their numbers.
    for node in graph.graph.nodes:
        node.args = fx.node.map_arg(node.args, lambda argument: shapes.sizes.get(argument, argument))
        node.kwargs = fx.node.map_arg(node.kwargs, lambda argument: shapes.sizes.get(argument, argument))
    nodes = _nodes_in_order(graph, shapes)
    links = (_link(node, previous, graph, shapes) for previous, node in itertools.pairwise(nodes))
    return tuple(link for link in links if link is not None)


class _Tracer(fx.Tracer):
    """Steps into the user's modules, not into those that `operations.py` knows, nor into empty subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_one_operation(m) or super().is_leaf_module(m, module_qualified_name)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of forward beside the image, such as ``return_features=False``: their defaults hold."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


class _Shapes(fx.Interpreter):
    """Runs the graph once; remembers the shape of every tensor that comes from the image, and the constant ones."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.of: dict[fx.Node, Shape] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.sizes: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            inputs = n.all_input_nodes
            # A buffer, or what is computed of buffers alone, as in self.mean[:, None, None].
            if n.op == "get_attr" or (inputs and all(argument in self.constants for argument in inputs)):
                self.constants[n] = value
            else:
                self.of[n] = tuple(value.shape)
        elif isinstance(value, int):
            self.sizes[n] = value
        elif isinstance(value, torch.Size):
            self.sizes[n] = tuple(value)
        return value


def _nodes_in_order(graph: fx.GraphModule, shapes: _Shapes) -> list[fx.Node]:
    """The image, then every node that gives a tensor, each made from nothing but the one before it."""
    chain: list[fx.Node] = []
    modules: set[object] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if node.args:
                # An argument with a default, see `_defaults`.
                continue
            if chain:
                raise UnsupportedModelError(
                    "is a second input of the model", where=node.name, expected="supported: one image"
                )
            chain.append(node)
            continue
        # Sizes and their items, as in x.view(x.size(0), -1), are numbers, not part of the chain.
        if node.op != "output" and node not in shapes.of:
            continue
        if [argument for argument in node.all_input_nodes if argument in shapes.of] != chain[-1:]:
            refuse(
                _name(node),
                _kind(node, graph),
                "does not continue the chain: its inputs are not just the layer before it",
            )
        if node.op == "call_module" and node.target in modules and _module(node, graph).state_dict():
            refuse(_name(node), _kind(node, graph), "is used twice", supported="one use of each module with weights")
        modules.add(node.target)
        if node.op != "output":
            chain.append(node)
    return chain


def _link(node: fx.Node, previous: fx.Node, graph: fx.GraphModule, shapes: _Shapes) -> Link | None:
    name, kind, input_shape = _name(node), _kind(node, graph), shapes.of[previous][1:]
    if node.op == "call_module":
        module = _module(node, graph)
        if isinstance(module, NOTHING):
            return None
        operation = operation_of_module(name, kind, module, input_shape)
    elif node.target in _NOTHING_CALLED:
        return None
    elif node.target in _DROPOUT_CALLED:
        if dict(zip(("p", "training"), node.args[1:], strict=False)).get("training", node.kwargs.get("training", True)):
            refuse(name, kind, "is not told that training is over; pass training=self.training")
        return None
    elif node.target in _FLATTEN_CALLED and shapes.of[node] == shapes.of[previous]:
        return None
    elif _arithmetic(node) is not None:
        operation = _affine_of_call(name, kind, node, previous, shapes)
    else:
        operation = _operation_of_call(name, kind, node, input_shape)
    if node.target in _SQUEEZE_CALLED:
        if set(input_shape[1:]) - {1}:
            refuse(name, kind, f"squeezes {input_shape}", supported="squeezing maps of one pixel")
    elif isinstance(operation, Flatten) and shapes.of[node] != (2, int(np.prod(input_shape))):
        refuse(name, kind, f"reshapes {input_shape} to {shapes.of[node][1:]}", supported="flattening to one axis")
    return Link(name, kind, operation, input_shape)


def _operation_of_call(name: str, kind: str, node: fx.Node, input_shape: Shape) -> Operation:
    if node.target in _RELU_CALLED:
        return Relu()
    if node.target in (*_FLATTEN_CALLED, *_SQUEEZE_CALLED):
        return Flatten()
    if node.target is functional.avg_pool2d:
        return average_pool(name, kind, {**dict(zip(AVG_POOL_ARGUMENTS, node.args[1:], strict=False)), **node.kwargs})
    if node.target is functional.adaptive_avg_pool2d:
        return adaptive_pool(name, kind, _argument(node, "output_size"), input_shape)
    if node.target in (torch.mean, "mean"):
        axes = _argument(node, "dim")
        if len(input_shape) != 3 or not isinstance(axes, list | tuple) or {axis % 4 for axis in axes} != {2, 3}:
            refuse(name, kind, f"averages over axes {axes}", supported="the mean over height and width")
        return Pool((input_shape[1], input_shape[2]))
    if node.target in _SOFTMAX_CALLED or node.target in ("softmax", "log_softmax"):
        return softmax(name, kind, _argument(node, "dim"))
    return refuse(name, kind, "has no spiking equivalent here")


def _arithmetic(node: fx.Node) -> str | None:
    """``"add"``, ``"sub"``, ``"mul"`` or ``"truediv"`` if ``node`` is one of them, however it is spelled."""
    if node.op == "call_method" or getattr(node.target, "__module__", None) in ("_operator", "torch", None):
        return _ARITHMETIC.get(str(getattr(node.target, "__name__", node.target)))
    return None


def _affine_of_call(name: str, kind: str, node: fx.Node, previous: fx.Node, shapes: _Shapes) -> Affine:
    """The arithmetic of the tensor before and a constant, which must be the same in every pixel of a channel."""
    input_shape = shapes.of[previous][1:]
    constants = [argument for argument in node.args if argument is not previous]
    if len(node.args) != 2 or len(constants) != 1 or node.kwargs:
        refuse(name, kind, "does not join the layer before it with one constant")
    constant = shapes.constants.get(constants[0]) if isinstance(constants[0], fx.Node) else constants[0]
    if not isinstance(constant, int | float | Tensor):
        refuse(
            name, kind, f"joins the layer before it with {constants[0]}", supported="numbers, buffers and parameters"
        )
    values = torch.as_tensor(constant, dtype=torch.float64).detach().cpu()
    if shapes.of[node] != shapes.of[previous] or values.ndim > 1 + len(input_shape):
        refuse(name, kind, f"turns {input_shape} into {shapes.of[node][1:]}", supported="one constant per channel")
    spread = values.expand(shapes.of[previous])
    per_channel = spread.reshape(2, input_shape[0], -1)[0, :, 0]
    if not torch.equal(spread, per_channel.reshape(-1, *(1,) * (len(input_shape) - 1)).expand_as(spread)):
        refuse(name, kind, "has a constant that differs between pixels or images", supported="one per channel")
    c = per_channel.numpy()
    operation, is_reversed = _arithmetic(node), node.args[0] is not previous
    if not np.isfinite(c).all() or (operation == "truediv" and not c.all()):
        refuse(name, kind, "has a constant that is NaN, infinite, or 0 in a division", supported="finite numbers")
    one, zero = np.ones_like(c), np.zeros_like(c)
    if operation == "add":
        return Affine(one, c)
    if operation == "sub":
        return Affine(-one, c) if is_reversed else Affine(one, -c)
    if operation == "mul":
        return Affine(c, zero)
    if is_reversed:
        refuse(name, kind, "divides a constant by the layer before it, which is not linear")
    return Affine(1 / c, zero)


def _argument(node: fx.Node, name: str) -> Any:
    """The argument after the tensor, given by position or by name."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get(name)


def _name(node: fx.Node) -> str:
    """The module's name in the CNN; a function's, and after which module it is called."""
    if node.op == "call_module":
        return str(node.target)
    before = node.prev
    while before.op not in ("call_module", "root", "placeholder"):
        before = before.prev
    return f"{node.name} (after {before.target})" if before.op == "call_module" else node.name


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _module(node: fx.Node, graph: fx.GraphModule) -> nn.Module:
    return graph.get_submodule(str(node.target))


def _kind(node: fx.Node, graph: fx.GraphModule) -> str:
    if node.op == "call_module":
        return type(_module(node, graph)).__name__
    if _arithmetic(node) is not None:
        return str(_arithmetic(node))
    return str(getattr(node.target, "__name__", node.target))
