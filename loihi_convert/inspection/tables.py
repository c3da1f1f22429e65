"""`contents` and `differences` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from loihi_convert.inspection.contents import Contents, LayerContents, Numbers
from loihi_convert.inspection.differences import Difference
from loihi_convert.report.table import Column, Table, table_of

_BARS: Final = " ▁▂▃▄▅▆▇█"
_LAYER: Final = Column[LayerContents]("layer", lambda layer: f"{layer.index} {layer.type}", is_text=True)
_STRUCTURE: Final = (
    _LAYER,
    Column[LayerContents]("name", lambda layer: layer.name, is_text=True),
    Column[LayerContents]("shape", lambda layer: _times(layer.shape), is_text=True),
    Column[LayerContents]("kernel", lambda layer: _times(layer.kernel), is_text=True),
    Column[LayerContents]("pool", lambda layer: _times(layer.pool), is_text=True),
    Column[LayerContents]("stride", lambda layer: _unless(layer.stride, 1), is_text=True),
    Column[LayerContents]("pad", lambda layer: _unless(layer.padding, 0), is_text=True),
    Column[LayerContents]("dilation", lambda layer: _unless(layer.dilation, 1), is_text=True),
    Column[LayerContents]("groups", lambda layer: _unless(layer.groups, 1)),
    Column[LayerContents]("neurons", lambda layer: f"{layer.neuron_count:,}" if layer.neuron_count else None),
    Column[LayerContents](
        "synapses", lambda layer: None if layer.synapse_count is None else f"{layer.synapse_count:,}"
    ),
)
_NUMBERS: Final = (
    _LAYER,
    Column[LayerContents]("weights", lambda layer: _range(layer.weight), is_text=True),
    Column[LayerContents]("histogram\nof weights", lambda layer: _bars(layer.weight), is_text=True),
    Column[LayerContents]("zero %", lambda layer: _zeros(layer.weight), is_text=True),
    Column[LayerContents]("biases", lambda layer: _range(layer.bias), is_text=True),
    Column[LayerContents]("neuron", lambda layer: layer.neuron_type, is_text=True),
    Column[LayerContents]("iDecay", lambda layer: _range(layer.i_decay), is_text=True),
    Column[LayerContents]("vDecay", lambda layer: _range(layer.v_decay), is_text=True),
    Column[LayerContents]("vThMant", lambda layer: _range(layer.threshold), is_text=True),
    Column[LayerContents](
        "histogram\nof vThMant",
        lambda layer: _bars(layer.threshold) if layer.threshold is not None and layer.threshold.count > 1 else None,
        is_text=True,
    ),
)
_Stored = tuple[tuple[str, str], list[int]]
_OTHERS: Final = (
    Column[_Stored]("also stored", lambda row: row[0][0], is_text=True),
    Column[_Stored]("value", lambda row: row[0][1], is_text=True),
    Column[_Stored]("in layers", lambda row: ", ".join(map(str, row[1])), is_text=True),
)


def structure_table(contents: Contents) -> Table:
    """Return shapes, kernels and counts, one row per layer."""
    table = table_of(_STRUCTURE, contents.layers)
    if "pool" not in table.headers:
        return table
    return replace(table, caption="pool: the average pooling that the stored kernel contains")


def numbers_table(contents: Contents) -> Table:
    """Return weights, biases and neuron parameters with small histograms, one row per layer that has any."""
    rows = [layer for layer in contents.layers if layer.weight is not None or layer.threshold is not None]
    return table_of(
        _NUMBERS, rows, caption="histograms: from the least to the largest value; the fullest bin has full height"
    )


def others_table(contents: Contents) -> Table | None:
    """Return what is stored besides, one row for each name and value; None where there is nothing."""
    found: dict[tuple[str, str], list[int]] = {}
    for layer in contents.layers:
        for name, value in layer.others.items():
            found.setdefault((name, value), []).append(layer.index)
    return table_of(_OTHERS, sorted(found.items())) if found else None


def difference_table(found: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return what differs, one row per dataset."""
    first, second = names
    columns: list[Column[Difference]] = [
        Column("dataset", lambda item: item.place, is_text=True),
        Column(first, lambda item: item.first or "(absent)", is_text=True),
        # Two files of the same name, in two folders.
        Column(second if second != first else f"{second} (2)", lambda item: item.second or "(absent)", is_text=True),
        Column("differ", lambda item: None if item.count is None else f"{item.differing_count:,} of {item.count:,}"),
        Column("by up to", lambda item: None if item.largest_difference is None else f"{item.largest_difference:.6g}"),
    ]
    return table_of(columns, found)


def summary(contents: Contents) -> str:
    """Return the lines above the tables: what the file is, who wrote it, whether it runs."""
    writer = "written by loihi-convert" if contents.written_by_us else "not written by loihi-convert"
    lines = [
        f"{contents.file}: {writer}, {contents.byte_count:,} bytes, {contents.neuron_count:,} neurons, "
        f"{contents.synapse_count:,} synapses of nonzero weight",
        f"SHA-256 {contents.sha256}",
    ]
    if contents.about:
        lines.append(", ".join(f"{name} {value}" for name, value in contents.about.items()))
    if contents.refusal is not None:
        lines.append(f"`loihi-convert run` refuses it: {contents.refusal}")
    return "\n".join(lines)


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _times(values: tuple[int, ...] | None) -> str | None:
    return None if values is None else " x ".join(map(str, values))


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
    # A bin that is not empty shows at least the lowest bar.
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in numbers.histogram)


def _zeros(numbers: Numbers | None) -> str | None:
    return None if numbers is None else f"{100 * (1 - numbers.nonzero_count / max(numbers.count, 1)):.1f}"
