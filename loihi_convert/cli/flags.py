"""The command-line flags of library parameters, and options as words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def option_words(given: Mapping[str, object]) -> list[str]:
    """Return the options ``given``, by flag, as words of a command line; None: left out."""
    return [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]
