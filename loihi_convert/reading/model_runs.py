"""Runs of a model before it is traced: the shape of images that it takes, and that nothing else changes its outputs."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from loihi_convert.cnn.class_scores import scores_of
from loihi_convert.errors import InputError, UnsupportedModelError, first_line, is_lack_of_memory
from loihi_convert.ground.arrays import Shape

# In errors of torch's convolutions and matrix products.
_OTHER_DTYPE: Final = ("Input type (", "same dtype", "expected scalar type")

# In errors of shapes, or in the line that raises them.
_OF_SHAPES: Final = re.compile(r"shape|size|channel|dim|height|width|pixel|\dD\b|\d ?x ?\d", re.IGNORECASE)

# In the error of a module without one.
_NO_FORWARD: Final = 'required "forward" function'

# Few CNNs have as many input channels.
_UNLIKE_CHANNELS: Final = 11

_ALONE: Final = threading.RLock()


@contextlib.contextmanager
def users_code() -> Iterator[None]:
    """Run the user's code: in one thread at a time, and what it prints on stderr, as it is not output of a command.

    Standard output belongs to all threads.
    """
    with _ALONE, contextlib.redirect_stdout(sys.stderr):
        yield


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
    taken, failures = _outputs(model, shapes, _unlike(channels))
    if channels == 1 and not any(_are_vectors(outputs) for outputs in taken.values()):
        # Here it would take as many images as it has input channels for one.
        alone, _ = _outputs(model, [(height, width) if height > 1 else (width,)], _UNLIKE_CHANNELS)
        if not taken or any(_are_vectors(outputs) for outputs in alone.values()):
            taken = alone
    if taken:
        return shapes[-1] if len(taken) > 1 and _differ(*taken.values()) else next(iter(taken))
    kind, failure = "images", failures[0]
    if _NO_FORWARD in str(failure):
        raise UnsupportedModelError(
            f"cannot be called ({first_line(failure)})",
            where=type(model).__name__,
            expected="must compute its outputs in forward",
            hint="Wrap it in a module whose forward calls the method that returns them.",
        ) from failure
    if any(sign in str(failure) for sign in _OTHER_DTYPE):
        raise InputError(
            f"casts images to another dtype than that of its weights ({place_of(failure)}{first_line(failure)})",
            where=type(model).__name__,
            expected="its weights are read as float32",
            hint="Leave out the casts in its forward, such as x.double().",
        ) from failure
    hint = _advice(failure)
    numbers = channels * height * width
    # (C, H, W) if the shape is (H, W, C), and if images (C, H, W) were taken for (H, W, C).
    others = [(width, channels, height), (height, width, channels)]
    accepted = [other for other in others if other != input_shape and _outputs(model, [other], _unlike(other[0]))[0]]
    if _outputs(model, [(numbers,)], _UNLIKE_CHANNELS)[0]:
        hint = f"It takes vectors of {numbers} numbers: put nn.Flatten() before it."
    elif accepted:
        hint = f"It accepts {accepted[0]}: if that is (C, H, W), pass it as `input_shape`."
    if any(isinstance(module, nn.Conv1d) for module in model.modules()):
        hint = "It takes signals: its input shape is (C, L)."
        if len(shapes) > 1:
            kind, failure, input_shape = "signals", failures[1], shapes[1]
            hint = "Use signals of the length, and with the channels, that it was trained on."
    elif len(shapes) > 1:
        sizes = (1, input_shape[0], input_shape[2])
        hint = f"That is the shape of a signal (C, L). That of an image is (C, H, W), such as {sizes}."
    raise InputError(
        f"does not accept {kind} of shape {input_shape} ({place_of(failure)}{first_line(failure)})",
        where=type(model).__name__,
        hint=hint,
    ) from failure


def _advice(failure: Exception) -> str:
    """What to do if a model does not accept images."""
    message = str(failure)
    if "cuda" in message.lower() or "NVIDIA" in message:
        return "Its forward asks for a GPU: make tensors by x.new_zeros(...) or device=x.device, and leave out .cuda()."
    is_index = isinstance(failure, TypeError) or "too many indices" in message
    if is_index or not _OF_SHAPES.search(place_of(failure) + message):
        return (
            "If its forward takes a dict or several inputs, wrap it in a module whose forward takes the images alone."
        )
    return "Use images of the size, and with the channels, that it was trained on."


def place_of(error: Exception) -> str:
    """Return the file, the line and its text, then a colon, of the user's code, or of a library of models, that fails.

    Empty if the error comes from a file of torch, NumPy or Python alone.
    """
    others = {"torch", "numpy", "loihi_convert", *sys.stdlib_module_names} - {"__main__"}
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in others
        and not frame.f_code.co_filename.startswith("<")
    ]
    if not places:
        return ""
    path, line = places[-1]
    text = linecache.getline(path, line).strip()
    return f"{Path(path).name}, line {line}{f', {text!r}' if text else ''}: "


def _unlike(channels: int) -> int:
    """A few images, but not as many as channels: a Conv2d would take C signals for one image."""
    return channels + 1 if channels < _UNLIKE_CHANNELS else 2


def _outputs(model: nn.Module, shapes: Sequence[Shape], count: int) -> tuple[dict[Shape, Any], list[Exception]]:
    """The outputs of ``model`` for ``count`` images, by the shapes in which it accepts them, and its other errors."""
    images = _random_like(torch.zeros(count, *shapes[0], dtype=dtype_of(model)))
    # On an error a traced module prints its code, with a traceback, before it raises the error.
    is_traced = any(isinstance(module, fx.GraphModule) for module in model.modules())
    taken: dict[Shape, Any] = {}
    failures: list[Exception] = []
    for shape in shapes:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(users_code())
                if is_traced:
                    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
                taken[shape] = scores_of(model(images.reshape(count, *shape)))
        except Exception as error:
            require_not_of_machine(error)
            failures.append(error)
    return taken, failures


def _are_vectors(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) and outputs.ndim <= 2


def require_not_of_machine(error: Exception) -> None:
    """Raise ``error`` again if the machine failed, such as with a full memory or disk, and not the model."""
    if isinstance(error, OSError) or is_lack_of_memory(error):
        raise error


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
