"""An ONNX file -> the CNN as a torch module, and the shape of its images; needs the package ``onnx``.

The module runs the file's operators one after another, as `onnx_operators` has them; what they do is then recorded as
that of any other module. The file contains no code. Weights next to it (``model.onnx.data``) are read by ``onnx``, only
from the same folder.

Many files are made for a single image. Those that drop, join or count the axis of the batch are run for each image
alone, by `torch.vmap`.
"""

from __future__ import annotations

import contextlib
import functools
import graphlib
import hashlib
import math
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from loihi_convert.errors import (
    CheckpointError,
    InputError,
    LoihiConvertError,
    UnsupportedModelError,
    UsageError,
    first_few,
    first_line,
    is_lack_of_memory,
)
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import require_fits
from loihi_convert.reading.onnx_operators import FLOATS, OPERATORS, SUPPORTED
from loihi_convert.reading.reader import MOST_NODES
from loihi_convert.reading.recording import Step, named

_OLDEST_OPSET: Final = 7
"""Before, Add and Mul aligned shapes otherwise."""
_MAX_NAMES: Final = 4

_ARITHMETIC: Final = ("Identity", "Cast", "Add", "Sub", "Mul", "Div")
"""Operators that may normalize the image."""

_GROWING: Final = ("convolution", "constant_pad_nd", "repeat", "index_select", "expand")
"""ATen operations whose result may be larger than all that they take; its shape is found on torch's meta device."""

_LETTERS: Final = {1: ("K",), 2: ("C", "L"), 3: ("C", "H", "W")}
"""Names of open sizes, by the number of axes of one image."""


def read_onnx(path: Path, input_shape: Shape | None) -> tuple[nn.Module, Shape, tuple[str, ...]]:
    """Return the CNN in the ONNX file at ``path``, the shape ``(C, H, W)`` of its images, and notes for the user.

    The CNN is in eval mode and without gradients.

    Parameters
    ----------
    path
        The file.
    input_shape
        ``(C, H, W)``, ``(C, 1, L)`` for signals; required if the file leaves it open. The file may take such images
        with channels last, without a channel axis, or flat.

    Raises
    ------
    PlatformError
        If the package ``onnx`` is not installed.
    CheckpointError
        If the file, or one with its weights next to it, is missing or damaged.
    UsageError
        If ``input_shape`` is unknown, or does not fit the file.
    UnsupportedModelError
        If the graph contains operators that are not supported; names all of them.
    InputError
        If the graph has more than one input or output, or does not accept images of this shape.
    """
    onnx, inliner = (optional_module(name, f"{path.name} is an ONNX file") for name in ("onnx", "onnx.inliner"))
    with _reading(path):
        content: Any = onnx.load(str(path))
        if content.functions:
            _require_few(content)
            content = inliner.inline_local_functions(content)
        graph = content.graph
        nodes, constants = _in_order(graph), {each.name: _tensor(each) for each in graph.initializer}
    # The standard operators have two names.
    opsets = {each.domain.replace("ai.onnx", ""): each.version for each in content.opset_import}
    opset, newest = opsets.get("", 1), onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= opset <= newest:
        expected = f"must be in {_OLDEST_OPSET}..{newest}, the newest that the installed package onnx knows"
        raise InputError(f"opset {opset}", where=path, expected=expected, hint="Export it again, or update onnx.")
    image = _image(graph, path)
    if others := [node for node in nodes if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx")]:
        raise UnsupportedModelError(
            f"holds {first_few([_described(node) for node in others], _MAX_NAMES)}",
            where=path,
            expected=f"supported: {SUPPORTED}",
            hint="Remove them from the CNN, or give the file from before its quantization or optimization.",
        )
    # An open size is 0. Some files do not record the number of axes.
    batch, *sizes = [each.dim_value for each in image.type.tensor_type.shape.dim] or [0] * 4
    layout = Layout(tuple(sizes), input_shape, path, are_last=_are_channels_last(nodes, image.name))
    ends = (image.name, graph.output[0].name)
    modules = [
        OnnxModule(nodes, constants, ends, layout, opset, each) for each in ([1, None] if batch == 1 else [batch])
    ]
    stored = sum(each.nbytes for each in constants.values())
    require_fits(12 * math.prod(layout.shape), stored, path, what="takes three images of")
    with torch.no_grad(), _Budget(stored):
        module = _same_for_several(modules, torch.rand(3, *layout.shape))
    return module.eval(), layout.shape, layout.notes


def _require_few(content: Any) -> None:
    """Refuse functions that call each other so often that they stand for more than `MOST_NODES` operators."""
    bodies = {(each.domain, each.name): each.node for each in content.functions}

    def counted(nodes: Any) -> int:
        return sum(count((node.domain, node.op_type)) for node in nodes)

    @functools.cache
    def count(kind: tuple[str, str]) -> int:
        return counted(bodies[kind]) if kind in bodies else 1

    if (total := counted(content.graph.node)) > MOST_NODES:
        raise ValueError(f"its functions stand for {total:,} operators; at most {MOST_NODES:,}")


class _Budget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses an operation, before it is carried out, whose result does not fit beside those that are kept.

    ``stored``, as in `require_fits`, is the size of the weights.
    """

    def __init__(self, stored: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stored, self._kept = stored, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # As of `Recorder`.
        return False

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = self._kept + _size(target, args)
        require_fits(size, self._stored, "", UnsupportedModelError, "needs, with the values kept for later,")
        found = target(*args, **(kwargs or {}))
        for each in _tensors(found):
            self._kept += each.nbytes
            weakref.finalize(each, self._drop, each.nbytes)
        return found

    def _drop(self, size: int) -> None:
        self._kept -= size


def _size(target: Any, args: Any) -> int:
    """The bytes of what an ATen operation makes, or more."""
    tensors = _tensors(args)
    if torch.Tag.pointwise in target.tags:
        shape = np.broadcast_shapes(*(each.shape for each in tensors))
        return math.prod(shape) * max((each.itemsize for each in tensors), default=0)
    name = target.overloadpacket.__name__
    if name in ("mm", "bmm", "addmm"):
        x, y = tensors[-2:]
        return math.prod(x.shape[:-1]) * y.shape[-1] * x.itemsize
    if name in _GROWING:
        return sum(each.nbytes for each in _tensors(target(*tree_map_only(Tensor, lambda x: x.to("meta"), args))))
    return sum(each.nbytes for each in tensors)


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _same_for_several(modules: Sequence[nn.Module], images: Tensor) -> nn.Module:
    """The first module that has the outputs of the last."""
    *others, last = modules
    expected = last(images)
    for module in others:
        with contextlib.suppress(LoihiConvertError):
            found = module(images)
            if found.shape == expected.shape and found.allclose(expected, rtol=1e-3, atol=1e-5, equal_nan=True):
                return module
    return last


def _image(graph: Any, path: Path) -> Any:
    """The only input, an ``onnx.ValueInfoProto``."""
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(
            f"the graph has {len(inputs)} inputs and {len(graph.output)} outputs",
            where=path,
            expected="must have one image and one output",
            hint="onnx.utils.extract_model keeps one of them.",
        )
    if (kind := inputs[0].type.tensor_type.elem_type) not in FLOATS:
        from onnx import TensorProto

        raise InputError(
            f"the graph takes {TensorProto.DataType.Name(kind)}",
            where=path,
            expected="must take images in floating point, 0..1 or normalized",
        )
    return inputs[0]


def _in_order(graph: Any) -> list[Any]:
    """The nodes that the output needs, each after those that make its inputs; otherwise in the order of the file.

    Some converters append nodes at the end.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    before: dict[int, set[int]] = {}
    waiting = {makers[value.name] for value in graph.output if value.name in makers}
    while waiting:
        index = waiting.pop()
        before[index] = {makers[name] for name in graph.node[index].input if name and name in makers}
        waiting |= before[index] - before.keys()
    order = sorted(before)
    if any(max(before[index], default=-1) > index for index in order):
        order = [*graphlib.TopologicalSorter(before).static_order()]
    return [graph.node[index] for index in order]


def _described(node: Any) -> str:
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type} ({node.name or node.output[0]})"


def _tensor(proto: Any) -> Tensor:
    """An ``onnx.TensorProto`` as a bool, int64 or float32 tensor."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(proto)
    return torch.from_numpy(np.array(array, {"b": np.bool_, "i": np.int64, "u": np.int64}.get(array.dtype.kind, "f4")))


def _are_channels_last(nodes: Sequence[Any], name: str) -> bool:
    """Whether the channels of the image ``name`` are moved to the front first, perhaps after a normalization."""
    for node in nodes:
        if name not in node.input or node.op_type == "Shape":
            continue
        if node.op_type not in _ARITHMETIC:
            return any(list(each.ints) in ([0, 3, 1, 2], [0, 2, 1]) for each in node.attribute if each.name == "perm")
        (name,) = node.output
    return False


class Layout:
    """How the file arranges an image: channels first or last, without a channel axis, or flat.

    Where both fit, channels are first, unless ``are_last``.

    Parameters
    ----------
    sizes
        Of one image in the file, without the batch axis; 0 where it leaves them open.
    given
        ``(C, H, W)``, ``(C, 1, L)`` for signals; None if unknown.
    """

    def __init__(self, sizes: Shape, given: Shape | None, path: Path, *, are_last: bool = False) -> None:
        if len(sizes) not in _LETTERS:
            raise InputError(
                f"its input has {len(sizes) + 1} axes",
                where=path,
                expected="must be (N, C, H, W), (N, C, L) or (N, K)",
            )
        named = ", ".join(str(size or letter) for size, letter in zip(sizes, _LETTERS[len(sizes)], strict=True))
        expected = f"must be ({named})"
        if len(sizes) == 1:
            expected = "must be (C, H, W)" + (f" with {sizes[0]} values" if sizes[0] else "")
        if given is None:
            if len(sizes) == 1 or min(sizes) < 1:
                found = "takes its input flat" if len(sizes) == 1 else "leaves the size of its images open"
                raise UsageError(f"{path.name} {found}", where="input_shape", expected=expected)
            first = (sizes[-1], *sizes[:-1]) if are_last else sizes
            given = first if len(first) == 3 else (first[0], 1, first[1])
        self.shape = given
        self.notes: tuple[str, ...] = ()
        channels, *rest = given
        if len(sizes) == 2 and rest[0] == 1:
            # A signal is an image of one row.
            del rest[0]
        self._own, last, flat = (channels, *rest), (*rest, channels), (math.prod(given),)
        fitting = [
            shape
            for shape in (self._own, last, *[tuple(rest)][: channels == 1], flat)
            if len(shape) == len(sizes) and all(size in (0, n) for size, n in zip(sizes, shape, strict=True))
        ]
        if not fitting:
            raise UsageError(f"found {given}", where="input_shape", expected=f"{expected}, as in {path.name}")
        self._taken = last if are_last and last in fitting else fitting[0]
        self._are_last = self._taken == last and (are_last or last != self._own)
        if self._are_last:
            self.notes = (f"{path.name} takes images with channels last, {last}: the conversion takes {given}",)
        elif len(sizes) == 1 and channels > 1:
            self.notes = (f"{path.name} takes flat images: their values are read in the order (C, H, W)",)

    def arranged(self, images: Tensor) -> Tensor:
        """Return ``images``, ``(N, C, H, W)`` or ``(N, C, L)``, as the file takes them."""
        images = images.reshape(len(images), *self._own)
        return (images.movedim(1, -1) if self._are_last else images).reshape(len(images), *self._taken)


class OnnxModule(nn.Module):
    """Runs ``nodes``, in their order.

    Parameters
    ----------
    nodes
        Each an ``onnx.NodeProto``.
    constants
        The weights, by name.
    ends
        The names of the image and of the output.
    layout
        How the file arranges images.
    opset
        The version of ONNX's operator set.
    batch
        The number of images in the file, 0 if it is open, in whose place there may be any; None: each is run alone.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        constants: Mapping[str, Tensor],
        ends: tuple[str, str],
        layout: Layout,
        opset: int,
        batch: int | None,
    ) -> None:
        super().__init__()
        self._image, self._output = ends
        self._layout, self._is_for_one = layout, batch is None
        self._names = sorted({name for node in nodes for name in node.input} & constants.keys())
        self.weights = nn.ParameterList(nn.Parameter(constants[name], requires_grad=False) for name in self._names)
        self.steps = nn.ModuleList()
        # Of each step its inputs, its outputs, and what no later one needs.
        self._uses: list[tuple[list[str], list[str], set[str]]] = []
        kept = {"", self._image, self._output, *self._names}
        last_use = {name: index for index, node in enumerate(nodes) for name in (*node.input, *node.output)}
        made_of_image, known, taken = {self._image}, {"", self._image, *self._names}, set[str]()
        for index, node in enumerate(nodes):
            is_of_image = node.op_type != "Shape" and not made_of_image.isdisjoint(node.input)
            made_of_image.update(node.output if is_of_image else ())
            found = {"opset": opset, "outputs": len(node.output)} | ({"batch": batch} if is_of_image and batch else {})
            name = _name(node, taken)
            taken.add(name)
            if absent := {*node.input} - known:
                raise InputError(f"nothing makes its input {min(absent)}", where=name)
            known.update(node.output)
            with named(name, node.op_type, "has attributes that cannot be read"):
                found |= {each.name: _value(each) for each in node.attribute}
            self.steps.append(Step(name, node.op_type, functools.partial(OPERATORS[node.op_type], found)))
            last = {each for each in (*node.input, *node.output) if last_use[each] == index} - kept
            self._uses.append(([*node.input], [*node.output], last))
        if self._output not in known:
            raise InputError("nothing makes the output", where=self._output)

    def forward(self, images: Tensor) -> Any:
        x = self._layout.arranged(images)
        if self._is_for_one:
            found = torch.vmap(self._run)(x.unsqueeze(1))
            return found[:, 0] if found.shape[1:2] == (1,) else found
        # In a file for any number of images, an axis of length 1 is not theirs.
        return self._run(x) if len(x) > 1 else self._run(x.expand(2, *x.shape[1:]))[:1]

    def _run(self, x: Tensor) -> Any:
        values: dict[str, Any] = {**dict(zip(self._names, self.weights, strict=True)), self._image: x, "": None}
        for step, (inputs, outputs, last) in zip(self.steps, self._uses, strict=True):
            found = step(*map(values.get, inputs))
            values.update(zip(outputs, found if isinstance(found, tuple | list) else [found], strict=False))
            for name in last:
                values.pop(name, None)
        return values[self._output]


def _value(attribute: Any) -> Any:
    from onnx import TensorProto, helper

    value = helper.get_attribute_value(attribute)
    return _tensor(value) if isinstance(value, TensorProto) else value.decode() if isinstance(value, bytes) else value


def _name(node: Any, taken: set[str]) -> str:
    """That of the module of its weight, such as ``layer1.0.conv1`` of ``layer1.0.conv1.weight``, or its own."""
    weight = node.input[1] if len(node.input) > 1 else ""
    stem = weight.removesuffix(".weight")
    if stem == weight or not all(part.isidentifier() or part.isdecimal() for part in stem.split(".")):
        stem = re.sub(r"\W+", "_", node.name or node.output[0]).strip("_") or "node"
        stem = f"node_{stem}" if stem[0].isdecimal() else stem
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return str(name)


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
