"""The user's own code, imported as by Python and executed, because the user has named it."""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy

from loihi_convert.errors import UnsupportedModelError, UsageError, did_you_mean, is_lack_of_memory
from loihi_convert.ground.choices import Architecture
from loihi_convert.reading.model_runs import users_code
from loihi_convert.reading.operations import BEFORE_QUANTIZATION

_MAX_NAMES: Final = 4

# The beginnings of the files of Python, of installed packages, and of this one.
_NOT_THE_USERS: Final = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
    "<frozen ",
)

_ARCH: Final = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<name>\w+(\.\w+)*)(?P<arguments>\(.*\))?", re.DOTALL)

# A `FloatFunctional` is there before quantization, too.
_QUANTIZED: Final = re.compile(
    r"torch\.(ao\.)?nn\.\w*\.?(quantized|qat)\.(?!.*FloatFunctional)|torch\.ao\.quantization\.(observer|fake_quantize)"
)

_Result = TypeVar("_Result")


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
        is_built_in = arch in get_args(Architecture)
        raise UsageError(
            f"found {arch!r}",
            where="arch",
            expected="must be package.module:factory, such as nets.small:make_cnn (names, not paths)",
            hint=f"`train` takes {arch} as `architecture`; its checkpoints need none." if is_built_in else "",
        )
    module_name, name = found["module"], found["name"]
    positional, keywords = _arguments(found["arguments"] or "()")
    with _current_folder_first():
        target: Any = run_users_code(arch, f"importing {module_name}", lambda: importlib.import_module(module_name))
        for part in name.split("."):
            if not hasattr(target, part):
                raise UsageError(
                    f"{module_name} does not define {name}",
                    where="arch",
                    expected=f"it defines {listed(_callables(target, module_name, part))}",
                )
            target = getattr(target, part)
        if isinstance(target, nn.Module) and not found["arguments"]:
            made: object = copied(target)
        else:
            _require_arguments(module_name, name, target, positional, keywords)
            made = run_users_code(arch, f"calling {name}", lambda: target(*positional, **keywords))
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returns {article(made)}", where="arch", expected="must return a torch.nn.Module")
    model = unwrapped(made)
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


def run_users_code(arch: str, doing: str, call: Callable[[], _Result]) -> _Result:
    """Return the result of ``call``, with its output on stderr; turn any exception into one sentence with its place."""
    try:
        with users_code():
            return call()
    # SystemExit: a script without `if __name__ == "__main__"`.
    except (Exception, SystemExit) as error:
        module_name = arch.partition(":")[0]
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            near = did_you_mean(str(error.name), [path.stem for path in Path.cwd().glob("*.py")])
            raise UsageError(
                f"no module {error.name} in the current folder or the installed packages",
                where="arch",
                hint=f"Write {module_name.removesuffix('.py')}, without .py."
                if module_name.endswith(".py")
                else near or f'Start Python where "import {module_name}" works.',
            ) from error
        place = _place(error)
        # The text of a SyntaxError ends with its place.
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = (text or "without a message").splitlines()[0]
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name:
            missing = error.name.partition(".")[0]
            hint = f"Install {missing} in this Python environment; if it is your own, start Python in its folder."
        elif isinstance(error, SystemExit) and doing.startswith("importing "):
            hint = 'Put the part that runs as a script under if __name__ == "__main__".'
        elif isinstance(error, SystemExit):
            hint = "It must not end the program or read the command line, as parse_args() does."
        raise UsageError(
            f"{doing} fails: {type(error).__name__}: {reason} ({place})", where="arch", hint=hint
        ) from error


def _place(error: BaseException) -> str:
    """The file and line of a SyntaxError, or the last of the user's own in which ``error`` was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _callables(target: object, module_name: str, meant: str) -> list[str]:
    """Return the names of what ``target`` defines and can be called; of what it only imports, those near ``meant``."""
    public = {
        name: value
        for name, value in getattr(target, "__dict__", {}).items()
        if callable(value) and not name.startswith("_")
    }
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module_name]
    return own or difflib.get_close_matches(meant, public, n=_MAX_NAMES)


def _arguments(text: str) -> tuple[list[object], dict[str, object]]:
    """The positional and keyword arguments in ``text``, such as ``(10, width=0.5)``; only literals are allowed."""
    try:
        call = ast.parse(f"factory{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        if len(named) < len(call.keywords):
            raise ValueError
        return [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"found the arguments {text}",
            where="arch",
            expected="must be numbers, strings, True, False, None, or tuples, lists and dicts of these",
            hint="For anything else, name a function without arguments that makes the call.",
        ) from error


def _require_arguments(
    module_name: str, name: str, target: object, positional: Sequence[object], keywords: Mapping[str, object]
) -> None:
    """Raise a `UsageError` unless ``target`` can be called with these arguments."""
    if not callable(target):
        raise UsageError(f"{name} is {article(target)}", where="arch", expected="must be a class or a function")
    try:
        signature = inspect.signature(target)
    except ValueError:
        return
    try:
        given = set(signature.bind_partial(*positional, **keywords).arguments)
    except TypeError as error:
        hint = f"Its arguments: {signature}."
        raise UsageError(f"{name} cannot be called with these arguments: {error}", where="arch", hint=hint) from error
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in kinds and p.name not in given
    ]
    if missing:
        call = f"{name}({', '.join(f'{p}=...' for p in missing)})"
        raise UsageError(
            f"{name} needs arguments ({', '.join(missing)})",
            where="arch",
            hint=f'Give them, in quotes: "{module_name}:{call}", or name a function without arguments that returns '
            f"{call}.",
        )


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy, in which tensors computed from parameters, as by weight norm or pruning, are constants."""
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed)


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
    return module if is_plain else with_plain_parts(copied(module))


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
        is_exported = type(module).__name__ == "ExportedProgram"
        hint = "Pass the module that was exported, with the weights in its `state_dict`." if is_exported else ""
        if isinstance(module, Mapping):
            hint = "Load it into the CNN, cnn.load_state_dict(state), and pass that; or pass its path, with `arch`."
        raise UsageError(f"found {article(module)}", where="model", expected="must be a torch.nn.Module", hint=hint)
    module = unwrapped(module)
    require_weights(module)
    try:
        found = with_plain_parts(copied(module)).cpu().float()
        for parameter in _tensors(found.modules(), with_buffers=False):
            parameter.requires_grad_(False)
        # A user's `train`, which it calls, may return nothing.
        found.eval()
        return found
    # Copying a user's module may fail in any way, for example if it holds a tensor with a gradient function.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
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
        If a part of ``model`` is TorchScript, comes from torch.export, or is on the meta device.
    UsageError
        If torch makes new tensors elsewhere than on the CPU, where the CNN is read.
    """
    # `torch.get_default_device`, which torch 2.3 has not yet.
    if (device := torch.empty(0).device).type != "cpu":
        raise UsageError(
            f"found {device}",
            where="torch's default device",
            expected="must be cpu",
            hint="Call torch.set_default_device('cpu'); `device` chooses where to simulate.",
        )
    for name, part in model.named_modules():
        graph = getattr(part, "graph", None)
        if isinstance(part, torch.jit.ScriptModule):
            found, hint = "is TorchScript", "Convert the module that it was made of; state_dict() has its weights."
        elif isinstance(graph, fx.Graph) and any(isinstance(node.target, OpOverload) for node in graph.nodes):
            found, hint = (
                "comes from torch.export",
                "Convert the module that was exported; state_dict() has its weights.",
            )
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


def with_plain_parts(model: nn.Module) -> nn.Module:
    """Return ``model``, in which, changed in place, compiled parts are what they compile, and no GPUs are asked for."""
    for part in model.modules():
        if isinstance(part, nn.DataParallel):
            part.device_ids = []
        for name, inner in part._modules.items():
            part._modules[name] = getattr(inner, "_orig_mod", inner)
    return model


def listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def article(value: object) -> str:
    kind = type(value).__name__
    return kind if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
