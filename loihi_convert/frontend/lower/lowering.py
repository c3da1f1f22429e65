"""A pass over the graph: its nodes become populations of neurons, and these a `ReluNetwork`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from torch import nn

from loihi_convert.arrays import Shape
from loihi_convert.data.array_pixels import as_input_shape
from loihi_convert.errors import InputError, UnsupportedModelError, UsageError, require_kind
from loihi_convert.frontend.graph import Graph, Node
from loihi_convert.frontend.lower.activation import activated
from loihi_convert.frontend.lower.affine import normalization_of, normalized
from loihi_convert.frontend.lower.chain import Chain, to_chain
from loihi_convert.frontend.lower.concat import joined
from loihi_convert.frontend.lower.levels import placed
from loihi_convert.frontend.lower.linear import connected, convolved
from loihi_convert.frontend.lower.max_pool import MaxPooling, pooled_after_relu
from loihi_convert.frontend.lower.moves import moved
from loihi_convert.frontend.lower.pooling import averaged
from loihi_convert.frontend.lower.populations import Population, Populations
from loihi_convert.frontend.lower.residual import added
from loihi_convert.frontend.lower.value import Features, MustBeCarriedError, Tensor, Value
from loihi_convert.frontend.operations import (
    Add,
    Affine,
    AveragePool,
    Cat,
    Ending,
    LeakyRelu,
    MaxPool,
    Move,
    Relu,
    placed_at,
)
from loihi_convert.frontend.reader import read_graph
from loihi_convert.frontend.users_code import require_weights
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.normalization import channel_normalization


def to_relu_network(
    model: nn.Module,
    input_shape: Shape,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    skip_copies: int = 1,
) -> ReluNetwork:
    """Return the CNN as a chain of synapses with ReLUs between them; its outputs are the model's in eval mode.

    Parameters
    ----------
    model
        Takes images, float32 ``(N, C, H, W)``, or signals ``(N, C, L)``, or those of one channel without its axis;
        returns class scores ``(N, classes)``. It is not changed.
    input_shape
        ``(C, H, W)``; for signals ``(C, L)``.
    mean, std
        Per channel, if the model expects ``(pixel / 255 - mean) / std`` and does not compute it itself.
    skip_copies
        Relays that carry each value of a skip connection into a convolution: with r relays its weights there are r
        times smaller, which leaves more of the 8 bits to the convolution.

    Raises
    ------
    UnsupportedModelError
        If the model contains an operation, or an order of operations, without a spiking equivalent; names the first
        such place. `obstacles` finds all.
    InputError
        If the model does not accept images of ``input_shape``, or contains NaN or infinity.
    UsageError
        If ``input_shape`` is not such a shape, only one of ``mean`` and ``std`` is given, they do not have one finite
        value per channel, or ``std`` is not positive; or if ``skip_copies`` is below 1.
    """
    return lowered(model, input_shape, mean=mean, std=std, skip_copies=skip_copies).network


def lowered(
    model: nn.Module,
    input_shape: Shape,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    skip_copies: int = 1,
) -> Chain:
    """Return the same as `to_relu_network`, with a description of each channel."""
    require_kind("model", model, nn.Module, "must be a torch.nn.Module", "`convert` also takes the path of a file.")
    if isinstance(skip_copies, bool) or not isinstance(skip_copies, Integral) or skip_copies < 1:
        raise UsageError(f"found {skip_copies!r}", where="skip_copies", expected="must be a whole number, at least 1")
    input_shape = as_input_shape(input_shape)
    given = channel_normalization(mean, std, input_shape[0])
    normalization = None if given is None else normalization_of(*given)
    # Non-finite numbers are reported below, with the layer they end up in.
    with np.errstate(all="ignore"):
        graph = _graph(model, input_shape)
        chain = _chain(graph, input_shape, normalization, skip_copies)
    for layer in chain.network.layers:
        arrays = (layer.synapse.weight, layer.synapse.bias)
        if not all(array is None or np.isfinite(array).all() for array in arrays):
            raise InputError(
                "a weight or bias is NaN or infinite (with batch norm folded)",
                where=layer.name,
                expected="must be finite",
                hint="Retrain the CNN.",
            )
    return chain


def obstacles(model: nn.Module, input_shape: Shape) -> tuple[UnsupportedModelError, ...]:
    """Return all places in ``model`` without a spiking equivalent, in order of computation.

    Raises
    ------
    UnsupportedModelError
        If its forward cannot be traced.
    InputError
        If it does not accept images of ``input_shape``.
    UsageError
        If ``input_shape`` is neither ``(C, H, W)`` nor ``(C, L)``.
    """
    input_shape = as_input_shape(input_shape)
    with np.errstate(all="ignore"):
        return _Lowering(_graph(model, input_shape), input_shape, None).run()


def _chain(
    graph: Graph, image_shape: Shape, normalization: Affine | None, skip_copies: int, *, by_halves: bool = False
) -> Chain:
    """Lower ``graph``, with max pooling ``by_halves`` only if its branches do not fit without."""
    lowering = _Lowering(graph, image_shape, normalization, by_halves)
    if found := lowering.run():
        found[0].others = found[1:]
        raise found[0]
    try:
        chain = to_chain(placed(lowering.populations, skip_copies), image_shape, tuple(lowering.notes))
    except UnsupportedModelError:
        if not by_halves:
            with contextlib.suppress(UnsupportedModelError):
                return _chain(graph, image_shape, normalization, skip_copies, by_halves=True)
        raise
    network = replace(chain.network, ending=lowering.ending, multiply_accumulates=graph.multiply_accumulates)
    return replace(chain, network=network)


def _graph(model: nn.Module, input_shape: Shape) -> Graph:
    require_weights(model)
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        return pooled_after_relu(read_graph(model, input_shape))
    finally:
        for module, mode in training.items():
            module.training = mode


@dataclass(eq=False)
class _Lowering:
    """Traverses a graph once and creates populations."""

    graph: Graph
    image_shape: Shape
    normalization: Affine | None
    by_halves: bool = False
    ending: str = ""

    def __post_init__(self) -> None:
        self.notes = list(self.graph.notes)
        self.populations = Populations(self.image_shape)
        self._max_pooling = MaxPooling(self.populations, self.by_halves)
        self._tensors: list[Tensor] = []
        self._users = self.graph.users
        # Vectors from which only linear maps lead to the output.
        self._is_head = [len(node.shape) == 1 for node in self.graph.nodes]
        linear = Add | Affine | Dense | Ending | Move
        for number, users in reversed(list(enumerate(self._users))):
            self._is_head[number] &= all(
                self._is_head[user] and isinstance(self.graph.nodes[user].operation, linear) for user in users
            )

    def run(self) -> tuple[UnsupportedModelError, ...]:
        """Create the populations, the output's last; return the obstacles."""
        if self.graph.obstacles:
            # After a place that could not be read, errors are unreliable.
            return self.graph.obstacles
        found: list[UnsupportedModelError] = []
        for number, node in enumerate(self.graph.nodes):
            try:
                with placed_at(node.name, node.kind):
                    tensor = self._lowered(number)
                    if len(self._users[number]) > 1 and not self._is_head[number] and not self._feeds_relus(number):
                        tensor = self._shared(tensor, node)
            except UnsupportedModelError as error:
                found.append(error)
                # Continue as if this output were known.
                tensor = self.populations.add(Population(node.name, Value(_as_map(node.shape), ())))
                tensor = tensor if len(node.shape) == 3 else (Features(tensor),)
            self._tensors.append(tensor)
        if not found:
            try:
                self._finish()
            except UnsupportedModelError as error:
                found.append(error)
        return tuple(found)

    def _lowered(self, number: int) -> Tensor:
        node = self.graph.nodes[number]
        if node.operation is None:
            image: Tensor = self.populations.image()
            return image if self.normalization is None else normalized(image, self.normalization)
        for before in node.inputs:
            source = self.graph.nodes[before]
            if isinstance(source.operation, Ending) and not _is_permutation(node, source):
                raise UnsupportedModelError(
                    f"follows a {source.kind}",
                    expected=f"supported: {source.kind} at the end",
                    hint=f"Choose classes before the {source.kind}." if isinstance(node.operation, Move) else "",
                )
        try:
            return self._of(number)
        except MustBeCarriedError:
            for before in node.inputs:
                self._tensors[before] = self._carried(self._tensors[before], self.graph.nodes[before].name)
            return self._of(number)

    def _of(self, number: int) -> Tensor:
        """The output of a node."""
        node = self.graph.nodes[number]
        operation, tensors = node.operation, [self._tensors[before] for before in node.inputs]
        tensor = tensors[0]
        if isinstance(operation, Relu | LeakyRelu):
            return activated(self.populations, tensor, operation, node.name)
        if isinstance(operation, Affine):
            return normalized(tensor, operation)
        if isinstance(operation, Add):
            return added(tensors, operation.factors)
        if isinstance(operation, Cat):
            return joined(tensors)
        if isinstance(operation, Move):
            return moved(tensor, operation)
        if isinstance(operation, Ending):
            if number != self.graph.output and not self._ends(number):
                raise UnsupportedModelError(
                    "is before other layers", expected=f"supported: {node.kind} at the end, ReLU before it"
                )
            self.notes.append(f"{node.name}: the {node.kind} at the end is dropped; it does not change the argmax.")
            self.ending = node.kind.lower().replace("_", "")
            return tensor
        if isinstance(operation, Dense) and not isinstance(tensor, Value):
            return (Features(connected(tensor, operation, node.name)),)
        if not isinstance(tensor, Value) or isinstance(operation, Dense):
            shape = self.graph.nodes[node.inputs[0]].shape
            raise UnsupportedModelError(
                f"is applied to a tensor of shape {shape}",
                expected="supported: convolutions and poolings of maps, dense layers of vectors",
            )
        if isinstance(operation, Conv):
            return convolved(tensor, operation, node.shape, node.name)
        assert isinstance(operation, AveragePool | MaxPool)
        shape = _as_map(node.shape)
        pooled = (
            averaged(tensor, operation, shape)
            if isinstance(operation, AveragePool)
            else self._max_pooling.largest(tensor, operation, shape, node.name)
        )
        if self._waits_for_a_maximum(number) and pooled.is_nonnegative:
            # Relays then carry the means, not every pixel, past the layers of the maximum.
            pooled = self.populations.carried(pooled, node.name)
        # A mean over height and width gives a vector.
        return pooled if shape == node.shape else (Features(pooled),)

    def _carried(self, tensor: Tensor, name: str) -> Tensor:
        if isinstance(tensor, Value):
            return self.populations.carried(tensor, tensor.name or name)
        return tuple(
            replace(part, value=self.populations.carried(part.value, part.value.name or name)) for part in tensor
        )

    def _shared(self, tensor: Tensor, node: Node) -> Tensor:
        """A value used by several layers gets populations of its own, unless it is already made of populations."""
        parts = (tensor,) if isinstance(tensor, Value) else tuple(part.value for part in tensor)
        return tensor if all(part.is_direct for part in parts) else self._carried(tensor, node.name)

    def _feeds_relus(self, number: int) -> bool:
        """Whether only ReLUs use it, possibly after a batch norm."""
        for user in self._users[number]:
            operation = self.graph.nodes[user].operation
            is_norm = isinstance(operation, Affine) and len(self._users[user]) == 1
            if not isinstance(operation, Relu | LeakyRelu) and not (is_norm and self._feeds_relus(user)):
                return False
        return True

    def _waits_for_a_maximum(self, number: int) -> bool:
        """Whether it is averages that are joined with the maxima of the same windows, which take more layers."""
        node = self.graph.nodes[number]
        if not isinstance(node.operation, AveragePool) or not self._is_joined(number):
            return False
        (before,) = node.inputs
        is_smaller = math.prod(node.shape) < math.prod(self.graph.nodes[before].shape)
        beside = (self.graph.nodes[user] for user in self._users[before])
        return is_smaller and any(
            isinstance(other.operation, MaxPool) and _as_map(other.shape) == _as_map(node.shape) for other in beside
        )

    def _is_joined(self, number: int) -> bool:
        """Whether it goes into nothing but sums and concatenations."""
        users = [(user, self.graph.nodes[user].operation) for user in self._users[number]]
        return bool(users) and all(
            isinstance(operation, Add | Cat) or (isinstance(operation, Move) and self._is_joined(user))
            for user, operation in users
        )

    def _ends(self, number: int) -> bool:
        """Whether only moves follow."""
        return all(
            isinstance(self.graph.nodes[user].operation, Move) and self._ends(user) for user in self._users[number]
        )

    def _finish(self) -> None:
        """Turn the output into a population without ReLU."""
        node, tensor = self.graph.nodes[self.graph.output], self._tensors[self.graph.output]
        value = tensor if isinstance(tensor, Value) else tensor[0].value
        whole = isinstance(tensor, Value) or (len(tensor) == 1 and tensor[0].is_vector)
        if not whole or value.size != (1, 1):
            raise UnsupportedModelError(
                f"the model ends here, with {node.shape}",
                where=node.name,
                expected="must end with one number per class",
                hint="End with a Linear layer, or with global average pooling.",
            )
        if len(value.terms) == 0:
            raise UnsupportedModelError(
                "the model ends here, with constants", where=node.name, expected="must depend on the image"
            )
        while isinstance(node.operation, Move | Ending):
            node = self.graph.nodes[node.inputs[0]]
        self.populations.add(Population(value.name or node.name, value))


def _is_permutation(node: Node, source: Node) -> bool:
    """Whether ``node`` keeps each number of ``source``, in any order."""
    return isinstance(node.operation, Move) and np.array_equal(
        np.sort(node.operation.index, axis=None), np.arange(math.prod(source.shape))
    )


def _as_map(shape: Shape) -> Shape:
    return shape if len(shape) == 3 else (shape[0], 1, 1)
