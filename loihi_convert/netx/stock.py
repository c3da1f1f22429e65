"""Any netx file, as lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads it: its layers, loadable or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert import netx
from loihi_convert.arrays import Array, Pair, Shape
from loihi_convert.errors import InputError
from loihi_convert.ir.synapse import Conv, Dense, Synapse

_MAX_AXES: Final = 4
_CUBA: Final = ("CUBA", "LOIHI")


@dataclass(frozen=True, eq=False)
class StockLayer:
    """One member of a file's group ``/layer``.

    Parameters
    ----------
    kind
        Its ``type``; empty where there is none.
    datasets
        By their names inside it, such as ``neuron/vThMant``.
    input_shape
        What the layer before it gives, or what its weights take where a file begins with a dense layer: ``(C, H, W)``
        or ``(N,)``; None where that cannot be said.
    """

    kind: str
    datasets: Mapping[str, Array]
    input_shape: Shape | None

    @property
    def weight(self) -> Array | None:
        """Numbers; None where there are none, and in an input layer, whose weight is no synapse."""
        return None if self.kind == "input" else self.numbers("weight")

    @property
    def synaptic_weights(self) -> Array | None:
        """The same in a row; in a recurrent layer with the recurrent ones, whose bits netx counts together."""
        names = ("weight", "weight_rec") if self.kind == "dense_rec" else ("weight",)
        found = [value.ravel() for name in names if (value := self.numbers(name)) is not None]
        return np.concatenate(found) if found and self.kind != "input" else None

    @property
    def stored_shape(self) -> Shape | None:
        """``(C, H, W)`` or ``(N,)``, as the file has it."""
        shape = self.numbers("shape")
        return None if shape is None else _whole(shape)

    @property
    def neuron_type(self) -> str | None:
        """None where netx gives the layer its own integrator."""
        return text(self.datasets["neuron/type"]) if "neuron/type" in self.datasets else None

    @property
    def is_cuba(self) -> bool:
        """Whether it has the neurons of Lava's LIF."""
        return self.neuron_type in _CUBA

    @property
    def synapse(self) -> Synapse | None:
        """None where the layer has none.

        Raises
        ------
        InputError
            If its weights and geometry are those of no synapse.
        """
        weight = self.weight
        if weight is None or self.kind not in ("conv", "dense", "dense_rec"):
            return None
        if self.kind == "conv":
            groups = self.numbers("groups")
            if weight.ndim not in (4, 5) or weight.shape[4:] not in ((), (1,)) or groups is None:
                raise InputError(f"a convolution with weights of shape {weight.shape}")
            stride, padding, dilation = (self._pair(name) for name in ("stride", "padding", "dilation"))
            # Slayer's have an axis of time, of length 1, which netx drops.
            kernel = weight.reshape(weight.shape[:4])
            count = _whole(groups)[0]
            if count < 1 or len(kernel) % count:
                raise InputError(f"a convolution of {len(kernel):,} output channels in {count:,} groups")
            return Conv(kernel, None, stride, padding, dilation, count)
        neurons = math.prod(self.stored_shape or (0,))
        # Slayer's may have axes of length 1, or one axis only.
        if neurons < 1 or weight.size % neurons:
            raise InputError(f"{weight.size:,} weights for {neurons:,} neurons")
        return Dense(weight.reshape(neurons, -1))

    @property
    def recurrent(self) -> Dense | None:
        """From each of its neurons to each; None where the layer is not recurrent.

        Raises
        ------
        InputError
            If there are not as many weights.
        """
        if self.kind != "dense_rec":
            return None
        weight, neurons = self.numbers("weight_rec"), math.prod(self.stored_shape or (0,))
        if weight is None or neurons < 1 or weight.size != neurons**2:
            found = 0 if weight is None else weight.size
            raise InputError(f"{found:,} recurrent weights among {neurons:,} neurons")
        return Dense(weight.reshape(neurons, neurons))

    @property
    def output_shape(self) -> Shape | None:
        """``(C, H, W)`` or ``(N,)``, as it follows from input and weights; None where it cannot be said.

        Raises
        ------
        InputError
            As `synapse`, or if the input does not fit, or nothing so large can be.
        """
        synapse = self.synapse
        if synapse is None or self.input_shape is None:
            return None
        padding = synapse.padding if isinstance(synapse, Conv) else (0, 0)
        if isinstance(synapse, Conv) and len(self.input_shape) == 3:
            channels, *extent = self.input_shape
            padded = math.prod(size + 2 * pad for size, pad in zip(extent, padding, strict=True)) * channels
            if padded > netx.MAX_LAYER_SIZE or min(*synapse.stride, *synapse.dilation) < 1 or min(padding) < 0:
                raise InputError(f"no convolution has padding {padding}, stride {synapse.stride} on {self.input_shape}")
        shape = synapse.output_shape(self.input_shape)
        if math.prod(shape) > netx.MAX_LAYER_SIZE:
            raise InputError(f"{math.prod(shape):,} neurons; allowed are {netx.MAX_LAYER_SIZE:,}")
        return shape

    def numbers(self, name: str) -> Array | None:
        """Return a dataset that holds numbers, or None."""
        value = self.datasets.get(name)
        return value if value is not None and value.dtype.kind in "iufb" and value.size else None

    def _pair(self, name: str) -> Pair:
        """(vertical, horizontal), which a file may say as one number."""
        value = self.numbers(name)
        values = () if value is None else _whole(value)
        if len(values) not in (1, 2):
            raise InputError(f"{name} is not one or two numbers")
        return values[0], values[-1]


@dataclass(frozen=True, eq=False)
class StockFile:
    """The names of the members of ``/layer``, and the layers that netx builds from them, each behind its name."""

    members: tuple[str, ...]
    layers: tuple[tuple[str, StockLayer], ...]

    def with_names(self, names: Sequence[str]) -> StockFile:
        """The same with ``names`` of the layers that have weights, in order, in place of those the file has."""
        given = iter(names)
        named = ((name if layer.weight is None else next(given), layer) for name, layer in self.layers)
        return replace(self, layers=tuple(named))


def stock_file(datasets: Mapping[str, Array]) -> StockFile:
    """Return what lava-dl sees of a netx file, whose ``datasets`` come from `netx.read_stock`."""
    members = {name.split("/")[1] for name in datasets if name.startswith("layer/")}
    layers: list[tuple[str, StockLayer]] = []
    input_shape: Shape | None = None
    for index in range(len(members)):
        prefix = f"layer/{index}/"
        inside = {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}
        if not inside:
            continue
        layer = StockLayer(text(inside["type"]) if "type" in inside else "", inside, input_shape)
        if all(earlier.kind == "flatten" for _, earlier in layers):
            layer = replace(layer, input_shape=_own_input_shape(layer))
        layers.append((f"layer/{index}", layer))
        if layer.kind != "flatten":
            input_shape = _known_shape(layer)
    return StockFile(tuple(sorted(members)), tuple(layers))


def _whole(value: Array) -> tuple[int, ...]:
    """Numbers as a file may store them, as whole ones; -1 for what is none."""
    return tuple(int(number) if abs(number) < 2**40 else -1 for number in value.ravel()[:_MAX_AXES].tolist())


def text(value: Array) -> str:
    """Return the text in a dataset, as printable ASCII; empty if it holds none."""
    content = value.ravel()[0] if value.size else b""
    plain = content.decode("ascii", "replace") if isinstance(content, bytes) else ""
    return plain if plain.isprintable() and plain.isascii() else ascii(plain)[1:-1]


def _own_input_shape(layer: StockLayer) -> Shape | None:
    """What the weights of a dense layer take, ``(N_in,)``; None of another one."""
    try:
        synapse = layer.synapse
    except InputError:
        return None
    return (synapse.weight.shape[1],) if isinstance(synapse, Dense) else None


def _known_shape(layer: StockLayer) -> Shape | None:
    """The shape that follows from its input, or, where none does, the one the file has."""
    try:
        return layer.output_shape or layer.stored_shape
    except InputError:
        return layer.stored_shape
