"""An operator of an ONNX graph, and the calls of torch that do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert.arrays import Array, Shape


class UnknownError(ValueError):
    """An operator is used in a way that is not known here; the message says how."""


@dataclass(frozen=True, eq=False)
class Node:
    """An operator and what it is applied to.

    Parameters
    ----------
    kind
        Its ``op_type``.
    inputs
        The names of its inputs; empty where an optional one is left out.
    attributes
        Plain values by name.
    constants, examples
        Inputs that do not depend on the image, and those that do, for two images.
    opset
        The version of ONNX's operators.
    output_count
        How many values it gives.
    """

    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, Array]
    examples: Mapping[str, Tensor]
    opset: int
    output_count: int

    @property
    def image(self) -> str:
        """The first input, which must depend on the image."""
        if self.inputs[0] not in self.examples:
            raise UnknownError("has its image at another place than the first")
        return self.inputs[0]

    @property
    def shape(self) -> Shape:
        """Of the first input, without the batch axis."""
        return tuple(self.examples[self.image].shape[1:])

    def constant(self, index: int) -> Array | None:
        """Input ``index``, which must not depend on the image; None if it is left out."""
        name = self.inputs[index] if index < len(self.inputs) else ""
        if name in self.examples:
            raise UnknownError(f"computes its input {index} from the image")
        return self.constants[name] if name else None

    def weights(self, index: int) -> Tensor:
        """Input ``index`` as weights, float32."""
        found = self.constant(index)
        if found is None:
            raise UnknownError(f"lacks its input {index}")
        return as_tensor(found)

    def numbers(self, name: str, index: int) -> tuple[int, ...] | None:
        """The attribute ``name``, or, in later opsets, the input ``index``; None if neither is given."""
        found = self.constant(index) if name not in self.attributes else self.attributes[name]
        return None if found is None else tuple(int(value) for value in np.atleast_1d(found))

    def called(self, module: nn.Module, *, has_weights: bool = False) -> Calls:
        """Return the call of ``module`` on the first input, which must depend on the image."""
        return [Call(module, self.image, has_weights=has_weights)]

    def axis(self, value: int) -> int:
        """``value`` counted from the front; 0 is that of the batch."""
        return value % len(self.examples[self.image].shape)


class Call:
    """A call of a module or a function.

    Parameters
    ----------
    target
        What is called.
    arguments
        A name stands for a value, a list of names for several, a tensor for a constant; anything else for itself.
    has_weights
        Whether a module has weights, after which it is named.
    """

    PREVIOUS: ClassVar[object] = object()
    """As an argument: the value of the call before."""

    def __init__(self, target: Callable[..., Any], *arguments: Any, has_weights: bool = False) -> None:
        self.target, self.arguments, self.has_weights = target, arguments, has_weights


Calls = Sequence[Call]


def as_tensor(values: Array) -> Tensor:
    """Return a copy of ``values`` in float32."""
    return torch.from_numpy(np.array(values, np.float32))
