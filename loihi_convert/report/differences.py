"""What differs between two netx files, dataset by dataset, and by kind of dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert import netx
from loihi_convert.errors import escape_control
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.options import Record
from loihi_convert.report.contents import brief
from loihi_convert.report.table import Table, table_of

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
    """Return the datasets that differ between two netx files, by value; a `NetxError` as in `describe`."""
    stored = [_flat(netx.read_stored(path).datasets) for path in (first, second)]
    names = sorted(stored[0].keys() | stored[1].keys(), key=_natural)
    found = (_difference(escape_control(name), *(one.get(name) for one in stored)) for name in names)
    return tuple(difference for difference in found if difference is not None)


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


def _difference(place: str, first: Array | None, second: Array | None) -> Difference | None:
    texts = [None if value is None else brief(value) for value in (first, second)]
    found = Difference(place=place, first=texts[0], second=texts[1])
    if first is None or second is None:
        return found
    if first.shape != second.shape or "S" in (first.dtype.kind, second.dtype.kind):
        is_same = first.shape == second.shape and first.tobytes().rstrip(b"\0") == second.tobytes().rstrip(b"\0")
        return None if is_same else found
    one, other = first.astype(np.float64), second.astype(np.float64)
    differs = (first != second) & ~(np.isnan(one) & np.isnan(other))
    if not differs.any():
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(one - other)[differs]
    largest = apart[np.isfinite(apart)].max(initial=-1)
    counts = {"differing_count": int(differs.sum()), "count": first.size}
    return found.model_copy(update={**counts, "largest_difference": float(largest) if largest >= 0 else None})


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts ``layer/2`` before ``layer/10``."""
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in name.split("/")]


def difference_table(found: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return the differences, one row per dataset."""
    # Two files may have the same name, in two folders.
    first, second = names if names[0] != names[1] else (names[0], f"{names[1]} (2)")
    rows = [
        {
            "dataset": one.place,
            first: one.first or "(absent)",
            second: one.second or "(absent)",
            "differ": None if one.count is None else f"{one.differing_count:,} of {one.count:,}",
            "by up to": None if one.largest_difference is None else f"{one.largest_difference:.6g}",
        }
        for one in found
    ]
    return table_of(rows, words=("dataset", first, second))


_KINDS: Final = {"neuron/vThMant": "thresholds", "weight": "weights", "bias": "biases"}


def kinds_table(found: Sequence[Difference], names: tuple[str, str]) -> Table:
    """Return what differs, one row for each kind of dataset: thresholds, weights and biases first, provenance last."""
    kinds: dict[str, list[tuple[str, Difference]]] = {}
    for one in found:
        kind, layer = _kind(one.place)
        kinds.setdefault(kind, []).append((layer, one))
    order = list(_KINDS.values())
    rows = []
    for kind in sorted(kinds, key=lambda name: order.index(name) if name in order else 3 + (name == "provenance")):
        of = [one for _, one in kinds[kind]]
        total = sum(one.count or 0 for one in of)
        largest = [one.largest_difference for one in of if one.largest_difference is not None]
        reshaped = [one for one in of if one.count is None and None not in (one.first, one.second)]
        absent = [sum(one.second is None for one in of), sum(one.first is None for one in of)]
        rows.append(
            {
                "what": kind,
                "layers": ", ".join(dict.fromkeys(at for at, one in kinds[kind] if at and one not in reshaped)),
                "differ": f"{sum(one.differing_count or 0 for one in of):,} of {total:,}" if total else None,
                "by up to": f"{max(largest):.6g}" if largest else None,
                "other\nshape": ", ".join(at for at, one in kinds[kind] if at and one in reshaped) or None,
                f"only in\n{names[0]}": str(absent[0] or "") or None,
                f"only in\n{names[1]} ": str(absent[1] or "") or None,
            }
        )
    return table_of(rows, words=("what", "layers"))


def _kind(place: str) -> tuple[str, str]:
    """The kind of a dataset, and the number of its layer as lava-dl counts them; empty where it has none."""
    if place.startswith(_PROVENANCE):
        return "provenance", ""
    parts = place.split("/")
    if parts[0] == "layer" and len(parts) > 2:
        name = "/".join(parts[2:])
        return _KINDS.get(name, name), parts[1]
    # What this package adds stands in a group of its own, where layers are counted without input and flatten.
    return "/".join(part for part in parts if not part.isdecimal() and part not in ("loihi_convert", "layer")), ""
