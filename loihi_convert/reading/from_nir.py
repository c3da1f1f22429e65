"""A NIR file -> a torch module with `FiringRate` in place of its IF neurons; needs the package ``nir``.

The file holds a spiking network, so its thresholds are not balanced again: the converted network has them, up to
rounding to Loihi's integers. A neuron with threshold theta that receives ``w x + b`` spikes as one with threshold 1
that receives ``(w x + b) / theta``, with either reset; so each synapse is divided by the thresholds after it, and a
spike adds 1 to the input of the next layer, as in NIR.

What NIR leaves open is read as follows. One step adds the whole input, ``r I dt`` with ``dt = 1 / r``: ``r`` is 1 or,
in SpikingJelly's files, 10,000. V starts at 0. It resets to ``v_reset``, which must be 0 (hard reset, as NIR defines
IF), unless the user knows that the tool subtracts the threshold (sinabs). NIR fires above the threshold,
Loihi at it: another spike only if V equals it exactly.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import nn

from loihi_convert.errors import (
    CheckpointError,
    InputError,
    UnsupportedModelError,
    UsageError,
    first_line,
    is_lack_of_memory,
)
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import asked
from loihi_convert.ground.hdf5 import require_plain
from loihi_convert.reading.operations import placed_at
from loihi_convert.reading.step import FiringRate

_SUPPORTED: Final = "Conv2d, Linear, Affine, AvgPool2d, SumPool2d, Flatten, IF, and I before the Output"

_EMPTY: Final = nn.Sequential()
_Synapse = TypeVar("_Synapse", nn.Conv2d, nn.Linear)


def read_nir(path: Path, input_shape: Shape | None) -> tuple[nn.Module, Shape, Readout, tuple[str, ...]]:
    """Return the network in the NIR file at ``path``, the shape ``(C, H, W)`` of its images, its readout, and notes.

    The network is in eval mode and without gradients. The readout is ``"spikes"`` if the graph ends in IF neurons,
    which the network leaves out; otherwise ``"potential"``. The notes are for the user, one sentence each.

    Parameters
    ----------
    path
        The file.
    input_shape
        ``(C, H, W)``; required if the file takes its input flat.

    Raises
    ------
    PlatformError
        If the package ``nir`` is not installed.
    CheckpointError
        If the file is missing or damaged.
    UsageError
        If ``input_shape`` is missing, or does not fit the file.
    UnsupportedModelError
        If the graph is not a chain, or contains a node that is not supported.
    """
    graph = _read_graph(path)
    if graph.metadata.get("producer") == "loihi-convert":
        raise InputError(
            "was written by loihi-convert, in Loihi's integers",
            where=path,
            hint="Run the .net file of the same network, or export its CNN again.",
        )
    (first, start), *nodes = _chain(graph)
    with placed_at(first):
        shape, is_flat = _input_shape(path, start, input_shape)
    reading = _Reading(OrderedDict({"flatten_input": nn.Flatten()}) if is_flat else OrderedDict())
    for index, (name, node) in enumerate(nodes[:-1]):
        with placed_at(name):
            reading.take(name, node, is_last=index == len(nodes) - 2)
    model, readout, notes = reading.done()
    return model.float().requires_grad_(False).eval(), shape, readout, notes


def _read_graph(path: Path) -> Any:
    nir = optional_module("nir", f"{path.name} is a NIR file")
    if not asked(path, Path.is_file, CheckpointError):
        raise CheckpointError("not found" if not path.exists() else "not a file", where=path)
    try:
        content = path.read_bytes()
        require_plain(content)
        # Shapes are not needed, and those of files from older versions are often missing.
        return nir.read(io.BytesIO(content), type_check=False)
    except PermissionError as error:
        raise CheckpointError("cannot be read (Permission denied)", where=path, hint="Make it readable.") from error
    except InputError as error:
        raise CheckpointError(error.found, where=f"{path}: {error.where}" if error.where else path) from error
    # nir raises many exceptions on damaged files, with assertions among them.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        reason = first_line(error)
        raise CheckpointError(
            f"damaged, or not a NIR graph ({reason})",
            where=path,
            expected="must hold a nir.NIRGraph",
            hint="Write it again with `nir.write`.",
        ) from error


def _chain(graph: Any) -> list[tuple[str, Any]]:
    """The nodes from Input to Output, or an error if there is more than one path."""
    edges = [(str(source), str(target)) for source, target in graph.edges]
    unknown = {name for edge in edges for name in edge} - set(graph.nodes)
    if unknown:
        raise CheckpointError(f"has an edge to {min(unknown)}, which it does not hold", where="NIR graph")
    for kind in ("Input", "Output"):
        if (count := sum(type(node).__name__ == kind for node in graph.nodes.values())) != 1:
            raise UnsupportedModelError(
                f"has {count} {kind} nodes", where="NIR graph", expected="must have one Input and one Output"
            )
    name = next(name for name, node in graph.nodes.items() if type(node).__name__ == "Input")
    found = [(name, graph.nodes[name])]
    while type(graph.nodes[name]).__name__ != "Output":
        following = [target for source, target in edges if source == name]
        before = [source for source, target in edges if target == name]
        if len(following) != 1 or len(before) > 1 or len(found) > len(graph.nodes):
            raise UnsupportedModelError(
                f"has {len(before)} inputs and {len(following)} outputs",
                where=name,
                expected="must be in a chain: one input, one output, no loops",
                hint="For skip connections or recurrence, export the CNN itself.",
            )
        (name,) = following
        found.append((name, graph.nodes[name]))
    if len(found) < len(graph.nodes):
        alone = min(set(graph.nodes) - {name for name, _ in found})
        raise UnsupportedModelError(
            "is not on the path from Input to Output", where=alone, expected="must be in one chain"
        )
    return found


def _input_shape(path: Path, node: Any, given: Shape | None) -> tuple[Shape, bool]:
    """The shape of an image, and whether the file takes it flat."""
    recorded: Shape = _integers(node.input_type["input"])
    if len(recorded) == 4 and recorded[0] == 1:
        # With the batch axis, as some tools write it.
        recorded = recorded[1:]
    if len(recorded) == 1:
        if given is None or math.prod(given) != recorded[0]:
            raise UsageError(
                f"found {given}" if given else f"{path.name} takes its input flat",
                where="input_shape",
                expected=f"must be (C, H, W) with {recorded[0]} values",
            )
        return given, True
    if len(recorded) != 3 or min(recorded) < 1:
        raise UnsupportedModelError(f"takes inputs of shape {recorded}", expected="must be (C, H, W)")
    if given not in (None, recorded):
        raise UsageError(f"found {given}", where="input_shape", expected=f"must be {recorded}, as in {path.name}")
    return recorded, False


class _Reading:
    """The modules read so far, and the synapse that thresholds still to come divide."""

    def __init__(self, modules: OrderedDict[str, nn.Module]) -> None:
        self._modules = modules
        self._synapse: nn.Conv2d | nn.Linear | None = None
        # Of sum pooling, as a multiple of average pooling.
        self._factor = 1.0
        self._resistances: dict[str, float] = {}
        self._ends_in_neurons = False

    def take(self, name: str, node: Any, *, is_last: bool) -> None:
        """Add one node."""
        kind = type(node).__name__
        if kind in ("Conv2d", "Linear", "Affine"):
            self._synapse = _convolution(node) if kind == "Conv2d" else _dense(node)
            self._synapse.weight.data *= self._factor
            self._factor = 1.0
            self._add(name, self._synapse)
        elif kind in ("AvgPool2d", "SumPool2d"):
            self._add(name, self._pooling(node, kind))
        elif kind == "Flatten":
            self._add(name, nn.Flatten())
        elif kind == "IF":
            self._fold(_thresholds(node))
            self._record_resistance(name, node)
            self._ends_in_neurons = is_last
            if not is_last:
                self._add(name, FiringRate())
            self._synapse = None
        elif kind == "I" and is_last:
            self._record_resistance(name, node)
        else:
            hint = _HINTS.get(kind, "")
            raise UnsupportedModelError(f"is {_article(kind)}", expected=f"supported: {_SUPPORTED}", hint=hint)

    def done(self) -> tuple[nn.Module, Readout, tuple[str, ...]]:
        if not self._ends_in_neurons:
            with placed_at("Output"):
                self._fold(np.ones(1))
        if not any(isinstance(module, FiringRate) for module in self._modules.values()) and not self._ends_in_neurons:
            raise UnsupportedModelError(
                "has no IF neurons",
                where="NIR graph",
                expected="must be a spiking network",
                hint="Export the CNN itself.",
            )
        values = set(self._resistances.values())
        if len(values) > 1:
            name, other = list(self._resistances)[:2]
            raise UnsupportedModelError(
                f"has r = {self._resistances[name]:g}, {other} has r = {self._resistances[other]:g}",
                where=name,
                expected="must be the same for all neurons: 1 / dt",
            )
        (resistance,) = values
        notes = () if resistance == 1 else (f"r = {resistance:g} is read as 1 / dt: one step adds the whole input.",)
        return nn.Sequential(self._modules), "spikes" if self._ends_in_neurons else "potential", notes

    def _add(self, name: str, module: nn.Module) -> None:
        # A module's name may not contain a dot, nor be that of another attribute of nn.Sequential.
        chosen, number = name.replace(".", "_"), 1
        while chosen in self._modules or hasattr(_EMPTY, chosen):
            number += 1
            chosen = f"{name.replace('.', '_')}_{number}"
        self._modules[chosen] = module

    def _fold(self, thresholds: Array) -> None:
        """Divide the last synapse by ``thresholds``, one per neuron."""
        synapse = self._synapse
        if synapse is None:
            raise UnsupportedModelError(
                "does not follow a synapse", expected="must come after Conv2d, Linear or Affine"
            )
        channels = synapse.weight.shape[0]
        is_single = thresholds.size == 1
        if thresholds.ndim in (2, 4) and len(thresholds) == 1:
            # With the batch axis, as some tools write it.
            thresholds = thresholds[0]
        if not is_single and (thresholds.ndim not in (1, 3) or len(thresholds) != channels):
            raise UnsupportedModelError(
                f"has thresholds {thresholds.shape}",
                expected=f"must be one, ({channels},) or ({channels}, H, W), after {channels} channels",
            )
        rows = thresholds.reshape(1 if is_single else channels, -1)
        if not (rows == rows[:, :1]).all():
            raise UnsupportedModelError(
                "has thresholds that differ within a channel", expected="must be one threshold per channel"
            )
        gain = torch.from_numpy(np.array(self._factor / rows[:, 0], np.float64))
        self._factor = 1.0
        weight = synapse.weight.data.double()
        synapse.weight.data = (weight * gain.reshape(-1, *(1,) * (weight.ndim - 1))).float()
        if synapse.bias is not None:
            synapse.bias.data = (synapse.bias.data.double() * gain).float()

    def _record_resistance(self, name: str, node: Any) -> None:
        values = np.unique(np.asarray(node.r, np.float64))
        if len(values) != 1 or not np.isfinite(values[0]) or values[0] <= 0:
            found = f"has r from {values.min():g} to {values.max():g}"
            raise UnsupportedModelError(found, expected="must be one positive number")
        self._resistances[name] = float(values[0])

    def _pooling(self, node: Any, kind: str) -> nn.AvgPool2d:
        kernel, stride = _pair(node.kernel_size, 1), _pair(node.stride, 1)
        if kind == "SumPool2d":
            self._factor *= math.prod(kernel)
        return nn.AvgPool2d(kernel, stride, _pair(node.padding, 0))


_HINTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("LIF", "CubaLIF", "LI", "CubaLI"),
        "Neurons that leak have no equivalent in rate-based conversion; train with IF neurons.",
    ),
    "Threshold": "Use IF nodes.",
    "NIRGraph": "Write the graph without subgraphs.",
    "I": "It is read only as the readout, before the Output.",
}


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOL" and kind[:3] != "Lin" else f"a {kind}"


def _convolution(node: Any) -> nn.Conv2d:
    weight = _weight(node, 4, "(outputs, inputs / groups, height, width)")
    stride, dilation = _pair(node.stride, 1), _pair(node.dilation, 1)
    groups, *_ = _integers(node.groups)
    if groups < 1 or len(weight) % groups:
        found = f"has {groups} groups for {len(weight)} outputs"
        raise UnsupportedModelError(found, expected="must divide the outputs")
    kernel: Pair = (weight.shape[2], weight.shape[3])
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride=stride,
        padding=_padding(node.padding, kernel, stride, dilation),
        dilation=dilation,
        groups=groups,
    )
    return _filled(conv, weight, node.bias)


def _padding(given: Any, kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    if not isinstance(given, str):
        return _pair(given, 0)
    if given == "valid":
        return 0, 0
    if stride != (1, 1) or not all(side % 2 for side in kernel):
        raise UnsupportedModelError("has padding 'same' with a stride or an even kernel", expected="must be numbers")
    return dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)


def _dense(node: Any) -> nn.Linear:
    weight = _weight(node, 2, "(outputs, inputs)")
    bias = getattr(node, "bias", None)
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def _weight(node: Any, axes: int, expected: str) -> torch.Tensor:
    weight = torch.from_numpy(np.array(node.weight, np.float32))
    if weight.ndim != axes or not weight.numel():
        found = f"has a weight of shape {tuple(weight.shape)}"
        raise UnsupportedModelError(found, expected=f"must be {expected}, each at least 1")
    return weight


def _filled(synapse: _Synapse, weight: torch.Tensor, bias: Any) -> _Synapse:
    synapse.weight.data = weight
    if synapse.bias is not None:
        values = np.zeros(len(weight)) if bias is None else np.asarray(bias)
        if values.size != 1 and values.shape != (len(weight),):
            raise UnsupportedModelError(f"has a bias of shape {values.shape}", expected=f"must be ({len(weight)},)")
        values = np.broadcast_to(values.reshape(-1), len(weight))
        synapse.bias.data = torch.from_numpy(np.array(values, np.float32))
    return synapse


def _pair(value: Any, least: int) -> Pair:
    found = _integers(value)
    if len(found) not in (1, 2) or min(found) < least:
        raise UnsupportedModelError(f"has {found} as sizes", expected=f"must be one number or two, at least {least}")
    return found[0], found[-1]


def _integers(value: Any) -> tuple[int, ...]:
    found = np.atleast_1d(value)
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise UnsupportedModelError(f"has {found.tolist()} as sizes", expected="must be numbers")
    return tuple(int(number) for number in found.flat)


def _thresholds(node: Any) -> Array:
    thresholds, resets = np.asarray(node.v_threshold, np.float64), np.asarray(node.v_reset, np.float64)
    if not (np.isfinite(thresholds).all() and (thresholds > 0).all()):
        found = f"has a threshold of {thresholds.min():g}"
        raise UnsupportedModelError(found, expected="must be finite and above 0")
    if resets.any():
        found = f"resets to {resets.flat[np.abs(resets).argmax()]:g}"
        raise UnsupportedModelError(found, expected="must reset to 0")
    return thresholds
