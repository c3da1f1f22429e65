"""The layers of any netx file, from any tool, as lava-dl's ``lava.lib.dl.netx.hdf5.Network`` reads them.

Lenient: contents may be missing or invalid, so that `check` can report problems and `inspect` can show what is stored.
`external` adds the checks that a run needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loihi_convert.errors import InputError, NetxError
from loihi_convert.ground.arrays import Array, Pair, Shape
from loihi_convert.ir.graded import STOCK_SPIKE_EXP
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.netx.hdf5 import MAX_LAYER_SIZE, Datasets

_MAX_AXES: Final = 8
_MAX_NAMES: Final = 8
_DENSE: Final = ("dense", "dense_rec")
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "input": ("shape",),
    "conv": ("shape", "weight", "stride", "padding", "dilation", "groups", "neuron/type"),
    "dense": ("shape", "weight"),
    "dense_rec": ("shape", "weight", "weight_rec"),
}
_CUBA: Final = ("CUBA", "LOIHI")
_CUBA_NEEDS: Final = ("neuron/iDecay", "neuron/vDecay", "neuron/vThMant")
_SDNN_NEEDS: Final = ("neuron/vThMant",)


@dataclass(frozen=True, eq=False)
class StockLayer:
    """One member of the group ``/layer``.

    Parameters
    ----------
    kind
        Its ``type``; empty if missing.
    datasets
        Its datasets by name, such as ``neuron/vThMant``.
    input_shape
        Output shape of the layer before it or, if a file begins with a dense layer, the input shape of its weights:
        ``(C, H, W)`` or ``(N,)``; None if unknown.
    is_flat
        Whether its input is a vector, unknown, or comes from a layer other than an input and a convolution.
    spike_exp
        With which netx is called; its default unless the file is of this package.
    """

    kind: str
    datasets: Datasets
    input_shape: Shape | None
    is_flat: bool = True
    spike_exp: int = STOCK_SPIKE_EXP

    def numbers(self, name: str) -> Array | None:
        """Return a dataset of numbers; None if it is missing, empty or not numeric."""
        value = self.datasets.get(name)
        return value if value is not None and value.dtype.kind in "iufb" and value.size else None

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return the first numbers of a dataset, rounded towards 0; -1 for NaN and numbers too large for a geometry."""
        value = self.numbers(name)
        if value is None:
            return None
        return tuple(int(number) if abs(number) < 2**40 else -1 for number in value.ravel()[:_MAX_AXES].tolist())

    @property
    def weight(self) -> Array | None:
        """Synaptic weights; None if there are none, and in an input layer, whose weight scales pixels."""
        return None if self.kind == "input" else self.numbers("weight")

    @property
    def synaptic_weights(self) -> Array | None:
        """All weights, flattened, including recurrent ones: netx determines the bits of both together."""
        names = ("weight", "weight_rec") if self.kind == "dense_rec" else ("weight",)
        found = [value.ravel() for name in names if (value := self.numbers(name)) is not None]
        return np.concatenate(found) if found and self.kind != "input" else None

    @property
    def fractional_weights(self) -> int:
        """Number of weights that are not integers."""
        weight = self.synaptic_weights
        return 0 if weight is None else int(np.count_nonzero(~(np.isfinite(weight) & (np.floor(weight) == weight))))

    @property
    def stored_shape(self) -> Shape | None:
        """The stored shape: ``(C, H, W)`` or ``(N,)``, or whatever the file contains."""
        return self.integers("shape")

    @property
    def expected_shape(self) -> Shape | None:
        """The expected `output_shape`: the stored shape, flattened if the layer is dense."""
        shape = self.stored_shape
        return (math.prod(shape),) if shape is not None and self.kind in _DENSE else shape

    @property
    def has_neurons(self) -> bool:
        """Whether there is a group ``neuron``; netx gives a dense layer without one a non-firing integrator."""
        return any(name.startswith("neuron/") for name in self.datasets)

    @property
    def neuron_type(self) -> str | None:
        """``CUBA``, ``SDNN`` and so on; None if missing."""
        return text(self.datasets["neuron/type"]) if "neuron/type" in self.datasets else None

    @property
    def is_cuba(self) -> bool:
        """Whether its neurons are Lava's LIF."""
        return self.neuron_type in _CUBA

    @property
    def is_sdnn(self) -> bool:
        """Whether its neurons are Lava's sigma-delta neurons."""
        return self.neuron_type == "SDNN"

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the datasets that netx requires in this layer."""
        names = (*_NEEDED.get(self.kind, ()), *(("neuron/type",) if self.has_neurons else ()))
        # An output, `Sigma`, has no threshold.
        sends = self.is_sdnn and (self.kind == "input" or "neuron/sigma_output" not in self.datasets)
        return tuple(dict.fromkeys((*names, *(_CUBA_NEEDS * self.is_cuba), *(_SDNN_NEEDS * sends))))

    @property
    def missing(self) -> tuple[str, ...]:
        """The names in `needed` that the file does not contain."""
        return tuple(name for name in self.needed if name not in self.datasets)

    @property
    def synapse(self) -> Synapse | None:
        """The weights with their geometry, without a bias; None if the layer has no weights.

        Raises
        ------
        InputError
            If weights and geometry do not fit each other.
        """
        weight = self.weight
        if weight is None:
            return None
        if self.kind == "conv":
            return self._conv(weight)
        if self.kind not in _DENSE:
            return None
        neurons = self._neurons
        # Slayer's weights may have axes of length 1, or only one axis.
        if neurons < 1 or weight.size % neurons:
            raise InputError(f"{weight.size:,} weights for {neurons:,} neurons")
        return Dense(weight.reshape(neurons, -1))

    @property
    def recurrent(self) -> Dense | None:
        """The synapse from each neuron to each of the same layer; None if the layer is not recurrent."""
        if self.kind != "dense_rec":
            return None
        weight, neurons = self.numbers("weight_rec"), self._neurons
        if weight is None or weight.size != neurons**2:
            raise InputError(f"{0 if weight is None else weight.size:,} recurrent weights for {neurons:,} neurons")
        return Dense(weight.reshape(neurons, neurons))

    @property
    def output_shape(self) -> Shape | None:
        """``(C, H, W)`` or ``(N,)``, computed from input shape and weights; None if either is unknown.

        Raises
        ------
        InputError
            As in `synapse`, or if the input does not fit, or the output would be too large.
        """
        synapse = self.synapse
        if synapse is None or self.input_shape is None:
            return None
        if isinstance(synapse, Conv) and len(self.input_shape) == 3:
            channels, *extent = self.input_shape
            padded = math.prod(size + 2 * pad for size, pad in zip(extent, synapse.padding, strict=True)) * channels
            if padded > MAX_LAYER_SIZE or min(*synapse.stride, *synapse.dilation) < 1 or min(synapse.padding) < 0:
                found = f"padding {synapse.padding}, stride {synapse.stride}, dilation {synapse.dilation}"
                raise InputError(f"{found} on an input of shape {self.input_shape}")
        shape = synapse.output_shape(self.input_shape)
        if math.prod(shape) > MAX_LAYER_SIZE:
            raise InputError(f"{math.prod(shape):,} neurons", expected=f"must be at most {MAX_LAYER_SIZE:,}")
        return shape

    def _conv(self, weight: Array) -> Conv:
        # Slayer's kernels have a time axis of length 1, which netx drops.
        if weight.ndim not in (4, 5) or weight.shape[4:] not in ((), (1,)):
            raise InputError(f"weights of shape {weight.shape}", expected="must be (C_out, C_in / groups, K_h, K_w)")
        stride, padding, dilation = (self._pair(name) for name in ("stride", "padding", "dilation"))
        groups = (self.integers("groups") or (0,))[0]
        if groups < 1 or len(weight) % groups:
            raise InputError(f"{groups:,} groups of {len(weight):,} output channels", expected="must divide them")
        return Conv(weight.reshape(weight.shape[:4]), None, stride, padding, dilation, groups)

    def _pair(self, name: str) -> Pair:
        """(vertical, horizontal), which a file may give as one number."""
        values = self.integers(name) or ()
        if len(values) not in (1, 2):
            raise InputError(f"{name} {values}", expected="must be one or two numbers")
        return values[0], values[-1]

    @property
    def _neurons(self) -> int:
        return math.prod(self.stored_shape or (0,))


@dataclass(frozen=True, eq=False)
class StockFile:
    """The parts of a netx file that lava-dl may read.

    Parameters
    ----------
    members
        Names of the members of ``/layer``, sorted.
    layers
        The members named 0, 1, ..., up to the number of members, each with its full name: ``layer/3``.
    simulation
        Slayer's parameters of a sample, by name: ``Ts``, ``tSample``.
    """

    members: tuple[str, ...]
    layers: tuple[tuple[str, StockLayer], ...]
    simulation: Datasets

    @property
    def stray(self) -> tuple[str, ...]:
        """Members that netx would not find: it counts the members and reads 0, 1, 2, ..."""
        numbered = {str(index) for index in range(len(self.members))}
        return tuple(name for name in self.members if name not in numbered)

    @property
    def is_graded(self) -> bool:
        """Whether any layer has sigma-delta neurons, whose spikes are graded."""
        return any(layer.is_sdnn for _, layer in self.layers)

    def require_numbered(self) -> None:
        """Raise a `NetxError` unless the layers are 0, 1, 2, ..."""
        if self.stray:
            found = f"layers {', '.join(self.members[:_MAX_NAMES])}"
            raise NetxError(found, where="layer", expected="must be numbered 0, 1, 2, ...")

    def with_spike_exp(self, spike_exp: int) -> StockFile:
        """Return the file as netx reads it with this ``spike_exp``."""
        return replace(self, layers=tuple((name, replace(layer, spike_exp=spike_exp)) for name, layer in self.layers))

    def with_names(self, names: Sequence[str]) -> StockFile:
        """Return the file with ``names``, in order, for the layers that have weights."""
        given = iter(names)
        named = ((name if layer.weight is None else next(given), layer) for name, layer in self.layers)
        return replace(self, layers=tuple(named))


def stock_file(datasets: Datasets) -> StockFile:
    """Return a netx file with ``datasets`` as lava-dl sees it."""
    groups: dict[str, dict[str, Array]] = {}
    for name, value in datasets.items():
        group, _, rest = name.partition("/")
        member, _, inside = rest.partition("/")
        if group == "layer":
            groups.setdefault(member, {})[inside] = value
    prefix = "simulation/"
    simulation = {name.removeprefix(prefix): value for name, value in datasets.items() if name.startswith(prefix)}
    return StockFile(tuple(sorted(groups)), tuple(_layers(groups)), simulation)


def _layers(groups: Mapping[str, Datasets]) -> Iterator[tuple[str, StockLayer]]:
    input_shape: Shape | None = None
    is_first = is_flat = True
    for index in range(len(groups)):
        inside = groups.get(str(index))
        if inside is None:
            continue
        layer = StockLayer(text(inside["type"]) if "type" in inside else "", inside, input_shape, is_flat)
        if is_first:
            layer = replace(layer, input_shape=_own_input_shape(layer))
        yield f"layer/{index}", layer
        if layer.kind != "flatten":
            is_first = False
            input_shape = _known_shape(layer)
        is_flat = layer.kind not in ("input", "conv") or input_shape is None or len(input_shape) == 1


def text(value: Array) -> str:
    """Return the text in a dataset, as printable ASCII; empty if it is not text."""
    content = value.ravel()[0] if value.size else b""
    plain = content.decode("ascii", "replace") if isinstance(content, bytes) else ""
    return plain if plain.isprintable() and plain.isascii() else ascii(plain)[1:-1]


def _own_input_shape(layer: StockLayer) -> Shape | None:
    """The input shape of the weights of a dense layer, ``(N_in,)``; None for other layers."""
    try:
        synapse = layer.synapse
    except InputError:
        return None
    return (synapse.weight.shape[1],) if isinstance(synapse, Dense) else None


def _known_shape(layer: StockLayer) -> Shape | None:
    """The shape computed from its input, or else the stored shape."""
    try:
        return layer.output_shape or layer.stored_shape
    except InputError:
        return layer.stored_shape
