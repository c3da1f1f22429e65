"""torch.fx tracing with an actual image: the graph of a model's computation, and the value of each node.

Sizes are numbers, not nodes of the graph, so that ``if x.shape[1] != 3: raise`` in a ``forward`` can be traced.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Shape
from loihi_convert.cnn.class_scores import scores_name, scores_of
from loihi_convert.errors import UnsupportedModelError, first_line
from loihi_convert.frontend.from_torch.decompositions import decomposed
from loihi_convert.frontend.from_torch.layers import is_one_operation
from loihi_convert.frontend.from_torch.traced_value import TracedValue, traced_as_tensors
from loihi_convert.frontend.model_runs import (
    dtype_of,
    place_of,
    require_forward_alone,
    require_not_of_machine,
    require_same_again,
    shape_taken,
    state_of,
    users_code,
    version,
)
from loihi_convert.frontend.operations import BEFORE_QUANTIZATION, SUPPORTED

TRACED_IMAGES: Final = 2
"""Number of images in the traced batch: two, so that mixing them is detected."""
LIKE_CALLED: Final = (
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_tensor", "is_floating_point", "is_complex", "isnan", "isinf", "isfinite",
)  # fmt: skip
"""Functions that take only shape and type of their first argument, or whose result is the same for finite numbers."""
SHAPED_CALLED: Final = ("view_as", "reshape_as", "expand_as")
"""Functions that take only the shape of their second argument."""


def trace(model: nn.Module, input_shape: Shape) -> fx.Graph:
    """Return the graph of ``model``, each node with its value for `TRACED_IMAGES` black images as ``meta["value"]``.

    If forward returns several values, the output has the name of the one that is used as ``meta["scores_name"]``.
    ``meta["versions"]`` has the `version` of each tensor that it takes, at the time it was computed, and
    ``meta["copies"]`` copies of the constants, see `is_as_taken`.
    For a model that takes signals ``(C, L)``, ``input_shape`` is ``(C, 1, L)``.

    Raises
    ------
    UnsupportedModelError
        If its forward cannot be traced, or changes what the next call computes, or hooks change its outputs.
    InputError
        If it does not accept images of ``input_shape``.
    MemoryError, OSError, RuntimeError
        If memory or disk space ran out, unchanged: the model may be supported.
    """
    state = state_of(model)
    example = torch.zeros(TRACED_IMAGES, *shape_taken(model, input_shape), dtype=dtype_of(model))
    require_same_again(model, example, state)
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        with torch.no_grad(), users_code(), traced_as_tensors(), _compiled_as_written():
            traced = _Tracer(example).trace(model)
    # Tracing runs the user's forward, which may raise any exception.
    except Exception as error:
        require_not_of_machine(error)
        raise UnsupportedModelError(
            f"its forward cannot be traced ({place_of(error)}{_description(error)})",
            where=type(model).__name__,
            expected=f"supported: {SUPPORTED}, without control flow that depends on data",
            hint=BEFORE_QUANTIZATION if _has_observers(model) else _remedy(error),
        ) from error
    finally:
        # A forward may have assigned values of the traced graph to them.
        for module, held in buffers:
            module._buffers.update(held)
    require_forward_alone(type(model).__name__, model, example)
    return traced


def _has_observers(model: nn.Module) -> bool:
    """Whether ``model`` was prepared for quantization: it records the range of its activations."""
    kinds = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")
    return any(type(module).__module__ in kinds for module in model.modules())


def _compiled_as_written() -> contextlib.AbstractContextManager[object]:
    """Let functions with the decorator `torch.compile` be traced as if they had none."""
    # Its import takes seconds, and was made if there are any.
    dynamo = sys.modules.get("torch._dynamo")
    return contextlib.nullcontext() if dynamo is None else dynamo.config.patch(error_on_nested_fx_trace=False)


def _description(error: Exception) -> str:
    """The first line of ``error``, without the name of the class of the traced values."""
    name = TracedValue.__name__
    return re.sub(rf"<class '[\w.]+\.{name}'>|'{name}'|\b{name}\b", "a traced tensor", first_line(error))


def _remedy(error: Exception) -> str:
    """What to do about an ``error`` of torch.fx, or of a forward whose image is an `fx.Proxy`."""
    # A parameter that the model does not know; other unknown names are found when the model runs.
    if isinstance(error, NameError):
        return (
            "Keep its layers in an nn.ModuleList or nn.ModuleDict, and its parameters in an nn.ParameterList or "
            "nn.ParameterDict, instead of a list or dict."
        )
    if isinstance(error, TypeError) and "item" in str(error):
        return (
            "Compute the parts, and join them by torch.cat or torch.stack, instead of assigning to parts of a tensor."
        )
    return (
        "Rewrite forward so that it does the same computation for every image; check the type of its input only by "
        "isinstance(x, torch.Tensor)."
    )


class _Tracer(fx.Tracer):
    """Steps into the user's modules, but not into those supported by `layers.py`; computes values on the way."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self._example = example
        # If set, modules are called normally, although torch.fx has replaced their call.
        self._computes = False
        self._scores_name: str | int | None = None

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        def scores(*args: Any) -> Any:
            returned = root_fn(*args)
            self._scores_name = scores_name(returned)
            return scores_of(returned)

        # Only the image: forward's other arguments have their default values.
        return scores, [self.root, self.create_proxy("placeholder", "image", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torch.fx takes each module of torch.nn for one operation.
        is_step = super().is_leaf_module(m, module_qualified_name) and not isinstance(m, nn.DataParallel)
        # Their functions are recorded as others.
        has_indices = getattr(m, "return_indices", None) is True and type(m).__module__ == "torch.nn.modules.pooling"
        is_other = isinstance(m, nn.ConstantPad1d | nn.ConstantPad2d) and m.value != 0
        is_other |= type(m) in (nn.Hardsigmoid, nn.Softshrink)
        return is_one_operation(m) or (is_step and not is_other and not has_indices)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Modules made in forward, such as nn.ReLU() or a slice of an nn.Sequential, have no name.
        if self._computes or (self.submodule_paths is not None and m not in self.submodule_paths):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        # The same for all images.
        return bool(obj.node.meta["value"]) if obj.node.meta["is_constant"] else super().to_bool(obj)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computes else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedValue(node, self)

    def create_arg(self, a: Any) -> Any:
        # torch takes NumPy's numbers and arrays, too, arrays as tensors. A copy: forward may change them later.
        if isinstance(a, np.generic):
            return a.item()
        return super().create_arg(torch.tensor(a) if isinstance(a, np.ndarray) else a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        found, record = None, super().create_proxy
        if target == "__setitem__":
            # Of a tensor that is not traced, to which a traced one is assigned: it would stay as it is.
            raise TypeError("a traced tensor cannot be assigned to items of another")

        def create(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
            return record("call_function", function, arguments, named)

        if kind in ("call_function", "call_method"):
            found = decomposed(create, target, args, kwargs)
        return record(kind, target, args, kwargs, *rest, **more) if found is None else found

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        if kind == "get_attr":
            # One node for a constant, which may be changed in place.
            before: fx.Node
            for before in self.graph.nodes:
                if (before.op, before.target) == (kind, target):
                    return before
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        inputs = node.all_input_nodes
        is_constant = kind != "placeholder" and all(before.meta["is_constant"] for before in numbers_taken(node))
        node.meta["is_constant"] = is_constant
        node.meta["versions"] = {
            before: version(before.meta["value"]) for before in inputs if isinstance(before.meta["value"], Tensor)
        }

        given: dict[fx.Node, Any] = {}
        copies: dict[int, Any] = {}

        def value_of(before: fx.Node) -> Any:
            # A function may change it in place. Of constants alone, that is what the model computes.
            is_kept = before.meta["is_constant"] or "was_constant" in before.meta
            if is_constant or not (is_kept or kind == "call_function"):
                return before.meta["value"]
            if before not in given:
                given[before] = _copied(before.meta["value"], copies)
            return given[before]

        if kind == "placeholder":
            node.meta["value"] = self._example
        elif kind == "output":
            node.meta["scores_name"] = self._scores_name
        else:
            self._computes = True
            try:
                node.meta["value"] = computed(self.root, node, value_of)
            except Exception:
                # Callers such as NumPy catch it and go on.
                self.graph.erase_node(node)
                raise
            finally:
                self._computes = False
            for before, copied in given.items():
                if "was_constant" in before.meta and copied is node.meta["value"]:
                    # Another name of the same tensor.
                    node.meta.update(value=before.meta["value"], was_constant=True)
            taken = {
                before: copied
                for before, copied in given.items()
                if before.meta["is_constant"] and isinstance(copied, Tensor) and copied.layout == torch.strided
            }
            # What it changed in place, maybe into the same numbers, and its views: they now depend on the image.
            for before in [each for each in taken if version(taken[each]) or not _is_equal(each, taken[each])]:
                memory = before.meta["value"]
                del taken[before]
                for each in self.graph.nodes:
                    value = each.meta.get("value")
                    if isinstance(value, Tensor) and same_storage(value, memory):
                        each.meta.update(is_constant=False, was_constant=True)
            node.meta["copies"] = taken
        return node


def numbers_taken(node: fx.Node) -> list[fx.Node]:
    """Return the input nodes whose numbers ``node`` takes, including those in lists."""
    function, taken = getattr(node.target, "__name__", node.target), list(node.all_input_nodes)
    if function in LIKE_CALLED:
        return taken[1:]
    # Of another tensor they take the type or shape.
    return taken[:1] if function in ("to", "type_as", *SHAPED_CALLED) else taken


def is_as_taken(before: fx.Node, node: fx.Node) -> bool:
    """Return whether the tensor ``before`` has not been changed in place since ``node`` took it."""
    value, copied = before.meta["value"], node.meta.get("copies", {}).get(before)
    if version(value) != node.meta["versions"].get(before):
        return False
    # NumPy does not count its changes of memory that it shares.
    return copied is None or _is_equal(before, copied)


def _is_equal(node: fx.Node, copied: Tensor) -> bool:
    """Whether ``node`` has the numbers ``copied``, or NaN, which differs from itself."""
    value = node.meta["value"]
    return bool(((value == copied) | (value != value)).all())


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Return whether both are kept in the same memory, as views of one tensor are; sparse tensors have no views."""
    is_dense = one.layout == other.layout == torch.strided
    return is_dense and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def computed(root: nn.Module, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
    """Return the value of ``node``, in a graph of ``root``, from the values ``value_of`` its inputs."""
    args, kwargs = fx.node.map_arg(node.args, value_of), fx.node.map_arg(node.kwargs, value_of)
    if node.op == "get_attr":
        return attrgetter(str(node.target))(root)
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """A tensor kept like ``value``, so that it has the same views; its storage is taken from ``copies``, if there.

    Its `version` is 0.
    """
    return copy.deepcopy(value.detach(), copies).data if isinstance(value, Tensor) else value
