"""torch.fx tracing with an actual image: the graph of a model's computation, and the value of each node.

Sizes are numbers, not nodes of the graph, so that ``if x.shape[1] != 3: raise`` in a ``forward`` can be traced.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import operator
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from loihi_convert.arrays import Shape
from loihi_convert.errors import InputError, UnsupportedModelError, first_line, is_lack_of_memory
from loihi_convert.frontend.decompositions import decomposed
from loihi_convert.frontend.operations import SUPPORTED, is_one_operation, refuse

IMAGES: Final = 2
"""Number of images in the traced batch: two, so that mixing them is detected."""
LIKE_CALLED: Final = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
"""Functions that take only shape and type of their first argument, not its numbers."""

# In errors of torch's convolutions and matrix products.
_OTHER_DTYPE: Final = ("Input type (", "same dtype", "expected scalar type")


def trace(model: nn.Module, input_shape: Shape) -> fx.Graph:
    """Return the graph of ``model``, each node with its value for `IMAGES` black images as ``meta["value"]``.

    ``meta["versions"]`` has the `version` of each tensor that it takes, at the time it was computed.
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
    state = _state(model)
    example = torch.zeros(IMAGES, *shape_taken(model, input_shape), dtype=_dtype(model))
    changed = [name for name, held in _state(model).items() if name not in state or not _is_same(held, state[name])]
    if changed:
        _require_same_again(model, example, changed[0])
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        # What the user's code prints is not output of a command.
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr), _traced_as_tensors():
            traced = _Tracer(example).trace(model)
    # Tracing runs the user's forward, which may raise any exception.
    except Exception as error:
        _require_not_of_machine(error)
        raise UnsupportedModelError(
            f"its forward cannot be traced ({first_line(error)})",
            where=type(model).__name__,
            expected=f"supported: {SUPPORTED}, without control flow that depends on data",
            hint=_remedy(error),
        ) from error
    finally:
        # A forward may have assigned values of the traced graph to them.
        for module, held in buffers:
            module._buffers.update(held)
    require_forward_alone(type(model).__name__, model, example)
    return traced


def _state(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """The parameters and buffers, by name, with their `version`."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return {name: (tensor, version(tensor)) for name, tensor in tensors}


def _is_same(one: tuple[Tensor, int], other: tuple[Tensor, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


def version(tensor: Tensor) -> int:
    """Return how often ``tensor``, or a view of it, was changed in place; 0 for one of inference mode."""
    try:
        return tensor._version
    except RuntimeError:
        # torch does not count there.
        return 0


def _require_same_again(model: nn.Module, example: Tensor, changed: str) -> None:
    """Refuse a model that computes something else at the next call, since it has ``changed`` its own state."""
    images = _random_like(example)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        first, second = (model(images.clone()) for _ in range(2))
    if _differ(first, second):
        raise UnsupportedModelError(
            f"its forward changes {changed}, and thereby the outputs of its next call",
            where=type(model).__name__,
            expected="must compute the same outputs for the same images at each call",
            hint=f"Let it work on a copy: self.{changed}.clone().",
        )


def _remedy(error: Exception) -> str:
    """What to do about an ``error`` of torch.fx, or of a forward whose image is an `fx.Proxy`."""
    # A parameter that the model does not know; other unknown names are found when the model runs.
    if isinstance(error, NameError):
        return (
            "Keep its layers in an nn.ModuleList or nn.ModuleDict, and its parameters in an nn.ParameterList or "
            "nn.ParameterDict, instead of a list or dict."
        )
    return (
        "Rewrite forward so that it does the same computation for every image; check the type of its input only by "
        "isinstance(x, torch.Tensor)."
    )


def _require_not_of_machine(error: Exception) -> None:
    """Raise ``error`` again if the machine failed, such as with a full memory or disk, and not the model."""
    if isinstance(error, OSError) or is_lack_of_memory(error):
        raise error


def _dtype(model: nn.Module) -> torch.dtype:
    return next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)


def shape_taken(model: nn.Module, input_shape: Shape) -> Shape:
    """Return ``input_shape``, ``(C, H, W)``, or ``(C, L)`` if the model takes signals; found by running the model.

    A model that takes both ``(C, 1, L)`` and ``(C, L)``, and computes something else for each, takes signals.

    Raises
    ------
    InputError
        If it does not accept images of ``input_shape``.
    """
    shapes = [input_shape] if input_shape[1] > 1 else [input_shape, (input_shape[0], input_shape[2])]
    # A Conv2d would take C signals for one image.
    images = _random_like(torch.zeros(input_shape[0] + 1, *input_shape, dtype=_dtype(model)))
    taken: dict[Shape, Any] = {}
    failures: list[Exception] = []
    for shape in shapes:
        try:
            with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
                taken[shape] = model(images.reshape(-1, *shape))
        except Exception as error:
            _require_not_of_machine(error)
            failures.append(error)
    if taken:
        return shapes[-1] if len(taken) > 1 and _differ(*taken.values()) else next(iter(taken))
    kind, failure = "images", failures[0]
    if any(sign in str(failure) for sign in _OTHER_DTYPE):
        raise InputError(
            f"casts images to another dtype than that of its weights ({first_line(failure)})",
            where=type(model).__name__,
            expected="its weights are read as float32",
            hint="Leave out the casts in its forward, such as x.double().",
        ) from failure
    hint = "Use images of the size, and with the channels, that it was trained on."
    if any(isinstance(module, nn.Conv1d) for module in model.modules()):
        hint = "It takes signals: its input shape is (C, L)."
        if len(shapes) > 1:
            kind, failure, input_shape = "signals", failures[1], shapes[1]
            hint = "Use signals of the length, and with the channels, that it was trained on."
    elif len(shapes) > 1:
        sizes = (1, input_shape[0], input_shape[2])
        hint = f"That is the shape of a signal (C, L). That of an image is (C, H, W), such as {sizes}."
    raise InputError(
        f"does not accept {kind} of shape {input_shape} ({first_line(failure)})",
        where=type(model).__name__,
        hint=hint,
    ) from failure


def _random_like(example: Tensor) -> Tensor:
    return torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example)


def _differ(one: Any, other: Any) -> bool:
    """Whether two outputs differ by more than rounding; False if they are not tensors."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return one.shape != other.shape or not one.allclose(other, rtol=1e-3, atol=1e-5, equal_nan=True)


def require_forward_alone(name: str, module: nn.Module, example: Tensor) -> None:
    """Refuse a module whose outputs differ from those of its class's forward, on random inputs like ``example``.

    Hooks that compute weights (pruning, weight norm) or only record values change nothing.

    Raises
    ------
    UnsupportedModelError
        If hooks, or a ``forward`` set on the instance, change its outputs.
    """
    if not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)):
        return
    inputs = _random_like(example)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        called, alone = module(inputs.clone()), type(module).forward(module, inputs.clone())
    if not isinstance(alone, Tensor):
        return
    if not isinstance(called, Tensor) or called.shape != alone.shape or not called.allclose(alone, equal_nan=True):
        refuse(
            name,
            type(module).__name__,
            "has hooks, or a forward set on the instance, that change its outputs",
            supported="outputs that the forward of its class computes",
            hint="Compute them in the forward of the CNN.",
        )


class _Known(fx.Proxy):
    """A value whose shape is known during tracing."""

    @property
    def _value(self) -> Any:
        return self.node.meta.get("value")

    # torch.fx records x += y as x = x + y, but other names of the tensor see the change, too.
    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Callable[[Any, Any], Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[fx.Proxy]:
        # torch.fx adds indexing to proxies at run time.
        return iter([self.__getitem__(index) for index in range(len(self._value))])


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*args, **kwargs)


def _asking(name: str) -> property:
    return property(lambda known: getattr(known._value, name))


# What can be asked about a tensor without its numbers; of methods, the bound ones.
for _name in (
    *("shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_sparse", "is_quantized", "requires_grad"),
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device"),
    *("is_contiguous", "is_floating_point", "is_complex"),
):
    setattr(_Known, _name, _asking(_name))

# torch.fx would record methods without calling the function that `cnn.with_qcfs` waits for.
for _name in ("relu", "relu_", *(f"{one}{end}" for one in ("clamp", "clip", "clamp_min") for end in ("", "_"))):
    setattr(_Known, _name, _calling(getattr(torch, _name)))


_is_instance: Final = isinstance
# Modules of torch that treat what is not a tensor, such as an fx.Proxy, by itself.
_KNOW_PROXIES: Final = ("torch.fx.", "torch._functorch.", "torch.nn.parameter")


def _is_instance_traced(value: Any, kinds: Any) -> bool:
    """Return ``isinstance(value, kinds)``; a traced tensor counts as a `torch.Tensor`."""
    if _is_instance(value, kinds):
        return True
    if type(value) is not _Known or not _is_instance(value._value, Tensor) or not issubclass(Tensor, kinds):
        return False
    asking: str = sys._getframe(1).f_globals.get("__name__", "")
    return not asking.startswith(_KNOW_PROXIES)


@contextlib.contextmanager
def _traced_as_tensors() -> Iterator[None]:
    """Let ``isinstance(x, torch.Tensor)`` be true for traced tensors.

    A property ``__class__`` would tell torch's C++ code the same, which would then read the memory of a tensor.
    """
    builtins.isinstance = _is_instance_traced
    try:
        yield
    finally:
        builtins.isinstance = _is_instance


class _Tracer(fx.Tracer):
    """Steps into the user's modules, but not into those supported by `operations.py`; computes values on the way."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self._example = example
        # If set, modules are called normally, although torch.fx has replaced their call.
        self._computes = False

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # Only the image: forward's other arguments have their default values.
        return root_fn, [self.root, self.create_proxy("placeholder", "image", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torch.fx takes each module of torch.nn for one operation.
        is_step = super().is_leaf_module(m, module_qualified_name) and not isinstance(m, nn.DataParallel)
        return is_one_operation(m) or is_step

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Modules made in forward, such as nn.ReLU() or a slice of an nn.Sequential, have no name.
        if self._computes or (self.submodule_paths is not None and m not in self.submodule_paths):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computes else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        found = None
        if kind in ("call_function", "call_method"):
            found = decomposed(partial(super().create_proxy, "call_function"), target, args, kwargs)
        return super().create_proxy(kind, target, args, kwargs, *rest, **more) if found is None else found

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

        def value_of(before: fx.Node) -> Any:
            value = before.meta["value"]
            # A method may change it in place. Of constants alone, that is what the model computes.
            return _copied(value) if before.meta["is_constant"] and not is_constant else value

        if kind == "placeholder":
            node.meta["value"] = self._example
        elif kind != "output":
            self._computes = True
            try:
                node.meta["value"] = computed(self.root, node, value_of, is_view=is_constant)
            finally:
                self._computes = False
        return node


def numbers_taken(node: fx.Node) -> list[fx.Node]:
    """Return the input nodes whose numbers ``node`` takes, including those in lists."""
    function, taken = getattr(node.target, "__name__", node.target), list(node.all_input_nodes)
    if function in LIKE_CALLED:
        return taken[1:]
    # Of another tensor they take the type.
    return taken[:1] if function in ("to", "type_as") else taken


def computed(root: nn.Module, node: fx.Node, value_of: Callable[[fx.Node], Any], *, is_view: bool = False) -> Any:
    """Return the value of ``node``, in a graph of ``root``, from the values ``value_of`` its inputs.

    Functions get copies of them, since they might change them in place, except if ``is_view``: views of them are then
    views.
    """
    args, kwargs = fx.node.map_arg(node.args, value_of), fx.node.map_arg(node.kwargs, value_of)
    if node.op == "get_attr":
        found: Any = root
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*(args if is_view else fx.node.map_aggregate(args, _copied)), **kwargs)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
