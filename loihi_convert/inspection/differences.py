"""Differences between two netx files, native or external, dataset by dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from loihi_convert import netx
from loihi_convert.arrays import Array
from loihi_convert.inspection.contents import brief
from loihi_convert.records import Record

_PROVENANCE: Final = "loihi_convert/provenance"


class Difference(Record):
    """A dataset that differs between two files.

    Attributes
    ----------
    place
        Its full name, as ``layer/1/weight``.
    first, second
        Its value in short; None if it is absent.
    differing_count, count
        If both have numbers of the same shape: how many differ, of how many.
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
        As `describe` does.
    """
    stored = [_flat(netx.read_stored(path).datasets) for path in (first, second)]
    names = sorted(stored[0].keys() | stored[1].keys(), key=_natural)
    found = (_difference(name, stored[0].get(name), stored[1].get(name)) for name in names)
    return tuple(difference for difference in found if difference is not None)


def _flat(datasets: Mapping[str, Array]) -> dict[str, Array]:
    """The datasets, with one text for each value of the provenance's JSON."""
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
    place = netx.escape_control(name)
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
    """A key that puts ``layer/2`` before ``layer/10``."""
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in name.split("/")]
