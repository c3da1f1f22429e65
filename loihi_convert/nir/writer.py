"""QuantizedNetwork -> a NIR file that computes the same spikes, read back and compared; and a netx file as one.

NIR (Pedersen et al., Nature Communications 2024; nir 1.0.8) has no neuron with soft reset: `nir.IF` sets V to
``v_reset`` after a spike. It has the parts of one, which the graph connects in a loop::

    synapse -> I -> Threshold -> next layer        u(t) = u(t-1) + I(t) - theta s(t-1)
               ^        |                          s(t) = [u(t) > level - 1/2]
               +- Scale <                          Scale: -theta

A loop needs one step, as everywhere in discrete time: the spike of step t is subtracted at the start of step t + 1,
which gives the same u at every comparison. NIR starts u at 0; ``level = theta - V0`` adds the initial potential, which
survives every soft reset. NIR fires where u > threshold; u is an integer, so half a unit below ``level`` makes it >=.

Networks with hard reset are written with `nir.IF`, whose definition is theirs.

=========================  ==========================================================================================
part of a layer            nodes
=========================  ==========================================================================================
pooling                    `SumPool2d`; the factor of the average is in the integers
convolution                `Conv2d`, with zeros between groups, and bias 0 if it has none: NIR requires one
dense synapse              `Flatten` unless its input is flat, then `Affine`: not all readers know `Linear`
bias per neuron            `Threshold`, always 1, times a `Scale`: NIR has no constants
neurons                    the loop, or `IF`
last layer without         none: the potential is the sum of the outputs over all steps; no reader knows `I`
neurons
=========================  ==========================================================================================

All numbers are the file's integers in float32, which holds integers up to 2^24 exactly. Loihi clips potentials at
+-131071, NIR does not.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.conversion.flow import QuantizationReport
from loihi_convert.errors import UnsupportedModelError, VerificationError
from loihi_convert.ground.arrays import Array, Pair, Shape, by_channel
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import write_atomically
from loihi_convert.ir.network import layer_words
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork, largest_pixel
from loihi_convert.ir.synapse import Conv

UNREACHED: Final = 2.0**40
"""Threshold of channels that never fire: without clipping a potential could exceed the 131072 of a ``.net`` file."""

ALWAYS_REACHED: Final = -(2.0**40)
"""Threshold of a node that is always 1."""


def to_graph(network: QuantizedNetwork, *, hard_reset: bool = False) -> Any:
    """Return ``network`` as a ``nir.NIRGraph``, which takes images of integers, see its metadata."""
    # With `hard_reset` neurons with soft reset are written as ``nir.IF``, which starts at 0 and resets to 0.
    return _Builder(network, network.reset == "hard" or hard_reset).graph()


class _Builder:
    """Nodes and edges, added layer by layer."""

    def __init__(self, network: QuantizedNetwork, uses_if: bool) -> None:
        self._nir = optional_module("nir", "NIR files are written")
        self._network, self._uses_if = network, uses_if
        self._nodes: dict[str, Any] = {"input": self._nir.Input({"input": np.array(network.input_shape)})}
        self._edges: list[tuple[str, str]] = []

    def graph(self) -> Any:
        last, shape = "input", self._network.input_shape
        for layer in self._network.layers:
            name = self._free(layer.name)
            last = self._synapse(name, layer, last, shape)
            shape = layer.synapse.output_shape(shape)
            if layer.neuron is not None:
                last = self._neurons(name, layer, last, shape)
        self._add("output", self._nir.Output({"output": np.array(shape)}), last)
        return self._nir.NIRGraph(self._nodes, self._edges, metadata=self._metadata())

    def _free(self, name: str) -> str:
        """A name for a layer's nodes that is an identifier, as torch needs, and not taken."""
        wanted = re.sub(r"\W+", "_", name).strip("_") or "layer"
        wanted = f"layer_{wanted}" if wanted[0].isdecimal() or wanted in ("input", "output") else wanted
        chosen, number = wanted, 1
        while any(taken == chosen or taken.startswith(f"{chosen}_") for taken in self._nodes):
            number += 1
            chosen = f"{wanted}_no{number}"
        return chosen

    def _add(self, name: str, node: Any, *sources: str) -> str:
        self._nodes[name] = node
        self._edges += [(source, name) for source in sources]
        return name

    def _synapse(self, name: str, layer: QuantizedLayer, last: str, input_shape: Shape) -> str:
        synapse, nir = layer.synapse, self._nir
        if synapse.pool != (1, 1):
            pool = np.array(synapse.pool)
            last = self._add(f"{name}_pool", nir.SumPool2d(pool, pool, np.zeros(2, np.int64)), last)
        height, width = (
            (s // k for s, k in zip(input_shape[1:], synapse.pool, strict=True)) if len(input_shape) == 3 else (1, 1)
        )
        shared = np.zeros(synapse.channels) if synapse.bias is None or synapse.bias.ndim > 1 else synapse.bias
        if isinstance(synapse, Conv):
            # nir takes the weight's channels for the input's.
            conv = _with_square_kernel(layer.name, synapse.without_groups(), (height, width))
            node = nir.Conv2d(
                (height, width),
                conv.weight.astype(np.float32),
                conv.stride,
                conv.padding,
                conv.dilation,
                conv.groups,
                shared.astype(np.float32),
            )
            current = self._add(name, node, last)
        else:
            if len(input_shape) == 3:
                flat = {"input": np.array((input_shape[0], height, width))}
                last = self._add(f"{name}_flatten", nir.Flatten(flat, 0, -1), last)
            current = self._add(name, nir.Affine(synapse.weight.astype(np.float32), shared.astype(np.float32)), last)
        return current

    def _neurons(self, name: str, layer: QuantizedLayer, current: str, shape: Shape) -> str:
        assert layer.threshold is not None
        assert layer.initial_potential is not None
        nir, sources = self._nir, [current]
        if layer.bias is not None and layer.bias.ndim > 1:
            one = self._add(f"{name}_one", nir.Threshold(np.full(shape, ALWAYS_REACHED, np.float32)), current)
            sources.append(self._add(f"{name}_bias", nir.Scale(layer.bias.astype(np.float32)), one))
        fires = layer.threshold < limits.NEVER_FIRES
        ones = np.ones(shape, np.float32)
        if self._uses_if:
            # The next number below theta: > becomes >=, and a reader that subtracts it is off by 1 in 2^24.
            below = np.nextafter(np.where(fires, layer.threshold, UNREACHED).astype(np.float32), np.float32(0))
            node = nir.IF(r=ones, v_threshold=_over(below, shape), v_reset=np.zeros(shape, np.float32))
            return self._add(f"{name}_neurons", node, *sources)
        level = np.where(fires, layer.threshold - layer.initial_potential - 0.5, UNREACHED)
        taken = np.where(fires, -layer.threshold, 0)
        potential = self._add(f"{name}_potential", nir.I(r=ones), *sources)
        spikes = self._add(f"{name}_spikes", nir.Threshold(_over(level, shape)), potential)
        reset = self._add(f"{name}_reset", nir.Scale(_over(taken, shape)), spikes)
        self._edges.append((reset, potential))
        return spikes

    def _metadata(self) -> dict[str, Any]:
        network = self._network
        largest = largest_pixel(network.poisson_seed, network.pixel_bits)
        pixels = f"round(pixel / 255 * {largest})" if network.poisson_seed is None else "Poisson spikes, 0 or 1"
        is_potential = network.readout == "potential"
        found = {
            "producer": "loihi-convert",
            "input": f"{pixels}, the same image in each step" if network.poisson_seed is None else pixels,
            "output": "sum over all steps: the potential" if is_potential else "sum over all steps: the spike counts",
            "output_scale": network.output_scale,
            "timesteps": network.timesteps,
            "reset": "hard" if self._uses_if else "soft",
            "neurons": "IF" if self._uses_if else "I, Threshold, Scale in a loop",
            "provenance": json.dumps(dict(network.provenance)),
            "output_offset": network.layers[-1].offset,
            "poisson_seed": network.poisson_seed,
        }
        return {name: value for name, value in found.items() if value is not None}


def _over(per_channel: Array, shape: Shape) -> Array:
    """Values of channels, one for each neuron: float32 of ``shape``."""
    values = by_channel(per_channel.astype(np.float32), len(shape))
    return np.ascontiguousarray(np.broadcast_to(values, shape))


def _with_square_kernel(name: str, conv: Conv, input_size: Pair) -> Conv:
    """The same convolution with zeros around its kernel: nir infers both sides of a map from the kernel's height.

    ``input_size`` is the (height, width) of its input.
    """
    sides = conv.weight.shape[2:]
    if sides[0] == sides[1]:
        return conv
    conv = replace(conv, stride=_with_room(conv, input_size))
    # If only one axis has room for an odd number of zeros, the other one may need the next larger square.
    for side in (max(sides), max(sides) + 1):
        before = [zeros for axis in (0, 1) if (zeros := _zeros_before(conv, axis, side, input_size[axis])) is not None]
        if len(before) == 2:
            break
    else:
        raise UnsupportedModelError(
            f"has a kernel of {sides[0]} x {sides[1]}",
            where=name,
            expected="must be square in a NIR file, or padded to a square without changing the size of its output",
        )
    around = [(zeros, side - own - zeros) for zeros, own in zip(before, sides, strict=True)]
    top, left = (p + zeros * d for p, zeros, d in zip(conv.padding, before, conv.dilation, strict=True))
    return replace(conv, weight=np.pad(conv.weight, ((0, 0), (0, 0), *around)), padding=(top, left))


def _with_room(conv: Conv, input_size: Pair) -> Pair:
    """The strides, longer along an axis with a single output, where any is the same, to leave room for an odd zero."""
    left_over = [
        extent + 2 * pad - gap * (taps - 1) - 1
        for extent, pad, gap, taps in zip(input_size, conv.padding, conv.dilation, conv.weight.shape[2:], strict=True)
    ]
    rows, columns = (
        stride if rest >= stride else rest + gap + 1
        for rest, stride, gap in zip(left_over, conv.stride, conv.dilation, strict=True)
    )
    return rows, columns


def _zeros_before(conv: Conv, axis: int, side: int, extent: int) -> int | None:
    """How many zeros come before the kernel if they lengthen it to ``side``; None if the output's size would change.

    With b zeros before it and a after it, the map needs (b + a) d more padding, d being the dilation, and gets b d on
    each side. The surplus (b - a) d must stay within one stride, together with what was left over before.
    """
    kernel: int = conv.weight.shape[2 + axis]
    dilation, stride = conv.dilation[axis], conv.stride[axis]
    left_over = (extent + 2 * conv.padding[axis] - dilation * (kernel - 1) - 1) % stride
    missing = side - kernel
    for before in (missing // 2, missing - missing // 2):
        if 0 <= left_over + (2 * before - missing) * dilation < stride:
            return before
    return None


def write(
    network: QuantizedNetwork,
    path: str | Path,
    *,
    hard_reset: bool = False,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Write ``network`` as a NIR file, see `to_graph`; after a failure ``path`` is unchanged.

    ``verify`` reads the file back and compares every node, edge and number: a `VerificationError` if they differ.
    """
    path = Path(path)
    nir = optional_module("nir", f"{path.name} is a NIR file")
    graph = to_graph(network, hard_reset=hard_reset)
    content = io.BytesIO()
    nir.write(content, graph)
    if verify:
        content.seek(0)
        if difference := difference_between(nir.read(content).to_dict(), graph.to_dict()):
            raise VerificationError(f"what was read back differs from the graph in memory: {difference}", where=path)
    write_atomically(path, content.getvalue(), overwrite=overwrite)


def difference_between(found: Any, expected: Any, place: str = "graph") -> str:
    """The place of the first difference of two graphs as dicts, but for metadata; empty if there is none."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        names = (name for name in expected if name != "metadata")
        return next(
            filter(None, (difference_between(found[each], expected[each], f"{place}/{each}") for each in names)), ""
        )
    is_same = found is expected or np.array_equal(np.asarray(found), np.asarray(expected))
    return "" if is_same else place


_LOOP: Final = (
    "NIR has no soft reset, so each layer of neurons is a loop I -> Threshold -> Scale(-threshold) -> I. Readers "
    "without these nodes refuse the file. For readers that know only IF, convert with `reset='hard'`."
)
_DROPPED: Final = (
    "`allow_hard_reset`: NIR's IF neurons start at 0 and reset to 0, so this file is another network, without the soft "
    "reset and the initial potentials that its thresholds were balanced for. `reset='hard'` balances for IF neurons."
)


def nir_notes(
    network: QuantizedNetwork, allow_hard_reset: bool, report: QuantizationReport | None = None
) -> tuple[str, ...]:
    """Return what a reader of the NIR file of ``network`` must know, one sentence each.

    ``report`` knows the layers whose potentials clip on calibration images.
    """
    if network.reset == "soft" and allow_hard_reset:
        return (_DROPPED,)
    notes = (_LOOP,) if network.reset == "soft" else ()
    layers = report.layers if report is not None and report.target == "lava" else ()
    clipped = ", ".join(layer_words(layer.name) for layer in layers if layer.harmful_clips)
    found = f"potentials of {clipped} clip at +-131071 on Loihi and not in NIR: spikes may differ."
    return (*notes, found) if clipped else notes
