"""The command-line flag of a library parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class _Parameter(Protocol):
    @property
    def name(self) -> str | None: ...

    @property
    def opts(self) -> list[str]: ...


def flags_of(parameters: Iterable[_Parameter]) -> dict[str, str]:
    """Return the longest flag of each parameter of a verb that has a flag, for `errors.rendered`."""
    longest = {parameter.name or "": max(parameter.opts, key=len) for parameter in parameters}
    return {name: flag for name, flag in longest.items() if flag.startswith("-")}
