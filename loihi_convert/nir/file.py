"""QuantizedNetwork -> a NIR file, read back and compared."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from loihi_convert.errors import VerificationError
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.files import refuse_to_overwrite, write_atomically
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.nir.graph import to_graph


def write(
    network: QuantizedNetwork,
    path: str | Path,
    *,
    hard_reset: bool = False,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Write ``network`` as a NIR file; after a failure ``path`` is unchanged.

    Parameters
    ----------
    network, hard_reset
        As in `graph.to_graph`.
    path
        The file.
    overwrite
        Replace an existing file.
    verify
        Read the file back with the package ``nir`` and compare every node, edge and number.

    Raises
    ------
    PlatformError
        If the package ``nir`` is not installed.
    UnsupportedModelError
        If a layer cannot be expressed.
    InputError
        If ``path`` exists and ``overwrite`` is off, or it cannot be written.
    VerificationError
        If what is read back from the file's bytes differs; nothing was written.
    """
    path = Path(path)
    nir = optional_module("nir", f"{path.name} is a NIR file")
    refuse_to_overwrite(path, overwrite)
    graph = to_graph(network, hard_reset=hard_reset)
    content = io.BytesIO()
    nir.write(content, graph)
    if verify:
        content.seek(0)
        if difference := difference_between(nir.read(content), graph):
            raise VerificationError(f"what was read back differs from the graph in memory: {difference}", where=path)
    write_atomically(path, content.getvalue())


def difference_between(found: Any, expected: Any) -> str:
    """The first difference of two graphs; empty if there is none."""
    if list(map(tuple, found.edges)) != list(map(tuple, expected.edges)):
        return "its edges"
    if set(found.nodes) != set(expected.nodes):
        return "its nodes"
    for name, node in expected.nodes.items():
        other = found.nodes[name]
        if type(node) is not type(other):
            return f"{name} is a {type(other).__name__}"
        for field in fields(node):
            ours, theirs = getattr(node, field.name), getattr(other, field.name)
            if field.name != "metadata" and not _is_same(ours, theirs):
                return f"{field.name} of {name}"
    return ""


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return set(one) == set(other) and all(_is_same(one[key], other[key]) for key in one)
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
