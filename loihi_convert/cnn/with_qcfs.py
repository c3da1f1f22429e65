"""QCFS activations in any CNN: every ReLU that its forward calls becomes a `qcfs.Qcfs`.

The user's ``forward`` runs as it is. While it runs, torch reports each call of a function (`torch.overrides`), and the
k-th call of a ReLU becomes the k-th activation. So functions, methods and modules are treated alike, and a module that
is called several times gets an activation for each call. A ReLU of weights, whose size does not depend on the number of
images, stays.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from loihi_convert.cnn.design import scores_of
from loihi_convert.cnn.qcfs import Qcfs, covering_thresholds
from loihi_convert.errors import UnsupportedModelError, UsageError

ReluFunction = Callable[[Any], Any]

_RELUS: Final = ("relu", "relu_", "relu6")
_CLAMPS: Final = ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_", "hardtanh", "hardtanh_")


class WithQcfs(nn.Module):
    """A copy of a CNN with `qcfs.Qcfs` activations.

    ReLU, ReLU6 and a clamp at 0 from below are replaced; other activations stay.

    Parameters
    ----------
    cnn
        The CNN; it is not changed.
    images
        Images as ``cnn`` takes them, ``(N, C, ...)``, for the initial thresholds: each covers `qcfs.COVERED_SHARE` of
        the positive activations of its channel. Two images suffice if thresholds are loaded afterwards.
    levels
        L.

    Attributes
    ----------
    timesteps
        The T for which its spiking network was trained; None if it was not.
    validation_accuracy
        That of the step functions after a training by `fine_tune`, 0..1; otherwise None.
    spiking_accuracy
        That of the spiking network on the same images after such a training with ``timesteps``; otherwise None.
    before
        After it, the CNN before fine-tuning, in a tuple, because torch would add the tensors of a module to the state
        dict; otherwise empty.

    Raises
    ------
    UsageError
        If ``cnn`` calls no ReLU.
    """

    def __init__(self, cnn: nn.Module, images: Tensor, levels: int) -> None:
        super().__init__()
        self.timesteps: int | None = None
        self.validation_accuracy: float | None = None
        self.spiking_accuracy: float | None = None
        self.before: tuple[nn.Module, ...] = ()
        self.cnn = copy.deepcopy(cnn)
        thresholds: list[Tensor] = []
        sizes: list[list[int]] = []

        def sized(number: int, x: Tensor, relu: ReluFunction) -> Tensor:
            y: Tensor = relu(x)
            # A ReLU of the pixels themselves changes nothing, and is not replaced: no size depends on the images.
            sizes[-1].append(0 if x.data_ptr() == some.data_ptr() and torch.equal(x, y) else x.numel())
            return y

        def measured(number: int, x: Tensor, relu: ReluFunction) -> Tensor:
            y: Tensor = relu(x)
            if self._place(number) is not None:
                thresholds.append(covering_thresholds(y))
            return y

        is_training = self.cnn.training
        self.cnn.eval()
        with torch.no_grad():
            for some in (images[:2], torch.cat([images[:2], images[:1]])):
                sizes.append([])
                with _Replaced(sized):
                    self.cnn(some)
            index = itertools.count()
            self._places = [None if two == three else next(index) for two, three in zip(*sizes, strict=False)]
            with _Replaced(measured):
                self.cnn(images)
        self.cnn.train(is_training)
        if not thresholds:
            expected = "replaces ReLU, ReLU6 and clamp(min=0)"
            raise UsageError("found a CNN without ReLU", where="qcfs_levels", expected=expected)
        self.activations = nn.ModuleList(Qcfs(len(threshold), levels) for threshold in thresholds)
        with torch.no_grad():
            for activation, threshold in zip(self.activations, thresholds, strict=True):
                activation.get_parameter("threshold").copy_(threshold)

    @property
    def levels(self) -> int:
        """Levels L of every activation."""
        first = self.activations[0]
        assert isinstance(first, Qcfs)
        return first.levels

    def forward(self, x: Tensor) -> Tensor:
        replaced = _Replaced(self._activated)
        with replaced:
            scores: Tensor = scores_of(self.cnn(x))
        if replaced.calls != len(self._places):
            raise UnsupportedModelError(
                f"called {replaced.calls} ReLUs, and {len(self._places)} the first time",
                where=type(self.cnn).__name__,
                expected="must do the same computation for every image",
            )
        return scores

    def _activated(self, number: int, x: Any, relu: ReluFunction) -> Any:
        place = self._place(number)
        return relu(x) if place is None else self.activations[place](x)

    def _place(self, number: int) -> int | None:
        """The activation of a call; None for a ReLU of weights, and for one too many, which `forward` reports."""
        return self._places[number] if number < len(self._places) else None


class _Replaced(TorchFunctionMode):
    """While active, the k-th ReLU called, from 0, is ``activation(k, inputs, the ReLU itself)``."""

    def __init__(self, activation: Callable[[int, Any, ReluFunction], Any]) -> None:
        super().__init__()
        self._activation, self.calls = activation, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", ""), dict(kwargs or {})
        if not _is_relu(name, args, given):
            return func(*args, **given)
        x, rest = (args[0], args[1:]) if args else (given.pop("input"), ())
        is_in_place = name.endswith("_") or given.get("inplace", False)
        number, self.calls = self.calls, self.calls + 1
        if not is_in_place:
            return self._activation(number, x, lambda values: func(values, *rest, **given))
        # A copy, as the gradient needs x.
        y: Tensor = self._activation(number, x.clone(), lambda values: func(values, *rest, **given))
        if y.shape == x.shape:
            return x.copy_(y)
        # Spikes of several steps do not fit into x. A forward that goes on with x instead of y must not pass unnoticed.
        x.detach().fill_(torch.nan)
        return y


def _is_relu(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    if name in _RELUS:
        return True
    if name not in _CLAMPS:
        return False
    low = next((given[key] for key in ("min", "min_val") if key in given), args[1] if len(args) > 1 else None)
    return isinstance(low, int | float) and low == 0
