"""The contents of a netx file, native or external.

The file is described as it is, whether it can be run or not: see `netx.stock`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import external, netx
from loihi_convert.errors import InputError, NetxError, escape_control
from loihi_convert.ground.arrays import Array, Pair
from loihi_convert.ground.options import Record
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.network import relay_count
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.netx.stock import StockFile, StockLayer, stock_file
from loihi_convert.report.table import Table, table_of

BINS: Final = 16
_MAX_TEXT_LENGTH: Final = 80
_GRADED: Final = "graded (sigma-delta neurons)"
_GEOMETRY: Final = ("stride", "padding", "dilation")
_NEURON_NUMBERS: Final = ("neuron/iDecay", "neuron/vDecay", "neuron/vThMant")
_DESCRIBED: Final = frozenset(
    {"type", "shape", "weight", "weight/real", "weight/imag", "bias", "groups"}
    | {*_GEOMETRY, *_NEURON_NUMBERS, "neuron/type"}
)


class Numbers(Record):
    """Distribution of the numbers in one dataset.

    Attributes
    ----------
    count, nonzero_count
        All numbers, and those other than 0, NaN among them.
    not_finite_count
        NaN, infinity, and numbers from 1e300 on, whose bin widths would overflow; left out of the rest.
    least, largest, mean
        None if no number is finite.
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
    """One layer as stored; fields missing in the file are None.

    Attributes
    ----------
    index
        Its number in the file.
    type, neuron_type
        Types in lava-dl: ``conv``, ``CUBA`` and so on.
    name, pool
        In native files: the module's name in the CNN, and the average pooling that the kernel contains.
    shape
        ``(C, H, W)``, or whatever the file contains.
    kernel, stride, padding, dilation
        (vertical, horizontal).
    relay_count
        In native files: number of channels that are relays; None if there are none.
    neuron_count
        Product of ``shape``; 0 in a layer without neurons (a flattening, pixels).
    synapse_count
        Number of nonzero synapses, counting each use of a kernel's weight, and recurrent ones (their weights are in
        ``others``); None if the geometry is inconsistent.
    i_decay, v_decay, threshold, weight, bias
        netx's iDecay, vDecay, vThMant; weights; biases.
    others
        All other datasets, by name: a number, a string, or the dtype and shape of an array.
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
    relay_count: int | None = None


class Contents(Record):
    """One file.

    Attributes
    ----------
    file, byte_count, sha256
        Its name, size and digest.
    integers_sha256
        Digest without floating-point numbers and provenance: equal for files that run alike.
    written_by_us
        Whether it was written by `export`.
    about
        For native files: T, pixel bits, reset, balance and so on; for external files: whether spikes
        are graded, and the datasets under ``simulation``.
    provenance
        The full provenance; empty for external files.
    refusal
        Why `ref` cannot run it; None if it can.
    layers
        In order.
    """

    file: str
    byte_count: int
    sha256: str
    integers_sha256: str
    written_by_us: bool
    about: dict[str, str]
    provenance: dict[str, Any]
    refusal: str | None
    layers: tuple[LayerContents, ...]

    @property
    def neuron_count(self) -> int:
        """Number of neurons of all layers."""
        return sum(layer.neuron_count for layer in self.layers)

    @property
    def synapse_count(self) -> int:
        """Number of synapses of all layers where they can be counted."""
        return sum(layer.synapse_count or 0 for layer in self.layers)


def describe(path: str | Path) -> Contents:
    """Return the contents of the netx file at ``path``.

    Raises
    ------
    NetxError
        If the file is missing or damaged, or has no layers of numbers and text.
    """
    path = Path(path)
    stored = netx.read_stored(path)
    file = stock_file(stored.datasets)
    with netx.errors_that_name(path):
        file.require_numbered()
        layers = tuple(_layers(file, stored.network))
    return Contents(
        file=path.name,
        byte_count=len(stored.content),
        sha256=stored.sha256,
        integers_sha256=stored.integers_sha256,
        written_by_us=stored.network is not None,
        about=_simulation(file) if stored.network is None else _about(stored.network),
        provenance={} if stored.network is None else dict(stored.network.provenance),
        refusal=_refusal(file) if stored.network is None else None,
        layers=layers,
    )


def _layers(file: StockFile, network: QuantizedNetwork | GradedNetwork | None) -> Iterator[LayerContents]:
    own: tuple[QuantizedLayer | GradedLayer, ...] = () if network is None else network.layers
    native = (layer for layer in own if not isinstance(layer.synapse, PixelBias))
    for index, (_, stock) in enumerate(file.layers):
        layer = next(native, None) if stock.kind in ("conv", "dense") else None
        weight = stock.numbers("weight") if "weight" in stock.datasets else stock.numbers("weight/real")
        neuron_type = stock.neuron_type
        yield LayerContents(
            index=index,
            type=stock.kind[:_MAX_TEXT_LENGTH] or "no type",
            name=None if layer is None else layer.name,
            pool=None if layer is None or layer.synapse.pool == (1, 1) else layer.synapse.pool,
            shape=stock.stored_shape,
            kernel=None if weight is None or weight.ndim < 4 else (weight.shape[2], weight.shape[3]),
            neuron_type=None if neuron_type is None else neuron_type[:_MAX_TEXT_LENGTH],
            neuron_count=math.prod(stock.stored_shape or (0,)) if weight is not None or stock.has_neurons else 0,
            synapse_count=None if stock.kind == "input" else _synapse_count(stock, weight),
            i_decay=_numbers(stock.numbers("neuron/iDecay")),
            v_decay=_numbers(stock.numbers("neuron/vDecay")),
            threshold=_numbers(stock.numbers("neuron/vThMant")),
            weight=_numbers(weight),
            bias=_numbers(stock.numbers("bias")),
            others={
                escape_control(name): brief(value) for name, value in stock.datasets.items() if name not in _DESCRIBED
            },
            relay_count=None if layer is None else relay_count(layer.relay_of) or None,
            **{name: stock.integers(name) for name in (*_GEOMETRY, "groups")},
        )


def _synapse_count(layer: StockLayer, weight: Array | None) -> int | None:
    if layer.kind != "conv":
        weight = layer.synaptic_weights if layer.kind == "dense_rec" else weight
        return None if weight is None else int(np.count_nonzero(weight))
    try:
        synapse = None if layer.output_shape is None else layer.synapse
    except InputError:
        return None
    return None if synapse is None or layer.input_shape is None else int(synapse.fan_out(layer.input_shape).sum())


def _numbers(value: Array | None) -> Numbers | None:
    if value is None or value.dtype.kind not in "iufb":
        return None
    real = value.astype(np.float64).reshape(-1)
    finite = real[np.isfinite(real)]
    # Larger numbers would overflow float64 in bin widths and means.
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


def brief(value: Array) -> str:
    """A number or a string; for an array its dtype, shape and range."""
    if value.dtype.kind == "S":
        text = escape_control(b" ".join(map(bytes, value.reshape(-1)[:4].tolist())).decode("utf-8", errors="replace"))
        return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[:_MAX_TEXT_LENGTH]} ..."
    if value.size == 1:
        return f"{value.item():.10g}" if value.dtype.kind == "f" else str(value.item())
    numbers = _numbers(value)
    if numbers is None or numbers.least is None:
        return f"{value.dtype} {value.shape}"
    return f"{value.dtype} {value.shape}, {numbers.least:.5g}..{numbers.largest:.5g}"


def _refusal(file: StockFile) -> str | None:
    try:
        external.decode_external(file)
    except NetxError as error:
        return escape_control(str(error))
    return None


def _simulation(file: StockFile) -> dict[str, str]:
    graded = {"spikes": _GRADED} if file.is_graded else {}
    return graded | {escape_control(name): brief(value) for name, value in file.simulation.items()}


def _about(network: QuantizedNetwork | GradedNetwork) -> dict[str, str]:
    model = network.provenance.model
    about: dict[str, str | None]
    if isinstance(network, GradedNetwork):
        about = {
            "spikes": _GRADED,
            "spike_exp": str(network.spike_exp),
            "timesteps": f"1 for an image, output {len(network.layers) - 1} steps later",
        }
    else:
        digits = f" in two digits, the low one of {network.low_bits} bits" if network.low_bits else ""
        about = {
            "timesteps": str(network.timesteps),
            "largest T": str(network.max_timesteps),
            "input": f"pixels of {network.pixel_bits} bits"
            if network.poisson_seed is None
            else f"Poisson spikes, seed {network.poisson_seed}",
            "reset": network.reset,
            "readout": network.readout + digits,
        }
    about |= {
        "task": network.task if network.task != "classification" else None,
        "balance": network.provenance.balance.method,
        "model": model.architecture or model.arch,
        "data": model.data,
    }
    return {name: escape_control(text)[:_MAX_TEXT_LENGTH] for name, text in about.items() if text is not None}


_Column = Callable[[LayerContents], str | None]

_STRUCTURE: Final[dict[str, _Column]] = {
    "layer": lambda layer: f"{layer.index} {layer.type}",
    "name": lambda layer: layer.name,
    "shape": lambda layer: _times(layer.shape),
    "kernel": lambda layer: _times(layer.kernel),
    "pool": lambda layer: _times(layer.pool),
    "stride": lambda layer: _unless(layer.stride, 1),
    "pad": lambda layer: _unless(layer.padding, 0),
    "dilation": lambda layer: _unless(layer.dilation, 1),
    "groups": lambda layer: _unless(layer.groups, 1),
    "relays": lambda layer: None if layer.relay_count is None else f"{layer.relay_count:,}",
    "neurons": lambda layer: f"{layer.neuron_count:,}" if layer.neuron_count else None,
    "synapses": lambda layer: None if layer.synapse_count is None else f"{layer.synapse_count:,}",
}
_NUMBERS: Final[dict[str, _Column]] = {
    "layer": _STRUCTURE["layer"],
    "weights": lambda layer: _range(layer.weight),
    "zero %": lambda layer: _zeros(layer.weight),
    "biases": lambda layer: _range(layer.bias),
    "neuron": lambda layer: layer.neuron_type,
    "iDecay": lambda layer: _range(layer.i_decay),
    "vDecay": lambda layer: _range(layer.v_decay),
    "vThMant": lambda layer: _range(layer.threshold),
}
_HISTOGRAMS: Final[dict[str, _Column]] = {
    "layer": _STRUCTURE["layer"],
    "weights": lambda layer: _bars(layer.weight),
    "vThMant": lambda layer: _bars(layer.threshold) if layer.threshold and layer.threshold.count != 1 else None,
}
_CAPTIONS: Final = {
    "pool": "pool: the average pooling that the stored kernel contains",
    "relays": "relays: channels that repeat a channel of the layer before, for a later layer",
}
_BARS: Final = " ▁▂▃▄▅▆▇█"


def tables(contents: Contents, *, details: bool = False) -> list[Table]:
    """Return the tables of a file: structure, numbers, histograms if ``details``, and all other datasets."""
    structure = [{name: text(layer) for name, text in _STRUCTURE.items()} for layer in contents.layers]
    caption = "; ".join(text for name, text in _CAPTIONS.items() if any(row[name] for row in structure))
    found = [table_of(structure, words=list(_STRUCTURE)[:8], caption=caption)]
    known = [layer for layer in contents.layers if layer.weight is not None or layer.threshold is not None]
    for columns in (_NUMBERS, *((_HISTOGRAMS,) if details else ())):
        rows = [{name: text(layer) for name, text in columns.items()} for layer in known]
        is_last = columns is _HISTOGRAMS
        caption = "histograms: from the smallest to the largest value; the fullest bin has full height" * is_last
        found.append(table_of(rows, words=columns, caption=caption))
    others: dict[tuple[str, str], list[str]] = {}
    for layer in contents.layers:
        for stored in layer.others.items():
            others.setdefault(stored, []).append(str(layer.index))
    rows = [
        {"also stored": name, "value": value, "in layers": ", ".join(layers)}
        for (name, value), layers in sorted(others.items())
    ]
    return [*found, *([table_of(rows, words=rows[0])] if rows else [])]


def summary(contents: Contents) -> str:
    """Return the lines above the tables: size of the file, who wrote it, whether it can be run."""
    lines = [
        f"{contents.file}: {'' if contents.written_by_us else 'not '}written by loihi-convert, {contents.byte_count:,} "
        f"bytes, {contents.neuron_count:,} neurons, {contents.synapse_count:,} nonzero synapses",
        f"SHA-256 {contents.sha256}",
        f"of its integers alone: {contents.integers_sha256}",
        ", ".join(f"{name} {value}" for name, value in contents.about.items()),
        "" if contents.refusal is None else f"`loihi-convert run` refuses it: {contents.refusal}",
    ]
    return "\n".join(line for line in lines if line)


def _times(values: tuple[int, ...] | None) -> str | None:
    return None if values is None else "x".join(map(str, values))


def _unless(values: tuple[int, ...] | None, usual: int) -> str | None:
    return None if values is None or set(values) == {usual} else ",".join(map(str, values))


def _range(numbers: Numbers | None) -> str | None:
    if numbers is None:
        return None
    odd = f" and {numbers.not_finite_count:,} not finite" if numbers.not_finite_count else ""
    if numbers.least is None or numbers.least == numbers.largest:
        return ("none" if numbers.least is None else f"{numbers.least:.6g}") + odd
    return f"{numbers.least:.6g}..{numbers.largest:.6g}{odd}"


def _bars(numbers: Numbers | None) -> str | None:
    if numbers is None:
        return None
    top = max(max(numbers.histogram), 1)
    # A nonempty bin shows at least the lowest bar.
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in numbers.histogram)


def _zeros(numbers: Numbers | None) -> str | None:
    return None if numbers is None else f"{100 * (1 - numbers.nonzero_count / max(numbers.count, 1)):.1f}"
