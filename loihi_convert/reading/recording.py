"""Runs a model once, and reports each functional ATen operation that it takes, with its place in the model.

Changes in place and views are resolved by PyTorch itself (functionalization): every operation here returns a new
tensor.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import InputError, LoihiConvertError, UnsupportedModelError, first_line
from loihi_convert.reading.graph import SUPPORTED, Relu, placed_at, refusal
from loihi_convert.reading.users_code import require_not_of_machine
from loihi_convert.reading.values import SIMPLER

if TYPE_CHECKING:
    from loihi_convert.reading.reader import Reader


class FiringRate(nn.Module):
    """``y = min(max(x, 0), 1)``: the rate of neurons with threshold 1 and soft reset at the constant current x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)


WHOLE: Final = (Qcfs, FiringRate)
"""Modules that are one operation, and are not run."""

_FUNCTIONS: Final = {
    "addmm": "linear",
    "mm": "matmul",
    "bmm": "matmul",
    "mv": "matmul",
    "div": "truediv",
    "max_pool2d_with_indices": "max_pool2d",
    "log_sigmoid_forward": "logsigmoid",
    "rsub": "sub",
    "constant_pad_nd": "pad",
    "_to_copy": "to",
    "_unsafe_view": "view",
    "bernoulli": "dropout",
    "rrelu_with_noise": "rrelu",
    "rrelu_with_noise_functional": "rrelu",
    "_prelu_kernel": "prelu",
    "linalg_vector_norm": "norm",
    "fake_quantize_per_tensor_affine_cachemask": "fake_quantize_per_tensor_affine",
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
}
"""The functions that users call, by ATen's names."""

_ELEMENTWISE: Final = ("_to_copy", "hardtanh", "relu6", "leaky_relu", "threshold", "elu", "hardshrink")
"""Elementwise operations that PyTorch, or PyTorch 2.3, does not mark as such."""


@dataclass(frozen=True)
class Place:
    """Where an operation is called.

    Parameters
    ----------
    name
        The module's name; of a function, also that of a module near it.
    kind
        The class of the module, or the function.
    module
        The module's name, or empty for a function.
    call
        Counts the calls of modules: equal for operations of one call.
    """

    name: str
    kind: str
    module: str
    call: int

    def named(self) -> contextlib.AbstractContextManager[None]:
        """Add the place to an error that has none."""
        return placed_at(self.name, self.kind)

    def error(self, found: str, hint: str = "") -> UnsupportedModelError:
        """Return an error about an operation there."""
        return refusal(self.name, self.kind, found, f"supported: {SUPPORTED}", hint)


@dataclass(eq=False)
class Call:
    """One ATen operation with its arguments and its result.

    ``whole``: the module that it stands for, of `WHOLE`; ``obstacle``: why it is not among `SIMPLER`.
    """

    target: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    whole: Relu | None = None
    obstacle: UnsupportedModelError | None = None

    @property
    def is_elementwise(self) -> bool:
        """Whether each number of its result depends on one number of each argument, at the same place."""
        return torch.Tag.pointwise in self.target.tags or self.name in _ELEMENTWISE

    @property
    def is_random(self) -> bool:
        """Whether it draws from torch's own generator; one of the model is seen by running the model again."""
        is_tagged = torch.Tag.nondeterministic_seeded in self.target.tags and "attention" not in self.name
        return is_tagged and self.kwargs.get("generator") is None

    @property
    def shape(self) -> torch.Size:
        """Of its first result."""
        found = self.out
        while not isinstance(found, Tensor):
            found = found[0]
        return found.shape


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reports every ATen operation to a reader, in the words of `SIMPLER` where it has some."""

    def __init__(self, listener: Reader) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener
        self._inside: list[tuple[str, nn.Module, int]] = []
        self._calls = 0
        self._names = Counter[str]()
        # The operation that others stand for.
        self._place: tuple[str, int] | None = None
        self._whole: Relu | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping would import torch._dynamo, for 1.5 s.
        return False

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name: str = target.overloadpacket._qualified_op_name.split("::")[1]
        is_outer = self._place is None
        if is_outer:
            self._calls += 1
            self._place = (name, self._calls)
        obstacle = None
        try:
            if name in SIMPLER and self._listener.depends((args, kwargs)):
                try:
                    with self:
                        found = SIMPLER[name](self._listener.depends, *args, **kwargs)
                    if found is not NotImplemented:
                        return found
                except UnsupportedModelError as error:
                    obstacle = error
            out = target(*args, **kwargs)
            if name.startswith(("empty", "new_empty")) and out.is_floating_point():
                # What is in new memory differs from call to call, and between images.
                out.zero_()
            self._listener.take(Call(target, name, args, kwargs, out, self._whole, obstacle))
            return out
        finally:
            if is_outer:
                self._place = None

    def place(self, call: Call, after: str) -> Place:
        """Return where ``call`` is, whose input comes from the module ``after``."""
        assert self._place is not None
        leaf = next((each for each in self._inside if _is_step(each[1])), None)
        if leaf is not None:
            path, module, number = leaf
            path, step = (module.name, module.kind) if isinstance(module, Step) else (path, type(module).__name__)
            count = self._counted(path.replace(".", "_"), number)
            name = path if count == 0 else f"{path} (after {after})"
            return Place(name, step, path, number)
        called, number = self._place
        kind = _FUNCTIONS.get(called, called.strip("_").removeprefix("native_"))
        if "upsample_" in called:
            kind = "interpolate"
        elif called == "convolution":
            kind = f"conv{call.args[1].ndim - 2}d"
        count = self._counted(kind, number)
        name = kind if count == 0 else f"{kind}_{count}"
        caller = self._inside[-1][0] if self._inside else ""
        if caller and not after.startswith(f"{caller}."):
            name = f"{name} (in {caller})"
        elif after:
            name = f"{name} (after {after})"
        return Place(name, kind, "", 0)

    def _counted(self, name: str, call: int) -> int:
        """How many others have this name; the same for all operations of one call."""
        key = f"{name} {call}"
        if key not in self._names:
            self._names[key] = self._names[name] + (hasattr(builtins, name))
            self._names[name] += 1
        return self._names[key]

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Notice which modules of ``model`` are called."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_Reading(self._listener))
            for name, module in model.named_modules():
                if isinstance(module, WHOLE):
                    module.forward = self._standing_for(module)  # type: ignore[assignment, method-assign]
                    stack.callback(vars(module).pop, "forward")
                stack.callback(module.register_forward_pre_hook(self._entering(name), prepend=True).remove)
                stack.callback(module.register_forward_hook(self._left, always_call=True).remove)
            yield

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _: Any) -> None:
            self._calls += 1
            self._inside.append((name, module, self._calls))

        return enter

    def _left(self, *_: Any) -> None:
        self._inside.pop()

    def _standing_for(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        operation = _whole(module)

        def forward(x: Tensor) -> Tensor:
            self._whole = operation
            try:
                return x.clone()
            finally:
                self._whole = None

        return forward


class _Reading(TorchFunctionMode):
    """Lets Python and NumPy read the memory of tensors, which functional ones do not have."""

    def __init__(self, listener: Reader) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.numpy, Tensor.__array__, Tensor.tolist):
            args = (plain_tensor(args[0]), *args[1:])
            if self._listener.depends(args[0]):
                self._listener.asked()
        return function(*args, **(kwargs or {}))


def plain_tensor(value: Any) -> Any:
    """Return what a functional tensor holds; anything else as it is."""
    if not isinstance(value, Tensor) or not torch._is_functional_tensor(value):
        return value
    torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
    return torch._from_functional_tensor(value)


def is_printed() -> bool:
    """Whether a tensor is being printed, or an assertion checked: what depends on that changes no output."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch._tensor_str" or frame.f_code.co_name == "_assert":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _whole(module: nn.Module) -> Relu:
    """The operation of one of `WHOLE`."""
    if isinstance(module, Qcfs):
        return Relu(module.thresholds.detach().double().cpu().numpy(), module.levels)
    return Relu(np.ones(1), ceiling=1.0)


def _is_step(module: nn.Module) -> bool:
    """Whether ``module`` is named as one step: its forward is PyTorch's own, or it is one operation here."""
    if isinstance(module, (*WHOLE, Step)):
        return True
    defined = getattr(type(module).forward, "__module__", "") or ""
    is_torch = defined.startswith(("torch.nn.", "torch.ao.nn.", "torchvision.transforms."))
    return is_torch and not isinstance(module, nn.Sequential | nn.DataParallel)


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
