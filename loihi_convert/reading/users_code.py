"""The user's own code: imported as by Python and executed, because the user has named it, and the models that it makes.

Code runs in one thread at a time, and its errors are told with the user's own line.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import io
import linecache
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy

from loihi_convert.cnn.design import scores_of
from loihi_convert.errors import (
    InputError,
    UnsupportedModelError,
    UsageError,
    did_you_mean,
    first_line,
    is_lack_of_memory,
)
from loihi_convert.ground.arrays import Shape
from loihi_convert.reading.graph import BEFORE_QUANTIZATION

_ARCH: Final = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<name>\w+(\.\w+)*)(?P<arguments>\(.*\))?", re.DOTALL)

# A `FloatFunctional` is there before quantization, too.
_QUANTIZED: Final = re.compile(
    r"torch\.(ao\.)?nn\.\w*\.?(quantized|qat)\.(?!.*FloatFunctional)|torch\.ao\.quantization\.(observer|fake_quantize)"
)

_UNSEEN: Final = {"torch", "numpy", "loihi_convert", *sys.stdlib_module_names} - {"__main__"}
"""Packages whose lines are not the user's."""

# Few CNNs have as many input channels.
_UNLIKE_CHANNELS: Final = 11

_ALONE: Final = threading.RLock()

_Result = TypeVar("_Result")


@contextlib.contextmanager
def users_code() -> Iterator[None]:
    """Run the user's code, which prints on stderr; in one thread, as all share standard output."""
    with _ALONE, contextlib.redirect_stdout(sys.stderr):
        yield


def users_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the first line of the user's code, or of a library of models, in ``frames``: ``file, line n, 'text'``.

    Empty if all are of torch, NumPy or Python.
    """
    for frame, number in frames:
        path = frame.f_code.co_filename
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _UNSEEN and not path.startswith("<"):
            text = linecache.getline(path, number).strip()
            return f"{Path(path).name}, line {number}" + (f", {text!r}" if text else "")
    return ""


def told(error: BaseException) -> str:
    """Return the user's line that fails, if there is one, and what the error says."""
    line = users_line(reversed([*traceback.walk_tb(error.__traceback__)]))
    return (f"{line}: " if line else "") + first_line(error)


def require_not_of_machine(error: BaseException) -> None:
    """Raise ``error`` again if the machine failed, such as with a full memory or disk, and not the model."""
    if isinstance(error, OSError) or is_lack_of_memory(error):
        raise error


def build_cnn(arch: str) -> nn.Module:
    """Return the untrained module named by ``arch``; see `source.open_source`.

    Raises
    ------
    UsageError
        If ``arch`` is not ``package.module:factory``, with or without arguments, cannot be imported, or fails.
    UnsupportedModelError
        As in `require_layers`.
    """
    found = _ARCH.fullmatch(arch)
    if found is None:
        raise UsageError(
            f"found {arch!r}",
            where="arch",
            expected="must be package.module:factory, such as nets.small:make_cnn (names, not paths)",
        )
    module_name, name = found["module"], found["name"]
    positional, keywords = _arguments(found["arguments"] or "()")
    with _current_folder_first():
        target: Any = run_users_code(f"importing {module_name}", lambda: importlib.import_module(module_name))
        for part in name.split("."):
            if not hasattr(target, part):
                near = did_you_mean(part, [each for each in vars(target) if not each.startswith("_")])
                raise UsageError(f"{module_name} does not define {name}", where="arch", hint=near)
            target = getattr(target, part)
        if isinstance(target, nn.Module) and not found["arguments"]:
            made: object = copied(target)
        else:
            made = run_users_code(f"calling {name}", lambda: target(*positional, **keywords))
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returns {article(made)}", where="arch", expected="must return a torch.nn.Module")
    model = _with_plain_parts(unwrapped(made))
    require_layers(model)
    return model


def named(arch: object) -> str:
    """Return ``package.module:factory`` for a class or function, and a name as it is.

    Raises
    ------
    UsageError
        If ``arch`` is neither.
    """
    if isinstance(arch, str):
        return arch
    name = getattr(arch, "__qualname__", None)
    if not callable(arch) or name is None or "<" in name:
        raise UsageError(
            f"found {article(arch) if name is None else name}",
            where="arch",
            expected="must be package.module:factory, or a class or function at the top level of a module",
            hint="Or build the CNN, load its weights, and pass it as `model`.",
        )
    return f"{arch.__module__}:{name}"


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """Put the current folder first on the path."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def run_users_code(doing: str, call: Callable[[], _Result]) -> _Result:
    """Return the result of ``call``, with its output on stderr; turn any exception into one sentence with its place."""
    try:
        with users_code():
            return call()
    # SystemExit: a script without `if __name__ == "__main__"`.
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, SystemExit):
            hint = 'It must not end the program: put what runs as a script under if __name__ == "__main__".'
        elif isinstance(error, ModuleNotFoundError):
            hint = f"Install {error.name}, or start Python in the folder of your own."
        found = f"{doing} fails: {type(error).__name__}: {told(error)}"
        raise UsageError(found, where="arch", hint=hint) from error


def _arguments(text: str) -> tuple[list[object], dict[str, object]]:
    """The positional and keyword arguments in ``text``, such as ``(10, width=0.5)``; only literals are allowed."""
    try:
        call = ast.parse(f"factory{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        named = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        if "**" in named:
            raise ValueError
        return [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"found the arguments {text}",
            where="arch",
            expected="must be numbers, strings, True, False, None, or tuples, lists and dicts of these",
        ) from error


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy without wrappers; tensors computed from parameters, as by weight norm, are constants in it."""
    module = unwrapped(module)
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return _with_plain_parts(copy.deepcopy(module, computed))


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        # Detected by attribute: importing the class of compiled modules takes seconds.
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def without_wrappers(module: nn.Module) -> nn.Module:
    """Return what is inside `unwrapped` ones of ``module``; a copy if a part of it is compiled."""
    module = unwrapped(module)
    is_plain = not any(hasattr(part, "_orig_mod") for part in module.modules())
    return module if is_plain else copied(module)


def _with_plain_parts(model: nn.Module) -> nn.Module:
    """Return ``model``, in which, changed in place, compiled parts are what they compile, and no GPUs are asked for."""
    for part in model.modules():
        if isinstance(part, nn.DataParallel):
            part.device_ids = []
        for name, inner in part._modules.items():
            part._modules[name] = getattr(inner, "_orig_mod", inner)
    return model


def plain_copy(module: object) -> nn.Module:
    """Return a float32 copy of ``module`` on the CPU, in eval mode, without gradients and without wrappers.

    Raises
    ------
    UsageError
        If it is not an ``nn.Module``.
    UnsupportedModelError
        As in `require_weights`, or if it cannot be copied.
    MemoryError, RuntimeError
        If memory ran out, unchanged.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"found {article(module)}", where="model", expected="must be a torch.nn.Module")
    module = unwrapped(module)
    require_weights(module)
    try:
        found = copied(module).cpu().float()
        for parameter in _tensors(found.modules(), with_buffers=False):
            parameter.requires_grad_(False)
        # A user's `train`, which it calls, may return nothing.
        found.eval()
        return found
    # Copying a user's module may fail in any way, for example if it holds a tensor with a gradient function.
    except Exception as error:
        require_not_of_machine(error)
        raise UnsupportedModelError(
            f"cannot be copied ({type(error).__name__}: {error})",
            where=type(module).__name__,
            hint="Build a new one and load its state dict.",
        ) from error


def require_weights(model: nn.Module) -> None:
    """Raise the errors of `require_layers`, and an `UnsupportedModelError` if lazy modules have no weights yet."""
    require_layers(model)
    if any(map(is_lazy, _tensors(model.modules()))):
        raise UnsupportedModelError(
            "has lazy modules with uninitialized weights",
            where=type(model).__name__,
            expected="must be trained",
            hint="Load its state dict, or call it with a batch of images, first.",
        )


def require_layers(model: nn.Module) -> None:
    """Refuse what another tool of torch made of a module, and a module without numbers.

    Raises
    ------
    UnsupportedModelError
        If a part of ``model`` is TorchScript, comes from torch.export, is quantized, or is on the meta device.
    UsageError
        If torch makes new tensors elsewhere than on the CPU, where the CNN is read.
    """
    # `torch.get_default_device`, which torch 2.3 has not yet.
    if (device := torch.empty(0).device).type != "cpu":
        raise UsageError(f"found {device}", where="torch's default device", expected="must be cpu")
    for name, part in model.named_modules():
        nodes = getattr(getattr(part, "graph", None), "nodes", ()) if isinstance(part, fx.GraphModule) else ()
        if isinstance(part, torch.jit.ScriptModule) or any(isinstance(node.target, OpOverload) for node in nodes):
            made = "TorchScript" if isinstance(part, torch.jit.ScriptModule) else "made by torch.export"
            found, hint = f"is {made}", "Convert the module that it was made of; state_dict() has its weights."
        elif _QUANTIZED.match(f"{type(part).__module__}.{type(part).__name__}"):
            found, hint = "is quantized, or prepared for it", BEFORE_QUANTIZATION
        elif any(tensor.is_meta for tensor in _tensors([part])):
            found, hint = "is on the meta device", "Build it on the CPU, and load its state dict."
        else:
            continue
        raise UnsupportedModelError(
            found, where=name or type(part).__name__, expected="must be an nn.Module of layers with weights", hint=hint
        )


def _tensors(parts: Iterable[nn.Module], *, with_buffers: bool = True) -> Iterator[Tensor]:
    """The own parameters and buffers of ``parts``, whose classes may have a method ``parameters`` of their own."""
    for part in parts:
        found = (*part._parameters.values(), *(part._buffers.values() if with_buffers else ()))
        yield from (each for each in found if each is not None)


def article(value: object) -> str:
    """Return what ``value`` is, as in "a list"."""
    kind = type(value).__name__
    return kind if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


# Runs of a model before it is read.


def shape_taken(model: nn.Module, input_shape: Shape) -> Shape:
    """Return the shape in which ``model`` takes images ``input_shape``, ``(C, H, W)``; found by running the model.

    ``(C, L)`` if it takes signals, which have one row; otherwise the same. A model that takes both, and computes
    something else for each, takes signals. Of one channel, ``(H, W)`` or ``(L,)`` if it takes none of these, or gives a
    vector of outputs only without the axis of the channel.

    Raises
    ------
    InputError
        If it does not accept images of ``input_shape``, or cannot be called.
    """
    channels, height, width = input_shape
    shapes = [input_shape] if height > 1 else [input_shape, (channels, width)]
    # A few images, but not as many as channels: a Conv2d would take C signals for one image.
    taken, failures = _outputs(model, shapes, channels + 1 if channels < _UNLIKE_CHANNELS else 2)
    if channels == 1 and not any(_are_vectors(outputs) for outputs in taken.values()):
        # Here it would take as many images as it has input channels for one.
        alone, _ = _outputs(model, [(height, width) if height > 1 else (width,)], _UNLIKE_CHANNELS)
        if not taken or any(_are_vectors(outputs) for outputs in alone.values()):
            taken = alone
    if taken:
        return shapes[-1] if len(taken) > 1 and _differ(*taken.values()) else next(iter(taken))
    raise InputError(
        f"does not accept images of shape {' or '.join(map(str, shapes))} ({told(failures[-1])})",
        where=type(model).__name__,
        hint="Its forward must take float32 images alone, on the CPU, of the size and channels that it was trained on.",
    ) from failures[-1]


def _outputs(model: nn.Module, shapes: Sequence[Shape], count: int) -> tuple[dict[Shape, Any], list[Exception]]:
    """The outputs of ``model`` for ``count`` images, by the shapes in which it accepts them, and its other errors."""
    images = _random_like(torch.zeros(count, *shapes[0], dtype=dtype_of(model)))
    # On an error a traced module prints its code, with a traceback, before it raises the error.
    is_traced = any(isinstance(module, fx.GraphModule) for module in model.modules())
    taken: dict[Shape, Any] = {}
    failures: list[Exception] = []
    for shape in shapes:
        silent = contextlib.redirect_stderr(io.StringIO()) if is_traced else contextlib.nullcontext()
        try:
            with torch.no_grad(), users_code(), silent:
                taken[shape] = scores_of(model(images.reshape(count, *shape)))
        except Exception as error:
            require_not_of_machine(error)
            failures.append(error)
    return taken, failures


def _are_vectors(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) and outputs.ndim <= 2


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the images that a model takes: that of its weights."""
    return next((each.dtype for each in nn.Module.parameters(model) if each.is_floating_point()), torch.float32)


def require_not_random(model: nn.Module, example: Tensor) -> None:
    """Refuse a model whose outputs for the same random images like ``example`` differ between two calls."""
    images = _random_like(example)
    with torch.no_grad(), users_code():
        first, second = (scores_of(model(images.clone())) for _ in range(2))
    if _differ(first, second):
        raise UnsupportedModelError(
            "its outputs for the same images differ from call to call",
            where=type(model).__name__,
            expected="must compute the same outputs for the same images at each call",
            hint="Leave random numbers, and changes of its state, out of its forward in eval mode.",
        )


def _random_like(example: Tensor) -> Tensor:
    return torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example)


def _differ(one: Any, other: Any) -> bool:
    """Whether two outputs differ by more than rounding; False if they are not tensors."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return one.shape != other.shape or not one.allclose(other, rtol=1e-3, atol=1e-5, equal_nan=True)
