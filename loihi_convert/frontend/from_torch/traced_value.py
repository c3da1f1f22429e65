"""The values that a traced forward works with: proxies of known shape, which count as tensors for ``isinstance``."""

from __future__ import annotations

import builtins
import contextlib
import operator
import sys
from collections.abc import Callable, Iterator
from types import GetSetDescriptorType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx
from torch.autograd.variable import VariableMeta


class TracedValue(fx.Proxy):
    """A value whose shape is known during tracing, and its numbers if they are the same for all images."""

    # NumPy's numbers and arrays leave arithmetic with it to it, as with tensors.
    __array_priority__: Final = Tensor.__array_priority__

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        # NumPy asks for these before `__array__`; torch.fx would record that they are read.
        if name.startswith("__array_"):
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def _value(self) -> Any:
        return self.node.meta.get("value")

    @property
    def data(self) -> fx.Proxy:
        """As `detach`; torch.fx would record that an attribute is read."""
        return self.detach()

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """The name of its type, or a cast to ``dtype``: also to a type such as `torch.FloatTensor`."""
        if dtype is None:
            return self._value.type()
        return self.to(torch.empty(0).type(dtype).dtype)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[fx.Proxy]:
        # torch.fx adds indexing to proxies at run time.
        return iter([self.__getitem__(index) for index in range(len(self._value))])

    def __setitem__(self, index: Any, value: Any) -> None:
        mask = index._value if isinstance(index, TracedValue) else None
        # A mask with fewer axes belongs to the first ones, in masked_fill to the last.
        is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == self._value.shape
        if isinstance(value, Tensor) and not isinstance(value, fx.Proxy) and value.numel() == 1:
            value = value.item()
        if not is_mask or not isinstance(value, int | float):
            raise TypeError(f"'{type(self).__name__}' object does not support item assignment")
        self.masked_fill_(index, value)


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(*args, **kwargs)


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[TracedValue, Any], fx.Proxy]:
    return lambda known, other: known.tracer.create_proxy("call_function", function, (known, other), {})


def _asking(name: str) -> property:
    return property(lambda known: getattr(known._value, name))


def _known(method: str) -> Callable[..., Any]:
    """The method of the value: ``__float__`` of a tensor, ``__array__`` also of a number."""

    def call(known: TracedValue, *args: Any, **kwargs: Any) -> Any:
        if not known.node.meta["is_constant"]:
            raise TypeError(f"{method.strip('_')}() of a traced tensor that depends on the image")
        value = known._value
        return getattr(value if hasattr(value, method) else np.asarray(value), method)(*args, **kwargs)

    return call


def _number(method: str) -> Callable[[TracedValue], Any]:
    """Python's numbers of constants; of what depends on the image, torch.fx records the method."""

    def call(known: TracedValue) -> Any:
        if known.node.meta["is_constant"]:
            return getattr(known._value, method)()
        return known.tracer.create_proxy("call_method", method, (known,), {})

    return call


for _name in ("item", "tolist"):
    setattr(TracedValue, _name, _number(_name))

for _name in ("numpy", "__array__", "__float__", "__int__", "__index__"):
    setattr(TracedValue, _name, _known(_name))

# torch.fx records x += y as x = x + y, but other names of the tensor see the change, too.
for _name in ("__iadd__", "__isub__", "__imul__", "__itruediv__"):
    setattr(TracedValue, _name, _in_place(getattr(operator, _name)))

# What can be asked about a tensor without its numbers; of methods, the bound ones.
for _name in (
    *("shape", "ndim", "dtype", "device", "layout", "requires_grad"),
    # Such as is_cuda.
    *(
        name
        for name, kind in vars(torch._C.TensorBase).items()
        if name.startswith("is_") and type(kind) is GetSetDescriptorType
    ),
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device"),
    *("is_contiguous", "is_floating_point", "is_complex"),
):
    setattr(TracedValue, _name, _asking(_name))

# torch.fx would record methods without calling the function that `cnn.with_qcfs` waits for.
for _name in (
    "relu",
    "relu_",
    *(f"{one}{end}" for one in ("clamp", "clip", "clamp_min", "clamp_max") for end in ("", "_")),
):
    setattr(TracedValue, _name, _calling(getattr(torch, _name)))


_is_instance: Final = isinstance
# Modules of torch that treat what is not a tensor, such as an fx.Proxy, by itself.
_KNOW_PROXIES: Final = ("torch.fx.", "torch._functorch.", "torch.nn.parameter")


def _is_instance_traced(value: Any, kinds: Any) -> bool:
    """Return ``isinstance(value, kinds)``; a traced tensor counts as a `torch.Tensor`."""
    if _is_instance(value, kinds):
        return True
    if type(value) is not TracedValue or not _is_instance(value._value, Tensor) or not issubclass(Tensor, kinds):
        return False
    asking: str = sys._getframe(1).f_globals.get("__name__", "")
    return not asking.startswith(_KNOW_PROXIES)


def _variable(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """``Variable(x)``, which is x since torch 0.4; C++ makes it."""
    return args[0] if args and type(args[0]) is TracedValue else type.__call__(kind, *args, **kwargs)


@contextlib.contextmanager
def traced_as_tensors() -> Iterator[None]:
    """Let ``isinstance(x, torch.Tensor)`` be true for traced tensors, and ``Variable(x)`` take them.

    A property ``__class__`` would tell torch's C++ code the same, which would then read the memory of a tensor.
    """
    builtins.isinstance = _is_instance_traced
    VariableMeta.__call__ = _variable  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        builtins.isinstance = _is_instance
        del VariableMeta.__call__
