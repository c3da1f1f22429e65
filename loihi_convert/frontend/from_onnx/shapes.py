"""ONNX operators that move values without mixing the images of a batch."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from loihi_convert.arrays import Shape
from loihi_convert.frontend.from_onnx.node import Call, Calls, OnnxNode, as_tensor, unknown
from loihi_convert.frontend.operations import LARGEST_PADDING, PADDINGS

BATCH_HINT: Final = (
    "Keep the batch axis: squeeze(-1) or flatten(1) in place of squeeze(), x[:, 0] in place of x[0], "
    "or export with a dynamic batch size."
)


def concat(node: OnnxNode) -> Calls:
    of_image = [name for name in node.inputs if name in node.values]
    axis = replace(node, inputs=tuple(of_image)).axis(int(node.attributes["axis"]))
    if axis == 0:
        raise unknown("joins images of the batch", BATCH_HINT)
    joined = Call(torch.cat, of_image, axis)
    if len(of_image) == len(node.inputs):
        return [joined]
    first = node.inputs.index(of_image[0])
    before, after = node.inputs[:first], node.inputs[first + len(of_image) :]
    constants = {name: node.for_each_image(name) for name in (*before, *after) if name in node.constants}
    rank = len(node.examples[of_image[0]].shape)
    if len(constants) < len({*before, *after}) or any(
        each.ndim != rank or len(each) != 1 for each in constants.values()
    ):
        raise unknown("joins constants between values of the image, or constants that differ between images")
    # Zeros beside the values, and the constants in their place.
    front, back = (sum(constants[name].shape[axis] for name in names) for names in (before, after))
    zeros = {name: np.zeros((1, *node.examples[name].shape[1:])) for name in of_image}
    whole = np.concatenate([(constants | zeros)[name] for name in node.inputs], axis)
    pad = Call(functional.pad, Call.PREVIOUS, (0, 0) * (rank - 1 - axis) + (front, back))
    return [joined, pad, Call(operator.add, Call.PREVIOUS, as_tensor(whole))]


def split(node: OnnxNode) -> Calls:
    axis = node.axis(int(node.attributes.get("axis", 0)))
    if axis == 0:
        raise unknown("splits the batch", BATCH_HINT)
    size, sizes = node.shape[axis - 1], node.numbers("split", 1)
    if sizes is None:
        part = math.ceil(size / node.output_count)
        sizes = tuple(min(part, size - start) for start in range(0, size, part))
    return [Call(torch.split, node.image, sizes, axis)]


def sliced(node: OnnxNode) -> Calls:
    starts, ends = node.numbers("starts", 1) or (), node.numbers("ends", 2) or ()
    axes = node.numbers("axes", 3) or tuple(range(len(starts)))
    steps = node.numbers("steps", 4) or (1,) * len(starts)
    calls = [Call(nn.Identity(), node.image)]
    for start, end, axis, step in zip(starts, ends, map(node.axis, axes), steps, strict=True):
        size = _size(node, axis)
        chosen = range(size)[start:end:step]
        if (axis == 0 and len(chosen) < size) or not chosen:
            raise unknown("takes some images of the batch" if axis == 0 else "takes nothing", BATCH_HINT)
        if list(chosen) != list(range(size)):
            calls.append(Call(torch.index_select, Call.PREVIOUS, axis, torch.tensor(chosen)))
    return calls


def gather(node: OnnxNode) -> Calls:
    axis, indices = node.axis(int(node.attributes.get("axis", 0))), node.constant(1)
    if axis == 0 or indices is None or indices.ndim > 1:
        raise unknown("gathers other than along one axis of each image", BATCH_HINT)
    places = indices.reshape(-1) % _size(node, axis)
    if indices.ndim == 0:
        return [Call(torch.select, node.image, axis, int(places[0]))]
    return [Call(torch.index_select, node.image, axis, torch.from_numpy(places.astype("int64")))]


def expand(node: OnnxNode) -> Calls:
    wanted, own = node.numbers("shape", 1) or (), (1, *node.shape)
    batches = (1,) if node.is_for_one else (1, _size(node, 0))
    if len(wanted) > len(own) or (len(wanted) == len(own) and wanted[0] not in batches):
        raise unknown("repeats images")
    rest = (1,) * (len(own) - len(wanted)) + tuple(wanted)
    return [Call(torch.broadcast_to, node.image, (-1, *(max(pair) for pair in zip(own[1:], rest[1:], strict=True))))]


def tile(node: OnnxNode) -> Calls:
    repeats = node.numbers("repeats", 1) or ()
    if len(repeats) != len(node.shape) + 1 or repeats[0] != 1:
        raise unknown("repeats images")
    return [Call(torch.tile, node.image, repeats)]


def pad(node: OnnxNode) -> Calls:
    rank, pads, fill = len(node.shape) + 1, node.numbers("pads", 1) or (), node.number("value", 2) or 0.0
    mode = node.attributes.get("mode", b"constant").decode()
    if mode != "constant" or not abs(fill) <= LARGEST_PADDING:
        found = fill if mode == "constant" else f"mode {mode}"
        raise unknown(f"pads with {found}; supported: {PADDINGS}", "Train with zeros.")
    axes = tuple(map(node.axis, node.numbers("axes", 3) or range(rank)))
    amounts = {axis: (pads[index], pads[index + len(axes)]) for index, axis in enumerate(axes)}
    if any(amounts.get(0, (0, 0))):
        raise unknown("adds images to the batch")
    if not any(pads):
        return node.called(nn.Identity())
    # From the last axis to the first.
    sides = tuple(amount for axis in range(rank)[:0:-1] for amount in amounts.get(axis, (0, 0)))
    if fill == 0:
        return [Call(functional.pad, node.image, sides)]
    padded = Call(functional.pad, Call.PREVIOUS, sides)
    return [Call(operator.sub, node.image, fill), padded, Call(operator.add, Call.PREVIOUS, fill)]


def space_to_depth(node: OnnxNode) -> Calls:
    block, channels = int(node.attributes["blocksize"]), node.shape[0]
    # Torch counts the places in a block within each channel, ONNX the channels within each place.
    order = torch.arange(channels * block**2).reshape(channels, block**2).T.reshape(-1)
    unshuffled = Call(nn.PixelUnshuffle(block), node.image)
    return [unshuffled, Call(torch.index_select, Call.PREVIOUS, 1, order)]


def _size(node: OnnxNode, axis: int) -> int:
    """Length of an axis of the first input, in the example for the batch."""
    return int(node.examples[node.image].shape[axis])


def reshape(node: OnnxNode) -> Calls:
    sizes = node.numbers("shape", 1)
    if not sizes:
        raise unknown("has no target shape")
    own = node.shape_of_one if node.is_for_one else node.shape
    found = list(sizes if node.is_for_one else sizes[1:])
    if not node.attributes.get("allowzero", 0):
        found = [own[index] if value == 0 else value for index, value in enumerate(found)]
    if -1 in found:
        known = math.prod(value for value in found if value != -1)
        found[found.index(-1)] = math.prod(own) // known if known else 0
    return _shaped_of_one(node, found) if node.is_for_one else _shaped(node, tuple(found))


def flatten(node: OnnxNode) -> Calls:
    axis, rank = int(node.attributes.get("axis", 1)), node.rank
    if node.is_for_one and -rank <= axis <= rank:
        own = node.shape_of_one
        place = axis % rank if axis < rank else rank
        return _shaped_of_one(node, (math.prod(own[:place]), math.prod(own[place:])))
    if node.axis(axis) != 1:
        raise unknown("does not flatten each image to one axis")
    return _shaped(node, (math.prod(node.shape),))


def squeeze(node: OnnxNode) -> Calls:
    axes, own = node.numbers("axes", 1), node.shape_of_one
    if axes:
        dropped = {node.axis(axis) - node.lacks_batch for axis in axes}
    else:
        dropped = {axis for axis, size in enumerate(own) if size == 1 and (axis > 0 or node.is_for_one)}
    if 0 in dropped and not node.is_for_one:
        raise unknown("drops the batch axis", BATCH_HINT)
    if any(own[axis] != 1 for axis in dropped):
        raise unknown(f"drops axes {axes} of {own}, whose sizes are not 1")
    return _shaped_of_one(node, [size for axis, size in enumerate(own) if axis not in dropped])


def unsqueeze(node: OnnxNode) -> Calls:
    axes = node.numbers("axes", 1) or ()
    shape = list(node.shape_of_one)
    for axis in sorted(axis % (len(node.shape_of_one) + len(axes)) for axis in axes):
        if axis == 0 and not node.is_for_one:
            raise unknown("adds an axis before the batch")
        shape.insert(axis, 1)
    return _shaped_of_one(node, shape)


def transpose(node: OnnxNode) -> Calls:
    order = tuple(node.attributes.get("perm", reversed(range(node.rank))))
    if order[0] != 0:
        raise unknown(
            "moves the batch axis",
            "Keep the batch axis first. Torch's newer exporter moves it for adaptive pooling with overlapping windows: "
            "then give the CNN itself, not an ONNX file.",
        )
    return [Call(torch.permute, node.image, order)]


def _shaped_of_one(node: OnnxNode, sizes: Sequence[int]) -> Calls:
    """The image's values in the shape ``sizes`` of a file for one, with or without the batch axis."""
    has_batch = bool(sizes) and sizes[0] == 1
    return _shaped(node, tuple(sizes[has_batch:]), lacks_batch=not has_batch)


def _shaped(node: OnnxNode, shape: Shape, *, lacks_batch: bool = False) -> Calls:
    """The image's values in another shape, with the same number of elements, without mixing images."""
    if math.prod(shape) != math.prod(node.shape) or min(shape, default=0) < 1:
        raise unknown(f"changes {node.shape} of each image into {shape}: it mixes or splits images")
    if len(shape) == 1:
        return [Call(torch.flatten, node.image, 1, lacks_batch=lacks_batch)]
    return [Call(torch.reshape, node.image, (-1, *shape), lacks_batch=lacks_batch)]
