"""nn.Module -> the chain of its operations, in order, each with its name and shapes (torch.fx).

====================================================  =====================
module, function or method                            operation
====================================================  =====================
``Conv2d``, ``Linear``                                `Conv`, `Dense`
``BatchNorm1d``, ``BatchNorm2d``, ``SyncBatchNorm``    `Affine`
``x - c``, ``x + c``, ``x * c``, ``x / c``, ``c - x``   `Affine`: c a number, a buffer or a parameter, one per channel
torchvision's ``Normalize``                           `Affine`
``ReLU``, ``relu``, ``relu_``, our ``Qcfs``            `Relu`
``AvgPool2d``, ``avg_pool2d``                         `Pool`
``AdaptiveAvgPool2d(1)``, ``mean`` over H and W       `Pool` of the whole map
``Flatten``, ``flatten``, ``view``, ``reshape``       `Flatten`; none where the shape stays
``squeeze`` of maps of one pixel                      `Flatten`
``Softmax``, ``LogSoftmax``                           `Softmax`
Dropout, ``Identity``, ``contiguous``                 none: nothing at inference
====================================================  =====================

Everything else is refused by name, with what to use instead. In which order operations can become a spiking network is
the business of `convert.py`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.synapse import Array, Conv, Dense, Pair, Shape

SUPPORTED: Final = (
    "Conv2d, Linear, BatchNorm1d/2d, ReLU, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, Identity, "
    "+ - * / by constants, a last Softmax"
)

_ADVICES: Final = (
    ("Train with AvgPool2d or a strided convolution.", "MaxPool2d AdaptiveMaxPool2d LPPool2d"),
    ("Residual connections are not supported; train without them.", "add"),
    ("Branches are not supported; train a plain chain.", "cat stack concat chunk split"),
    ("Train with ReLU.", "GELU LeakyReLU PReLU ELU SELU CELU SiLU Mish ReLU6 Hardswish Hardtanh Softplus Sigmoid Tanh"),
    ("Attention by gates is not supported; train without it.", "mul"),
    ("Train with BatchNorm2d, or without.", "GroupNorm LayerNorm InstanceNorm2d LocalResponseNorm"),
    ("A classifier needs no upsampling; leave it out.", "ConvTranspose2d Upsample Interpolate"),
    ("Use the modules nn.Conv2d, nn.Linear and nn.BatchNorm2d, which hold their weights.", "Conv2d linear BatchNorm"),
)
# The module LeakyReLU and the function leaky_relu get the same advice.
_ADVICE: Final = {kind.lower(): advice for advice, kinds in _ADVICES for kind in kinds.split()}
_NOTHING: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
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
_AVG_POOL_ARGUMENTS: Final = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = gain x + shift`` per channel: batch normalization at inference; each float64 ``(C,)``."""

    gain: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Relu:
    """``y = max(x, 0)``, or `qcfs.Qcfs`, which has ``threshold``, float64 ``(C,)``, and ``levels``."""

    threshold: Array | None = None
    levels: int | None = None


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
    advice = _ADVICE.get(kind.lower().replace("_", ""), "")
    subject = name if name.startswith(kind) else f"{name}: {kind}"
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
        graph = fx.GraphModule(model, _Tracer().trace(model, concrete_args=_defaults(model)))
    # Tracing runs the user's forward, which may raise anything.
    except Exception as error:
        reason = _first_line(error)
        raise UnsupportedModelError(
            f"{type(model).__name__}: its forward cannot be traced ({reason}); supported is a plain chain of "
            f"{SUPPORTED}, without control flow that depends on data. Rewrite forward as such a chain."
        ) from error
    shapes = _Shapes(graph)
    # Two images, so that a reshape that mixes the batch into the features shows.
    try:
        with torch.no_grad():
            shapes.run(torch.zeros(2, *input_shape))
    except Exception as error:
        reason = _first_line(error)
        raise InputError(f"{type(model).__name__}: does not take images of shape {input_shape} ({reason}).") from error
    # Sizes as arguments, as in avg_pool2d(x, x.shape[2:]), become their numbers.
    for node in graph.graph.nodes:
        node.args = fx.node.map_arg(node.args, lambda argument: shapes.sizes.get(argument, argument))
        node.kwargs = fx.node.map_arg(node.kwargs, lambda argument: shapes.sizes.get(argument, argument))
    nodes = _nodes_in_order(graph, shapes)
    links = (_link(node, previous, graph, shapes) for previous, node in itertools.pairwise(nodes))
    return tuple(link for link in links if link is not None)


class _Tracer(fx.Tracer):
    """Steps into the user's modules, not into those that `_operation_of_module` knows, nor into empty subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_ours = isinstance(m, Qcfs) or _is_normalize(m) or _is_plain(m, *_WITH_WEIGHTS)
        return is_ours or super().is_leaf_module(m, module_qualified_name)


_WITH_WEIGHTS: Final = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def _is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` is one of ``kinds``, and computes what that computes: fake-quantized layers do not."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_normalize(module: nn.Module) -> bool:
    """By its name: importing torchvision takes a second, and a model that holds one has imported it."""
    return type(module).__name__ == "Normalize" and type(module).__module__.startswith("torchvision.transforms")


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
        if node.op == "call_module" and node.target in modules and _module(node, graph).state_dict():
            refuse(_name(node), _kind(node, graph), "is used twice; supported is one use of each module with weights")
        modules.add(node.target)
        if node.op != "output":
            chain.append(node)
    return chain


def _link(node: fx.Node, previous: fx.Node, graph: fx.GraphModule, shapes: _Shapes) -> Link | None:
    name, kind, input_shape = _name(node), _kind(node, graph), shapes.of[previous][1:]
    if node.op == "call_module":
        module = _module(node, graph)
        if isinstance(module, _NOTHING):
            return None
        operation = _operation_of_module(name, kind, module, input_shape)
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
            refuse(name, kind, f"squeezes {input_shape}; supported is squeezing maps of one pixel")
    elif isinstance(operation, Flatten) and shapes.of[node] != (2, int(np.prod(input_shape))):
        refuse(name, kind, f"reshapes {input_shape} to {shapes.of[node][1:]}; supported is flattening to one axis")
    return Link(name, kind, operation, input_shape)


def _operation_of_module(name: str, kind: str, module: nn.Module, input_shape: Shape) -> Operation:
    if _is_plain(module, nn.Conv2d):
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros":
            refuse(name, kind, f"pads with mode {module.padding_mode}, padding {module.padding}; supported are zeros")
        return Conv(
            weight=_array(module.weight),
            bias=None if module.bias is None else _array(module.bias),
            stride=_pair(module.stride),
            padding=_padding(name, kind, module),
            dilation=_pair(module.dilation),
            groups=module.groups,
        )
    if _is_plain(module, nn.Linear):
        assert isinstance(module, nn.Linear)
        if len(input_shape) != 1:
            refuse(name, kind, "is applied to feature maps; supported is Linear after Flatten")
        return Dense(_array(module.weight), None if module.bias is None else _array(module.bias))
    if _is_plain(module, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm):
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
        return _batch_norm(name, kind, module)
    if isinstance(module, nn.ReLU):
        return Relu()
    if isinstance(module, Qcfs):
        return Relu(_array(module.thresholds), module.levels)
    if isinstance(module, nn.AvgPool2d):
        return _pool(name, kind, {argument: getattr(module, argument) for argument in _AVG_POOL_ARGUMENTS})
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _adaptive_pool(name, kind, module.output_size, input_shape)
    if isinstance(module, nn.Flatten):
        return Flatten()
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        return _softmax(name, kind, module.dim)
    if _is_normalize(module):
        mean, std = (np.array(getattr(module, values), np.float64).reshape(-1) for values in ("mean", "std"))
        return Affine(np.ones(input_shape[0]) / std, -mean / std * np.ones(input_shape[0]))
    refuse(name, kind, "has no spiking equivalent here")


def _operation_of_call(name: str, kind: str, node: fx.Node, input_shape: Shape) -> Operation:
    if node.target in _RELU_CALLED:
        return Relu()
    if node.target in (*_FLATTEN_CALLED, *_SQUEEZE_CALLED):
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
        return _softmax(name, kind, _argument(node, "dim"))
    refuse(name, kind, "has no spiking equivalent here")


def _softmax(name: str, kind: str, axis: Any) -> Softmax:
    if axis not in (1, -1, None):
        refuse(name, kind, f"runs over axis {axis}; supported is the axis of the classes, 1")
    return Softmax()


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
            name, kind, f"joins the layer before it with {constants[0]}; supported are numbers, buffers and parameters"
        )
    values = torch.as_tensor(constant, dtype=torch.float64).detach().cpu()
    if shapes.of[node] != shapes.of[previous] or values.ndim > 1 + len(input_shape):
        refuse(name, kind, f"turns {input_shape} into {shapes.of[node][1:]}; supported is one constant per channel")
    spread = values.expand(shapes.of[previous])
    per_channel = spread.reshape(2, input_shape[0], -1)[0, :, 0]
    if not torch.equal(spread, per_channel.reshape(-1, *(1,) * (len(input_shape) - 1)).expand_as(spread)):
        refuse(name, kind, "has a constant that differs between pixels or images; supported is one per channel")
    c = per_channel.numpy()
    operation, is_reversed = _arithmetic(node), node.args[0] is not previous
    if not np.isfinite(c).all() or (operation == "truediv" and not c.all()):
        refuse(name, kind, "has a constant that is NaN, infinite, or 0 in a division; supported are finite numbers")
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


def _padding(name: str, kind: str, module: nn.Conv2d) -> Pair:
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        total = [dilation * (kernel - 1) for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)]
        if any(rows % 2 for rows in total):
            refuse(
                name, kind, f"pads kernel {module.kernel_size} to the same size by one more at one side; use odd sizes"
            )
        return (total[0] // 2, total[1] // 2)
    return _pair(module.padding)


def _batch_norm(name: str, kind: str, module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm) -> Affine:
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


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    return parameter.detach().cpu().to(torch.float64).numpy()


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
