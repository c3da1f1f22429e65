"""nn.Module -> `Graph`: the model runs once, and each ATen operation that it takes becomes a part of the graph.

There are four kinds of operations:

1. *Movement* (view, slice, permute, cat, gather, ...) is carried out on the positions of the numbers.
2. *Elementwise* (relu, clamp, ``x * (x > 0)``, ``where``, + - * / by constants) is evaluated at a few points, and
   fitted as affine, a clamp or a leaky ReLU (`values.fitted`). A function that is none of these may be part of one
   that is.
3. *Computing* (convolution, dense layers, pooling, sums) has an entry in `computing.COMPUTING`.
4. Everything else is an obstacle. Reading continues after it, so that all of them are found at once.

Operations that have an entry in `values.SIMPLER` are recorded as others. Whether a reading is right is decided by
comparing the outputs (`pipeline.converting.require_same_outputs`); nothing here guards it a second time.
"""

from __future__ import annotations

import contextlib
import math
import sys
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loihi_convert.cnn.design import scores_name, scores_of
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.reading.computing import COMPUTING, require_two_alike
from loihi_convert.reading.graph import (
    PRODUCTS,
    SUPPORTED,
    Add,
    Affine,
    Cat,
    Ending,
    Graph,
    LeakyRelu,
    Move,
    Node,
    Operation,
    Relu,
    clipped_once,
    clipped_rounding,
    left_by_sum,
    placed_at,
    pruned,
    refuse,
)
from loihi_convert.reading.recording import Call, Place, Recorder, is_printed, plain_tensor
from loihi_convert.reading.users_code import (
    dtype_of,
    require_not_of_machine,
    require_not_random,
    shape_taken,
    told,
    users_code,
    users_line,
)
from loihi_convert.reading.values import (
    IMAGES,
    POINTS,
    Fitted,
    Lost,
    Value,
    counted,
    evaluated,
    fitted,
    leaves,
    map_shape,
    mapped,
    per_channel,
    places,
)

MOST_NODES: Final = 20_000
"""Most operations of a model: each takes memory, and half a millisecond."""

_MOST_RUNS: Final = 64
"""Most runs of channels that are joined as such."""

_SAME: Final = frozenset(["clone", "detach", "lift_fresh", "lift", "alias", "contiguous"])
"""Operations that return what they take."""

_SHAPED: Final = frozenset(
    name for made in ("zeros", "ones", "full", "empty") for name in (f"{made}_like", f"new_{made}")
)
"""Operations that take only the shape and type of a tensor."""

_IN_ORDER: Final = frozenset(["view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze"])
"""Movements that keep the numbers in order."""

# fmt: off
_MOVES: Final = _IN_ORDER | frozenset(
    [
        "permute", "transpose", "t", "slice", "select", "expand", "flip", "index", "index_select", "gather", "split",
        "split_with_sizes", "chunk", "unbind", "unfold", "constant_pad_nd", "repeat", "roll", "diagonal", "stack",
        "cat", "slice_scatter", "select_scatter", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
        "native_channel_shuffle", "index_put", "copy", "take", "rot90",
    ]
)
# fmt: on

_INDICES: Final = {"index": 1, "index_put": 1, "index_select": 2, "gather": 2, "take": 1}
"""Movements by indices: which argument these are."""

_ASKED: Final = frozenset(["_local_scalar_dense", "is_nonzero", "equal"])
"""Operations by which Python learns a number."""

_KEPT_PROBES: Final = 4
"""Most nodes of which a value is kept as a function."""


# In inference mode PyTorch does not take operations apart.
@torch.inference_mode(False)
@torch.no_grad()
def read_graph(model: nn.Module, input_shape: Shape) -> Graph:
    """Return the operations of ``model``, which must be in eval mode, for images ``(C, H, W)``.

    For a model that takes signals ``(C, L)``, ``input_shape`` is ``(C, 1, L)``.

    Raises
    ------
    UnsupportedModelError
        If its forward fails while it is recorded, reads numbers of the image, or does not return one tensor.
    InputError
        If it does not accept images of ``input_shape``.
    MemoryError, OSError, RuntimeError
        If memory or disk space ran out, unchanged: the model may be supported.
    """
    shape = shape_taken(model, input_shape)
    images = torch.rand(IMAGES, *shape, dtype=dtype_of(model), generator=torch.Generator().manual_seed(0))
    reader = Reader(type(model).__name__, input_shape, images)
    try:
        returned = reader.run(model, images)
    except UnsupportedModelError:
        raise
    # The user's forward may raise any exception.
    except Exception as error:
        require_not_of_machine(error)
        raise UnsupportedModelError(
            f"its forward cannot be recorded ({told(error)})",
            where=type(model).__name__,
            expected=f"supported: {SUPPORTED}, without control flow that depends on data",
        ) from error
    graph = reader.graph(*returned)
    if not graph.obstacles:
        require_not_random(model, images)
    return graph


@contextlib.contextmanager
def _functional(model: nn.Module) -> Iterator[None]:
    """Let changes in place change no memory; give ``model`` its own buffers back at the end."""
    kept = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}
    for buffers, own in kept:
        for name, tensor in own.items():
            if tensor is not None:
                copy = tensor.clone() if tensor.is_inference() else tensor
                buffers[name] = copies.setdefault(id(tensor), torch._to_functional_tensor(copy))
    torch._enable_functionalization(reapply_views=True)
    try:
        yield
    finally:
        torch._disable_functionalization()  # type: ignore[no-untyped-call]
        for buffers, own in kept:
            buffers.clear()
            buffers.update(own)


class Reader:
    """Builds a `Graph` from operations in order.

    Parameters
    ----------
    name
        Of the model, for messages.
    shape
        ``(C, H, W)`` of the image.
    images
        The images that the model is run on.
    """

    def __init__(self, name: str, shape: Shape, images: Tensor) -> None:
        self.nodes = [Node("the image", "image", None, (), shape)]
        self._name, self._images = name, images
        # How many numbers the nodes before each have, of all images.
        self._starts = [0]
        self._values: MutableMapping[Tensor, Value | Lost] = WeakTensorKeyDictionary()
        self._values[images] = Value(images.shape, 0)
        self._recorder = Recorder(self)
        self.place = Place("", "", "", 0)
        # The obstacle of a call of a module, of which one is told.
        self._refused: dict[int, int] = {}

    def run(self, model: nn.Module, images: Tensor) -> tuple[Any, Any]:
        """Record ``model``; return what it returns, and the value of its scores."""

        def forward() -> Any:
            return model(torch._to_functional_tensor(images))

        # It was imported if there is something compiled.
        if (dynamo := sys.modules.get("torch._dynamo")) is not None:
            forward = dynamo.disable(forward)
        with users_code(), self._recorder.watching(model), _functional(model), self._recorder:
            returned = forward()
            return returned, self.of(plain_tensor(scores_of(returned)))

    def graph(self, returned: Any, found: Any) -> Graph:
        """Return the graph of what the output needs: ``found``, of all that is ``returned``."""
        if isinstance(found, Lost):
            return pruned(self.nodes, (found.node,))
        if not isinstance(found, Value):
            raise UnsupportedModelError(
                "its output does not depend on the image"
                if isinstance(found, Tensor)
                else f"its forward returns a {type(returned).__name__}, not one tensor",
                where=self._name,
                expected="must return one tensor, of class scores or all outputs of a regression",
            )
        node = self.nodes[self.plain(found).node or 0]
        self.place = Place(node.name, node.kind, "", 0)
        with placed_at(node.name, node.kind):
            value, notes = self._as_output(found)
            if (entry := scores_name(returned)) is not None:
                notes = (f"the entry {entry!r} of what its forward returns is used.", *notes)
            return pruned(self.nodes, (self.number(value),), notes)

    def _as_output(self, output: Value) -> tuple[Value, tuple[str, ...]]:
        """The output of a vector as a vector, and a note if it has several axes; others as they are."""
        number = self.number(output) if output.node is None else output.node
        base, shape = self.nodes[number].shape, tuple(output.shape[1:])
        if len(shape) < 2 or map_shape(output.shape) == base or math.prod(base) > base[0]:
            return output, ()
        notes = list[str]()
        if math.prod(shape) > max(shape):
            if output.positions is not None:
                refuse(f"gives an output of shape {shape}", supported="a vector")
            notes = [f"the output of shape {shape} is taken as a vector of {math.prod(shape)} numbers."]
        positions = None if output.positions is None else output.positions.flatten(1)
        return Value(torch.Size((output.shape[0], math.prod(shape))), number, positions), tuple(notes)

    # What the recorder reports.

    def depends(self, tree: Any) -> bool:
        """Return whether some tensor in ``tree`` depends on the image."""
        return any(isinstance(each, Value | Lost) for each in leaves(self.of(tree)))

    def of(self, tree: Any) -> Any:
        """Return ``tree`` with values in place of the tensors that depend on the image."""
        return mapped(lambda each: self._values.get(each, each) if isinstance(each, Tensor) else each, tree)

    def take(self, call: Call) -> None:
        """Read the next operation."""
        given = leaves(self.of((call.args, call.kwargs)))
        taken = [each for each in given if isinstance(each, Value)]
        lost = [each.node for each in given if isinstance(each, Lost)]
        if not (taken or lost or call.is_random) or call.name in _SHAPED:
            return
        if call.name in _ASKED and (taken or lost):
            self.asked()
            return
        after = max(taken, key=lambda each: each.node or 0).after if taken else ""
        place = self.place = self._recorder.place(call, after)
        if lost or place.call in self._refused:
            self._lose(call, taken, lost, None)
            return
        try:
            with place.named():
                if call.obstacle is not None:
                    raise call.obstacle
                result = leaves(self._read(call, taken))
                if len(self.nodes) > MOST_NODES:
                    refuse(f"is operation {MOST_NODES:,}", supported="smaller networks")
        except UnsupportedModelError as obstacle:
            self._lose(call, taken, lost, obstacle)
            return
        outputs = [each for each in leaves(call.out) if isinstance(each, Tensor)]
        for tensor, value in zip(outputs, result, strict=False):
            if isinstance(value, Value):
                value.after = place.module or after
                self._values[tensor] = value
        # Such as the indices of a maximum.
        others = [each for each in outputs[len(result) :] if each.numel()]
        if others:
            number = self._obstructed(taken, [], place.error("has no spiking equivalent here: it gives indices"), (1,))
            for tensor in others:
                self._values[tensor] = Lost(number)

    def asked(self) -> None:
        """Refuse to tell a number of the image, unless it is only printed."""
        if is_printed():
            return
        line = users_line(traceback.walk_stack(None))
        raise UnsupportedModelError(
            "its forward reads numbers of the image, or branches on them" + (f" ({line})" if line else ""),
            where=self._name,
            expected="must do the same computation for every image",
        )

    def _lose(
        self, call: Call, taken: Sequence[Value], lost: Sequence[int], obstacle: UnsupportedModelError | None
    ) -> None:
        """Continue after an obstacle as if its output were known."""
        before = [self._refused[self.place.call]] if self.place.call in self._refused else lost
        is_refused = obstacle is not None and self.place.module != ""
        for tensor in leaves(call.out):
            if not isinstance(tensor, Tensor):
                continue
            is_known = tensor.shape[:1] == (IMAGES,) and tensor.is_floating_point()
            shape = map_shape(tensor.shape) if is_known else (1,)
            number = self._obstructed(taken, before, obstacle, shape)
            obstacle, before = None, [number]
            self._values[tensor] = Value(tensor.shape, number, after=self.place.module) if is_known else Lost(number)
            if is_refused:
                self._refused[self.place.call] = number

    def _obstructed(
        self, taken: Sequence[Value], lost: Sequence[int], obstacle: UnsupportedModelError | None, shape: Shape
    ) -> int:
        """Add a node that cannot be read; return its index."""
        inputs = dict.fromkeys([*lost, *(node for each in taken for node in self._nodes_of(each))])
        return self._append(Ending(), tuple(inputs), shape, obstacle)

    # The kinds of operations.

    def _read(self, call: Call, taken: list[Value]) -> Any:
        if call.is_random:
            refuse(
                "is not switched off in eval mode: it draws random numbers",
                supported="the same outputs for the same images at each call",
                hint="Make random numbers only if self.training; pass training=self.training.",
            )
        if call.whole is not None:
            threshold = None if call.whole.threshold is None else np.broadcast_to(call.whole.threshold, call.shape[1])
            return self.add(replace(call.whole, threshold=threshold), (self.number(taken[0]),), call.shape)
        if call.name in _SAME or (call.name == "_to_copy" and taken[0].unfit is None and self._keeps_numbers(call)):
            return replace(taken[0])
        is_elementwise = call.is_elementwise or self._assigns_where(call)
        if (call.name in COMPUTING or is_elementwise) and not all(each.shape.numel() for each in taken):
            refuse("takes an empty tensor", supported="tensors that hold numbers")
        if call.name in COMPUTING:
            return COMPUTING[call.name](self, call)
        if is_elementwise:
            return self._elementwise(call, taken)
        if call.name in _MOVES:
            return self.moved(call, taken)
        return refuse("has no spiking equivalent here")

    def _keeps_numbers(self, call: Call) -> bool:
        if not call.out.is_floating_point() and call.out.dtype != torch.bool:
            refuse(f"casts to {call.out.dtype}", supported="floating point")
        return bool(call.out.is_floating_point())

    def _assigns_where(self, call: Call) -> bool:
        """Whether one number is assigned where a condition on the image holds, as in ``x[x < 0] = 0``."""
        if call.name != "index_put":
            return False
        indices, values = self.of(call.args[1]), call.args[2]
        return (
            len(indices) == 1
            and isinstance(indices[0], Value)
            and indices[0].shape == call.shape
            and values.numel() == 1
        )

    def _elementwise(self, call: Call, taken: list[Value]) -> Value | None:
        shape = call.shape
        if call.name in ("add", "sub") and len(taken) == 2 and all(each.unfit is None for each in taken):
            factor = float(call.kwargs.get("alpha", 1))
            return self.total(shape, taken, (1.0, factor if call.name == "add" else -factor))
        taken = [self.expanded(each, shape) for each in taken]
        for each in taken:
            if each.node is None:
                self.number(each)
        first, *others = taken
        probes = self._probes(call, taken)
        for root, values in probes.items():
            if values.dtype == torch.bool:
                # Such as isnan(x).
                if bool((values == values[:1]).all()):
                    return None
            elif (operation := fitted(values)) is not None:
                value = self._done(operation, root, first, shape)
                value.probes = dict(list(probes.items())[:_KEPT_PROBES])
                return value
        unfit = self.place.error(*_product(call)) if others else self.place.error("has no spiking equivalent here")
        return Value(shape, next(iter(probes)), first.positions, probes, unfit)

    def _probes(self, call: Call, taken: list[Value]) -> dict[int, Tensor]:
        """The function that ``call`` is of the numbers of each node that all of ``taken`` have in common."""
        first, *others = taken
        roots = [root for root in first.roots if all(root in each.roots for each in others)]
        if not roots or not all(self._are_alike(first, each) for each in others):
            for each in taken:
                self.plain(each)
            found, hint = _product(call)
            refuse(found, hint=hint)
        args, kwargs = self.given(call, taken)
        points = POINTS.reshape(-1, *(1,) * (len(call.shape) - 1))

        def probed(root: int) -> Tensor:
            found: Tensor = evaluated(call, args, kwargs, lambda value: value.probes.get(root, points), is_probe=True)
            return found

        return {root: probed(root) for root in roots}

    def _are_alike(self, one: Value, other: Value) -> bool:
        """Whether two values of one node have its numbers at the same places."""
        return one.positions is other.positions or torch.equal(self.positions(one), self.positions(other))

    def affine(self, gain: Array, shift: Array, value: Value) -> Value:
        """Return ``gain value + shift``, whose arrays are broadcastable to one image of the value."""
        value = self.plain(value)
        if value.node is None:
            self.number(value)
        assert value.node is not None
        return self._done(Affine(gain, shift), value.node, value, value.shape)

    def _done(self, operation: Fitted, root: int, like: Value, shape: torch.Size) -> Value:
        """``operation`` of the numbers of the node ``root``, which are placed as those of ``like``."""
        source = Value(shape, root, like.positions)
        order = self.order(source)
        on_map = order is not None and not isinstance(operation, LeakyRelu)
        if isinstance(operation, Affine):
            maps = (self.nodes[root].shape, order) if order is not None else None
            # A factor per position of flattened maps is one per channel of the vector.
            on_map = on_map and per_channel(operation.gain, shape, maps).ndim == 1
            maps = maps if on_map else None
            operation = Affine(per_channel(operation.gain, shape, maps), per_channel(operation.shift, shape, maps))
            if operation.gain.ndim > 1:
                refuse(
                    "has a factor that differs between pixels",
                    supported="one factor per channel; + and - of any constants",
                )
        elif isinstance(operation, LeakyRelu):
            slope = operation.slope
            operation = LeakyRelu(slope.reshape(1) if slope.size == 1 else per_channel(slope, shape))
        if on_map:
            return self.add(operation, (root,), shape, self.nodes[root].shape, self.positions(source))
        return self.add(operation, (self.number(source),), shape)

    def order(self, value: Value) -> Array | None:
        """Return the place in its node of each number of an image if these are all, in another shape or order."""
        assert value.node is not None
        base = self.nodes[value.node].shape
        is_shaped = map_shape(value.shape) == base
        if value.positions is None:
            return None if is_shaped else np.arange(math.prod(base))
        index = places(value.positions, math.prod(base))
        every = np.arange(math.prod(base))
        if index is None or index.size != every.size or not np.array_equal(np.sort(index, axis=None), every):
            return None
        return None if is_shaped and np.array_equal(index.ravel(), every) else index

    def total(self, shape: torch.Size, values: Sequence[Value], factors: tuple[float, ...]) -> Value:
        """Return the sum of ``values``, each times its factor."""
        require_two_alike(shape, [each.shape for each in values])
        first, *others = values
        bases = [None if each.node is None else self.nodes[each.node].shape for each in values]
        if first.node is not None and all(each.shape == shape for each in values) and len(set(bases)) == 1:
            is_other = self.order(first) is not None
            if is_other and all(self._are_alike(first, each) for each in others):
                nodes = tuple(each.node for each in values if each.node is not None)
                return self.add(Add(factors), nodes, shape, bases[0], self.positions(first))
        return self.add(Add(factors), tuple(self.number(self.expanded(each, shape)) for each in values), shape)

    def moved(self, call: Call, taken: list[Value]) -> Any:
        """Carried out on positions; constants that it brings in are added."""
        first = self.plain(taken[0])
        if call.name in _IN_ORDER and first.positions is None and first.node is not None:
            return Value(call.shape, first.node)
        if not call.shape.numel() and call.name in ("cat", "stack"):
            refuse("joins empty tensors")
        at = _INDICES.get(call.name)
        if at is not None and any(isinstance(each, Value) for each in leaves(self.of(call.args[at]))):
            refuse("takes indices that depend on the image")
        taken = [self.plain(each) for each in taken]
        args, kwargs = self.given(call, taken)
        if call.name == "cat" and (joined := self._joined_channels(call, args)) is not None:
            return joined
        nodes = {each.node for each in taken}
        only = nodes.pop() if len(nodes) == 1 else None
        numbers = self._everywhere if only is None else self.positions
        found = leaves(evaluated(call, args, kwargs, numbers, constants=torch.zeros_like))
        given = [each for each in leaves((args, kwargs)) if isinstance(each, Tensor) and each.is_floating_point()]
        if not any(bool(each.any()) for each in given):
            return [self.placed(each, only) for each in found]
        shifts = leaves(evaluated(call, args, kwargs, lambda each: torch.zeros(each.shape, dtype=torch.float64)))
        return [self._shifted(self.placed(each, only), shift) for each, shift in zip(found, shifts, strict=True)]

    def _joined_channels(self, call: Call, args: Any) -> Value | None:
        """Several tensors as a `Cat`; None if some are constants, all are parts of one node, or axes are others."""
        axis = (*args[1:], 0)[0] % call.out.ndim
        if axis == 0 and args[0][0].shape[:1] == (IMAGES,):
            refuse("runs along axis 0", supported="the channel axis, 1, height and width")
        parts = [each for each in args[0] if not isinstance(each, Tensor) or each.numel()]
        parts = [each for each in parts if not isinstance(each, Value) or each.shape.numel()]
        is_several = len({each.node if isinstance(each, Value) else -1 for each in parts}) > 1
        if axis != 1 or call.out.ndim > 4 or not is_several or not all(isinstance(each, Value) for each in parts):
            return None
        return self.add(Cat(), tuple(self.number(each) for each in parts), call.shape)

    def _shifted(self, value: Value, shift: Tensor) -> Value:
        if not bool(shift.any()):
            return value
        if not torch.equal(shift[:1].expand_as(shift), shift):
            refuse("joins constants that differ between images", supported="the same for all images")
        return self.affine(np.ones((1,) * (shift.ndim - 1)), shift[0].numpy(), Value(value.shape, self.number(value)))

    def given(self, call: Call, taken: Sequence[Value]) -> Any:
        """Return the arguments of ``call``, with the values ``taken``."""
        waiting = list(taken)
        arguments = self.of((call.args, call.kwargs))
        return mapped(lambda each: waiting.pop(0) if isinstance(each, Value) else each, arguments)

    # Values and nodes.

    def add(
        self,
        operation: Operation,
        inputs: tuple[int, ...],
        shape: torch.Size,
        maps: Shape | None = None,
        positions: Tensor | None = None,
        obstacle: UnsupportedModelError | None = None,
    ) -> Value:
        """Add a node of shape ``maps``; return its numbers as a tensor of ``shape``, at ``positions``."""
        maps = map_shape(shape) if maps is None else maps
        if isinstance(operation, Relu):
            operation, inputs = clipped_once(operation, inputs, self.nodes)
            if (quantized := clipped_rounding(self.nodes, operation, inputs[0])) is not None:
                return self.quantized(*quantized, shape)
        elif isinstance(operation, Add) and (left := left_by_sum(operation, inputs, self.nodes)) is not None:
            one = np.ones(self.nodes[left].shape[0])
            operation, inputs = Affine(one, 0 * one), (left,)
        return Value(torch.Size(shape), self._append(operation, inputs, maps, obstacle), positions)

    def quantized(self, source: int, relu: Relu, factor: float, shape: torch.Size) -> Value:
        """Add ``factor`` times ``relu`` of the node ``source``."""
        maps = self.nodes[source].shape
        gain = np.full(maps[0], factor)
        return Value(shape, self._append(Affine(gain, 0 * gain), (self._append(relu, (source,), maps),), maps))

    def _append(
        self,
        operation: Operation,
        inputs: tuple[int, ...],
        shape: Shape,
        obstacle: UnsupportedModelError | None = None,
    ) -> int:
        self._starts.append(self._starts[-1] + IMAGES * math.prod(self.nodes[-1].shape))
        self.nodes.append(Node(self.place.name, self.place.kind, operation, inputs, shape, obstacle))
        return len(self.nodes) - 1

    def plain(self, value: Value) -> Value:
        """Return ``value`` as numbers of nodes, of an obstacle's if its function is no operation."""
        if value.unfit is not None:
            node = self._append(Ending(), tuple(value.roots[:1]), map_shape(value.shape), value.unfit)
            value.node, value.positions, value.probes, value.unfit = node, None, {}, None
        return value

    def positions(self, value: Value) -> Tensor:
        """Return the positions of its numbers in its node or, of several, over all."""
        return counted(value.shape) if value.positions is None else value.positions

    def _everywhere(self, value: Value) -> Tensor:
        """The positions of its numbers over all nodes."""
        positions = self.positions(value)
        return positions if value.node is None else torch.where(positions > 0, positions + self._starts[value.node], 0)

    def placed(self, positions: Tensor, node: int | None) -> Value:
        """Return the numbers at ``positions`` of a node or, if that is None, of all."""
        if node is None and len(used := self._nodes_at(positions)) <= 1:
            # Zeros are of the image.
            (node,) = used or [0]
            positions = torch.where(positions > 0, positions - self._starts[node], 0)
        is_all = node is not None and positions.numel() == IMAGES * math.prod(self.nodes[node].shape)
        if is_all and torch.equal(positions.flatten(), counted((positions.numel(),))):
            return Value(positions.shape, node)
        return Value(positions.shape, node, positions)

    def _nodes_at(self, positions: Tensor) -> list[int]:
        found = np.unique(np.searchsorted(self._starts, positions.flatten().numpy(), side="left") - 1)
        return [int(each) for each in found if each >= 0]

    def _nodes_of(self, value: Value) -> list[int]:
        return self._nodes_at(self.positions(value)) if value.node is None else [value.node]

    def expanded(self, value: Value, shape: torch.Size) -> Value:
        """Return ``value`` repeated to ``shape``."""
        return (
            value if value.shape == shape else Value(shape, self.plain(value).node, self.positions(value).expand(shape))
        )

    def number(self, value: Value) -> int:
        """Return the index of the node whose numbers ``value`` is, in order; a new one if they are rearranged."""
        value = self.plain(value)
        if value.node is None:
            value.node, value.positions = self._joined(value), None
        base, after = self.nodes[value.node].shape, map_shape(value.shape)
        if value.positions is None and after == base:
            return value.node
        index = places(self.positions(value), math.prod(base))
        if index is None:
            refuse(
                "mixes images: its first axis is not the batch axis",
                hint="Keep the batch axis first, as in x.flatten(1). A Linear along the last axis needs no view.",
            )
        if len(after) not in (1, 3):
            refuse(f"is applied to a tensor of shape {after}", supported="(C, H, W)")
        index = index.reshape(after)
        if after == base and np.array_equal(index.ravel(), np.arange(index.size)):
            return value.node
        value.node, value.positions, value.probes = self._append(Move(index), (value.node,), after), None, {}
        return value.node

    def _joined(self, value: Value) -> int:
        """Numbers of several nodes: runs of channels side by side, or all in their places beside zeros, added."""
        positions = self.positions(value)
        if positions.ndim in (2, 3, 4):
            channels = [self._nodes_at(channel) for channel in positions.unbind(1)]
            starts, current = [0], list[int]()
            for k, nodes in enumerate(channels):
                # Zeros belong to either run beside them.
                if nodes and current and nodes != current:
                    starts.append(k)
                current = nodes or current
            if max(map(len, channels)) == 1 and len(starts) <= _MOST_RUNS:
                parts = positions.tensor_split(starts[1:], 1)
                joined = tuple(self.number(self.placed(each.contiguous(), None)) for each in parts)
                return self._append(Cat(), joined, map_shape(value.shape))
        numbers = []
        for node in self._nodes_at(positions):
            start, end = self._starts[node], self._starts[node] + IMAGES * math.prod(self.nodes[node].shape)
            own = torch.where((positions > start) & (positions <= end), positions - start, 0)
            numbers.append(self.number(Value(value.shape, node, own)))
        return self._append(Add((1.0,) * len(numbers)), tuple(numbers), map_shape(value.shape))


def _product(call: Call) -> tuple[str, str]:
    """Why two tensors are not combined, and what to do."""
    return "of two tensors has no spiking equivalent here", PRODUCTS if call.name == "mul" else ""
