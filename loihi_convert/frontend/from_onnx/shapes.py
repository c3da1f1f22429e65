"""ONNX operators that move values without mixing the images of a batch."""

from __future__ import annotations

import math
import operator

import torch
from torch import nn
from torch.nn import functional

from loihi_convert.arrays import Shape
from loihi_convert.frontend.decompositions import LARGEST_PADDING
from loihi_convert.frontend.from_onnx.node import Call, Calls, Node, UnknownError


def concat(node: Node) -> Calls:
    if len(node.examples) != len(set(node.inputs)):
        raise UnknownError("joins values of the image with constants")
    first = node.examples[node.inputs[0]]
    return [Call(torch.cat, list(node.inputs), int(node.attributes["axis"]) % first.ndim)]


def split(node: Node) -> Calls:
    axis = node.axis(int(node.attributes.get("axis", 0)))
    if axis == 0:
        raise UnknownError("splits the batch")
    size, sizes = node.shape[axis - 1], node.numbers("split", 1)
    if sizes is None:
        part = math.ceil(size / node.output_count)
        sizes = tuple(min(part, size - start) for start in range(0, size, part))
    return [Call(torch.split, node.image, sizes, axis)]


def sliced(node: Node) -> Calls:
    starts, ends = node.numbers("starts", 1) or (), node.numbers("ends", 2) or ()
    axes = node.numbers("axes", 3) or tuple(range(len(starts)))
    steps = node.numbers("steps", 4) or (1,) * len(starts)
    calls = [Call(nn.Identity(), node.image)]
    for start, end, axis, step in zip(starts, ends, map(node.axis, axes), steps, strict=True):
        size = _size(node, axis)
        chosen = range(size)[start:end:step]
        if (axis == 0 and len(chosen) < size) or not chosen:
            raise UnknownError("takes some images of the batch" if axis == 0 else "takes nothing")
        if list(chosen) != list(range(size)):
            calls.append(Call(torch.index_select, Call.PREVIOUS, axis, torch.tensor(chosen)))
    return calls


def gather(node: Node) -> Calls:
    axis, indices = node.axis(int(node.attributes.get("axis", 0))), node.constant(1)
    if axis == 0 or indices is None or indices.ndim > 1:
        raise UnknownError("gathers other than along one axis of each image")
    places = indices.reshape(-1) % _size(node, axis)
    if indices.ndim == 0:
        return [Call(torch.select, node.image, axis, int(places[0]))]
    return [Call(torch.index_select, node.image, axis, torch.from_numpy(places.astype("int64")))]


def expand(node: Node) -> Calls:
    wanted, own = node.numbers("shape", 1) or (), (1, *node.shape)
    if len(wanted) > len(own) or (len(wanted) == len(own) and wanted[0] not in (1, _size(node, 0))):
        raise UnknownError("repeats images")
    rest = (1,) * (len(own) - len(wanted)) + tuple(wanted)
    return [Call(torch.broadcast_to, node.image, (-1, *(max(pair) for pair in zip(own[1:], rest[1:], strict=True))))]


def tile(node: Node) -> Calls:
    repeats = node.numbers("repeats", 1) or ()
    if len(repeats) != len(node.shape) + 1 or repeats[0] != 1:
        raise UnknownError("repeats images")
    return [Call(torch.tile, node.image, repeats)]


def pad(node: Node) -> Calls:
    rank, pads, value = len(node.shape) + 1, node.numbers("pads", 1) or (), node.constant(2)
    fill = float(node.attributes.get("value", 0.0)) if value is None else float(value.reshape(-1)[0])
    mode = node.attributes.get("mode", b"constant").decode()
    if mode != "constant" or not abs(fill) <= LARGEST_PADDING:
        found = fill if mode == "constant" else f"mode {mode}"
        supported = f"numbers in -{LARGEST_PADDING:,}..{LARGEST_PADDING:,}"
        raise UnknownError(f"pads with {found}; supported: {supported}", "Train with zeros.")
    axes = tuple(map(node.axis, node.numbers("axes", 3) or range(rank)))
    amounts = {axis: (pads[index], pads[index + len(axes)]) for index, axis in enumerate(axes)}
    if any(amounts.get(0, (0, 0))):
        raise UnknownError("adds images to the batch")
    if not any(pads):
        return node.called(nn.Identity())
    # From the last axis to the first.
    sides = tuple(amount for axis in range(rank)[:0:-1] for amount in amounts.get(axis, (0, 0)))
    if fill == 0:
        return [Call(functional.pad, node.image, sides)]
    padded = Call(functional.pad, Call.PREVIOUS, sides)
    return [Call(operator.sub, node.image, fill), padded, Call(operator.add, Call.PREVIOUS, fill)]


def _size(node: Node, axis: int) -> int:
    """Length of an axis of the first input, in the example for the batch."""
    return int(node.examples[node.image].shape[axis])


def reshape(node: Node) -> Calls:
    sizes = node.numbers("shape", 1)
    if not sizes:
        raise UnknownError("has no target shape")
    rest, size = list(sizes[1:]), math.prod(node.shape)
    if not node.attributes.get("allowzero", 0):
        rest = [node.shape[index] if value == 0 else value for index, value in enumerate(rest)]
    if -1 in rest:
        known = math.prod(value for value in rest if value != -1)
        rest[rest.index(-1)] = size // known if known else 0
    return _shaped(node, tuple(rest))


def flatten(node: Node) -> Calls:
    if node.axis(int(node.attributes.get("axis", 1))) != 1:
        raise UnknownError("does not flatten each image to one axis")
    return _shaped(node, (math.prod(node.shape),))


def squeeze(node: Node) -> Calls:
    axes = node.numbers("axes", 1)
    dropped = {node.axis(axis) for axis in axes} if axes else {i for i, size in enumerate(node.shape, 1) if size == 1}
    if 0 in dropped:
        raise UnknownError("drops the batch axis")
    return _shaped(node, tuple(size for index, size in enumerate(node.shape, 1) if index not in dropped))


def unsqueeze(node: Node) -> Calls:
    axes, rank = node.numbers("axes", 1) or (), len(node.shape) + 1
    shape = list(node.shape)
    for axis in sorted(axis % (rank + len(axes)) for axis in axes):
        if axis == 0:
            raise UnknownError("adds an axis before the batch")
        shape.insert(axis - 1, 1)
    return _shaped(node, tuple(shape))


def transpose(node: Node) -> Calls:
    rank = len(node.shape) + 1
    order = tuple(node.attributes.get("perm", reversed(range(rank))))
    if order[0] == 0:
        moved = [axis for axis in order[1:] if node.shape[axis - 1] != 1]
        if moved == sorted(moved):
            return _shaped(node, tuple(node.shape[axis - 1] for axis in order[1:]))
    return [Call(torch.permute, node.image, order)]


def _shaped(node: Node, shape: Shape) -> Calls:
    """The image's values in another shape, with the same number of elements, without mixing images."""
    if math.prod(shape) != math.prod(node.shape) or min(shape, default=0) < 1:
        raise UnknownError(f"changes {node.shape} of each image into {shape}: it mixes or splits images")
    if shape == node.shape:
        return node.called(nn.Identity())
    if len(shape) == 1:
        return [Call(torch.flatten, node.image, 1)]
    return [Call(torch.reshape, node.image, (-1, *shape))]
