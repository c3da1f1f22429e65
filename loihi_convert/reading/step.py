"""Modules that are one step of a graph: operations of files, and neurons."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from loihi_convert.errors import InputError, LoihiConvertError, first_line
from loihi_convert.reading.model_runs import require_not_of_machine
from loihi_convert.reading.operations import placed_at


class FiringRate(nn.Module):
    """``y = min(max(x, 0), 1)``: the rate of neurons with threshold 1 and soft reset at the constant current x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


class Step(nn.Module):
    """An operation of a file, with the name and kind that it has there.

    Parameters
    ----------
    name, kind
        For messages, and for names of layers.
    function
        Takes the inputs of the module, then ``constants``.
    """

    def __init__(self, name: str, kind: str, function: Callable[..., Any], *constants: Tensor) -> None:
        super().__init__()
        self.name, self.kind, self._function = name, kind, function
        for index, each in enumerate(constants):
            self.register_buffer(f"constant{index}", each)

    def forward(self, *inputs: Any) -> Any:
        given = (*inputs, *self.buffers(recurse=False))
        shapes = [None if each is None else tuple(each.shape) for each in given]
        with named(self.name, self.kind, f"cannot be applied to {shapes}"):
            return self._function(*given)


@contextlib.contextmanager
def named(name: str, kind: str, problem: str) -> Iterator[None]:
    """Add the operation to errors, and the problem to those that torch or another library raises."""
    try:
        with placed_at(name, kind):
            yield
    except LoihiConvertError:
        raise
    except Exception as error:
        require_not_of_machine(error)
        raise InputError(f"{kind} {problem} ({first_line(error)})", where=name) from error
