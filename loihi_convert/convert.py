"""nn.Module -> ReluNetwork: read the CNN as a chain of linear maps with ReLU between them (torch.fx).

The chain may hold what the table says; everything else is refused by name, with what to use instead.

=======================================  ====================================================================
``Conv2d``, ``Linear``                   a synapse, with or without bias
``BatchNorm1d``, ``BatchNorm2d``         folded into the synapse before it
ReLU (module, function, method)          becomes the neuron; one between any two synapses
``AvgPool2d``                            joins the next synapse: a linear map of the spikes
Flatten, ``view``, ``reshape``           before the first ``Linear``
Dropout, ``Identity``                    nothing at inference
=======================================  ====================================================================
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from loihi_convert.errors import InputError, UnsupportedModelError
from loihi_convert.network import ReluLayer, ReluNetwork
from loihi_convert.synapse import Array, Conv, Dense, Pair, Shape, Synapse

SUPPORTED: Final = "Conv2d, Linear, BatchNorm1d/2d, ReLU, AvgPool2d, Flatten, Dropout, Identity"
_ADVICE: Final = {
    "MaxPool2d": "Train with AvgPool2d or a strided convolution.",
    "max_pool2d": "Train with AvgPool2d or a strided convolution.",
    "add": "Residual connections are not supported; train without them.",
    "Softmax": "End with the Linear layer: arg max is the same without it.",
    "LogSoftmax": "End with the Linear layer: arg max is the same without it.",
}
_IGNORED: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Identity)
_IGNORED_FUNCTIONS: Final = (functional.dropout, functional.dropout2d)


def convert(model: nn.Module, input_shape: Shape) -> ReluNetwork:
    """Return the CNN as a chain of synapses with ReLU between them; its outputs equal the model's own in eval mode.

    Parameters
    ----------
    model
        Takes images in 0..1, float32 ``(N, C, H, W)``, and returns class scores ``(N, classes)``. It is not changed.
    input_shape
        ``(C, H, W)``.

    Raises
    ------
    UnsupportedModelError
        If the model holds anything that the table above does not; names the module.
    """
    training = model.training
    try:
        return _convert(model.eval(), input_shape)
    finally:
        model.train(training)


def _convert(model: nn.Module, input_shape: Shape) -> ReluNetwork:
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
    chain = _Chain(shapes)
    for node in graph.graph.nodes:
        chain.take(node)
    return chain.network(input_shape)


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


@dataclass
class _Open:
    """A synapse that was read and may still take batch norm; ReLU closes it."""

    name: str
    synapse: Synapse
    batch_norm_folded: bool = False


class _Chain:
    """The chain read so far: closed layers, the open synapse, and the pooling that waits for the next synapse."""

    def __init__(self, shapes: _Shapes) -> None:
        self._shapes = shapes
        self._last: fx.Node | None = None
        self._layers: list[ReluLayer] = []
        self._open: _Open | None = None
        self._pool: tuple[str, Pair] | None = None
        self._seen: dict[str, str] = {}

    def take(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._last is not None:
                raise UnsupportedModelError(f"{node.name}: a second input of the model; supported is one image.")
            self._last = node
            return
        # Sizes and their items, as in x.view(x.size(0), -1), are numbers, not part of the chain.
        if node.op != "output" and node not in self._shapes.of:
            return
        tensors = [argument for argument in node.all_input_nodes if argument in self._shapes.of]
        if tensors != [self._last]:
            self._refuse(node, "does not continue the chain: its inputs are not just the layer before it")
        if node.op == "output":
            return
        if node.op == "call_module":
            self._take_module(node, self._shapes.module.get_submodule(str(node.target)))
        else:
            self._take_function(node)
        self._last = node

    def network(self, input_shape: Shape) -> ReluNetwork:
        if self._open is None or not isinstance(self._open.synapse, Dense) or self._pool is not None:
            found = self._layers[-1].name if self._layers else "nothing"
            raise UnsupportedModelError(
                f"the model ends with ReLU or pooling after {found}, or with a convolution; it must end with a Linear "
                "layer, whose membrane potentials become the class scores."
            )
        layers = (*self._layers, ReluLayer(self._open.name, self._open.synapse))
        return ReluNetwork(tuple(input_shape), layers)

    def _take_module(self, node: fx.Node, module: nn.Module) -> None:
        name = str(node.target)
        if name in self._seen:
            self._refuse(node, "is used twice; supported is one use of each module")
        if isinstance(module, nn.Conv2d):
            self._seen[name] = name
            self._open_synapse(node, name, self._conv(node, module))
        elif isinstance(module, nn.Linear):
            self._seen[name] = name
            self._open_synapse(node, name, self._dense(node, module))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            self._fold(node, module)
        elif isinstance(module, nn.ReLU):
            self._close(node)
        elif isinstance(module, nn.AvgPool2d):
            self._add_pool(
                node, module.kernel_size, module.stride, module.padding, module.ceil_mode, module.divisor_override
            )
        elif isinstance(module, nn.Flatten):
            self._flatten(node)
        elif not isinstance(module, _IGNORED):
            self._refuse(node, "has no spiking equivalent here")

    def _take_function(self, node: fx.Node) -> None:
        target = node.target
        if target in (functional.relu, torch.relu, torch.relu_, "relu", "relu_"):
            self._close(node)
        elif target in (torch.flatten, "flatten", "view", "reshape", torch.reshape):
            self._flatten(node)
        elif target is functional.avg_pool2d:
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            given: dict[str, Any] = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
            kernel = given["kernel_size"]
            self._add_pool(
                node,
                kernel,
                given.get("stride") or kernel,
                given.get("padding", 0),
                given.get("ceil_mode", False),
                given.get("divisor_override"),
            )
        elif target not in (*_IGNORED_FUNCTIONS, "contiguous"):
            self._refuse(node, "has no spiking equivalent here")

    def _open_synapse(self, node: fx.Node, name: str, synapse: Synapse) -> None:
        if self._open is not None:
            self._refuse(node, f"follows {self._open.name} without ReLU between them, where spikes would be sent")
        self._open = _Open(name, synapse)
        self._pool = None

    def _conv(self, node: fx.Node, module: nn.Conv2d) -> Conv:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            self._refuse(node, f"pads with mode {module.padding_mode}, padding {module.padding}; supported are zeros")
        padding = _pair(module.padding)
        pool = self._take_pool(node, padded=padding != (0, 0))
        return Conv(
            weight=_array(module.weight),
            bias=None if module.bias is None else _array(module.bias),
            stride=_pair(module.stride),
            padding=padding,
            dilation=_pair(module.dilation),
            groups=module.groups,
            pool=pool,
        )

    def _dense(self, node: fx.Node, module: nn.Linear) -> Dense:
        if len(self._shapes.of[node.all_input_nodes[0]]) != 2:
            self._refuse(node, "is applied to feature maps; supported is Linear after Flatten")
        pool = self._take_pool(node, padded=False)
        return Dense(_array(module.weight), None if module.bias is None else _array(module.bias), pool)

    def _take_pool(self, node: fx.Node, *, padded: bool) -> Pair:
        if self._pool is None:
            return (1, 1)
        name, pool = self._pool
        if padded:
            node_before = next(n for n in self._shapes.of if _name(n) == name)
            size = self._shapes.of[node_before.all_input_nodes[0]][2:]
            if size[0] % pool[0] or size[1] % pool[1]:
                self._refuse(node, f"is padded after {name}, whose window {pool} does not divide its input {size}")
        return pool

    def _fold(self, node: fx.Node, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        if self._open is None or module.running_mean is None or module.running_var is None:
            self._refuse(
                node, "does not directly follow a Conv2d or Linear, or keeps no running statistics; it cannot be folded"
            )
        mean, variance = _array(module.running_mean), _array(module.running_var)
        gain = 1 / np.sqrt(variance + module.eps)
        shift = -mean * gain
        if module.affine:
            gamma, beta = _array(module.weight), _array(module.bias)
            gain, shift = gain * gamma, shift * gamma + beta
        synapse = self._open.synapse
        bias = np.zeros(synapse.channels) if synapse.bias is None else synapse.bias
        weight = synapse.weight * gain.reshape(-1, *(1,) * (synapse.weight.ndim - 1))
        self._open.synapse = replace(synapse, weight=weight, bias=bias * gain + shift)

    def _close(self, node: fx.Node) -> None:
        if self._open is None:
            if self._layers and self._pool is None:
                return  # ReLU of ReLU is ReLU.
            self._refuse(node, "is a ReLU without a Conv2d or Linear directly before it; put pooling after ReLU")
        self._layers.append(ReluLayer(self._open.name, self._open.synapse))
        self._open = None

    def _add_pool(
        self, node: fx.Node, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, divisor: int | None
    ) -> None:
        if self._open is not None:
            self._refuse(node, f"stands between {self._open.name} and its ReLU; put the pooling after the ReLU")
        if self._pool is not None:
            self._refuse(node, f"follows the pooling {self._pool[0]}; supported is one pooling between two layers")
        if _pair(kernel) != _pair(stride) or _pair(padding) != (0, 0) or ceil_mode or divisor is not None:
            self._refuse(
                node,
                f"has kernel {_pair(kernel)}, stride {_pair(stride)}, padding {_pair(padding)}, ceil_mode {ceil_mode}; "
                "supported is kernel = stride, no padding, ceil_mode off and no divisor_override",
            )
        self._pool = (_name(node), _pair(kernel))

    def _flatten(self, node: fx.Node) -> None:
        before, after = self._shapes.of[node.all_input_nodes[0]], self._shapes.of[node]
        if after != (2, int(np.prod(before[1:]))):
            self._refuse(node, f"reshapes {before[1:]} to {after[1:]}; supported is flattening to one axis")
        if self._open is not None and isinstance(self._open.synapse, Conv):
            self._refuse(node, f"stands between {self._open.name} and its ReLU; put it after the ReLU")

    def _refuse(self, node: fx.Node, why: str) -> NoReturn:
        kind = _kind(node, self._shapes)
        advice = _ADVICE.get(kind, "")
        raise UnsupportedModelError(f"{_name(node)}: {kind} {why}; supported: {SUPPORTED}. {advice}".strip())


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _kind(node: fx.Node, shapes: _Shapes) -> str:
    if node.op == "call_module":
        return type(shapes.module.get_submodule(str(node.target))).__name__
    if node.target in (operator.add, operator.iadd, torch.add):
        return "add"
    return str(getattr(node.target, "__name__", node.target))


def _array(parameter: Tensor | None) -> Array:
    assert parameter is not None
    return parameter.detach().cpu().to(torch.float64).numpy()


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
