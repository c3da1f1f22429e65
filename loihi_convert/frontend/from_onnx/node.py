"""An operator of an ONNX graph, and the equivalent calls in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Array, Shape
from loihi_convert.errors import UnsupportedModelError


def unknown(why: str, hint: str = "Remove it, or train without it.") -> UnsupportedModelError:
    """Return an error about an operator, whose place and kind `operations.placed_at` adds."""
    return UnsupportedModelError(why, hint=hint)


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """An operator and its inputs.

    Parameters
    ----------
    kind
        Its ``op_type``.
    inputs
        The names of its inputs; empty for omitted optional inputs.
    attributes
        Plain values by name.
    constants, values
        Inputs that do not depend on the image, and those that do: with the ``meta`` that `graph` describes.
    opset
        The version of ONNX's operator set.
    output_count
        Number of its outputs.
    is_for_one
        Whether the file is made for a single image: its input has the batch size 1.
    """

    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, Array]
    values: Mapping[str, fx.Node]
    opset: int
    output_count: int
    is_for_one: bool

    @property
    def examples(self) -> dict[str, Tensor]:
        """The inputs that depend on the image, evaluated for two images, also where the file dropped the batch axis."""
        return {name: value.meta["example"] for name, value in self.values.items()}

    @property
    def image(self) -> str:
        """The first input, which must depend on the image."""
        if self.inputs[0] not in self.values:
            raise unknown("does not have its image as the first input")
        return self.inputs[0]

    @property
    def shape(self) -> Shape:
        """Shape of the first input, without the batch axis."""
        return tuple(self.examples[self.image].shape[1:])

    @property
    def lacks_batch(self) -> bool:
        """Whether the first input lacks the batch axis in the file."""
        return bool(self.values[self.image].meta["lacks_batch"])

    @property
    def rank(self) -> int:
        """Number of axes of the first input in the file."""
        return len(self.shape) + (not self.lacks_batch)

    @property
    def shape_of_one(self) -> Shape:
        """Shape of the first input in a file made for a single image."""
        return self.shape if self.lacks_batch else (1, *self.shape)

    def constant(self, index: int) -> Array | None:
        """Return input ``index``, which must not depend on the image; None if omitted."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        if name in self.values:
            raise unknown(f"computes its input {index} from the image")
        return self.constants[name] if name else None

    def weights(self, index: int) -> Tensor:
        """Return input ``index`` as weights, float32."""
        found = self.constant(index)
        if found is None:
            raise unknown(f"lacks its input {index}")
        return as_tensor(found)

    def numbers(self, name: str, index: int) -> tuple[int, ...] | None:
        """Return the attribute ``name`` or, in later opsets, the input ``index``; None if neither is given."""
        found = self.constant(index) if name not in self.attributes else self.attributes[name]
        return None if found is None else tuple(int(value) for value in np.atleast_1d(found))

    def number(self, name: str, index: int) -> float | None:
        """Return the attribute ``name`` or, in later opsets, the input ``index`` as one number; None if neither."""
        found = self.constant(index) if name not in self.attributes else self.attributes[name]
        return None if found is None else float(np.ravel(found)[0])

    def called(self, module: nn.Module) -> Calls:
        """Return the call of ``module`` on the first input, which must depend on the image."""
        return [Call(module, self.image)]

    def axis(self, value: int) -> int:
        """Return axis ``value`` of the file as a nonnegative index into the example; 0 is the batch axis."""
        if not -self.rank <= value < self.rank:
            raise unknown(f"names axis {value} of {self.rank}")
        return value % self.rank + self.lacks_batch

    def for_each_image(self, name: str) -> Array:
        """Return the constant ``name``, with a batch axis of 1 if it repeats the same for each image."""
        constant, example = self.constants[name], next(iter(self.examples.values()))
        is_batch = not self.is_for_one and constant.ndim == example.ndim and len(constant) == len(example)
        return constant[:1] if is_batch and bool((constant == constant[:1]).all()) else constant

    def require_aligned(self) -> None:
        """Refuse inputs whose broadcast would move the batch axis, or repeat images."""
        axes = {(value.meta["example"].ndim, bool(value.meta["lacks_batch"])) for value in self.values.values()}
        if len(axes) != 1:
            raise unknown("joins values of the image with different numbers of axes")
        ((count, lacks_batch),) = axes
        rank = count - lacks_batch
        for constant in map(self.for_each_image, self.constants):
            if constant.ndim > rank or (constant.ndim == count and constant.shape[0] != 1):
                raise unknown(f"moves the batch axis: joins a constant of shape {constant.shape} with {rank} axes")


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of an ``onnx.NodeProto``: plain values by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


class Call:
    """A call of a module or a function.

    Parameters
    ----------
    target
        The module or function.
    arguments
        The name of a value stands for it, a list of names for several values, a tensor for a constant; anything else
        is literal.
    lacks_batch
        Whether the value lacks the batch axis in the file; None if it does so where an input does.
    """

    PREVIOUS: ClassVar[object] = object()
    """As an argument: the value of the previous call."""

    def __init__(self, target: Callable[..., Any], *arguments: Any, lacks_batch: bool | None = None) -> None:
        self.target, self.arguments, self.lacks_batch = target, arguments, lacks_batch


Calls = Sequence[Call]


def as_tensor(values: Array) -> Tensor:
    """Return a copy of ``values`` in float32."""
    return torch.from_numpy(np.array(values, np.float32))
