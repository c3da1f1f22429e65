"""The traced and the recorded reader side by side: `pytest --compare-readers LOG` writes where they differ.

A line for each model that one of them alone reads, or whose networks differ.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from loihi_convert.errors import LoihiConvertError
from loihi_convert.frontend.lower import lowering as _lowering
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.reading.reader import read_graph

# Its names are replaced.
lowering: Any = _lowering


def _arrays(network: ReluNetwork) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [("ending", network.ending), ("macs", network.multiply_accumulates)]
    for number, layer in enumerate(network.layers):
        synapse = layer.synapse
        for name in ("weight", "bias", "stride", "padding", "dilation", "groups", "pool"):
            found.append((f"{number} {name}", getattr(synapse, name, None)))
        for name in ("threshold", "ceiling", "levels", "relay_of", "name"):
            found.append((f"{number} {name}", getattr(layer, name, None)))
    return found


def difference(old: ReluNetwork, new: ReluNetwork) -> str:
    """Return the first difference, the largest of numbers that differ by rounding; empty if they are equal."""
    if len(old.layers) != len(new.layers):
        return f"layers {len(old.layers)} {len(new.layers)}"
    rounding, names = 0.0, ""
    for (name, one), (_, other) in zip(_arrays(old), _arrays(new), strict=True):
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype.kind == "f":
            if one.shape != other.shape:
                return f"{name} {one.shape} {other.shape}"
            size = max(1e-30, float(np.nanmax(np.abs(np.where(np.isfinite(one), one, 0)), initial=0)))
            lost = float(np.nanmax(np.abs(np.nan_to_num(one) - np.nan_to_num(other)), initial=0)) / size
            if lost > 1e-6:
                return f"{name} by {lost:.2g}"
            rounding = max(rounding, lost)
        elif name.endswith("name"):
            names = names or ("" if one == other else f"{name} {one!r} {other!r}")
        elif not np.array_equal(np.asarray(one), np.asarray(other)):
            return f"{name} {one} {other}"
    return f"rounding {rounding:.2g}" if rounding else names


def install(log: Path) -> None:
    """Let every model that is lowered go through both readers; the recorded one counts."""
    before, lowered = lowering.read_graph, lowering._chain
    graphs: dict[int, Any] = {}

    def both(model: Any, shape: Any) -> Any:
        outcomes: list[Any] = []
        for reader in (before, read_graph):
            try:
                outcomes.append(reader(model, shape))
            except LoihiConvertError as error:
                outcomes.append(error)
        old, new = outcomes
        if isinstance(old, Exception) or isinstance(new, Exception):
            same = isinstance(old, Exception) and isinstance(new, Exception)
            if not same or type(old) is not type(new) or old.where != new.where:
                _write(log, f"read: {_said(old)} | {_said(new)}")
        elif [_said(each) for each in old.obstacles] != [_said(each) for each in new.obstacles]:
            _write(log, f"obstacles: {[_said(e) for e in old.obstacles]} | {[_said(e) for e in new.obstacles]}")
        if isinstance(new, Exception):
            raise new
        graphs[id(new)] = (new, old)
        return new

    def chain(graph: Any, *rest: Any) -> Any:
        outcomes: list[Any] = []
        old_graph = graphs[id(graph)][1] if id(graph) in graphs else None
        for each in (old_graph, graph):
            try:
                outcomes.append(each if each is None or isinstance(each, Exception) else lowered(each, *rest))
            except LoihiConvertError as error:
                outcomes.append(error)
        old, new = outcomes
        if old is not None:
            are_read = not isinstance(old, Exception), not isinstance(new, Exception)
            if all(are_read):
                if found := difference(old.network, new.network):
                    _write(log, f"network: {found}")
            elif any(are_read):
                _write(log, f"lowered: {_said(old)} | {_said(new)}")
        if isinstance(new, Exception):
            raise new
        return new

    pooled = lowering.pooled_after_relu

    def pooled_both(graph: Any) -> Any:
        new, old = graphs.get(id(graph), (graph, None))
        made = pooled(new)
        graphs[id(made)] = (made, old if old is None or isinstance(old, Exception) else pooled(old))
        return made

    lowering.read_graph, lowering._chain, lowering.pooled_after_relu = both, chain, pooled_both


def _said(outcome: Any) -> str:
    if isinstance(outcome, LoihiConvertError):
        return f"{type(outcome).__name__} {outcome.where!s}: {getattr(outcome, 'found', '')}"[:150]
    return "read"


def _write(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{os.environ.get('PYTEST_CURRENT_TEST', '')} {line}\n")
