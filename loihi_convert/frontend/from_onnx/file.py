"""An ONNX file -> the CNN as a torch module, and the shape of its images; needs the package ``onnx``.

`graph` builds the module from torch's own modules and functions; the front end then reads it like any other module. The
file contains no code. Weights next to it (``model.onnx.data``) are read by ``onnx``, only from the same folder.

The package onnx2torch does the same for older files; it cannot read the operators of ONNX opset 19 and later, which
torch writes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from loihi_convert.arrays import Shape
from loihi_convert.dependencies import optional_module
from loihi_convert.errors import CheckpointError, InputError, first_line, is_lack_of_memory
from loihi_convert.frontend.from_onnx.graph import to_module
from loihi_convert.frontend.from_onnx.layout import are_channels_last, layout_of
from loihi_convert.frontend.from_onnx.operators import FLOATS
from loihi_convert.frontend.from_onnx.stacks import drop_unused


def read_onnx(path: Path, input_shape: Shape | None) -> tuple[nn.Module, Shape, tuple[str, ...]]:
    """Return the CNN in the ONNX file at ``path``, the shape ``(C, H, W)`` of its images, and notes for the user.

    The CNN is in eval mode and without gradients.

    Parameters
    ----------
    path
        The file.
    input_shape
        ``(C, H, W)``, ``(C, 1, L)`` for signals; required if the file leaves it open. The file may take such images
        with channels last, without a channel axis, or flat (`layout_of`).

    Raises
    ------
    PlatformError
        If the package ``onnx`` is not installed.
    CheckpointError
        If the file, or one with its weights next to it, is missing or damaged.
    UsageError
        If ``input_shape`` is unknown, or does not fit the file.
    UnsupportedModelError
        If the graph contains an operator that is not supported.
    InputError
        If the graph has more than one input or output, or does not accept images of this shape.
    """
    onnx, inliner = (optional_module(name, f"{path.name} is an ONNX file") for name in ("onnx", "onnx.inliner"))
    with _reading(path):
        content: Any = onnx.load(str(path))
        if content.functions:
            content = inliner.inline_local_functions(content)
    # The standard operators have two names.
    for named in (*content.opset_import, *content.graph.node):
        named.domain = "" if named.domain == "ai.onnx" else named.domain
    weights = {initializer.name for initializer in content.graph.initializer}
    inputs = [value for value in content.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(content.graph.output) != 1:
        counts = " and ".join(
            f"{len(values)} {kind}{'s' * (len(values) != 1)}"
            for values, kind in ((inputs, "input"), (content.graph.output, "output"))
        )
        hint = ""
        if len(inputs) == 1:
            names = ", ".join(value.name for value in content.graph.output)
            call = f"onnx.utils.extract_model({path.name!r}, 'one.onnx', [{inputs[0].name!r}], [output])"
            hint = f"Keep one of {names}: {call}."
        raise InputError(
            f"the graph has {counts}", where=path, expected="must have one image and one output", hint=hint
        )
    if inputs[0].type.tensor_type.elem_type not in FLOATS:
        raise InputError(
            f"the graph takes {onnx.TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)}",
            where=path,
            expected="must take images in floating point, 0..1 or normalized",
        )
    sizes = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    # An open size is 0; the first size is that of the batch. Some files do not record the number of axes.
    drop_unused(content.graph)
    if content.graph.sparse_initializer:
        raise InputError("sparse weights are not read", where=path, hint="Store them as dense initializers.")
    are_last = are_channels_last(content.graph, inputs[0].name)
    layout = layout_of(tuple(sizes[1:]) or (0, 0, 0), input_shape, path, are_last)
    module = to_module(content, inputs[0].name, layout, path, is_for_one=sizes[:1] == [1])
    shape = layout.input_shape
    shape = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    return module.float().requires_grad_(False).eval(), shape, layout.notes


def onnx_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of an ONNX file or, if it has weights in files next to it, of all their bytes.

    Raises
    ------
    CheckpointError
        As in `read_onnx`.
    """
    import onnx

    with _reading(path):
        content = onnx.load(str(path), load_external_data=False)
        entries = (entry for tensor in content.graph.initializer for entry in tensor.external_data)
        names = sorted({entry.value for entry in entries if entry.key == "location"})
        digest = hashlib.sha256(path.read_bytes())
        for name in names:
            digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise a `CheckpointError` if the file cannot be read."""
    try:
        yield
    # On damaged files parsers raise many exceptions, some specific to protobuf.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        found, hint = f"damaged, or not an ONNX file ({first_line(error)})", "Export it again, with its weight files."
        raise CheckpointError(found, where=path, hint=hint) from error
