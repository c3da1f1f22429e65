"""An ONNX file -> the CNN as a torch module, and the shape of its images; needs the package ``onnx``.

`graph` makes the module of torch's own modules and functions, which the front end then reads as any other. Nothing
in the file is code; weights beside it (``model.onnx.data``) are read by ``onnx``, from the same folder alone.

The package onnx2torch does the same for older files; it cannot read the operators of ONNX's opset 19 and later, which
torch writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from loihi_convert.arrays import Shape
from loihi_convert.errors import CheckpointError, InputError, PlatformError, UsageError
from loihi_convert.frontend.from_onnx.graph import to_module


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file's content.

    Parameters
    ----------
    path
        The file.
    content
        Its ``onnx.ModelProto``.
    input_name
        Of its one input that is not a weight.
    input_shape
        ``(C, H, W)``, or ``(C, L)`` of signals; None where the file leaves a size open.
    """

    path: Path
    content: Any
    input_name: str
    input_shape: Shape | None

    def build(self, input_shape: Shape | None) -> tuple[nn.Module, Shape]:
        """Return the CNN, in eval mode and without gradients, and the shape of its images.

        Parameters
        ----------
        input_shape
            ``(C, H, W)``; needed where the file leaves it open.

        Raises
        ------
        UsageError
            If it is not known, or not that of the file.
        UnsupportedModelError
            If the graph holds an operator that has no counterpart here.
        InputError
            If the graph does not take such images.
        """
        if input_shape is None and self.input_shape is None:
            raise UsageError(
                f"{self.path.name} leaves the size of its images open",
                where="input_shape",
                expected="must be (C, H, W)",
            )
        if None not in (input_shape, self.input_shape) and input_shape != self.input_shape:
            raise UsageError(
                f"found {input_shape}",
                where="input_shape",
                expected=f"must be {self.input_shape}, as in {self.path.name}",
            )
        shape = input_shape or self.input_shape
        assert shape is not None
        module = to_module(self.content, self.input_name, shape, self.path)
        return module.float().requires_grad_(False).eval(), shape


def read_onnx(path: Path) -> OnnxFile:
    """Return what is in the ONNX file at ``path``.

    Raises
    ------
    PlatformError
        If the package ``onnx`` is not installed.
    CheckpointError
        If the file, or one with its weights beside it, is missing or damaged.
    InputError
        If the graph has more inputs than one, or more outputs.
    """
    try:
        import onnx
        from onnx import inliner
    except ImportError as error:
        raise PlatformError(
            f"not installed, and {path.name} is an ONNX file", where="onnx", hint="pip install 'loihi-convert[onnx]'"
        ) from error
    # Parsers of damaged files raise many things, some of protobuf's own.
    try:
        content: Any = onnx.load(str(path))
        if content.functions:
            content = inliner.inline_local_functions(content)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"damaged, or not an ONNX file ({reason})", where=path, hint="Export it again, with the files beside it."
        ) from error
    weights = {initializer.name for initializer in content.graph.initializer}
    inputs = [value for value in content.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(content.graph.output) != 1:
        counts = f"{len(inputs)} inputs and {len(content.graph.output)} outputs"
        raise InputError(f"its graph has {counts}", where=path, expected="must have one image and one output")
    sizes = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    # A size that is open has the value 0; the first one is that of the batch.
    known = len(sizes) in (3, 4) and min(sizes[1:]) > 0
    return OnnxFile(path, content, inputs[0].name, tuple(sizes[1:]) if known else None)
