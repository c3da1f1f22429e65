"""Class scores in what the forward of a CNN returns, such as a ``ModelOutput`` of Hugging Face."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def scores_of(returned: Any) -> Any:
    """Return the class scores in a mapping, dataclass or sequence, see `scores_name`; anything else as it is."""
    name = scores_name(returned)
    return returned if name is None else _entries(returned)[name]


def scores_name(returned: Any) -> str | int | None:
    """Return the entry of a mapping, dataclass or sequence that has the class scores; None if unclear, or of a tensor.

    It is the only entry, apart from those that are None, or ``logits``.
    """
    entries = _entries(returned)
    name = next(iter(entries)) if len(entries) == 1 else "logits"
    return name if isinstance(entries.get(name), Tensor) else None


def _entries(returned: Any) -> dict[str | int, Any]:
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type | Mapping):
        returned = {entry.name: getattr(returned, entry.name) for entry in dataclasses.fields(returned)}
    if isinstance(returned, list | tuple):
        # A named tuple has names.
        returned = returned._asdict() if hasattr(returned, "_asdict") else dict(enumerate(returned))
    entries = returned.items() if isinstance(returned, Mapping) else ()
    return {name: value for name, value in entries if value is not None}
