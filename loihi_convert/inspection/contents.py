"""The contents of a netx file, native or external.

The file is described as it is, whether it can be run or not: see `netx.stock`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from loihi_convert import external, netx
from loihi_convert.arrays import Array, Pair
from loihi_convert.errors import InputError, NetxError, escape_control
from loihi_convert.ir.graded import GradedLayer, GradedNetwork
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.relays import relay_count
from loihi_convert.ir.synapse import PixelBias
from loihi_convert.netx.stock import StockFile, StockLayer, stock_file
from loihi_convert.records import Record
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


_PROVENANCE: Final = "loihi_convert/provenance"


class Difference(Record):
    """A dataset that differs between two files.

    Attributes
    ----------
    place
        Its full name, such as ``layer/1/weight``.
    first, second
        Its value, abbreviated; None if absent.
    differing_count, count
        If both have numbers of the same shape: how many differ, and the total.
    largest_difference
        The largest magnitude of a difference between finite numbers.
    """

    place: str
    first: str | None
    second: str | None
    differing_count: int | None = None
    count: int | None = None
    largest_difference: float | None = None


def differences(first: Path, second: Path) -> tuple[Difference, ...]:
    """Return the datasets that differ between two netx files.

    Numbers are compared by value: dtype, compression and seal do not matter.

    Raises
    ------
    NetxError
        As in `describe`.
    """
    stored = [_flat(netx.read_stored(path).datasets) for path in (first, second)]
    names = sorted(stored[0].keys() | stored[1].keys(), key=_natural)
    found = (_difference(name, stored[0].get(name), stored[1].get(name)) for name in names)
    return tuple(difference for difference in found if difference is not None)


class DatasetKind(NamedTuple):
    """Datasets of one kind that differ, such as the weights of all layers.

    ``differing`` of ``total`` numbers of ``layers`` differ, by up to ``largest``; in ``reshaped`` layers the shapes do.
    ``only_in`` counts datasets that only the first, and only the second file has.
    """

    name: str
    layers: tuple[str, ...]
    differing: int
    total: int
    largest: float | None
    only_in: tuple[int, int]
    reshaped: tuple[str, ...] = ()


_NAMES: Final = {"weight": "weights", "bias": "biases", "neuron/vThMant": "thresholds"}


def kinds(found: Sequence[Difference]) -> tuple[DatasetKind, ...]:
    """Return ``found`` by kind: thresholds, weights and biases first, provenance last."""
    groups: dict[str, list[Difference]] = {}
    for difference in found:
        groups.setdefault(_kind(difference.place)[0], []).append(difference)
    order = ["thresholds", "weights", "biases"]
    names = sorted(groups, key=lambda name: order.index(name) if name in order else 3 + (name == "provenance"))
    return tuple(_counted(name, groups[name]) for name in names)


def _counted(name: str, group: Sequence[Difference]) -> DatasetKind:
    largest = [one.largest_difference for one in group if one.largest_difference is not None]
    other = [one for one in group if one.count is None and one.first is not None and one.second is not None]
    return DatasetKind(
        name=name,
        layers=_differing_layers([one for one in group if one not in other]),
        reshaped=_differing_layers(other),
        differing=sum(one.differing_count or 0 for one in group),
        total=sum(one.count or 0 for one in group),
        largest=max(largest, default=None),
        only_in=(sum(one.second is None for one in group), sum(one.first is None for one in group)),
    )


def _differing_layers(group: Sequence[Difference]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for one in group if (layer := _kind(one.place)[1])))


def _kind(place: str) -> tuple[str, str]:
    """The kind of a dataset, and the number of its layer as lava-dl counts them; empty where it has none."""
    if place.startswith(_PROVENANCE):
        return "provenance", ""
    parts = place.split("/")
    if parts[0] == "layer" and len(parts) > 2:
        name = "/".join(parts[2:])
        return _NAMES.get(name, name), parts[1]
    # What this package adds stands in a group of its own, where layers are counted without input and flatten.
    return "/".join(part for part in parts if not part.isdecimal() and part not in ("loihi_convert", "layer")), ""


def _flat(datasets: Mapping[str, Array]) -> dict[str, Array]:
    """The datasets, with one string per value of the provenance's JSON."""
    flat = dict(datasets)
    stored = flat.pop(_PROVENANCE, None)
    if stored is not None:
        flat |= {name: np.array(text.encode()) for name, text in _leaves(_PROVENANCE, json.loads(stored.item()))}
    return flat


def _leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}/{key}", inner)
    else:
        yield name, json.dumps(value)


def _difference(name: str, first: Array | None, second: Array | None) -> Difference | None:
    place = escape_control(name)
    if first is None or second is None:
        texts = (None if value is None else brief(value) for value in (first, second))
        return Difference(place=place, first=next(texts), second=next(texts))
    are_numbers = first.dtype.kind != "S" and second.dtype.kind != "S"
    if first.shape != second.shape or not are_numbers:
        is_same = first.shape == second.shape and first.tobytes().rstrip(b"\0") == second.tobytes().rstrip(b"\0")
        return None if is_same else Difference(place=place, first=brief(first), second=brief(second))
    differs = (first != second) & ~(np.isnan(first.astype(np.float64)) & np.isnan(second.astype(np.float64)))
    if not differs.any():
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(first.astype(np.float64) - second.astype(np.float64))[differs]
    finite = apart[np.isfinite(apart)]
    return Difference(
        place=place,
        first=brief(first),
        second=brief(second),
        differing_count=int(differs.sum()),
        count=first.size,
        largest_difference=float(finite.max()) if finite.size else None,
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts ``layer/2`` before ``layer/10``."""
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in name.split("/")]


_BARS: Final = " ▁▂▃▄▅▆▇█"


def structure_table(contents: Contents) -> Table:
    """Return shapes, kernels and counts, one row per layer."""
    rows = [
        {
            "layer": f"{layer.index} {layer.type}",
            "name": layer.name,
            "shape": _times(layer.shape),
            "kernel": _times(layer.kernel),
            "pool": _times(layer.pool),
            "stride": _unless(layer.stride, 1),
            "pad": _unless(layer.padding, 0),
            "dilation": _unless(layer.dilation, 1),
            "groups": _unless(layer.groups, 1),
            "relays": None if layer.relay_count is None else f"{layer.relay_count:,}",
            "neurons": f"{layer.neuron_count:,}" if layer.neuron_count else None,
            "synapses": None if layer.synapse_count is None else f"{layer.synapse_count:,}",
        }
        for layer in contents.layers
    ]
    captions = {
        "pool": "pool: the average pooling that the stored kernel contains",
        "relays": "relays: channels that repeat a channel of the layer before, for a later layer",
    }
    caption = "; ".join(text for name, text in captions.items() if any(row[name] for row in rows))
    words = ("layer", "name", "shape", "kernel", "pool", "stride", "pad", "dilation")
    return table_of(rows, words=words, caption=caption)


def numbers_table(contents: Contents) -> Table:
    """Return weights, biases and neuron parameters, one row per layer that has any."""
    rows = [
        {
            "layer": f"{layer.index} {layer.type}",
            "weights": _range(layer.weight),
            "zero %": _zeros(layer.weight),
            "biases": _range(layer.bias),
            "neuron": layer.neuron_type,
            "iDecay": _range(layer.i_decay),
            "vDecay": _range(layer.v_decay),
            "vThMant": _range(layer.threshold),
        }
        for layer in contents.layers
        if layer.weight is not None or layer.threshold is not None
    ]
    return table_of(rows, words=rows[0] if rows else ())


def histogram_table(contents: Contents) -> Table:
    """Return small histograms of weights and thresholds, one row per layer that has any."""
    rows = [
        {
            "layer": f"{layer.index} {layer.type}",
            "weights": _bars(layer.weight),
            "vThMant": _bars(layer.threshold) if layer.threshold and layer.threshold.count != 1 else None,
        }
        for layer in contents.layers
        if layer.weight is not None or layer.threshold is not None
    ]
    caption = "histograms: from the smallest to the largest value; the fullest bin has full height"
    return table_of(rows, words=rows[0] if rows else (), caption=caption)


def others_table(contents: Contents) -> Table | None:
    """Return all other datasets, one row per name and value; None if there are none."""
    found: dict[tuple[str, str], list[int]] = {}
    for layer in contents.layers:
        for name, value in layer.others.items():
            found.setdefault((name, value), []).append(layer.index)
    rows = [
        {"also stored": name, "value": value, "in layers": ", ".join(map(str, layers))}
        for (name, value), layers in sorted(found.items())
    ]
    return table_of(rows, words=rows[0]) if rows else None


def difference_table(found: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return the differences, one row per dataset."""
    # Two files may have the same name, in two folders.
    first, second = names if names[0] != names[1] else (names[0], f"{names[1]} (2)")
    rows = [
        {
            "dataset": difference.place,
            first: difference.first or "(absent)",
            second: difference.second or "(absent)",
            "differ": None if difference.count is None else f"{difference.differing_count:,} of {difference.count:,}",
            "by up to": None if difference.largest_difference is None else f"{difference.largest_difference:.6g}",
        }
        for difference in found
    ]
    return table_of(rows, words=("dataset", first, second))


def kinds_table(found: Sequence[DatasetKind], names: tuple[str, str]) -> Table:
    """Return what differs, one row for each kind of dataset."""
    rows = [
        {
            "what": kind.name,
            "layers": ", ".join(kind.layers),
            "differ": f"{kind.differing:,} of {kind.total:,}" if kind.total else None,
            "by up to": None if kind.largest is None else f"{kind.largest:.6g}",
            "other\nshape": ", ".join(kind.reshaped) or None,
            f"only in\n{names[0]}": f"{kind.only_in[0]}" if kind.only_in[0] else None,
            f"only in\n{names[1]} ": f"{kind.only_in[1]}" if kind.only_in[1] else None,
        }
        for kind in found
    ]
    return table_of(rows, words=("what", "layers"))


def difference_summary(found: Sequence[DatasetKind], names: tuple[str, str], datasets: int) -> str:
    """Return in a sentence how two files differ; ``datasets``: in how many datasets."""
    counted = [
        f"thresholds in {kind.differing:,} of {kind.total:,} channels{_of_layers(kind)}"
        if kind.name == "thresholds"
        else f"{kind.differing:,} of {kind.total:,} {kind.name}{_of_layers(kind)}"
        for kind in found
        if kind.name in ("thresholds", "weights", "biases") and kind.total
    ]
    counted += [
        f"{kind.name} of another shape in layer{'s' if len(kind.reshaped) > 1 else ''} {', '.join(kind.reshaped)}"
        for kind in found
        if kind.reshaped
    ]
    what = ", ".join(counted) or "no weight, bias or threshold that both have"
    return f"{names[0]} and {names[1]} differ: {what} ({datasets} datasets in all)"


def _of_layers(kind: DatasetKind) -> str:
    """The layers whose datasets were counted: only those that differ."""
    return f" of layer{'s' if len(kind.layers) > 1 else ''} {', '.join(kind.layers)}" if kind.layers else ""


def summary(contents: Contents) -> str:
    """Return the lines above the tables: size of the file, who wrote it, whether it can be run."""
    writer = "written by loihi-convert" if contents.written_by_us else "not written by loihi-convert"
    lines = [
        f"{contents.file}: {writer}, {contents.byte_count:,} bytes, {contents.neuron_count:,} neurons, "
        f"{contents.synapse_count:,} nonzero synapses",
        f"SHA-256 {contents.sha256}",
        f"of its integers alone: {contents.integers_sha256}",
    ]
    if contents.about:
        lines.append(", ".join(f"{name} {value}" for name, value in contents.about.items()))
    if contents.refusal is not None:
        lines.append(f"`loihi-convert run` refuses it: {contents.refusal}")
    return "\n".join(lines)


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
