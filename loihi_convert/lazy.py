"""Names of a package that are imported on first use, so that a command loads only what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a module's ``__getattr__`` for ``package``; ``homes`` has the module of each name, within the package."""

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        return found

    return find
