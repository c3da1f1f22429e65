"""ONNX operators that move values without mixing the images of a batch."""

from __future__ import annotations

import math

import torch
from torch import nn

from loihi_convert.arrays import Shape
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
