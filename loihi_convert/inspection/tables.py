"""`contents` and `differences` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from loihi_convert.inspection.contents import Contents, Numbers
from loihi_convert.inspection.differences import Difference

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, str | None]
"""A row's cells by the header of their column; None where nothing is known."""

_BARS: Final = " ▁▂▃▄▅▆▇█"
_RIGHT: Final = ("neurons", "synapses", "zero %", "groups", "differ", "by up to", "iDecay", "vDecay")


def structure_table(contents: Contents) -> Table:
    """Return shapes, kernels and counts, one row per layer."""
    rows: list[Row] = [
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
            "neurons": f"{layer.neuron_count:,}" if layer.neuron_count else None,
            "synapses": None if layer.synapse_count is None else f"{layer.synapse_count:,}",
        }
        for layer in contents.layers
    ]
    table = _filled(rows)
    if any(row["pool"] for row in rows):
        table.caption = "pool: the average pooling that the kernel, as stored, holds written out"
    return table


def numbers_table(contents: Contents) -> Table:
    """Return weights, biases and neuron parameters with small histograms, one row per layer that has any."""
    rows: list[Row] = [
        {
            "layer": f"{layer.index} {layer.type}",
            "weights": _range(layer.weight),
            "histogram\nof weights": _bars(layer.weight),
            "zero %": _zeros(layer.weight),
            "biases": _range(layer.bias),
            "neuron": layer.neuron_type,
            "iDecay": _range(layer.i_decay),
            "vDecay": _range(layer.v_decay),
            "vThMant": _range(layer.threshold),
            "histogram\nof vThMant": None
            if layer.threshold is None or layer.threshold.count == 1
            else _bars(layer.threshold),
        }
        for layer in contents.layers
        if layer.weight is not None or layer.threshold is not None
    ]
    table = _filled(rows)
    table.caption = "histograms: from the least to the largest, the fullest bin is full height"
    return table


def others_table(contents: Contents) -> Table | None:
    """Return what is stored besides, one row for each name and value; None where there is nothing."""
    found: dict[tuple[str, str], list[int]] = {}
    for layer in contents.layers:
        for name, value in layer.others.items():
            found.setdefault((name, value), []).append(layer.index)
    rows: list[Row] = [
        {"also stored": name, "value": value, "in layers": ", ".join(map(str, layers))}
        for (name, value), layers in sorted(found.items())
    ]
    return _filled(rows) if rows else None


def difference_table(found: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return what differs, one row per dataset."""
    first, second = names
    rows: list[Row] = [
        {
            "dataset": difference.place,
            first: difference.first or "(absent)",
            # Two files of the same name, in two folders.
            second if second != first else f"{second} (2)": difference.second or "(absent)",
            "differ": None if difference.count is None else f"{difference.differing_count:,} of {difference.count:,}",
            "by up to": None if difference.largest_difference is None else f"{difference.largest_difference:.6g}",
        }
        for difference in found
    ]
    return _filled(rows)


def summary(contents: Contents) -> str:
    """Return the lines above the tables: what the file is, who wrote it, whether it runs."""
    writer = "written by loihi-convert" if contents.written_by_us else "a netx file of other hands"
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


def _filled(rows: Sequence[Row]) -> Table:
    """A table of the columns in which anything is known."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", caption_justify="left")
    known = [header for header in rows[0] if any(row[header] is not None for row in rows)]
    for header in known:
        # Text is never read as markup: names and values are the file's.
        justify: Literal["right", "left"] = "right" if header in _RIGHT else "left"
        table.add_column(Text(header), justify=justify, overflow="fold", no_wrap=header == "dataset")
    for row in rows:
        table.add_row(*(Text(row[header] or "") for header in known))
    return table
