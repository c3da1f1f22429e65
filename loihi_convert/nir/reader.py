"""A NIR file -> its network as a torch module, a step for each node; needs the package ``nir``.

The file holds a spiking network, so its thresholds are not balanced again: the converted network has them, up to
rounding to Loihi's integers. A neuron with threshold theta that receives ``w x + b`` spikes as one with threshold 1
that receives ``(w x + b) / theta``, with either reset; so each synapse is divided by the thresholds after it, and a
spike adds 1 to the input of the next layer, as in NIR. IF is then a `FiringRate`.

What NIR leaves open is read as follows. One step adds the whole input, ``r I dt`` with ``dt = 1 / r``: ``r`` is 1 or,
in SpikingJelly's files, 10,000. V starts at 0. It resets to ``v_reset``, which must be 0 (hard reset, as NIR defines
IF), unless the user knows that the tool subtracts the threshold (sinabs). NIR fires above the threshold,
Loihi at it: another spike only if V equals it exactly.

To read another kind of node, add a line to `OPERATIONS`, and a case to ``tests/test_from_nir.py``.
"""

from __future__ import annotations

import functools
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.errors import (
    CheckpointError,
    InputError,
    UnsupportedModelError,
    first_line,
    is_lack_of_memory,
)
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ground.choices import Readout
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import asked
from loihi_convert.ground.hdf5 import require_plain
from loihi_convert.reading.from_onnx import Layout
from loihi_convert.reading.graph import refuse
from loihi_convert.reading.recording import FiringRate, Step, named


def read_nir(path: Path, input_shape: Shape | None) -> tuple[nn.Module, Shape, Readout, tuple[str, ...]]:
    """Return the network in the NIR file at ``path``, the shape ``(C, H, W)`` of its images, its readout, and notes.

    The readout is ``"spikes"`` if the graph ends in IF neurons, of which the network only divides by the thresholds;
    otherwise ``"potential"``.

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
    InputError
        If the sizes in the file do not fit each other.
    """
    graph = _read_graph(path)
    if graph.metadata.get("producer") == "loihi-convert":
        raise InputError("was written by loihi-convert, in Loihi's integers", where=path)
    (first, start), *nodes, _ = _chain(graph)
    with named(first, "Input", "cannot be read"):
        recorded = _ints(start.input_type["input"])
    # With the batch axis, as some tools write it.
    sizes = tuple(recorded[1:] if len(recorded) == 4 and recorded[0] == 1 else recorded)
    layout = Layout(sizes, input_shape, path)
    steps = _folded(nodes)
    kinds = [step.kind for step in steps]
    if "IF" not in kinds:
        raise UnsupportedModelError("has no IF neurons", where="NIR graph", expected="must be a spiking network")
    currents = np.unique([value for _, node in nodes if hasattr(node, "r") for value in np.ravel(node.r)]).tolist()
    if len(currents) > 1 or not 0 < currents[0] < math.inf:
        raise UnsupportedModelError(
            f"has r = {', '.join(f'{each:g}' for each in currents)}",
            where="NIR graph",
            expected="must be the same positive number for all neurons: 1 / dt",
        )
    read_as = (f"r = {r:g} is read as 1 / dt: one step adds the whole input." for r in currents if r != 1)
    readout: Readout = "spikes" if kinds[-1] == "IF" else "potential"
    flat = [nn.Flatten()] if len(sizes) == 1 else []
    modules = [each.module() for each in steps[: -1 if readout == "spikes" else None]]
    model = nn.Sequential(*flat, *modules).eval()
    # Sizes that do not fit each other are reported with their node.
    model(torch.zeros(2, *layout.shape))
    return model, layout.shape, readout, (*layout.notes, *read_as)


def _folded(nodes: Sequence[tuple[str, Any]]) -> list[_Node]:
    """The steps of ``nodes``, with the thresholds and the factors of sums in the weights of synapses."""
    steps: list[_Node] = []
    synapse: _Node | None = None
    gain = 1.0
    for name, node in nodes:
        kind, is_last = type(node).__name__, node is nodes[-1][1]
        with named(name, kind, "cannot be read"):
            if kind not in OPERATIONS or (kind == "I" and not is_last):
                refuse("is not read", supported=f"{', '.join(OPERATIONS)} (I before the Output)")
            steps.append(step := _Node(name, kind, *OPERATIONS[kind](node)))
            if step.constants:
                synapse, gain = step, step.scaled(gain, weight_only=True)
            elif kind == "SumPool2d":
                gain *= math.prod((_ints(node.kernel_size) * 2)[:2])
            if kind == "IF" or (is_last and gain != 1):
                if synapse is None:
                    refuse("does not follow a synapse", supported="IF after Conv2d, Linear or Affine")
                thresholds = _thresholds(node, len(synapse.constants[0])) if kind == "IF" else 1
                gain, synapse = synapse.scaled(gain / thresholds), None
    return steps


def _read_graph(path: Path) -> Any:
    nir = optional_module("nir", f"{path.name} is a NIR file")
    if not asked(path, Path.is_file, CheckpointError):
        raise CheckpointError("not found" if not path.exists() else "not a file", where=path)
    try:
        content = path.read_bytes()
        require_plain(content)
        # Shapes are not needed, and those of files from older versions are often missing.
        graph = nir.read(io.BytesIO(content), type_check=False)
        if not isinstance(graph, nir.NIRGraph):
            raise TypeError(f"holds a {type(graph).__name__}")
        return graph
    except PermissionError as error:
        raise CheckpointError("cannot be read (Permission denied)", where=path) from error
    except InputError as error:
        raise CheckpointError(error.found, where=f"{path}: {error.where}" if error.where else path) from error
    # nir raises many exceptions on damaged files, with assertions among them.
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise CheckpointError(
            f"damaged, or not a NIR graph ({first_line(error)})", where=path, expected="must hold a nir.NIRGraph"
        ) from error


def _chain(graph: Any) -> list[tuple[str, Any]]:
    """The nodes from Input to Output, or an error if they are not one chain."""
    edges = [(str(source), str(target)) for source, target in graph.edges]
    if unknown := {name for edge in edges for name in edge} - set(graph.nodes):
        raise CheckpointError(f"has an edge to {min(unknown)}, which it does not hold", where="NIR graph")
    inputs, outputs = (Counter(ends) for ends in ([edge[1] for edge in edges], [edge[0] for edge in edges]))
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    following = dict(edges)
    found = [name for name, kind in kinds.items() if kind == "Input"][:1]
    while found and found[-1] in following and len(found) <= len(kinds):
        found.append(following[found[-1]])
    wrong = [
        each for each, kind in kinds.items() if (inputs[each], outputs[each]) != (kind != "Input", kind != "Output")
    ]
    if wrong or not found or len(found) != len(kinds) or kinds[found[-1]] != "Output":
        name = wrong[0] if wrong else "NIR graph"
        raise UnsupportedModelError(
            f"has {inputs[name]} inputs and {outputs[name]} outputs" if wrong else "holds more than one chain",
            where=name,
            expected="must be one chain from an Input to an Output",
            hint="For skip connections or recurrence, export the CNN itself.",
        )
    return [(name, graph.nodes[name]) for name in found]


@dataclass
class _Node:
    """A node's function of its input and of ``constants``: weight and bias, float64."""

    name: str
    kind: str
    function: Callable[..., Tensor]
    constants: list[Array] = field(default_factory=list)

    def scaled(self, gain: Any, *, weight_only: bool = False) -> float:
        """Multiply by ``gain``, a number or one for each output; return the gain that is left, 1."""
        count = 1 if weight_only else len(self.constants)
        for index, each in enumerate(self.constants[:count]):
            self.constants[index] = each * np.reshape(gain, (-1, *(1,) * (each.ndim - 1)))
        return 1.0

    def module(self) -> nn.Module:
        if self.kind == "IF":
            return FiringRate()
        return Step(self.name, self.kind, self.function, *(torch.from_numpy(each).float() for each in self.constants))


def _ints(value: Any) -> list[int]:
    return [int(number) for number in np.atleast_1d(value).flat]


def _constants(node: Any) -> list[Array]:
    """The weight and the bias, with the digits of float32."""
    weight, bias = np.array(node.weight, np.float32), getattr(node, "bias", None)
    found = [weight] if bias is None else [weight, np.broadcast_to(np.ravel(bias), len(weight)).astype(np.float32)]
    return [each.astype(np.float64) for each in found]


def _convolution(node: Any) -> tuple[Any, ...]:
    padding = node.padding if isinstance(node.padding, str) else _ints(node.padding)
    (groups,) = _ints(node.groups)
    function = functools.partial(
        functional.conv2d, stride=_ints(node.stride), padding=padding, dilation=_ints(node.dilation), groups=groups
    )
    return function, _constants(node)


def _pooling(node: Any) -> tuple[Any, ...]:
    kernel, stride, padding = map(_ints, (node.kernel_size, node.stride, node.padding))
    return (functools.partial(functional.avg_pool2d, kernel_size=kernel, stride=stride, padding=padding),)


def _thresholds(node: Any, channels: int) -> Array:
    """One for each of ``channels``: float64 ``(C,)``."""
    found = np.array(node.v_threshold, np.float64)
    if not (np.isfinite(found).all() and (found > 0).all()):
        refuse(f"has a threshold of {found.min():g}", supported="finite ones, above 0")
    if np.any(node.v_reset):
        refuse("resets to another potential", supported="a reset to 0")
    if found.size == 1:
        return np.full(channels, found.item())
    # With the batch axis, as some tools write it.
    each = found[0] if found.ndim in (2, 4) and len(found) == 1 else found
    rows = each.reshape(len(each), -1)
    if each.ndim not in (1, 3) or len(each) != channels or (rows != rows[:, :1]).any():
        refuse(f"has thresholds {found.shape}", supported=f"one, or one for each of {channels} channels")
    return np.array(rows[:, 0])


OPERATIONS: Final[Mapping[str, Callable[[Any], tuple[Any, ...]]]] = {
    "Conv2d": _convolution,
    "Linear": lambda node: (functional.linear, _constants(node)),
    "Affine": lambda node: (functional.linear, _constants(node)),
    "AvgPool2d": _pooling,
    "SumPool2d": _pooling,
    "Flatten": lambda _: (functools.partial(torch.flatten, start_dim=1),),
    "IF": lambda _: (torch.clone,),
    "I": lambda _: (torch.clone,),
}
"""By the node's class: its function and constants. Thresholds and the factor of a sum are folded into synapses."""
