"""nn.Module -> the chain of its operations, in order, each with its name and shapes (torch.fx).

====================================================  =====================
module, function or method                            operation
====================================================  =====================
``Conv2d``, ``Linear``                                `Conv`, `Dense`
``BatchNorm1d``, ``BatchNorm2d``                      `Affine`
``ReLU``, ``relu``, ``relu_``                         `Relu`
``AvgPool2d``, ``avg_pool2d``                         `Pool`
``AdaptiveAvgPool2d(1)``, ``mean`` over H and W       `Pool` of the whole map
``Flatten``, ``flatten``, ``view``, ``reshape``       `Flatten`
``Softmax``, ``LogSoftmax``                           `Softmax`
Dropout, ``Identity``, ``contiguous``                 none: nothing at inference
====================================================  =====================

Everything else is refused by name, with what to use instead. In which order operations can become a spiking network is
the business of `convert.py`.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.synapse import Array, Conv, Dense, Pair, Shape

SUPPORTED: Final = (
    "Conv2d, Linear, BatchNorm1d/2d, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, Identity, a last Softmax"
)

_ADVICE: Final[Mapping[str, str]] = {
    "MaxPool2d": "Train with AvgPool2d or a strided convolution.",
    "max_pool2d": "Train with AvgPool2d or a strided convolution.",
    "add": "Residual connections are not supported; train without them.",
    "GELU": "Train with ReLU.",
    "LeakyReLU": "Train with ReLU.",
    "Sigmoid": "Train with ReLU.",
    "Tanh": "Train with ReLU.",
}
_NOTHING: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
_NOTHING_CALLED: Final = (functional.dropout, functional.dropout2d, "contiguous")
_RELU_CALLED: Final = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")
_FLATTEN_CALLED: Final = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_SOFTMAX_CALLED: Final = (functional.softmax, functional.log_softmax, torch.softmax, torch.log_softmax)
_AVG_POOL_ARGUMENTS: Final = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = gain x + shift`` per channel: batch normalization at inference; each float64 ``(C,)``."""

    gain: Array
    shift: Array


@dataclass(frozen=True)
class Relu:
    """``y = max(x, 0)``."""


@dataclass(frozen=True)
class Pool:
    """Average over windows of ``size`` that tile the input; rows and columns that fill no window are dropped."""

    size: Pair


@dataclass(frozen=True)
class Flatten:
    """From ``(C, H, W)`` to one axis, in that order."""


@dataclass(frozen=True)
class Softmax:
    """Softmax or its logarithm over the classes: keeps their order."""


Operation = Conv | Dense | Affine | Relu | Pool | Flatten | Softmax


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

    def refuse(self, why: str) -> NoReturn:
        """Raise an `UnsupportedModelError` that names this link."""
        refuse(self.name, self.kind, why)


def refuse(name: str, kind: str, why: str) -> NoReturn:
    """Raise an `UnsupportedModelError`: where, what was found, what is supported, what to do."""
    advice = _ADVICE.get(kind, "")
    subject = kind if name == kind else f"{name}: {kind}"
    raise UnsupportedModelError(f"{subject} {why}; supported: {SUPPORTED}. {advice}".strip())


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
        graph = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UnsupportedModelError(
            f"{type(model).__name__}: its forward cannot be traced ({reason}); supported is a plain chain of "
            f"{SUPPORTED}, without control flow that depends on data. Rewrite forward as such a chain."
        ) from error
    shapes = _Shapes(graph)
    # Two images, so that a reshape that mixes the batch into the features shows.
    try:
        with torch.no_grad():
            shapes.run(torch.zeros(2, *input_shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{type(model).__name__}: does not take images of shape {input_shape} ({reason}).") from error
    nodes = _nodes_in_order(graph, shapes)
    links = (_link(node, previous, graph, shapes) for previous, node in itertools.pairwise(nodes))
    return tuple(link for link in links if link is not None)


class _Shapes(fx.Interpreter):
    """Runs the graph once and remembers the shape of every tensor in it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.of: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.of[n] = tuple(value.shape)
        return value


def _nodes_in_order(graph: fx.GraphModule, shapes: _Shapes) -> list[fx.Node]:
    """The image, then every node that gives a tensor, each made from nothing but the one before it."""
    chain: list[fx.Node] = []
    modules: set[object] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if chain:
                raise UnsupportedModelError(f"{node.name}: a second input of the model; supported is one image.")
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
        if node.op == "call_module" and node.target in modules and not isinstance(_module(node, graph), _REUSABLE):
            refuse(_name(node), _kind(node, graph), "is used twice; supported is one use of each module with weights")
        modules.add(node.target)
        if node.op != "output":
            chain.append(node)
    return chain


_REUSABLE: Final = (nn.ReLU, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, *_NOTHING)


def _link(node: fx.Node, previous: fx.Node, graph: fx.GraphModule, shapes: _Shapes) -> Link | None:
    name, kind, input_shape = _name(node), _kind(node, graph), shapes.of[previous][1:]
    if node.op == "call_module":
        module = _module(node, graph)
        if isinstance(module, _NOTHING):
            return None
        operation = _operation_of_module(name, kind, module, input_shape)
    elif node.target in _NOTHING_CALLED:
        return None
    else:
        operation = _operation_of_call(name, kind, node, input_shape)
    if isinstance(operation, Flatten) and shapes.of[node] != (2, int(np.prod(input_shape))):
        refuse(name, kind, f"reshapes {input_shape} to {shapes.of[node][1:]}; supported is flattening to one axis")
    return Link(name, kind, operation, input_shape)


def _operation_of_module(name: str, kind: str, module: nn.Module, input_shape: Shape) -> Operation:
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            refuse(name, kind, f"pads with mode {module.padding_mode}, padding {module.padding}; supported are zeros")
        return Conv(
            weight=_array(module.weight),
            bias=None if module.bias is None else _array(module.bias),
            stride=_pair(module.stride),
            padding=_pair(module.padding),
            dilation=_pair(module.dilation),
            groups=module.groups,
        )
    if isinstance(module, nn.Linear):
        if len(input_shape) != 1:
            refuse(name, kind, "is applied to feature maps; supported is Linear after Flatten")
        return Dense(_array(module.weight), None if module.bias is None else _array(module.bias))
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return _batch_norm(name, kind, module)
    if isinstance(module, nn.ReLU):
        return Relu()
    if isinstance(module, nn.AvgPool2d):
        return _pool(name, kind, {argument: getattr(module, argument) for argument in _AVG_POOL_ARGUMENTS})
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _adaptive_pool(name, kind, module.output_size, input_shape)
    if isinstance(module, nn.Flatten):
        return Flatten()
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return Softmax()
    refuse(name, kind, "has no spiking equivalent here")


def _operation_of_call(name: str, kind: str, node: fx.Node, input_shape: Shape) -> Operation:
    if node.target in _RELU_CALLED:
        return Relu()
    if node.target in _FLATTEN_CALLED:
        return Flatten()
    if node.target is functional.avg_pool2d:
        return _pool(name, kind, {**dict(zip(_AVG_POOL_ARGUMENTS, node.args[1:], strict=False)), **node.kwargs})
    if node.target is functional.adaptive_avg_pool2d:
        return _adaptive_pool(name, kind, _argument(node, "output_size"), input_shape)
    if node.target in (torch.mean, "mean"):
        axes = _argument(node, "dim")
        if len(input_shape) != 3 or not isinstance(axes, list | tuple) or {axis % 4 for axis in axes} != {2, 3}:
            refuse(name, kind, f"averages over axes {axes}; supported is the mean over height and width")
        return Pool((input_shape[1], input_shape[2]))
    if node.target in _SOFTMAX_CALLED or node.target in ("softmax", "log_softmax"):
        return Softmax()
    refuse(name, kind, "has no spiking equivalent here")


def _batch_norm(name: str, kind: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    if module.running_mean is None or module.running_var is None:
        refuse(name, kind, "keeps no running statistics; train with track_running_stats=True")
    mean, variance = _array(module.running_mean), _array(module.running_var)
    gain = 1 / np.sqrt(variance + module.eps)
    shift = -mean * gain
    if module.affine:
        gamma, beta = _array(module.weight), _array(module.bias)
        return Affine(gain * gamma, shift * gamma + beta)
    return Affine(gain, shift)


def _pool(name: str, kind: str, arguments: Mapping[str, Any]) -> Pool:
    kernel = _pair(arguments["kernel_size"])
    stride, padding = arguments.get("stride") or kernel, _pair(arguments.get("padding") or 0)
    ceil_mode = bool(arguments.get("ceil_mode"))
    if _pair(stride) != kernel or padding != (0, 0) or ceil_mode or arguments.get("divisor_override") is not None:
        refuse(
            name,
            kind,
            f"has kernel {kernel}, stride {_pair(stride)}, padding {padding}, ceil_mode {ceil_mode}; supported is "
            "kernel = stride, no padding, ceil_mode off and no divisor_override",
        )
    return Pool(kernel)


def _adaptive_pool(name: str, kind: str, output_size: Any, input_shape: Shape) -> Pool:
    if len(input_shape) != 3 or output_size not in (1, (1, 1), [1, 1]):
        refuse(name, kind, f"has output size {output_size}; supported is 1, the average of the whole map")
    return Pool((input_shape[1], input_shape[2]))


def _argument(node: fx.Node, name: str) -> Any:
    """The argument after the tensor, given by position or by name."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get(name)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _module(node: fx.Node, graph: fx.GraphModule) -> nn.Module:
    return graph.get_submodule(str(node.target))


def _kind(node: fx.Node, graph: fx.GraphModule) -> str:
    if node.op == "call_module":
        return type(_module(node, graph)).__name__
    if node.target in (operator.add, operator.iadd, torch.add):
        return "add"
    return str(getattr(node.target, "__name__", node.target))


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    return parameter.detach().cpu().to(torch.float64).numpy()


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
