"""Differences between two netx files, native or external, dataset by dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loihi_convert import netx
from loihi_convert.errors import escape_control
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.records import Record
from loihi_convert.inspection.contents import brief

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
        layers=_layers([one for one in group if one not in other]),
        reshaped=_layers(other),
        differing=sum(one.differing_count or 0 for one in group),
        total=sum(one.count or 0 for one in group),
        largest=max(largest, default=None),
        only_in=(sum(one.second is None for one in group), sum(one.first is None for one in group)),
    )


def _layers(group: Sequence[Difference]) -> tuple[str, ...]:
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
