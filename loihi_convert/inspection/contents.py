"""What is in a netx file, whoever wrote it.

Described is what the file says, whether it can be run or not: nothing of it is trusted to be there or to make sense.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import external, netx
from loihi_convert.arrays import Array, Pair
from loihi_convert.errors import LoihiConvertError, NetxError
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv
from loihi_convert.records import Record

BINS: Final = 16
_MAX_TEXT_LENGTH: Final = 80
_GEOMETRY: Final = ("stride", "padding", "dilation")
_NEURON_NUMBERS: Final = ("neuron/iDecay", "neuron/vDecay", "neuron/vThMant")
_DESCRIBED: Final = frozenset(
    {"type", "shape", "weight", "weight/real", "weight/imag", "bias", "groups"}
    | {*_GEOMETRY, *_NEURON_NUMBERS, "neuron/type"}
)


class Numbers(Record):
    """How the numbers of one dataset are distributed; those that are none are only counted.

    Attributes
    ----------
    count, nonzero_count
        Numbers, and those other than 0.
    not_finite_count
        NaN and infinite ones, left out of the rest.
    least, largest, mean
        None where there is no finite number.
    histogram
        Numbers in each of `BINS` bins of equal width from ``least`` to ``largest``.
    """

    count: int
    nonzero_count: int
    not_finite_count: int
    least: float | None
    largest: float | None
    mean: float | None
    histogram: tuple[int, ...]


class LayerContents(Record):
    """One layer as it stands in the file; None where it says nothing of the kind.

    Attributes
    ----------
    index
        Its number in the file.
    type, neuron_type
        As lava-dl knows them: ``conv``, ``CUBA`` and so on.
    name, pool
        In files of ours: the module's name in the CNN, the average pooling that the kernel holds.
    shape
        ``(C, H, W)``, or whatever is stored.
    kernel, stride, padding, dilation
        (vertical, horizontal).
    neuron_count
        Product of ``shape``; 0 in a layer without neurons of its own (a flattening, pixels).
    synapse_count
        Synapses of nonzero weight, each use of a kernel's weight counted, and recurrent ones, whose weights are among
        ``others``; None where the geometry makes no sense.
    i_decay, v_decay, threshold, weight, bias
        netx's iDecay, vDecay, vThMant; weights; biases.
    others
        What else is stored, by name: a number, a text, or the type and shape of an array.
    """

    index: int
    type: str
    name: str | None
    pool: Pair | None
    shape: tuple[int, ...] | None
    kernel: Pair | None
    stride: tuple[int, ...] | None
    padding: tuple[int, ...] | None
    dilation: tuple[int, ...] | None
    groups: tuple[int, ...] | None
    neuron_type: str | None
    neuron_count: int
    synapse_count: int | None
    i_decay: Numbers | None
    v_decay: Numbers | None
    threshold: Numbers | None
    weight: Numbers | None
    bias: Numbers | None
    others: dict[str, str]


class Contents(Record):
    """One file.

    Attributes
    ----------
    file, byte_count, sha256
        Its name, size and digest.
    written_by_us
        Whether `export` wrote it.
    about
        What files of ours say besides: T, pixel bits, reset, balance and so on, as in the provenance; of other files
        what slayer stores under ``simulation``.
    provenance
        In full; empty in files of other hands.
    refusal
        Why `ref` cannot run it; None: it can.
    layers
        In order.
    """

    file: str
    byte_count: int
    sha256: str
    written_by_us: bool
    about: dict[str, str]
    provenance: dict[str, Any]
    refusal: str | None
    layers: tuple[LayerContents, ...]

    @property
    def neuron_count(self) -> int:
        """Of all layers."""
        return sum(layer.neuron_count for layer in self.layers)

    @property
    def synapse_count(self) -> int:
        """Of all layers whose synapses can be counted."""
        return sum(layer.synapse_count or 0 for layer in self.layers)


def describe(path: Path) -> Contents:
    """Return what is in the netx file at ``path``.

    Raises
    ------
    NetxError
        If the file is missing or damaged, or holds no layers of numbers and text.
    """
    stored = netx.read_stored(path)
    content = path.read_bytes()
    with netx.errors_that_name(path):
        layers = external.layers_of(stored.datasets)
        described = tuple(_layers(layers, stored.network))
    return Contents(
        file=path.name,
        byte_count=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        written_by_us=stored.network is not None,
        about=_about(stored.datasets, stored.network),
        provenance={} if stored.network is None else dict(stored.network.provenance),
        refusal=None if stored.network is not None else _refusal(stored.datasets),
        layers=described,
    )


def _layers(layers: list[dict[str, Array]], network: QuantizedNetwork | None) -> Iterator[LayerContents]:
    ours = iter(network.layers if network is not None else ())
    before: tuple[int, ...] | None = None
    for index, stock in enumerate(layers):
        kind = external.text_of(stock["type"]) if "type" in stock else "no type"
        shape = _whole(stock.get("shape"))
        layer = next(ours, None) if kind in ("conv", "dense") else None
        weight = stock.get("weight", stock.get("weight/real"))
        geometry = {name: _whole(stock.get(name)) for name in (*_GEOMETRY, "groups")}
        has_neurons = weight is not None or any(name.startswith("neuron/") for name in stock)
        yield LayerContents(
            index=index,
            type=kind[:_MAX_TEXT_LENGTH],
            name=None if layer is None else layer.name,
            pool=None if layer is None or layer.synapse.pool == (1, 1) else layer.synapse.pool,
            shape=shape,
            kernel=None if weight is None or weight.ndim < 4 else (weight.shape[2], weight.shape[3]),
            neuron_type=external.text_of(stock["neuron/type"])[:_MAX_TEXT_LENGTH] if "neuron/type" in stock else None,
            neuron_count=math.prod(shape) if shape is not None and has_neurons else 0,
            synapse_count=_synapse_count(kind, weight, stock.get("weight_rec"), geometry, before),
            i_decay=_numbers(stock.get("neuron/iDecay")),
            v_decay=_numbers(stock.get("neuron/vDecay")),
            threshold=_numbers(stock.get("neuron/vThMant")),
            weight=_numbers(weight),
            bias=_numbers(stock.get("bias")),
            others={netx.escape_control(name): brief(value) for name, value in stock.items() if name not in _DESCRIBED},
            **geometry,
        )
        before = shape if kind != "flatten" else before


def _synapse_count(
    kind: str,
    weight: Array | None,
    recurrent: Array | None,
    geometry: Mapping[str, tuple[int, ...] | None],
    input_shape: tuple[int, ...] | None,
) -> int | None:
    if kind == "input" or weight is None or weight.dtype.kind not in "iuf":
        return None
    if kind == "dense_rec" and recurrent is not None and recurrent.dtype.kind in "iuf":
        return int(np.count_nonzero(weight) + np.count_nonzero(recurrent))
    if kind != "conv":
        return int(np.count_nonzero(weight))
    if input_shape is None or len(input_shape) != 3 or math.prod(input_shape) > netx.MAX_LAYER_SIZE or weight.ndim < 4:
        return None
    stride, padding, dilation = (_pair(geometry[name]) for name in _GEOMETRY)
    groups = geometry["groups"]
    if stride is None or padding is None or dilation is None or groups is None or len(groups) != 1:
        return None
    if min(*stride, *dilation, groups[0]) < 1 or min(padding) < 0 or max(padding) > max(input_shape):
        return None
    if weight.shape[0] % groups[0] or weight.size != math.prod(weight.shape[:4]):
        return None
    try:
        conv = Conv(weight.reshape(weight.shape[:4]), None, stride, padding, dilation, groups[0])
        return int(conv.fan_out(input_shape).sum())
    except LoihiConvertError:
        return None


def _pair(values: tuple[int, ...] | None) -> Pair | None:
    return None if values is None or len(values) not in (1, 2) else (values[0], values[-1])


def _numbers(value: Array | None) -> Numbers | None:
    if value is None or value.dtype.kind not in "iufb":
        return None
    real = value.astype(np.float64).reshape(-1)
    finite = real[np.isfinite(real)]
    # Beyond it, widths of bins and means are no float64 any more.
    finite = finite[np.abs(finite) < 1e300]
    least, largest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    bins = np.zeros(BINS, np.int64)
    if largest > least:
        # Divided first: the reciprocal of a denormal number is infinite.
        np.add.at(bins, np.minimum((finite - least) / (largest - least) * BINS, BINS - 1).astype(np.int64), 1)
    else:
        bins[BINS // 2] = finite.size
    return Numbers(
        count=value.size,
        nonzero_count=int(np.count_nonzero(real)),
        not_finite_count=value.size - finite.size,
        least=least if finite.size else None,
        largest=largest if finite.size else None,
        mean=float(finite.mean()) if finite.size else None,
        histogram=tuple(bins.tolist()),
    )


def _whole(value: Array | None) -> tuple[int, ...] | None:
    if value is None or value.dtype.kind not in "iu" or value.size > 8:
        return None
    return tuple(int(number) for number in value.reshape(-1))


def brief(value: Array) -> str:
    """A number or a text; the type, shape and range of more."""
    if value.dtype.kind == "S":
        text = netx.escape_control(
            b" ".join(map(bytes, value.reshape(-1)[:4].tolist())).decode("utf-8", errors="replace")
        )
        return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[:_MAX_TEXT_LENGTH]} ..."
    if value.size == 1:
        return f"{value.item():.10g}" if value.dtype.kind == "f" else str(value.item())
    numbers = _numbers(value)
    if numbers is None or numbers.least is None:
        return f"{value.dtype} {value.shape}"
    return f"{value.dtype} {value.shape}, {numbers.least:.5g}..{numbers.largest:.5g}"


def _refusal(datasets: Mapping[str, Array]) -> str | None:
    try:
        external.decode_external(datasets)
    except NetxError as error:
        return netx.escape_control(str(error))
    return None


def _about(datasets: Mapping[str, Array], network: QuantizedNetwork | None) -> dict[str, str]:
    if network is None:
        prefix = "simulation/"
        return {
            netx.escape_control(name.removeprefix(prefix)): brief(value)
            for name, value in datasets.items()
            if name.startswith(prefix)
        }
    balance = network.provenance.get("balance", {})
    method = balance.get("method") if isinstance(balance, Mapping) else None
    model = network.provenance.get("model", {})
    named = model.get("architecture") or model.get("arch")
    about = {
        "timesteps": str(network.timesteps),
        "proven timesteps": str(network.max_timesteps),
        "input": f"pixels of {network.pixel_bits} bits"
        if network.poisson_seed is None
        else f"Poisson spikes, seed {network.poisson_seed}",
        "reset": network.reset,
        "readout": network.readout,
        "balance": None if method is None else str(method),
        "model": None if named is None else str(named),
        "data": None if model.get("data") is None else str(model["data"]),
    }
    return {name: netx.escape_control(text)[:_MAX_TEXT_LENGTH] for name, text in about.items() if text is not None}
