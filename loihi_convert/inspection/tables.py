"""`contents` and `differences` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loihi_convert.inspection.contents import Contents, Numbers
from loihi_convert.inspection.differences import DatasetKind, Difference
from loihi_convert.report.table import Table, table_of

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
