"""A CNN as a graph of operations in order of computation; all others are refused, with the layer and advice."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NoReturn

import numpy as np

from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.synapse import Conv, Dense

SUPPORTED: Final = (
    "Conv1d/2d, Linear, BatchNorm1d/2d, ReLU, ReLU6, LeakyReLU, PReLU, average and max pooling, +, -, cat, chunk, "
    "Flatten, Dropout, Identity, + - * / by constants, a last Softmax, Sigmoid or Tanh"
)

LARGEST_PADDING: Final = 1_000
"""Largest magnitude of a number to pad with: activations that are shifted by more would lose too many digits."""
PADDINGS: Final = f"numbers in -{LARGEST_PADDING:,}..{LARGEST_PADDING:,}"

BEFORE_QUANTIZATION: Final = "Convert the CNN as it was before its quantization."
PRODUCTS: Final = "Products of activations (attention, gates, x * sigmoid(x)) are not supported; train without them."
ONLY_LAST: Final = (
    "Train with ReLU. After the last layer, leave it out: the class of the largest output stays the same; to the "
    "outputs of a regression, apply it yourself."
)
_ADVICES: Final = (
    (
        BEFORE_QUANTIZATION,
        "quantize_per_tensor quantize_per_tensor_dynamic quantize_per_channel fused_moving_avg_obs_fake_quant "
        "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine",
    ),
    ("Convert the CNN as it was before its quantization, or use `fine_tune`.", "round floor ceil trunc"),
    ("Train with ReLU.", "GELU SiLU Mish Hardswish Hardtanh Hardshrink GLU pow square"),
    (ONLY_LAST, "ELU SELU CELU Softplus Sigmoid LogSigmoid Tanh Softsign exp expm1 atan arctan erf"),
    (
        "Leave it out, and return the scores of the classes: the class is that of the largest.",
        "argmax topk log normalize one_hot",
    ),
    (PRODUCTS, "matmul bmm einsum"),
    ("Train with BatchNorm2d, or without.", "GroupNorm LayerNorm InstanceNorm2d LocalResponseNorm"),
    (
        "Train without upsampling: where maps of several sizes meet, make the larger ones smaller, by a stride, "
        "pooling or x[:, :, ::2, ::2].",
        "ConvTranspose2d Upsample Interpolate PixelShuffle",
    ),
    ("Attention is not supported; train a convolutional network.", "MultiheadAttention scaled_dot_product_attention"),
    ("Recurrent layers are not supported; train a feed-forward network.", "RNN LSTM GRU"),
)
# The module LeakyReLU and the function leaky_relu get the same advice.
_ADVICE: Final = {kind.lower().replace("_", ""): advice for advice, kinds in _ADVICES for kind in kinds.split()}


@dataclass(frozen=True, eq=False)
class Affine:
    """``y = gain x + shift``, such as batch normalization at inference.

    ``gain`` and ``shift`` are float64 ``(C,)`` or, if they differ between pixels, ``(C, H, W)``: gains only until it is
    known whether the channels are last.
    """

    gain: Array
    shift: Array


@dataclass(frozen=True, eq=False)
class Relu:
    """``y = min(max(x, floor), ceiling)``, or `qcfs.Qcfs` with ``threshold``, float64 ``(C,)``, and ``levels``.

    A threshold without levels is that of neurons, as of a NIR file; the ceiling is then the same number.
    """

    threshold: Array | None = None
    levels: int | None = None
    ceiling: float = np.inf
    floor: float = 0.0


@dataclass(frozen=True)
class Rounding:
    """``floor(x)`` or ``round(x)``: an obstacle, unless a clipped ReLU of it follows, see `clipped_rounding`."""


@dataclass(frozen=True, eq=False)
class LeakyRelu:
    """``y = max(x, 0) - slope max(-x, 0)``; ``slope`` is float64 ``(C,)``, or ``(1,)`` for all channels."""

    slope: Array


@dataclass(frozen=True)
class AveragePool:
    """The sum over windows of ``kernel``, with padding as 0, times ``factor``."""

    kernel: Pair
    stride: Pair
    padding: Pair
    factor: float

    @property
    def tiles(self) -> bool:
        """Whether windows do not overlap, so that each pixel belongs to one window."""
        return self.stride == self.kernel and self.padding == (0, 0) and self.factor == 1 / np.prod(self.kernel)


@dataclass(frozen=True)
class MaxPool:
    """The largest value in each window of ``kernel``; padding is never the largest."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


@dataclass(frozen=True, eq=False)
class Move:
    """``y = x.ravel()[index]``, and 0 where ``index`` is -1; int64 of y's shape, without the batch axis."""

    index: Array


@dataclass(frozen=True)
class Add:
    """The sum of the inputs, each times its entry in ``factors``."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class Cat:
    """The inputs concatenated: their channels or, for vectors, their values."""


@dataclass(frozen=True)
class Ending:
    """A softmax, a sigmoid, their logarithms, or a tanh, which preserves the order of the outputs; only at the end.

    ``function`` is its name in lower case, without underscores; empty for what could not be read.
    """

    function: str = ""


Operation = Conv | Dense | Affine | Relu | LeakyRelu | AveragePool | MaxPool | Move | Add | Cat | Ending | Rounding


def refuse(why: str, *, supported: str = SUPPORTED, hint: str = "") -> NoReturn:
    """Raise an `UnsupportedModelError` about a layer, whose place and kind `placed_at` adds."""
    raise UnsupportedModelError(why, expected=f"supported: {supported}", hint=hint)


@contextlib.contextmanager
def placed_at(name: str, kind: str = "") -> Iterator[None]:
    """Add the layer to an error that does not say where it is: its ``name``, its ``kind``, and advice on that kind."""
    try:
        yield
    except UnsupportedModelError as error:
        if error.where:
            raise
        raise refusal(name, kind, error.found, error.expected, error.hint) from error


def refusal(name: str, kind: str, found: str, expected: str, hint: str = "") -> UnsupportedModelError:
    """Return an error about the layer ``name``, with advice on its ``kind`` unless there is a ``hint``."""
    hint = hint or _ADVICE.get(kind.lower().replace("_", ""), "")
    return UnsupportedModelError(f"{kind} {found}".lstrip(), where=name, expected=expected, hint=hint)


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


QuantizedRelu = tuple[int, Relu, float]
"""A rounded, clipped activation of quantization-aware training as QCFS: an earlier node, its activation, a factor.

Bu et al. (ICLR 2022) and LSQ train activations of L levels: ``floor(clamp(x / theta, 0, 1) L + 1/2) / L * theta`` and
``round(clamp(x / s, 0, L)) s``. Both are a factor times QCFS of one clamp, also if they are clipped after rounding, as
both bounds are levels. Neurons round up what lies halfway between two levels, `torch.round` takes the even one.
Weighted sums are hardly ever there, but pixels and earlier levels may often be: their ``round`` is refused.
"""

# Of the number of levels, and of the half that floor needs to round; of an offset, in levels.
_TOLERANCE: Final = 1e-4
# Of weights. With more, ties are rare.
_FRACTION_BITS: Final = 12


def rounded_relu(nodes: Sequence[Node], rounded: int, function: str) -> QuantizedRelu:
    """Return ``function``, ``floor`` or ``round``, of a node; refuse it unless that is a clipped ReLU, scaled."""
    *_, (gain, shift, number) = _scaled(nodes, rounded)
    if function == "round" and not _is_weighted(nodes, number):
        refuse(
            "rounds pixels or levels, which often lie halfway between two levels, to the even one",
            supported="round of weighted sums",
            hint="Use torch.floor(x + 0.5) instead of round.",
        )
    clipped = nodes[number].operation
    if not isinstance(clipped, Relu) or not _is_clipped(clipped):
        refuse(
            "rounds something else than a clipped ReLU",
            supported="floor(clamp(x, 0, 1) L + 0.5), round(clamp(x, 0, L)), or the clamp after rounding",
        )
    levels = clipped.ceiling * gain
    if not _is_whole(levels) or not _rounds_to_nearest(shift, function):
        refuse(
            f"rounds a clipped ReLU with {levels:g} levels and an offset of {shift:g}",
            supported="a whole number of levels, and 0.5 before floor",
        )
    (source,) = nodes[number].inputs
    return source, _qcfs(nodes[number], clipped.ceiling, levels), gain


def clipped_rounding(nodes: Sequence[Node], clip: Relu, clipped: int) -> QuantizedRelu | None:
    """Return ``clip`` of a node; None unless it is a clipped ReLU of numbers that were rounded, scaled."""
    *_, (factor, offset, number) = _scaled(nodes, clipped)
    rounding = nodes[number]
    if not isinstance(rounding.operation, Rounding) or factor <= 0 or abs(offset) > _TOLERANCE * factor:
        return None
    levels = clip.ceiling / factor
    # Affine operations before these, such as batch norm of one channel, are not part of the activation.
    scaled = [
        (gain, shift, source)
        for gain, shift, source in _scaled(nodes, rounding.inputs[0])
        if gain > 0 and _rounds_to_nearest(shift, rounding.kind)
    ]
    if not scaled or not _is_whole(levels):
        return None
    gain, _, source = scaled[-1]
    if rounding.kind == "round" and not _is_weighted(nodes, source):
        return None
    inner = nodes[source].operation
    if isinstance(inner, Relu) and inner.threshold is None and (inner.floor, inner.ceiling) == (0, np.inf):
        # Rounded numbers of a ReLU need no lower bound.
        clip, (source,) = replace(clip, floor=max(clip.floor, 0)), nodes[source].inputs
    return (source, _qcfs(rounding, levels / gain, levels), factor * gain) if _is_clipped(clip) else None


def _scaled(nodes: Sequence[Node], number: int) -> Iterator[tuple[float, float, int]]:
    """Each gain, shift and x of a node that is ``gain x + shift``, with one number each; the earliest x last."""
    gain, shift = 1.0, 0.0
    yield gain, shift, number
    while isinstance(affine := nodes[number].operation, Affine):
        if len(np.unique(affine.gain)) > 1 or len(np.unique(affine.shift)) > 1:
            break
        gain, shift = gain * float(affine.gain.flat[0]), shift + gain * float(affine.shift.flat[0])
        (number,) = nodes[number].inputs
        yield gain, shift, number


def _is_weighted(nodes: Sequence[Node], number: int) -> bool:
    """Whether a node holds weighted sums, which hardly ever lie halfway between levels.

    Weights of few fraction bits are not, since their sums are as regular as pixels and levels.
    """
    operation, inputs = nodes[number].operation, nodes[number].inputs
    if isinstance(operation, Conv | Dense):
        mantissas = operation.weight * 2**_FRACTION_BITS
        return not np.array_equal(mantissas, np.round(mantissas))
    if operation is None or (isinstance(operation, Relu) and operation.levels is not None):
        return False
    return (any if isinstance(operation, Add) else all)(_is_weighted(nodes, each) for each in {*inputs})


def _is_clipped(relu: Relu) -> bool:
    return relu.threshold is None and relu.floor == 0 and math.isfinite(relu.ceiling)


def _is_whole(levels: float) -> bool:
    return 0.5 <= levels < math.inf and abs(levels - round(levels)) <= _TOLERANCE * levels


def _rounds_to_nearest(shift: float, function: str) -> bool:
    return abs(shift - (0.5 if function == "floor" else 0.0)) <= _TOLERANCE


def _qcfs(node: Node, threshold: float, levels: float) -> Relu:
    return Relu(np.full(node.shape[0], threshold), round(levels))
