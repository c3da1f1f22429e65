"""Max pooling, by ReLUs: max(a, b) = b + relu(a - b).

Requires: any map. Beyond the border of one that is never negative, zeros are correct.
Ensures: the same values, by a tournament: in each round the pixels of a window are compared in pairs, first along rows,
then along columns. A round is one layer; a window of k pixels along one axis takes ceil(log2 k) rounds.

Windows that reach beyond the border of a map that may be negative are those of the map minus its lower bound
(`Populations.bounds`), which is never negative. The bound ends in biases at the border: there the pixel beyond it loses
against one within, and its neuron stays silent.

The maximum of floats is exact. For spike trains it is the maximum of the spikes so far, so some windows may end with a
different count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loihi_convert.ground.arrays import Pair, Shape
from loihi_convert.lowering.operations import through
from loihi_convert.lowering.value import MustBeCarriedError, Population, Populations, Value, shifted, summed
from loihi_convert.lowering.window import Window
from loihi_convert.reading.graph import LARGEST_PADDING, Affine, Graph, MaxPool, Node, Relu, refuse


def largest(populations: Populations, value: Value, pool: MaxPool, shape: Shape, name: str) -> Value:
    """Return ``value`` after ``pool``, of ``shape``, by ReLUs that are added to ``populations``.

    Raises
    ------
    UnsupportedModelError
        If windows reach beyond the border of values that may be very negative.
    MustBeCarriedError
        If a pixel of ``value`` depends on several pixels of populations.
    """
    if not value.is_direct:
        raise MustBeCarriedError
    size = (shape[1], shape[2])
    is_signed = not value.is_nonnegative and _reads_beyond(pool, value.size, size)
    if is_signed:
        low = populations.bounds(value)[0]
        if not low.min() >= -LARGEST_PADDING:
            refuse(
                f"reads beyond the border of values that may be as low as {low.min():.3g}",
                supported=f"at least -{LARGEST_PADDING:,}; any after a ReLU, before one, or without padding and "
                "ceil_mode",
            )
        value = shifted(value, -low)

    def along(x: Value, axis: int, size: Pair, called: str) -> Value:
        """The maximum along columns (0) or rows (1), of ``size``."""
        kernel, pad = pool.kernel[axis], pool.padding[axis]
        if kernel == 1 and pool.stride[axis] == 1 and pad == 0:
            return x
        stride = (1, pool.stride[1]) if axis else (pool.stride[0], 1)
        players = []
        for place in range(kernel):
            offset = pad - place * pool.dilation[axis]
            padding = (0, offset) if axis else (offset, 0)
            players.append(through(x, Window.identity(x.shape[0], size, stride, padding)))
        while len(players) > 1:
            winners = []
            for a, b in zip(players[::2], players[1::2], strict=False):
                one, other = _outer_first((a, b)) if is_signed else (a, b)
                gap = populations.add(Population(called, summed((one, other), (1.0, -1.0))))
                winners.append(summed((gap, other), (1.0, 1.0)))
            players = [*winners, *players[len(winners) * 2 :]]
        return players[0]

    rows = along(value, 1, (value.shape[1], size[1]), f"{name} (rows)")
    found = along(rows, 0, size, f"{name} (columns)")
    return _plain(shifted(found, low)) if is_signed else found


def _outer_first(pair: tuple[Value, Value]) -> tuple[Value, Value]:
    """The values, first the one that reads more pixels beyond the border, which are 0 and not shifted."""
    a, b = (each.map_of_constant().sum() for each in pair)
    return pair if a <= b else pair[::-1]


def _plain(value: Value) -> Value:
    """The same, with one constant for each channel instead of a constant map, or none, if it is the same."""
    constant = value.map_of_constant()
    if (constant != constant[:, :1, :1]).any():
        return value
    return replace(value, constant=constant[:, 0, 0] if constant.any() else None)


def _reads_beyond(pool: MaxPool, before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a window reaches beyond the map: by padding or, with ceil_mode, at its end."""
    sides = zip(after, pool.stride, pool.padding, pool.dilation, pool.kernel, before, strict=True)
    return any(pad > 0 or (n - 1) * step + gap * (k - 1) >= extent for n, step, pad, gap, k, extent in sides)


def pooled_after_relu(graph: Graph) -> Graph:
    """Return ``graph`` with each max pooling that directly precedes its only ReLU moved after it.

    The result is the same: a ReLU, and a batch norm of positive gain before it, preserve the order of numbers. After
    the ReLU values are never negative.
    """
    nodes, users = list(graph.nodes), graph.users
    # From the last, so that all of several consecutive ones move.
    for number, node in reversed(list(enumerate(graph.nodes))):
        if not isinstance(node.operation, MaxPool):
            continue
        following = _monotone(nodes, users, number)
        if following and isinstance(nodes[following[-1]].operation, Relu):
            shape = nodes[node.inputs[0]].shape
            places = [number, *following]
            moved_up = [replace(nodes[each], shape=shape) for each in following]
            for place, each, before in zip(places, moved_up, [node.inputs[0], *places], strict=False):
                nodes[place] = replace(each, inputs=(before,))
            nodes[places[-1]] = replace(node, inputs=(places[-2],))
    return replace(graph, nodes=tuple(nodes))


def _monotone(nodes: Sequence[Node], users: Sequence[Sequence[int]], number: int) -> list[int]:
    """The operations after a node, each the only user of the one before, up to a ReLU; empty without a ReLU."""
    found: list[int] = []
    while len(users[number]) == 1:
        (number,) = users[number]
        operation = nodes[number].operation
        found.append(number)
        if isinstance(operation, Relu):
            return found
        if not isinstance(operation, Affine) or (operation.gain < 0).any() or operation.shift.ndim > 1:
            return []
    return []
